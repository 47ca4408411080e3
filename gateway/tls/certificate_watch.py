"""
Watch certificate files, so that a renewed certificate is used without a reload.

Strategy: the files' stamps are compared every few seconds. Changed files are read once a second
look finds the same stamp, because certificate and key are two files, written one after the other.
Files that cannot be used are not tried again before they change.
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
    Timer that watches the files of all listeners.
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
        Watch the files of C{contexts}, and no others.
        """
        self._contexts = dict.fromkeys(contexts)
        if self._runs:
            self._begin()

    def start(self) -> None:
        """
        Start to watch, and warn of certificates that soon expire.
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
            # A list may expire within hours, before the daily reminder.
            if contexts.warns_anew:
                contexts.warn()

    def _tried(self, contexts: Contexts, seen: Stamp | None) -> Stamp | None:
        """
        Read the files again if they have changed, and the change is one look old.

        @param seen: stamp of a change at the previous look; C{None} without a change.
        @return: the new stamp while the files are still to be read; else C{None}.
        """
        try:
            stamp = contexts.changed_stamp
            if stamp is None or stamp != seen:
                return stamp
            if contexts.reload():
                self._changed()
        except Exception:  # noqa: BLE001 - peers are still shown what they were shown before
            self._log.failure(
                "the certificate could not be read again, and stays as it was",
                event="certificate-look-failed",
            )
        return None

    def _warn(self) -> None:
        self._warned = self._clock.seconds()
        for contexts in self._contexts:
            contexts.warn()
