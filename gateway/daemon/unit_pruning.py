"""
Pruning of the units that are remembered, so that one sent again is stored once.

Each gateway forgets those of all gateways at its database that are older than the longest
C{remember_chunks} of its own listeners, and the oldest where there are too many.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, TypeGuard

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.dialects.acknowledging import AcknowledgingDialect
from gateway.listeners.build import Listeners
from gateway.model.errors import StoreError
from gateway.postgres.store.databases import Databases

_PERIOD: Final = 600.0
"""Seconds between two looks: a look reads all that is remembered."""


class UnitPruning:
    """
    Periodic pruning of remembered units, as long as some listener has any.
    """

    _log = Logger()

    def __init__(self, store: Databases, listeners: Listeners, clock: IReactorTime) -> None:
        self._store = store
        self._listeners = listeners
        self._clock = clock
        self._running: Deferred[None] | None = None

    @property
    def seconds(self) -> float:
        """How long units are remembered; 0: no listener has any."""
        dialects = [service.factory.dialect for service in self._listeners]
        remembered = [d.settings.remember_chunks for d in dialects if _remembers(d)]
        return max(remembered, default=0.0)

    def start(self) -> None:
        """Begin to look now and then."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    def stop(self) -> None:
        """Look no more; calling it again is harmless."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        while True:
            await deferLater(self._clock, _PERIOD)
            if seconds := self.seconds:
                with suppress(StoreError):  # the next look comes
                    await self._store.forget_units(seconds)

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure(
                "remembered chunks are not pruned any more", event="pruning-failed", failure=failure
            )


def _remembers(dialect: object) -> TypeGuard[AcknowledgingDialect]:
    return isinstance(dialect, AcknowledgingDialect) and dialect.remembers
