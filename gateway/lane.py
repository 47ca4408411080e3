"""
One lane: gather chunks, commit them, settle what became of them.

A lane is a logical writer with at most one batch in flight; while that commits,
the next one gathers. There is no timer: when little comes in, each chunk is
committed at once; under load batches grow by themselves until the database sets
the pace.

What a store cannot take is dealt with here:

 - rows at fault are refused alone, and kept as dead letters where the route says so.
 - an unknown outcome is resolved by writing the same batch with the same fence
   again; no answer is given before that, unless a spool takes over the batch
   together with its fence.
 - errors that pass are tried again for a while; then the spool takes the batch,
   or its peers are told to try later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.batch import MAX_BYTES, MAX_ROWS, Batch, Chunk, Fence
from gateway.company import BUG, OPEN_FOR, RETRY_FOR, Company, backoff
from gateway.errors import (
    OutcomeUnknown,
    RouteError,
    RowError,
    SpoolError,
    SpoolUnknown,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.faults import Faults, FramesRefused
from gateway.fences import Fences
from gateway.moves import have_moved, void_rows
from gateway.reply import (
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
from gateway.store import Written
from gateway.together import Together


class Lane:
    """
    A queue of chunks and the commit in flight.

    @ivar load: rows queued and in flight.
    @ivar since: when the batch in flight was begun, in seconds of the clock.
    """

    def __init__(self, company: Company) -> None:
        self.load = 0
        self.since = 0.0
        self._company = company
        self._queue: deque[Chunk] = deque()
        self._running = False
        self._fences = Fences(company.opened)
        self._together = Together(company, self._fences, self._without)

    @property
    def ids(self) -> Sequence[str]:
        """The UUIDs of its rows in C{gateway.lane}."""
        return self._fences.lanes

    def put(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self.load += len(chunk.frames)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run()).addErrback(self._company.bug)

    async def _run(self) -> None:
        while self._queue:
            chunks = self._gather()
            batches = Batch.by_route(chunks)
            rows = sum(batch.count for batch in batches)
            self.since = self._company.clock.seconds()
            try:
                if len(batches) > 1:
                    batches = Batch.in_order(await self._together.commit(batches), chunks)
                for batch in batches:
                    await self._commit(batch)
            except Exception:  # noqa: BLE001 - a bug must not leave peers waiting forever
                self._company.bug(Failure())
                for chunk in chunks:
                    # Whether it is committed is not known, so the fence is spoilt.
                    self._fences.renew(chunk.route)
                    chunk.abandon(BUG)
            self.load -= rows
        self._running = False

    def _gather(self) -> list[Chunk]:
        """
        What goes into the next commit.
        """
        queue = self._queue
        first = queue.popleft()
        chunks = [first]
        rows, size = len(first.frames), first.size
        while queue:
            chunk = queue[0]
            rows += len(chunk.frames)
            size += chunk.size
            if rows > MAX_ROWS or size > MAX_BYTES:
                break
            chunks.append(queue.popleft())
        return chunks

    async def _without(self, batch: Batch, faults: Faults) -> Batch | None:
        """
        @return: the batch without its rows at fault; C{None} where nothing is left.
        """
        return batch.refuse(await self._bury(batch, faults)) if faults else batch

    async def _commit(self, batch: Batch) -> None:
        """
        Bring every row of the batch to its end.
        """
        if void := void_rows(batch):
            remaining = batch.refuse(void)
            if remaining is None:
                return
            batch = remaining
        try:
            runs = await self._carry(batch, partial(self._company.store.write, batch))
        except FramesRefused as error:
            left = await self._without(batch, error.faults)
            if left is not None:
                await self._commit(left)
            return
        except RowError as error:
            # Refused at the end of its transaction, so that nobody could say which.
            if batch.count > 1:
                for half in batch.halves():
                    await self._commit(half)
            else:
                await self._without(batch, [(0, row_refused(str(error), error.sqlstate))])
            return
        if runs[0][1].word not in (Word.TRY, Word.BYE):
            have_moved(batch)
        faults = refused_rows(runs)
        if faults and (kept := await self._bury(batch, faults)) is not faults:
            runs = replaced(runs, kept)
        batch.settle(runs)

    async def _bury(self, batch: Batch, faults: Faults) -> Faults:
        """
        Keep the rows at fault as dead letters, if the route says so.

        @return: what to tell their peers.
        """
        company = self._company
        bad_rows = [(row, outcome) for row, outcome in faults if outcome.word is Word.REJ]
        if batch.route not in company.dead_letters or not bad_rows:
            return faults
        bad = batch.only([row for row, _ in bad_rows])
        outcomes = [outcome for _, outcome in bad_rows]
        ((_, kept),) = await self._carry(bad, partial(company.store.bury, bad, outcomes))
        if kept is STORED:
            return faults
        assert isinstance(kept, Outcome)
        return [(row, kept if outcome.word is Word.REJ else outcome) for row, outcome in faults]

    async def _carry(
        self, batch: Batch, write: Callable[[Fence], Awaitable[Written]]
    ) -> Sequence[Run]:
        """
        Write with the lane's next number, as often as it takes.

        @return: what became of the rows; for all of them alike where none is stored.
        @raise FramesRefused: rows are at fault; nothing is stored.
        @raise RowError: some row is at fault; nothing is stored.
        """
        company = self._company
        route = batch.route
        fence = self._fences.next(route)
        started = company.clock.seconds()
        attempt = 0
        unknown = late = full = False
        reason = ""
        while True:
            if not unknown and (closed := company.gates.answer(route)) is not None:
                return [(batch.count, closed)]
            if company.detour is not None and (late or company.detour.leads(route)):
                try:
                    if await company.detour.take(batch, fence if unknown else None, reason):
                        if unknown:
                            # The fence is the spool's now.
                            self._fences.renew(route)
                        return [(batch.count, QUEUED)]
                except SpoolUnknown:
                    # If it is there, its fence is the spool's.
                    self._fences.renew(route)
                    return [(batch.count, BUG)]
                except SpoolError as error:
                    full = True
                    if not unknown:
                        return [(batch.count, try_later(Code.DOWN, str(error), RETRY_AFTER))]
                late = False
            try:
                return self._written(route, fence, await write(fence))
            except (FramesRefused, RowError):
                if not unknown:
                    raise
                try:
                    written = await company.store.recall(batch, fence)
                except StoreError as error:
                    trouble: StoreError = error
                else:
                    if written is None:
                        raise
                    return self._written(route, fence, written)
            except OutcomeUnknown as error:
                unknown = True
                company.unknown += 1
                trouble = error
            except RouteError as error:
                if not unknown:
                    company.gates.close(route, error)
                    continue
                trouble = error
            except StoreError as error:
                trouble = error
            attempt += 1
            waited = company.clock.seconds() - started
            late = waited > RETRY_FOR or isinstance(trouble, Unavailable)
            if late and company.detour is None:
                company.troubled(route, trouble)
                if not unknown:
                    return [(batch.count, _not_stored(trouble))]
                if waited > OPEN_FOR:
                    raise AssertionError("the fate of a batch was open for too long")
            elif late and not full:
                reason = str(trouble)
                continue
            await deferLater(company.clock, backoff(attempt))

    def _written(self, route: str, fence: Fence, written: Written) -> Sequence[Run]:
        company = self._company
        if written.before:
            company.resolved += 1
        self._fences.moved(route, fence.number)
        company.well(route)
        return written.runs


def _not_stored(error: StoreError) -> Outcome:
    """
    @return: what to tell the peers of a batch that is certainly not stored.
    """
    if isinstance(error, TransientError):
        return try_later(Code.BUSY, "the database is busy", RETRY_AFTER, error.sqlstate)
    return try_later(Code.DOWN, "the database cannot be reached", RETRY_AFTER)
