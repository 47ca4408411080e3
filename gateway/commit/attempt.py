"""
State of a commit that fails: whether it may be stored, and the next step.

Strategy: no I/O and no clock of its own. The committer reports each error and its time, and gets
the next L{NextStep}. So every decision between "not stored" and "may be stored" is in
one place, for the batch of one route (L{gateway.commit.lane}) and for several in one commit
(L{gateway.commit.multi_route}).

As long as nothing is stored for certain, a commit may be given up, sent elsewhere, or begun anew
in another way. From the first lost reply on it may be stored, or be stored yet: then it
is only written again behind the same fence, put into the spool together with that fence, or
settled by L{gateway.model.store.Store.resolve}.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from gateway.model.errors import (
    FenceVoid,
    OutcomeUnknown,
    RouteError,
    StoreError,
    TransientError,
    Unavailable,
)

RETRY_FOR: Final = 10.0
"""Seconds for which a batch is tried again after errors that pass."""

BLAME_AFTER: Final = 4
"""
Attempts that failed for a reason that mostly passes, after which rows are refused for it, if
L{BLAME_FOR} is over too.
"""

BLAME_FOR: Final = 3.0
"""
Seconds since the first such attempt after which rows are refused: a trigger's NOWAIT meets the same
lock many times.
"""

OPEN_FOR: Final = 86400.0
"""
Seconds after which a batch whose fate is open is given up, where no spool takes it:
the row its fence is in is not kept for ever.
"""


def retry_delay(attempt: int, jitter: Callable[[], float] = random.random) -> float:
    """
    Return the seconds to wait before the next attempt: full jitter, 50 ms doubling up to 2 s.

    @param attempt: how many attempts have failed, from 1.
    @param jitter: gives numbers in [0, 1).
    @see: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    ceiling: float = min(2.0, 0.05 * 2.0 ** min(attempt - 1, 10))
    return ceiling * jitter()


class TransientFailures:
    """Count of attempts that failed for a reason that mostly passes by itself."""

    __slots__ = ("_since", "_times")

    def __init__(self) -> None:
        self._times = 0
        self._since = 0.0

    def count_failure(self, now: float) -> None:
        """
        Count one more failure.

        @param now: seconds of a clock that never goes back.
        """
        if not self._times:
            self._since = now
        self._times += 1

    def lasts(self, now: float) -> bool:
        """Say whether the failures last so long that rows are refused for them."""
        return self._times >= BLAME_AFTER and now - self._since >= BLAME_FOR


class Known(Enum):
    """
    Knowledge about a commit: whether it may be stored.
    """

    NOT_STORED = auto()
    """Nothing of it is stored, nor will any try that was made store it."""

    UNKNOWN = auto()
    """The reply to a try was lost: it may be stored, or be stored yet."""


class NextStep(Enum):
    """
    Next step after a commit has failed.
    """

    WAIT = auto()
    """Pause, then go on: write it again, or settle what became of it."""

    RENUMBER = auto()
    """Its fence is void: write it again, behind the next number."""

    CLOSE_ROUTE = auto()
    """Every row of the route fails: its peers are told so until that is mended."""

    SPOOL = auto()
    """Put it into the spool, with its fence where it may be stored."""

    GIVE_BACK = auto()
    """It is not stored: tell its peers to send it again."""

    ABANDON = auto()
    """Give up: whether it is stored cannot be found out any more."""


class Attempt:
    """
    State of one commit, from its first try to its end.

    @ivar known: whether it may be stored.
    @ivar failures: how often it failed.
    @ivar late: whether it fails for longer than its peers should wait for an answer.
    """

    __slots__ = (
        *("_answer_timeout", "_passing", "_spools", "started"),
        *("failures", "known", "late"),
    )

    def __init__(self, now: float, answer_timeout: float, spools: bool) -> None:
        """
        @param now: seconds of a clock that never goes back.
        @param answer_timeout: seconds to wait for a lost reply's fate before the spool is used.
        @param spools: whether there is a spool.
        """
        self.known = Known.NOT_STORED
        self.failures = 0
        self.late = False
        self.started = now
        self._answer_timeout = answer_timeout
        self._spools = spools
        self._passing: TransientFailures | None = None

    def note_not_stored(self) -> None:
        """Note that nothing was stored: L{Known.NOT_STORED} again."""
        self.known = Known.NOT_STORED

    def blames(self, now: float) -> bool:
        """Say whether the next try is to refuse rows also for reasons that mostly pass."""
        return self._passing is not None and self._passing.lasts(now)

    def next_step(self, error: StoreError, now: float) -> NextStep:
        """
        Note an error and return the next step.

        @param error: any but a refusal of rows or streams, which the committer handles itself.
        """
        if isinstance(error, FenceVoid):
            # An earlier Store.resolve took the fence, and its reply was lost.
            self.known = Known.NOT_STORED
            return NextStep.RENUMBER
        if isinstance(error, OutcomeUnknown):
            self.known = Known.UNKNOWN
        elif isinstance(error, RouteError) and self.known is Known.NOT_STORED:
            return NextStep.CLOSE_ROUTE
        elif isinstance(error, TransientError):
            if self._passing is None:
                self._passing = TransientFailures()
            self._passing.count_failure(now)
        self.failures += 1
        waited = now - self.started
        answer_limit = RETRY_FOR if self.known is Known.NOT_STORED else self._answer_timeout
        self.late = waited > answer_limit or isinstance(error, Unavailable)
        if not self.late:
            return NextStep.WAIT
        if self._spools:
            return NextStep.SPOOL
        if self.known is Known.NOT_STORED:
            return NextStep.GIVE_BACK
        return NextStep.WAIT if waited <= OPEN_FOR else NextStep.ABANDON
