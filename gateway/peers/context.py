"""
Context of a listener, for the protocols of its peers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.interfaces import (
    IReactorTime,
)

from gateway.access.peer_info import PeerInfo
from gateway.access.rights import Rights
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.writer import OnSettled, PeerSource
from gateway.dialects.base import Dialect
from gateway.dialects.subscriptions import Subscriptions
from gateway.model.outcome import Outcome, Words
from gateway.peers.throttle import Throttle
from gateway.peers.timeouts import Timeouts
from gateway.system.socket_options import Carriage
from gateway.wire.framing import Framing

Peer = TypeVar("Peer", contravariant=True)


class ListenerContext(Protocol[Peer]):
    """
    Settings of a listener that hold for all its peers, and the events that it takes.

    @ivar window: unanswered frames of a peer at which reading pauses.
    @ivar channels: what peers may listen to; C{None}: nothing.
    @ivar push_buffer: bytes of pushes that may wait for a peer.
    """

    dialect: Dialect
    words: Words
    window: int
    channels: Subscriptions | None
    push_buffer: int
    inflight_limit: InflightLimit
    clock: IReactorTime
    timeouts: Timeouts
    carriage: Carriage

    def frames(self, say: Callable[[bytes], object]) -> Framing:
        """
        What cuts a peer's bytes.

        @param say: takes what has to be answered, but is no frame's answer.
        """

    def source(self, peer_info: PeerInfo, answered: OnSettled) -> PeerSource:
        """What submits a peer's messages."""

    def throttle(self, peer_info: PeerInfo, resume: Callable[[], None]) -> Throttle | None:
        """What limits a peer's rate; C{resume} is called when it may be read again."""

    def rights(self, peer_info: PeerInfo) -> Rights | Outcome:
        """What a peer may do; the last word, where that is nothing."""

    def awaits_proof(self, peer_info: PeerInfo) -> bool:
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

    def let_in(self, peer_info: PeerInfo) -> None:
        """Somebody may do something here; for the log."""

    def let_go(self, peer: Peer, reason: str) -> None:
        """A peer is told to go; for the log."""
