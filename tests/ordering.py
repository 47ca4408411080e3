"""
Order of the tests of a run by several processes: the long ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def long_first(items: Sequence[T], is_long: Callable[[T], object], processes: int) -> list[T]:
    """
    Give each process its share of the long tests, then of the others.

    @param processes: as xdist's C{worksteal} deals, each has so many tests in a row at first.
    """
    long = [item for item in items if is_long(item)]
    others = iter([item for item in items if not is_long(item)])
    found: list[T] = []
    for process in range(processes):
        share = (len(items) - len(found)) // (processes - process)
        first = long[process::processes]
        found += [*first, *islice(others, max(0, share - len(first)))]
    return [*found, *others]
