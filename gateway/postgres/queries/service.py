"""
Answer calls of queries from PostgreSQL: calls are gathered, and one statement answers many.

While a statement of a query is in flight, or all connections for queries are busy, calls are
gathered; then those of one query go together in one round trip. Calls that come in one turn of the
reactor are gathered as well. Where a group fails, its calls are sent one by one, so that each gets
its own answer; a group has a short timeout, so that one slow call delays the others by no more than
that. The size of groups adapts to how long they take.

Queries have a pool of their own: a slow query delays other queries at most, never a store; and slow
ones never use all of its connections, unless there is only one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.columns.kind import Misfit, excerpt
from gateway.config.load import Database
from gateway.metrics.counters import QueryCounters
from gateway.model import wording
from gateway.model.errors import OutcomeUnknown, RouteError, StoreError, Unavailable
from gateway.model.outcome import Code, Outcome, Word, refused
from gateway.model.query import OnOutcome, Query
from gateway.model.route import HOME
from gateway.model.text import meant
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.pool import Pool
from gateway.postgres.queries.call_queue import (
    GATHER_SECONDS,
    SLOW_STATEMENT_SECONDS,
    Call,
    CallQueue,
    OpenQuery,
)
from gateway.postgres.queries.catalog import examine_query
from gateway.postgres.queries.executor import MARGIN, CallAnswer, CallExecutor, call_outcome
from gateway.postgres.queries.query_cache import QueryCache
from gateway.sql.sqlstate import READ_ONLY

MOST_WAITING: Final = 10_000
"""Calls without an answer, beyond which there is no room for another."""

GROUP_TIMEOUT: Final = 0.5
"""Seconds that several calls together may take before they are asked one by one."""


def query_pool(
    settings: Database,
    reactor: Any,
    backoff: Callable[[int], float],
    connector: Connector | None = None,
    name: str = HOME,
) -> Pool:
    """
    Return the pool for queries, which opens connections when they are needed. It logs nothing above
    debug level, since the main pool logs the state of the database.

    @param name: of the database.
    """
    share = replace(settings, pool_min=0, pool_max=settings.query_connections)
    return Pool(share, reactor, backoff, connector, quiet=True, name=name)


class PostgresQueries:
    """
    Service that answers calls through a pool of its own.

    @ivar in_flight: number of calls without an answer.
    @ivar fallback: is given a call that this database cannot answer now: what the answer would be,
        the query's name, its arguments and the callback. Returns whether it takes the call.
        C{None}: there is none.
    """

    _log = Logger()

    def __init__(
        self,
        queries: Mapping[str, Query],
        pool: Pool,
        settings: Database,
        counters: defaultdict[str, QueryCounters] | None = None,
    ) -> None:
        """
        @param counters: query -> its counters, where several databases answer it.
        """
        self.in_flight = 0
        self.fallback: Callable[[Outcome, str, bytes, OnOutcome], bool] | None = None
        self._counters = defaultdict(QueryCounters) if counters is None else counters
        self._queues = {
            name: CallQueue(query, self._counters[name]) for name, query in queries.items()
        }
        self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._acquire_timeout = settings.acquire_timeout
        self._query_cache = QueryCache(pool, settings.statement_timeout + MARGIN)
        self._most = settings.query_connections
        self._timeout = settings.statement_timeout + MARGIN
        self._dsn: str | None = None
        self._executor = CallExecutor()
        self._turns: deque[CallQueue] = deque()
        self._closed = False
        self._started = False
        self._running = 0
        self._running_slow = 0
        self._soon: IDelayedCall | None = None
        self._later: IDelayedCall | None = None
        self._sweep: IDelayedCall | None = None

    @property
    def counters(self) -> Mapping[str, QueryCounters]:
        """Query -> counters of its calls."""
        return {name: queue.counters for name, queue in self._queues.items()}

    @property
    def is_started(self) -> bool:
        """Whether it was told where the database is."""
        return self._dsn is not None

    def start(self, dsn: str) -> None:
        """
        Start the pool, if there are queries; C{dsn} is as for L{Pool.start}.
        """
        self._dsn = dsn
        if self._queues:
            self._start_pool()

    def _start_pool(self) -> None:
        if not self._started and self._dsn is not None:
            self._started = True
            self._pool.start(self._dsn)

    async def check(self, queries: Iterable[Query]) -> list[str]:
        """
        Return the problems for which queries could not be called, one line each.

        @raise StoreError: the database could not tell.
        """
        self._start_pool()
        problems: list[str] = []
        async with self._pool.checkout() as connection:
            for query in queries:
                judgement = await examine_query(connection, query, self._timeout)
                problems += [
                    f"queries.{query.name}.{problem.key}: {problem.text}"
                    for problem in judgement.problems
                ]
        return problems

    def replace(self, queries: Mapping[str, Query], changed: Collection[str]) -> None:
        """
        Replace the queries. Calls that wait or are in flight are answered by those until now.

        @param changed: names of those that are others now.
        """
        before, self._queues = self._queues, {}
        for name, query in queries.items():
            queue = before.get(name)
            if queue is None or name in changed:
                queue = CallQueue(query, self._counters[name])
            self._queues[name] = queue
        if queries:
            self._start_pool()

    def close(self) -> None:
        """
        Disconnect, and answer all waiting calls.
        """
        self._closed = True
        for timer in (self._soon, self._later, self._sweep):
            if timer is not None and timer.active():
                timer.cancel()
        turns, self._turns = self._turns, deque()
        for queue in turns:
            while queue.calls:
                self._settle(queue.calls.popleft(), wording.NO_CONNECTION)
        self._pool.close()

    async def answer_call(self, name: str, arguments: bytes) -> CallAnswer:
        """
        Answer a call, as L{ask} does.
        """
        answer: Deferred[CallAnswer] = Deferred()
        self.ask(name, arguments, answer.callback)
        return await answer

    def ask(self, name: str, arguments: bytes, on_outcome: OnOutcome) -> None:
        queue = self._queues.get(name)
        if queue is None:
            on_outcome(wording.no_query(excerpt(name), meant(name, self._queues)))
            return
        if self.in_flight >= MOST_WAITING or self._closed:
            refusal = wording.NO_CONNECTION if self._closed else wording.TOO_MANY_CALLS
            queue.counters.answered(refusal, 0.0)
            on_outcome(refusal)
            return
        self.in_flight += 1
        now = self._clock.seconds()
        call = Call(queue, now, arguments, on_outcome)
        opened = queue.opened
        if opened is None:
            Deferred.fromCoroutine(self._ask_first(queue, call))
            return
        self._query_cache.refresh(queue, opened, now)
        self._enter(queue, opened, call)

    async def _ask_first(self, queue: CallQueue, call: Call) -> None:
        """
        Do the same as L{ask}, for a query that must be examined first.
        """
        try:
            opened = await self._query_cache.opened(queue)
        except StoreError as error:
            self._settle(call, self._outcome(queue, error))
        else:
            self._enter(queue, opened, call)

    def _enter(self, queue: CallQueue, opened: OpenQuery, call: Call) -> None:
        try:
            call.elements = opened.arguments.parse(call.arguments)
        except Misfit as misfit:
            self._settle(call, refused(Code.QUERY, str(misfit)))
        else:
            self._gather(queue, call)

    def _settle(self, call: Call, answer: CallAnswer) -> None:
        """
        Answer a call, once.
        """
        on_outcome, call.on_outcome = call.on_outcome, None
        if on_outcome is not None:
            self.in_flight -= 1
            queue = call.queue
            try:
                if (
                    self.fallback is not None
                    and isinstance(answer, Outcome)
                    and answer.word is Word.TRY
                    and self.fallback(answer, queue.query.name, call.arguments, on_outcome)
                ):
                    return
                queue.counters.answered(answer, self._clock.seconds() - call.since)
                on_outcome(answer)
            except Exception:  # noqa: BLE001 - what befalls one peer must not befall the others
                self._log.failure("an answer could not be told", event="query-answer-failed")

    # Gathering.

    def _gather(self, queue: CallQueue, call: Call) -> None:
        if not queue.calls:
            self._turns.append(queue)
        queue.calls.append(call)
        if self._running < self._most:
            self._dispatch_soon()
        if self._sweep is None:
            self._sweep = self._clock.callLater(self._acquire_timeout, self._look_for_old)

    def _dispatch_soon(self) -> None:
        """
        Schedule a dispatch for the end of this turn of the reactor.
        """
        if self._soon is None:
            self._soon = self._clock.callLater(0, self._dispatch)

    def _dispatch(self) -> None:
        self._soon = None
        passed = 0
        while self._running < self._most and passed < len(self._turns):
            queue = self._turns.popleft()
            if self._begin(queue):
                passed = 0
            else:
                self._turns.append(queue)
                passed += 1

    def _begin(self, queue: CallQueue) -> bool:
        """
        Send the next calls of a query; return whether any left the queue.
        """
        slow = queue.pace >= SLOW_STATEMENT_SECONDS
        if slow and self._running_slow >= max(1, self._most - 1):
            return False
        now = self._clock.seconds()
        if queue.prompt(now):
            # A few more calls cost the next statement less than a statement of their own.
            if self._later is None:
                self._later = self._clock.callLater(GATHER_SECONDS, self._dispatch_later)
            return False
        opened = queue.opened
        if opened is None:
            # An examination found a fault meanwhile; the next call examines again. A callback may
            # call at once, so the queue is emptied before any callback runs.
            waiting, queue.calls = queue.calls, deque()
            for call in waiting:
                self._settle(call, wording.QUERY_OUT_OF_ORDER)
            return True
        calls = queue.take_calls(opened)
        if queue.calls:
            self._turns.append(queue)
        queue.running += 1
        queue.began = now
        self._running += 1
        self._running_slow += slow
        Deferred.fromCoroutine(self._ask(queue, opened, calls)).addBoth(
            self._calls_done, queue, calls, slow
        )
        return True

    def _dispatch_later(self) -> None:
        self._later = None
        self._dispatch()

    def _calls_done(
        self, result: Failure | None, queue: CallQueue, calls: list[Call], slow: bool
    ) -> None:
        queue.running -= 1
        self._running -= 1
        self._running_slow -= slow
        if isinstance(result, Failure):
            self._log.failure("a query failed", event="query-failed", failure=result)
            for call in calls:
                self._settle(call, wording.CALL_FAILED)
        if self._turns:
            self._dispatch_soon()

    def _look_for_old(self) -> None:
        """
        Answer calls that have waited too long with an error; each queue begins with its oldest
        call.
        """
        self._sweep = None
        until = self._clock.seconds() - self._acquire_timeout
        old = []
        for queue in list(self._turns):
            while queue.calls and queue.calls[0].since <= until:
                old.append(queue.calls.popleft())
            if not queue.calls:
                self._turns.remove(queue)
        if self._turns:
            self._sweep = self._clock.callLater(self._acquire_timeout / 4, self._look_for_old)
        for call in old:
            self._settle(call, self._not_reached())

    def _not_reached(self) -> Outcome:
        if self._pool.size:
            return wording.QUERIES_BUSY
        return wording.NO_CONNECTION

    # Asking.

    async def _ask(self, queue: CallQueue, opened: OpenQuery, calls: list[Call]) -> None:
        try:
            async with self._pool.checkout() as connection:
                begun = self._clock.seconds()
                try:
                    answers = await self._answers(connection, queue, opened, calls)
                finally:
                    queue.took(self._clock.seconds() - begun, len(calls))
        except StoreError as error:
            again = len(calls) > 1 or (isinstance(error, OutcomeUnknown) and not calls[0].alone)
            if again and not isinstance(error, Unavailable) and not self._closed:
                self._one_by_one(queue, calls)
                return
            outcome = self._outcome(queue, error)
            for call in calls:
                self._settle(call, outcome)
            return
        if answers is None:
            queue.together = 1
            self._one_by_one(queue, calls)
            return
        if queue.logged_fault:
            self._query_cache.healed(queue)
        for call, answer in zip(calls, answers, strict=True):
            self._settle(call, answer)

    async def _answers(
        self, connection: Connection, queue: CallQueue, opened: OpenQuery, calls: list[Call]
    ) -> list[CallAnswer] | None:
        """
        Run calls; after an error that suggests a changed schema, examine the query and run them
        again.

        @return: C{None} where the answers together are too large.
        @raise StoreError: no call has an answer.
        """
        try:
            return await self._run(connection, queue.query, opened, calls)
        except RouteError:
            # The schema may have changed under us: look again, then say so.
            if not self._query_cache.again(queue):
                raise
        await self._query_cache.open(connection, queue)
        assert queue.opened is not None
        return await self._run(connection, queue.query, queue.opened, calls)

    async def _run(
        self, connection: Connection, query: Query, opened: OpenQuery, calls: list[Call]
    ) -> list[CallAnswer] | None:
        elements = [call.elements for call in calls]
        if not query.read_only:
            return [
                await self._executor.run_writing(connection, query, opened.statement, elements[0])
            ]
        timeout = query.timeout if len(calls) == 1 else min(query.timeout, GROUP_TIMEOUT)
        return await self._executor.run_read_only(
            connection, query, opened.statement, elements, timeout
        )

    def _one_by_one(self, queue: CallQueue, calls: list[Call]) -> None:
        if not queue.calls:
            self._turns.append(queue)
        for call in calls:
            call.alone = True
        queue.calls.extendleft(reversed(calls))

    # Errors.

    def _outcome(self, queue: CallQueue, error: StoreError) -> Outcome:
        if not isinstance(error, RouteError):
            return call_outcome(error, queue.query)
        hint = "; set read_only = false" if error.sqlstate == READ_ONLY else ""
        self._query_cache.log_fault(queue, f"{error}{hint}")
        return wording.QUERY_OUT_OF_ORDER
