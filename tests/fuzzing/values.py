"""
Messages and arguments: each is read or refused by name, as it would be alone.

A target is as in L{tests.fuzzing.streams}.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from gateway.columns.column import Column, Misfits
from gateway.columns.kind import Misfit, SqlType
from gateway.columns.kinds import kind_of
from gateway.formats.fields import Cells, Tokens
from gateway.formats.registry import format_of
from gateway.model.errors import Faults, FramesRefused
from gateway.model.outcome import Words
from gateway.model.query import Param
from gateway.model.route import Reading
from gateway.sql.arguments import ArgumentParser
from gateway.sql.joined import BytesFormat, TextFormat

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What a terminal might obey, or take for the end of a line."""

BETWEEN: Final = b"\xff\n"
"""What stands between messages where a target takes several."""


# Formats: no exception, and each message is read or refused, as it would be alone.


def structured(reading: Reading, *fields: str) -> Callable[[bytes], None]:
    parser = format_of(reading, fields)

    def check(data: bytes) -> None:
        messages = data.split(BETWEEN)
        together = parser.parse_frames(messages)
        assert set(together.cells) == set(fields)
        _check_faults(together.faults, len(messages))
        rows = _rows(together.cells.values(), len(messages))
        faults = dict(together.faults)
        nothing = [
            b"null" if isinstance(cells, Tokens) else None for cells in together.cells.values()
        ]
        for number, message in enumerate(messages):
            assert number not in faults or list(rows[number]) == nothing
            alone = parser.parse_frames([message])
            (row,) = _rows(alone.cells.values(), 1)
            assert row == rows[number], (message, row, rows[number])
            assert dict(alone.faults).get(0) == faults.get(number), message

    return check


def _rows(columns: Any, count: int) -> list[tuple[bytes | str | None, ...]]:
    lists = [
        [bytes(value) for value in cells.values] if isinstance(cells, Tokens) else cells.values
        for cells in columns
    ]
    assert all(len(values) == count for values in lists)
    return list(zip(*lists, strict=True))


def _check_faults(faults: Faults, count: int) -> None:
    numbers = [number for number, _ in faults]
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(count))
    for _, outcome in faults:
        said = Words().payload(outcome)
        assert isinstance(said, bytes) and said.startswith(b"-REJ ")
        assert not CONTROL.search(said.decode()), said


def text(data: bytes) -> None:
    """Whole messages: the same bytes come out, or those at fault are named."""
    messages = data.split(BETWEEN)
    try:
        joined, separator = TextFormat().encode(messages)
        assert [part.encode() for part in joined.split(separator)] == messages
    except FramesRefused as refused:
        _check_faults(refused.faults, len(messages))
        assert refused.faults
    joined, separator = BytesFormat().encode(messages)
    assert [bytes.fromhex(part) for part in joined.split(separator)] == messages


# Columns: each value becomes one element of an array literal, or is refused by name.

TYPES: Final = [
    *(SqlType(name, name) for name in ("int2", "int8", "float8", "numeric", "bool", "text")),
    *(SqlType(name, name) for name in ("uuid", "inet", "cidr", "bytea", "json", "jsonb", "date")),
    *(SqlType(name, name) for name in ("timestamptz", "timestamp", "interval")),
    SqlType("character varying", "varchar", 3),
    SqlType("integer[]", "_int4", 0, SqlType("integer", "int4")),
    SqlType("text[]", "_text", 0, SqlType("text", "text")),
]

_JSON: Final = format_of(Reading("json"), ["v"])
_LINES: Final = format_of(Reading("regex", pattern="(?s)(?P<v>.*)"), ["v"])


def columns(data: bytes) -> None:
    sql_type = TYPES[data[0] % len(TYPES)] if data else TYPES[0]
    column = Column("c", "v", kind_of(sql_type))
    messages = data[1:].split(BETWEEN)
    for parser in (_JSON, _LINES):
        read = parser.parse_frames(messages)
        rows = dict(read.faults)
        good = [message for number, message in enumerate(messages) if number not in rows]
        if good:
            _check_column(column, parser.parse_frames(good).cells["v"], len(good))


def _check_column(column: Column, cells: Cells, count: int) -> None:
    misfits: Misfits = {}
    together = elements(column.encode(cells, misfits))
    assert len(together) == count, together
    for number in range(count):
        own: Misfits = {}
        one = type(cells)([cells.values[number]])  # type: ignore[list-item]
        (alone,) = elements(column.encode(one, own))
        assert _meaning(alone) == _meaning(together[number]), (alone, together[number])
        assert own.get(0) == misfits.get(number)


def _meaning(element: str) -> str:
    # An integer may keep its leading zeros or not; both are the same to PostgreSQL.
    return str(int(element)) if re.fullmatch("-?[0-9]+", element) else element


def elements(piece: str) -> list[str]:
    """
    The elements of an array literal without its braces, as PostgreSQL would find them.
    """
    assert "\0" not in piece
    piece.encode()
    found, start, depth, quoted = [], 0, 0, False
    place = 0
    while place < len(piece):
        character = piece[place]
        if character == "\\":
            assert quoted, piece
            place += 1
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in "{}":
            depth += 1 if character == "{" else -1
            assert depth >= 0, piece
        elif not quoted and not depth and character == ",":
            found.append(piece[start:place])
            start = place + 1
        place += 1
    assert not quoted and not depth, piece
    found.append(piece[start:])
    assert all(found), piece
    return found


# Arguments of CALL: an element for each parameter, or a Misfit.

_PARAMS: Final = {
    "n": Param("int4", default="1"),
    "t": Param("text", required=False),
    "d": Param("jsonb", required=False),
    "a": Param("int4[]", required=False),
    "w": Param("timestamptz", required=False),
}
_ARGUMENTS: Final = ArgumentParser(
    _PARAMS,
    [
        SqlType("integer", "int4"),
        SqlType("text", "text"),
        SqlType("jsonb", "jsonb"),
        SqlType("integer[]", "_int4", 0, SqlType("integer", "int4")),
        SqlType("timestamp with time zone", "timestamptz"),
    ],
)


def arguments(data: bytes) -> None:
    try:
        found = _ARGUMENTS.parse(data)
    except Misfit as error:
        assert str(error)
    else:
        assert len(found) == len(_PARAMS)
        for element in found:
            assert len(elements(element)) == 1, element
