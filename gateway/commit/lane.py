"""
Lane: gathers chunks, commits them, and settles their fates.

A lane is a logical writer with at most one batch in flight; while that commits,
the next one gathers. There is no timer: when little comes in, each chunk is
committed at once; under load batches grow by themselves until the database sets
the pace.

It handles all errors of the store:

 - rows at fault are refused alone, and kept as dead letters where the route says so.
 - an unknown outcome is resolved by writing the same batch with the same fence
   again; no answer is given before that, unless a spool takes over the batch
   together with its fence.
 - errors that pass are tried again for a while; then the spool takes the batch,
   or its peers are told to try later.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from math import inf

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.commit.attempt import Attempt, Known, NextStep, retry_delay
from gateway.commit.lane_context import LaneContext
from gateway.commit.multi_route import MultiRouteCommit
from gateway.commit.pauses import ends_of_reads
from gateway.commit.units import UnitCommit
from gateway.metrics.counters import ABANDONED, NOT_STORED, SPOOLED
from gateway.model import wording
from gateway.model.arrival import in_order
from gateway.model.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS, Batch, Chunk, Fence, Refusal, Slice
from gateway.model.errors import (
    Faults,
    FramesRefused,
    RouteError,
    RowError,
    SpoolError,
    SpoolUnknown,
    StoreError,
    StreamsElsewhere,
    TransientError,
)
from gateway.model.outcome import (
    QUEUED,
    RETRY_AFTER,
    STORED,
    Code,
    Outcome,
    Run,
    Word,
    refused_rows,
    replaced,
    row_refused,
    try_later,
)
from gateway.model.store import Written


class Lane:
    """
    Queue of chunks and the commit in flight.

    @ivar load: rows queued and in flight.
    @ivar since: when the batch in flight was begun, in seconds of the clock; infinitely long ago
        where it fails, so that no new peer comes here.
    @ivar begun: when it was begun.
    """

    def __init__(self, context: LaneContext) -> None:
        self.load = 0
        self.since = 0.0
        self.begun = 0.0
        self._context = context
        self._queue: deque[Chunk] = deque()
        self._gathered: Sequence[Chunk] = ()
        self._running = False
        # Route -> the fence of its next batch. Each route has a row of C{gateway.lane}, so that
        # one that is out of service does not stop the others.
        self._fences = defaultdict[str, Fence](lambda: Fence(context.new_id(), 1))
        self._together = MultiRouteCommit(context, self._fences, self._without, self._settle)
        self._units = UnitCommit(context, self._fences, self._move_gathered)

    @property
    def ids(self) -> Sequence[str]:
        """The UUIDs of its rows in C{gateway.lane}."""
        return [fence.lane for fence in self._fences.values()]

    @property
    def under_way(self) -> Sequence[Chunk]:
        """Chunks of the commit in flight."""
        return self._gathered if self._running else ()

    @property
    def chunks(self) -> Sequence[Chunk]:
        """The chunks queued and in flight."""
        return [*self.under_way, *self._queue]

    def queue(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self.load += len(chunk.frames)
        if not self._running:
            self.begin()

    def add(self, chunks: Sequence[Chunk]) -> None:
        """
        Queue chunks that are not committed before L{begin}.
        """
        self._queue.extend(chunks)
        self.load += sum(len(chunk.frames) for chunk in chunks)

    def begin(self) -> None:
        """
        Begin to commit what is queued; calling it again is harmless.
        """
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run()).addErrback(self._context.bug)

    async def _run(self) -> None:
        while self._queue:
            chunks = self._gathered = self._gather()
            if self._context.breakers.pauses.on:
                chunks = self._gathered = self._without_paused(chunks)
                if not chunks:
                    continue
            self.since = self.begun = self._context.clock.seconds()
            try:
                if chunks[0].part is not None:
                    await self._units.commit(chunks)
                    self.load -= sum([len(chunk.frames) for chunk in chunks])
                    continue
                batches = Batch.by_route(chunks)
                if len(batches) > 1:
                    batches = in_order(await self._together.commit(batches, chunks), chunks)
                if len(batches) == 1:
                    await self._commit(batches[0])
                else:
                    await self._commit_apart(batches)
            except Exception:  # noqa: BLE001 - a bug must not leave peers waiting forever
                self._context.bug(Failure())
                for chunk in chunks:
                    # Whether it is committed is not known, so the fence is spoilt.
                    self._fences.pop(chunk.route, None)
                    chunk.abandon(wording.STORING_FAILED)
            self.load -= sum([len(chunk.frames) for chunk in chunks])
        self._running = False

    def _gather(self) -> list[Chunk]:
        """
        Take the chunks of the next commit from the queue.
        """
        queue = self._queue
        first = queue.popleft()
        chunks = [first]
        rows, size = len(first.frames), first.size
        while queue:
            chunk = queue[0]
            rows += len(chunk.frames)
            size += chunk.size
            if (chunk.part is None) is not (first.part is None):
                break  # units have commits of their own
            if chunk.part is not None and chunk.part.group:
                pass  # the unit that was begun
            elif chunk.read is not None and chunk.read is chunks[-1].read:
                pass  # the read that was begun: no commit may have its later messages alone
            elif rows > MAX_BATCH_ROWS or size > MAX_BATCH_BYTES:
                break
            elif chunk.generation != first.generation:
                break  # its route may be another by now
            chunks.append(queue.popleft())
        return chunks

    def _without_paused(self, chunks: list[Chunk]) -> list[Chunk]:
        """
        Take the chunks out that have to wait, since their route or one before them is paused.

        @param chunks: those of the next commit.
        @return: those to be committed now. Where a peer has some of these, what of it has to wait
            is queued again; all that another peer has here leaves the lane.
        """
        spooler = self._context.spooler
        if spooler is not None and spooler.takes and not self._context.is_spread:
            return chunks  # it leads them
        holds = self._context.breakers.pauses.holds
        paused = {id(c.part.unit) for c in chunks if c.part is not None and holds(c.route)}
        ends = ends_of_reads(chunks, holds)
        begun: set[int] = set()
        waiting: set[int] = set()
        passing: list[Chunk] = []
        held: list[Chunk] = []
        for chunk in chunks:
            origin = id(chunk.origin)
            waits = holds(chunk.route) or (chunk.part is not None and id(chunk.part.unit) in paused)
            if chunk.read is not None and id(chunk.read) in ends:
                waits = waits or chunk.place(0) >= ends[id(chunk.read)]
            if origin in waiting or waits:
                waiting.add(origin)
                held.append(chunk)
            else:
                begun.add(origin)
                passing.append(chunk)
        if held:
            leaving = waiting - begun
            queue = [*held, *self._queue]
            away = [chunk for chunk in queue if id(chunk.origin) in leaving]
            self._queue = deque(chunk for chunk in queue if id(chunk.origin) not in leaving)
            self.load -= sum(len(chunk.frames) for chunk in away)
            self._context.hold(away)
        return passing

    async def _commit_apart(self, batches: Sequence[Batch]) -> None:
        """
        Commit batches side by side where they have neither a route nor a peer in common.
        """
        groups = _unrelated(batches)
        if len(groups) < 2:
            await self._commit_in_turn(batches)
            return
        work = [Deferred.fromCoroutine(self._commit_in_turn(group)) for group in groups]
        for _, result in await DeferredList(work, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()

    async def _commit_in_turn(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            await self._commit(batch)

    def _move_gathered(self) -> None:
        """
        Move peers that have nothing in the failing batch to other lanes.
        """
        self.since = -inf  # nobody new comes here
        bound = {id(chunk.origin) for chunk in self._gathered}
        free = [chunk for chunk in self._queue if id(chunk.origin) not in bound]
        if free:
            self._queue = deque(chunk for chunk in self._queue if id(chunk.origin) in bound)
            self.load -= sum(len(chunk.frames) for chunk in free)
            self._context.send_on(free)

    def _without(self, batch: Batch, faults: Faults) -> Batch | None:
        """
        Take the rows at fault out of a batch; return C{None} where nothing is left.
        """
        return batch.refuse(faults, dead_letter=batch.route in self._context.dead_letters)

    async def _commit(self, batch: Batch) -> None:
        """
        Commit or refuse every row of a batch.
        """
        spooler = self._context.spooler
        # What is to be committed, the next one last.
        left: list[Batch | None] = [batch]
        while left:
            whole = left.pop()
            if whole is None or (part := whole.without_void() if whole.numbered else whole) is None:
                continue
            if self._context.is_spread and spooler is not None and part.numbered:
                # Those without numbers may be spooled, the others may not.
                numbered, others = part.parted(part.streams)
                if numbered is not None and others is not None:
                    left += [others, numbered]
                    continue
            elif (
                spooler is not None
                and spooler.may_lead
                and (waiting := spooler.waiting_streams(part))
            ):
                # Nobody else waits for what their streams wait for.
                behind, others = part.parted(waiting)
                if behind is not None and others is not None:
                    left += [behind, others]
                    continue
            try:
                runs = await self._store(part)
            except FramesRefused as error:
                left.append(self._without(part, error.faults))
            except StreamsElsewhere as error:
                left.append(_without_streams(part, error))
            except RowError as error:
                # Refused at the end of its transaction, so that nobody could say which.
                if part.count > 1:
                    left += reversed(part.halves())
                else:
                    fault = row_refused(str(error), error.sqlstate)
                    left.append(self._without(part, [(0, fault)]))
            else:
                if runs[0][1] is STORED and len(runs) == 1:
                    part.settle(runs)  # the fate of nearly every batch
                else:
                    await self._settle(part, runs)

    async def _settle(self, batch: Batch, runs: Sequence[Run]) -> None:
        """
        Settle the rows of a batch, after refused ones are kept as dead letters.
        """
        fate = runs[0][1]
        if isinstance(fate, Outcome) and fate.word in (Word.TRY, Word.BYE):
            batch.fail(fate)
            return
        if batch.route in self._context.dead_letters and (faults := refused_rows(runs)):
            kept = await self._keep_dead_letters(batch, faults)
            if kept is not faults:
                # A stream has moved past what was refused in it, dead letter or not.
                runs = replaced(runs, [f for f in kept if batch.stream_of(f[0]) is None])
        batch.settle(runs)

    async def _keep_dead_letters(self, batch: Batch, faults: Faults) -> Faults:
        """
        Keep rows that the database refused as dead letters.

        @return: the outcomes to settle them with.
        """
        bad = batch.only([row for row, _ in faults])
        refusals = [
            Refusal(piece.chunk, piece.start, outcome, dead_letter=True, counts=False)
            for piece, (_, outcome) in zip(bad.slices, faults, strict=True)
        ]
        ((_, kept),) = await self._store(Batch(batch.route, [], refusals))
        if kept.word in (Word.TRY, Word.BYE):
            assert isinstance(kept, Outcome)
            return [(row, kept) for row, _ in faults]
        return faults

    async def _store(self, batch: Batch) -> Sequence[Run]:
        """
        Write a batch behind the lane's next fence, as often as needed.

        @return: the fates of the rows; one outcome for all where none is stored.
        @raise FramesRefused: rows are at fault; nothing is stored.
        @raise StreamsElsewhere: the marks of streams are elsewhere; nothing is stored.
        @raise RowError: some row is at fault; nothing is stored.
        """
        context, route = self._context, batch.route
        clock, breakers = context.clock, context.breakers
        spooler = context.spooler_of(batch.numbered) if batch.numbered else context.spooler
        started = clock.seconds()
        fence = self._fences[route]
        attempt: Attempt | None = None  # none before the first error, and mostly there is none
        while True:
            sure = attempt is None or attempt.known is Known.NOT_STORED
            if sure and (closed := breakers.answers.get(route)) is not None:
                return [(batch.count, closed)]
            if spooler is not None and spooler.may_lead and spooler.leads(batch):
                attempt = attempt or context.attempt(started, numbered=batch.numbered)
                outcome = await self._spool(batch, fence, attempt, "")
                if outcome is not None:
                    return [(batch.count, outcome)]
            try:
                if attempt is None:
                    written = await context.store.write(batch, fence, patient=spooler is None)
                else:
                    written = await self._write_again(batch, fence, attempt)
                self._fences[route] = fence.next
                runs = written.runs
                context.committed(batch, runs, started, attempt, by_earlier_try=written.before)
                return runs
            except RowError:
                raise
            except StoreError as error:
                trouble = error
            except Exception:
                if not sure:
                    context.counters[route].resolved[ABANDONED] += 1
                raise
            attempt = attempt or context.attempt(started, numbered=batch.numbered)
            step = context.note_failure(attempt, route, trouble)
            if attempt.failures == 1:
                self._move_gathered()
            if step is NextStep.CLOSE_ROUTE:
                assert isinstance(trouble, RouteError)
                breakers.trip(route, trouble)
                continue
            if step is NextStep.RENUMBER:
                fence = self._fences[route] = fence.next
                continue
            if step is NextStep.GIVE_BACK:
                return [(batch.count, _not_stored(trouble))]
            if step is NextStep.SPOOL:
                outcome = await self._spool(batch, fence, attempt, str(trouble))
                if outcome is not None:
                    return [(batch.count, outcome)]
            await deferLater(clock, retry_delay(attempt.failures))

    async def _write_again(self, batch: Batch, fence: Fence, attempt: Attempt) -> Written:
        """
        Write a batch after an error; where it may be stored already, or resolve that it is not.

        @raise StoreError: it still may be.
        """
        store = self._context.store
        patient = self._context.spooler_of(batch.numbered) is None
        blame = attempt.failures > 0 and attempt.blames(self._context.clock.seconds())
        try:
            return await store.write(batch, fence, patient=patient, blame=blame)
        except (FramesRefused, StreamsElsewhere, RowError):
            if attempt.known is Known.NOT_STORED:
                raise
            # What follows is not the same batch: the first try must never store it.
            written = await store.resolve(batch, fence)
            if written is None:
                self._fences[batch.route] = fence.next
                attempt.note_not_stored()
                self._context.counters[batch.route].resolved[NOT_STORED] += 1
                raise
            return written

    async def _spool(
        self, batch: Batch, fence: Fence, attempt: Attempt, reason: str
    ) -> Outcome | None:
        """
        Put a batch into the spool, with its fence where it may be stored.

        @param reason: why it is not stored at once.
        @return: the outcome of its rows; C{None} where it has to go into the store after all.
        """
        spooler = self._context.spooler
        assert spooler is not None
        sure = attempt.known is Known.NOT_STORED
        outcome: Outcome | None = QUEUED
        try:
            if not await spooler.keep(batch, None if sure else fence, reason):
                return None
        except SpoolUnknown:
            outcome = wording.STORING_FAILED
        except SpoolError as error:
            return try_later(Code.DOWN, str(error), RETRY_AFTER) if sure else None
        if not sure:
            self._context.counters[batch.route].resolved[SPOOLED] += 1
        if outcome is wording.STORING_FAILED or not sure:
            # If it is there, its fence is the spool's.
            self._fences.pop(batch.route, None)
        return outcome


def _unrelated(batches: Sequence[Batch]) -> Sequence[Sequence[Batch]]:
    """
    Group batches, keeping their order, so that groups have neither a route nor a peer in common.
    """
    groups: list[tuple[set[object], list[Batch]]] = []
    for batch in batches:
        pieces: list[Slice | Refusal] = [*batch.slices, *batch.refusals]
        common: set[object] = {batch.route, *(id(piece.chunk.origin) for piece in pieces)}
        group: list[Batch] = []
        rest = []
        for keys, members in groups:
            if keys.isdisjoint(common):
                rest.append((keys, members))
            else:
                common |= keys
                group += members
        groups = [*rest, (common, [*group, batch])]
    return [members for _, members in groups]


def _without_streams(batch: Batch, error: StreamsElsewhere) -> Batch | None:
    """
    Take out the rows of streams that are elsewhere; their peers are disconnected.
    """
    left: Batch | None = batch
    for move in batch.moves:
        stream_position = error.stream_positions.get(move.stream.name)
        if stream_position is not None and left is not None:
            left = left.settle_streams({move.stream.name}, stream_position.outcome(move))
    return left


def _not_stored(error: StoreError) -> Outcome:
    """
    Return the outcome of a batch that is certainly not stored.
    """
    if isinstance(error, TransientError):
        return wording.database_busy(error.sqlstate)
    return wording.DATABASE_AWAY
