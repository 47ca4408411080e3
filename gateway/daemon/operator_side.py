"""
Operator's side of a gateway of several processes: its console, health, metrics and status page.

The parent has the sockets, as a gateway of one process has them; what they show is asked of the
workers, and what they change is carried out there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.admin.console import Console, Controls
from gateway.admin.grammar import Request
from gateway.admin.sockets import AdminSockets
from gateway.admin.workers import StandingOrders, WorkerOperations, WorkerPeers
from gateway.config.load import Config
from gateway.status.source import certificates_of
from gateway.status.workers import PeerLimits, WorkerLife, WorkersWatch
from gateway.tls.registry import TlsRegistry
from gateway.web.service import HttpService
from gateway.workers.dispatch import Dispatch
from gateway.workers.processes import Processes


class WorkersAsSeen:
    """
    Workers as the operator's side sees them.
    """

    def __init__(self, processes: Callable[[], Processes], clock: IReactorTime) -> None:
        self._processes = processes
        self._clock = clock

    def lives(self) -> Sequence[WorkerLife]:
        """Return what is known of each, in the order of their numbers."""
        ahead = time.time() - self._clock.seconds()
        return [
            WorkerLife(
                worker.number,
                worker.pid,
                None if worker.pid is None else worker.since + ahead,
                worker.restarts,
                worker.last_end,
                is_serving=worker.state == "serving",
            )
            for _, worker in sorted(self._processes().workers.items())
        ]

    def ask(self, number: int, name: str, payload: bytes) -> Deferred[bytes]:
        """
        Ask a worker.

        @raise ChannelError: it is away, or ended before it answered.
        """
        return self._processes().ask(number, name, payload)


class OperatorSide:
    """
    The operator's sockets, and what is behind them.

    @ivar watch: status of all workers.
    """

    _log = Logger()

    def __init__(
        self,
        config: Callable[[], Config],
        data_dir: Path,
        reactor: Any,
        tls: TlsRegistry,
        workers: WorkersAsSeen,
        dispatch: Dispatch,
        controls: Controls,
        set_level: Callable[[str], None],
        remarks: Sequence[str],
    ) -> None:
        """
        @param config: returns the configuration in force.
        @param set_level: sets the lowest level of the parent's log.
        @param remarks: lines about the configuration, for the warnings.
        """

        def limits() -> PeerLimits:
            own = {
                name: listener.max_connections
                for name, listener in config().listeners.items()
                if listener.max_connections
            }
            return PeerLimits(int(dispatch.limit.most), own)

        self.watch = WorkersWatch(
            *(workers, reactor, time.time, remarks, limits),
            certificates=lambda: certificates_of(tls),
        )
        self._operations = WorkerOperations(workers, reactor, set_level)
        self._given: dict[int, StandingOrders] = {}
        peers = WorkerPeers(workers, reactor)
        console = Console(self.watch, config, controls, self._operations, peers)
        section = config()
        self._http = HttpService(section.http, self.watch, tls, reactor)
        self._admin = AdminSockets(section.admin, data_dir, console, reactor)

    # The sockets.

    def listen_http(self) -> None:
        """Open the site's port; do nothing if it is open."""
        self._http.listen()

    def listen(self) -> None:
        """Open the console's sockets."""
        self._admin.listen()

    def start(self) -> None:
        """Log where they are, and begin to look at the workers."""
        self._http.log_address()
        self._admin.log_addresses()
        self.watch.start()

    def begin_stop(self) -> None:
        """Tell that the gateway stops."""
        self.watch.state = "draining"

    def reload(self, config: Config, remarks: Sequence[str]) -> None:
        """
        Apply a new configuration.

        @param remarks: lines about it, for the warnings.
        """
        self._http.reload(config)
        self._operations.forget_level()
        self.watch.remarks = remarks

    async def stop(self) -> None:
        """Close the console."""
        await self._admin.stop()
        self.watch.stop()

    async def stop_http(self) -> None:
        """Close the site, as the last thing of all."""
        await self._http.stop()

    # For workers that are started.

    def orders(self, number: int) -> Sequence[Request]:
        """Return what a worker has to be told with its configuration."""
        standing = self._given[number] = self._operations.standing
        return standing.requests()

    def welcome(self, number: int) -> None:
        """
        Tell a worker that serves from now on what was ordered while it started.

        What is sent to it afterwards, such as its first connection, comes behind that.
        """
        given = self._given.get(number, StandingOrders())
        Deferred.fromCoroutine(self._operations.welcome(number, given)).addErrback(
            lambda failure: self._log.failure(
                "worker {worker}: standing orders failed",
                failure,
                event="worker-orders-failed",
                worker=number,
            )
        )
