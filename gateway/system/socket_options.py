"""
What the kernel does for a connection, and knows of it.
"""

from __future__ import annotations

import math
import socket
import struct
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Carriage:
    """
    Socket options of a listener's connections.

    @ivar keepalive: seconds of silence after which it asks whether the peer is there, at
        least 1.
    @ivar user_timeout: seconds for which data may be unacknowledged; C{None}: twice
        C{keepalive}.
    @ivar no_delay: whether what is little is sent at once, and not gathered first.
    @ivar send_buffer: bytes, C{None}: its own choice. It keeps twice as many, see socket(7).
    @ivar receive_buffer: likewise.
    """

    keepalive: float = 60.0
    user_timeout: float | None = None
    no_delay: bool = True
    send_buffer: int | None = None
    receive_buffer: int | None = None

    def apply(self, connection: socket.socket) -> None:
        """
        @param connection: of any kind; what its kind does not have is left out.
        """
        if self.send_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        if self.receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            if self.no_delay:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connection, self.keepalive, self.user_timeout)


def keep_alive(
    connection: socket.socket, seconds: float, user_timeout: float | None = None
) -> None:
    """
    Have the kernel end a TCP connection whose other end has vanished.

    After so many seconds of silence the kernel asks; where nothing comes back in as
    many seconds more, the connection is lost. Data of ours that nobody acknowledges
    gets both together, or C{user_timeout}. Sockets that are not TCP are left alone.

    @param seconds: at least 1; the kernel knows whole seconds only.
    @param user_timeout: in seconds.
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
    wait = 2 * silence if user_timeout is None else user_timeout
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(1000 * wait))


def urgent_in_line(connection: socket.socket) -> None:
    """
    Keep urgent data where it stands in the stream.

    Telnet's Synch sends its DM, the second byte of a command, as urgent data. By default the
    kernel takes such a byte out, so that the byte behind it would be read as the command;
    and whatever sends a byte of a message in that way would have it stored without.
    Connections inherit this from the socket that listens.

    @see: RFC 854, "The Telnet Synch signal"; tcp(7), SO_OOBINLINE.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


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
