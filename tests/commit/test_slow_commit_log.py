"""
Log of slow commits.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from gateway.commit.slow_commit_log import SlowCommitLog
from gateway.logs.repeat_log import EVERY


def test_a_flood_of_slow_commits_is_counted() -> None:
    """The first of a route is a line at once, then one a minute says how many, and the longest."""
    clock = Clock()
    log = SlowCommitLog(clock)
    with capturedLogs() as events:
        log.note("a", 1, 1.5)
        for seconds in (2.0, 7.25, 3.0):
            log.note("a", 100, seconds)
        log.note("b", 20, 1.25)
        clock.advance(EVERY)
        log.note("a", 5, 1.75)
        log.end()
    assert [formatEvent(event) for event in events] == [
        "route a: 1 slow commit (1 message), the longest took 1.5 s",
        "route b: 1 slow commit (20 messages), the longest took 1.25 s",
        "route a: 3 slow commits (more within 60 s), the longest took 7.25 s",
        "route a: 1 slow commit (more within 60 s), the longest took 1.75 s",
    ]
    assert not clock.getDelayedCalls()
    assert events[2]["seconds"] == 7.25 and events[2]["count"] == 3
