"""
Endpoint and port of a listener for datagrams, in the reactor's terms.

It takes the place of a stream endpoint in L{gateway.listeners.service}, so that listening,
reloading and stopping are the same for both.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet import defer
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReadDescriptor,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.listeners.admission import Admission
from gateway.listeners.datagrams import Address, DatagramReceiver
from gateway.system.datagram_socket import MAX_UDP, DatagramSocket, open_socket
from gateway.system.endpoint_arguments import EndpointArguments
from gateway.system.listening_reactor import ListenOptions

MAX_DATAGRAMS: Final = 1000
"""Datagrams read in one turn of the reactor, some two milliseconds."""

MAX_LAST: Final = 100_000
"""Datagrams read at the end, of those that the kernel has received already."""


@implementer(IStreamServerEndpoint)
class DatagramEndpoint:
    """
    Endpoint of a listener for datagrams.
    """

    def __init__(
        self, reactor: Any, text: str, endpoint: EndpointArguments, options: ListenOptions
    ) -> None:
        """
        @param text: the endpoint as configured.
        @param endpoint: its arguments.
        """
        self._reactor = reactor
        self._text = text
        self._endpoint = endpoint
        self._options = options

    def listen(self, protocolFactory: IProtocolFactory) -> defer.Deferred[IListeningPort]:
        """
        Open the socket and read it.

        @param protocolFactory: an L{Admission}.
        """
        assert isinstance(protocolFactory, Admission)
        return defer.execute(self._open, protocolFactory)

    def _open(self, admission: Admission) -> DatagramPort:
        try:
            opened = open_socket(self._reactor, self._text, self._endpoint, self._options)
        except OSError as error:
            raise CannotListenError(None, self._text, error) from None
        port = DatagramPort(self._reactor, opened, admission)
        asked = self._options.receive_buffer
        if asked is not None and opened.granted < asked:
            port.log_small_buffer(asked)
        port.startReading()
        return port


@implementer(IListeningPort, IReadDescriptor)
class DatagramPort:
    """
    Port that reads datagrams.

    @ivar has_sources: whether its senders have addresses.
    """

    _log = Logger()

    def __init__(self, reactor: Any, opened: DatagramSocket, admission: Admission) -> None:
        self._reactor = reactor
        self._opened = opened
        self._listener = admission.peers.listener
        self._receiver = DatagramReceiver(admission, reactor)
        self._wanted = False
        self._reading = False
        self._closed = False
        self.has_sources = opened.has_sources
        self._receiver.opened(self)

    def log_small_buffer(self, asked: int) -> None:
        """Log that the kernel gave a smaller buffer than the listener asks for."""
        self._log.warn(
            "listener {listener}: receive_buffer is {granted} bytes and not {asked}: raise the"
            " kernel's limit with sysctl net.core.rmem_max={asked}",
            event="receive-buffer-small",
            listener=self._listener,
            granted=self._opened.granted,
            asked=asked,
        )

    # IListeningPort.

    def startListening(self) -> None:
        """Do nothing: it listens from the start."""

    def stopListening(self) -> defer.Deferred[None]:
        """Take what the kernel has received, then close the socket."""
        if not self._closed:
            self._wanted = False
            self.update_reading()
            # What comes meanwhile is taken too, but not without an end.
            left = MAX_LAST
            while left > 0 and (count := self._read()):
                left -= count
            self._end()
        return defer.succeed(None)

    def getHost(self) -> IAddress:
        return self._opened.address

    def startReading(self) -> None:
        """Read; called too when the listener begins to accept."""
        self._wanted = True
        self.update_reading()

    def stopReading(self) -> None:
        """Leave what comes to the kernel's buffer."""
        self._wanted = False
        self.update_reading()

    # What the receiver needs.

    def update_reading(self) -> None:
        reads = self._wanted and not self._receiver.holds and not self._closed
        if reads is self._reading:
            return
        self._reading = reads
        if reads:
            self._reactor.addReader(self)
        else:
            self._reactor.removeReader(self)

    def take_drops(self) -> int:
        return self._opened.take_drops()

    # IReadDescriptor.

    def logPrefix(self) -> str:
        """Name of the port in the reactor's log lines."""
        return f"listener {self._listener}"

    def fileno(self) -> int:
        return self._opened.socket.fileno()

    def doRead(self) -> None:
        """Read the datagrams that are there, but no more than a turn's worth."""
        self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by the reactor where it stops: nothing more can be read."""
        if not self._closed:
            self._end()

    def _read(self) -> int:
        """
        Read datagrams and pass them on.

        @return: how many; at most L{MAX_DATAGRAMS}.
        """
        receiver = self._receiver
        size = receiver.max_datagram + 1
        datagrams: list[bytes] = []
        addresses: list[Address] = []
        append = datagrams.append
        try:
            if self.has_sources:
                size = min(size, MAX_UDP)
            if self.has_sources and receiver.needs_sources:
                receive_from, note = self._opened.socket.recvfrom, addresses.append
                for _ in range(MAX_DATAGRAMS):
                    datagram, address = receive_from(size)
                    append(datagram)
                    note(address)
            else:
                receive = self._opened.socket.recv
                for _ in range(MAX_DATAGRAMS):
                    append(receive(size))
        except BlockingIOError:
            pass  # all are read
        except OSError as error:
            self._log.warn(
                "listener {listener}: reading datagrams: {reason}",
                event="datagrams-unread",
                listener=self._listener,
                reason=error.strerror or str(error),
            )
        if datagrams:
            try:
                receiver.receive(datagrams, addresses)
            except Exception:  # noqa: BLE001 - a bug must not close the port for all senders
                self._log.failure(
                    "listener {listener}: datagrams could not be processed",
                    event="datagrams-failed",
                    listener=self._listener,
                )
        return len(datagrams)

    def _end(self) -> None:
        self._closed = True
        self.update_reading()
        self._receiver.closed()
        self._opened.close()
