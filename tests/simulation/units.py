"""
A protocol of lines with an acknowledgement of its own: each line is a unit with a key.

C{KEY ROUTE:BODY,ROUTE:BODY} is stored whole over its routes, and C{KEY} alone is the answer, when
every message is stored or kept; else the connection ends without one.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from gateway.dialects.acknowledging import (
    AcknowledgingDialect,
    AcknowledgingReader,
    DialectSettings,
)
from gateway.dialects.base import FrameReader, Peer, Work, turned_away
from gateway.model.outcome import Outcome, is_kept
from gateway.model.unit import unit_key
from gateway.peers.factory import PeerFactory
from gateway.wire.framing import Framing, LineFraming


class _ByPrefix:
    """
    Dialect of messages that name their route before a colon, which is no part of them.
    """

    kept_bytes = 0
    route = None
    takes_commands = False
    acknowledges = False

    def __init__(self, routes: tuple[str, ...]) -> None:
        self.routes = routes

    def reader(self, peer: Peer) -> FrameReader:
        return self

    def rights_changed(self, peer: Peer) -> FrameReader:
        return self

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def release(self) -> None:
        """Do nothing: no state of a peer is kept."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        works: list[Work] = []
        for place, frame in enumerate(frames):
            route, _, frames[place] = frame.partition(b":")
            name = route.decode()
            if not works or works[-1].route != name:
                works.append(Work(name))
            works[-1].messages.append(frames[place])
        return works


class _UnitReader(AcknowledgingReader):
    """
    Reader of lines that are units.
    """

    remembers = True

    async def handle(self, frames: list[bytes]) -> bool:
        for frame in frames:
            key, _, messages = frame.partition(b" ")
            runs = await self.store(messages.split(b","), unit_key(key))
            if not all(is_kept(fate) for _, fate in runs):
                return True
            self.write(key + b"\n", runs)
        return False


def unit_dialect(clock: Clock, routes: tuple[str, ...]) -> AcknowledgingDialect:
    """Make the dialect of a simulated gateway."""
    settings = DialectSettings(clock, 1000, 1000, 1.0, {})
    return AcknowledgingDialect(_UnitReader, _ByPrefix(routes), settings)


class UnitFactory(PeerFactory):
    """
    Factory of peers that send units.
    """

    def make_framing(self, say: Callable[[bytes], object]) -> Framing:
        return LineFraming(self.max_frame)
