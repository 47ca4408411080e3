"""
What a schedule hangs on: time, chance, and the record of what happened.

Nothing in a schedule asks the operating system for anything: all chance comes from one
generator, all identifiers from one counter, and time moves only when the schedule says so.
"""

from __future__ import annotations

from random import Random

from twisted.internet.task import Clock


class Finding(Exception):
    """A rule of the promise is broken."""


class Endless(BaseException):
    """An event has no end; nothing that takes C{Exception} for a bug to live with goes on."""


MOST = 10_000
"""Statements and flushes of one event."""


class World:
    """
    Time, chance and record of one schedule.

    @ivar random: the only source of chance.
    @ivar now: seconds since the schedule began.
    @ivar trace: what happened, one line an event.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.trace: list[str] = []
        self._clocks: list[Clock] = []
        self._ids = self._commits = 0
        self._counted = 0

    def note(self, text: str) -> None:
        """Write a line into the trace."""
        self.trace.append(f"{self.now:7.2f} {text}")

    def begin_event(self) -> None:
        """What follows is another event."""
        self._counted = 0

    def count(self) -> None:
        """
        Count a statement or a flush.

        @raise Endless: there are too many in one event.
        """
        self._counted += 1
        if self._counted > MOST:
            raise Endless

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return self.random.random() < probability

    def new_id(self) -> str:
        """Make up a UUID."""
        self._ids += 1
        return f"00000000-0000-4000-8000-{self._ids:012x}"

    def next_commit(self) -> int:
        """Number a commit, in whatever database, from 1."""
        self._commits += 1
        return self._commits

    def clock(self) -> Clock:
        """Make a clock for a process that begins now."""
        clock = Clock()
        clock.rightNow = self.now
        self._clocks.append(clock)
        return clock

    def drop_clock(self, clock: Clock) -> None:
        """Drop the timers of a process that has ended."""
        self._clocks.remove(clock)

    def next_timer(self) -> float | None:
        """
        @return: seconds until the first timer is due; C{None} where there is none.
        """
        due = [call.getTime() for clock in self._clocks for call in clock.calls]
        return max(0.0, min(due) - self.now) if due else None

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what is due by then."""
        self.now += seconds
        for clock in list(self._clocks):
            clock.rightNow = self.now
            clock.advance(0)
