"""
Moves: how far a batch takes each stream that has messages in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.batch import Batch, Slice
from gateway.faults import Faults
from gateway.reply import DUPLICATE, Outcome
from gateway.stream import BEHIND, TAKEN, Stream


class Move(NamedTuple):
    """
    A stream's mark for the batch's route is moved.

    @ivar before: the mark as it is expected; C{None}: anything below C{first}.
    @ivar first: the number of the first message.
    @ivar last: that of the last one, which is the new mark.
    @ivar refused: messages before the last one that the database never sees.
    """

    stream: Stream
    before: int | None
    first: int
    last: int
    refused: Mapping[int, Outcome]


class Mark(NamedTuple):
    """
    What the database says of a stream that did not move.

    @ivar claimed: whether it is still claimed by whoever wanted to move it.
    @ivar number: the highest number stored through the route.
    """

    claimed: bool
    number: int


def moves_of(batch: Batch) -> list[Move]:
    """
    @return: a move for each stream, none for most batches.
    """
    reach: dict[str, tuple[Stream, int, int]] = {}
    for part in batch.slices:
        stream = part.chunk.stream
        if stream is not None:
            _, first, last = reach.get(stream.name, (stream, part.first, part.last))
            reach[stream.name] = (stream, min(first, part.first), max(last, part.last))
    moves = []
    # In one order for all, or two batches would wait for each other.
    for name in sorted(reach):
        stream, first, last = reach[name]
        before = None if stream.loose else stream.marks.get(batch.route, 0)
        refused = {n: o for n, o in stream.unsaved.items() if n <= last}
        moves.append(Move(stream, before, first, last, refused))
    return moves


def have_moved(batch: Batch) -> None:
    """
    The batch is stored, or durably kept.
    """
    for move in moves_of(batch):
        move.stream.moved(batch.route, move.last)


def void_rows(batch: Batch) -> Faults:
    """
    @return: rows that must not be stored any more, and what they are told.
    """
    faults: Faults = []
    row = 0
    for part in batch.slices:
        rows = part.stop - part.start
        if part.chunk.void and part.chunk.stream is not None:
            gap = part.chunk.stream.gap()
            faults += [(number, gap) for number in range(row, row + rows)]
        row += rows
    return faults


def unmoved_rows(batch: Batch, marks: Mapping[str, Mark]) -> Faults:
    """
    @param marks: of the streams that did not move, by name.
    @return: the rows that are not to be stored; the others may be.
    """
    faults: Faults = []
    row = 0
    for part in batch.slices:
        stream = part.chunk.stream
        if stream is not None and (mark := marks.get(stream.name)) is not None:
            faults += _unmoved(batch.route, row, part, stream, mark)
        row += part.stop - part.start
    for part in batch.slices:
        stream = part.chunk.stream
        if stream is not None and (mark := marks.get(stream.name)) is not None:
            stream.marks[batch.route] = mark.number
    return faults


def _unmoved(route: str, row: int, part: Slice, stream: Stream, mark: Mark) -> Faults:
    rows = range(row, row + part.stop - part.start)
    if not stream.loose:
        if not mark.claimed:
            return [(number, TAKEN) for number in rows]
        if mark.number < stream.marks.get(route, 0):
            return [(number, BEHIND) for number in rows]
    known = max(0, mark.number + 1 - part.first)
    return [(number, DUPLICATE) for number in rows[:known]]
