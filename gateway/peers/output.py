"""
Output of a peer: to the kernel at once, and to the transport what it does not take.

Twisted's transports write in the reactor's next round, at two more system calls
(the socket is added to the poll set and taken out again). For a small answer that
is most of its cost. Whoever writes directly must have registered as a pull
producer, and after a write that did not take all must use the transport until
C{resumeProducing} says that it has nothing left; otherwise bytes overtake bytes.
"""

from __future__ import annotations

from socket import socket

from twisted.internet.interfaces import ISystemHandle

from gateway.system.socket_options import carrier_of
from gateway.system.transport import Transport


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


class Output:
    """
    Output of one peer.

    @ivar carrier: the socket below, under TLS too; C{None} where there is none.
    @ivar direct: whether what is written goes to the kernel first. Whoever made it then
        has to be the transport's pull producer, as said above.
    @ivar blocked: whether something waits for the peer to take it, until L{written}.
    @ivar waiting: how many bytes at most.
    """

    __slots__ = ("_pushed", "_transport", "blocked", "carrier", "direct", "waiting")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.blocked = False
        self.waiting = 0
        self._pushed = 0
        carrier: socket | None = carrier_of(transport)
        self.carrier = carrier
        plain = ISystemHandle.providedBy(transport) and transport.getHandle() is carrier
        self.direct = carrier is not None and plain

    def write(self, data: bytes) -> int:
        """
        @return: how many bytes of it wait now.
        """
        if self.direct and not self.blocked:
            assert self.carrier is not None
            data = data[send_now(self.carrier, data) :]
            if not data:
                return 0
            # The peer takes its answers more slowly than it sends.
            self.blocked = True
        self._transport.write(data)
        if not self.blocked:
            return 0
        self.waiting += len(data)
        return len(data)

    def push(self, data: bytes, most: int) -> bool:
        """
        Write what is no answer.

        @param most: bytes of such that may wait.
        @return: whether there was room for it.
        """
        if self.blocked and self._pushed + len(data) > most:
            return False
        self._pushed += self.write(data)
        return True

    def written(self) -> None:
        """
        Nothing waits any more.
        """
        self.blocked = False
        self.waiting = 0
        self._pushed = 0
