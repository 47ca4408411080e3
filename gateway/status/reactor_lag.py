"""
Lag of the reactor: how late a timer of one second is.

A reactor that is late answers nobody meanwhile: something blocks it, or the machine has no
processor time for it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.metrics.counters import Histogram

INTERVAL: Final = 1.0
"""Seconds between two looks."""

LOOKS: Final = 60
"""Looks of which the longest lag is told."""


class ReactorLag:
    """
    Timer that measures how late it is.

    @ivar last: lag at the last look, in seconds.
    """

    def __init__(self, clock: IReactorTime, lags: Histogram) -> None:
        """
        @param lags: each lag is added to it, in seconds.
        """
        self.last = 0.0
        self._clock = clock
        self._all = lags
        self._lags: deque[float] = deque(maxlen=LOOKS)
        self._due = 0.0
        self._call: IDelayedCall | None = None

    @property
    def longest(self) -> float:
        """Longest lag of the last minute, in seconds; also one that is not over."""
        late = self._clock.seconds() - self._due if self._call is not None else 0.0
        return max(*self._lags, late, 0.0) if self._lags else max(late, 0.0)

    def start(self) -> None:
        """Begin to measure."""
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stop(self) -> None:
        """Stop measuring."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self.last = max(0.0, self._clock.seconds() - self._due)
        self._lags.append(self.last)
        self._all.add(self.last)
        self.start()
