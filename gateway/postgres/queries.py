"""
The Queries that ask PostgreSQL: calls gather, and many are answered by one statement.

While the connections of the share are busy, calls gather; when one is free, the calls of
one query go together in one round trip. What a reactor's turn brings is gathered as well.
Where a group fails, its calls are asked one by one, so that each gets an answer of its own,
and a group's patience is short, so that one slow call delays its group by no more than that.
How many go together follows from how long they take.

The share is a pool of its own: a slow query holds up other queries at most, never a store;
and slow ones never have all of the share, where it has several connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.columns.kind import Misfit, shown
from gateway.config import Database
from gateway.errors import (
    OutcomeUnknown,
    RouteError,
    RowError,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.postgres.answering import MARGIN, Answer, Answering
from gateway.postgres.asked import SLOW, Asked, Call, Open
from gateway.postgres.connection import Connection
from gateway.postgres.opening import Opener
from gateway.postgres.pool import Pool
from gateway.postgres.query_catalog import examine_query
from gateway.query import Query
from gateway.reply import RETRY_AFTER, Code, Outcome, goodbye, refused, try_later
from gateway.sections import meant
from gateway.sql.asking import too_large
from gateway.sql.sqlstate import CANCELLED, READ_ONLY, TOO_LARGE

MOST_WAITING: Final = 10_000
"""Calls without an answer, beyond which there is no room for another."""

PATIENCE: Final = 0.5
"""Seconds that several calls together may take before they are asked one by one."""

LOOKED_AT_FOR: Final = 60.0
"""Seconds after which a query is looked at again, though no error says that anything changed."""

LOOKED_AT_AGAIN: Final = 1.0
"""Seconds after which it is, when an error says so."""

SAID_AGAIN: Final = 10.0
"""Seconds after which the operator is told of another fault: some depend on what peers send."""

_OUT_OF_ORDER: Final = try_later(Code.QUERY, "the query does not work just now")
_NO_ROOM: Final = try_later(Code.BUSY, "too many calls are waiting", RETRY_AFTER)
_BUG: Final = goodbye(Code.INTERNAL, "the gateway failed; whether this was done is not known")


def query_pool(
    settings: Database, reactor: Any, backoff: Callable[[int], float], opener: Opener | None = None
) -> Pool:
    """
    The share of the connections that queries have, opened when they are needed. What there is
    to say of the database the main pool says.
    """
    share = replace(settings, pool_min=0, pool_max=settings.query_connections)
    return Pool(share, reactor, backoff, opener, quiet=True)


class PostgresQueries:
    """
    Answers calls through a pool of its own.

    @ivar in_flight: calls that have no answer yet.
    """

    _log = Logger()

    def __init__(self, queries: Mapping[str, Query], pool: Pool, settings: Database) -> None:
        self.in_flight = 0
        self._asked = {name: Asked(query) for name, query in queries.items()}
        self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._patience = settings.acquire_timeout
        self._look_timeout = settings.statement_timeout + MARGIN
        self._most = settings.query_connections
        self._answering = Answering()
        self._turns: deque[Asked] = deque()
        self._closed = False
        self._running = 0
        self._running_slow = 0
        self._soon: IDelayedCall | None = None
        self._sweep: IDelayedCall | None = None

    def start(self, dsn: str) -> None:
        """
        @param dsn: as for L{Pool.start}.
        """
        if self._asked:
            self._pool.start(dsn)

    def close(self) -> None:
        """
        Disconnect; whoever waits for an answer gets one.
        """
        self._closed = True
        for timer in (self._soon, self._sweep):
            if timer is not None and timer.active():
                timer.cancel()
        turns, self._turns = self._turns, deque()
        for asked in turns:
            while asked.calls:
                asked.calls.popleft().answer.callback(_down())
        self._pool.close()

    async def call(self, name: str, arguments: bytes) -> Answer:
        asked = self._asked.get(name)
        if asked is None:
            return refused(Code.QUERY, f"no query {shown(name)}{meant(name, self._asked)}")
        if self.in_flight >= MOST_WAITING:
            return _NO_ROOM
        if self._closed:
            return _down()
        self.in_flight += 1
        try:
            opened = asked.opened
            if opened is None:
                opened = await self._opened(asked)
            elif self._clock.seconds() - opened.since > LOOKED_AT_FOR and asked.opening is None:
                self._look(asked)
            call = Call(opened.arguments.read(arguments), self._clock.seconds())
            self._gather(asked, call)
            return await call.answer
        except Misfit as misfit:
            return refused(Code.QUERY, str(misfit))
        except StoreError as error:
            return self._outcome(asked, error)
        finally:
            self.in_flight -= 1

    # Looking at queries.

    async def _opened(self, asked: Asked) -> Open:
        """
        @raise StoreError: it cannot be called.
        """
        if asked.opening is None:
            if self._clock.seconds() - asked.looked_at < LOOKED_AT_AGAIN:
                raise RouteError(asked.fault)
            self._look(asked)
        if asked.opening is not None:
            looked: Deferred[None] = Deferred()
            asked.opening.append(looked)
            await looked
        if asked.opened is None:
            raise RouteError(asked.fault)
        return asked.opened

    def _look(self, asked: Asked) -> None:
        """
        Begin to look at a query; those in C{opening} are told.
        """
        asked.opening = []
        work = Deferred.fromCoroutine(self._look_at(asked))

        def done(result: Failure | None) -> None:
            waiting, asked.opening = asked.opening or [], None
            for looked in waiting:
                if isinstance(result, Failure):
                    looked.errback(result)
                else:
                    looked.callback(None)
            if isinstance(result, Failure) and not result.check(StoreError):
                self._log.failure(
                    "query {name}: looking at it failed", result, name=asked.query.name
                )

        work.addBoth(done)

    async def _look_at(self, asked: Asked) -> None:
        async with self._pool.checkout() as connection:
            await self._open(connection, asked)

    async def _open(self, connection: Connection, asked: Asked) -> None:
        """
        @raise StoreError: it could not be looked at, or cannot be called.
        """
        judgement = await examine_query(connection, asked.query, self._look_timeout)
        now = asked.looked_at = self._clock.seconds()
        if judgement.sound is None:
            asked.opened = None
            problems = [f"{problem.key}: {problem.text}" for problem in judgement.problems]
            asked.fault = "; ".join(problems)
            raise RouteError(asked.fault)
        asked.opened = Open(judgement.sound, now)

    # Gathering.

    def _gather(self, asked: Asked, call: Call) -> None:
        if not asked.calls:
            self._turns.append(asked)
        asked.calls.append(call)
        if self._soon is None and self._running < self._most:
            # When all that this turn of the reactor brings is here.
            self._soon = self._clock.callLater(0, self._dispatch)
        if self._sweep is None:
            self._sweep = self._clock.callLater(self._patience, self._look_for_old)

    def _dispatch(self) -> None:
        self._soon = None
        passed = 0
        while self._running < self._most and passed < len(self._turns):
            asked = self._turns.popleft()
            if self._begin(asked):
                passed = 0
            else:
                self._turns.append(asked)
                passed += 1

    def _begin(self, asked: Asked) -> bool:
        """
        @return: whether its calls are being asked.
        """
        slow = asked.pace >= SLOW
        if slow and self._running_slow >= max(1, self._most - 1):
            return False
        opened = asked.opened
        if opened is None:
            # It was found at fault meanwhile; each of them looks for itself.
            for call in asked.calls:
                call.answer.callback(_OUT_OF_ORDER)
            asked.calls.clear()
            return True
        calls = asked.take(opened)
        if asked.calls:
            self._turns.append(asked)
        self._running += 1
        self._running_slow += slow
        Deferred.fromCoroutine(self._ask(asked, opened, calls)).addBoth(
            self._asked_all, calls, slow
        )
        return True

    def _asked_all(self, result: Failure | None, calls: list[Call], slow: bool) -> None:
        self._running -= 1
        self._running_slow -= slow
        if isinstance(result, Failure):
            self._log.failure("a query failed", failure=result)
            for call in calls:
                if not call.answer.called:
                    call.answer.callback(_BUG)
        self._dispatch()

    def _look_for_old(self) -> None:
        """
        Send away those who have waited for too long; the first of each query came first.
        """
        self._sweep = None
        until = self._clock.seconds() - self._patience
        for asked in list(self._turns):
            while asked.calls and asked.calls[0].since <= until:
                asked.calls.popleft().answer.callback(self._not_reached())
            if not asked.calls:
                self._turns.remove(asked)
        if self._turns:
            self._sweep = self._clock.callLater(self._patience / 4, self._look_for_old)

    def _not_reached(self) -> Outcome:
        if self._pool.size:
            return try_later(Code.BUSY, "the connections for queries are busy", RETRY_AFTER)
        return _down()

    # Asking.

    async def _ask(self, asked: Asked, opened: Open, calls: list[Call]) -> None:
        try:
            async with self._pool.checkout() as connection:
                begun = self._clock.seconds()
                try:
                    answers = await self._answers(connection, asked, opened, calls)
                finally:
                    asked.took(self._clock.seconds() - begun, len(calls))
        except StoreError as error:
            again = len(calls) > 1 or (isinstance(error, OutcomeUnknown) and not calls[0].alone)
            if again and not isinstance(error, Unavailable) and not self._closed:
                self._one_by_one(asked, calls)
                return
            outcome = self._outcome(asked, error)
            for call in calls:
                call.answer.callback(outcome)
            return
        if answers is None:
            asked.together = 1
            self._one_by_one(asked, calls)
            return
        if asked.said:
            self._healed(asked)
        for call, answer in zip(calls, answers, strict=True):
            call.answer.callback(answer)

    async def _answers(
        self, connection: Connection, asked: Asked, opened: Open, calls: list[Call]
    ) -> list[Answer] | None:
        """
        @return: C{None} where they are too large together.
        @raise StoreError: there are none.
        """
        try:
            return await self._run(connection, asked.query, opened, calls)
        except RouteError:
            # The schema may have changed under us: look again, then say so.
            if self._clock.seconds() - asked.looked_at < LOOKED_AT_AGAIN:
                raise
        await self._open(connection, asked)
        assert asked.opened is not None
        return await self._run(connection, asked.query, asked.opened, calls)

    async def _run(
        self, connection: Connection, query: Query, opened: Open, calls: list[Call]
    ) -> list[Answer] | None:
        elements = [call.elements for call in calls]
        if not query.read_only:
            return [await self._answering.write(connection, query, opened.answerable, elements[0])]
        timeout = query.timeout if len(calls) == 1 else min(query.timeout, PATIENCE)
        return await self._answering.read(connection, query, opened.answerable, elements, timeout)

    def _one_by_one(self, asked: Asked, calls: list[Call]) -> None:
        if not asked.calls:
            self._turns.append(asked)
        for call in calls:
            call.alone = True
        asked.calls.extendleft(reversed(calls))

    # What peers and the operator are told.

    def _outcome(self, asked: Asked, error: StoreError) -> Outcome:
        if isinstance(error, RowError):
            if error.sqlstate == TOO_LARGE:
                return too_large(asked.query)
            return refused(Code.QUERY, str(error), error.sqlstate)
        if isinstance(error, TransientError):
            if error.sqlstate == CANCELLED:
                return try_later(Code.BUSY, f"no answer within {asked.query.timeout:g} s")
            return try_later(Code.BUSY, str(error), RETRY_AFTER, error.sqlstate)
        if isinstance(error, RouteError):
            hint = "; set read_only = false" if error.sqlstate == READ_ONLY else ""
            self._say(asked, f"{error}{hint}")
            return _OUT_OF_ORDER
        return _down()

    def _say(self, asked: Asked, text: str) -> None:
        """
        Log one line when a query begins to fail, or fails for another reason.
        """
        now = self._clock.seconds()
        if text != asked.said and now - asked.said_at > SAID_AGAIN:
            asked.said = text
            asked.said_at = now
            self._log.warn(
                "query {name}: does not work, peers are told to try later: {text}",
                name=asked.query.name,
                text=text,
            )

    def _healed(self, asked: Asked) -> None:
        asked.said = ""
        self._log.info("query {name}: works again", name=asked.query.name)


def _down() -> Outcome:
    return try_later(Code.DOWN, "no connection to the database", RETRY_AFTER)
