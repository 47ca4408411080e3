"""
Where a peer's bytes leave: to the kernel at once, or to the transport what it does not take.
"""

from __future__ import annotations

from socket import socket

from twisted.internet.interfaces import ISystemHandle

from gateway.direct import send_now
from gateway.sockets import carrier_of
from gateway.terms import Transport


class Outlet:
    """
    Writes for one peer.

    @ivar carrier: the socket below, under TLS too; C{None} where there is none.
    @ivar direct: whether what is written goes to the kernel first. Whoever made the outlet
        then has to be the transport's pull producer, see L{gateway.direct}.
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
