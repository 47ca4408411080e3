"""
One connection to PostgreSQL: txpostgres's, with deadlines and an end we notice.

txpostgres leaves three things to its users, and they are here: a connection that
dies while idle is noticed at once instead of at its next query; connecting and
executing have a deadline, enforced by closing the connection (its own C{cancel}
talks to the server synchronously, and its Deferreds cannot time out); and errors
come out as ours, sorted by who must act.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import psycopg2
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from txpostgres import txpostgres

from gateway.errors import (
    OutcomeUnknown,
    RouteError,
    RowError,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.postgres import sqlstate
from gateway.postgres.sqlstate import Kind

Result = TypeVar("Result")

Rows = list[tuple[Any, ...]]

Query = Callable[[str, Sequence[Any] | None], Awaitable[Rows]]
"""Runs one statement in some session and gives its rows."""

MINIMUM_VERSION: Final = 130000
"""PostgreSQL 13, as C{server_version_num} says it."""


class StoredBefore(Exception):
    """
    The fence says that this batch was committed by an earlier try.
    """


class PreparedStatementLost(Exception):
    """
    The session has no such prepared statement, so it is not the one we prepared it in.
    """


class Connection(txpostgres.Connection):  # type: ignore[misc]  # txpostgres has no types
    """
    A connection that says when it is lost.

    @ivar opened_at: when it was connected, in seconds of the pool's clock.
    @ivar used_at: when it was last given back.
    @ivar prepared: names of the statements prepared in its session.
    @ivar lost: called once when the connection is no longer usable.
    """

    opened_at = 0.0
    used_at = 0.0
    lost: Callable[[Connection], None] | None = None

    def __init__(self, reactor: Any = None, cooperator: Any = None) -> None:
        super().__init__(reactor, cooperator)
        self.prepared: set[str] = set()
        self._timed_out = False

    @property
    def usable(self) -> bool:
        """Whether it is open as far as anybody can know without asking."""
        return self._connection is not None and not self._connection.closed

    def doRead(self) -> None:
        # While idle nobody waits for this, so an error here would go to the
        # reactor as a traceback.
        try:
            super().doRead()
        except psycopg2.Error:
            self.discard()

    def discard(self) -> None:
        """
        Close it, whatever it is doing; whoever waits for it gets an error.
        """
        if self._connection is not None:
            self.close()
        lost, self.lost = self.lost, None
        if lost is not None:
            lost(self)

    async def open(self, dsn: str, clock: IReactorTime, timeout: float) -> None:
        """
        Connect, within C{timeout} seconds.

        libpq's own C{connect_timeout} does not work for asynchronous connections
        (PostgreSQL documentation, section 32.1 "PQconnectPoll").

        @raise Unavailable: why not.
        """
        waiting: Deferred[Any] = self.connect(dsn, client_encoding="UTF8")
        try:
            await self._within(waiting, clock, timeout)
        except (psycopg2.Error, StoreError) as error:
            self.discard()
            # libpq gives no SQLSTATE for this, only its text.
            raise Unavailable(one_line(error)) from error
        self.opened_at = self.used_at = clock.seconds()

    async def query(
        self, sql: str, values: Sequence[Any] | None, clock: IReactorTime, timeout: float
    ) -> Rows:
        """
        Run one statement.

        @param timeout: seconds after which the connection is closed. PostgreSQL's
            own C{statement_timeout} should be shorter: it costs only the statement.
        @return: its rows, none where it has no result.
        @raise StoreError: of the kind that says who must act.
        @raise StoredBefore: the fence did not move.
        @raise PreparedStatementLost: the statement was never run.
        """
        cursor = self.cursor()
        try:
            await self._within(cursor.execute(sql, values), clock, timeout)
            return cursor.fetchall() if cursor.description is not None else []
        except (psycopg2.Error, StoreError, CancelledError) as error:
            raise self._translated(error) from error

    async def transaction(
        self,
        work: Callable[[Query], Awaitable[Result]],
        clock: IReactorTime,
        timeout: float,
    ) -> Result:
        """
        Run several statements as one.

        @param timeout: seconds for each of them.
        @raise StoreError: nothing was done, unless it is L{OutcomeUnknown}.
        """

        async def query(sql: str, values: Sequence[Any] | None) -> Rows:
            return await self.query(sql, values, clock, timeout)

        await query("BEGIN", None)
        try:
            result = await work(query)
            await query("COMMIT", None)
        except StoreError:
            if self.usable:
                await query("ROLLBACK", None)
            raise
        return result

    async def _within(self, waiting: Deferred[Any], clock: IReactorTime, timeout: float) -> Any:
        deadline = clock.callLater(timeout, self._time_out)
        try:
            return await waiting
        except Exception as error:
            # Closing makes the Deferred fail with whatever Twisted has for that.
            if self._timed_out or not isinstance(error, (psycopg2.Error, CancelledError)):
                raise OutcomeUnknown(
                    f"no answer from the server within {timeout:g} s"
                    if self._timed_out
                    else f"connection lost: {one_line(error)}"
                ) from error
            raise
        finally:
            if deadline.active():
                deadline.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self.discard()

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, CancelledError):
            # What txpostgres makes of QueryCanceledError, that is of statement_timeout.
            return TransientError("statement_timeout", "57014")
        if isinstance(error, StoreError):
            self.discard()
            return error
        code = getattr(error, "pgcode", None)
        text = _message(error)
        if code is None:
            # psycopg2 itself: the connection is gone, or it could not even say it.
            if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)) or (
                isinstance(error, psycopg2.DatabaseError) and not self.usable
            ):
                self.discard()
                return OutcomeUnknown(f"connection lost: {text}")
            return RowError(text, "22000")
        if code == sqlstate.ALREADY_STORED:
            return StoredBefore()
        if code in (sqlstate.NO_SUCH_PREPARED_STATEMENT, sqlstate.DUPLICATE_PREPARED_STATEMENT):
            return PreparedStatementLost(text)
        kind = sqlstate.kind_of(code)
        if kind is Kind.LOST:
            self.discard()
            return OutcomeUnknown(text)
        if not self.usable:
            self.discard()
        if kind is Kind.TRANSIENT:
            return TransientError(text, code)
        if kind is Kind.ROW:
            return RowError(text, code)
        return RouteError(text, code)


def one_line(error: BaseException) -> str:
    """
    An error's text without line breaks.
    """
    return " ".join(str(error).split()) or type(error).__name__


def _message(error: Exception) -> str:
    """
    PostgreSQL's primary message: no detail, no statement, no values but its own.
    """
    diag = getattr(error, "diag", None)
    primary: str | None = getattr(diag, "message_primary", None)
    return primary or one_line(error)


def server_settings(statement_timeout: float) -> tuple[str, tuple[str, ...]]:
    """
    The first statement of every session: our settings, and what we must know of the server.
    """
    sql = (
        "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),"
        " current_setting('transaction_read_only')::bool,"
        " set_config('statement_timeout', %s, false),"
        " set_config('standard_conforming_strings', 'on', false),"
        " set_config('default_transaction_isolation', 'read committed', false)"
    )
    return sql, (f"{int(statement_timeout * 1000)}ms",)
