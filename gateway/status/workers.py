"""
Watch over several workers: asks each for its status once a second, and tells that of the whole.

Strategy: the last status of each worker is kept, so that showing one costs the workers nothing; the
console, which can wait, asks them first. What a worker that ended has counted is carried on: its
successor's totals begin where the last status had them, and none ever goes down. What was counted
between that status and a sudden end is missing: some messages of a second at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.metrics.counters import LAGS, Histogram
from gateway.model.errors import GatewayError
from gateway.status.health import STOPS
from gateway.status.history import INTERVAL, History, Recent
from gateway.status.merge import merged, process_of, remains, resumed
from gateway.status.reactor_lag import ReactorLag
from gateway.status.source import gateway_version, process_status
from gateway.status.status import (
    CertificateStatus,
    MemoryStatus,
    State,
    Status,
    StreamsStatus,
    WorkerStatus,
    decoded,
)
from gateway.status.warnings import LATELY, totals_of, warnings_of_workers

STATUS: Final = "status"
"""Name of the question to a worker for its status; nothing is said with it."""

_ASK_EVERY: Final = 1.0
"""Seconds between two questions to each worker."""

PATIENCE: Final = 2.0
"""Seconds that whoever wants a fresh status waits for workers that do not answer."""

SILENT: Final = 10.0
"""Seconds without an answer after which a worker that is there counts as silent."""


class WorkerLife(NamedTuple):
    """
    What its parent knows of a worker.

    @ivar number: from 1 on; its successor has the same.
    @ivar pid: its process; C{None}: there is none now.
    @ivar started: when this process began, in seconds since 1970; C{None}: there is none now.
    @ivar restarts: processes that were started in place of one that ended.
    @ivar last_end: how the one before it ended; C{""}: there was none.
    @ivar is_serving: whether it gets connections.
    """

    number: int
    pid: int | None
    started: float | None
    restarts: int
    last_end: str
    is_serving: bool = True


class Workers(Protocol):
    """
    Workers, as their parent has them.
    """

    def lives(self) -> Sequence[WorkerLife]:
        """Return what is known of each, in the order of their numbers."""

    def ask(self, number: int, name: str, payload: bytes) -> Awaitable[bytes]:
        """
        Ask a worker.

        @param name: of the question; the worker knows what to do.
        @raise GatewayError: it is away, ended before it answered, or says why it does not.
        """


class PeerLimits(NamedTuple):
    """
    Limits of connections, which hold for all workers together.

    @ivar most: of all listeners.
    @ivar listeners: of those that have one of their own, by name.
    """

    most: int
    listeners: Mapping[str, int]


class _Reading(NamedTuple):
    """
    Last status of a worker.

    @ivar status: its totals go on from those of the workers before it.
    @ivar time: when it was read, by the clock.
    @ivar wall: likewise, in seconds since 1970.
    """

    pid: int | None
    status: Status
    time: float
    wall: float


class WorkersWatch:
    """
    Watch over several workers.

    @ivar history: totals of the last hour, as L{totals_of} names them.
    @ivar state: state of the whole gateway's life: C{ready} until it is drained.
    @ivar remarks: lines about the configuration, for its warnings.
    """

    _log = Logger()

    def __init__(
        self,
        workers: Workers,
        clock: IReactorTime,
        wall: Callable[[], float],
        remarks: Sequence[str],
        limits: Callable[[], PeerLimits],
        certificates: Callable[[], Sequence[CertificateStatus]],
    ) -> None:
        """
        @param wall: seconds since 1970.
        @param limits: returns the limits of connections in force.
        @param certificates: returns those of all listeners and of the site, which no worker has.
        """
        self.history = History()
        self.state: State = "ready"
        self.remarks = remarks
        self._workers = workers
        self._clock = clock
        self._wall = wall
        self._limits = limits
        self._certificates = certificates
        self._started = wall()
        self._version = gateway_version()
        self._readings: dict[int, _Reading] = {}
        self._before: dict[int, Status] = {}
        self._first_seen: dict[tuple[int, int | None], float] = {}
        self._lags = Histogram(LAGS)
        self._lag = ReactorLag(clock, self._lags)
        self._asking: set[WorkerLife] = set()
        self._calls: dict[Callable[[], None], IDelayedCall] = {}

    def start(self) -> None:
        """Begin to ask."""
        self._lag.start()
        self._ask_all()
        self._sample()

    def stop(self) -> None:
        """Stop asking."""
        self._lag.stop()
        for call in self._calls.values():
            if call.active():
                call.cancel()
        self._calls.clear()

    # For those who show it.

    def status(self) -> Status:
        """Return the status as it is known now: that of each worker is a second old at most."""
        status = self._whole()
        found = warnings_of_workers(
            status, self.recent(totals_of(status)).growth, self._lag.longest, self.remarks
        )
        return replace(status, warnings=found)

    async def fresh_status(self) -> Status:
        """Return the status now; of workers that do not answer soon, as it was known."""
        readings = [
            Deferred.fromCoroutine(self._read(life.number)).addErrback(self._not_read)
            for life in self._workers.lives()
            if life.pid is not None
        ]
        await DeferredList(readings).addTimeout(PATIENCE, self._clock)
        return self.status()

    def by_worker(self) -> Mapping[int, Status]:
        """Return the last status of each worker that is there."""
        found = {}
        for life in self._workers.lives():
            reading = self._readings.get(life.number)
            if reading is not None and life.pid is not None and reading.pid == life.pid:
                found[life.number] = reading.status
        return found

    def is_alive(self) -> bool:
        """
        Say whether each worker that serves told its status lately.

        One that starts may take its time, and its parent knows how much.
        """
        now = self._clock.seconds()
        for life in self._workers.lives():
            if life.pid is None or not life.is_serving:
                continue
            reading = self._readings.get(life.number)
            has_told = reading is not None and reading.pid == life.pid
            key = (life.number, life.pid)
            last = reading.time if has_told and reading else self._first_seen.setdefault(key, now)
            if now - last > SILENT:
                return False
        return True

    def recent(self, totals: Mapping[str, float]) -> Recent:
        """Return the growth of totals in the last minute; C{totals} are those now."""
        return self.history.recent(LATELY, self._clock.seconds(), totals)

    # What is known.

    def _whole(self) -> Status:
        statuses: dict[int, Status] = {}
        workers: list[WorkerStatus] = []
        starting: list[str] = []
        for life in self._workers.lives():
            number = life.number
            reading = self._readings.get(number)
            is_there = life.pid is not None
            if reading is None or (is_there and reading.pid != life.pid):
                starting.append(f"worker {number}: {'starting' if is_there else _away(life)}")
            if reading is None:
                workers.append(_worker(life, None, None))
            elif is_there and reading.pid == life.pid:
                statuses[number] = _numbered(reading.status, number)
                workers.append(_worker(life, reading, statuses[number]))
            else:
                # The reason is told here, since with it the spool's differs from all others.
                left = remains(reading.status, "starting" if is_there else _away(life))
                statuses[number] = replace(left, reasons=() if is_there else left.reasons)
                workers.append(_worker(life, None, statuses[number]))
        whole = merged(statuses, len(workers)) if statuses else _nothing(self._wall())
        own = process_status(self._lag.longest, self._lags)
        limits = self._limits()
        is_draining = self.state == "draining"
        reasons = [*whole.reasons, *starting]
        if is_draining:
            # All of them are drained then, and say so too.
            reasons = [STOPS, *(reason for reason in reasons if not reason.endswith(STOPS))]
        return replace(
            whole,
            version=self._version,
            state="draining" if is_draining else whole.state,
            is_taking=whole.is_taking and not is_draining,
            reasons=reasons,
            time=self._wall(),
            started=self._started,
            most_peers=limits.most,
            certificates=self._certificates(),
            listeners=[
                replace(listener, most_peers=limits.listeners.get(listener.name))
                for listener in whole.listeners
            ],
            process=process_of([own, *(status.process for status in statuses.values())]),
            workers=workers,
        )

    async def _read(self, number: int) -> None:
        """Ask a worker for its status; where it does not answer, its last one is kept."""
        try:
            status = decoded(await self._workers.ask(number, STATUS, b""))
        except GatewayError:
            return
        pid = status.process.pid
        known = self._readings.get(number)
        if known is not None and known.pid != pid:
            self._before[number] = known.status
        before = self._before.get(number)
        if before is not None:
            status = resumed(status, before)
        self._readings[number] = _Reading(pid, status, self._clock.seconds(), self._wall())

    async def _poll(self, life: WorkerLife) -> None:
        """Read, but ask nothing more of a worker that does not answer."""
        self._asking.add(life)
        try:
            await self._read(life.number)
        finally:
            self._asking.discard(life)

    def _not_read(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure(
                "a worker's status was not read", failure, event="worker-status-failed"
            )

    def _ask_all(self) -> None:
        now = self._clock.seconds()
        lives = [life for life in self._workers.lives() if life.pid is not None]
        keys = [(life.number, life.pid) for life in lives if life.is_serving]
        self._first_seen = {key: self._first_seen.get(key, now) for key in keys}
        for life in lives:
            if life not in self._asking:
                Deferred.fromCoroutine(self._poll(life)).addErrback(self._not_read)
        self._calls[self._ask_all] = self._clock.callLater(_ASK_EVERY, self._ask_all)

    def _sample(self) -> None:
        self._calls[self._sample] = self._clock.callLater(INTERVAL, self._sample)
        self.history.add(self._clock.seconds(), totals_of(self._whole()))


def _away(life: WorkerLife) -> str:
    return f"away: {life.last_end}" if life.last_end else "away"


def _numbered(status: Status, number: int) -> Status:
    return replace(status, lanes=[replace(lane, worker=number) for lane in status.lanes])


def _worker(life: WorkerLife, reading: _Reading | None, status: Status | None) -> WorkerStatus:
    """
    Return the status of a worker.

    @param reading: of this process; C{None}: it told nothing yet.
    @param status: of this process, or what remains of the one before it.
    """
    found = WorkerStatus(
        number=life.number,
        state="away" if life.pid is None else "starting",
        pid=life.pid,
        started=life.started,
        restarts=life.restarts,
        last_end=life.last_end,
    )
    if status is not None:
        found = replace(
            found,
            messages=sum(listener.messages for listener in status.listeners),
            rows=sum(route.rows for route in status.routes),
            spool=status.spool,
            left_spools=status.left_spools,
        )
    if status is None or reading is None:
        return found
    return replace(
        found,
        state=status.state,
        read=reading.wall,
        is_storing=status.is_storing,
        is_taking=status.is_taking,
        peers=status.peers,
        pools=status.pools,
        memory=status.memory,
        process=status.process,
    )


def _nothing(now: float) -> Status:
    """Return the status while no worker has told one."""
    return Status(
        version="",
        state="starting",
        is_storing=False,
        is_taking=False,
        reasons=(),
        time=now,
        started=now,
        warnings=(),
        peers=0,
        most_peers=0,
        listeners=(),
        routes=(),
        pools=(),
        lanes=(),
        spool=None,
        streams=StreamsStatus(open=0, waiting=0, claims=0, taken_over=0, gaps=0),
        queries=(),
        channels=(),
        certificates=(),
        memory=MemoryStatus(in_flight=0, kept=0, most=0, full=False),
        process=process_status(0.0, Histogram(LAGS)),
    )
