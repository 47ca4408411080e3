"""
The terms on which peers connect to a listener, and the transports that carry them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    INegotiated,
    IPushProducer,
    IReactorTime,
    ISystemHandle,
    ITCPTransport,
)

from gateway.access import Rights
from gateway.channels import Channels
from gateway.deadlines import Timeouts
from gateway.dialect import Dialect
from gateway.framing import Framing
from gateway.guest import Guest
from gateway.pressure import Pressure
from gateway.reply import Outcome, Words
from gateway.sockets import Carriage
from gateway.throttle import Throttle
from gateway.writer import Answered, Source

Peer = TypeVar("Peer", contravariant=True)


class Transport(ITCPTransport, IConsumer, IPushProducer, ISystemHandle):
    """
    What the reactor's stream transports are, TCP and Unix alike.
    """


def close_half(transport: Transport) -> bool:
    """
    Say nothing more and go on reading.

    @return: whether the transport can do that.
    """
    if INegotiated.providedBy(transport):
        # TLS has a goodbye of its own, without which the peer must take the end for an attack.
        transport.loseConnection()
    elif IHalfCloseableDescriptor.providedBy(transport):
        transport.loseWriteConnection()
    else:
        return False
    return True


class Terms(Protocol[Peer]):
    """
    What holds for all peers of a listener, and who is told of them.

    @ivar window: unanswered frames of a peer at which reading pauses.
    @ivar channels: what peers may listen to; C{None}: nothing.
    @ivar push_buffer: bytes of pushes that may wait for a peer.
    """

    dialect: Dialect
    words: Words
    window: int
    channels: Channels | None
    push_buffer: int
    pressure: Pressure
    clock: IReactorTime
    timeouts: Timeouts
    carriage: Carriage

    def frames(self, say: Callable[[bytes], object]) -> Framing:
        """
        What cuts a peer's bytes.

        @param say: takes what has to be answered, but is no frame's answer.
        """

    def source(self, guest: Guest, answered: Answered) -> Source:
        """What submits a peer's messages."""

    def throttle(self, guest: Guest, resume: Callable[[], None]) -> Throttle | None:
        """What limits a peer's rate; C{resume} is called when it may be read again."""

    def rights(self, guest: Guest) -> Rights | Outcome:
        """What a peer may do; the last word, where that is nothing."""

    def awaits_proof(self, guest: Guest) -> bool:
        """Whether the peer has still to prove who it is."""

    def astray(self, framing: str) -> Outcome | None:
        """
        What is said to a client that looks for commands in this framing; C{None}: it is right here.
        """

    def joined(self, peer: Peer) -> None:
        """A peer connected."""

    def left(self, peer: Peer) -> None:
        """A peer is gone."""

    def nul_found(self, peer: Peer) -> None:
        """A peer seems to end its messages with NUL, where a newline would end them."""

    def refused(self, peer: Peer, route: str, count: int, outcome: Outcome) -> None:
        """Messages are refused for good, for a route or, where that is empty, for none."""

    def let_in(self, guest: Guest) -> None:
        """Somebody may do something here; for the log."""

    def let_go(self, peer: Peer, reason: str) -> None:
        """A peer is told to go; for the log."""
