"""
Traffic of the last minute and the last hour, from the history of totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.status.history import History, rates_between
from gateway.status.status import Status
from gateway.status.warnings import LATELY, totals_of

HOUR: Final = 3600.0

_POINTS: Final = 60
"""Of an hour's line: it is not wider than that on a phone."""


class Traffic:
    """
    Rates of what is counted, by the names that L{totals_of} gives.

    @ivar ages: how long ago each value of L{hour} was, in seconds, the oldest first.
    """

    def __init__(self, status: Status, history: History, time: float) -> None:
        """
        @param time: now, by the clock of the history.
        """
        samples = history.samples()
        self._now = totals_of(status)
        self._recent = history.recent(LATELY, time, self._now)
        self._hour = history.samples(max(1, -(-len(samples) // _POINTS)))
        self.ages = [time - sample[0] for sample in self._hour[1:]]

    def rate(self, *names: str) -> float:
        """Return by how much totals grew in a second of the last minute, together."""
        return self._recent.rate(*names)

    def growth(self, *names: str) -> float:
        """Return by how much totals grew in the last hour, together."""
        before = self._hour[0][1] if self._hour else self._now
        return sum(max(0.0, self._now.get(name, 0.0) - before.get(name, 0.0)) for name in names)

    def hour(self, *names: str) -> Sequence[float]:
        """Return by how much totals grew in a second during the last hour, together."""
        lines = [rates_between(self._hour, name) for name in names]
        return [sum(values) for values in zip(*lines, strict=True)] if lines else []
