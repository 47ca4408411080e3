"""
SQLSTATEs sorted by who must act, for errors where nothing else decides that.

A row is at fault when its neighbours are not, whatever the SQLSTATE; that is found out, see
L{gateway.postgres.store.store}. This table decides where there is no neighbour, nor a row that is
known to be good. PostgreSQL documentation, appendix A "PostgreSQL Error Codes"; a class is the
first two characters. The longest match wins.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

ALREADY_STORED: Final = "ZG001"
"""Raised by C{gateway.advance}: a batch with this fence was committed before."""

UNMOVED: Final = "ZG003"
"""Raised by C{gateway.follow}: streams are not where they were expected."""

BEHIND: Final = "ZG004"
"""Raised by C{gateway.claim}: a stream has not come as far as its peer says."""

SLOW_ROW: Final = "ZG006"
"""Raised by our own code blocks: the row that DETAIL names took too long."""

NO_SUCH_PREPARED_STATEMENT: Final = "26000"
DUPLICATE_PREPARED_STATEMENT: Final = "42P05"
READ_ONLY: Final = "25006"
CANCELLED: Final = "57014"

TIMEOUT_MESSAGE: Final = "canceling statement due to statement timeout"
"""PostgreSQL's own text of L{CANCELLED}, for a row that takes longer than a statement may."""

MISSING: Final = "23502"
"""A column that may not be NULL: the message's fault, or that of who made the column so."""

TOO_LARGE: Final = "54000"


class ErrorKind(Enum):
    """Kind of an error, by who must act."""

    LOST = "the connection is gone, and with it the answer"
    TRANSIENT = "it passes by itself"
    ROW = "the data is at fault"
    ROUTE = "every row would fail until the operator acts"


_KIND_BY_STATE: Final = {
    # The connection, or the server behind it, goes away.
    "08": ErrorKind.LOST,  # connection exception
    "57P01": ErrorKind.LOST,  # admin shutdown; may follow a commit
    "57P02": ErrorKind.LOST,  # crash shutdown
    "57P03": ErrorKind.LOST,  # cannot connect now
    "57P05": ErrorKind.LOST,  # idle session timeout
    "25P03": ErrorKind.LOST,  # idle in transaction session timeout
    # A server that became a standby: another host, or later.
    "25006": ErrorKind.LOST,  # read-only transaction
    "40": ErrorKind.TRANSIENT,  # serialization failure, deadlock
    "53": ErrorKind.TRANSIENT,  # disk full, out of memory, too many connections
    "55": ErrorKind.TRANSIENT,  # lock not available, object in use
    "55000": ErrorKind.ROUTE,  # a view that takes no rows
    "57": ErrorKind.TRANSIENT,  # query cancelled
    "58": ErrorKind.TRANSIENT,  # system error outside PostgreSQL, an I/O error
    "XX": ErrorKind.TRANSIENT,  # internal error, corrupted data
    "22": ErrorKind.ROW,  # data exception
    "23": ErrorKind.ROW,  # integrity constraint violation
    "44": ErrorKind.ROW,  # WITH CHECK OPTION violation
    "54": ErrorKind.ROW,  # program limit exceeded: this row is too large for its index
    "P0": ErrorKind.ROW,  # raised by a trigger
    "21": ErrorKind.ROW,  # cardinality violation, in a trigger
    "09": ErrorKind.ROW,  # triggered action exception
    "27": ErrorKind.ROW,  # triggered data change violation
    "ZG002": ErrorKind.ROW,  # gateway.remember: what became of the rows can only be told one by one
}

_CUSTOM_CLASSES: Final = frozenset("6789IJKLMNOPQRSTUVWYZ")
"""First characters of classes that neither the SQL standard nor PostgreSQL claims."""


def error_kind(sqlstate: str) -> ErrorKind:
    """
    Return the kind of an SQLSTATE, five characters.
    """
    kind = _KIND_BY_STATE.get(sqlstate) or _KIND_BY_STATE.get(sqlstate[:2])
    if kind is None and sqlstate[:1] in _CUSTOM_CLASSES:
        # A trigger of the user's with an SQLSTATE of its own.
        return ErrorKind.ROW
    # Authorization (28), catalog and schema names (3D, 3F), syntax and access rule
    # (42), unsupported (0A), and what nobody foresaw: no message is at fault.
    return kind or ErrorKind.ROUTE


def _row_pattern() -> str:
    classes = "|".join(code for code, kind in _KIND_BY_STATE.items() if kind is ErrorKind.ROW)
    return f"^({classes}|[{''.join(sorted(_CUSTOM_CLASSES))}])"


ROW_PATTERN: Final = _row_pattern()
"""L{ErrorKind.ROW}, as a regular expression of PostgreSQL's."""

PASSING_PATTERN: Final = "^(08|40|53|55P03|55006|57014|57P0[1-3])"
"""
SQLSTATEs of errors that may befall any row and mostly pass by themselves (a deadlock, a full disk,
a lock, a foreign table's server that starts again), as a regular expression of PostgreSQL's and
Python's. The statement is tried again before a row is blamed.
"""

NOBODYS: Final = ("53100", "55P03")
"""
A full disk, a lock of somebody else's: never the fault of a row, unless a function of the
user's raises it. Rows that need no new page or not that lock pass meanwhile.
"""
