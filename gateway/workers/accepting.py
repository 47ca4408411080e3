"""
Ports of the parent: they accept connections and pass them on, raw.

TLS, PROXY headers and everything behind them are the worker's. Nobody is accepted while there is no
worker: who connects then waits in the kernel's queue.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReadDescriptor,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.system.unix_socket import File, file_identity

_ACCEPTS: Final = 100
"""Connections that are accepted in one turn of the reactor, as with Twisted's own ports."""

_LATER: Final = 0.1
"""Seconds until a connection is accepted again for which the process had no descriptor."""

_NONE_LEFT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Accepted = Callable[[socket.socket, str | None], None]
"""A connection that was accepted, and the host it comes from; C{None}: a Unix socket."""


def address_of_socket(bound: socket.socket) -> IPv4Address | IPv6Address | UNIXAddress:
    """Return the address of a socket that is bound, in Twisted's terms."""
    name = bound.getsockname()
    if bound.family == socket.AF_INET6:
        return IPv6Address("TCP", *name)
    if bound.family == socket.AF_INET:
        return IPv4Address("TCP", *name)
    return UNIXAddress(name)


@implementer(IListeningPort, IReadDescriptor)
class AcceptingPort:
    """
    Port that accepts connections for the workers.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listening: socket.socket,
        listener: str,
        accepted: Accepted,
        file: File | None,
    ) -> None:
        """
        @param file: the file of a Unix socket that is ours, to be removed at the end.
        """
        listening.setblocking(False)
        self._reactor = reactor
        self._socket = listening
        self._listener = listener
        self._accepted = accepted
        self._file = file
        self._address = address_of_socket(listening)
        self._wanted = False
        self._closed = False

    # IListeningPort.

    def startListening(self) -> None:
        """Do nothing: it listens from the start."""

    def stopListening(self) -> defer.Deferred[None]:
        """Close the port."""
        self.connectionLost()
        return defer.succeed(None)

    def getHost(self) -> IAddress:
        return self._address

    def startReading(self) -> None:
        """Accept connections."""
        if not self._closed and not self._wanted:
            self._wanted = True
            self._reactor.addReader(self)

    def stopReading(self) -> None:
        """Leave connections in the kernel's queue."""
        self._wanted = False
        self._reactor.removeReader(self)

    # IReadDescriptor.

    def logPrefix(self) -> str:
        """Name of the port in the reactor's log lines."""
        return f"listener {self._listener}"

    def fileno(self) -> int:
        return self._socket.fileno()

    def doRead(self) -> None:
        """Accept the connections that are there, but no more than a turn's worth."""
        for _ in range(_ACCEPTS):
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    self._wait(error)
                    return
                continue  # it is gone already (ECONNABORTED and the like, accept(2))
            is_internet = self._socket.family != socket.AF_UNIX
            self._accepted(connection, address[0] if is_internet else None)
            if not self._wanted:
                return

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End, also because the reactor stops."""
        if self._closed:
            return
        self.stopReading()
        self._closed = True
        # While the socket is open its inode is no other file's.
        if self._file is not None and isinstance(self._address, UNIXAddress):
            path = os.fsdecode(self._address.name or b"")
            if file_identity(path) == self._file:
                with suppress(OSError):
                    Path(path).unlink()
        self._socket.close()

    def _wait(self, error: OSError) -> None:
        """Accept nobody for a moment."""
        self._log.warn(
            "listener {listener}: nobody is accepted for a moment: {reason}",
            event="accept-failed",
            listener=self._listener,
            reason=error.strerror,
        )
        self.stopReading()
        self._reactor.callLater(_LATER, self.startReading)


class AcceptingPorts:
    """
    Maker of the ports of one listener.
    """

    def __init__(self, reactor: Any, listener: str, accepted: Accepted) -> None:
        self._reactor = reactor
        self._listener = listener
        self._accepted = accepted

    def stream(self, listening: socket.socket, factory: IProtocolFactory) -> IListeningPort:
        return AcceptingPort(self._reactor, listening, self._listener, self._accepted, None)

    def local(
        self, listening: socket.socket, factory: IProtocolFactory, is_ours: bool
    ) -> IListeningPort:
        name = listening.getsockname()
        is_file = is_ours and isinstance(name, str) and name
        file = file_identity(name) if is_file else None
        return AcceptingPort(self._reactor, listening, self._listener, self._accepted, file)
