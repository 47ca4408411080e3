"""
Queue of the calls of one query, with the number of calls to send together.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from twisted.internet.defer import Deferred

from gateway.metrics.counters import QueryCounters
from gateway.model.query import OnOutcome, Query
from gateway.postgres.queries.catalog import CallableQuery
from gateway.sql.call import Form

MOST_TOGETHER: Final = 256
"""Largest number of calls in a statement."""

MOST_BYTES_TOGETHER: Final = 1024 * 1024
"""Most bytes of arguments in a statement."""

FIRST_TOGETHER: Final = 32

GATHER_SECONDS: Final = 0.005
"""Seconds in which a statement is expected to end; until then the next one gathers."""

SLOW_STATEMENT_SECONDS: Final = 0.05
"""Seconds of a statement that is slow: fewer calls go together, and one connection is kept free."""


class Call:
    """
    Call of a query that waits for its answer.

    @ivar queue: that it came to.
    @ivar arguments: its arguments, as the peer wrote them.
    @ivar elements: its arguments, as array elements.
    @ivar since: when it came, in seconds of the reactor's clock.
    @ivar on_outcome: callback for its answer; C{None} once called.
    @ivar alone: whether it must be sent in a statement of its own.
    """

    __slots__ = ("alone", "arguments", "elements", "on_outcome", "queue", "since")

    def __init__(
        self, queue: CallQueue, since: float, arguments: bytes, on_outcome: OnOutcome
    ) -> None:
        self.queue = queue
        self.arguments = arguments
        self.elements: list[str] = []
        self.since = since
        self.on_outcome: OnOutcome | None = on_outcome
        self.alone = False


class OpenQuery:
    """
    Examined query, ready for calls.

    @ivar since: when it was examined, in seconds of the reactor's clock.
    """

    __slots__ = ("arguments", "groups", "since", "statement")

    def __init__(self, sound: CallableQuery, since: float) -> None:
        self.arguments = sound.arguments
        self.statement = sound.call_statement
        self.groups = sound.call_statement.form is Form.MANY
        self.since = since


class CallQueue:
    """
    Queue of the calls of one query.

    @ivar counters: of its calls.
    @ivar opened: C{None} before the first examination, and after one that found a fault.
    @ivar together: most calls to send together.
    @ivar pace: seconds that the last statement took.
    @ivar running: number of statements in flight; C{began}: when the last of them began.
    @ivar fault: problems found by the last examination.
    @ivar logged_fault: last fault that was logged, C{""} while the query works; C{logged_at}: when.
    """

    def __init__(self, query: Query, counters: QueryCounters) -> None:
        self.query = query
        self.counters = counters
        self.opened: OpenQuery | None = None
        self.opening: list[Deferred[None]] | None = None
        self.examined_at = float("-inf")
        self.calls: deque[Call] = deque()
        self.together = FIRST_TOGETHER
        self.pace = SLOW_STATEMENT_SECONDS
        self.running = 0
        self.began = 0.0
        self.fault = ""
        self.logged_fault = ""
        self.logged_at = float("-inf")

    def take_calls(self, opened: OpenQuery) -> list[Call]:
        """Take the calls of the next statement."""
        calls = self.calls
        first = calls.popleft()
        calls_taken = [first]
        if first.alone or not opened.groups:
            return calls_taken
        size = sum(map(len, first.elements))
        while calls and len(calls_taken) < self.together and not calls[0].alone:
            size += sum(map(len, calls[0].elements))
            if size > MOST_BYTES_TOGETHER:
                break
            calls_taken.append(calls.popleft())
        return calls_taken

    def prompt(self, now: float) -> bool:
        """
        Say whether the waiting calls should wait for the statement in flight.
        """
        return (
            self.running > 0
            and now - self.began < GATHER_SECONDS
            and len(self.calls) < self.together
            and self.opened is not None
            and self.opened.groups
        )

    def took(self, seconds: float, count: int) -> None:
        """Adapt C{together} to how long a statement of C{count} calls took."""
        self.pace = seconds
        if seconds >= SLOW_STATEMENT_SECONDS:
            self.together = max(1, count // 2)
        elif seconds < SLOW_STATEMENT_SECONDS / 4 and count >= self.together:
            self.together = min(MOST_TOGETHER, 2 * self.together)
