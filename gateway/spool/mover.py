"""
Mover of spooled messages to the dead letters, by an operator's decision, while no gateway runs.

Every step can be repeated, so that a crash in between loses nothing and doubles nothing. A
record is first resolved: it was stored before, and is only removed; or an earlier try of it
can never be stored, and pieces with fences of their own take its place in the file. A piece that
is to become dead letters moves its fence in the transaction that keeps them, and is removed
after that.

The fence of a record is that of all before it on its lane too, so these are resolved first and
get fences of their own, though they stay.

A stream's messages become dead letters in the order of their numbers, and their stream goes
on behind them. Where messages before them stay in the spool, they wait there for these, and
the gateway makes dead letters of them in their turn. Where messages before them are gone,
the stream cannot pass the hole, and stays where it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple
from uuid import uuid4

from gateway.model.batch import Batch, Refusal
from gateway.model.errors import Faults, SpoolError, StoreError, StreamsElsewhere
from gateway.model.outcome import Code, Outcome, refused, refused_rows
from gateway.model.store import Store
from gateway.model.stream_marks import StreamPosition
from gateway.spool.file import SpoolFile
from gateway.spool.inventory import Selection
from gateway.spool.record import Record, pack, rows_of, unpack

_StreamKey = tuple[str, str]
"""A stream and an epoch."""


@dataclass(slots=True)
class Moved:
    """
    Counts of the selected messages by their fates.

    @ivar dead_letters: number of messages that are dead letters now.
    @ivar known: number of messages that were stored before, or kept as dead letters, and are only
        removed.
    @ivar waiting: number of messages that become dead letters when those before them in their
        streams are stored.
    """

    dead_letters: int = 0
    known: int = 0
    waiting: int = 0


class _Head(NamedTuple):
    """
    A record without its messages.
    """

    lane: str
    number: int
    place: int
    meant: bool


@dataclass(slots=True)
class _Plan:
    """
    Records and their order of moving.

    @ivar kept: the lowest number of each stream among the messages that stay.
    """

    heads: list[_Head] = field(default_factory=list)
    kept: dict[_StreamKey, int] = field(default_factory=dict)

    def steps(self) -> Iterator[_Head]:
        """Yield the selected records and those before them on their lanes, lane by lane."""
        for _, lane in groupby(sorted(self.heads), key=itemgetter(0)):
            heads = [*lane]
            last = max((at for at, head in enumerate(heads) if head.meant), default=-1)
            yield from heads[: last + 1]

    def waits(self, batch: Batch) -> bool:
        """Say whether messages stay that come before those of a piece in their stream."""
        key, number = _order(batch.refusals[0])
        return number > self.kept.get(key, number)


class Mover:
    """
    Mover of records to the dead letters.
    """

    def __init__(
        self,
        file: SpoolFile,
        store: Store,
        reason: str,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        """
        @param file: open, so that no gateway has it.
        @param reason: text of the dead letters.
        @param new_id: makes up UUIDs.
        """
        self._file = file
        self._store = store
        self._reason = reason
        self._new_id = new_id
        self._moved = Moved()
        self._lanes: list[str] = []

    async def move(self, selection: Selection) -> Moved:
        """
        Move the selected messages.

        @raise StoreError: not now; what is not moved yet is still in the spool.
        @raise SpoolError: the file cannot be written; as above.
        """
        plan = self._plan(selection)
        pieces: list[tuple[tuple[_StreamKey, int], int]] = []
        for head in plan.steps():
            for piece in await self._resolved(head, selection):
                batch = unpack([piece]).batch
                if plan.waits(batch):
                    self._moved.waiting += len(batch.refusals)
                else:
                    pieces.append((_order(batch.refusals[0]), piece.place))
        for _, place in sorted(pieces):
            await self._keep_dead_letters(place)
        if self._lanes:
            with suppress(StoreError):  # some rows of a few bytes stay behind
                await self._store.close_lanes(self._lanes)
        return self._moved

    def _plan(self, selection: Selection) -> _Plan:
        plan = _Plan()
        for parcel in self._file.each():
            (record,) = parcel.records
            theirs, others = selection.split(record, parcel.batch)
            meant = theirs is not None
            plan.heads.append(_Head(record.lane, record.number, record.place, meant))
            if others is not None:
                for move in others.moves:
                    key = move.stream.name, move.stream.epoch
                    plan.kept[key] = min(move.first, plan.kept.get(key, move.first))
        return plan

    async def _resolved(self, head: _Head, selection: Selection) -> Sequence[Record]:
        """
        Resolve a record, and replace it by pieces with fences of their own.

        @return: the pieces that are to become dead letters.
        """
        parcel = self._file.at(head.place)
        (record,), batch = parcel
        written = await self._store.resolve(batch, parcel.fence)
        refusals: Sequence[Refusal] = []
        stays: Batch | None = None
        if written is None:
            theirs, stays = selection.split(record, batch) if head.meant else (None, batch)
            refusals = [] if theirs is None else _refusals(theirs, self._reason)
        else:
            refusals = _refused_then(batch, refused_rows(written.runs))
            self._moved.known += rows_of(batch) - len(refusals)
        dead_letters = [Batch(batch.route, [], part) for part in _in_a_row(refusals)]
        parts = [*([stays] if stays is not None else []), *dead_letters]
        pieces = []
        place = record.place
        for part in parts:
            rows = rows_of(part)
            stream = record.stream if part is stays else None
            pieces.append(Record(place, record.route, self._new_id(), 1, rows, pack(part), stream))
            place += rows
        self._change(lambda: self._file.replace(record, pieces))
        return pieces[len(parts) - len(dead_letters) :]

    async def _keep_dead_letters(self, place: int) -> None:
        """Store the dead letters of a piece, and take it out of the spool."""
        parcel = self._file.at(place)
        (record,) = parcel.records
        batch: Batch | None = parcel.batch
        while batch is not None:
            try:
                await self._store.write(batch, parcel.fence)
                break
            except StreamsElsewhere as elsewhere:
                # Nothing was stored, so the fence can be used for the rest.
                batch = _without_settled(batch, elsewhere.stream_positions)
        kept = 0 if batch is None else len(batch.dead_letters)
        self._moved.dead_letters += kept
        self._moved.known += record.rows - kept
        self._lanes.append(record.lane)
        self._change(lambda: self._file.remove([record]))

    def _change(self, work: Callable[[], None]) -> None:
        """Change the file in a transaction, on a full disk too."""
        file = self._file
        try:
            try:
                self._commit(work)
            except sqlite3.OperationalError as error:
                # After any other error the commit may or may not be there after a crash.
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                file.rollback()
                file.relieve()
                self._commit(work)
        except sqlite3.Error as error:
            raise SpoolError(f"the spool {file.path} cannot be written: {error}") from None

    def _commit(self, work: Callable[[], None]) -> None:
        self._file.begin()
        work()
        self._file.commit()


def _refusals(batch: Batch, reason: str) -> Sequence[Refusal]:
    """Return all messages of a batch as dead letters; those refused before keep their reason."""
    faults: list[tuple[int, Outcome]] = []
    for piece in batch.slices:
        stream = piece.chunk.stream
        for number in piece.numbers:
            text = reason if stream is None else f"{reason} (#{number} of stream {stream.name})"
            faults.append((len(faults), refused(Code.DATA, text)))
    whole = batch.refuse(faults, dead_letter=True)
    return [] if whole is None else whole.refusals


def _refused_then(batch: Batch, faults: Faults) -> Sequence[Refusal]:
    """Return the dead letters of a batch that was stored earlier without these rows."""
    rows = batch.only([row for row, _ in faults]).slices
    return [
        Refusal(row.chunk, row.start, outcome, dead_letter=True, counts=False)
        for row, (_, outcome) in zip(rows, faults, strict=True)
    ]


def _order(refusal: Refusal) -> tuple[_StreamKey, int]:
    """Return the position of a message in its stream; messages without a number come first."""
    stream = refusal.stream
    return (("", ""), 0) if stream is None else ((stream.name, stream.epoch), refusal.number)


def _in_a_row(refusals: Sequence[Refusal]) -> Iterator[Sequence[Refusal]]:
    """Yield messages without a number, and runs of consecutive numbers of each stream."""
    part: list[Refusal] = []
    after: tuple[_StreamKey, int] | None = None
    for refusal in sorted(refusals, key=_order):
        key, number = place = _order(refusal)
        if part and place != after:
            yield part
            part = []
        part.append(refusal)
        after = (key, number + (refusal.stream is not None))
    if part:
        yield part


def _without_settled(batch: Batch, stream_positions: Mapping[str, StreamPosition]) -> Batch | None:
    """
    Return what is left of a piece whose stream is not just before it.

    Messages that the database has are taken out. The others become dead letters all the same; only
    those that come next move their stream.
    """
    left: list[Refusal] = []
    following = 0
    for refusal in batch.refusals:
        stream = refusal.stream
        if stream is None or (stream_position := stream_positions.get(stream.name)) is None:
            left.append(refusal)
        elif stream_position.current and refusal.number == stream_position.mark + 1 + following:
            following += 1
            left.append(refusal)
        elif refusal.dead_letter and not stream_position.has_message(
            refusal.number, refusal.chunk.frames[refusal.row]
        ):
            left.append(refusal._replace(counts=False))
    return Batch(batch.route, [], left) if left else None
