"""
Log of commits that take long: a line when it begins, then how many more a minute.
"""

from __future__ import annotations

from math import inf

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.logs.repeat_log import RepeatLog


class SlowCommitLog:
    """
    Log of slow commits, by route.

    @ivar limit: seconds after which a commit is slow.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.limit = inf
        self._repeat_log: RepeatLog[str] = RepeatLog(clock, self._say)
        self._longest: dict[str, float] = {}

    def note(self, route: str, rows: int, seconds: float) -> None:
        """
        Note a commit that took longer than the limit.

        @param rows: messages in it.
        """
        self._longest[route] = max(seconds, self._longest.get(route, 0.0))
        messages = "1 message" if rows == 1 else f"{rows} messages"
        self._repeat_log.note(route, 1, messages)

    def end(self) -> None:
        """Log the counts that are not logged yet, and stop."""
        self._repeat_log.end()

    def _say(self, route: str, count: int, text: str) -> None:
        longest = self._longest.pop(route)
        self._log.warn(
            "route {route}: {count} slow {_commits} ({remark}), the longest took {seconds} s",
            event="slow-commit",
            route=route,
            count=count,
            seconds=round(longest, 3),
            remark=text,
            _commits="commit" if count == 1 else "commits",
        )
