"""
Run schedules until one breaks a rule of the promise, or until stopped.

    python -m tests.simulation                          # from a seed of the time of day, on and on
    python -m tests.simulation --first 1 --schedules 100000
    python -m tests.simulation --seconds 600
    python -m tests.simulation --spread                 # those with two databases alone
    python -m tests.simulation --seed 4711              # this one, with its trace

Prints the seed and the trace of what it finds, and exits with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

from twisted.logger import globalLogBeginner

from tests.simulation.run import Result, run, run_all
from tests.simulation.schedule import SPREAD

_EVERY: Final = 10.0
"""Seconds between two lines about how far it is."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="run this one, and print its trace")
    parser.add_argument("--first", type=int, help="the first seed")
    parser.add_argument("--spread", action="store_true", help="those with two databases alone")
    parser.add_argument("--schedules", type=int, default=0, help="so many; 0: any number")
    parser.add_argument("--seconds", type=float, default=0.0, help="for so long; 0: for ever")
    parser.add_argument("--verbose", action="store_true", help="print each seed with its digest")
    options = parser.parse_args(arguments)
    # Nobody reads the gateways' logs here.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    if options.seed is not None:
        result = run(options.seed)
        show(result)
        return int(bool(result.finding))
    first = int(time.time()) * 1000 if options.first is None else options.first
    step = SPREAD if options.spread else 1
    first -= first % step
    started = said = time.monotonic()
    for count, result in enumerate(run_all(first, step), 1):
        if options.verbose:
            print(result.seed, result.digest)
        if result.finding:
            show(result)
        now = time.monotonic()
        taken = now - started
        last = bool(result.finding) or count == options.schedules
        last = last or 0 < options.seconds < taken
        if last or now - said > _EVERY:
            said = now
            print(
                f"{count} schedules, seeds {first} to {result.seed},"
                f" {count / taken:.0f} a second, {'a finding' if result.finding else 'none found'}",
                flush=True,
            )
        if last:
            return int(bool(result.finding))
    return 0


def show(result: Result) -> None:
    """Print a trace, and what was found."""
    for line in result.trace:
        print(line)
    print(f"seed {result.seed}: {result.finding or 'every rule is kept'}")
    print(f"trace {result.digest}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
