"""
The peers of one listener: what they have in common, and who is connected.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory

from gateway.batch import Origin
from gateway.channels import Channels
from gateway.deadlines import Timeouts
from gateway.dialect import Dialect
from gateway.pressure import Pressure
from gateway.protocol import PeerProtocol
from gateway.reply import Words
from gateway.sweep import Sweep
from gateway.writer import Writer

DEFAULT_TIMEOUTS: Final = Timeouts()


class PeerFactory(Factory):
    """
    Makes the protocols of one listener.

    @ivar peers: those connected now.
    """

    noisy = False

    def __init__(
        self,
        *,
        listener: str,
        framing: str,
        dialect: Dialect,
        words: Words,
        max_frame: int,
        window: int,
        writer: Writer,
        pressure: Pressure,
        clock: IReactorTime,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        channels: Channels | None = None,
        push_buffer: int = 262144,
    ) -> None:
        """
        @param listener: its name in the configuration.
        @param framing: a key of L{FRAMINGS}.
        @param max_frame: largest payload of a frame, in bytes.
        @param window: unanswered frames of a peer at which reading pauses.
        @param channels: what peers may listen to.
        @param push_buffer: bytes of pushes that may wait for a peer.
        """
        self.listener = listener
        self.framing = framing
        self.dialect = dialect
        self.words = words
        self.max_frame = max_frame
        self.window = window
        self.writer = writer
        self.pressure = pressure
        self.clock = clock
        self.timeouts = timeouts
        self.channels = channels
        self.push_buffer = push_buffer
        self.peers: set[PeerProtocol] = set()
        self._sweep = Sweep(clock, timeouts, listener, self.peers)

    def joined(self, peer: PeerProtocol) -> None:
        """A peer connected."""
        self.peers.add(peer)
        self._sweep.peers_changed()

    def left(self, peer: PeerProtocol) -> None:
        """A peer is gone."""
        self.peers.discard(peer)
        if self.channels is not None:
            self.channels.leave(peer)
        self._sweep.peers_changed()

    def let_go(self, reason: str) -> None:
        """A peer is told to go; for the log."""
        self._sweep.let_go(reason)

    def buildProtocol(self, addr: IAddress | None) -> PeerProtocol:
        peer = PeerProtocol(self)
        peer.source = self.writer.source(Origin(peer_name(addr), self.listener), peer.settled)
        return peer


def peer_name(addr: IAddress | None) -> str:
    """
    An address for people and for C{@peer}: C{host:port}, C{[v6]:port} or C{unix}.
    """
    host, port = getattr(addr, "host", None), getattr(addr, "port", None)
    if host is None:
        return "unix"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
