"""
Watches certificate files, so that a renewed one is shown without a word from anybody.

Strategy: the files' stamps are compared every few seconds, and read again when they have not
changed for one look: certificate and key are two files, and those who renew them write one
after the other. What could not be used is not tried again before it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.tls.contexts import Contexts
from gateway.tls.files import Stamp

INTERVAL: Final = 2.0
"""Seconds between two looks; one look is a stat(2) for each file."""

REMIND: Final = 86400.0
"""Seconds between two warnings of the same certificate."""


class CertificateWatch:
    """
    Watches the files of all listeners.
    """

    def __init__(
        self, contexts: Sequence[Contexts], clock: IReactorTime, interval: float = INTERVAL
    ) -> None:
        """
        @param interval: seconds between two looks.
        """
        self._contexts = contexts
        self._clock = clock
        self._interval = interval
        self._call: IDelayedCall | None = None
        self._changing: dict[int, Stamp | None] = {}
        self._warned = 0.0

    def start(self) -> None:
        """
        Warn of what is there, and begin.
        """
        if self._contexts and self._call is None:
            self._warn()
            self._call = self._clock.callLater(self._interval, self._look)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def reload(self) -> bool:
        """
        Read all files now, changed or not.

        @return: whether all could be used.
        """
        self._changing.clear()
        results = [contexts.reload() for contexts in self._contexts]
        return all(results)

    def _look(self) -> None:
        self._call = self._clock.callLater(self._interval, self._look)
        for number, contexts in enumerate(self._contexts):
            stamp = contexts.changed
            if stamp is not None and stamp == self._changing.get(number):
                contexts.reload()
                stamp = None
            self._changing[number] = stamp
        if self._clock.seconds() - self._warned >= REMIND:
            self._warn()

    def _warn(self) -> None:
        self._warned = self._clock.seconds()
        for contexts in self._contexts:
            contexts.warn()
