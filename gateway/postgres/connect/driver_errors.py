"""
psycopg2's errors -> ours, sorted by who must act.
"""

from __future__ import annotations

from typing import Final

import psycopg2

from gateway.model.errors import OutcomeUnknown, RouteError, RowError, StreamBehind, TransientError
from gateway.sql import sqlstate
from gateway.sql.sqlstate import ErrorKind

_PREPARED: Final = {
    sqlstate.NO_SUCH_PREPARED_STATEMENT,
    sqlstate.DUPLICATE_PREPARED_STATEMENT,
}

_ENDING: Final = {"FATAL", "PANIC"}
"""Severities of errors after which the server closes the connection."""


class StoredBefore(Exception):
    """
    The fence says that an earlier try committed this batch, or some of the batches in it.

    @ivar number: that of the last batch committed.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stored up to batch {number}")
        self.number = number


class StreamsUnmoved(Exception):
    """
    Streams with messages in the batch are not where they were expected; nothing is stored.

    @ivar detail: where they are, see L{gateway.sql.streams.standings_of}.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SlowRow(Exception):
    """
    A row took longer than a statement may; nothing is stored.

    @ivar row: which one, from 0.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} took too long")
        self.row = row


class PreparedStatementLost(Exception):
    """
    The session has no such prepared statement, so it is not the one we prepared it in.
    """


def translated(error: Exception, reads: bool = False) -> Exception:
    """
    One of ours for one of psycopg2's, or for a connection that was lost.

    @param reads: whether we ourselves forbade to write.

    L{OutcomeUnknown} says that the connection is of no use any more. (That a server takes no
    writes, it says of itself or of another one: see L{gateway.postgres.connect.connection}.)
    """
    code: str | None = getattr(error, "pgcode", None)
    text = _message(error)
    if code is None and not isinstance(error, psycopg2.ProgrammingError):
        return OutcomeUnknown(text)
    if code is None:
        # psycopg2 would not even send it.
        return RouteError(text)
    if code == sqlstate.ALREADY_STORED:
        return StoredBefore(int(error.diag.message_detail))  # type: ignore[attr-defined]
    if code == sqlstate.UNMOVED:
        return StreamsUnmoved(error.diag.message_detail)  # type: ignore[attr-defined]
    if code == sqlstate.BEHIND:
        return StreamBehind(error.diag.message_detail)  # type: ignore[attr-defined]
    if code == sqlstate.SLOW:
        return SlowRow(int(error.diag.message_detail) - 1)  # type: ignore[attr-defined]
    if code in _PREPARED and not error.diag.context:  # type: ignore[attr-defined]
        # What has a context was raised by a trigger or a function.
        return PreparedStatementLost(text)
    if reads and code == sqlstate.READ_ONLY:
        return RouteError(text, code)
    kind = sqlstate.error_kind(code)
    severity = getattr(getattr(error, "diag", None), "severity_nonlocalized", None)
    if severity in _ENDING:
        # The server ends the session, maybe after it committed.
        kind = ErrorKind.LOST
    elif kind is ErrorKind.LOST and code != sqlstate.READ_ONLY and severity == "ERROR":
        # Of another connection, that of a foreign table, or raised by a trigger: ours lives.
        kind = ErrorKind.TRANSIENT
    if kind is ErrorKind.LOST:
        return OutcomeUnknown(text)
    if kind is ErrorKind.TRANSIENT:
        return TransientError(text, code)
    if kind is ErrorKind.ROW:
        return RowError(text, code)
    return RouteError(text, code)


def first_line(error: BaseException) -> str:
    """
    The first line of an error; what libpq puts after it are hints for people at a psql.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _message(error: Exception) -> str:
    """
    PostgreSQL's primary message: no detail, no statement, no values but its own.
    """
    diag = getattr(error, "diag", None)
    primary: str | None = getattr(diag, "message_primary", None)
    return primary or first_line(error)
