"""
Order of arrival of rows that several batches share a commit with.

A batch has rows of one route, so the order over the routes is only in the chunks that the rows came
from.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.batch import Batch, Chunk


def arrival(batches: Sequence[Batch], chunks: Sequence[Chunk]) -> list[list[int]]:
    """
    Return the place of each row to be stored among all rows that arrived.

    @param chunks: all chunks of these rows, in the order in which they were received; none: the
        batches arrived one after the other.
    @return: for each batch the places of its rows, ascending. No two rows have the same, and there
        may be some that no row has.
    """
    bases: dict[int, int] = {}
    base = 0
    for chunk in chunks or [piece.chunk for batch in batches for piece in batch.slices]:
        if id(chunk) not in bases:
            bases[id(chunk)] = base
            base += len(chunk.frames)
    places: list[list[int]] = []
    for batch in batches:
        of_batch: list[int] = []
        for chunk, start, stop in batch.slices:
            first = bases[id(chunk)]
            of_batch.extend(range(first + start, first + stop))
        places.append(of_batch)
    return places
