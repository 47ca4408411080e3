"""
Service of the gateway: it starts the parts in order, and stops them in reverse.

Every fault that can be found at once is found before the reactor runs (data directory, embedded
server, ports), so that the process ends with one line and status 1. An unreachable database is no
such fault: the gateway stays up, tells its peers to try later, and reconnects by itself.
"""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from gateway.admin.sockets import AdminSockets
from gateway.commit.attempt import retry_delay
from gateway.commit.placed_writer import PlacedWriter
from gateway.commit.writer import Writer
from gateway.config.load import Limits
from gateway.daemon.backend import AnyPool
from gateway.daemon.embedded import DataDirectory, EmbeddedServer
from gateway.daemon.systemd import Systemd
from gateway.daemon.unit_pruning import UnitPruning
from gateway.listeners.build import Listeners
from gateway.logs.last_reason import LastReason
from gateway.logs.observer import LogObserver
from gateway.model import wording
from gateway.model.errors import EmbeddedError, SchemaNewer, StoreError
from gateway.model.route import HOME
from gateway.model.text import printable
from gateway.postgres.connect.dsn import public_dsn
from gateway.postgres.connect.notifications import Notifications
from gateway.postgres.queries.placed import PlacedQueries
from gateway.postgres.store.databases import Databases
from gateway.relay.store import RelayStore
from gateway.spool.leftover import Leftovers
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import Spool
from gateway.status.watch import Watch
from gateway.system.regular_file import is_there
from gateway.tls.registry import TlsRegistry
from gateway.web.service import HttpService

_GOODBYE: Final = 1.0
"""Seconds that peers have to take their last answers before they are cut off."""

_POLL: Final = 0.02

_LEAVING: Final = 0.1
"""Seconds between looks whether the last peer has left."""


_log: Final = Logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """
    Parts of the gateway that are started and stopped in order.

    @ivar spool: C{None} where messages are refused while the database is away.
    @ivar spooler: writes messages to the spool, and stores them from there.
    @ivar leftovers: spools of workers that are no more.
    @ivar notifications: connection for LISTEN.
    @ivar tls: of the listeners.
    @ivar watch: tells the status.
    @ivar http: shows it.
    @ivar admin: sockets of the console.
    @ivar systemd: is told when the gateway is ready, and when it stops.
    @ivar unit_pruning: forgets units that were remembered for long enough.
    """

    pool: AnyPool
    store: Databases
    writer: Writer | PlacedWriter
    queries: PlacedQueries
    listeners: Listeners
    spool: Spool | None
    spooler: OutageSpool | None
    leftovers: Leftovers
    notifications: Notifications
    tls: TlsRegistry
    watch: Watch
    http: HttpService
    admin: AdminSockets
    systemd: Systemd
    unit_pruning: UnitPruning


