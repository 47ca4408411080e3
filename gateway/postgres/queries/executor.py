"""
Run calls of a query on a connection, in one round trip.

Several statements in one string are one transaction, and psycopg2 returns the last one's result:
the first ones make the transaction read-only and set its timeout, then the query is executed.
PostgreSQL's timer starts anew for each of them (postgres.c, exec_simple_query).

A query that writes is committed in a second round trip, and answered after it: if the connection is
lost before the COMMIT is sent, nothing was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.model import wording
from gateway.model.errors import OutcomeUnknown, RowError, StoreError, TransientError, Unavailable
from gateway.model.outcome import RETRY_AFTER, Code, Listing, Outcome, refused, try_later
from gateway.model.query import Query
from gateway.postgres.connect.connection import Connection
from gateway.sql.call import CallStatement, answers_of
from gateway.sql.sqlstate import CANCELLED, TOO_LARGE

CallAnswer = Outcome | Listing

MARGIN: Final = 5.0
"""
Seconds that a statement may take beyond its timeout before its connection is closed: the
server should be the one to give up, that costs no connection.
"""


class CallExecutor:
    """
    Executor of the statements that answer calls.
    """

    async def run_read_only(
        self,
        connection: Connection,
        query: Query,
        statement: CallStatement,
        calls: Sequence[Sequence[str]],
        timeout: float,
    ) -> list[CallAnswer] | None:
        """
        Answer calls of a read-only query.

        @param calls: arguments of each call, as array elements; several only if the statement's
            form allows it.
        @param timeout: limit for all of them together, in seconds.
        @return: C{None} where the answers together are too large.
        @raise gateway.model.errors.StoreError: no call has an answer.
        """
        begin = f"SET TRANSACTION READ ONLY; {_limit(timeout)}; "
        connection.reads = True
        try:
            rows = await connection.execute(
                statement.preparable, statement.bind(calls), timeout + MARGIN, before=begin
            )
        finally:
            connection.reads = False
        text: str | None = rows[0][0]
        return None if text is None else answers_of(text, query)

    async def run_writing(
        self, connection: Connection, query: Query, statement: CallStatement, call: Sequence[str]
    ) -> CallAnswer:
        """
        Answer a call of a query that may write, which is committed or leaves nothing behind.

        @raise gateway.model.errors.StoreError: nothing was done.
        """
        timeout = query.timeout + MARGIN
        begin = f"BEGIN; {_limit(query.timeout)}; "
        try:
            rows = await connection.execute(
                *(statement.preparable, statement.bind([call]), timeout),
                before=begin,
                undo="ROLLBACK",
            )
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
            return wording.CALL_LOST
        # With a synchronous standby: committed, but not known to be there.
        return wording.CALL_LOST if connection.warned else answer


def call_outcome(error: StoreError, query: Query) -> Outcome:
    """
    Return the answer to a call whose statement failed with anything but a L{RouteError}.
    """
    if isinstance(error, RowError):
        if error.sqlstate == TOO_LARGE:
            return wording.more_bytes(query.max_bytes)
        return refused(Code.QUERY, str(error), error.sqlstate)
    if isinstance(error, TransientError):
        if error.sqlstate == CANCELLED:
            return wording.no_answer_within(query.timeout)
        return try_later(Code.BUSY, str(error), RETRY_AFTER, error.sqlstate)
    return wording.NO_CONNECTION


def _limit(seconds: float) -> str:
    return f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"
