"""
Growth of totals over a while, from samples of the last hour.
"""

from __future__ import annotations

from gateway.status.history import History


def test_a_rate_is_over_the_time_that_it_spans() -> None:
    """The sample that counts may be older than a minute, and the rate is that of its own age."""
    history = History()
    for time in range(0, 100, 10):
        history.add(float(time), {"a": 2.0 * time, "b": 1.0 * time})
    recent = history.recent(60.0, 95.0, {"a": 190.0, "b": 95.0})
    assert recent.seconds == 65.0
    assert recent.rate("a") == 2.0 and recent.rate("a", "b") == 3.0
    assert recent.growth("a") == 130.0


def test_a_short_history() -> None:
    """Before there is a minute, its oldest sample counts; without any, nothing has grown."""
    history = History()
    assert history.recent(60.0, 5.0, {"a": 9.0}).rate("a") == 0.0
    history.add(5.0, {"a": 9.0})
    assert history.recent(60.0, 5.0, {"a": 9.0}).rate("a") == 0.0
    assert history.recent(60.0, 7.0, {"a": 13.0, "new": 4.0}).rate("a", "new") == 4.0


def test_a_total_that_went_down() -> None:
    """A total that begins anew has not shrunk."""
    history = History()
    history.add(0.0, {"a": 9.0})
    assert history.recent(60.0, 1.0, {"a": 1.0}).growth("a") == 0.0
