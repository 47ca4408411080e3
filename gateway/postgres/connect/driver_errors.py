"""
Translate psycopg2's errors to ours, sorted by who must act.
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

_FATAL_SEVERITIES: Final = {"FATAL", "PANIC"}
"""Severities of errors after which the server closes the connection."""


class StoredBefore(Exception):
    """
    The fence shows that an earlier try committed this batch, or some of its batches.

    @ivar number: number of the last batch committed.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stored up to batch {number}")
        self.number = number


class StreamsUnmoved(Exception):
    """
    Streams of the batch are not at the expected marks; nothing is stored.

    @ivar detail: the marks that they are at, see L{gateway.sql.streams.stream_positions_of}.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SlowRow(Exception):
    """
    A row takes longer than a statement may; nothing is stored.

    @ivar row: its index, from 0.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} took too long")
        self.row = row


class PreparedStatementLost(Exception):
    """
    The session has no such prepared statement, so it is not the one in which we prepared it.
    """


def translated(error: Exception, reads: bool = False) -> Exception:
    """
    Translate an error of psycopg2, or the loss of a connection.

    @param reads: whether we ourselves made the transaction read-only.

    L{OutcomeUnknown} means that the connection is no longer usable. (A read-only error may be about
    this server or another one: see L{gateway.postgres.connect.connection}.)
    """
    code: str | None = getattr(error, "pgcode", None)
    text = _primary_message(error)
    if code is None and not isinstance(error, psycopg2.ProgrammingError):
        return OutcomeUnknown(text)
    if code is None:
        # psycopg2 refused to send it.
        return RouteError(text)
    if code == sqlstate.ALREADY_STORED:
        return StoredBefore(int(error.diag.message_detail))  # type: ignore[attr-defined]
    if code == sqlstate.UNMOVED:
        return StreamsUnmoved(error.diag.message_detail)  # type: ignore[attr-defined]
    if code == sqlstate.BEHIND:
        return StreamBehind(error.diag.message_detail)  # type: ignore[attr-defined]
    if code == sqlstate.SLOW_ROW:
        return SlowRow(int(error.diag.message_detail) - 1)  # type: ignore[attr-defined]
    if code in _PREPARED and not error.diag.context:  # type: ignore[attr-defined]
        # An error with a context was raised by a trigger or a function.
        return PreparedStatementLost(text)
    if reads and code == sqlstate.READ_ONLY:
        return RouteError(text, code)
    kind = sqlstate.error_kind(code)
    severity = getattr(getattr(error, "diag", None), "severity_nonlocalized", None)
    if severity in _FATAL_SEVERITIES:
        # The server ends the session, maybe after it committed.
        kind = ErrorKind.LOST
    elif kind is ErrorKind.LOST and code != sqlstate.READ_ONLY and severity == "ERROR":
        # The error is about another connection, such as a foreign table's, or a trigger raised it.
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
    Return the first line of an error; further lines of libpq are hints for users of psql.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _primary_message(error: Exception) -> str:
    """
    Return PostgreSQL's primary message: no detail, no statement, and no values except those in the
    message.
    """
    diag = getattr(error, "diag", None)
    primary: str | None = getattr(diag, "message_primary", None)
    return primary or first_line(error)
