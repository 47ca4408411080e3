"""
Lanes: gather chunks, commit them, answer.

A lane is a logical writer: it has at most one batch in flight, and while that
commits the next one gathers. There is no timer: when little comes in, each chunk
is committed at once; under load batches grow by themselves until the database
sets the pace. A peer stays on its lane while it has work in flight, so its
messages commit in the order it sent them.

What a store cannot take is dealt with here, and only here:

 - rows at fault are refused alone. The store names them where it can; where the
   database only says that some row is bad, the batch is halved until the bad
   ones stand alone, O(k log n) statements for k bad of n.
 - an unknown outcome is resolved by writing the same batch with the same fence
   again; no answer is given before that.
 - errors that pass are tried again for a while, then the peer is told to.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.batch import MAX_BYTES, MAX_ROWS, Batch, Chunk, Fence, Origin
from gateway.errors import (
    OutcomeUnknown,
    RouteError,
    RowError,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.formats import FramesRefused
from gateway.pressure import Pressure
from gateway.reply import STORED, Code, Outcome, Run, goodbye, refused, try_later
from gateway.store import Store

RETRY_FOR: Final = 10.0
"""Seconds for which a batch is tried again after errors that pass, before its peers are told."""

RETRY_AFTER: Final = 1
"""Seconds we ask peers to wait before they send a message again."""


FILL: Final = 256
"""Rows queued on a lane at which other peers prefer the next lane."""

PROMPT: Final = 0.01
"""Seconds after which a batch in flight counts as slow, and new peers choose another lane."""

_LOAD: Final = attrgetter("load")

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


Answered = Callable[[object, list[Run]], None]
"""Called with a submission's token and the fates of its messages, in order."""


class Source:
    """
    One peer as the writer sees it: it keeps to one lane while anything of it is in flight.
    """

    __slots__ = ("_answered", "_in_flight", "_lane", "_origin", "_writer")

    def __init__(self, writer: Writer, origin: Origin, answered: Answered) -> None:
        self._writer = writer
        self._origin = origin
        self._answered = answered
        self._lane: _Lane | None = None
        self._in_flight = 0

    def submit(self, route: str, frames: list[bytes], token: object) -> None:
        """
        Have messages stored.

        @param frames: one or more messages, in the order they were sent.
        @param token: what the answer is given with, maybe before this returns.
        """
        writer = self._writer
        chunk = Chunk(route, frames, self._origin, writer.wall_clock(), self._settled, token)
        lane = self._lane
        if lane is None:
            lane = self._lane = writer.choose_lane()
        self._in_flight += 1
        writer.submitted(chunk)
        lane.put(chunk)

    def _settled(self, chunk: Chunk, runs: list[Run]) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._lane = None
        self._answered(chunk.token, runs)
        self._writer.settled(chunk)


class _Lane:
    """
    One row of C{gateway.lane}: a queue of chunks and the batch in flight.

    @ivar id: the UUID of the row.
    @ivar load: rows queued and in flight.
    @ivar since: when the batch in flight was begun, in seconds of the writer's clock.
    """

    id: str
    _number: int

    def __init__(self, writer: Writer) -> None:
        self._renew()
        self.load = 0
        self.since = 0.0
        self._writer = writer
        self._queue: deque[Chunk] = deque()
        self._running = False

    def put(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self.load += len(chunk.frames)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run()).addErrback(self._writer.bug)

    async def _run(self) -> None:
        while self._queue:
            batch = self._gather()
            self.since = self._writer.clock.seconds()
            try:
                await self._commit(batch)
            except Exception:  # noqa: BLE001 - a bug must not leave peers waiting forever
                self._writer.bug(Failure())
                # Whether the batch committed is not known, so its number is spoilt.
                self._renew()
                batch.abandon(_BUG)
            self.load -= batch.count
        self._running = False

    def _renew(self) -> None:
        self.id = str(uuid4())
        self._number = 0

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
        writer = self._writer
        fence = Fence(self.id, self._number + 1)
        unknown = False
        attempt = 0
        started = writer.clock.seconds()
        while True:
            try:
                if not await writer.store.write(batch, fence):
                    writer.resolved += 1
            except FramesRefused as error:
                if unknown:
                    # The columns' types changed while the fate of these rows was open.
                    raise
                left = batch.refuse(error.faults)
                if left is None:
                    return
                batch = left
                continue
            except RowError as error:
                # The statement got past the fence, so an earlier try did not commit.
                if batch.count == 1:
                    batch.settle(refused(_row_code(error), str(error), error.sqlstate))
                    return
                for half in batch.halves():
                    await self._commit(half)
                return
            except StoreError as error:
                attempt += 1
                late = writer.clock.seconds() - started > RETRY_FOR
                if isinstance(error, OutcomeUnknown):
                    unknown = True
                    writer.unknown += 1
                outcome = None if unknown else _not_stored(error, late)
                if outcome is not None or late:
                    writer.troubled(batch.route, error)
                if outcome is not None:
                    batch.settle(outcome)
                    return
                await writer.sleep(backoff(attempt))
                continue
            self._number += 1
            writer.well(batch.route)
            batch.settle(STORED)
            return


