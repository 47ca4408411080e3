"""
Reactor that makes listening sockets with the gateway's options, for Twisted's endpoints.

Twisted's endpoints say where to listen; how the socket is made they leave to the
reactor, which knows neither SO_REUSEPORT nor buffers, queues 50 peers, and opens Unix
sockets to everybody. Given a L{ListeningReactor} instead, every endpoint that listens
(C{tcp:}, C{tcp6:}, C{unix:}, C{ssl:}, whatever wraps one of them) gets a socket from here.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from gateway.system.socket_options import urgent_in_line
from gateway.system.unix_socket import LocalPort, bind_local, owner_of

BACKLOG: Final = 4096
"""
Peers that may wait to be accepted; the kernel's net.core.somaxconn caps it. With
Twisted's 50 most of a storm of reconnecting peers would wait for a second or more each.
"""

MODE: Final = 0o600
"""Default mode of a Unix socket's file: for the user that the gateway runs as."""

_TWISTED_BACKLOG: Final = 50
_TWISTED_MODE: Final = 0o666


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """
    Options of a listening socket.

    @ivar backlog: peers that may wait to be accepted; C{None}: as the endpoint says.
    @ivar reuse_port: whether other processes may listen on the same port; the kernel
        then shares peers out among them.
    @ivar send_buffer: send buffer of each connection, in bytes; C{None}: the kernel's choice.
    @ivar receive_buffer: as C{send_buffer}. It is set on the listening socket, since TCP
        announces its window before the connection is accepted.
    @ivar mode: mode of a Unix socket's file; C{None}: as the endpoint says.
    @ivar owner: C{user:group} of that file; C{None}: the user that the gateway runs as.
    """

    backlog: int | None = None
    reuse_port: bool = False
    send_buffer: int | None = None
    receive_buffer: int | None = None
    mode: int | None = None
    owner: str | None = None


DEFAULT_OPTIONS: Final = ListenOptions()


class Ports(Protocol):
    """
    Maker of ports from sockets that listen; the sockets are the port's from then on.
    """

    def stream(self, listening: socket.socket, factory: IProtocolFactory) -> IListeningPort:
        """Return a port on a TCP socket."""

    def local(
        self, listening: socket.socket, factory: IProtocolFactory, is_ours: bool
    ) -> IListeningPort:
        """
        Return a port on a Unix socket.

        @param is_ours: whether its file is removed at the end.
        """


class ReactorPorts:
    """
    Maker of ports that a reactor accepts from.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def stream(self, listening: socket.socket, factory: IProtocolFactory) -> IListeningPort:
        # The reactor keeps a duplicate; this one is closed here.
        with listening:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                listening.fileno(), listening.family, factory
            )
        return adopted

    def local(
        self, listening: socket.socket, factory: IProtocolFactory, is_ours: bool
    ) -> IListeningPort:
        port = LocalPort(listening, factory, self._reactor, is_ours=is_ours)
        port.startListening()
        return port


class ListeningReactor:
    """
    Reactor wrapper that makes listening sockets with the options of one listener.
    """

    def __init__(
        self,
        reactor: Any,
        text: str,
        options: ListenOptions = DEFAULT_OPTIONS,
        ports: Ports | None = None,
    ) -> None:
        """
        @param text: the endpoint as configured. It tells which values are the operator's, and which
            are the endpoint's own defaults, to be replaced by ours.
        @param ports: makes the ports; C{None}: the reactor does.
        """
        self._reactor = reactor
        self._ports = ReactorPorts(reactor) if ports is None else ports
        self._options = options
        self._arguments_given = set(re.findall(r"(?<!\\):(backlog|mode)=", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self,
        port: int,
        factory: IProtocolFactory,
        backlog: int = _TWISTED_BACKLOG,
        interface: str = "",
    ) -> IListeningPort:
        """
        Listen on a TCP port with the listener's options.

        @raise CannotListenError: with the reason.
        """
        options = self._options
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        try:
            listening = socket.socket(family)
            try:
                listening.setblocking(False)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if options.reuse_port:
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                self._prepare(listening)
                where: Any = (interface, port)
                if family == socket.AF_INET6:
                    # This resolves the zone of an address such as fe80::1%eth0.
                    where = socket.getaddrinfo(
                        interface, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
                    )[0][4]
                listening.bind(where)
                listening.listen(self._queue(backlog))
                return self._ports.stream(listening, factory)
            except OSError:
                listening.close()
                raise
        except OSError as error:
            raise CannotListenError(interface, port, error) from None

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = _TWISTED_BACKLOG,
        interface: str = "",
    ) -> IListeningPort:
        return self.listenTCP(
            port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface
        )

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = _TWISTED_BACKLOG,
        mode: int = _TWISTED_MODE,
        wantPID: bool = False,
    ) -> IListeningPort:
        """
        Listen on a Unix socket with the listener's options.

        @param wantPID: ignored: no lock file is needed, a leftover socket is found by connecting.
        @raise CannotListenError: with the reason.
        """
        options = self._options
        if options.mode is not None:
            mode = options.mode
        elif mode == _TWISTED_MODE and "mode" not in self._arguments_given:
            mode = MODE
        try:
            owner = None if options.owner is None else owner_of(options.owner)
            listening = bind_local(address, mode, owner)
            listening.listen(self._queue(backlog))
        except OSError as error:
            raise CannotListenError(None, address, error) from None
        return self._ports.local(listening, factory, True)

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Listen on a socket that was made elsewhere, as C{systemd:} has them; its mode is kept."""
        listening = socket.socket(fileno=os.dup(fileDescriptor))
        if listening.type == socket.SOCK_DGRAM:
            listening.close()
            fault = OSError(errno.EPROTOTYPE, "it is for datagrams: add :type=datagram")
            raise CannotListenError(None, fileDescriptor, fault)
        if addressFamily != socket.AF_UNIX:
            self._prepare(listening)
            return self._ports.stream(listening, factory)
        return self._ports.local(listening, factory, False)

    def _prepare(self, listening: socket.socket) -> None:
        """Set the socket options that accepted connections inherit."""
        options = self._options
        urgent_in_line(listening)
        if options.send_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer)
        if options.receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer)

    def _queue(self, backlog: int) -> int:
        if self._options.backlog is not None:
            return self._options.backlog
        if backlog == _TWISTED_BACKLOG and "backlog" not in self._arguments_given:
            return BACKLOG
        return backlog
