"""
Log of refusals: one line for each kind, then how many more there were.

A peer that reads no answers, or goes before they come, does not hear of refusals;
with no dead letters kept the log is the only trace.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.logs.repeat_log import RepeatLog
from gateway.model.outcome import Code, Outcome, one_line


class _RefusalKind(NamedTuple):
    """The route, or C{""} where none was found, and the code."""

    route: str
    code: Code | None


class RefusalLog:
    """
    Log of one listener's refusals.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, listener: str) -> None:
        self._listener = listener
        self._repeat_log: RepeatLog[_RefusalKind] = RepeatLog(clock, self._say)

    def note(self, route: str, count: int, outcome: Outcome, peer: str) -> None:
        """
        Note that messages were refused for good. The first of their kind is logged at once.

        @param peer: its address.
        """
        kind = _RefusalKind(route, outcome.code)
        self._repeat_log.note(kind, count, f"{one_line(outcome.text)} (from {peer})")

    def end(self) -> None:
        """
        Log the counts that are not logged yet, and stop.
        """
        self._repeat_log.end()

    def _say(self, kind: _RefusalKind, count: int, text: str) -> None:
        self._log.warn(
            "listener {listener}: {count} {_messages}{_route} refused: {code}: {remark}",
            event="refused",
            listener=self._listener,
            count=count,
            route=kind.route,
            _messages="message" if count == 1 else "messages",
            _route=f" for route {kind.route}" if kind.route else "",
            code=kind.code,
            remark=text,
        )
