"""
InfluxDB line protocol: every message is one line of it.

Strategy: L{gateway.formats.influx_line} splits a line into strings and dictionaries of
them, made by C code. A value stays as the peer wrote it until a column wants it, and
then it loses no digit: a number becomes text without its suffix, C{t} becomes C{true}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Raw

from gateway.formats.fields import Fields, Texts
from gateway.formats.influx_line import Pairs, Point, point
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused

_encode: Final = msgspec.json.Encoder().encode

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_ENDS: Final = frozenset("0123456789.")
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+")
_ANY_NUMBER: Final = re.compile(
    r"(?P<sign>-?)0*+(?P<whole>[0-9]*+)(?:\.(?P<fraction>[0-9]*+))?+(?P<exponent>.*+)"
)


@dataclass(frozen=True, slots=True)
class _Points:
    """
    The parts of all messages; for a message at fault they are empty.
    """

    measurements: Sequence[str | None]
    tags: Sequence[Pairs]
    fields: Sequence[Pairs]
    times: Sequence[str | None]


_NO_PAIRS: Final[Pairs] = {}
_FAULTY: Final[Point] = (None, _NO_PAIRS, _NO_PAIRS, None)

_Column = Callable[[_Points], Sequence[str | None]]


def fault_of(field: str) -> str | None:
    """
    Say why no message can have such a field; C{None} where some can.
    """
    if not field:
        return "is empty"
    if _CONTROL_CHARACTER.search(field):
        return "holds a control character, which no key in line protocol does"
    kind, dot, name = field.partition(".")
    if dot and not name and kind in ("tag", "field"):
        return f"names no {kind}: write {kind}.NAME"
    if dot and kind in ("tags", "fields"):
        return f"should be {kind[:-1]}.{name}; a field of that very name is field.{field}"
    if field == "time":
        return "should be timestamp; a field of that very name is field.time"
    return None


class InfluxFormat:
    """
    Reader of the parts of lines.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        """
        @param fields: C{measurement}, C{timestamp}, the JSON objects C{tags} and C{fields},
            C{tag.NAME}, C{field.NAME}, or any other NAME: the field of that name, or else the tag.
        """
        self._columns = {field: _field_column(field) for field in fields}

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: Faults = []
        rows: list[Point] = []
        for frame in frames:
            try:
                row = point(frame.decode())
            except UnicodeDecodeError as error:
                row = f"not UTF-8: {error.reason} at byte {error.start}"
            if isinstance(row, str):
                faults.append((len(rows), refused(Code.FORMAT, row)))
                row = _FAULTY
            rows.append(row)
        points = _Points(*zip(*rows, strict=True))
        return Fields({name: Texts(read(points)) for name, read in self._columns.items()}, faults)


def _field_column(field: str) -> _Column:
    whole = _FIXED_FIELDS.get(field)
    if whole is not None:
        return whole
    kind, _, name = field.partition(".")
    if kind == "tag":
        return lambda points: [tags.get(name) for tags in points.tags]
    if kind == "field":
        return lambda points: _texts([fields.get(name) for fields in points.fields])
    return lambda points: [
        tags.get(field) if text is None else text
        for text, tags in zip(
            _texts([fields.get(field) for fields in points.fields]), points.tags, strict=True
        )
    ]


_FIXED_FIELDS: Final[dict[str, _Column]] = {
    "measurement": lambda points: points.measurements,
    "timestamp": lambda points: points.times,
    "tags": lambda points: [
        None if tags is _NO_PAIRS else _encode(tags).decode() for tags in points.tags
    ],
    "fields": lambda points: [
        None if fields is _NO_PAIRS else _document(fields) for fields in points.fields
    ],
}
"""Fields that every message has, save one at fault."""


def _texts(values: list[str | None]) -> list[str | None]:
    """
    Convert the values of a field to text, all but plain numbers.
    """
    return [
        value if value is None or value[-1] in _PLAIN_ENDS else _field_text(value)
        for value in values
    ]


def _field_text(value: str) -> str:
    match value[-1]:
        case '"':
            text = value[1:-1]
            if "\\" not in text:
                return text
            # A backslash before any other character is part of the text.
            return "\\".join([part.replace('\\"', '"') for part in text.split("\\\\")])
        case "i" | "u":
            return value[:-1]
        case _:
            return "true" if value[0] in "tT" else "false"


def _document(fields: Pairs) -> str:
    return _encode({name: _json_token(value) for name, value in fields.items()}).decode()


def _json_token(value: str) -> str | Raw:
    text = value if value[-1] in _PLAIN_ENDS else _field_text(value)
    if value[-1] == '"':
        return text
    return Raw(text if text in _TRUTH_WORDS or _JSON_NUMBER.fullmatch(text) else _json_number(text))


_TRUTH_WORDS: Final = frozenset(("true", "false"))


def _json_number(text: str) -> str:
    """
    Write a number as JSON: a digit on either side of the point, no leading zeros.
    """
    match = _ANY_NUMBER.fullmatch(text)
    assert match is not None
    sign, whole, fraction, exponent = match.groups()
    return f"{sign}{whole or '0'}{'.' + fraction if fraction else ''}{exponent}"


def sample(fields: Mapping[str, object]) -> str:
    """
    Write a line that has these fields.
    """
    own = ("measurement", "timestamp", "tags", "fields")
    named = {name: value for name, value in fields.items() if name not in own}
    tags = [f",{n.removeprefix('tag.')}={v}" for n, v in named.items() if n.startswith("tag.")]
    rest = [
        f"{name.removeprefix('field.')}={value}"
        for name, value in named.items()
        if not name.startswith("tag.")
    ]
    return f"{fields.get('measurement', 'm')}{''.join(tags)} {','.join(rest) or 'value=1'}"
