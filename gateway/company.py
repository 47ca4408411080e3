"""
What the lanes of a writer share, and how long they try.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from gateway.batch import Chunk
from gateway.errors import StoreError
from gateway.gate import Gates
from gateway.reply import Code, goodbye
from gateway.store import Detour, Store

RETRY_FOR: Final = 10.0
"""Seconds for which a batch is tried again after errors that pass."""

BLAME_AFTER: Final = 4
"""Attempts that failed for a reason that mostly passes, after which rows are refused for it..."""

BLAME_FOR: Final = 3.0
"""... and seconds since the first of them: a trigger's NOWAIT meets the same lock many times."""

OPEN_FOR: Final = 86400.0
"""
Seconds after which a batch whose fate is open is given up, where no spool takes it:
the row its fence is in is not kept for ever.
"""

BUG: Final = goodbye(Code.INTERNAL, "the gateway failed; whether this was stored is not known")


def backoff(attempt: int, jitter: Callable[[], float] = random.random) -> float:
    """
    Seconds to wait before the next attempt: full jitter, 50 ms doubling up to 2 s.

    @param attempt: how many attempts have failed, from 1.
    @param jitter: gives numbers in [0, 1).
    @see: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    ceiling: float = min(2.0, 0.05 * 2.0 ** min(attempt - 1, 10))
    return ceiling * jitter()


class Trouble:
    """Attempts that failed for a reason that mostly passes by itself."""

    __slots__ = ("_since", "_times")

    def __init__(self) -> None:
        self._times = 0
        self._since = 0.0

    def note(self, now: float) -> None:
        """
        One more of them.

        @param now: seconds of a clock that never goes back.
        """
        if not self._times:
            self._since = now
        self._times += 1

    def lasts(self, now: float) -> bool:
        """
        Say whether rows are to be refused for it, since it does not pass by itself.
        """
        return self._times >= BLAME_AFTER and now - self._since >= BLAME_FOR


class Company(Protocol):
    """
    What the lanes of a writer share.

    @ivar detour: the spool; C{None} where messages are refused while the database is away.
    @ivar dead_letters: routes whose refused messages are kept.
    @ivar new_id: makes up UUIDs of lanes.
    @ivar answer_timeout: seconds after which a batch that was sent and has no answer goes to
        the spool.
    @ivar unknown: how often a connection was lost with a batch in flight.
    @ivar resolved: how often the fence showed that such a batch had been committed.
    """

    clock: IReactorTime
    store: Store
    gates: Gates
    detour: Detour | None
    dead_letters: frozenset[str]
    new_id: Callable[[], str]
    answer_timeout: float
    unknown: int
    resolved: int

    def troubled(self, route: str, error: StoreError) -> None:
        """A route's batches cannot be stored just now."""

    def well(self, route: str) -> None:
        """A batch of this route was stored."""

    def send_on(self, chunks: Sequence[Chunk]) -> None:
        """All that some peers have under way waits behind others' trouble: to other lanes."""

    def bug(self, failure: Failure) -> None:
        """What nobody foresaw."""
