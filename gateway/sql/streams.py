"""
Streams in SQL: what moves them, and what is remembered of those that were refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.batch import Batch
from gateway.moves import Mark, Move
from gateway.reply import Code, Outcome, one_line, refused, row_refused

FOLLOW: Final = "SELECT gateway.follow(%s::uuid, %s::bigint, %s::text, %s::jsonb)"
REMEMBER: Final = "SELECT gateway.remember_refusals(%s::uuid, %s::jsonb)"
CLAIM: Final = "SELECT claim, marks::text, refusals::text FROM gateway.claim(%s, %s)"


def moves_json(moves: Sequence[Move]) -> str:
    """
    Moves for L{FOLLOW}.
    """
    return json.dumps(
        [
            [
                move.stream.name,
                move.stream.claim,
                move.before,
                move.first,
                move.last,
                {str(number): _answer(outcome) for number, outcome in move.refused.items()},
            ]
            for move in moves
        ]
    )


def parts_json(batch: Batch) -> str:
    """
    For L{REMEMBER}: which rows are of which stream. Those of a spool were promised to be
    kept and become dead letters.
    """
    parts = []
    row = 1
    for part in batch.slices:
        stream = part.chunk.stream
        rows = part.stop - part.start
        if stream is not None and not stream.loose:
            parts.append([stream.name, row, part.first, rows])
        row += rows
    return json.dumps(parts)


def marks_of(detail: str) -> dict[str, Mark]:
    """
    What C{gateway.follow} says of streams that have not moved.
    """
    return {name: Mark(*mark) for name, mark in json.loads(detail).items()}


def refusals_of(text: str | None) -> Mapping[int, Outcome]:
    """
    What was told before.
    """
    found: Mapping[str, Any] = json.loads(text) if text is not None else {}
    return {int(number): _outcome(*answer) for number, answer in sorted(found.items(), key=_number)}


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _answer(outcome: Outcome) -> list[str | None]:
    # As it is told: jsonb cannot hold every character that a peer may have sent.
    return [outcome.code or "", outcome.sqlstate, None, one_line(outcome.text)]


def _outcome(code: str, sqlstate: str, column: str | None, text: str) -> Outcome:
    if column is not None:
        text = f"column {column!r}: {text}"
    return refused(Code(code), text, sqlstate) if code else row_refused(text, sqlstate)
