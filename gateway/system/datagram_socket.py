"""
Sockets for datagrams: opening them, their buffers, and what the kernel dropped.

The endpoints C{udp:} and C{unixgram:} are ours, as Twisted has none;
C{systemd:...:type=datagram} is a socket that systemd opened (C{ListenDatagram=}).
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.abstract import isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IProtocolFactory

from gateway.system.endpoint_arguments import DATAGRAM_TYPE, EndpointArguments, named_arguments
from gateway.system.listening_reactor import MODE, ListenOptions
from gateway.system.unix_socket import File, bind_local, file_identity, owner_of

RECEIVE_BUFFER: Final = 4 * 1024 * 1024
"""
Bytes asked for where the listener does not say: the kernel's 200 kB are a few hundred datagrams, a
moment of load. It gives what net.core.rmem_max allows.
"""

MAX_UDP: Final = 65535
"""Bytes of a UDP datagram are fewer (RFC 768: its length has 16 bits)."""

_SO_RCVBUFFORCE: Final = 33
"""For processes that may administer the network: SO_RCVBUF beyond net.core.rmem_max; socket(7)."""

_SO_MEMINFO: Final = 55
"""Figures of a socket's memory; include/uapi/asm-generic/socket.h, from Linux 4.12."""

_MEMINFO: Final = struct.Struct("9I")
_DROPS: Final = 8
"""Place of the dropped datagrams; include/uapi/linux/sock_diag.h, SK_MEMINFO_DROPS."""

_UINT32: Final = 2**32 - 1


class DatagramSocket:
    """
    Open socket for datagrams.

    @ivar address: where it listens.
    @ivar has_sources: whether senders have addresses; those at a Unix socket have none.
    @ivar granted: bytes of its receive buffer.
    """

    def __init__(self, opened: socket.socket, file: File | None = None) -> None:
        """
        @param file: the file of a Unix socket that is ours, to be removed at the end.
        """
        self.socket = opened
        self.has_sources = opened.family != socket.AF_UNIX
        name = opened.getsockname()
        self.address: IPv4Address | IPv6Address | UNIXAddress
        if opened.family == socket.AF_INET6:
            self.address = IPv6Address("UDP", *name)
        elif opened.family == socket.AF_INET:
            self.address = IPv4Address("UDP", *name)
        else:
            self.address = UNIXAddress(name)
        self._path = name if isinstance(name, str) else ""
        self._file = file
        self._drops = self._dropped()
        # The kernel counts its own bookkeeping too, and says twice what it was asked for.
        self.granted = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def take_drops(self) -> int:
        """Return how many datagrams the kernel dropped since the last call."""
        drops = self._dropped()
        more = (drops - self._drops) & _UINT32
        self._drops = drops
        return more

    def _dropped(self) -> int:
        try:
            figures = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return 0  # a kernel that does not say
        if len(figures) < _MEMINFO.size:
            return 0
        drops: int = _MEMINFO.unpack(figures)[_DROPS]
        return drops

    def close(self) -> None:
        """Close it, and remove its file."""
        # While the socket is open its inode is no other file's.
        if self._file is not None and file_identity(self._path) == self._file:
            with suppress(OSError):
                Path(self._path).unlink()
        self.socket.close()


def open_socket(
    reactor: Any, text: str, endpoint: EndpointArguments, options: ListenOptions
) -> DatagramSocket:
    """
    Open the socket of an endpoint.

    @param text: the endpoint as configured; its arguments are right.
    @raise OSError: it cannot be opened.
    """
    named = named_arguments(endpoint)
    if endpoint.kind == "udp":
        opened = DatagramSocket(_bind_udp(named.get("interface", ""), int(named["port"]), options))
    elif endpoint.kind == "unixgram":
        path = named["address"]
        mode = options.mode
        if mode is None:
            mode = int(named["mode"], 8) if "mode" in named else MODE
        owner = None if options.owner is None else owner_of(options.owner)
        bound = bind_local(path, mode, owner, socket.SOCK_DGRAM)
        opened = DatagramSocket(bound, file_identity(path))
    else:
        opened = DatagramSocket(_adopted(reactor, text))
    _grow(opened.socket, options.receive_buffer or RECEIVE_BUFFER)
    opened.granted = opened.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    return opened


def _bind_udp(interface: str, port: int, options: ListenOptions) -> socket.socket:
    family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        # No SO_REUSEADDR: with UDP it would let anybody of this user take the port over.
        if options.reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        where: Any = (interface, port)
        if family == socket.AF_INET6:
            where = socket.getaddrinfo(
                interface, port, family, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )[0][4]
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


class _Adopting:
    """
    Reactor that only takes the descriptor that Twisted's C{systemd:} endpoint has found.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.taken: socket.socket | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def adoptStreamPort(self, descriptor: int, family: int, factory: IProtocolFactory) -> None:
        self.taken = socket.socket(fileno=os.dup(descriptor))


def _adopted(reactor: Any, text: str) -> socket.socket:
    """
    Return a copy of a socket of systemd's.
    """
    adopting = _Adopting(reactor)
    faults: list[Any] = []
    endpoint = serverFromString(adopting, text.replace(DATAGRAM_TYPE, ""))
    endpoint.listen(None).addErrback(faults.append)
    if faults or adopting.taken is None:
        raise OSError(faults[0].getErrorMessage() if faults else "systemd passed no socket")
    taken = adopting.taken
    if taken.type != socket.SOCK_DGRAM:
        taken.close()
        raise OSError("systemd's socket is none for datagrams; see ListenDatagram=")
    taken.setblocking(False)
    return taken


def _grow(opened: socket.socket, size: int) -> None:
    """Ask for a receive buffer; one of systemd's that is larger stays."""
    if opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 * size:
        return
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
