"""
Context that the lanes of a writer share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from gateway.commit.attempt import Attempt, NextStep
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.metrics.counters import RouteCounters
from gateway.model.batch import Batch, Chunk
from gateway.model.errors import StoreError
from gateway.model.outcome import Run
from gateway.model.store import Spooler, Store


class LaneContext(Protocol):
    """
    Context of the lanes of a writer.

    @ivar spooler: the spool; C{None} where messages are refused while the database is away.
    @ivar dead_letters: routes whose refused messages are kept.
    @ivar is_spread: whether streams are over several databases.
    @ivar new_id: makes up UUIDs of lanes.
    @ivar counters: route -> counters of its batches; made for a route that has none.
    """

    clock: IReactorTime
    store: Store
    breakers: CircuitBreakers
    spooler: Spooler | None
    dead_letters: frozenset[str]
    new_id: Callable[[], str]
    is_spread: bool
    counters: defaultdict[str, RouteCounters]

    def attempt(self, started: float, *, numbered: bool) -> Attempt:
        """
        Return the state of a commit that fails.

        @param started: when its first try began, in seconds of the clock.
        @param numbered: whether some of its rows have numbers in a stream.
        """

    def spooler_of(self, numbered: bool) -> Spooler | None:
        """
        Return the spool for a batch; C{None}: its messages are refused where the store is away.

        @param numbered: whether some of its rows have numbers in a stream.
        """

    def note_failure(
        self, attempt: Attempt, route: str, error: StoreError, others: Sequence[str] = ()
    ) -> NextStep:
        """
        Count and log what went wrong with a commit.

        @param others: routes whose batches are in the same commit.
        @return: what is to be done about it.
        @raise AssertionError: nobody will know any more whether it is stored.
        """

    def committed(
        self,
        batch: Batch,
        runs: Sequence[Run],
        started: float,
        attempt: Attempt | None,
        *,
        by_earlier_try: bool,
    ) -> None:
        """
        Count and log that a batch was committed.

        @param runs: fates of its rows.
        @param started: when its first try began, in seconds of the clock.
        @param attempt: C{None} where that was the only one.
        @param by_earlier_try: whether a try had committed it whose reply was lost.
        """

    def send_on(self, chunks: Sequence[Chunk]) -> None:
        """Move all queued chunks of some peers to other lanes, away from a batch that fails."""

    def hold(self, chunks: Sequence[Chunk]) -> None:
        """Keep all that is queued of some peers until paused routes are resumed."""

    def bug(self, failure: Failure) -> None:
        """Log an error that is a bug."""
