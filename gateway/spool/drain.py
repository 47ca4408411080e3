"""
Drain of the spool: stores one parcel, and handles the bad rows in it.

Every step can be repeated: a parcel is stored behind its records'
fence and removed after that, so that a crash in between stores nothing twice. A
message that is refused now was promised to be kept, and nobody waits for an answer
any more: it becomes a dead letter, whatever its route says, in the commit that stores
its neighbours.

A record that has to be split is first resolved: from then on an earlier try of the whole
record can never be stored, and its pieces have fences of their own. What belongs to a unit with a
key (L{gateway.model.unit}) is never split.

A message of a numbered stream is stored when it is next in its epoch. It is removed
where the database shows that this very message has its number; another one there, or
another epoch, makes it a dead letter that says so. Where a message before it is missing
it waits, put aside, and all others pass.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.logs.last_reason import LastReason
from gateway.model import wording
from gateway.model.batch import Batch, Refusal, Slice, StreamMark, stream_marks
from gateway.model.errors import (
    BatchesRefused,
    BatchesStored,
    Faults,
    FenceVoid,
    FramesRefused,
    RouteError,
    RowError,
    StoredPartly,
    StreamsElsewhere,
    TransientError,
)
from gateway.model.outcome import Outcome, refused_rows, row_refused
from gateway.model.store import Store, Written
from gateway.model.stream_marks import StreamPosition
from gateway.model.unit import is_unit_key
from gateway.spool.queue import Spool
from gateway.spool.record import Record, RecordGroup, pack, rows_of, unpack
from gateway.sql.sqlstate import CANCELLED

_IN_ANOTHER_SPOOL: Final = (
    "the database and this spool have not got: it waits in another gateway's spool, or the"
    " database was set back"
)
_IN_THIS_SPOOL: Final = "waits in the spool as well"

_SHORTEST: Final = 0.02
"""Seconds between two tries of a stream that waits, at least."""

_MAX_RETRY_SECONDS: Final = 10.0
"""Seconds between two tries of a stream that waits, at most."""


class HeldStream(NamedTuple):
    """
    Stream whose messages wait in the spool, put aside.

    @ivar until: when it is tried again, in seconds of the clock.
    @ivar tries: how often it was tried in vain.
    @ivar epoch: of the messages.
    @ivar missing: the number that they wait for.
    """

    until: float
    tries: int
    epoch: str
    missing: int


class Drain:
    """
    Drain: stores the spool's records in the database, parcel by parcel.

    @ivar stored: messages that were stored since L{reset_log}.
    @ivar known: messages that were in the database already.
    @ivar dead_letters: messages that became dead letters.
    @ivar held: streams that wait.
    @ivar lanes: lanes of records that are gone.
    @ivar blame: whether messages are refused for reasons that mostly pass, too.
    """

    _log = Logger()

    def __init__(
        self,
        spool: Spool,
        store: Store,
        clock: IReactorTime,
        backoff: Callable[[int], float],
        missing: Callable[[str, str], None],
    ) -> None:
        """
        @param backoff: failed attempts -> seconds to wait.
        @param missing: called with a stream and its epoch of which a message is missing that this
            gateway has not got.
        """
        self.stored = self.known = self.dead_letters = 0
        self.held: dict[str, HeldStream] = {}
        self._left_out: frozenset[str] = frozenset()
        self._logged_holds = defaultdict[str, LastReason](LastReason)
        self.lanes: set[str] = set()
        self.blame = False
        self._logged_kinds: set[tuple[str, str]] = set()
        self._spool = spool
        self._store = store
        self._clock = clock
        self._backoff = backoff
        self._missing = missing

    def begin_pass(self) -> None:
        """Begin a pass, which reads from the first record on."""
        now = self._clock.seconds()
        self._left_out = frozenset(name for name, held in self.held.items() if held.until > now)

    def waiting_streams(self) -> Collection[str]:
        """Return the streams whose records put aside are not tried in this pass."""
        return self._left_out

    async def store_parcel(self, parcel: RecordGroup, doubt: bool = True) -> None:
        """
        Store every message of a parcel, or make it a dead letter or put it aside.

        Stored ones leave the spool.

        @param doubt: whether to test messages behind before the whole route is blamed for an error.
        @raise StoreError: not now; what is left is still in the spool.
        @raise SpoolError: stored, but it could not be removed; store it again.
        """
        batch = parcel.batch
        if batch.streams and not await self._in_order(parcel):
            return
        try:
            if is_unit_key(parcel.fence.lane):
                await self._write_unit(parcel)
            else:
                await self._write(parcel)
        except (RouteError, TransientError):
            if not (doubt and await self._others_pass(parcel)):
                raise
            await self.store_parcel(parcel, doubt=False)
        except (RowError, FramesRefused, StreamsElsewhere) as error:
            if len(parcel.records) > 1:
                slow = isinstance(error, RowError) and error.sqlstate == CANCELLED
                await (self._one_by_one if slow else self._halve)(parcel)
            elif isinstance(error, FramesRefused):
                await self._rewrite(parcel, batch.refuse(error.faults, dead_letter=True))
            elif isinstance(error, StreamsElsewhere):
                await self._sort(parcel, error.stream_positions)
            elif batch.count > 1:
                await self._take_apart(parcel, batch.halves())
            else:
                outcome = row_refused(str(error), error.sqlstate)
                await self._rewrite(parcel, batch.refuse([(0, outcome)], dead_letter=True))
        except StoredPartly as partly:
            stored = [r for r in parcel.records if r.number <= partly.number]
            await self.store_parcel(unpack(stored))
            await self.store_parcel(unpack(parcel.records[len(stored) :]))
        except FenceVoid as void:
            for record in parcel.records:
                if record.number == void.number:
                    await self._take_apart(unpack([record]), [unpack([record]).batch], True)
                else:
                    await self.store_parcel(unpack([record]))

    async def store_together(self, parcels: Sequence[RecordGroup]) -> bool:
        """
        Store several parcels by one commit, if all goes well.

        @return: C{False} where they are to be stored one by one: nothing is done.
        @raise StoreError: not now.
        @raise SpoolError: as for L{store_parcel}.
        """
        batches = [parcel.batch for parcel in parcels]
        moves = stream_marks(batches)
        streams = frozenset().union(*(batch.streams for batch in batches))
        if len(moves) != len(streams) or not all(move.unbroken for move in moves):
            return False
        if not all(map(_is_in_order, batches)):
            return False
        if any(self._waits(move) for move in moves):
            return False
        fences = [parcel.fence for parcel in parcels]
        try:
            if await self._store.write_together(batches, fences, afresh=True) is None:
                return False
        except (BatchesRefused, RowError, RouteError, TransientError):
            return False
        self.stored += sum(batch.count for batch in batches)
        await self._remove(*parcels)
        for batch in batches:
            self._passed(batch)
        return True

    async def _in_order(self, parcel: RecordGroup) -> bool:
        """
        Check that each stream's mark can be moved over the parcel's messages at once.

        @return: C{False} where it cannot, and the parcel was split or put aside instead.
        """
        batch, (first, *others) = parcel.batch, parcel.records
        held = {move.stream.name for move in batch.moves if self._waits(move)}
        if first.stream in held and not others:
            return False
        moves = batch.moves
        straight = len(moves) == len(batch.streams) and all(move.whole for move in moves)
        if straight and not held:
            return True
        if others:
            await self._halve(parcel)
        elif held:
            await self._put_aside(parcel, held)
        else:
            # It comes from a commit of several routes whose reply was lost.
            await self._take_apart(parcel, _in_rows(batch))
        return False

    def _waits(self, move: StreamMark) -> bool:
        """Say whether a message before a stream's messages is known to be missing."""
        held = self.held.get(move.stream.name)
        return (
            held is not None
            and held.epoch == move.stream.epoch
            and move.first > held.missing
            # It is not due yet, or was not due when the pass began.
            and (held.until > self._clock.seconds() or move.stream.name in self._left_out)
        )

    async def _write(self, parcel: RecordGroup) -> None:
        """Store a parcel behind its fence, and take it out of the spool."""
        batch = parcel.batch
        await self._written(
            parcel, await self._store.write(batch, parcel.fence, patient=True, blame=self.blame)
        )
        self._passed(batch)

    async def _write_unit(self, parcel: RecordGroup) -> None:
        """
        Store what a unit with a key has for a route, its refused messages as dead letters.

        Whole, behind its own fence and never in pieces: the same unit may be in this spool once
        more, or be sent again to another gateway.
        """
        batch: Batch | None = parcel.batch
        while batch is not None:
            try:
                await self._store.write_whole(
                    [batch], [parcel.fence], patient=True, blame=self.blame
                )
            except BatchesRefused as refused:
                batch = batch.refuse(refused.faults[0], dead_letter=True)
            except RowError as error:
                # At the end of the transaction, so that nobody can say which.
                outcome = row_refused(str(error), error.sqlstate)
                faults = [(row, outcome) for row in range(batch.count)]
                batch = batch.refuse(faults, dead_letter=True)
            except BatchesStored:
                self.known += rows_of(batch)
                await self._remove(parcel)
                return
            else:
                self.stored += batch.count
                await self._remove(parcel)
                self._passed(batch)
                return

    async def _remove(self, *parcels: RecordGroup) -> None:
        await self._spool.remove(*parcels)
        self.lanes.update(parcel.fence.lane for parcel in parcels)

    async def _replace(self, parcel: RecordGroup, pieces: Sequence[Record]) -> None:
        await self._spool.replace(parcel, pieces)
        self.lanes.add(parcel.fence.lane)

    def _passed(self, batch: Batch) -> None:
        """Note that a batch is stored, and log its dead letters."""
        self.dead_letters += len(batch.dead_letters)
        if batch.dead_letters:
            self._spool.counters.dead_letters[batch.route] += len(batch.dead_letters)
        for refusal in batch.dead_letters:
            self._log_dead_letter(batch.route, refusal.outcome)
        if self.held and batch.streams:
            for name in batch.streams:
                self.held.pop(name, None)
                if name not in self._spool.aside and self._logged_holds.pop(name, None) is not None:
                    self._log.info(
                        "spool: stream {stream}: nothing waits any more",
                        event="stream-goes-on",
                        stream=name,
                    )

    async def _written(self, parcel: RecordGroup, written: Written) -> None:
        faults = refused_rows(written.runs)
        self.stored += parcel.batch.count - len(faults)
        if faults:
            await self._keep(parcel, faults)
        else:
            await self._remove(parcel)

    async def _rewrite(self, parcel: RecordGroup, batch: Batch | None) -> None:
        """Replace a parcel of one record by a batch and store that; C{None}: only remove it."""
        if batch is None:
            await self._remove(parcel)
        else:
            await self._take_apart(parcel, [batch])

    async def _others_pass(self, parcel: RecordGroup) -> bool:
        """Say whether a record behind can be stored, where nothing of this one can."""
        route = parcel.batch.route
        if len(parcel.records) > 1 or route not in self._spool.rows:
            return False
        others = self._spool.rows.keys() - {route}
        behind = await self._spool.next(parcel.end, others, self._spool.aside)
        return behind is not None and await self._store.try_out(behind.batch)

    async def _one_by_one(self, parcel: RecordGroup) -> None:
        """
        Store the records one by one: one is slow, and halves would wait for it again and again.
        """
        for record in parcel.records:
            await self.store_parcel(unpack([record]))

    async def _halve(self, parcel: RecordGroup) -> None:
        """Store both halves of a parcel, since some of its records cannot be stored as they are."""
        middle = len(parcel.records) // 2
        await self.store_parcel(unpack(parcel.records[:middle]))
        await self.store_parcel(unpack(parcel.records[middle:]))

    # Streams that are not where they were expected.

    async def _sort(
        self, parcel: RecordGroup, stream_positions: Mapping[str, StreamPosition]
    ) -> None:
        """
        Handle the messages of streams whose mark did not move: wait, remove or dead letter.

        @param parcel: of one record.
        """
        batch = parcel.batch
        waiting = set()
        for move in batch.moves:
            stream_position = stream_positions.get(move.stream.name)
            if stream_position is None or not stream_position.current:
                continue
            if stream_position.mark < move.first - 1:
                waiting.add(move.stream.name)
                self._hold(move, stream_position)
        if waiting:
            await self._put_aside(parcel, waiting)
            return
        rest, known = _without_stored(batch, stream_positions)
        self.known += known
        await self._rewrite(parcel, rest)

    def _hold(self, move: StreamMark, stream_position: StreamPosition) -> None:
        name, epoch = move.stream.name, move.stream.epoch
        before = self.held.get(name)
        tries = 1 if before is None else before.tries + 1
        pause = min(_MAX_RETRY_SECONDS, self._backoff(tries) * max(1, tries - 5))
        until = self._clock.seconds() + max(_SHORTEST, pause)
        self.held[name] = HeldStream(until, tries, epoch, stream_position.mark + 1)
        gone = not self._spool.backlog.has_number(name, epoch, stream_position.mark + 1)
        reason = f"#{stream_position.mark + 1}, which " + (
            _IN_ANOTHER_SPOOL if gone else _IN_THIS_SPOOL
        )
        if self._logged_holds[name].note(reason):
            self._log.warn(
                "spool: stream {stream}: its messages from #{first} on wait in {path} for {reason}",
                event="stream-waits",
                stream=name,
                first=move.first,
                path=self._spool.path,
                reason=reason,
            )
        if gone:
            self._missing(name, epoch)

    async def _put_aside(self, parcel: RecordGroup, streams: Collection[str]) -> None:
        """
        Split off the messages of streams that wait, so that others pass them.

        @param parcel: of one record.
        """
        (record,) = parcel.records
        if record.stream is not None:
            return  # it is aside already
        parts: list[Batch | None] = []
        batch: Batch | None = parcel.batch
        for name in sorted(streams):
            if batch is not None:
                theirs, batch = batch.parted({name})
                parts.append(theirs)
        await self._take_apart(parcel, [part for part in [batch, *parts] if part], aside=streams)

    # Pieces.

    async def _take_apart(
        self,
        parcel: RecordGroup,
        parts: Sequence[Batch],
        void: bool = False,
        aside: Collection[str] = (),
    ) -> None:
        """
        Replace a record by pieces with fences of their own, and store those that need not wait.

        @param void: whether its fence is void already.
        @param aside: streams whose pieces wait.
        """
        (record,) = parcel.records
        if not void:
            written = await self._store.resolve(parcel.batch, parcel.fence)
            if written is not None:
                await self._written(parcel, written)
                return
        place = record.place
        pieces = []
        for part in parts:
            name = next(iter(part.streams)) if len(part.streams) == 1 else None
            stream = name if name in aside and _is_all_of(part) else None
            rows, lane = rows_of(part), self._spool.new_id()
            pieces.append(Record(place, record.route, lane, 1, rows, pack(part), stream))
            place += rows
        await self._replace(parcel, pieces)
        for piece in pieces:
            if piece.stream is None:
                await self.store_parcel(unpack([piece]))

    async def _keep(self, parcel: RecordGroup, faults: Faults) -> None:
        """
        Make dead letters of the rows that were refused when their record was stored.

        They must not be lost in a crash: they alone stay in the spool until they are dead letters.
        """
        record = parcel.records[0]
        bad = parcel.batch.only([row for row, _ in faults])
        refusals = [
            Refusal(piece.chunk, piece.start, outcome, dead_letter=True, counts=False)
            for piece, (_, outcome) in zip(bad.slices, faults, strict=True)
        ]
        part = Batch(record.route, [], refusals)
        piece = Record(
            *(record.place, record.route, self._spool.new_id(), 1, rows_of(part), pack(part))
        )
        await self._replace(parcel, [piece])
        await self._write(unpack([piece]))

    def _log_dead_letter(self, route: str, outcome: Outcome) -> None:
        # Without numbers: texts of streams name the message's number.
        kind = (route, re.sub("[0-9]+", "", outcome.text))
        if kind not in self._logged_kinds:
            # A new constraint may refuse thousands for the same reason.
            self._logged_kinds.add(kind)
            self._log.warn(
                "spool: route {route}: refused after +QUE, kept as a dead letter, and so are"
                " those that follow for this reason: {reason}",
                event="spooled-refused",
                route=route,
                reason=outcome.text,
            )

    def reset_log(self) -> None:
        """Reset the counts; every reason is logged again the next time."""
        self.stored = self.known = self.dead_letters = 0
        self._logged_kinds.clear()
        self._logged_holds.clear()


