"""
Cache of examined queries. Each is examined before its first call, again after an error that
suggests a changed schema, and from time to time; faults are logged for the operator.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.model.errors import RouteError, StoreError
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.pool import Pool
from gateway.postgres.queries.call_queue import CallQueue, OpenQuery
from gateway.postgres.queries.catalog import examine_query

QUERY_MAX_AGE: Final = 60.0
"""Seconds after which a query is examined again, though no error suggests a change."""

QUERY_MAX_AGE_AFTER_ERROR: Final = 1.0
"""Seconds after which a query is examined again when an error suggests a change."""

LOG_FAULT_EVERY: Final = 10.0
"""Seconds after which the operator is told of another fault: some depend on what peers send."""


class QueryCache:
    """
    Cache of examined queries.
    """

    _log = Logger()

    def __init__(self, pool: Pool, timeout: float) -> None:
        """
        @param timeout: seconds for each statement of an examination.
        """
        self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._timeout = timeout

    def refresh(self, queue: CallQueue, opened: OpenQuery, now: float) -> None:
        """
        Examine a query again in the background, if that is due.
        """
        if now - opened.since > QUERY_MAX_AGE and queue.opening is None:
            self._look(queue)

    async def opened(self, queue: CallQueue) -> OpenQuery:
        """
        Return the examined query; examine it first if necessary.

        @raise StoreError: it cannot be called.
        """
        if queue.opening is None:
            if not self.again(queue):
                raise RouteError(queue.fault)
            self._look(queue)
        if queue.opening is not None:
            looked: Deferred[None] = Deferred()
            queue.opening.append(looked)
            await looked
        if queue.opened is None:
            raise RouteError(queue.fault)
        return queue.opened

    def _look(self, queue: CallQueue) -> None:
        """
        Start an examination; its end fires the Deferreds in C{opening}.
        """
        queue.opening = []
        work = Deferred.fromCoroutine(self._look_at(queue))

        def done(result: Failure | None) -> None:
            if isinstance(result, Failure) and not result.check(StoreError):
                self._log.failure(
                    "query {query}: a look at it failed",
                    result,
                    event="query-look-failed",
                    query=queue.query.name,
                )
                result = Failure(RouteError("a look at it failed for a reason nobody foresaw"))
            waiting, queue.opening = queue.opening or [], None
            for looked in waiting:
                if isinstance(result, Failure):
                    looked.errback(result)
                else:
                    looked.callback(None)

        work.addBoth(done)

    async def _look_at(self, queue: CallQueue) -> None:
        async with self._pool.checkout() as connection:
            await self.open(connection, queue)

    async def open(self, connection: Connection, queue: CallQueue) -> None:
        """
        Examine a query on this connection.

        @raise StoreError: the examination failed, or the query cannot be called.
        """
        judgement = await examine_query(connection, queue.query, self._timeout)
        now = queue.examined_at = self._clock.seconds()
        if judgement.sound is None:
            queue.opened = None
            problems = [f"{problem.key}: {problem.text}" for problem in judgement.problems]
            queue.fault = "; ".join(problems)
            raise RouteError(queue.fault)
        queue.opened = OpenQuery(judgement.sound, now)

    def again(self, queue: CallQueue) -> bool:
        """
        Say whether the last examination is old enough for another one.
        """
        return self._clock.seconds() - queue.examined_at >= QUERY_MAX_AGE_AFTER_ERROR

    def log_fault(self, queue: CallQueue, text: str) -> None:
        """
        Log one line when a query begins to fail, or fails for another reason.
        """
        now = self._clock.seconds()
        if text != queue.logged_fault and now - queue.logged_at > LOG_FAULT_EVERY:
            queue.logged_fault = text
            queue.logged_at = now
            self._log.warn(
                "query {query}: does not work, peers are told to try later: {reason}",
                event="query-broken",
                query=queue.query.name,
                reason=text,
            )

    def healed(self, queue: CallQueue) -> None:
        queue.logged_fault = ""
        self._log.info("query {query}: works again", event="query-works", query=queue.query.name)
