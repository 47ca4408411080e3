"""
Fates of a batch's rows as the database keeps them: JSON to runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from gateway.model.outcome import DUPLICATE, STORED, Fate, Returned, Run, row_refused

_PLAIN_WORD: Final = re.compile(r'[^\s"\x00-\x1f\x7f-\x9f\u2028\u2029]+')


VOID: Final = "void"
"""In place of fates: nothing was stored, nor ever will be; see C{gateway.void}."""

FATES_OF: Final = "SELECT fates FROM gateway.lane WHERE id = %s::uuid"


class _Fates(Struct):
    """
    Fates of a batch's rows, counted from 1; rows that are not named are stored.

    @ivar duplicates: rows that were there before, ascending.
    @ivar refused: (row, SQLSTATE, column at fault, text), ascending.
    @ivar values: values that each of the others returned, in order; C{null} for none.
    """

    duplicates: list[int] = field(default_factory=list)
    refused: list[tuple[int, str, str | None, str]] = field(default_factory=list)
    values: list[list[str | None] | None] = field(default_factory=list)


_FATES_DECODER: Final = msgspec.json.Decoder(_Fates)


def runs_of(fates: str | None, count: int, returning: Sequence[str]) -> list[Run]:
    """
    Return the fates of a batch's rows as runs.

    @param fates: as C{gateway.remember} keeps them; C{None}: all rows are stored.
    @param count: of rows.
    @param returning: names of the returned values.
    """
    if fates is None or fates == "{}":
        return [(count, STORED)]
    decoded = _FATES_DECODER.decode(fates)
    others: dict[int, Fate] = {row - 1: DUPLICATE for row in decoded.duplicates}
    for row, sqlstate, column, text in decoded.refused:
        others[row - 1] = row_refused(
            text if column is None else f"column {column!r}: {text}", sqlstate
        )
    answers = [_ok_answer(returning, values) for values in decoded.values]
    runs: list[Run] = []
    row = answered = 0
    for other in [*sorted(others), count]:
        if stored := other - row:
            fate: Fate = Returned(answers[answered : answered + stored]) if answers else STORED
            runs.append((stored, fate))
            answered += stored
        if other < count:
            runs.append((1, others[other]))
        row = other + 1
    return runs


def _ok_answer(names: Sequence[str], values: Sequence[str | None] | None) -> bytes:
    """Write C{+OK name=value ...}; a value that is not one plain word is a JSON string."""
    pairs = zip(names, values or (), strict=False)
    return " ".join(["+OK", *[f"{name}={_answer_value(value)}" for name, value in pairs]]).encode()


def _answer_value(value: str | None) -> str:
    if value is None:
        return "null"
    if value != "null" and _PLAIN_WORD.fullmatch(value):
        return value
    return json.dumps(value)
