"""
Writer: chooses the lane of each peer's chunks.

A peer stays on its lane while it has work in flight, so its messages commit in
the order it sent them. The commit itself is L{gateway.commit.lane}'s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final
from uuid import uuid4

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.commit.attempt import Attempt, Known, NextStep
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.lane import Lane
from gateway.commit.pauses import HeldChunks
from gateway.commit.slow_commit_log import SlowCommitLog
from gateway.logs.last_reason import LastReason
from gateway.metrics.counters import ABANDONED, NOT_STORED, STORED, WRITTEN_AGAIN, RouteCounters
from gateway.model import wording
from gateway.model.batch import Batch, Chunk, Origin
from gateway.model.errors import OutcomeUnknown, StoreError
from gateway.model.grouping import Group, GroupedRead, in_runs, placed
from gateway.model.outcome import Outcome, Run, Word
from gateway.model.store import Spooler, Store
from gateway.model.stream import Stream
from gateway.model.unit import OnUnitSettled, Unit, UnitPart

FILL: Final = 256
"""Rows queued on a lane at which other peers prefer the next lane."""

MESSAGE: Final = 128
"""Bytes that a message in flight counts for beside its payload: its object, and maybe a tag."""

SLOW_BATCH_SECONDS: Final = 0.01
"""Seconds after which a batch in flight counts as slow, and new peers choose another lane."""

_LOAD: Final = attrgetter("load")

UNIT_MESSAGE: Final = 1024
"""The same for a message of a unit, which may be large: what reading it takes is there at once."""

OnSettled = Callable[[object, list[Run]], None]
"""Called with a submission's token and the fates of its messages, in order."""


