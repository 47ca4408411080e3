"""
History of the last hour: samples of totals in rings of a fixed size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

INTERVAL: Final = 10.0
"""Seconds between two samples."""

SAMPLES: Final = 360
"""Samples that are kept: an hour."""


Sample = tuple[float, Mapping[str, float]]
"""Time in seconds, and the totals then."""


def rates_between(samples: Sequence[Sample], name: str) -> list[float]:
    """
    Return by how much a total grew in each second, for each pair of samples.

    A total that is not in a sample was 0 then.
    """
    found = []
    for (since, before), (until, after) in pairwise(samples):
        seconds = until - since
        grown = after.get(name, 0.0) - before.get(name, 0.0)
        found.append(max(0.0, grown) / seconds if seconds > 0 else 0.0)
    return found


class History:
    """
    Samples of totals that only grow, by their names; the oldest give way to the newest.
    """

    def __init__(self, samples: int = SAMPLES) -> None:
        self._times: deque[float] = deque(maxlen=samples + 1)
        self._totals: deque[Mapping[str, float]] = deque(maxlen=samples + 1)

    def add(self, time: float, totals: Mapping[str, float]) -> None:
        """
        Add a sample.

        @param time: in seconds; it only grows.
        @param totals: name -> total; a name may come and go.
        """
        self._times.append(time)
        self._totals.append(totals)

    def samples(self, step: int = 1) -> list[Sample]:
        """
        Return samples, the oldest first: the newest one, and those before it at a distance.

        @param step: the distance, in samples.
        """
        kept = list(zip(self._times, self._totals, strict=True))
        return kept[(len(kept) - 1) % step :: step] if kept else []

    def recent(self, seconds: float, time: float, totals: Mapping[str, float]) -> Recent:
        """
        Compare totals now with those of a while ago.

        @param seconds: for how long; the nearest sample that is older counts, else the oldest.
        @param time: now, by the clock of the samples.
        @param totals: now.
        """
        since, before = (self._times[0], self._totals[0]) if self._times else (time, totals)
        # From the end, where it is near.
        for sampled, found in zip(reversed(self._times), reversed(self._totals), strict=True):
            if sampled <= time - seconds:
                since, before = sampled, found
                break
        return Recent(time - since, before, totals)


class Recent(NamedTuple):
    """
    Growth of totals over a while.

    @ivar seconds: how long that is.
    """

    seconds: float
    before: Mapping[str, float]
    now: Mapping[str, float]

    def growth(self, *names: str) -> float:
        """Return by how much totals grew, together."""
        return sum(max(0.0, self.now.get(n, 0.0) - self.before.get(n, 0.0)) for n in names)

    def rate(self, *names: str) -> float:
        """Return by how much totals grew in a second, together."""
        return self.growth(*names) / self.seconds if self.seconds > 0 else 0.0
