"""
Limits in time: how long a peer may be in a state that must not last.

Strategy: nothing is timed when bytes come and go. A peer is looked at from time to
time, and its L{Stopwatches} adds up for how long what it sees has been so. What began
between two looks counts from the second, so that a limit is never over too early,
and is noticed at most two looks too late.

Pure: whoever looks says how much time has passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

# What came about a peer since the last look, as bits of one number: the hot path sets them.
HEARD: Final = 1
"""Bytes came."""
FINISHED: Final = 2
"""Frames came to their end."""
EXCUSED: Final = 4
"""It was not read for a while, for a reason of ours."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """
    Limits of one listener's peers, in seconds.

    @ivar frame: for a frame that was begun to be finished.
    @ivar write: for a peer that has answers waiting to take any of them.
    @ivar idle: for a peer with nothing in flight to send something; infinite: for ever.
    @ivar first: for the first frame to be finished, the one that proves who it is where that
        is asked for; infinite: for ever.
    """

    frame: float = 60.0
    write: float = 60.0
    idle: float = math.inf
    first: float = math.inf

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(5.0, max(0.05, min(self.frame, self.write, self.idle, self.first) / 10))


class Limit(Enum):
    """
    Limit that a peer was over.
    """

    FRAME = "frame not finished"
    WRITE = "no answer taken"
    IDLE = "nothing sent"
    FIRST = "no first message"

    def text(self, timeouts: Timeouts) -> str:
        """For people, with the seconds that were granted."""
        seconds = {
            Limit.FRAME: timeouts.frame,
            Limit.WRITE: timeouts.write,
            Limit.IDLE: timeouts.idle,
            Limit.FIRST: timeouts.first,
        }[self]
        within = self in (Limit.FRAME, Limit.FIRST)
        return f"{self.value} {'within' if within else 'for'} {seconds:g} s"


class PeerActivity(NamedTuple):
    """
    Activity of a peer, as the sweep sees it.

    @ivar heard: whether bytes came since the last look.
    @ivar finished: whether frames came to their end since then.
    @ivar unfinished: whether a frame is begun now.
    @ivar idle: whether nothing of the peer is in flight now.
    @ivar silent: whether it has still to say its first word.
    @ivar was_read: whether we read all that came since the last look; time in
        which we did not is no fault of the peer's.
    @ivar queue: what waits for the peer to take it, in bytes, C{None} where
        nothing does; that it changed is taken for progress.
    """

    heard: bool
    finished: bool
    unfinished: bool
    idle: bool
    silent: bool
    was_read: bool
    queue: int | None


class Stopwatches:
    """
    The stopwatches of one peer; C{None} is one that does not run.
    """

    __slots__ = ("_first", "_frame", "_idle", "_queue", "_write")

    def __init__(self) -> None:
        self._frame: float | None = None
        self._write: float | None = None
        self._idle: float | None = None
        self._first: float | None = None
        self._queue: int | None = None

    def look(self, timeouts: Timeouts, seconds: float, activity: PeerActivity) -> Limit | None:
        """
        Look at the peer.

        @param seconds: since the last look.
        @return: which limit is over.
        """
        read = seconds if activity.was_read else 0.0
        queue, finished = activity.queue, activity.finished
        progress = queue != self._queue
        self._queue = queue
        self._write = _aged(self._write, queue is not None, progress, seconds)
        self._frame = _aged(self._frame, activity.unfinished, finished, read)
        self._idle = _aged(self._idle, activity.idle, activity.heard or finished, read)
        self._first = _aged(self._first, activity.silent, False, read)
        if self._write is not None and self._write >= timeouts.write:
            return Limit.WRITE
        if self._frame is not None and self._frame >= timeouts.frame:
            return Limit.FRAME
        if self._idle is not None and self._idle >= timeouts.idle:
            return Limit.IDLE
        if self._first is not None and self._first >= timeouts.first:
            return Limit.FIRST
        return None


def _aged(age: float | None, lasts: bool, anew: bool, seconds: float) -> float | None:
    """
    @param anew: whether it may have ended and begun again since the last look.
    """
    if not lasts:
        return None
    return 0.0 if age is None or anew else age + seconds
