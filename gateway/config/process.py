"""
Section C{[process]}: how many processes the gateway is, and the share of each in its limits.

Pure.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

MOST_WORKERS: Final = 256
"""Workers; each has a pool, a spool and some 60 MiB of its own."""

MIN_SPOOL: Final = 1024 * 1024
"""Bytes that a spool may have at least, as C{spool.max_bytes} does."""


class ProcessSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[process]}.

    @ivar workers: processes that serve peers; 1: the gateway is one process; C{auto}: one for each
        core that it may use.
    """

    workers: Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | Literal["auto"] = 1

    def count(self, cores: int) -> int:
        """
        Return the number of workers.

        @param cores: that this process may use.
        """
        return min(cores, MOST_WORKERS) if self.workers == "auto" else self.workers


def share_of(total: int, number: int, workers: int, least: int = 1) -> int:
    """
    Return one worker's part of a limit; the parts add up to it, where it is large enough for all.

    @param number: of the worker, from 1.
    @param least: what each has at least.
    """
    part, rest = divmod(total, workers)
    return max(least, part + (number <= rest))


def sum_of_shares(total: int, workers: int) -> int:
    """Return what the workers' parts of a limit add up to."""
    return sum(share_of(total, number, workers) for number in range(1, workers + 1))


def spool_path_of(first: PurePath, number: int) -> PurePath:
    """
    Return the path of a worker's spool.

    @param first: that of worker 1.
    """
    return first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


def spool_number(first: PurePath, path: PurePath) -> int | None:
    """
    Return the number of the worker whose spool a file is; C{None}: it is none, or worker 1's.

    @param first: path of worker 1's.
    """
    begin = f"{first.stem}-"
    number = path.stem[len(begin) :]
    if path.suffix != first.suffix or not path.stem.startswith(begin):
        return None
    is_number = number.isascii() and number.isdecimal() and number[0] != "0"
    return int(number) if is_number and 1 < int(number) <= MOST_WORKERS else None
