"""
The terms on which peers connect to a listener, and the transports that carry them.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    IReactorTime,
    ISystemHandle,
    ITCPTransport,
)

from gateway.deadlines import Timeouts
from gateway.dialect import Dialect
from gateway.pressure import Pressure
from gateway.reply import Words


class Transport(ITCPTransport, IConsumer, IPushProducer, ISystemHandle):
    """
    What the reactor's stream transports are, TCP and Unix alike.
    """


class Terms(Protocol):
    """
    What holds for all peers of a listener, and who is told of them.

    @ivar framing: a key of L{FRAMINGS}.
    @ivar max_frame: largest payload of a frame, in bytes.
    @ivar window: unanswered frames of a peer at which reading pauses.
    """

    framing: str
    dialect: Dialect
    words: Words
    max_frame: int
    window: int
    pressure: Pressure
    clock: IReactorTime
    timeouts: Timeouts

    def joined(self, peer: Any) -> None:
        """A peer connected."""

    def left(self, peer: Any) -> None:
        """A peer is gone."""
