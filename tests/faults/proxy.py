"""
A proxy that does to a connection what networks do: drop, delay, slice, limit, reset.

It runs as a process of its own, so that it is no slower for what the tests do::

    python -m tests.faults.proxy unix:/run/postgresql/.s.PGSQL.5432
    python -m tests.faults.proxy tcp:127.0.0.1:5432

Commands for a direction, C{up} (to the server), C{down} (to the client) or C{both}::

    up pass             as it comes, the default
    up drop             swallow every byte
    up delay MS         each read is passed on so much later
    up slice N          at most N bytes a write, 1 ms apart
    up limit BYTES      at most so many a second

and for all connections::

    reset               RST, to both ends
    close               an orderly end, of both ends
    refuse              new connections get RST at once
    accept              no longer
    drop-reply-to TEXT  the next time a client has sent this, what the server answers is
                        swallowed, then the connection is reset: event dropped-reply
"""

from __future__ import annotations

import argparse
from collections import deque
from typing import Any, cast

import psycopg2
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols import portforward
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.faults.command import Commands, Program

_MOST = 256 * 1024  # bytes that a pipe keeps before it stops its source
_TICK = 0.02  # seconds between writes at a limited rate
_GAP = 0.001  # seconds between slices


class Fault:
    """
    What is done to one direction of all connections.
    """

    def __init__(self) -> None:
        self.set("pass")

    def set(self, kind: str, value: str = "0") -> None:
        """One fault at a time; the one before is over."""
        if kind not in ("pass", "drop", "delay", "slice", "limit"):
            raise ValueError(kind)
        number = int(value)
        self.drop = kind == "drop"
        self.delay = number / 1000 if kind == "delay" else 0.0  # seconds
        self.slice = number if kind == "slice" else 0  # bytes a write, 0 for all
        self.limit = number if kind == "limit" else 0  # bytes a second, 0 for all


@implementer(IPushProducer)
class Pipe:
    """
    One direction of one connection.
    """

    def __init__(self, fault: Fault, source: _End, sink: _End, reactor: Any) -> None:
        self._fault = fault
        self._source = source.transport
        self._sink = sink.transport
        self._reactor = reactor
        self._waiting: deque[tuple[float, memoryview]] = deque()
        self._size = 0
        self._blocked = False
        self._ended = False
        self._done = False
        self._timer: IDelayedCall | None = None
        self._sink.registerProducer(self, True)

    def put(self, data: bytes) -> None:
        if self._fault.drop:
            return
        self._waiting.append((self._reactor.seconds() + self._fault.delay, memoryview(data)))
        self._size += len(data)
        if self._size > _MOST:
            self._source.pauseProducing()
        self._pump()

    def end(self) -> None:
        """Nothing more will come; what waits is passed on first."""
        self._ended = True
        self._pump()

    def stop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def pauseProducing(self) -> None:
        self._blocked = True

    def resumeProducing(self) -> None:
        self._blocked = False
        self._pump()

    def stopProducing(self) -> None:
        self.stop()

    def _pump(self) -> None:
        if self._timer is not None and self._timer.active():
            return
        fault = self._fault
        while self._waiting and not self._blocked:
            due, data = self._waiting.popleft()
            early = due - self._reactor.seconds()
            if early > 0:
                self._waiting.appendleft((due, data))
                self._later(early)
                return
            most = fault.slice or len(data)
            if fault.limit:
                most = max(1, min(most, int(fault.limit * _TICK)))
            if most < len(data):
                self._waiting.appendleft((due, data[most:]))
            piece = bytes(data[:most])
            self._size -= len(piece)
            self._sink.write(piece)
            if fault.limit or fault.slice:
                self._later(len(piece) / fault.limit if fault.limit else _GAP)
                return
        if self._waiting or self._done:
            return
        if self._ended:
            self._done = True
            self._sink.unregisterProducer()
            self._sink.loseWriteConnection()
        else:
            self._source.resumeProducing()

    def _later(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._pump)


