"""
What is done about a commit that fails: each state and each kind of error.
"""

from __future__ import annotations

import pytest

from gateway.commit.attempt import (
    BLAME_AFTER,
    BLAME_FOR,
    OPEN_FOR,
    RETRY_FOR,
    Attempt,
    Known,
    NextStep,
)
from gateway.model.errors import (
    FenceVoid,
    OutcomeUnknown,
    RouteError,
    StoredPartly,
    StoreError,
    TransientError,
    Unavailable,
)

ANSWER_TIMEOUT = 5.0

LOST = OutcomeUnknown("lost in flight")
BUSY = TransientError("deadlock", "40P01")
GONE = RouteError("no such table", "42P01")
AWAY = Unavailable("not there")

UNKNOWN, NOT_STORED = Known.UNKNOWN, Known.NOT_STORED


@pytest.mark.parametrize(
    ("known", "error", "waited", "spools", "step", "then"),
    [
        # Not stored for certain: it may be given up, or go elsewhere.
        (NOT_STORED, BUSY, 0.0, False, NextStep.WAIT, NOT_STORED),
        (NOT_STORED, BUSY, RETRY_FOR + 1, False, NextStep.GIVE_BACK, NOT_STORED),
        (NOT_STORED, BUSY, RETRY_FOR + 1, True, NextStep.SPOOL, NOT_STORED),
        (NOT_STORED, AWAY, 0.0, False, NextStep.GIVE_BACK, NOT_STORED),
        (NOT_STORED, AWAY, 0.0, True, NextStep.SPOOL, NOT_STORED),
        (NOT_STORED, GONE, 0.0, False, NextStep.CLOSE_ROUTE, NOT_STORED),
        (NOT_STORED, GONE, 0.0, True, NextStep.CLOSE_ROUTE, NOT_STORED),
        (NOT_STORED, LOST, 0.0, False, NextStep.WAIT, UNKNOWN),
        (NOT_STORED, LOST, ANSWER_TIMEOUT + 1, True, NextStep.SPOOL, UNKNOWN),
        # It may be stored: nothing may be said that is not true, and no other batch be made of it.
        (UNKNOWN, BUSY, 0.0, True, NextStep.WAIT, UNKNOWN),
        (UNKNOWN, GONE, 0.0, False, NextStep.WAIT, UNKNOWN),
        (UNKNOWN, GONE, ANSWER_TIMEOUT + 1, True, NextStep.SPOOL, UNKNOWN),
        (UNKNOWN, AWAY, 0.0, True, NextStep.SPOOL, UNKNOWN),
        (UNKNOWN, AWAY, 0.0, False, NextStep.WAIT, UNKNOWN),
        (UNKNOWN, LOST, OPEN_FOR - 1, False, NextStep.WAIT, UNKNOWN),
        (UNKNOWN, LOST, OPEN_FOR + 1, False, NextStep.ABANDON, UNKNOWN),
        (UNKNOWN, StoredPartly(3), 0.0, False, NextStep.WAIT, UNKNOWN),
        # The fence says that the lost try has stored nothing, and never will.
        (UNKNOWN, FenceVoid(7), OPEN_FOR + 1, True, NextStep.RENUMBER, NOT_STORED),
    ],
)
def test_each_state_and_error(
    known: Known, error: StoreError, waited: float, spools: bool, step: NextStep, then: Known
) -> None:
    """What is next, and what is known from then on."""
    attempt = Attempt(100.0, ANSWER_TIMEOUT, spools)
    attempt.known = known
    assert attempt.next_step(error, 100.0 + waited) is step
    assert attempt.known is then


@pytest.mark.parametrize("error", [BUSY, AWAY, LOST, GONE, StoredPartly(1)])
def test_what_may_be_stored_is_never_given_back(error: StoreError) -> None:
    """However long it takes, and whatever goes wrong: no peer is told to send it again."""
    for spools in (False, True):
        for waited in (0.0, 1.0, RETRY_FOR + 1, OPEN_FOR - 1, OPEN_FOR + 1):
            attempt = Attempt(0.0, ANSWER_TIMEOUT, spools)
            attempt.next_step(LOST, 0.0)
            step = attempt.next_step(error, waited)
            assert step in (NextStep.WAIT, NextStep.SPOOL, NextStep.ABANDON)
            assert attempt.known is Known.UNKNOWN


def test_rows_are_blamed_for_what_does_not_pass() -> None:
    """Only after several failures of the passing kind, and some seconds."""
    attempt = Attempt(0.0, ANSWER_TIMEOUT, False)
    assert not attempt.blames(1000.0)
    for _ in range(BLAME_AFTER):
        assert not attempt.blames(BLAME_FOR + 1)
        attempt.next_step(BUSY, 0.5)
    assert not attempt.blames(BLAME_FOR)
    assert attempt.blames(BLAME_FOR + 0.5)
