"""
Log of messages whose reading held up everything else: the first of a route, then once a minute.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.logs.repeat_log import EVERY

SLOW_READING: Final = 0.1
"""Seconds for the messages of one chunk; the gateway's own formats take some milliseconds."""


class SlowReadingLog:
    """
    Log of slow readings, by route.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        self._more: dict[str, int] = {}

    def note(self, route: str, seconds: float) -> None:
        """
        Note how long the messages of a chunk were read; those that were not long are left out.
        """
        if seconds < SLOW_READING:
            return
        now = self._clock.seconds()
        if now - self._said.get(route, -EVERY) < EVERY:
            self._more[route] = self._more.get(route, 0) + 1
            return
        self._said[route] = now
        more = self._more.pop(route, 0)
        self._log.warn(
            "route {route}: reading the messages of one chunk took {seconds} s, while nothing else"
            " could go on{_more}",
            event="slow-reading",
            route=route,
            seconds=round(seconds, 3),
            more=more,
            _more=f"; {more} more before it" if more else "",
        )
