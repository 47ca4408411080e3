"""
Protocol that reads a PROXY header and then replaces itself.

The public part of L{twisted.protocols.haproxy} is an endpoint, with which every connection must
have a header, not those of trusted proxies alone. Its wrapper also stays for the whole connection:
one more call for each read and each write. Here the peer's protocol takes over the transport, and
nothing stays between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from gateway.model.errors import HeaderError
from gateway.wire.proxy_header import Header, HeaderReader, ProxiedAddress

DEADLINE: Final = 10.0
"""Seconds for a header; section 2 wants at least 3, which cover a lost packet."""

LATE: Final = f"no PROXY header within {DEADLINE:g} s"


Reserve = Callable[[Any, ProxiedAddress | None], Deferred[str] | None]
"""
A transport, and the address in its header -> the limit of connections that it exceeds, C{""} for
none, when another process has said so; C{None}: nobody has to be asked.
"""


class ProxyHeader(Protocol):
    """
    Protocol that reads the header and gives its transport to the peer's protocol.
    """

    # The reactor's; it looks its protocol up for each event.
    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        build: Callable[[ProxiedAddress | None, str], IProtocol | None],
        refused: Callable[[str], None],
        over: Callable[[], None] = lambda: None,
        reserve: Reserve | None = None,
    ) -> None:
        """
        @param build: returns the protocol for the address in the header, and for the limit that
            C{reserve} says it exceeds; C{None} closes the connection. Without an address in it the
            transport's own counts.
        @param refused: called with the reason if there is no valid header.
        @param over: called once when the header is read or refused, before C{build}.
        @param reserve: counts the connection anew where another process does; C{None}: none does.
        """
        self._clock = clock
        self._build = build
        self._refused = refused
        self._over = over
        self._reserve = reserve
        self._lost = False
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
        reserved = None if self._reserve is None else self._reserve(self.transport, header.source)
        if reserved is None:
            self._hand_over(header)
            return
        self.transport.pauseProducing()
        reserved.addCallback(lambda refusal: self._resume(header, refusal))

    def _resume(self, header: Header, refusal: str) -> None:
        if not self._lost:
            self.transport.resumeProducing()
            self._hand_over(header, refusal)

    def _hand_over(self, header: Header, refusal: str = "") -> None:
        """Give the transport to the peer's protocol."""
        transport = self.transport
        inner = self._build(header.source, refusal)
        if inner is None:
            transport.abortConnection()
            return
        transport.protocol = inner
        inner.makeConnection(transport)
        if header.rest:
            inner.dataReceived(header.rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        # A health check of a proxy connects and sends nothing.
        if self._call is not None and self._reader.begun:
            self._refused("the connection ended inside its PROXY header")
        self._stop_waiting()

    def _late(self) -> None:
        self._refuse(LATE)

    def _refuse(self, reason: str) -> None:
        # Without an answer: the other end is no proxy, or none that would read it.
        self._stop_waiting()
        self._refused(reason)
        self.transport.abortConnection()

    def _stop_waiting(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            if call.active():
                call.cancel()
            self._over()
