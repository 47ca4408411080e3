"""
Output to a peer: directly to the kernel, and by the transport only what does not fit.

Twisted's transports write in the reactor's next round, at two more system calls
(the socket is added to the poll set and taken out again). For a small answer that
is most of its cost. A protocol that writes directly must have registered as a pull
producer, and after a write that did not take all must use the transport until
C{resumeProducing} is called; otherwise bytes overtake bytes.
"""

from __future__ import annotations

from socket import socket

from twisted.internet.interfaces import ISystemHandle

from gateway.system.socket_options import carrier_of
from gateway.system.transport import Transport


def send_now(connection: socket, data: bytes) -> int:
    """
    Send bytes to the kernel at once; return how many it took.

    0 where it has no room or the connection is gone, which the transport will find out.

    @param connection: not blocking, connected.
    """
    try:
        return connection.send(data)
    except OSError:
        return 0


class Output:
    """
    Output of one peer.

    @ivar carrier: the socket below, under TLS too; C{None} where there is none.
    @ivar direct: whether writes go to the kernel first. The protocol then has to be the
        transport's pull producer, see the module.
    @ivar blocked: whether bytes wait for the peer to read them, until L{note_written}.
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
        """Write bytes; return how many of them wait now."""
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
        Write a push, which is no answer.

        @param most: bytes of pushes that may wait.
        @return: whether there was room for it.
        """
        if self.blocked and self._pushed + len(data) > most:
            return False
        self._pushed += self.write(data)
        return True

    def note_written(self) -> None:
        """Note that nothing waits any more."""
        self.blocked = False
        self.waiting = 0
        self._pushed = 0
