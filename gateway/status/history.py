"""
History of the last hour: samples of totals in rings of a fixed size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

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

    def growth(self, name: str, seconds: float, now: Mapping[str, float]) -> float:
        """
        Return by how much a total grew lately.

        @param seconds: for how long; the nearest sample that is older counts, else the oldest.
        @param now: the totals now.
        """
        if not self._times:
            return 0.0
        since = self._times[-1] - seconds
        oldest: Mapping[str, float] = self._totals[0]
        # From the end, where it is near.
        for time, totals in zip(reversed(self._times), reversed(self._totals), strict=True):
            if time <= since:
                oldest = totals
                break
        return max(0.0, now.get(name, 0.0) - oldest.get(name, 0.0))
