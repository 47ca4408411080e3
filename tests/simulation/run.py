"""
Running schedules, one seed after the other.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tests.simulation.schedule import Schedule
from tests.simulation.world import Finding

_COLLECT: Final = 50
"""Schedules between two collections; one of them leaves thousands of objects in cycles."""


class Result(NamedTuple):
    """
    What became of a schedule.

    @ivar finding: C{""} where every rule was kept.
    @ivar digest: of the trace.
    """

    seed: int
    finding: str
    trace: Sequence[str]
    digest: str


def run(seed: int) -> Result:
    """
    Run one schedule.
    """
    schedule = Schedule(seed)
    finding = ""
    try:
        schedule.run()
    except Finding as found:
        finding = str(found)
    return Result(seed, finding, schedule.world.trace, schedule.digest)


def run_all(first: int, step: int = 1) -> Iterator[Result]:
    """
    Run schedules for as long as they are asked for.

    @param step: from each seed to the next one.

    What they leave is collected between them, never within one: a coroutine that is
    collected runs its C{finally}, and when that is would be no matter of the seed.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        seed = first
        while True:
            yield run(seed)
            seed += step
            if not (seed - first) // step % _COLLECT:
                gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
