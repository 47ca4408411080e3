"""
SQL calls that move streams and remember their refusals, and the conversion of their values.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.columns.literal import quoted_element
from gateway.model.batch import Batch, Fence, StreamMark
from gateway.model.outcome import Code, Outcome, one_line, refused, row_refused
from gateway.model.stream_marks import StreamPosition

KEPT_DIGESTS: Final = 10_000
"""Numbers behind the last one of which it is remembered which message each was."""

FOLLOW: Final = (
    "SELECT gateway.follow(%s::uuid, %s::bigint, %s::text[], %s::uuid[], %s::text[],"
    " %s::bigint[], %s::bigint[], %s::bytea[], %s::jsonb, %s::bigint)"
)
FOLLOW_SPREAD: Final = (
    "SELECT gateway.follow_spread(%s::uuid, %s::bigint, %s::text[], %s::uuid[], %s::text[],"
    " %s::bigint[], %s::bigint[], %s::bigint[], %s::jsonb[], %s::jsonb)"
)
REMEMBER: Final = "SELECT gateway.remember_refusals(%s::uuid, %s::jsonb)"
CLAIM_STREAM: Final = (
    "SELECT claim::text, now_epoch::text, mark, refusals::text"
    " FROM gateway.claim(%s, %s, %s, %s, %s)"
)


SPREAD_POSITION: Final = (
    "SELECT coalesce(claim, ''), coalesce(epoch, ''), mark, marks FROM gateway.spread_position(%s)"
)
CLAIM_SPREAD: Final = (
    "SELECT now_epoch, mark, marks, refusals::text"
    " FROM gateway.claim_spread(%s, %s::uuid, %s::uuid, %s::uuid, %s)"
)


def follow_values(fence: Fence, moves: Sequence[StreamMark]) -> Sequence[Any]:
    """Return the parameters of L{FOLLOW}."""
    return (
        fence.lane,
        fence.first,
        _array([quoted_element(move.stream.name) for move in moves]),
        _array([move.stream.claim or "NULL" for move in moves]),
        _array([move.stream.epoch or '""' for move in moves]),
        _array([str(move.first) for move in moves]),
        _array([str(move.last) for move in moves]),
        _array([f'"\\\\x{move.digests.hex()}"' for move in moves]),
        _refused(moves),
        KEPT_DIGESTS,
    )


def follow_spread_values(fence: Fence, moves: Sequence[StreamMark], database: str) -> Sequence[Any]:
    """
    Return the parameters of L{FOLLOW_SPREAD}.

    @param database: in which it is run.
    """
    befores, marks = [], []
    for move in moves:
        of_all = move.stream.marks or {}
        befores.append(str(of_all.get(database, 0)))
        marks.append(quoted_element(json.dumps({**of_all, database: move.last})))
    return (
        fence.lane,
        fence.first,
        _array([quoted_element(move.stream.name) for move in moves]),
        _array([move.stream.claim or "NULL" for move in moves]),
        _array([move.stream.epoch or '""' for move in moves]),
        _array(befores),
        _array([str(move.first) for move in moves]),
        _array([str(move.last) for move in moves]),
        _array(marks),
        _refused(moves),
    )


def _refused(moves: Sequence[StreamMark]) -> str:
    """Return the refusals of streams, by name and number."""
    return json.dumps(
        {
            move.stream.name: {str(number): answer_of(o) for number, o in move.refused.items()}
            for move in moves
            if move.refused
        }
    )


def _array(items: Sequence[str]) -> str:
    """
    Write an array's literal.

    @see: PostgreSQL documentation, section 8.15.6 "Array Input and Output Syntax".
    """
    return f"{{{','.join(items)}}}"


def parts_json(batch: Batch) -> str:
    """
    Return which rows are of which stream, for L{REMEMBER}.

    Those from a spool are left out: when refused they become dead letters.
    """
    parts = []
    row = 1
    for piece in batch.slices:
        stream = piece.chunk.stream
        if stream is not None and not stream.loose:
            begin = row - piece.start
            parts += [
                [stream.name, begin + part.start, part.first, part.stop - part.start]
                for part in piece.consecutive()
            ]
        row += piece.stop - piece.start
    return json.dumps(parts)


def stream_positions_of(detail: str) -> dict[str, StreamPosition]:
    """Parse the positions that C{gateway.follow} reports of streams that have not moved."""
    positions: Mapping[str, tuple[bool, bool, int, int, str]] = json.loads(detail)
    return {
        name: StreamPosition(claimed, current, mark, first, b64decode(digests))
        for name, (claimed, current, mark, first, digests) in positions.items()
    }


def refusals_of(text: str | None) -> Mapping[int, Outcome]:
    """Parse the refusals that are remembered of a stream, by number, ascending."""
    refusals: Mapping[str, Any] = json.loads(text) if text is not None else {}
    ascending = sorted(refusals.items(), key=_number_of_item)
    return {int(number): outcome_of(*answer) for number, answer in ascending}


def _number_of_item(item: tuple[str, Any]) -> int:
    return int(item[0])


def answer_of(outcome: Outcome) -> list[str | None]:
    """
    Return a refusal in the form that is kept.

    Its text is cleaned as for an answer, since jsonb cannot hold every character that a peer may
    have sent.
    """
    return [outcome.code or "", outcome.sqlstate, None, one_line(outcome.text)]


def outcome_of(code: str, sqlstate: str, column: str | None, text: str) -> Outcome:
    """Return the refusal that L{answer_of}, or the database, kept."""
    if column is not None:
        text = f"column {column!r}: {text}"
    return refused(Code(code), text, sqlstate) if code else row_refused(text, sqlstate)