def _row_code(error: RowError) -> Code:
    # 22 is "data exception": the value itself; all else is a rule that it broke.
    return Code.DATA if error.sqlstate.startswith("22") else Code.CONSTRAINT


def _not_stored(error: StoreError, late: bool) -> Outcome | None:
    """
    @param late: whether the batch was tried for long enough.
    @return: what to tell the peers of a batch that is certainly not stored;
        C{None} to try again first.
    """
    if isinstance(error, RouteError):
        return try_later(
            Code.ROUTE, "out of service until its operator acts", RETRY_AFTER, error.sqlstate
        )
    if isinstance(error, Unavailable):
        return try_later(Code.DOWN, "the database cannot be reached", RETRY_AFTER)
    if late and isinstance(error, TransientError):
        return try_later(Code.BUSY, "the database is busy", RETRY_AFTER, error.sqlstate)
    return None


class Writer:
    """
    All lanes of the gateway.

    @ivar in_flight: chunks that are submitted and not yet answered.
    @ivar unknown: how often a connection was lost with a batch in flight.
    @ivar resolved: how often the fence showed that such a batch had been committed.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        lanes: int,
        pressure: Pressure,
        wall_clock: Callable[[], float],
    ) -> None:
        """
        @param clock: monotonic; for waiting before a retry.
        @param lanes: how many batches may be in flight at once, at least one.
        @param wall_clock: seconds since the epoch, for C{@received_at}.
        """
        self.store = store
        self.clock = clock
        self.wall_clock = wall_clock
        self.in_flight = 0
        self.unknown = 0
        self.resolved = 0
        self._pressure = pressure
        self._lanes = [_Lane(self) for _ in range(lanes)]
        self._troubled: dict[str, str] = {}

    def source(self, origin: Origin, answered: Answered) -> Source:
        """
        For a new peer.
        """
        return Source(self, origin, answered)

    @property
    def lanes(self) -> Sequence[str]:
        """The lanes' UUIDs."""
        return [lane.id for lane in self._lanes]

    # What follows is for Source and _Lane.

    def choose_lane(self) -> _Lane:
        """
        The lane for a peer with nothing in flight.

        The first one that has room in its next batch: few large commits cost the
        database less than many small ones. But none that is taking long: others
        must not wait behind a lock or a dead connection.
        """
        late = self.clock.seconds() - PROMPT
        for lane in self._lanes:
            load = lane.load
            if not load or (load < FILL and lane.since > late):
                return lane
        return min(self._lanes, key=_LOAD)

    def submitted(self, chunk: Chunk) -> None:
        self.in_flight += 1
        self._pressure.take(chunk.size)

    def settled(self, chunk: Chunk) -> None:
        self._pressure.give(chunk.size)
        self.in_flight -= 1

    async def sleep(self, seconds: float) -> None:
        await deferLater(self.clock, seconds)

    def troubled(self, route: str, error: StoreError) -> None:
        """
        Log one line when a route begins to fail or fails for another reason.
        """
        text = str(error)
        if self._troubled.get(route) != text:
            self._troubled[route] = text
            self._log.warn(
                "route {route}: peers are told to try later: {text}", route=route, text=text
            )

    def well(self, route: str) -> None:
        if self._troubled and self._troubled.pop(route, None) is not None:
            self._log.info("route {route}: storing again", route=route)

    def bug(self, failure: Failure) -> None:
        self._log.failure("a lane failed; its peers are let go", failure=failure)
