"""
Writing to a socket at once.

Twisted's transports write in the reactor's next round, at two more system calls
(the socket is added to the poll set and taken out again). For a small answer that
is most of its cost. Whoever writes directly must have registered as a pull
producer, and after a write that did not take all must use the transport until
C{resumeProducing} says that it has nothing left; otherwise bytes overtake bytes.
"""

from __future__ import annotations

from socket import socket


def send_now(connection: socket, data: bytes) -> int:
    """
    @param connection: not blocking, connected.
    @return: how many bytes the kernel took; 0 where it has no room or the
        connection is gone, which the transport will find out.
    """
    try:
        return connection.send(data)
    except OSError:
        return 0
