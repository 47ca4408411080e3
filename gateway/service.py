"""
The service: starts the parts in order, and stops them in the other.

Everything that can be found wrong at once is found before the reactor runs (the
data directory, the embedded server, the ports), so that the process ends with one
line and status 1. A database that cannot be reached is not of that kind: the
gateway stays up, tells its peers to try later, and goes on by itself.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from socket import socket
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.embedded import DataDirectory, EmbeddedServer
from gateway.errors import EmbeddedError, StoreError
from gateway.factory import PeerFactory, peer_name
from gateway.postgres.dsn import public_dsn
from gateway.postgres.pool import Pool
from gateway.postgres.store import PostgresStore
from gateway.writer import Writer, backoff

_GOODBYE: Final = 1.0
"""Seconds that peers have to take their last answers before they are cut off."""

_POLL: Final = 0.02

BACKLOG: Final = 4096
"""Peers that may wait to be accepted; the kernel's net.core.somaxconn caps it."""

_EXAMPLES: Final = {
    ("line", "plain"): r"hello\n",
    ("netstring", "plain"): "5:hello,",
    ("octet-counted", "plain"): "5 hello",
    ("line", "command"): r"PUT {route} hello\n",
    ("netstring", "command"): "8:PING you,",
    ("octet-counted", "command"): "8 PING you",
}


