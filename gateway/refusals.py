"""
Refusals in the log: one line for each kind of them, and how many more there were.

A peer that takes no answers, or goes before they come, is told nothing of what was refused;
with no dead letters kept the log is the only trace.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway.reply import Code, Outcome, one_line

EVERY: Final = 60.0
"""Seconds between two lines about refusals of one route and code."""


class _Kind(NamedTuple):
    """The route, or C{""} where none was found, and the code."""

    route: str
    code: Code | None


class Refusals:
    """
    Of one listener.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, listener: str) -> None:
        """
        @param listener: its name.
        """
        self._clock = clock
        self._listener = listener
        self._more: dict[_Kind, int] = {}
        self._call: IDelayedCall | None = None

    def note(self, route: str, count: int, outcome: Outcome, peer: str) -> None:
        """
        Messages were refused for good. The first of their kind is told at once.

        @param peer: its address.
        """
        kind = _Kind(route, outcome.code)
        if kind in self._more:
            self._more[kind] += count
            return
        self._more[kind] = 0
        self._say(kind, count, f"{one_line(outcome.text)} (from {peer})")
        if self._call is None:
            self._call = self._clock.callLater(EVERY, self._tell)

    def _tell(self) -> None:
        self._call = None
        more, self._more = self._more, {}
        for kind, count in more.items():
            if count:
                self._more[kind] = 0
                self._say(kind, count, f"more within {EVERY:g} s")
        if self._more:
            self._call = self._clock.callLater(EVERY, self._tell)

    def end(self) -> None:
        """
        Tell what is not told yet, and be quiet.
        """
        if self._call is not None:
            self._call.cancel()
            self._tell()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _say(self, kind: _Kind, count: int, text: str) -> None:
        self._log.warn(
            "listener {listener}: {count} {messages}{route} refused: {code}: {text}",
            listener=self._listener,
            count=count,
            messages="message" if count == 1 else "messages",
            route=f" for route {kind.route}" if kind.route else "",
            code=kind.code,
            text=text,
        )
