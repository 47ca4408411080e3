"""
HTML in small pieces: what comes from outside is escaped, and the types say what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, NamedTuple, NewType

from gateway.model.text import printable

Html = NewType("Html", str)
"""HTML that may be put into the page as it is."""

Tone = Literal["good", "warn", "bad", "off"]
"""How good a state is."""

_SIGNS: dict[Tone, str] = {"good": "✓", "warn": "!", "bad": "✕", "off": "-"}
"""Beside the colour, for those who do not see it."""


def escaped(text: object) -> Html:
    """Return text as HTML; control characters and those that turn the direction are shown."""
    return Html(escape(printable(str(text))))


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Return pieces of HTML in a row."""
    return Html(between.join(parts))


def state(tone: Tone, text: str) -> Html:
    """Return a state with its sign."""
    sign = f'<span class="sign" aria-hidden="true">{_SIGNS[tone]}</span>'
    return Html(f'<span class="state {tone}">{sign}{escaped(text)}</span>')


def bar(part: float, tone: Tone = "good") -> Html:
    """
    Return a bar that is partly filled; its figures stand beside it.

    @param part: from 0 to 1.
    """
    width = round(100 * min(1.0, max(0.0, part)), 1)
    return Html(
        '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="4"/><rect class="{tone}" width="{width}"'
        ' height="4"/></svg>'
    )


class Column(NamedTuple):
    """
    Column of a table.

    @ivar is_number: whether its cells are figures.
    """

    head: str
    is_number: bool = False


def table(name: str, columns: Sequence[Column], rows: Iterable[Sequence[Html]]) -> Html:
    """
    Return a table; the first cell of each row is its head.

    On a narrow screen each row becomes a block of its own. Since C{display} takes a table's meaning
    away from those who hear it, roles say it once more.
    """
    heads = joined(
        f'<th scope="col" role="columnheader"{_number(column)}>{escaped(column.head)}</th>'
        for column in columns
    )
    body = joined(
        f'<tr role="row">{joined(map(_cell, range(len(columns)), columns, row))}</tr>'
        for row in rows
    )
    return Html(
        f'<table role="table" aria-label="{escaped(name)}"><thead role="rowgroup">'
        f'<tr role="row">{heads}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )


def figures(pairs: Iterable[tuple[str, Html]]) -> Html:
    """Return names and their values, side by side."""
    found = joined(f"<div><dt>{escaped(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return Html(f'<dl class="figures">{found}</dl>')


def _cell(place: int, column: Column, content: Html) -> Html:
    if not place:
        return Html(f'<th scope="row" role="rowheader">{content}</th>')
    head = escaped(column.head)
    return Html(f'<td role="cell" data-head="{head}"{_number(column)}>{content}</td>')


def _number(column: Column) -> str:
    return ' class="number"' if column.is_number else ""
