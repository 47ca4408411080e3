"""
Order of arrival of rows that several batches share a commit with.

A batch has rows of one route, so the order over the routes is only in the chunks that the rows came
from: in their order, and for chunks of one read, or one unit, in the places of their messages in
that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.model.batch import Batch, Chunk, Refusal, Slice


def arrival(batches: Sequence[Batch], chunks: Sequence[Chunk]) -> list[list[int]]:
    """
    Return the place of each row to be stored among all rows that arrived.

    @param chunks: all chunks of these rows, in the order in which they were received, those of one
        read or unit one after the other; none: the batches arrived one after the other.
    @return: for each batch the places of its rows, ascending. No two rows have the same, and there
        may be some that no row has.
    """
    bases = _bases(chunks or [piece.chunk for batch in batches for piece in batch.slices])
    places: list[list[int]] = []
    for batch in batches:
        of_batch: list[int] = []
        for chunk, start, stop in batch.slices:
            base = bases[id(chunk)]
            if chunk.places is None:
                of_batch.extend(range(base + start, base + stop))
            else:
                of_batch += [base + place for place in chunk.places[start:stop]]
        places.append(of_batch)
    return places


def in_order(batches: Sequence[Batch], chunks: Sequence[Chunk]) -> list[Batch]:
    """
    Regroup the rows of batches so that each peer's order is kept across routes.

    @param chunks: all chunks of these rows, as for L{arrival}.
    """
    bases = _bases(chunks)
    pieces: list[Slice | Refusal] = []
    for batch in batches:
        for whole in batch.slices:
            chunk, start, stop = whole
            if chunk.places is None or isinstance(chunk.places, range):
                pieces.append(whole)
            else:
                pieces += [Slice(chunk, row, row + 1) for row in range(start, stop)]
        pieces += batch.refusals
    # A Slice and a Refusal both begin with a chunk and a row of it.
    pieces.sort(key=lambda piece: bases[id(piece[0])] + piece[0].place(piece[1]))
    groups: list[tuple[str, list[Slice], list[Refusal]]] = []
    # Origin -> index of the batch of its last message: later ones go there or behind.
    reached: dict[int, int] = {}
    for piece in pieces:
        route, origin = piece.chunk.route, id(piece.chunk.origin)
        index = reached.get(origin, 0)
        while index < len(groups) and groups[index][0] != route:
            index += 1
        if index == len(groups):
            groups.append((route, [], []))
        _, slices, refusals = groups[index]
        if isinstance(piece, Refusal):
            refusals.append(piece)
        elif slices and slices[-1].chunk is piece.chunk and slices[-1].stop == piece.start:
            slices[-1] = Slice(piece.chunk, slices[-1].start, piece.stop)
        else:
            slices.append(piece)
        reached[origin] = index
    return [Batch(*group) for group in groups]


def _bases(chunks: Sequence[Chunk]) -> Mapping[int, int]:
    """
    Return, by the C{id} of each chunk, the place of the first message of its read or unit.
    """
    bases: dict[int, int] = {}
    before: object = None
    base = after = 0
    for chunk in chunks:
        if id(chunk) in bases:
            continue
        whole = chunk.read if chunk.part is None else chunk.part.unit
        if whole is None or whole is not before:
            base = after
        before = whole
        bases[id(chunk)] = base
        after = max(after, base + chunk.place(-1 if chunk.places else len(chunk.frames) - 1) + 1)
    return bases
