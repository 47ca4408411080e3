"""
A connection between a peer and a gateway, and what is on its way in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure


class Reading(Protocol):
    """What a gateway has at its end."""

    def dataReceived(self, data: bytes) -> None: ...

    def connectionLost(self, reason: Failure) -> None: ...


class Connection:
    """
    Bytes in both directions; it is also the transport of the gateway's protocol.

    @ivar protocol: at the gateway's end.
    @ivar sent: lines of the peer's that the gateway has not read yet.
    @ivar left: whether the peer has closed its end.
    @ivar closed: whether the gateway has, or is dead.
    @ivar lost: whether the gateway knows that the connection is at its end.
    """

    def __init__(self, gateway: str, peer: str) -> None:
        """
        @param gateway: the name of one end.
        @param peer: of the other.
        """
        self.gateway = gateway
        self.peer = peer
        self.protocol: Reading
        self.sent: list[bytes] = []
        self.left = False
        self.closed = False
        self.lost = False
        self.paused = False
        self.heard: Callable[[list[bytes]], None]
        self._answers = b""

    # The peer's end.

    def send(self, line: bytes) -> None:
        """Send a line."""
        self.sent.append(line + b"\n")

    def leave(self) -> None:
        """Close the peer's end without reading what is on its way."""
        self.left = True
        self._answers = b""

    @property
    def unheard(self) -> bool:
        """Whether answers are on their way."""
        return bool(self._answers)

    @property
    def ended(self) -> bool:
        """Whether the peer, having read everything, finds the end of the stream."""
        return self.closed and not self._answers

    def hear(self) -> None:
        """Let the peer read what the gateway has said."""
        whole, _, rest = self._answers.rpartition(b"\n")
        self._answers = rest
        self.heard(whole.split(b"\n"))

    # The network.

    @property
    def deliverable(self) -> bool:
        """Whether the gateway can read something."""
        return bool(self.sent) and not (self.paused or self.closed or self.lost)

    def deliver(self, count: int) -> list[bytes]:
        """
        Let the gateway read so many lines.

        @return: these.
        """
        lines = self.sent[:count]
        del self.sent[:count]
        self.protocol.dataReceived(b"".join(lines))
        return lines

    def lose(self) -> None:
        """Let the gateway notice that the connection is at its end."""
        if not self.lost:
            self.lost = self.closed = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def die(self, heard: bool) -> None:
        """
        The gateway is killed.

        @param heard: whether the peer still reads what was said before.
        """
        self.lost = self.closed = True
        if not heard:
            self._answers = b""

    # The transport of the gateway's protocol.

    def write(self, data: bytes) -> None:
        if not (self.left or self.closed):
            self._answers += data

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def loseConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.closed = True