class ListenerService:
    """
    One listener: an endpoint, and a factory for those who connect to it.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, text: str, factory: PeerFactory, example: str
    ) -> None:
        """
        @param text: the endpoint as configured, for messages.
        @param example: what a peer may send, as a format of printf(1).
        """
        self.factory = factory
        self._endpoint = endpoint
        self._text = text
        self._example = example
        self._port: IListeningPort | None = None

    def listen(self) -> None:
        """
        Open the port; again is harmless.

        @raise SystemExit: with one line, where it cannot be opened.
        """
        if self._port is not None:
            return
        results: list[object] = []
        self._endpoint.listen(self.factory).addBoth(results.append)
        result = results[0] if results else None
        if isinstance(result, Failure):
            reason = result.value
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            raise SystemExit(
                f"gateway: listener {self.factory.listener!r} cannot listen on"
                f" {self._text!r}: {getattr(reason, 'strerror', None) or reason}"
            )
        assert IListeningPort.providedBy(result)
        self._port = result
        # Twisted asks for 50 where the endpoint does not say; the rest of a storm of
        # reconnecting peers would wait for a second or more each.
        listening = getattr(result, "socket", None)
        if isinstance(listening, socket) and "backlog=" not in self._text:
            listening.listen(BACKLOG)

    @property
    def line(self) -> str:
        """Where it listens, and one way to use it."""
        assert self._port is not None
        address: Any = self._port.getHost()
        name = getattr(address, "name", None)
        if name is not None:
            where = name.decode() if isinstance(name, bytes) else str(name)
            call = f"nc -N -U {shlex.quote(where)}"
        else:
            where = peer_name(address)
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
            call = f"nc -N {host} {address.port}"
        return (
            f"listener {self.factory.listener}: {self.factory.framing} frames on {where};"
            f" try: printf '{self._example}' | {call}"
        )

    async def stop_listening(self) -> None:
        if self._port is not None:
            await _maybe(self._port.stopListening())


async def _maybe(result: object) -> None:
    if isinstance(result, Deferred):
        await result


class GatewayService(Service):
    """
    The whole gateway.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        data_directory: DataDirectory | None,
        embedded: EmbeddedServer | None,
        dsn: str,
        pool: Pool,
        store: PostgresStore,
        writer: Writer,
        listeners: Sequence[ListenerService],
        drain_timeout: float,
    ) -> None:
        """
        @param data_directory: held while we run; C{None} where nothing is kept in one.
        @param embedded: C{None} where C{dsn} names a server.
        @param drain_timeout: seconds that a stop waits for answers in flight.
        """
        self._clock = clock
        self._data_directory = data_directory
        self._embedded = embedded
        self._dsn = dsn
        self._pool = pool
        self._store = store
        self._writer = writer
        self._listeners = listeners
        self._drain_timeout = drain_timeout
        self._opening: Deferred[None] | None = None
        self._forced = False

    def privilegedStartService(self) -> None:
        # A second gateway should hear of the directory it shares, not of a port.
        # Making the directory is left to the user that twistd --uid names.
        if self._data_directory is not None and self._data_directory.path.exists():
            self._lock()
        self._listen()

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._lock()
        self._listen()
        dsn = self._dsn
        if self._embedded is not None:
            dsn = self._start_embedded(self._embedded)
        else:
            public = public_dsn(dsn)
            self._log.info("database: {where}", where=public or "as the PG* variables say")
            self._log.info(
                "database: open it with: psql {dsn}", dsn=shlex.quote(public) if public else ""
            )
        self._pool.start(dsn)
        for listener in self._listeners:
            self._log.info("{line}", line=listener.line)
        self._opening = Deferred.fromCoroutine(self._open())
        self._opening.addErrback(self._not_opened)

    def force(self) -> None:
        """
        Wait for nothing more while stopping.
        """
        self._forced = True

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _lock(self) -> None:
        if self._data_directory is not None:
            try:
                self._data_directory.lock()
            except EmbeddedError as error:
                raise SystemExit(f"gateway: {error}") from None

    def _listen(self) -> None:
        for listener in self._listeners:
            listener.listen()

    def _start_embedded(self, embedded: EmbeddedServer) -> str:
        try:
            started = embedded.start()
        except EmbeddedError as error:
            raise SystemExit(f"gateway: {error}") from None
        embedded.watch(self._clock)
        self._log.info(
            "database: embedded PostgreSQL in {data}, {found}",
            data=embedded.data,
            found="started" if started else "found running",
        )
        self._log.info("database: open it with: {psql}", psql=embedded.psql)
        return embedded.dsn

    async def _open(self) -> None:
        """
        Open all routes, however long it takes.
        """
        attempt = 0
        said = ""
        while True:
            try:
                await self._store.open_all()
            except StoreError as error:
                attempt += 1
                if str(error) != said:
                    said = str(error)
                    self._log.warn("not ready yet: {reason}", reason=said)
                await deferLater(self._clock, backoff(attempt))
            else:
                self._log.info("gateway ready")
                return

    def _not_opened(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("opening the routes failed", failure=failure)

    async def _stop(self) -> None:
        """
        Stop accepting, answer what is in flight, then close what is behind.
        """
        for listener in self._listeners:
            await listener.stop_listening()
        for listener in self._listeners:
            for peer in list(listener.factory.peers):
                peer.drain()
        drained = await self._within(self._drain_timeout, lambda: not self._writer.in_flight)
        if not drained:
            self._log.warn(
                "stopping with {count} chunks unanswered after {timeout} s",
                count=self._writer.in_flight,
                timeout=self._drain_timeout,
            )
        await self._within(_GOODBYE, self._nobody)
        for listener in self._listeners:
            for peer in list(listener.factory.peers):
                peer.abort()
        if self._opening is not None:
            self._opening.cancel()
        if drained and self._pool.size:
            # Where that fails, a row of a few bytes stays behind.
            with suppress(StoreError):
                await self._store.close_lanes(self._writer.lanes)
        self._pool.close()
        if self._embedded is not None:
            await self._embedded.stop(self._clock)
        if self._data_directory is not None:
            self._data_directory.unlock()

    def _nobody(self) -> bool:
        return not any(listener.factory.peers for listener in self._listeners)

    async def _within(self, seconds: float, done: Callable[[], bool]) -> bool:
        until = self._clock.seconds() + seconds
        while not done():
            if self._forced or self._clock.seconds() >= until:
                return False
            await deferLater(self._clock, _POLL)
        return True


def stop_on_signals(reactor: Any, service: GatewayService) -> None:
    """
    SIGTERM and SIGINT stop the reactor, a second one does not wait for answers.

    Twisted's own handlers make twistd end itself with the signal again, so that
    an orderly stop would look like a crash to whoever started it.
    """

    signals = count(1)

    def stop(number: int, frame: object) -> None:
        reactor.callFromThread(reactor.stop if next(signals) == 1 else service.force)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    # The reactor installs its own when it starts.
    reactor.callWhenRunning(install)


def example(framing: str, dialect: str, route: str) -> str:
    """
    What a peer may send to a listener, as a format of printf(1).
    """
    return _EXAMPLES[framing, dialect].format(route=route)
