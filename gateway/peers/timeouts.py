"""
Timeouts: how long a peer may stay in a state that must not last.

Strategy: nothing is timed when bytes come and go. A sweep checks each peer from time to
time, and the peer's L{Stopwatches} add up how long its present state has lasted. A state that
began between two sweeps counts from the second, so that a timeout is never too early,
and is noticed at most two sweeps too late.

Pure: the caller passes how much time has gone by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

# Activity of a peer since the last sweep, as bits of one number that the hot path sets.
HEARD: Final = 1
"""Bytes came."""
FINISHED: Final = 2
"""Frames came to their end."""
EXCUSED: Final = 4
"""The peer was not read for a while, for a reason of the gateway's."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """
    Timeouts of one listener's peers, in seconds.

    @ivar frame: for a frame that was begun to be finished.
    @ivar write: for a peer that has answers waiting to read any of them.
    @ivar idle: for a peer with nothing in flight to send something; infinite: for ever.
    @ivar first: for the first frame to be finished, or the one that proves the identity where
        that is required; infinite: for ever.
    """

    frame: float = 60.0
    write: float = 60.0
    idle: float = math.inf
    first: float = math.inf

    @property
    def interval(self) -> float:
        """Seconds between two sweeps."""
        return min(5.0, max(0.05, min(self.frame, self.write, self.idle, self.first) / 10))


class Limit(Enum):
    """
    Timeout that a peer has exceeded.
    """

    FRAME = "frame not finished"
    WRITE = "no answer taken"
    IDLE = "nothing sent"
    FIRST = "no first message"

    def describe(self, timeouts: Timeouts) -> str:
        """Return a text for people, with the seconds that were granted."""
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
    Activity of a peer between two sweeps, and its state at the second.

    @ivar heard: whether bytes came since the last sweep.
    @ivar finished: whether frames were completed since then.
    @ivar unfinished: whether a frame is begun now.
    @ivar idle: whether nothing of the peer is in flight now.
    @ivar silent: whether its first frame is still missing.
    @ivar was_read: whether we read all that came since the last sweep; time in
        which we did not is no fault of the peer's.
    @ivar queue: bytes that wait for the peer to read them, C{None} where there are
        none; a change of the number is taken for progress.
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
    Stopwatches of one peer's timeouts; C{None} is one that does not run.
    """

    __slots__ = ("_first", "_frame", "_idle", "_queue", "_write")

    def __init__(self) -> None:
        self._frame: float | None = None
        self._write: float | None = None
        self._idle: float | None = None
        self._first: float | None = None
        self._queue: int | None = None

    def advance(self, timeouts: Timeouts, seconds: float, activity: PeerActivity) -> Limit | None:
        """
        Advance the stopwatches; return the timeout that is over, if one is.

        @param seconds: since the last sweep.
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
    Advance one stopwatch.

    @param lasts: whether the state holds now.
    @param anew: whether it may have ended and begun again since the last sweep.
    """
    if not lasts:
        return None
    return 0.0 if age is None or anew else age + seconds
