"""
Numbers of streams that the spool holds, by epoch.

HELLO is answered by it, so it is exact: it is changed with each record that is put
and each that is taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.model.batch import Batch
from gateway.model.outcome import Outcome
from gateway.model.store import Waiting

_Numbers = list[tuple[int, int]]
"""(first, last), ascending, with numbers between them that are not there."""


class SpoolBacklog:
    """
    Numbers in the spool, by stream and epoch.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, _Numbers]] = {}
        self._refusals: dict[tuple[str, str], dict[int, Outcome]] = {}
        self._last: dict[str, tuple[str, int]] = {}
        self._doubtful: set[str] = set()

    def __contains__(self, stream: str) -> bool:
        return stream in self._numbers

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def numbers_of(self, stream: str) -> Waiting | None:
        """Return the numbers of a stream; C{None} where there are none, or not exactly known."""
        numbers = self._numbers.get(stream)
        if numbers is None or stream in self._doubtful:
            return None
        kept = {epoch: tuple(ranges) for epoch, ranges in numbers.items()}
        refusals = {epoch: dict(self._refusals.get((stream, epoch), {})) for epoch in numbers}
        return Waiting(kept, refusals, self._last[stream])

    def mark_doubtful(self, batch: Batch) -> None:
        """
        Note that a record of this batch may be in the spool, since its disk failed.

        The numbers of its streams are then unknown until the file is opened again.
        """
        self._doubtful |= batch.streams

    def reset(self, batches: Iterable[Batch]) -> None:
        """Replace all numbers by those of these batches."""
        self._numbers.clear()
        self._refusals.clear()
        self._last.clear()
        for batch in batches:
            self.put(batch, last=True)

    def has_number(self, stream: str, epoch: str, number: int) -> bool:
        """Say whether a number is in the spool."""
        numbers = self._numbers.get(stream, {}).get(epoch, ())
        return any(first <= number <= last for first, last in numbers)

    def put(self, batch: Batch, last: bool = False) -> None:
        """
        Add the numbers of a record's batch.

        @param last: whether the record came behind all others, and not in the place of one.
        """
        for name, epoch, first, stop in _parts(batch):
            epochs = self._numbers.setdefault(name, {})
            epochs[epoch] = _with_range(epochs.get(epoch, []), first, stop)
            before = self._last.get(name)
            if before is None or (last and (before[0] != epoch or before[1] < stop)):
                self._last[name] = (epoch, stop)
        for refusal in batch.refusals:
            if refusal.stream is not None:
                key = (refusal.stream.name, refusal.stream.epoch)
                self._refusals.setdefault(key, {})[refusal.number] = refusal.outcome

    def remove(self, batch: Batch) -> None:
        """Remove the numbers of a record's batch."""
        for name, epoch, first, last in _parts(batch):
            epochs = self._numbers.get(name, {})
            left = _without(epochs.get(epoch, []), first, last)
            if refusals := self._refusals.get((name, epoch)):
                for number in [number for number in refusals if first <= number <= last]:
                    del refusals[number]
            if left:
                epochs[epoch] = left
                continue
            epochs.pop(epoch, None)
            self._refusals.pop((name, epoch), None)
            if not epochs:
                self._numbers.pop(name, None)
                self._last.pop(name, None)


def _parts(batch: Batch) -> Iterator[tuple[str, str, int, int]]:
    for piece in batch.slices:
        stream = piece.chunk.stream
        if stream is not None:
            for part in piece.consecutive():
                yield stream.name, stream.epoch, part.first, part.last
    for refusal in batch.refusals:
        stream = refusal.stream
        if stream is not None:
            yield stream.name, stream.epoch, refusal.number, refusal.number


def _with_range(numbers: _Numbers, first: int, last: int) -> _Numbers:
    if numbers and numbers[-1][1] == first - 1:
        return [*numbers[:-1], (numbers[-1][0], last)]
    merged: _Numbers = []
    for start, stop in sorted([*numbers, (first, last)]):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def _without(numbers: _Numbers, first: int, last: int) -> _Numbers:
    left: _Numbers = []
    for start, stop in numbers:
        if start < first:
            left.append((start, min(stop, first - 1)))
        if stop > last:
            left.append((max(start, last + 1), stop))
    return left
