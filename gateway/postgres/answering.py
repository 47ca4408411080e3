"""
How calls of a query are answered on a connection: one round trip, prepared where sessions
are ours.

Several statements in one string are one transaction, and the last one's result is what
psycopg2 gives: the transaction is told to read only and how long it may take, then the
statement is executed. PostgreSQL's timer starts anew for each of them (postgres.c,
exec_simple_query).

What writes is told when it is committed, by a round trip of its own: whatever is lost
before that has certainly not happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from twisted.logger import Logger

from gateway.errors import OutcomeUnknown, StoreError, Unavailable
from gateway.postgres.connection import Connection, Rows
from gateway.postgres.driver_errors import PreparedStatementLost
from gateway.query import Query
from gateway.reply import Code, Listing, Outcome, goodbye
from gateway.sql.asking import Asking, answers_of
from gateway.sql.statement import named

Answer = Outcome | Listing

MARGIN: Final = 5.0
"""
Seconds that a statement may take beyond its timeout before its connection is closed: the
server should be the one to give up, that costs no connection.
"""

LOST: Final = goodbye(
    Code.INTERNAL, "the connection to the database was lost; whether this was done is not known"
)


class Answerable:
    """
    A query's statement, by a name that says what its text is: where a pooler shares
    sessions, another gateway may have prepared one of its own there.
    """

    __slots__ = ("asking", "execute", "name", "prepare")

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        types = ", ".join(asking.types)
        text = f"query ({types}) {asking.prepared}"
        self.name = f"gateway_{sha256(text.encode()).hexdigest()[:32]}"
        self.prepare = f"PREPARE {self.name}{f' ({types})' if types else ''} AS {asking.prepared}"
        places = ", ".join(["%s"] * len(asking.types))
        self.execute = f"EXECUTE {self.name}{f' ({places})' if types else ''}"


class Answering:
    """
    Asks the database.

    @ivar prepares: whether statements are prepared.
    """

    _log = Logger()

    def __init__(self) -> None:
        self.prepares = True

    async def read(
        self,
        connection: Connection,
        query: Query,
        answerable: Answerable,
        calls: Sequence[Sequence[str]],
        timeout: float,
    ) -> list[Answer] | None:
        """
        Answer calls of a query that only reads.

        @param calls: the elements of each call's arguments; several only where the statement
            is for several.
        @param timeout: seconds for all of them.
        @return: C{None} where the answers are too large together.
        @raise gateway.errors.StoreError: there is no answer for any of them.
        """
        begin = f"SET TRANSACTION READ ONLY; {_limit(timeout)}"
        connection.reads = True
        try:
            rows = await self._run(connection, begin, answerable, calls, timeout + MARGIN)
        finally:
            connection.reads = False
        told: str | None = rows[0][0]
        return None if told is None else answers_of(told, query)

    async def write(
        self, connection: Connection, query: Query, answerable: Answerable, call: Sequence[str]
    ) -> Answer:
        """
        Answer a call of a query that may write. It is done whole, or not at all.

        @raise gateway.errors.StoreError: nothing was done.
        """
        timeout = query.timeout + MARGIN
        begin = f"BEGIN; {_limit(query.timeout)}"
        try:
            rows = await self._run(connection, begin, answerable, [call], timeout)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error
        except StoreError:
            await connection.query("ROLLBACK", None, timeout)
            raise
        answer = answers_of(rows[0][0], query)[0]
        if isinstance(answer, Outcome):
            await connection.query("ROLLBACK", None, timeout)
            return answer
        try:
            await connection.query("COMMIT", None, timeout)
        except OutcomeUnknown:
            return LOST
        # With a synchronous standby: committed, but not known to be there.
        return LOST if connection.warned else answer

    async def _run(
        self,
        connection: Connection,
        begin: str,
        answerable: Answerable,
        calls: Sequence[Sequence[str]],
        timeout: float,
    ) -> Rows:
        values = answerable.asking.bind(calls)
        if self.prepares:
            try:
                if answerable.name not in connection.prepared:
                    await connection.query(answerable.prepare, None, timeout)
                    connection.prepared.add(answerable.name)
                return await connection.query(f"{begin}; {answerable.execute}", values, timeout)
            except PreparedStatementLost as error:
                self._give_up_preparing(error)
                if begin.startswith("BEGIN"):
                    await connection.query("ROLLBACK", None, timeout)
        return await connection.query(f"{begin}; {answerable.asking.plain}", named(values), timeout)

    def _give_up_preparing(self, error: PreparedStatementLost) -> None:
        if self.prepares:
            self.prepares = False
            self._log.info(
                "queries: sessions are shared by a pooler, statements are not prepared any"
                " more ({error})",
                error=error,
            )


def _limit(seconds: float) -> str:
    return f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"
