"""
Inventory of a spool, for people: its records by ID, and summed up by route.

A record's ID is its place in the order: C{12} for the twelfth that was put there, C{12.3} for
a piece of it that begins with its fourth message.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.model.batch import Batch, Chunk, Origin, Refusal
from gateway.model.outcome import Outcome
from gateway.model.stream import Stream
from gateway.spool.backlog import SpoolBacklog
from gateway.spool.reader import SpooledRecord
from gateway.spool.record import PARTS, Record, rows_of

_MESSAGE_ID: Final = re.compile(r"(\d{1,11})(?:\.(\d{1,8}))?", re.ASCII)


def id_of(place: int) -> str:
    """Return the ID of the record at a place."""
    number, row = place >> PARTS, place & ((1 << PARTS) - 1)
    return f"{number}.{row}" if row else str(number)


def place_of(name: str) -> int:
    """
    Return the place of a record's ID.

    @raise ValueError: it is no ID.
    """
    match = _MESSAGE_ID.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no ID of a record, such as 12 or 12.3")
    return (int(match[1]) << PARTS) + int(match[2] or 0)


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Selection of messages; a field that is not set selects all.

    @ivar places: places of the selected records.
    """

    places: Collection[int] = ()
    route: str | None = None
    stream: str | None = None

    def split(self, record: Record, batch: Batch) -> tuple[Batch | None, Batch | None]:
        """
        Split a record into the selected messages and all others; C{None} where there are none.
        """
        if not self.takes(record):
            return None, batch
        return (batch, None) if self.stream is None else batch.parted({self.stream})

    def takes(self, record: Record) -> bool:
        """Say whether a record's place and route are selected."""
        return (not self.places or record.place in self.places) and (
            self.route is None or record.route == self.route
        )


class Message(NamedTuple):
    """
    A message in the spool.

    @ivar stream: stream that it has its number in.
    @ivar refusal: why it is to become a dead letter; C{None}: it is to be stored.
    """

    place: int
    route: str
    origin: Origin
    received_at: float
    stream: str | None
    epoch: str
    number: int
    refusal: Outcome | None
    frame: bytes


def messages(place: int, batch: Batch) -> Iterator[Message]:
    """Yield the messages of a record."""
    for piece in batch.slices:
        chunk, stream = piece.chunk, piece.chunk.stream
        name, epoch = (None, "") if stream is None else (stream.name, stream.epoch)
        for number, frame in zip(piece.numbers, piece.frames, strict=True):
            about = (chunk.origin, chunk.received_at, name, epoch, number)
            yield Message(place, batch.route, *about, None, frame)
    for refusal in batch.refusals:
        yield _refused(place, batch.route, refusal)


def _refused(place: int, route: str, refusal: Refusal) -> Message:
    chunk, stream = refusal.chunk, refusal.stream
    name, epoch = (None, "") if stream is None else (stream.name, stream.epoch)
    about = (chunk.origin, chunk.received_at, name, epoch, refusal.number)
    return Message(place, route, *about, refusal.outcome, chunk.frames[refusal.row])


@dataclass(slots=True)
class WaitingSummary:
    """
    Summary of the records of one route that wait for the same thing, or of one record.

    @ivar stream: stream that they wait for; others pass them.
    @ivar first: place of the first of them.
    @ivar last: place of the last of them.
    @ivar size: bytes of the messages.
    @ivar oldest: when the first of the messages came, in seconds since 1970.
    @ivar numbers: (stream, epoch) -> (first, last), ascending.
    @ivar refused: messages that are to become dead letters.
    @ivar damaged: messages that cannot be read.
    """

    route: str
    stream: str | None
    first: int
    last: int = 0
    records: int = 0
    messages: int = 0
    size: int = 0
    oldest: float | None = None
    numbers: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    refused: int = 0
    damaged: int = 0
    reason: str = ""

    def add(self, record: Record, batch: Batch | None) -> None:
        """Add the selected messages of a record; C{None}: it is damaged."""
        self.records += 1
        self.last = record.place
        if batch is None:
            self.messages += record.rows
            self.damaged += record.rows
            return
        self.messages += rows_of(batch)
        self.refused += len(batch.refusals)
        # By slices, for there may be millions of messages.
        for piece in batch.slices:
            self._see(piece.chunk, piece.frames, piece.chunk.stream, piece.first, piece.last)
        for refusal in batch.refusals:
            frames = [refusal.chunk.frames[refusal.row]]
            self._see(refusal.chunk, frames, refusal.stream, refusal.number, refusal.number)

    def _see(
        self, chunk: Chunk, frames: list[bytes], stream: Stream | None, first: int, last: int
    ) -> None:
        self.size += sum(map(len, frames))
        if self.oldest is None or chunk.received_at < self.oldest:
            self.oldest = chunk.received_at
        if stream is not None:
            key = (stream.name, stream.epoch)
            self.numbers[key] = _ranges([*self.numbers.get(key, ()), (first, last)])


def summed_up(
    spooled_records: Iterable[SpooledRecord], selection: Selection, each: bool = False
) -> list[WaitingSummary]:
    """
    Sum up the selected messages of a spool, in the order of their first records.

    @param spooled_records: all records of a spool, in order.
    @param each: whether to return a summary for each record.
    """
    sums: dict[tuple[object, ...], WaitingSummary] = {}
    backlog = SpoolBacklog()
    next_one: int | None = None
    for record, batch in spooled_records:
        if batch is not None:
            backlog.put(batch)
            if next_one is None and record.stream is None:
                next_one = record.place
        part = None
        if batch is not None:
            part, _ = selection.split(record, batch)
        if part is None and (
            batch is not None or selection.stream is not None or not selection.takes(record)
        ):
            continue
        key = (record.place,) if each else (record.route, record.stream, batch is None)
        waiting = sums.setdefault(key, WaitingSummary(record.route, record.stream, record.place))
        waiting.add(record, part)
    for waiting in sums.values():
        waiting.reason = _waiting_reason(waiting, backlog, next_one)
    return [*sums.values()]


def _waiting_reason(waiting: WaitingSummary, backlog: SpoolBacklog, next_one: int | None) -> str:
    """Return why the records wait, as far as the file tells."""
    if waiting.damaged:
        return "damaged, and set aside when it is its turn"
    if waiting.stream is not None:
        for (name, epoch), ((first, _), *_) in waiting.numbers.items():
            if first > 1:
                where = f"in epoch {epoch}" if epoch else "in no epoch"
                here = backlog.has_number(name, epoch, first - 1)
                gone = "" if here else ", which is not in this spool"
                return f"stream {name} waits {where} for what is before #{first}{gone}"
        return f"next of stream {waiting.stream}"
    if waiting.refused == waiting.messages:
        return "becomes a dead letter when it is its turn"
    return "next to be stored" if waiting.first == next_one else "behind others"


def _ranges(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(parts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
