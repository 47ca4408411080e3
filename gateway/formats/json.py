"""
JSON: every message is an object (RFC 8259); a field is a name in it, or a path a.b.c.

Strategy: msgspec checks the whole message and finds the fields that are wanted, but
decodes none of them: a value stays the text that the peer sent, so that no digit of
a number is lost and nothing is written twice. Of a repeated name the last one counts, as in
C{jsonb}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.formats.fields import Fields, Tokens, nested, without_rows
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused

_NULL: Final = Raw(b"null")

_EARLY: Final = "not JSON: it ends too early"

_HALF: Final = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F])"
)


def fault_of(field: str) -> str | None:
    """
    Say why a field of the configuration can never exist; C{None} where it can.
    """
    if "" in field.split("."):
        return "has an empty name in its path"
    return fault_of_name(field)


def fault_of_name(field: str) -> str | None:
    """
    Say why a name can never be found as it is written; C{None} where it can.
    """
    if re.search(r'[\\"\x00-\x1f]', field):
        return "holds a backslash, a quote or a control character, which no name here may"
    return None


class JsonFormat:
    """
    Reader of the fields of JSON objects.
    """

    def __init__(self, fields: Sequence[str], paths: bool = True) -> None:
        """
        @param fields: names or dotted paths for which L{fault_of} returns C{None}.
        @param paths: whether a dot separates names; else it is part of one.
        """
        self._root = _Level("", [field.split(".") if paths else [field] for field in fields])

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        cells: dict[str, Tokens] = {}
        faults = _not_text(frames)
        self._root.parse_objects(frames, cells, faults)
        if faults:
            cells = {name: without_rows(tokens, faults) for name, tokens in cells.items()}
        refusals: Faults = [(row, refused(Code.FORMAT, faults[row])) for row in sorted(faults)]
        return Fields(cells, refusals)


def _not_text(frames: Sequence[bytes]) -> dict[int, str]:
    """
    Find messages that are no UTF-8: msgspec does not check the fields that it leaves undecoded.

    @return: row -> why it is no UTF-8.
    """
    try:
        b"\n".join(frames).decode()
    except UnicodeDecodeError:
        pass
    else:
        return {}
    faults = {}
    for row, frame in enumerate(frames):
        try:
            frame.decode()
        except UnicodeDecodeError as error:
            faults[row] = f"not JSON: not UTF-8: {error.reason} (byte {error.start})"
    return faults


class _Level:
    """
    Reader of one object's fields, and of the objects in it that hold other fields.
    """

    def __init__(self, path: str, fields: list[list[str]]) -> None:
        """
        @param path: of this object, with a dot behind it; C{""} for the message.
        @param fields: paths from here.
        """
        self._path = path
        names = list(dict.fromkeys(field[0] for field in fields))
        attributes = {name: f"f{number}" for number, name in enumerate(names)}
        struct: Any = msgspec.defstruct(
            "Object",
            [(attribute, Raw, _NULL) for attribute in attributes.values()],
            rename={attribute: name for name, attribute in attributes.items()},
            gc=False,
            eq=False,
        )
        self._empty = struct()
        # An inner object may be null.
        self._decode = msgspec.json.Decoder(struct if not path else struct | None).decode
        self._leaves = [
            (path + name, attrgetter(attributes[name])) for name in names if [name] in fields
        ]
        self._levels = []
        for name in names:
            below = [field[1:] for field in fields if field[0] == name and len(field) > 1]
            if below:
                level = _Level(f"{path}{name}.", below)
                self._levels.append((level, attrgetter(attributes[name])))

    def parse_objects(
        self, objects: Sequence[bytes | Raw], cells: dict[str, Tokens], faults: dict[int, str]
    ) -> None:
        try:
            rows = list(map(self._decode, objects))
        except (msgspec.DecodeError, RecursionError):
            rows = self._one_by_one(objects, faults)
        if self._path and None in rows:
            rows = [self._empty if row is None else row for row in rows]
        for name, leaf in self._leaves:
            cells[name] = Tokens(list(map(leaf, rows)))
        for level, get in self._levels:
            level.parse_objects(list(map(get, rows)), cells, faults)

    def _one_by_one(self, objects: Sequence[bytes | Raw], faults: dict[int, str]) -> list[Any]:
        rows = []
        for number, text in enumerate(objects):
            try:
                rows.append(self._decode(text))
            except (msgspec.DecodeError, RecursionError) as error:
                rows.append(self._empty)
                faults.setdefault(number, self._reason(error, text))
        return rows

    def _reason(self, error: Exception, text: bytes | Raw) -> str:
        if isinstance(error, msgspec.ValidationError):
            what = "the message" if not self._path else f"field {self._path[:-1]!r}"
            return f"{what} is not a JSON object but {_token_kind(bytes(text))}"
        if isinstance(error, RecursionError):
            return "not JSON: nested too deeply"
        if not bytes(text).strip():
            return "not JSON: it is empty"
        words = str(error).removeprefix("JSON is malformed: ")
        if "truncated" not in words:
            return f"not JSON: {words}"
        # msgspec reports "truncated" for half of a surrogate pair, too.
        half = _HALF.search(bytes(text))
        return f"not JSON: half of a surrogate pair (byte {half.start()})" if half else _EARLY


_TOKEN_KINDS: Final = {
    b'"': "a string",
    b"[": "an array",
    b"t": "true",
    b"f": "false",
    b"n": "null",
}


def _token_kind(text: bytes) -> str:
    return _TOKEN_KINDS.get(text.lstrip()[:1], "a number")


def sample(fields: Mapping[str, object]) -> str:
    """
    Write a message that has these fields.
    """
    return msgspec.json.encode(nested(fields.items())).decode()
