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

_AT_ONCE = 10_000


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
    rounds = 0
    while time.monotonic() < until:
        checked(TARGETS[name], _AT_ONCE)()
        rounds += 1
    # As libFuzzer says it; ru_maxrss is in KiB.
    print(f"stat::number_of_executed_units: {rounds * _AT_ONCE}")
    print(f"stat::peak_rss_mb: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