class PeerSource:
    """
    Source of one peer's messages: it keeps to one lane while anything of it is in flight.
    """

    __slots__ = ("_answered", "_in_flight", "_lane", "_origin", "_writer")

    def __init__(self, writer: Writer, origin: Origin, answered: OnSettled) -> None:
        self._writer = writer
        self._origin = origin
        self._answered = answered
        self._lane: Lane | HeldChunks | None = None
        self._in_flight = 0

    def submit(
        self,
        route: str,
        frames: list[bytes],
        token: object,
        stream: Stream | None = None,
        first: int = 0,
        refusal: Outcome | None = None,
    ) -> None:
        """
        Submit messages to be stored.

        @param frames: one or more messages, in the order they were sent.
        @param token: passed to the callback with their fates, maybe before this returns.
        @param stream: that they are numbered in, from C{first} on.
        @param refusal: why they are not stored and only use their numbers up.
        """
        writer = self._writer
        chunk = Chunk(
            *(route, frames, self._origin, writer.wall_clock(), self._settled, token),
            *(stream, first, refusal, writer.generation),
        )
        lane = self._lane
        if lane is None:
            lane = self._lane = writer.choose_lane()
            writer.sources[id(self._origin)] = self
        self._in_flight += 1
        writer.in_flight += 1
        # Counted here and not by calls, which would cost more than the sum.
        limit = writer.inflight_limit
        limit.used += chunk.size + MESSAGE * len(frames)
        if limit.used > limit.room:
            limit.exceeded()
        lane.queue(chunk)

    def submit_groups(
        self,
        groups: Sequence[Group],
        token: object,
        stream: Stream | None = None,
        first: int = 0,
    ) -> None:
        """
        Submit messages of one read that was cut by routes; they are stored in their order.

        The callback is called once, with a L{GroupedRead} of the token and the fates of all
        messages, in order.

        @param groups: one or more, of one route each.
        @param token: of the L{GroupedRead}.
        @param stream: that all of them are numbered in, from C{first} on.
        """
        writer = self._writer
        groups = placed(groups)
        pauses = writer.breakers.pauses
        spooler = writer.spooler
        waits = pauses.on and any(pauses.holds(group.route) for group in groups)
        if waits and not (spooler is not None and spooler.takes):
            groups = in_runs(groups)  # what came before the first that waits need not wait
        read = GroupedRead(token, groups)
        if stream is not None:
            stream.note_submitted(first, sum([len(group.frames) for group in groups]))
        now = writer.wall_clock()
        chunks = [
            Chunk(
                *(group.route, group.frames, self._origin, now, self._settled_group, number),
                *(stream, first, group.refusal, writer.generation, group.places, read),
            )
            for number, group in enumerate(groups)
        ]
        self._submit_all(chunks, MESSAGE)

    @property
    def in_flight(self) -> int:
        """Number of chunks that are submitted and not yet settled."""
        return self._in_flight

    def submit_unit(
        self, groups: Sequence[Group], settled: OnUnitSettled, key: str | None = None
    ) -> None:
        """
        Submit messages that are stored together or not at all.

        @param groups: one or more.
        @param settled: called with the fates of all messages, maybe before this returns.
        @param key: see L{gateway.model.unit.unit_key}.
        """
        writer = self._writer
        groups = placed(groups)
        unit = Unit([group.places for group in groups], settled, key, writer.dead_letters)
        now = writer.wall_clock()
        chunks = []
        for number, group in enumerate(groups):
            chunk = Chunk(
                *(group.route, group.frames, self._origin, now, self._settled_group),
                refusal=group.refusal,
                generation=writer.generation,
                places=group.places,
            )
            chunk.part = UnitPart(unit, number)
            chunks.append(chunk)
        self._submit_all(chunks, UNIT_MESSAGE)

    def _submit_all(self, chunks: Sequence[Chunk], message: int) -> None:
        """
        Submit chunks that are committed together.

        @param message: bytes that each of their messages counts for beside its payload.
        """
        writer = self._writer
        limit = writer.inflight_limit
        for chunk in chunks:
            limit.used += chunk.size + message * len(chunk.frames)
        lane = self._lane
        if lane is None:
            lane = self._lane = writer.choose_lane()
            writer.sources[id(self._origin)] = self
        self._in_flight += len(chunks)
        writer.in_flight += len(chunks)
        if limit.used > limit.room:
            limit.exceeded()
        lane.add(chunks)
        lane.begin()

    def _settled(self, chunk: Chunk, runs: list[Run]) -> None:
        writer = self._writer
        self._in_flight -= 1
        if not self._in_flight:
            self._lane = None
            del writer.sources[id(self._origin)]
        self._answered(chunk.token, runs)
        limit = writer.inflight_limit
        limit.used -= chunk.size + MESSAGE * len(chunk.frames)
        writer.in_flight -= 1
        if limit.full:
            limit.eased()

    def _settled_group(self, chunk: Chunk, runs: list[Run]) -> None:
        writer = self._writer
        self._in_flight -= 1
        if not self._in_flight:
            self._lane = None
            del writer.sources[id(self._origin)]
        message = MESSAGE
        if chunk.part is not None:
            message = UNIT_MESSAGE
            chunk.part.unit.settle(chunk.part.group, runs)
        elif chunk.read is not None:
            assert isinstance(chunk.token, int)
            fates = chunk.read.fates.settle(chunk.token, runs)
            if fates is not None:
                self._answered(chunk.read, fates)
        limit = writer.inflight_limit
        limit.used -= chunk.size + message * len(chunk.frames)
        writer.in_flight -= 1
        if limit.full:
            limit.eased()

    def send_on(self, chunks: Sequence[Chunk]) -> Lane:
        """
        Move all that is in flight to another lane.

        @return: the lane; the caller has to begin it.
        """
        lane = self._lane = self._writer.choose_lane()
        lane.add(chunks)
        return lane

    def wait(self, held: HeldChunks) -> None:
        """Have what the peer sends from now on wait behind what is held of it."""
        self._lane = held
        self._writer.sources[id(self._origin)] = self


