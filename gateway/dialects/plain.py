"""
Plain dialect: every frame is a message.
"""

from __future__ import annotations

from gateway.dialects.base import Dialect, FrameReader, Peer, RightsHolder, Work, turned_away
from gateway.model import wording
from gateway.model.outcome import Outcome
from gateway.wire.framing import OVERSIZE


class PlainDialect:
    """
    Dialect where every frame is a message.

    It has no state, so it is itself the reader of every peer that may use its route.
    """

    kept_bytes = 0
    takes_commands = False
    acknowledges = False

    def __init__(self, route: str) -> None:
        self.route: str | None = route
        self.routes = (route,)
        self._route = route
        self._on_the_wire = route.encode()

    def reader(self, peer: RightsHolder) -> FrameReader:
        return (
            self if self._on_the_wire in peer.rights.routes else _RefusingReader(self, self._route)
        )

    def rights_changed(self, peer: Peer) -> FrameReader:
        return self.reader(peer)

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def release(self) -> None:
        """Do nothing: no state of a peer is kept."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        if not oversize:
            return [Work(self._route, frames)]
        work = Work(self._route)
        for position, frame in enumerate(frames):
            if frame is OVERSIZE:
                work.gaps.append((position, wording.TOO_LONG))
            else:
                work.messages.append(frame)
        return [work]


class _RefusingReader:
    """
    Reader for a peer that may not use its listener's route.
    """

    kept_bytes = 0
    route = None

    def __init__(self, dialect: Dialect, route: str) -> None:
        self._dialect = dialect
        self._answer = wording.not_granted(f"route {route}")

    def rights_changed(self, peer: Peer) -> FrameReader:
        return self._dialect.reader(peer)

    def turn_away(self, frames: list[bytes], outcome: Outcome) -> Work:
        return turned_away(frames, outcome)

    def release(self) -> None:
        """Do nothing: no state of a peer is kept."""

    def read(self, frames: list[bytes], oversize: bool) -> list[Work]:
        return [turned_away(frames, self._answer)]
