"""
Refusals in the log: one line for each kind of them, and how many more there were.

A peer that takes no answers, or goes before they come, is told nothing of what was refused;
with no dead letters kept the log is the only trace.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.repeats import Repeats
from gateway.reply import Code, Outcome, one_line


class _Kind(NamedTuple):
    """The route, or C{""} where none was found, and the code."""

    route: str
    code: Code | None


class Refusals:
    """
    The refusals of one listener, as lines of the log.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, listener: str) -> None:
        """
        @param listener: its name.
        """
        self._listener = listener
        self._repeats: Repeats[_Kind] = Repeats(clock, self._say)

    def note(self, route: str, count: int, outcome: Outcome, peer: str) -> None:
        """
        Messages were refused for good. The first of their kind is told at once.

        @param peer: its address.
        """
        kind = _Kind(route, outcome.code)
        self._repeats.note(kind, count, f"{one_line(outcome.text)} (from {peer})")

    def end(self) -> None:
        """
        Tell what is not told yet, and be quiet.
        """
        self._repeats.end()

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
