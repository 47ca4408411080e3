"""
Log of events that may come by the thousand: the first of each kind, then how many more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

EVERY: Final = 60.0
"""Seconds between two lines of one kind."""

EventKind = TypeVar("EventKind", bound=Hashable)


class RepeatLog(Generic[EventKind]):
    """
    Log that writes the first event of each kind at once, and once a minute how many more came.
    """

    def __init__(self, clock: IReactorTime, say: Callable[[EventKind, int, str], None]) -> None:
        """
        @param say: writes a line: its kind, how many events it is for, and the text of the first or
            a note that these are more.
        """
        self._clock = clock
        self._say = say
        self._more: dict[EventKind, int] = {}
        self._call: IDelayedCall | None = None

    def note(self, kind: EventKind, count: int, text: str) -> None:
        """
        Count events of a kind.

        @param text: logged where this is the first of its kind.
        """
        if kind in self._more:
            self._more[kind] += count
            return
        self._more[kind] = 0
        self._say(kind, count, text)
        if self._call is None:
            self._call = self._clock.callLater(EVERY, self._tell)

    def end(self) -> None:
        """Log the counts that are not logged yet, and stop."""
        if self._call is not None:
            self._call.cancel()
            self._tell()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tell(self) -> None:
        self._call = None
        more, self._more = self._more, {}
        for kind, count in more.items():
            if count:
                self._more[kind] = 0
                self._say(kind, count, f"more within {EVERY:g} s")
        if self._more:
            self._call = self._clock.callLater(EVERY, self._tell)