def _is_in_order(batch: Batch) -> bool:
    """Say whether the messages of each stream come in the order of their numbers."""
    last: dict[str, int] = {}
    for piece in batch.slices:
        stream = piece.chunk.stream
        if stream is not None:
            if piece.first <= last.get(stream.name, 0):
                return False
            last[stream.name] = piece.last
    return True


def _without_stored(
    batch: Batch, stream_positions: Mapping[str, StreamPosition]
) -> tuple[Batch | None, int]:
    """
    Take out the messages that the database has; others under a used number become dead letters.

    @return: the batch that is left to be stored, and the number of messages taken out.
    """
    slices: list[Slice] = []
    refusals: list[Refusal] = []
    known = 0
    for piece in batch.slices:
        stream = piece.chunk.stream
        stream_position = None if stream is None else stream_positions.get(stream.name)
        if stream_position is None:
            slices.append(piece)
            continue
        first_left = piece.stop
        for row in range(piece.start, piece.stop):
            number = piece.chunk.number(row)
            if stream_position.current and number > stream_position.mark:
                first_left = row
                break
            if stream_position.has_message(number, piece.chunk.frames[row]):
                known += 1
            else:
                refusals.append(
                    Refusal(piece.chunk, row, _strange(stream_position, number), True, False)
                )
        if first_left < piece.stop:
            slices.append(Slice(piece.chunk, first_left, piece.stop))
    for refusal in batch.refusals:
        stream = refusal.stream
        stream_position = None if stream is None else stream_positions.get(stream.name)
        if stream_position is None or (
            stream_position.current and refusal.number > stream_position.mark
        ):
            refusals.append(refusal)
        elif refusal.dead_letter and not stream_position.has_message(
            refusal.number, refusal.chunk.frames[refusal.row]
        ):
            refusals.append(refusal._replace(counts=False))
    return (Batch(batch.route, slices, refusals) if slices or refusals else None), known


def _strange(stream_position: StreamPosition, number: int) -> Outcome:
    if stream_position.current:
        return wording.number_not_its_own(number)
    return wording.went_on_elsewhere(number)


def _in_rows(batch: Batch) -> list[Batch]:
    """Split a batch into single rows, those of streams in the order of their numbers."""
    rows: list[tuple[int, Batch]] = []
    for piece in batch.slices:
        for row in range(piece.start, piece.stop):
            one = Slice(piece.chunk, row, row + 1)
            number = one.first if piece.chunk.stream is not None else 0
            rows.append((number, Batch(batch.route, [one])))
    for refusal in batch.refusals:
        number = refusal.number if refusal.stream is not None else 0
        rows.append((number, Batch(batch.route, [], [refusal])))
    rows.sort(key=itemgetter(0))
    return [part for _, part in rows]


def _is_all_of(batch: Batch) -> bool:
    """Say whether a batch has no message without a number."""
    return all(piece.chunk.stream is not None for piece in batch.slices) and all(
        refusal.stream is not None for refusal in batch.refusals
    )
