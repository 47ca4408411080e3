"""
Socket options of connections, and the byte counts that the kernel keeps of them.
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
    Return the socket of a reactor's transport, below TLS too; C{None} for one without a socket.
    """
    handle_of = getattr(getattr(transport, "transport", transport), "getHandle", None)
    handle = None if handle_of is None else handle_of()
    return handle if isinstance(handle, socket.socket) else None


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """
    Socket options of a listener's connections.

    @ivar keepalive: seconds of silence after which the kernel probes the peer, at least 1.
    @ivar user_timeout: seconds for which data may be unacknowledged; C{None}: twice
        C{keepalive}.
    @ivar no_delay: whether small writes are sent at once, and not gathered first.
    @ivar send_buffer: bytes; C{None}: the kernel's choice. It allocates twice as many, see
        socket(7).
    @ivar receive_buffer: as C{send_buffer}.
    """

    keepalive: float = 60.0
    user_timeout: float | None = None
    no_delay: bool = True
    send_buffer: int | None = None
    receive_buffer: int | None = None

    def apply(self, connection: socket.socket) -> None:
        """
        Set the options on a socket of any kind; those that its kind does not have are left out.
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

    After so many seconds of silence the kernel sends probes; where nothing comes back in as
    many seconds more, the connection is lost. Data of ours that is not acknowledged is given
    both together, or C{user_timeout}. Sockets that are not TCP are left alone.

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
    Keep urgent data in its place in the stream (SO_OOBINLINE).

    Telnet's Synch sends its DM, the second byte of a command, as urgent data. By default the
    kernel takes such a byte out, so that the byte behind it would be read as the command;
    and a message with an urgent byte would be stored without it.
    Connections inherit this from the socket that listens.

    @see: RFC 854, "The Telnet Synch signal"; tcp(7), SO_OOBINLINE.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def unread(connection: socket.socket) -> int:
    """
    Return how many sent bytes the kernel still holds.

    On TCP those not acknowledged, on a Unix socket those that the other end has not read.
    """
    answer: tuple[int] = _INT.unpack(ioctl(connection, TIOCOUTQ, _INT.pack(0)))
    return answer[0]


def unheard(connection: socket.socket) -> int:
    """
    Return how many bytes were received by the kernel and not read by us.
    """
    answer: tuple[int] = _INT.unpack(ioctl(connection, FIONREAD, _INT.pack(0)))
    return answer[0]