class Writer:
    """
    Writer of all messages: the lanes of the gateway, and the state that they share.

    @ivar sources: sources with messages in flight, by the C{id} of their origin.
    @ivar in_flight: chunks that are submitted and not yet answered.
    @ivar counters: route -> counters of its batches.
    @ivar slow_commits: log of commits that take long.
    @ivar dead_letters: routes whose refused messages are kept.
    @ivar is_spread: whether streams are over several databases.
    @ivar generation: number of the configuration in force, from 1; L{Chunk.generation}.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        lanes: int,
        inflight_limit: InflightLimit,
        wall_clock: Callable[[], float],
        breakers: CircuitBreakers,
        spooler: Spooler | None = None,
        dead_letters: frozenset[str] = frozenset(),
        answer_timeout: float = 5.0,
        new_id: Callable[[], str] = lambda: str(uuid4()),
        *,
        counters: defaultdict[str, RouteCounters] | None = None,
        slow_commits: SlowCommitLog | None = None,
        is_spread: bool = False,
    ) -> None:
        """
        @param clock: monotonic; for waiting before a retry.
        @param lanes: how many batches may be in flight at once, at least one.
        @param wall_clock: seconds since the epoch, for C{@received_at}.
        @param spooler: the spool for batches while the store is away; C{None}: their peers
            are told to try later.
        @param dead_letters: routes whose refused messages are kept.
        @param answer_timeout: seconds after which a batch whose reply was lost goes into the spool
            too.
        @param new_id: makes up UUIDs of lanes.
        @param counters: those of several writers.
        @param slow_commits: that of several writers.
        @param is_spread: whether streams are over several databases: then no numbered message is
            spooled, since what is behind it may be stored in another database meanwhile.
        """
        self.is_spread = is_spread
        self.store = store
        self.clock = clock
        self.wall_clock = wall_clock
        self.breakers = breakers
        self.spooler = spooler
        self.dead_letters = dead_letters
        self.answer_timeout = answer_timeout
        self.new_id = new_id
        self.sources: dict[int, PeerSource] = {}
        self.in_flight = 0
        self.generation = 1
        self.counters = (
            defaultdict[str, RouteCounters](RouteCounters) if counters is None else counters
        )
        self.slow_commits = slow_commits or SlowCommitLog(clock)
        self.inflight_limit = inflight_limit
        self._failing = defaultdict[str, LastReason](LastReason)
        self._held = HeldChunks()
        self._gives_back = False
        breakers.pauses.on_change(self._pauses_changed)
        self._lanes = [Lane(self) for _ in range(lanes)]

    def source(self, origin: Origin, answered: OnSettled) -> PeerSource:
        """
        Make the source of a new peer.
        """
        return PeerSource(self, origin, answered)

    @property
    def lanes(self) -> Sequence[str]:
        """The lanes' UUIDs."""
        return [id for lane in self._lanes for id in lane.ids]

    def loads(self) -> list[tuple[int, float]]:
        """
        Return, for each lane, the rows queued and in flight, and the age of the batch in flight.

        The age is in seconds, and 0 where no batch is in flight.
        """
        now = self.clock.seconds()
        return [
            (lane.load, max(0.0, now - lane.begun) if lane.load else 0.0) for lane in self._lanes
        ]

    # Pauses.

    def held(self) -> Mapping[str, int]:
        """Return how many messages wait since routes are paused, by route."""
        return self._held.counts()

    def under_way(self, route: str | None) -> Callable[[], bool]:
        """
        Return a function that says whether commits that are under way now still are.

        @param route: that they are of; C{None}: any.
        """
        begun = [
            (lane, lane.under_way)
            for lane in self._lanes
            if any(route is None or chunk.route == route for chunk in lane.under_way)
        ]
        return lambda: any(lane.under_way is chunks for lane, chunks in begun)

    def give_back_held(self) -> None:
        """
        Tell the peers of all messages that wait for a paused route to send them again.

        From now on nothing waits any more: the gateway stops.
        """
        self._gives_back = True
        self.hold(self._held.take())

    def _pauses_changed(self) -> None:
        # What is still paused comes back.
        self.send_on(self._held.take())

    # Reloads.

    def begin_generation(self, routes: Collection[str], dead_letters: frozenset[str]) -> int:
        """
        Note that messages read from now on are for other definitions of routes.

        @param routes: those that were changed or removed; what was logged of them is forgotten.
        @param dead_letters: all routes whose refused messages are kept.
        @return: the oldest generation of which messages are in flight; of the new one if there are
            none.
        """
        self.generation += 1
        self.dead_letters = dead_letters
        for route in routes:
            self._failing.pop(route, None)
        chunks = chain(self._held.chunks, *(lane.chunks for lane in self._lanes))
        return min((chunk.generation for chunk in chunks), default=self.generation)

    # Called by PeerSource and Lane.

    def hold(self, chunks: Sequence[Chunk]) -> None:
        if not self._gives_back:
            for chunk in chunks:
                self.sources[id(chunk.origin)].wait(self._held)
            self._held.add(chunks)
            return
        for chunk in chunks:
            # A stream's later messages are void as soon as one is given back.
            batch = Batch.of([chunk]).without_void()
            if batch is not None:
                batch.fail(wording.ROUTE_PAUSED)

    def choose_lane(self) -> Lane:
        """
        Return the lane for a peer with nothing in flight.

        The first one that has room in its next batch: few large commits cost the
        database less than many small ones. But none whose commit takes long: others
        must not wait behind a lock or a dead connection.
        """
        late = self.clock.seconds() - SLOW_BATCH_SECONDS
        for lane in self._lanes:
            load = lane.load
            if not load or (load < FILL and lane.since > late):
                return lane
        return min(self._lanes, key=_LOAD)

    def send_on(self, chunks: Sequence[Chunk]) -> None:
        chunks_of: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            chunks_of.setdefault(id(chunk.origin), []).append(chunk)
        # A commit may settle at once and let peers submit more, which must come behind all this.
        for lane in [self.sources[origin].send_on(theirs) for origin, theirs in chunks_of.items()]:
            lane.begin()

    def attempt(self, started: float, *, numbered: bool) -> Attempt:
        return Attempt(started, self.answer_timeout, self.spooler_of(numbered) is not None)

    def spooler_of(self, numbered: bool) -> Spooler | None:
        return None if numbered and self.is_spread else self.spooler

    def note_failure(
        self, attempt: Attempt, route: str, error: StoreError, others: Sequence[str] = ()
    ) -> NextStep:
        before = attempt.known
        step = attempt.next_step(error, self.clock.seconds())
        for name in (route, *others):
            self._count_failure(self.counters[name], before, attempt.known, error)
            if step is NextStep.ABANDON:
                self.counters[name].resolved[ABANDONED] += 1
        if attempt.late and self.spooler is None:
            self._note_failure(route, error)
        if step is NextStep.ABANDON:
            raise AssertionError("the fate of a batch was open for too long")
        return step

    def _count_failure(
        self, counters: RouteCounters, before: Known, now: Known, error: StoreError
    ) -> None:
        if isinstance(error, OutcomeUnknown):
            counters.unknown += 1
            counters.doubtful += before is Known.NOT_STORED
        elif before is Known.UNKNOWN and now is Known.NOT_STORED:
            counters.resolved[NOT_STORED] += 1

    def _note_failure(self, route: str, error: StoreError) -> None:
        """
        Log one line when a route's batches fail, or fail for another reason.
        """
        text = str(error)
        if self._failing[route].note(text):
            self._log.warn(
                "route {route}: peers are told to try later: {reason}",
                event="route-failing",
                route=route,
                reason=text,
            )

    def committed(
        self,
        batch: Batch,
        runs: Sequence[Run],
        started: float,
        attempt: Attempt | None,
        *,
        by_earlier_try: bool,
    ) -> None:
        route, seconds = batch.route, self.clock.seconds() - started
        counters = self.counters[route]
        # Counted here, at three calls for each batch less.
        count = batch.count
        if len(runs) == 1 and runs[0][1].word is Word.OK:
            counters.rows += count
        else:
            counters.rows += sum([n for n, fate in runs if fate.word is Word.OK])
        counters.commits += 1
        histogram = counters.commit_seconds
        histogram.counts[bisect_left(histogram.bounds, seconds)] += 1
        histogram.total += seconds
        histogram = counters.batch_rows
        histogram.counts[bisect_left(histogram.bounds, count)] += 1
        histogram.total += count
        if batch.refusals:
            counters.dead_letters += len(batch.dead_letters)
        if attempt is not None and attempt.known is Known.UNKNOWN:
            counters.resolved[STORED if by_earlier_try else WRITTEN_AGAIN] += 1
        if self._failing or self.breakers.failing:
            self._note_success(route)
        if seconds > self.slow_commits.limit:
            self.slow_commits.note(route, batch.count, seconds)

    def _note_success(self, route: str) -> None:
        self.breakers.stored(route)
        if self._failing.pop(route, None) is not None:
            self._log.info("route {route}: storing again", event="route-storing", route=route)

    def bug(self, failure: Failure) -> None:
        self._log.failure(
            "a lane failed; its peers are disconnected", event="lane-failed", failure=failure
        )
