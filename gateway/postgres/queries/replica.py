"""
How far a standby is behind its primary.

C{pg_last_xact_replay_timestamp} alone is old wherever the primary is idle, and what a standby has
received says nothing of what is still to come. So the primary is asked where its log ends, and the
standby how far it has replayed: a standby that is past a place of the log has all that was
committed before the primary was asked for it. Where the primary does not answer, the timestamp
remains, which is never too young.

What is kept is a moment: all that was committed before it can be read at the standby. It grows old
by itself while nobody answers, so that a standby that hangs is passed over without a timeout.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.model.errors import RouteError, RowError, StoreError
from gateway.postgres.connect.pool import Pool

_SHORTEST_INTERVAL: Final = 0.05
_LONGEST_INTERVAL: Final = 5.0
"""Seconds between two measurements; between these bounds a quarter of C{max_lag}."""

_MOST_PLACES: Final = 64
"""Places of the primary's log that are remembered."""

_END_OF_LOG: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"

_REPLAYED: Final = """
    SELECT pg_is_in_recovery(), pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint,
           extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
"""


class ReplicaLag:
    """
    Lag of one standby, measured from time to time.

    @ivar reason: why it is not used; C{""} while it is.
    @ivar pool: the connection over which it is measured.
    """

    _log = Logger()

    def __init__(self, pool: Pool, primary: Pool, max_lag: float) -> None:
        """
        @param pool: connections to the standby, at least one.
        @param primary: connections to its primary.
        @param max_lag: seconds that it may be behind.
        """
        self.reason = "not measured yet"
        self.pool = pool
        self._primary = primary
        self._clock: IReactorTime = pool.reactor
        self._max_lag = max_lag
        self._interval = min(_LONGEST_INTERVAL, max(_SHORTEST_INTERVAL, max_lag / 4))
        self._timeout = max(1.0, max_lag)
        self._fresh_at = float("-inf")
        self._places: deque[tuple[int, float]] = deque(maxlen=_MOST_PLACES)
        self._next: IDelayedCall | None = None
        self._running = False
        self._used = False
        self._logged = False

    @property
    def seconds(self) -> float | None:
        """How far it is behind, at most; C{None} where that was never known."""
        lag = self._clock.seconds() - self._fresh_at
        return None if lag == float("inf") else lag

    def start(self, dsn: str) -> None:
        """Connect and begin to measure; calling it again is harmless."""
        if not self._running:
            self._running = True
            self.pool.start(dsn)
            self._measure()

    def close(self) -> None:
        """Disconnect, and measure no more."""
        self._running = False
        self.pool.close()
        if self._next is not None and self._next.active():
            self._next.cancel()

    @property
    def is_well(self) -> bool:
        """Whether it is known to be no further behind than it may be."""
        return self._clock.seconds() - self._fresh_at <= self._max_lag

    def may_answer(self) -> bool:
        """Say whether it may answer now, and log where that has changed."""
        is_well = self.is_well
        if is_well is not self._used or (not is_well and not self._logged):
            self._note(is_well)
        return is_well

    def lose(self, reason: str) -> None:
        """Pass it over until the next measurement, since it did not answer a call."""
        self._fresh_at = float("-inf")
        self.reason = reason
        self.may_answer()

    def _note(self, is_well: bool) -> None:
        """Log that it is used from now on, or not."""
        if is_well:
            self.reason = ""
            if self._logged:
                self._log.info(
                    "database {database}: answers queries again",
                    event="replica-used",
                    database=self.pool.name,
                )
            self._logged = False
        else:
            if self._used:
                self.reason = self.reason or self._behind()
            elif self.reason == "not measured yet":
                return  # the first calls come before the first measurement
            self._logged = True
            self._log.warn(
                "database {database}: passed over, the primary answers its queries: {reason}",
                event="replica-passed-over",
                database=self.pool.name,
                reason=self.reason,
            )
        self._used = is_well

    def _measure(self) -> None:
        self._next = None
        Deferred.fromCoroutine(self._look()).addErrback(self._failed).addCallback(self._measured)

    def _measured(self, result: None) -> None:
        self.may_answer()
        if self._running:
            self._next = self._clock.callLater(self._interval, self._measure)

    async def _look(self) -> None:
        with suppress(StoreError):  # then its age remains, as far as the standby knows it
            await self._ask_primary()
        async with self.pool.checkout() as connection:
            began = self._clock.seconds()
            rows = await connection.query(_REPLAYED, None, self._timeout)
        ((is_standby, replayed, age),) = rows
        fresh_at = began
        if is_standby:
            fresh_at = float("-inf") if age is None else began - max(0.0, age)
            while self._places and replayed is not None and self._places[0][0] <= replayed:
                fresh_at = max(fresh_at, self._places.popleft()[1])
        self._fresh_at = max(fresh_at, self._fresh_at)
        behind = self._clock.seconds() - self._fresh_at
        if behind <= self._max_lag:
            self.reason = ""
        elif behind == float("inf"):
            self.reason = "it does not say how far it is behind"
        else:
            self.reason = self._behind()

    def _behind(self) -> str:
        """Say how far it is behind, as far as is known."""
        behind = self._clock.seconds() - self._fresh_at
        return f"it may be {behind:.1f} s behind, max_lag is {self._max_lag:g} s"

    async def _ask_primary(self) -> None:
        """Remember where the primary's log ends, and when it was asked."""
        now = self._clock.seconds()
        async with self._primary.checkout() as connection:
            try:
                ((end,),) = await connection.query(_END_OF_LOG, None, self._timeout)
            except (RouteError, RowError):
                return  # a server that calls it otherwise
        if self._places and end < self._places[-1][0]:
            self._places.clear()  # another server, or an older state
        self._places.append((end, now))

    def _failed(self, failure: Failure) -> None:
        if failure.check(StoreError):
            self.reason = str(failure.value)
        else:
            self._log.failure(
                "database {database}: its lag was not measured",
                failure,
                event="replica-lag-failed",
                database=self.pool.name,
            )