class GatewayService(Service):
    """
    Service of the whole gateway.
    """

    _log = Logger()

    def __init__(
        self,
        parts: Parts,
        *,
        clock: IReactorTime,
        data_directory: DataDirectory | None,
        embedded: EmbeddedServer | None,
        dsn: str,
        channels_dsn: str | None,
        drain_timeout: float,
        drain_delay: float,
        operator_warnings: Sequence[str],
        log_observer: LogObserver,
        end: Callable[[int], None],
        announces: bool = True,
    ) -> None:
        """
        @param data_directory: locked while the gateway runs; C{None} where it is not needed.
        @param embedded: C{None} where C{dsn} names a server.
        @param channels_dsn: connection string for LISTEN, if not C{dsn}.
        @param drain_timeout: seconds that a stop waits for chunks in flight.
        @param drain_delay: seconds for which a stop says that it drains before listeners close.
        @param operator_warnings: lines to log at the start.
        @param log_observer: of the process's log.
        @param end: ends the process with a status, where only the operator can help.
        @param announces: whether addresses and the database are logged; a worker's parent does.
        """
        self._clock = clock
        self._data_directory = data_directory
        self._embedded = embedded
        self._dsn = dsn
        self._channels_dsn = channels_dsn
        self._drain_timeout = drain_timeout
        self._drain_delay = drain_delay
        self._operator_warnings = operator_warnings
        self._log_observer = log_observer
        self._end = end
        self._announces = announces
        self._pool = parts.pool
        self._store = parts.store
        self._home = parts.store.stores[HOME]
        self._writer = parts.writer
        self._queries = parts.queries
        self._listeners = parts.listeners
        self._spool = parts.spool
        self._spooler = parts.spooler
        self._leftovers = parts.leftovers
        self._notifications = parts.notifications
        self._tls = parts.tls
        self._watch = parts.watch
        self._http = parts.http
        self._admin = parts.admin
        self._draining: Deferred[None] | None = None
        self._systemd = parts.systemd
        self._unit_pruning = parts.unit_pruning
        self._opening: Deferred[None] | None = None
        self._reopening: Deferred[None] | None = None
        self._are_unopened = False
        self._forced = False

    def privilegedStartService(self) -> None:
        # A second gateway should fail because of the shared directory, not because of a port.
        # Creating the directory is left to the user that twistd --uid names.
        if self._data_directory is not None and is_there(self._data_directory.path):
            self._lock()
        self._listen()

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._lock()
        self._listen()
        self._admin.listen()
        if self._spool is not None:
            try:
                self._spool.open()
            except EmbeddedError as error:
                raise ended(error) from None
        dsn = self._dsn
        if isinstance(self._home, RelayStore):
            self._home.start(0 if self._spool is None else self._spool.messages)
        elif self._embedded is not None:
            dsn = start_embedded(self._embedded, self._clock)
        elif self._announces:
            log_database(dsn)
        for caution in self._operator_warnings:
            self._log.warn("{caution}", event="configuration-warning", caution=caution)
        self._pool.start(dsn)
        self._store.start()
        self._queries.start(dsn)
        own = self._channels_dsn
        self._notifications.start(dsn if own is None else own)
        if self._spool is not None:
            self._spool.start()
        if self._spooler is not None:
            self._spooler.start()
        self._leftovers.start()
        for listener in self._listeners if self._announces else ():
            self._log.info(
                "{_line}",
                event="listening",
                listener=listener.factory.listener,
                address=listener.address,
                _line=listener.line,
            )
        self._http.log_address()
        self._admin.log_addresses()
        self._tls.start()
        self._watch.start()
        self._systemd.start()
        self._opening = Deferred.fromCoroutine(self._open())
        self._opening.addErrback(self._not_opened)

    def force(self) -> None:
        """
        Stop without further waiting.
        """
        self._forced = True

    def drain(self) -> None:
        """
        Accept no more connections, and end when the last peer has left.
        """
        if self._draining is None and self.running:
            self._draining = Deferred.fromCoroutine(self._drain())
            self._draining.addErrback(
                lambda failure: self._log.failure(
                    "draining failed", failure, event="draining-failed"
                )
            )

    def setServiceParent(self, parent: Any) -> None:
        offer_observer(self._log_observer, parent)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def begin_log_file(self) -> None:
        """Begin a new log file."""
        begin_log_file(self._log_observer)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _lock(self) -> None:
        if self._data_directory is not None:
            try:
                self._data_directory.lock()
            except EmbeddedError as error:
                raise ended(error) from None

    def _listen(self) -> None:
        for listener in self._listeners:
            listener.listen()
        self._http.listen()

    @property
    def is_stopping(self) -> bool:
        """Whether the gateway stops, or is drained for that."""
        return not self.running or self._draining is not None

    def replace_limits(self, limits: Limits) -> None:
        """
        Replace the limits of a stop.
        """
        self._drain_timeout = limits.drain_timeout
        if not self.is_stopping:
            self._drain_delay = limits.drain_delay

    def open_routes(self) -> None:
        """
        Open the routes that are not open after a reload, with back-off until it succeeds.
        """
        self._are_unopened = True
        if self._reopening is None or self._reopening.called:
            self._reopening = Deferred.fromCoroutine(self._reopen())
            self._reopening.addErrback(self._not_opened)

    async def _reopen(self) -> None:
        while self._are_unopened:
            self._are_unopened = False
            await self._open_all()

    async def _open(self) -> None:
        """
        Open all routes, and begin to clean up behind gateways of before.
        """
        if not await self._open_all():
            return
        if self._watch.state == "starting":  # else it is drained already
            self._watch.state = "ready"
        self._log.info("gateway ready", event="ready")
        self._unit_pruning.start()
        # Objects that exist now stay; the garbage collector need not visit them again.
        gc.collect()
        gc.freeze()
        with suppress(StoreError):
            for weakness in await self._store.durability():
                self._log.warn(
                    "database: {weakness}", event="database-not-durable", weakness=weakness
                )
            if not self._leftovers and (self._spool is None or not self._spool.messages):
                # Records in the spool may need one of those lanes.
                await self._store.close_abandoned_lanes()

    async def _open_all(self) -> bool:
        """
        Open all routes, with back-off until it succeeds; return C{False} where it never will.
        """
        attempt = 0
        logged = LastReason()
        while True:
            try:
                await self._store.open_all()
            except SchemaNewer as error:
                self._log.critical(
                    "gateway: not started: {reason}", event="not-started", reason=str(error)
                )
                self._end(1)
                return False
            except StoreError as error:
                attempt += 1
                if logged.note(str(error)):
                    self._log.warn("not ready yet: {reason}", event="not-ready", reason=logged.text)
                await deferLater(self._clock, retry_delay(attempt))
            else:
                return True

    def _not_opened(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("opening the routes failed", event="opening-failed", failure=failure)

    async def _drain(self) -> None:
        self._log.info(
            "draining: the gateway ends when the last peer has left", event="draining-until-left"
        )
        self._watch.state = "draining"
        await self._within(self._drain_delay, lambda: not self.running)
        self._drain_delay = 0.0  # it is over
        for listener in self._listeners:
            await listener.stop_listening()
        while self.running:
            if self._nobody():
                self._end(0)
                return
            await deferLater(self._clock, _LEAVING)

    async def _stop(self) -> None:
        """
        Stop accepting, answer what is in flight, then close spool and connections.
        """
        self._watch.state = "draining"
        self._systemd.begin_stop()
        peers = sum(len(listener.factory.peers) for listener in self._listeners)
        if self._drain_delay:
            self._log.info(
                "draining: listeners close in {delay:g} s",
                event="draining",
                delay=self._drain_delay,
            )
            await self._within(self._drain_delay, lambda: False)
        self._tls.stop()
        for listener in self._listeners:
            await listener.stop_listening()
        for listener in self._listeners.with_closing:
            listener.factory.close_all(wording.STOPPING)
        self._writer.give_back_held()
        drained = await self._within(self._drain_timeout, lambda: not self._writer.in_flight)
        if not drained:
            self._log.warn(
                "stopping with {count} chunks unanswered after {timeout} s",
                event="drain-timeout",
                count=self._writer.in_flight,
                timeout=self._drain_timeout,
            )
        await self._within(_GOODBYE, self._nobody)
        for listener in self._listeners.with_closing:
            for peer in list(listener.factory.peers):
                peer.abort()
            listener.factory.end_log()
        self._writer.slow_commits.end()
        self._notifications.stop()
        self._unit_pruning.stop()
        for opening in (self._opening, self._reopening):
            if opening is not None:
                opening.cancel()
        if self._spooler is not None:
            self._spooler.begin_stop()
        self._leftovers.begin_stop()
        if drained and self._pool.size:
            closing = Deferred.fromCoroutine(self._store.close_lanes(self._writer.lanes))
            closing.addErrback(lambda failure: failure.trap(StoreError))
            # Where it fails or takes too long, some rows of a few bytes stay behind.
            await self._within(_GOODBYE, lambda: closing.called)
        for close in (self._queries.close, self._store.close, self._pool.close):
            try:
                close()
            except Exception:  # noqa: BLE001 - what follows has to be closed all the same
                self._log.failure(
                    "closing a connection to the database failed", event="close-failed"
                )
        if self._spooler is not None:
            await self._spooler.stop()
        await self._leftovers.stop()
        if self._spool is not None:
            await self._spool.close()
        if isinstance(self._home, RelayStore):
            self._home.close()
        await self._admin.stop()
        self._watch.stop()
        if self._embedded is not None:
            await self._embedded.stop(self._clock)
        if self._data_directory is not None:
            self._data_directory.unlock()
        self._log_summary(peers)
        await self._http.stop()
        self._systemd.stop()

    def _log_summary(self, peers: int) -> None:
        """
        Log one line that says what the gateway did since its start.

        @param peers: how many were connected when the stop began.
        """
        status = self._watch.status()
        answers = Counter[str]()
        for listener in status.listeners:
            answers.update(listener.answers)
        seconds = status.time - status.started
        self._log.info(
            "stopped after {_duration}: {messages} messages, {refused} refused, {spooled} spooled"
            " ({left} left in the spool), {peers} peers disconnected",
            event="stopped",
            seconds=round(seconds, 3),
            messages=sum(listener.messages for listener in status.listeners),
            refused=sum(n for answer, n in answers.items() if answer.startswith("-REJ")),
            spooled=0 if status.spool is None else status.spool.kept,
            left=0 if status.spool is None else status.spool.messages,
            peers=peers,
            _duration=timedelta(seconds=round(seconds)),
        )

    def _nobody(self) -> bool:
        return not any(listener.factory.peers for listener in self._listeners.with_closing)

    async def _within(self, seconds: float, done: Callable[[], bool]) -> bool:
        until = self._clock.seconds() + seconds
        while not done():
            if self._forced or self._clock.seconds() >= until:
                return False
            await deferLater(self._clock, _POLL)
        return True


def ended(error: EmbeddedError) -> SystemExit:
    """Return an exit with one line, even if names of folders have control characters."""
    return SystemExit(f"gateway: {printable(str(error))}")


def start_embedded(embedded: EmbeddedServer, clock: IReactorTime) -> str:
    """
    Start the embedded server, or find it running, and watch it; return its connection string.

    @raise SystemExit: with one line, where it cannot be started.
    """
    try:
        started = embedded.start()
    except EmbeddedError as error:
        raise ended(error) from None
    embedded.watch(clock)
    _log.info(
        "database: embedded PostgreSQL in {data}, {_found}",
        event="database-embedded",
        data=embedded.data,
        was_running=not started,
        _found="started" if started else "found running",
    )
    _log.info("database: open it with: {psql}", event="database-psql", psql=embedded.psql)
    return embedded.dsn


def log_database(dsn: str) -> None:
    """Log where the database is, without secrets, and how to open it."""
    public = public_dsn(dsn)
    _log.info(
        "database: {where}",
        event="database-address",
        where=public or "as the PG* variables say",
    )
    _log.info(
        "database: open it with: {psql}",
        event="database-psql",
        psql=f"psql {shlex.quote(public)}" if public else "psql",
    )


def offer_observer(log_observer: LogObserver, parent: object) -> None:
    """Have twistd use our observer, which it takes from its application."""
    if isinstance(parent, Componentized) and log_observer.output is not None:
        parent.setComponent(ILogObserver, log_observer)


def begin_log_file(log_observer: LogObserver) -> None:
    """Begin a new log file."""
    if not log_observer.reopen():
        _log.warn(
            "SIGUSR1 begins a new log file, and this gateway has none: twistd --logfile",
            event="no-log-file",
        )


class Signalled(Protocol):
    """
    Service that signals are for.
    """

    def force(self) -> None:
        """Stop without further waiting."""

    def begin_log_file(self) -> None:
        """Begin a new log file."""


def on_signals(reactor: Any, service: Signalled, reload: Callable[[], object]) -> None:
    """
    Install signal handlers: SIGTERM and SIGINT stop the reactor, a second one skips the wait for
    answers; SIGHUP reloads.

    With Twisted's own handlers, twistd ends by sending itself the signal again, so that an orderly
    stop would look like a crash to its supervisor. SIGUSR1 begins a new log file, as with twistd's
    own log.
    """

    signals = count(1)

    def stop(number: int, frame: object) -> None:
        reactor.callFromThread(reactor.stop if next(signals) == 1 else service.force)

    def again(number: int, frame: object) -> None:
        reactor.callFromThread(reload)

    def begin_file(number: int, frame: object) -> None:
        reactor.callFromThread(service.begin_log_file)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    # The reactor installs its own when it starts, but none for these two, which would end the
    # process until then; what is asked for meanwhile waits for the reactor.
    signal.signal(signal.SIGHUP, again)
    signal.signal(signal.SIGUSR1, begin_file)
    reactor.callWhenRunning(install)


def stop(reactor: Any) -> None:
    """Stop the reactor, unless it stops already."""
    with suppress(ReactorNotRunning):
        reactor.stop()


def end_process(reactor: Any, status: int) -> None:
    """
    Stop the reactor, and end the process with a status.

    twistd itself always ends with status 0 once the reactor has run; so the status is set in an
    exit handler, after twistd's own clean-up.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    reactor.stop()
