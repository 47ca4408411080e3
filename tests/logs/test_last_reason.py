"""
Reasons that are logged once until they change.
"""

from __future__ import annotations

from gateway.logs.last_reason import LastReason


def test_a_reason_is_new_until_it_comes_again() -> None:
    """The same reason is logged once, another one again, and so is the first behind it."""
    reason = LastReason()
    assert [reason.note(text) for text in ("away", "away", "full", "away")] == [
        *(True, False, True, True)
    ]
    assert reason.text == "away"


def test_a_trouble_that_is_over_is_logged_anew() -> None:
    """Once it is forgotten the same reason is new, and there is nothing more to forget."""
    reason = LastReason()
    assert not reason.forget()
    reason.note("away")
    assert reason.forget()
    assert reason.text == ""
    assert not reason.forget()
    assert reason.note("away")
