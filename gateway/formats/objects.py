"""
Fields of decoded messages: maps of Python values in, JSON tokens out.

For formats whose values are no text: MessagePack, CBOR, and functions of the user's. Strategy:
a column whose values JSON itself has, with all that is in them, is written by one call for all
its rows; only where there are others are values written one by one. What JSON has no form for is
written as PostgreSQL's own C{to_jsonb} writes it: bytes as C{\\x} and hexadecimal, a time as ISO
8601, a number that is none as C{"NaN"}. So a column of the value's own type reads it without a
loss, and one of another type takes it or refuses it as it would that text.

A field is a name, or a path a.b.c through maps in maps. An integer that is a key counts as its
decimal digits; any other key that is no text makes the message one at fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from itertools import chain
from types import NoneType
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw

from gateway.formats.fields import Fields, Tokens, without_rows
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused

MAX_DEPTH: Final = 200
"""Maps and arrays within one another that a value may have; every kind takes JSON as deep."""

_NULL: Final = Raw(b"null")
_encode: Final = msgspec.json.Encoder().encode
_split: Final = msgspec.json.Decoder(list[Raw]).decode

_PLAIN: Final = frozenset((str, int, bool, NoneType))
"""Types that JSON has, without float: not all of its values have a form there."""

_TEXT_ALONE: Final = frozenset((str,))

_KEYS: Final = frozenset((str, int))

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Row = Mapping[Any, Any]
"""A decoded message, or a map in it."""


class Unwritable(ValueError):
    """
    A value has no form in JSON; the text says why, and the caller adds the field.
    """


def fault_of(field: str) -> str | None:
    """
    Say why a field of the configuration can never exist; C{None} where it can.
    """
    return "has an empty name in its path" if "" in field.split(".") else None


class ObjectReader:
    """
    Reader of the fields of decoded messages.
    """

    def __init__(self, fields: Sequence[str], nothing: object = None) -> None:
        """
        @param fields: names or dotted paths for which L{fault_of} returns C{None}.
        @param nothing: a value that is written as C{null}, beside C{None}.
        """
        self._root = _Level("", [field.split(".") for field in fields], nothing)

    def read(self, rows: Sequence[Any], faults: dict[int, str]) -> Fields:
        """
        Read the fields of decoded messages.

        @param rows: the messages in order; anything for those in C{faults}.
        @param faults: row -> why it could not be decoded; those found here are added.
        """
        cells: dict[str, Tokens] = {}
        if faults:
            rows = [{} if number in faults else row for number, row in enumerate(rows)]
        self._root.read(rows, cells, faults)
        if faults:
            cells = {name: without_rows(tokens, faults) for name, tokens in cells.items()}
        refusals: Faults = [(row, refused(Code.FORMAT, faults[row])) for row in sorted(faults)]
        return Fields(cells, refusals)


class _Level:
    """
    Reader of one map's fields, and of the maps in it that hold other fields.
    """

    def __init__(self, path: str, fields: list[list[str]], nothing: object) -> None:
        """
        @param path: of this map, with a dot behind it; C{""} for the message.
        @param fields: paths from here.
        @param nothing: as in L{ObjectReader}.
        """
        self._path = path
        self._nothing = nothing
        names = list(dict.fromkeys(field[0] for field in fields))
        self._leaves = [name for name in names if [name] in fields]
        self._levels = []
        for name in names:
            below = [field[1:] for field in fields if field[0] == name and len(field) > 1]
            if below:
                self._levels.append((name, _Level(f"{path}{name}.", below, nothing)))

    def read(self, given: Sequence[Any], cells: dict[str, Tokens], faults: dict[int, str]) -> None:
        rows = given if set(map(type, given)) == {dict} else self._maps(given, faults)
        kinds = set(map(type, chain.from_iterable(rows)))
        if not kinds <= _KEYS:
            rows = self._with_good_keys(rows, faults)
        values = _values_of_names if int in kinds else _values
        for name in self._leaves:
            field = self._path + name
            cells[field] = Tokens(_tokens(values(rows, name), field, faults, self._nothing))
        for name, level in self._levels:
            level.read(values(rows, name), cells, faults)

    def _maps(self, given: Sequence[Any], faults: dict[int, str]) -> list[Row]:
        rows: list[Row] = []
        for number, row in enumerate(given):
            if isinstance(row, Mapping):
                rows.append(row)
                continue
            rows.append({})
            if not self._path or not (row is None or row is self._nothing):
                what = f"field {self._path[:-1]!r}" if self._path else "the message"
                faults.setdefault(number, f"{what} is not a map but {_noun(row)}")
        return rows

    def _with_good_keys(self, rows: Sequence[Row], faults: dict[int, str]) -> list[Row]:
        found: list[Row] = []
        for number, row in enumerate(rows):
            bad = next((key for key in row if not _is_key(key)), None)
            if bad is None and None not in row:
                found.append(row)
                continue
            found.append({})
            where = f"field {self._path[:-1]!r}" if self._path else "the message"
            faults.setdefault(number, f"{where} has a key that is {_noun(bad)}, no text")
        return found


def _is_key(key: object) -> bool:
    return isinstance(key, (str, int)) and not isinstance(key, bool)


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def _values_of_names(rows: Sequence[Row], name: str) -> list[Any]:
    """
    Return the values of a name that an integer may be; of a repeated one the last.
    """
    try:
        number = int(name)
    except ValueError:
        return _values(rows, name)
    if str(number) != name:
        return _values(rows, name)
    found = []
    for row in rows:
        value = row.get(name)
        if number in row and (name not in row or _is_behind(row, number, name)):
            value = row[number]
        found.append(value)
    return found


def _is_behind(row: Row, key: object, other: object) -> bool:
    keys = list(row)
    return keys.index(key) > keys.index(other)


def _tokens(
    values: Sequence[Any], field: str, faults: dict[int, str], nothing: object
) -> list[Raw]:
    """
    Write the values of one field as JSON, all at once where they are plain.
    """
    if _are_plain(values):
        try:
            return _split(_encode(values))
        except ValueError:
            pass  # half of a surrogate pair, or too many digits; each is looked at below
    tokens = []
    for number, value in enumerate(values):
        try:
            tokens.append(Raw(json_token(value, nothing)))
        except Unwritable as error:
            faults.setdefault(number, f"field {field!r}: {error}")
            tokens.append(_NULL)
    return tokens


def _are_plain(values: Iterable[Any], depth: int = 0) -> bool:
    """
    Say whether JSON has a form for all values, and all in them.
    """
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is float:
            if not math.isfinite(value):
                return False
        elif depth >= MAX_DEPTH:
            return False
        elif kind is dict:
            if value and set(map(type, value)) != _TEXT_ALONE:
                return False
            if not _are_plain(value.values(), depth + 1):
                return False
        elif kind is not list or not _are_plain(value, depth + 1):
            return False
    return True


def json_token(value: object, nothing: object = None, depth: int = 0) -> str:
    """
    Write one value as JSON.

    @param nothing: as in L{ObjectReader}.
    @param depth: maps and arrays around it.
    @raise Unwritable: it has no form there.
    """
    kind = type(value)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(value)
    if value is nothing:
        return "null"
    if depth >= MAX_DEPTH:
        raise Unwritable("it is nested too deeply")
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join([f"{_key(k)}:{json_token(v, nothing, depth + 1)}" for k, v in value.items()])
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([json_token(item, nothing, depth + 1) for item in value]) + "]"
    for base, writer in _WRITERS.items():
        if isinstance(value, base):
            return writer(value)
    raise Unwritable(f"a value in it is {_noun(value)}, which no column takes")


def _key(key: object) -> str:
    if not _is_key(key):
        raise Unwritable(f"a key in it is {_noun(key)}, no text")
    return _text(key) if isinstance(key, str) else f'"{_integer(key)}"'


def _text(value: Any) -> str:
    try:
        return _encode(str.__str__(value)).decode()
    except UnicodeEncodeError:
        raise Unwritable("a text in it holds half of a surrogate pair") from None


def _integer(value: Any) -> str:
    try:
        return int.__repr__(value)
    except ValueError:
        raise Unwritable("an integer in it has more than 4300 digits") from None


def _float(value: Any) -> str:
    if math.isfinite(value):
        # As it is written among plain values: repr has another form of exponents.
        return _encode(float(value)).decode()
    return '"NaN"' if value != value else '"Infinity"' if value > 0 else '"-Infinity"'


def _decimal(value: Any) -> str:
    if value.is_finite():
        return Decimal.__str__(value)
    return '"NaN"' if value.is_nan() else '"-Infinity"' if value.is_signed() else '"Infinity"'


def _octets(value: Any) -> str:
    return f'"\\\\x{bytes(value).hex()}"'


def _iso(value: Any) -> str:
    return f'"{value.isoformat()}"'


_WRITERS: Final[dict[type, Callable[[Any], str]]] = {
    NoneType: lambda value: "null",
    bool: lambda value: "true" if value else "false",
    str: _text,
    int: _integer,
    float: _float,
    Decimal: _decimal,
    **dict.fromkeys((bytes, bytearray, memoryview), _octets),
    **dict.fromkeys((datetime, date, time), _iso),
    UUID: lambda value: f'"{value}"',
    **dict.fromkeys(
        (IPv4Interface, IPv6Interface, IPv4Address, IPv6Address, IPv4Network, IPv6Network),
        lambda value: f'"{value}"',
    ),
}
"""A type comes before those that it is derived from."""

_NOUNS: Final[Sequence[tuple[type | tuple[type, ...], str]]] = (
    (NoneType, "nothing"),
    (bool, "a truth value"),
    (str, "text"),
    ((int, float, Decimal), "a number"),
    ((bytes, bytearray, memoryview), "bytes"),
    (datetime, "a time"),
    (Mapping, "a map"),
    ((list, tuple), "an array"),
)


def _noun(value: object) -> str:
    for kind, noun in _NOUNS:
        if isinstance(value, kind):
            return noun
    return f"of type {type(value).__name__}"


def moment(seconds: int, fraction: str = "") -> str:
    """
    Write a time since 1970 in UTC as ISO 8601.

    @param fraction: digits of a second behind the point.
    @raise Unwritable: it is not between the years 1 and 9999.
    """
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    except OverflowError:
        raise Unwritable("a time that is not between the years 1 and 9999") from None
    digits = fraction.rstrip("0")
    return f"{text}{'.' if digits else ''}{digits}Z"
