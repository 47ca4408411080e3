"""
Service of a gateway of several processes: the parent binds, accepts and passes connections on.

It holds the lock of the data directory and the embedded server, reads the configuration, counts
connections, and writes the log; everything else is the workers', each of which is a whole gateway
inside (L{gateway.daemon.worker}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.admin.grammar import Request
from gateway.config.load import EMBEDDED, Config, Limits
from gateway.daemon.configuration import Loaded
from gateway.daemon.embedded import DataDirectory, EmbeddedServer
from gateway.daemon.operator_side import OperatorSide
from gateway.daemon.service import (
    begin_log_file,
    ended,
    log_database,
    offer_observer,
    start_embedded,
)
from gateway.daemon.systemd import Systemd
from gateway.logs.observer import LogObserver
from gateway.model.errors import EmbeddedError
from gateway.model.text import printable
from gateway.status.status import State
from gateway.system.regular_file import is_there
from gateway.tls.registry import TlsRegistry
from gateway.workers.dispatch import Dispatch
from gateway.workers.lending import Lender
from gateway.workers.listeners import ParentListener, ParentListeners
from gateway.workers.processes import DRAIN, FORCE, Begun, Events, Processes, Worker
from gateway.workers.start import Configuration, Start, config_of_worker, contents_of, pack

_POLL: Final = 0.02

_LEAVING: Final = 0.1
"""Seconds between looks whether the last peer has left."""

_GOODBYE: Final = 10.0
"""Seconds that workers have beyond C{drain_timeout} before they are killed."""


class Parent:
    """
    Configuration in force, as the parent hands it to its workers.

    @ivar loaded: the configuration.
    @ivar dsn: connection string of the database; set at the start, where it is embedded.
    @ivar state: C{starting}, C{ready} or C{draining}.
    """

    def __init__(self, loaded: Loaded, workers: int, data_dir: Path, first_spool: Path) -> None:
        """
        @param workers: how many there are.
        @param first_spool: path of worker 1's spool.
        """
        self.loaded = loaded
        self.workers = workers
        self.data_dir = data_dir
        self.first_spool = first_spool
        self.dsn = loaded.config.database.dsn
        self.state: State = "starting"
        self.leftovers: Mapping[int, Sequence[Path]] = {}
        self._begun: dict[int, Loaded] = {}

    def configuration(
        self, number: int, loaded: Loaded, listeners: Iterable[ParentListener]
    ) -> tuple[Configuration, list[int]]:
        """
        Return a configuration for a worker, and the descriptors that go with it.
        """
        present = list(listeners)
        own = {one.name: one.datagram_socket for one in present if number == 1}
        sockets = {name: found for name, found in own.items() if found is not None}
        config = config_of_worker(loaded.config, number, self.workers, self.dsn, self.first_spool)
        configuration = Configuration(
            config,
            loaded.tokens,
            contents_of(loaded.contexts),
            {one.name: one.address for one in present},
            tuple(sockets),
        )
        return configuration, [found.fileno() for found in sockets.values()]

    def begun(
        self, number: int, listeners: ParentListeners, accepted: int, orders: Sequence[Request]
    ) -> Begun:
        """
        Return what a worker begins with.

        @param accepted: connections that all workers have had until now.
        @param orders: what the operator has said that holds for it too.
        """
        self._begun[number] = self.loaded
        configuration, descriptors = self.configuration(number, self.loaded, listeners)
        start = Start(
            number,
            self.workers,
            configuration,
            self.data_dir,
            self.leftovers.get(number, ()),
            self.state == "draining",
            accepted,
            orders,
        )
        return Begun(pack(start), descriptors)

    def is_current(self, number: int) -> bool:
        """Say whether a worker began with the configuration that is in force now."""
        return self._begun.get(number) is self.loaded


@dataclass(frozen=True, slots=True)
class ParentParts:
    """
    Parts of the parent.

    @ivar data_directory: locked while the gateway runs; C{None} where it is not needed.
    @ivar embedded: C{None} where the configuration names a server.
    @ivar tls: watches the files of certificates.
    @ivar lender: lends rates to the workers.
    """

    parent: Parent
    lender: Lender
    dispatch: Dispatch
    listeners: ParentListeners
    tls: TlsRegistry
    systemd: Systemd
    operator: OperatorSide
    log_observer: LogObserver
    data_directory: DataDirectory | None
    embedded: EmbeddedServer | None


class ParentService(Service):
    """
    Service of the parent.

    @ivar processes: the workers' processes.
    """

    _log = Logger()

    def __init__(
        self,
        parts: ParentParts,
        reactor: Any,
        operator_warnings: Sequence[str],
        end: Callable[[int], None],
        backoff: Callable[[int], float],
        arguments: Sequence[str] = (),
    ) -> None:
        """
        @param operator_warnings: lines to log at the start.
        @param end: ends the process with a status.
        @param backoff: failed starts of a worker -> seconds to wait.
        @param arguments: of the workers' command line.
        """
        self.parts = parts
        self._parent = parts.parent
        self._reactor = reactor
        self._operator_warnings = operator_warnings
        self._end = end
        limits = self._parent.loaded.config.limits
        self._drain_timeout, self._drain_delay = limits.drain_timeout, limits.drain_delay
        self._draining: Deferred[None] | None = None
        self._forced = False
        self._is_unusable = False
        self._started = reactor.seconds()
        parts.dispatch.on_filled(self._accept)
        self.processes = Processes(
            reactor,
            self._parent.workers,
            self._begun,
            Events(self._opened, self._serving, self._gone, self._unusable),
            backoff,
            lambda: parts.log_observer.output,
            arguments,
        )

    # Start.

    def privilegedStartService(self) -> None:
        # A second gateway should fail because of the shared directory, not because of a port.
        directory = self.parts.data_directory
        if directory is not None and is_there(directory.path):
            self._lock()
        self._listen()

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        parts = self.parts
        self._lock()
        self._listen()
        parts.operator.listen()
        if parts.embedded is not None:
            self._parent.dsn = start_embedded(parts.embedded, self._reactor)
        else:
            log_database(self._parent.dsn)
        for caution in self._operator_warnings:
            self._log.warn("{caution}", event="configuration-warning", caution=caution)
        parts.listeners.log_addresses()
        parts.operator.start()
        parts.tls.start()
        # Before the reactor runs no end of a process is noticed.
        self._reactor.callWhenRunning(self._start_processes)

    def setServiceParent(self, parent: Any) -> None:
        offer_observer(self.parts.log_observer, parent)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def _lock(self) -> None:
        if self.parts.data_directory is not None:
            try:
                self.parts.data_directory.lock()
            except EmbeddedError as error:
                raise ended(error) from None

    def _listen(self) -> None:
        self.parts.listeners.listen()
        self.parts.operator.listen_http()

    def _start_processes(self) -> None:
        if self.running:
            self.processes.start()

    # The workers.

    def _begun(self, number: int) -> Begun:
        parts = self.parts
        accepted, orders = parts.dispatch.accepted, parts.operator.orders(number)
        return self._parent.begun(number, parts.listeners, accepted, orders)

    def _opened(self, worker: Worker) -> None:
        self.parts.dispatch.opened(worker)
        assert worker.channel is not None
        self.parts.lender.serve(worker.channel)

    def _serving(self, worker: Worker) -> None:
        if not self._parent.is_current(worker.number):
            self.processes.kill(worker.number, "the configuration changed while it started")
            return
        self.parts.operator.welcome(worker.number)
        self.parts.dispatch.serving(worker)
        if self.is_stopping:
            return
        self._accept()
        serving = len(self.processes.serving())
        self._log.info(
            "worker {worker} (process {pid}) serves; {serving} of {workers} do",
            event="worker-serving",
            worker=worker.number,
            pid=worker.pid,
            serving=serving,
            workers=self._parent.workers,
        )
        if self._parent.state == "starting":
            self._parent.state = "ready"
            self.parts.systemd.start()

    def _gone(self, worker: Worker) -> None:
        if not self.processes.serving():
            self.parts.listeners.accept(False)
        self.parts.dispatch.gone(worker)

    def _accept(self) -> None:
        """Accept connections where there is a worker that takes them."""
        takes = not self.parts.dispatch.is_full and bool(self.processes.serving())
        self.parts.listeners.accept(takes)

    def _unusable(self, reason: str) -> None:
        if not self._is_unusable:
            self._is_unusable = True
            self._log.critical(
                "gateway: not started: {reason}", event="not-started", reason=printable(reason)
            )
            self._end(1)

    # Stop.

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

    def force(self) -> None:
        """
        Stop without further waiting.
        """
        self._forced = True
        self.processes.push(FORCE)

    def begin_log_file(self) -> None:
        """Begin a new log file."""
        begin_log_file(self.parts.log_observer)

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

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _drain(self) -> None:
        self._log.info(
            "draining: the gateway ends when the last peer has left", event="draining-until-left"
        )
        self._begin_drain()
        await self._within(self._drain_delay, lambda: not self.running)
        self._drain_delay = 0.0  # it is over
        await self.parts.listeners.close()
        while self.running:
            if not self.parts.dispatch.count:
                self._end(0)
                return
            await deferLater(self._reactor, _LEAVING)

    def _begin_drain(self) -> None:
        self._parent.state = "draining"
        self.parts.operator.begin_stop()
        self.processes.push(DRAIN)

    async def _stop(self) -> None:
        """
        Stop accepting, have the workers answer what is in flight, then end them.
        """
        parts = self.parts
        self._begin_drain()
        parts.systemd.begin_stop()
        peers = parts.dispatch.count
        if self._drain_delay:
            self._log.info(
                "draining: listeners close in {delay:g} s",
                event="draining",
                delay=self._drain_delay,
            )
            await self._within(self._drain_delay, lambda: False)
        parts.tls.stop()
        await parts.listeners.close()
        self.processes.begin_stop()
        stopped = self.processes.ended()
        if not await self._within(self._drain_timeout + _GOODBYE, lambda: stopped.called):
            # Forced, they still need a moment to end.
            await self._until(_GOODBYE, lambda: stopped.called)
            self.processes.kill_all()
        await stopped
        parts.dispatch.close()
        await parts.operator.stop()
        if parts.embedded is not None:
            await parts.embedded.stop(self._reactor)
        if parts.data_directory is not None:
            parts.data_directory.unlock()
        seconds = self._reactor.seconds() - self._started
        self._log.info(
            "all {workers} workers ended after {_duration}; {peers} connections were open",
            event="workers-stopped",
            workers=self._parent.workers,
            peers=peers,
            seconds=round(seconds, 3),
            _duration=timedelta(seconds=round(seconds)),
        )
        await parts.operator.stop_http()
        parts.systemd.stop()

    async def _within(self, seconds: float, done: Callable[[], bool]) -> bool:
        return await self._until(seconds, lambda: done() or self._forced) and done()

    async def _until(self, seconds: float, done: Callable[[], bool]) -> bool:
        until = self._reactor.seconds() + seconds
        while not done():
            if self._reactor.seconds() >= until:
                return False
            await deferLater(self._reactor, _POLL)
        return True


def status_line(parent: Parent, listeners: ParentListeners, dispatch: Dispatch) -> str:
    """Return the state of the parent as a line, for systemd."""
    counts = dispatch.counts()
    return (
        f"{parent.state}: {len(list(listeners))} listeners, {dispatch.count} peers,"
        f" {len(counts)} of {parent.workers} workers"
    )


def embedded_parts(
    config: Config, data_dir: Path
) -> tuple[DataDirectory | None, EmbeddedServer | None]:
    """Return the data directory and the server in it, where the configuration has them."""
    if config.database.dsn != EMBEDDED:
        return None, None
    return DataDirectory(data_dir), EmbeddedServer(data_dir)