@implementer(IHalfCloseableProtocol)
class _End(portforward.Proxy):
    """
    Either end of a connection.

    @ivar out: where goes what this end says.
    """

    noisy = False
    transport: _Transport
    peer: _End | None
    out: Pipe | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.out is not None
        self.out.put(data)

    def readConnectionLost(self) -> None:
        if self.out is not None:
            self.out.end()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        We have said all that the other end had said.
        """

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.out is not None:
            self.out.stop()
        other, self.peer = self.peer, None
        if other is not None:
            if reason.check(ConnectionDone):
                other.transport.loseConnection()
            else:
                other.transport.abortConnection()


class _Transport(ITCPTransport, IConsumer, IPushProducer):
    """
    What the reactor's stream transports are.
    """


class _ToServer(_End, portforward.ProxyClient):
    """
    The end that we opened.
    """

    def connectionMade(self) -> None:
        client = self.peer
        assert isinstance(client, _ToClient)
        if not client.connected:
            self.peer = None
            self.transport.abortConnection()
            return
        client.setPeer(self)
        client.out = Pipe(client.factory.up, client, self, client.reactor)
        self.out = Pipe(client.factory.down, self, client, client.reactor)
        client.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        client = self.peer
        if isinstance(client, _ToClient) and client.unanswered:
            client.transport.abortConnection()
            client.factory.said("event dropped-reply")
            return
        super().dataReceived(data)


class _ToServerFactory(portforward.ProxyClientFactory):
    noisy = False
    protocol = _ToServer


class _ToClient(_End, portforward.ProxyServer):  # type: ignore[misc]  # two ideas of transport
    """
    The end that was opened to us.

    @ivar unanswered: whether the next reply is to be lost.
    """

    factory: Proxies
    reactor: Any
    unanswered = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._tail = b""

    def connectionMade(self) -> None:
        factory = self.factory
        if factory.refusing:
            self.transport.abortConnection()
            return
        factory.clients.add(self)
        self.transport.setTcpNoDelay(True)
        self.transport.pauseProducing()
        to_server = _ToServerFactory()
        to_server.setServer(self)  # type: ignore[no-untyped-call]
        kind, _, where = factory.to.partition(":")
        if kind == "unix":
            self.reactor.connectUNIX(where, to_server)
        else:
            host, _, port = where.rpartition(":")
            self.reactor.connectTCP(host, int(port), to_server)

    def dataReceived(self, data: bytes) -> None:
        pattern = self.factory.pattern
        if pattern:
            seen = self._tail + data
            self._tail = seen[-len(pattern) :]
            if pattern in seen:
                self.factory.pattern = b""
                self.unanswered = True
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.clients.discard(self)
        super().connectionLost(reason)


class Proxies(portforward.ProxyFactory):
    """
    All connections, and what is done to them.
    """

    noisy = False

    def __init__(self, to: str, reactor: Any) -> None:
        super().__init__(to, 0)
        self.to = to
        self.up = Fault()
        self.down = Fault()
        self.refusing = False
        self.pattern = b""
        self.clients: set[_ToClient] = set()
        self.said: Any = None
        self._reactor = reactor

    def buildProtocol(self, addr: object) -> _ToClient:
        client = _ToClient(self._reactor)
        client.factory = self
        return client

    def obey(self, words: list[str]) -> None:
        command, *rest = words
        if command in ("up", "both"):
            self.up.set(*rest)
        if command in ("down", "both"):
            self.down.set(*rest)
        elif command in ("refuse", "accept"):
            self.refusing = command == "refuse"
        elif command == "drop-reply-to":
            self.pattern = rest[0].encode()
        elif command in ("reset", "close"):
            for client in list(self.clients):
                if command == "reset":
                    client.transport.abortConnection()
                else:
                    client.transport.loseConnection()
        elif command != "up":
            raise ValueError(command)


class FaultProxy(Program):
    """
    A proxy in front of something that listens.
    """

    def __init__(self, to: str) -> None:
        """
        @param to: C{unix:PATH} or C{tcp:HOST:PORT}.
        """
        super().__init__("proxy", to)

    @classmethod
    def before_database(cls, dsn: str) -> FaultProxy:
        """A proxy in front of a database's server."""
        parts = psycopg2.extensions.parse_dsn(dsn)
        host, port = parts["host"], parts.get("port", "5432")
        if host.startswith("/"):
            return cls(f"unix:{host}/.s.PGSQL.{port}")
        return cls(f"tcp:{host}:{port}")

    def dsn(self, dsn: str) -> str:
        """The same database, through this proxy."""
        return psycopg2.extensions.make_dsn(dsn, host="127.0.0.1", port=self.port)


def main() -> None:
    from twisted.internet import reactor as global_reactor

    reactor = cast(Any, global_reactor)
    parser = argparse.ArgumentParser()
    parser.add_argument("to")
    proxies = Proxies(parser.parse_args().to, reactor)
    commands = Commands(proxies.obey, reactor.stop)
    proxies.said = commands.say
    StandardIO(commands)
    port = reactor.listenTCP(0, proxies, interface="127.0.0.1", backlog=1024)
    commands.say(f"port {port.getHost().port}")
    reactor.run()


if __name__ == "__main__":
    main()
