"""
What is known of a query: it is looked at before its first call, again when an error says that
it no longer fits, and from time to time; and the operator is told where it does not work.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.errors import RouteError, StoreError
from gateway.postgres.asked import Asked, Open
from gateway.postgres.connection import Connection
from gateway.postgres.pool import Pool
from gateway.postgres.query_catalog import examine_query

LOOKED_AT_FOR: Final = 60.0
"""Seconds after which a query is looked at again, though no error says that anything changed."""

LOOKED_AT_AGAIN: Final = 1.0
"""Seconds after which it is, when an error says so."""

SAID_AGAIN: Final = 10.0
"""Seconds after which the operator is told of another fault: some depend on what peers send."""


class Looks:
    """
    Looks at queries.
    """

    _log = Logger()

    def __init__(self, pool: Pool, timeout: float) -> None:
        """
        @param timeout: seconds for each statement.
        """
        self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._timeout = timeout

    def refresh(self, asked: Asked, opened: Open, now: float) -> None:
        """
        Look again if that is due, without anybody waiting for it.
        """
        if now - opened.since > LOOKED_AT_FOR and asked.opening is None:
            self._look(asked)

    async def opened(self, asked: Asked) -> Open:
        """
        @raise StoreError: it cannot be called.
        """
        if asked.opening is None:
            if not self.again(asked):
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
            if isinstance(result, Failure) and not result.check(StoreError):
                self._log.failure(
                    "query {name}: a look at it failed", result, name=asked.query.name
                )
                result = Failure(RouteError("a look at it failed for a reason nobody foresaw"))
            waiting, asked.opening = asked.opening or [], None
            for looked in waiting:
                if isinstance(result, Failure):
                    looked.errback(result)
                else:
                    looked.callback(None)

        work.addBoth(done)

    async def _look_at(self, asked: Asked) -> None:
        async with self._pool.checkout() as connection:
            await self.open(connection, asked)

    async def open(self, connection: Connection, asked: Asked) -> None:
        """
        @raise StoreError: it could not be looked at, or cannot be called.
        """
        judgement = await examine_query(connection, asked.query, self._timeout)
        now = asked.looked_at = self._clock.seconds()
        if judgement.sound is None:
            asked.opened = None
            problems = [f"{problem.key}: {problem.text}" for problem in judgement.problems]
            asked.fault = "; ".join(problems)
            raise RouteError(asked.fault)
        asked.opened = Open(judgement.sound, now)

    def again(self, asked: Asked) -> bool:
        """
        Whether it is long enough ago that it was looked at.
        """
        return self._clock.seconds() - asked.looked_at >= LOOKED_AT_AGAIN

    def say(self, asked: Asked, text: str) -> None:
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

    def healed(self, asked: Asked) -> None:
        asked.said = ""
        self._log.info("query {name}: works again", name=asked.query.name)
