"""
The way in for those who come through a proxy: read its header, then step aside.

Twisted has L{twisted.protocols.haproxy}, but what is public of it is an endpoint: every
connection must bring a header then, not those of trusted proxies alone. And its wrapper
stays for as long as the connection does, one more call for each read and each write.
Here the protocol for whoever the proxy named takes the transport over, and nothing of
this is left between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from gateway.model.errors import HeaderError
from gateway.wire.proxy_header import HeaderReader, ProxiedAddress

DEADLINE: Final = 10.0
"""Seconds for a header; section 2 wants at least 3, which cover a lost packet."""

LATE: Final = f"no PROXY header within {DEADLINE:g} s"


class ProxyHeader(Protocol):
    """
    Reads the header and gives its transport to the protocol that is built of it.
    """

    # The reactor's; it looks its protocol up for each event.
    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        build: Callable[[ProxiedAddress | None], IProtocol | None],
        refused: Callable[[str], None],
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """
        @param build: makes the protocol of whoever the proxy named; C{None} ends the
            connection. Without a source the transport's own address counts.
        @param refused: told why a connection brought no header.
        @param over: told once that the wait for the header is over, before C{build}.
        """
        self._clock = clock
        self._build = build
        self._refused = refused
        self._over = over
        self._reader = HeaderReader()
        self._call: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._call = self._clock.callLater(DEADLINE, self._late)

    def dataReceived(self, data: bytes) -> None:
        if self._call is None:
            return
        try:
            header = self._reader.receive(data)
        except HeaderError as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._stop_waiting()
        transport = self.transport
        inner = self._build(header.source)
        if inner is None:
            transport.abortConnection()
            return
        transport.protocol = inner
        inner.makeConnection(transport)
        if header.rest:
            inner.dataReceived(header.rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Proxies look whether somebody is there by connecting, and nothing more.
        if self._call is not None and self._reader.begun:
            self._refused("the connection ended inside its PROXY header")
        self._stop_waiting()

    def _late(self) -> None:
        self._refuse(LATE)

    def _refuse(self, reason: str) -> None:
        # Without a word: what connected is no proxy, or none that would read one.
        self._stop_waiting()
        self._refused(reason)
        self.transport.abortConnection()

    def _stop_waiting(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            if call.active():
                call.cancel()
            self._over()
