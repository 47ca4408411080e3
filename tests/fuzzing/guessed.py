"""
One target without coverage: what hypothesis makes of its seeds.

    python -m tests.fuzzing.guessed TARGET SECONDS
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzzing.targets import TARGETS, Target

_FIRST, _MOST = 500, 10_000
"""Inputs of the first round, and of one at most; in between each has twice as many."""


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """
    Bytes, and seeds that were cut, joined and interrupted by other bytes.
    """
    seeds = st.sampled_from(target.seeds)
    place = st.integers(0, 200)
    cut = st.builds(lambda seed, start, size: seed[start : start + size], seeds, place, place)
    part = st.one_of(seeds, cut, cut, st.binary(max_size=8))
    whole = st.lists(part, max_size=6).map(b"".join)
    first = st.binary(max_size=2)
    return st.one_of(st.builds(lambda head, rest: head + rest, first, whole), whole)


def checked(target: Target, examples: int, derandomize: bool = False) -> Callable[[], None]:
    """
    Runs a target so many times, and shows the smallest input that it fails with.

    @param derandomize: whether each run tries the same.
    """

    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        database=None,
        derandomize=derandomize,
    )
    @given(inputs(target))
    def check(data: bytes) -> None:
        target.check(data)

    return check


def main(name: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    inputs_tried, at_once = 0, _FIRST
    while time.monotonic() < until:
        checked(TARGETS[name], at_once)()
        inputs_tried += at_once
        at_once = min(2 * at_once, _MOST)
    # As libFuzzer says it; ru_maxrss is in KiB.
    print(f"stat::number_of_executed_units: {inputs_tried}")
    print(f"stat::peak_rss_mb: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
