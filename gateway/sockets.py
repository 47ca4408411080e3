"""
What the kernel does for a connection, and knows of it.
"""

from __future__ import annotations

import math
import socket
import struct
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ
from typing import Final

_PROBES: Final = 4

_INT: Final = struct.Struct("i")


def carrier_of(transport: object) -> socket.socket | None:
    """
    @return: the socket that carries a reactor's transport, the one below TLS too;
        C{None} for a transport without one, as tests have them.
    """
    handle_of = getattr(getattr(transport, "transport", transport), "getHandle", None)
    handle = None if handle_of is None else handle_of()
    return handle if isinstance(handle, socket.socket) else None


def keep_alive(connection: socket.socket, seconds: float) -> None:
    """
    Have the kernel end a TCP connection whose other end has vanished.

    After so many seconds of silence the kernel asks; where nothing comes back in as
    many seconds more, the connection is lost. Data of ours that nobody acknowledges
    gets both together. Sockets that are not TCP are left alone.

    @param seconds: at least 1; the kernel knows whole seconds only.
    @see: tcp(7); RFC 5482 for the user timeout.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    silence = math.ceil(seconds)
    probes = min(_PROBES, silence)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, silence)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, silence // probes)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    # Probes are not sent while data is unacknowledged: without this, TCP would go on
    # sending that again for a quarter of an hour.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000 * silence)


def unread(connection: socket.socket) -> int:
    """
    @return: bytes that the kernel still holds for the other end, as it counts them:
        not acknowledged on TCP, not read on a Unix socket.
    """
    answer: tuple[int] = _INT.unpack(ioctl(connection, TIOCOUTQ, _INT.pack(0)))
    return answer[0]


def unheard(connection: socket.socket) -> int:
    """
    @return: bytes that the other end has sent and nobody has read.
    """
    answer: tuple[int] = _INT.unpack(ioctl(connection, FIONREAD, _INT.pack(0)))
    return answer[0]
