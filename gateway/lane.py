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

import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.batch import MAX_BYTES, MAX_ROWS, Batch, Chunk, Fence
from gateway.errors import (
    OutcomeUnknown,
    RouteError,
    SpoolError,
    SpoolUnknown,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.faults import Faults, FramesRefused
from gateway.gate import Gates
from gateway.reply import (
    QUEUED,
    RETRY_AFTER,
    STORED,
    Code,
    Outcome,
    Run,
    goodbye,
    refused_rows,
    replaced,
    try_later,
)
from gateway.store import Detour, Store, Written

RETRY_FOR: Final = 10.0
"""Seconds for which a batch is tried again after errors that pass."""

OPEN_FOR: Final = 86400.0
"""
Seconds after which a batch whose fate is open is given up, where no spool takes it:
the row its fence is in is not kept for ever.
"""

_BUG: Final = goodbye(Code.INTERNAL, "the gateway failed; whether this was stored is not known")


def backoff(attempt: int, jitter: Callable[[], float] = random.random) -> float:
    """
    Seconds to wait before the next attempt: full jitter, 50 ms doubling up to 2 s.

    @param attempt: how many attempts have failed, from 1.
    @param jitter: gives numbers in [0, 1).
    @see: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    ceiling: float = min(2.0, 0.05 * 2.0 ** min(attempt - 1, 10))
    return ceiling * jitter()


class Company(Protocol):
    """
    What the lanes of a writer share.

    @ivar detour: the spool; C{None} where messages are refused while the database is away.
    @ivar dead_letters: routes whose refused messages are kept.
    @ivar opened: told the UUID of each lane before it is used.
    @ivar unknown: how often a connection was lost with a batch in flight.
    @ivar resolved: how often the fence showed that such a batch had been committed.
    """

    clock: IReactorTime
    store: Store
    gates: Gates
    detour: Detour | None
    dead_letters: frozenset[str]
    opened: Callable[[str], None]
    unknown: int
    resolved: int

    def troubled(self, route: str, error: StoreError) -> None:
        """A route's batches cannot be stored just now."""

    def well(self, route: str) -> None:
        """A batch of this route was stored."""

    def bug(self, failure: Failure) -> None:
        """What nobody foresaw."""


class Lane:
    """
    One row of C{gateway.lane}: a queue of chunks and the batch in flight.

    @ivar id: the UUID of the row.
    @ivar load: rows queued and in flight.
    @ivar since: when the batch in flight was begun, in seconds of the clock.
    """

    id: str
    _number: int

    def __init__(self, company: Company) -> None:
        self.load = 0
        self.since = 0.0
        self._company = company
        self._queue: deque[Chunk] = deque()
        self._running = False
        self._renew()

    def put(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self.load += len(chunk.frames)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run()).addErrback(self._company.bug)

    async def _run(self) -> None:
        while self._queue:
            batch = self._gather()
            self.since = self._company.clock.seconds()
            try:
                await self._commit(batch)
            except Exception:  # noqa: BLE001 - a bug must not leave peers waiting forever
                self._company.bug(Failure())
                # Whether the batch committed is not known, so its number is spoilt.
                self._renew()
                batch.abandon(_BUG)
            self.load -= batch.count
        self._running = False

    def _renew(self) -> None:
        self.id = str(uuid4())
        self._number = 0
        self._company.opened(self.id)

    def _gather(self) -> Batch:
        """
        The next batch: chunks of the first one's route, no peer's order disturbed.
        """
        queue = self._queue
        first = queue.popleft()
        route = first.route
        chunks = [first]
        rows, size = len(first.frames), first.size
        kept: list[Chunk] = []
        # A peer's chunk for another route stays behind, and so does all it sent after that.
        behind: set[int] = set()
        while queue:
            chunk = queue[0]
            if rows + len(chunk.frames) > MAX_ROWS or size + chunk.size > MAX_BYTES:
                break
            queue.popleft()
            if chunk.route != route or (behind and id(chunk.origin) in behind):
                behind.add(id(chunk.origin))
                kept.append(chunk)
                continue
            chunks.append(chunk)
            rows += len(chunk.frames)
            size += chunk.size
        queue.extendleft(reversed(kept))
        return Batch.of(chunks)

    async def _commit(self, batch: Batch) -> None:
        """
        Bring every row of the batch to its end.
        """
        try:
            runs = await self._carry(batch, partial(self._company.store.write, batch))
        except FramesRefused as error:
            left = batch.refuse(await self._bury(batch, error.faults))
            if left is not None:
                await self._commit(left)
            return
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
        if batch.route not in company.dead_letters:
            return faults
        bad = batch.only([row for row, _ in faults])
        outcomes = [outcome for _, outcome in faults]
        ((_, kept),) = await self._carry(bad, partial(company.store.bury, bad, outcomes))
        if kept is STORED:
            return faults
        assert isinstance(kept, Outcome)
        return [(row, kept) for row, _ in faults]

    async def _carry(
        self, batch: Batch, write: Callable[[Fence], Awaitable[Written]]
    ) -> Sequence[Run]:
        """
        Write with the lane's next number, as often as it takes.

        @return: what became of the rows; for all of them alike where none is stored.
        @raise FramesRefused: rows are at fault; nothing is stored.
        """
        company = self._company
        route = batch.route
        fence = Fence(self.id, self._number + 1)
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
                            # The number is the spool's now, and so is the lane.
                            self._renew()
                        return [(batch.count, QUEUED)]
                except SpoolUnknown:
                    # If it is there, its number is the spool's.
                    self._renew()
                    return [(batch.count, _BUG)]
                except SpoolError as error:
                    full = True
                    if not unknown:
                        return [(batch.count, try_later(Code.DOWN, str(error), RETRY_AFTER))]
                late = False
            try:
                return self._written(route, await write(fence))
            except FramesRefused:
                if not unknown:
                    raise
                try:
                    written = await company.store.recall(batch, fence)
                except StoreError as error:
                    trouble: StoreError = error
                else:
                    if written is None:
                        raise
                    return self._written(route, written)
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

    def _written(self, route: str, written: Written) -> Sequence[Run]:
        company = self._company
        if written.before:
            company.resolved += 1
        self._number += 1
        company.well(route)
        return written.runs


def _not_stored(error: StoreError) -> Outcome:
    """
    @return: what to tell the peers of a batch that is certainly not stored.
    """
    if isinstance(error, TransientError):
        return try_later(Code.BUSY, "the database is busy", RETRY_AFTER, error.sqlstate)
    return try_later(Code.DOWN, "the database cannot be reached", RETRY_AFTER)
