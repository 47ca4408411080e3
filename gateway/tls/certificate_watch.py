"""
Watches certificate files, so that a renewed one is shown without a word from anybody.

Strategy: the files' stamps are compared every few seconds, and read again when they have not
changed for one look: certificate and key are two files, and those who renew them write one
after the other. What could not be used is not tried again before it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

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

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        interval: float = INTERVAL,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        @param interval: seconds between two looks.
        @param changed: called when files were read again.
        """
        self._changed = changed
        self._clock = clock
        self._interval = interval
        self._contexts: dict[Contexts, Stamp | None] = {}
        self._call: IDelayedCall | None = None
        self._warned = 0.0
        self._runs = False

    def watch(self, contexts: Sequence[Contexts]) -> None:
        """
        Watch the files of these, and of no others.
        """
        self._contexts = dict.fromkeys(contexts)
        if self._runs:
            self._begin()

    def start(self) -> None:
        """
        Begin, with a warning of what will soon not be valid.
        """
        self._runs = True
        self._begin()

    def stop(self) -> None:
        self._runs = False
        self._end()

    def _begin(self) -> None:
        self._end()
        if self._contexts:
            self._warn()
            self._call = self._clock.callLater(self._interval, self._look)

    def _end(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self._call = self._clock.callLater(self._interval, self._look)
        for contexts, seen in self._contexts.items():
            self._contexts[contexts] = self._tried(contexts, seen)
        if self._clock.seconds() - self._warned >= REMIND:
            self._warn()
        for contexts in self._contexts:
            # It may be a matter of hours, not of days.
            if contexts.warns_anew:
                contexts.warn()

    def _tried(self, contexts: Contexts, seen: Stamp | None) -> Stamp | None:
        """
        Read the files again if they have changed since the look before the last, and not since.

        @param seen: their stamp at the last look, if it was new.
        @return: their stamp now, if they are still to be read.
        """
        try:
            stamp = contexts.changed
            if stamp is None or stamp != seen:
                return stamp
            if contexts.reload():
                self._changed()
        except Exception:  # noqa: BLE001 - peers are still shown what they were shown before
            self._log.failure("the certificate could not be read again, and stays as it was")
        return None

    def _warn(self) -> None:
        self._warned = self._clock.seconds()
        for contexts in self._contexts:
            contexts.warn()
