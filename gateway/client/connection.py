"""
Connection of the Twisted client: a protocol, and an endpoint with a timeout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Port

from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    ISSLTransport,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from .secure import check_names


class ConnectionOwner(Port):
    """
    Callbacks of a connection.
    """

    def connection_made(self, connection: ClientConnection) -> None:
        """Take a usable connection; over TLS the other end is verified."""

    def data_received(self, data: bytes) -> None:
        """Take received bytes."""

    def connection_lost(self, connection: ClientConnection, reason: Failure) -> None:
        """Handle the loss of a connection."""


@implementer(IHandshakeListener)
class ClientConnection(Protocol):
    """
    Protocol of one connection.

    @ivar usable: whether it may be written to; over TLS only once the other end is verified.
    """

    transport: Any

    def __init__(self, owner: ConnectionOwner, clock: Any, handshake_timeout: float) -> None:
        """
        @param handshake_timeout: limit of the TLS handshake, in seconds.
        """
        self.usable = False
        self._owner = owner
        self._fault: Failure | None = None
        self._deadline = clock.callLater(handshake_timeout, self.abort)

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpKeepAlive(True)
            self.transport.setTcpNoDelay(True)
        if not ISSLTransport.providedBy(self.transport):
            self._begin()

    def handshakeCompleted(self) -> None:
        try:
            check_names(self.transport.getPeerCertificate())
        except ConnectionError:
            self._fault = Failure()
            self.abort()
        else:
            self._begin()

    def dataReceived(self, data: bytes) -> None:
        self._owner.data_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end_deadline()
        self.usable = False
        self._owner.connection_lost(self, self._fault or reason)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def abort(self) -> None:
        """Close at once, without waiting for the other end, which may be silent."""
        self.transport.abortConnection()

    def _begin(self) -> None:
        self._end_deadline()
        self.usable = True
        self._owner.connection_made(self)

    def _end_deadline(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()


@implementer(IProtocolFactory)
class ConnectionFactory:
    """
    Factory of connections.
    """

    noisy = False

    def __init__(self, build: Callable[[], ClientConnection]) -> None:
        self._build = build

    def doStart(self) -> None:
        """Do nothing; called by Twisted."""

    def doStop(self) -> None:
        """Do nothing; called by Twisted."""

    def buildProtocol(self, addr: object) -> ClientConnection:
        return self._build()


@implementer(IStreamClientEndpoint)
class WatchedEndpoint:
    """
    Endpoint with a timeout, which reports its failures to a callback.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: Any,
        timeout: float,
        failed: Callable[[Failure], None],
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = timeout
        self._failed = failed

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        attempt.addTimeout(self._timeout, self._clock, self._too_late)
        attempt.addErrback(self._tell)
        return attempt

    def _too_late(self, reason: object, timeout: float) -> object:
        raise ConnectTimeout(string=f"no connection within {timeout} seconds")

    def _tell(self, reason: Failure) -> Failure:
        self._failed(reason)
        return reason
