"""
Tables of the console: columns and rows, to text for people or to JSON for programs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from gateway.model.text import printable

Value = str | int | float | bool | None
"""What a cell may hold; C{None}: nothing is there."""

Row = Sequence[Value]


class Kind(Enum):
    """
    Kind of a column: how people see it.
    """

    TEXT = auto()
    COUNT = auto()
    ID = auto()
    BYTES = auto()
    SECONDS = auto()
    TIME = auto()
    """Seconds since 1970."""


class Column(NamedTuple):
    """
    Column of a table.
    """

    name: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Table:
    """
    Columns and rows.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]


def cells_of(columns: Sequence[Column], row: Row) -> list[str]:
    """Return a row for people."""
    return [cell_text(value, column.kind) for column, value in zip(columns, row, strict=True)]


def cell_text(value: Value, kind: Kind) -> str:
    """Return one value for people."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return printable(value)
    if kind is Kind.BYTES:
        return bytes_text(value)
    if kind is Kind.SECONDS:
        return seconds_text(value)
    if kind is Kind.TIME:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if kind is not Kind.COUNT:
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def bytes_text(value: float) -> str:
    """Return a size for people, such as C{1.5 MiB}."""
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:,.1f} TiB"


def seconds_text(value: float) -> str:
    """Return a duration for people, such as C{1.5 ms}, C{12 s} or C{3 h 5 min}."""
    if value <= 0:
        return "0 s"
    if value < 0.9995:
        return f"{value * 1e3:.1f} ms" if value < 0.0995 else f"{value * 1e3:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        (large, small), units = divmod(whole, 60), ("min", "s")
    elif whole < 86400:
        (large, small), units = divmod(whole // 60, 60), ("h", "min")
    else:
        (large, small), units = divmod(whole // 3600, 24), ("d", "h")
    return f"{large} {units[0]} {small} {units[1]}" if small else f"{large} {units[0]}"


def widths_of(cells: Iterable[Sequence[str]], widths: Sequence[int]) -> list[int]:
    """Return the widths that columns need for some more cells."""
    return [
        max(column) for column in zip(widths, *([*map(len, row)] for row in cells), strict=True)
    ]


def line_of(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line; numbers stand at the right of their columns."""
    return "  ".join(
        cell.ljust(width) if column.kind in (Kind.TEXT, Kind.TIME) else cell.rjust(width)
        for column, cell, width in zip(columns, cells, widths, strict=True)
    ).rstrip()


def lines_of(table: Table) -> list[str]:
    """Return a table for people, its head first."""
    columns = table.columns
    head = [column.name for column in columns]
    rows = [cells_of(columns, row) for row in table.rows]
    widths = widths_of([head, *rows], [0] * len(columns))
    return [line_of(columns, row, widths) for row in [head, *rows]]


def json_of(columns: Sequence[Column], row: Row) -> str:
    """Return a row as one JSON object."""
    names = [column.name for column in columns]
    return msgspec.json.encode(dict(zip(names, row, strict=True))).decode()
