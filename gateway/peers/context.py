"""
Context of a listener, as the protocols of its peers need it.
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
from gateway.commit.placed_writer import PlacedSource
from gateway.commit.writer import OnSettled, PeerSource
from gateway.dialects.base import Dialect
from gateway.dialects.subscriptions import Subscriptions
from gateway.metrics.counters import ListenerCounters
from gateway.model.outcome import Outcome, Words
from gateway.peers.throttle import Throttle
from gateway.peers.timeouts import Timeouts
from gateway.system.socket_options import SocketOptions
from gateway.wire.framing import Framing

AnyPeer = TypeVar("AnyPeer", contravariant=True)


class ListenerContext(Protocol[AnyPeer]):
    """
    Settings of a listener that hold for all its peers, and the events that it takes.

    @ivar window: unanswered frames of a peer at which reading pauses.
    @ivar channels: subscriptions to channels; C{None}: peers cannot listen.
    @ivar push_buffer: bytes of pushes that may wait for a peer.
    @ivar counters: of this listener.
    """

    counters: ListenerCounters
    dialect: Dialect
    words: Words
    window: int
    channels: Subscriptions | None
    push_buffer: int
    inflight_limit: InflightLimit
    clock: IReactorTime
    timeouts: Timeouts
    socket_options: SocketOptions

    def make_framing(self, say: Callable[[bytes], object]) -> Framing:
        """
        Make a peer's framing.

        @param say: sends bytes that answer no frame, as those to Telnet's commands.
        """

    def source(self, peer_info: PeerInfo, answered: OnSettled) -> PeerSource | PlacedSource:
        """Make the source of a peer's messages."""

    def throttle(self, peer_info: PeerInfo, resume: Callable[[], None]) -> Throttle | None:
        """
        Make a peer's throttle; C{resume} is called when it may be read again. C{None}: no limit.
        """

    def rights(self, peer_info: PeerInfo) -> Rights | Outcome:
        """Return a peer's rights; the last answer, where it has none."""

    def awaits_proof(self, peer_info: PeerInfo) -> bool:
        """Say whether the peer has still to prove its identity."""

    def wrong_listener_answer(self, framing: str) -> Outcome | None:
        """
        Return the answer to a client that expects a listener of commands in this framing.

        C{None}: this is one.
        """

    def joined(self, peer: AnyPeer) -> None:
        """Note that a peer connected."""

    def left(self, peer: AnyPeer) -> None:
        """Note that a peer is gone."""

    def nul_found(self, peer: AnyPeer) -> None:
        """Note that a peer seems to end its messages with NUL, where a newline would end them."""

    def log_refused(self, peer: AnyPeer, route: str, count: int, outcome: Outcome) -> None:
        """Note messages refused for good; C{route} is empty where none was found."""

    def log_admission(self, peer_info: PeerInfo) -> None:
        """Note that a peer has rights here; for the log."""

    def log_close(self, peer: AnyPeer, kind: str, reason: str) -> None:
        """
        Note that a peer is told to go; for the log and the counters.

        @param kind: one word of few, for counting.
        @param reason: for the log.
        """
