"""
The Queries that ask PostgreSQL: calls gather, and many are answered by one statement.

While a statement of a query is under way, or the connections of the share are busy, calls
gather; then those of one query go together in one round trip. What a reactor's turn brings is
gathered as well.
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
from gateway.errors import OutcomeUnknown, RouteError, StoreError, Unavailable
from gateway.postgres.answering import DOWN, MARGIN, Answer, Answering, outcome_of
from gateway.postgres.asked import PROMPT, SLOW, Asked, Call, Open
from gateway.postgres.connection import Connection
from gateway.postgres.looking import Looks
from gateway.postgres.opening import Opener
from gateway.postgres.pool import Pool
from gateway.query import Query, Told
from gateway.reply import RETRY_AFTER, Code, Outcome, goodbye, refused, try_later
from gateway.sections import meant
from gateway.sql.sqlstate import READ_ONLY

MOST_WAITING: Final = 10_000
"""Calls without an answer, beyond which there is no room for another."""

PATIENCE: Final = 0.5
"""Seconds that several calls together may take before they are asked one by one."""

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
        self._looks = Looks(pool, settings.statement_timeout + MARGIN)
        self._most = settings.query_connections
        self._answering = Answering()
        self._turns: deque[Asked] = deque()
        self._closed = False
        self._running = 0
        self._running_slow = 0
        self._soon: IDelayedCall | None = None
        self._later: IDelayedCall | None = None
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
        for timer in (self._soon, self._later, self._sweep):
            if timer is not None and timer.active():
                timer.cancel()
        turns, self._turns = self._turns, deque()
        for asked in turns:
            while asked.calls:
                self._settle(asked.calls.popleft(), DOWN)
        self._pool.close()

    async def call(self, name: str, arguments: bytes) -> Answer:
        """
        As L{ask}.
        """
        answer: Deferred[Answer] = Deferred()
        self.ask(name, arguments, answer.callback)
        return await answer

    def ask(self, name: str, arguments: bytes, told: Told) -> None:
        asked = self._asked.get(name)
        if asked is None:
            told(refused(Code.QUERY, f"no query {shown(name)}{meant(name, self._asked)}"))
            return
        if self.in_flight >= MOST_WAITING or self._closed:
            told(DOWN if self._closed else _NO_ROOM)
            return
        self.in_flight += 1
        opened = asked.opened
        if opened is None:
            Deferred.fromCoroutine(self._ask_first(asked, arguments, told))
            return
        self._looks.refresh(asked, opened, self._clock.seconds())
        self._enter(asked, opened, arguments, told)

    async def _ask_first(self, asked: Asked, arguments: bytes, told: Told) -> None:
        """
        As L{ask}, of a query that has yet to be looked at.
        """
        try:
            opened = await self._looks.opened(asked)
        except StoreError as error:
            self._settle(Call([], 0.0, told), self._outcome(asked, error))
        else:
            self._enter(asked, opened, arguments, told)

    def _enter(self, asked: Asked, opened: Open, arguments: bytes, told: Told) -> None:
        try:
            call = Call(opened.arguments.read(arguments), self._clock.seconds(), told)
        except Misfit as misfit:
            self._settle(Call([], 0.0, told), refused(Code.QUERY, str(misfit)))
        else:
            self._gather(asked, call)

    def _settle(self, call: Call, answer: Answer) -> None:
        """
        Tell a call its answer, once.
        """
        told, call.told = call.told, None
        if told is not None:
            self.in_flight -= 1
            try:
                told(answer)
            except Exception:  # noqa: BLE001 - what befalls one peer must not befall the others
                self._log.failure("an answer could not be told")

    # Gathering.

    def _gather(self, asked: Asked, call: Call) -> None:
        if not asked.calls:
            self._turns.append(asked)
        asked.calls.append(call)
        if self._running < self._most:
            self._dispatch_soon()
        if self._sweep is None:
            self._sweep = self._clock.callLater(self._patience, self._look_for_old)

    def _dispatch_soon(self) -> None:
        """
        When all that this turn of the reactor brings is here.
        """
        if self._soon is None:
            self._soon = self._clock.callLater(0, self._dispatch)

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
        now = self._clock.seconds()
        if asked.prompt(now):
            # A few more calls cost the next statement less than a statement of their own.
            if self._later is None:
                self._later = self._clock.callLater(PROMPT, self._dispatch_later)
            return False
        opened = asked.opened
        if opened is None:
            # It was found at fault meanwhile; whoever calls next looks again. Whoever is told
            # may call at once, so nothing is told before all is in order here.
            waiting, asked.calls = asked.calls, deque()
            for call in waiting:
                self._settle(call, _OUT_OF_ORDER)
            return True
        calls = asked.take(opened)
        if asked.calls:
            self._turns.append(asked)
        asked.running += 1
        asked.began = now
        self._running += 1
        self._running_slow += slow
        Deferred.fromCoroutine(self._ask(asked, opened, calls)).addBoth(
            self._asked_all, asked, calls, slow
        )
        return True

    def _dispatch_later(self) -> None:
        self._later = None
        self._dispatch()

    def _asked_all(
        self, result: Failure | None, asked: Asked, calls: list[Call], slow: bool
    ) -> None:
        asked.running -= 1
        self._running -= 1
        self._running_slow -= slow
        if isinstance(result, Failure):
            self._log.failure("a query failed", failure=result)
            for call in calls:
                self._settle(call, _BUG)
        if self._turns:
            self._dispatch_soon()

    def _look_for_old(self) -> None:
        """
        Send away those who have waited for too long; the first of each query came first.
        """
        self._sweep = None
        until = self._clock.seconds() - self._patience
        old = []
        for asked in list(self._turns):
            while asked.calls and asked.calls[0].since <= until:
                old.append(asked.calls.popleft())
            if not asked.calls:
                self._turns.remove(asked)
        if self._turns:
            self._sweep = self._clock.callLater(self._patience / 4, self._look_for_old)
        for call in old:
            self._settle(call, self._not_reached())

    def _not_reached(self) -> Outcome:
        if self._pool.size:
            return try_later(Code.BUSY, "the connections for queries are busy", RETRY_AFTER)
        return DOWN

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
                self._settle(call, outcome)
            return
        if answers is None:
            asked.together = 1
            self._one_by_one(asked, calls)
            return
        if asked.said:
            self._looks.healed(asked)
        for call, answer in zip(calls, answers, strict=True):
            self._settle(call, answer)

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
            if not self._looks.again(asked):
                raise
        await self._looks.open(connection, asked)
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
        if not isinstance(error, RouteError):
            return outcome_of(error, asked.query)
        hint = "; set read_only = false" if error.sqlstate == READ_ONLY else ""
        self._looks.say(asked, f"{error}{hint}")
        return _OUT_OF_ORDER
