"""
Watch: looks at the gateway once a second, keeps the last hour's history, and tells its status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.model.errors import SpoolError
from gateway.status.history import INTERVAL, History, Recent
from gateway.status.reactor_lag import ReactorLag
from gateway.status.source import StatusParts, StatusSource
from gateway.status.status import State, Status
from gateway.status.warnings import LATELY, totals_of, warnings_of

_SPOOL_INTERVAL = 2.0
"""Seconds between two looks at the spool's oldest message."""


class StatusWatch(Protocol):
    """
    Watch over one process or over several, for those who show the status.
    """

    @property
    def history(self) -> History:
        """Totals of the last hour, as L{totals_of} names them."""

    def status(self) -> Status:
        """Return the status now, as far as it is known, with its warnings."""

    async def fresh_status(self) -> Status:
        """Return the status now, read anew."""

    def by_worker(self) -> Mapping[int, Status]:
        """Return the status of each worker that has told one; empty: there are no workers."""

    def is_alive(self) -> bool:
        """Say whether no process has been silent for long."""

    def recent(self, totals: Mapping[str, float]) -> Recent:
        """Return the growth of totals in the last minute; C{totals} are those now."""


class Watch:
    """
    Watch over the gateway.

    @ivar history: totals of the last hour, as L{totals_of} names them.
    @ivar slow_commit: seconds after which a commit in flight is warned of.
    @ivar remarks: lines about the configuration, for its warnings.
    """

    _log = Logger()

    def __init__(self, source: StatusSource, remarks: Sequence[str], slow_commit: float) -> None:
        self.history = History()
        self.slow_commit = slow_commit
        self.remarks = remarks
        self._source = source
        self._clock = source.parts.clock
        self._lag = ReactorLag(self._clock, source.reactor_lags)
        self._sampling: IDelayedCall | None = None
        self._looking: IDelayedCall | None = None

    @property
    def parts(self) -> StatusParts:
        """Parts of the gateway that the status is read from."""
        return self._source.parts

    @property
    def state(self) -> State:
        """State of the gateway's life, as the status tells it."""
        return self._source.state

    @state.setter
    def state(self, state: State) -> None:
        self._source.state = state

    def start(self) -> None:
        """Begin to look."""
        self._lag.start()
        self._sample()
        self._look_at_spool()

    def stop(self) -> None:
        """Stop looking."""
        self._lag.stop()
        for call in (self._sampling, self._looking):
            if call is not None and call.active():
                call.cancel()

    def status(self) -> Status:
        """Return the status now, with its warnings."""
        self._source.reactor_lag = self._lag.longest
        status = self._source.read()
        totals = totals_of(status)
        found = warnings_of(
            status,
            self.recent(totals).growth,
            self.slow_commit,
            self.remarks,
        )
        return replace(status, warnings=found)

    async def fresh_status(self) -> Status:
        """Return the status now: it is read at each time."""
        return self.status()

    def by_worker(self) -> Mapping[int, Status]:
        """Return nothing: this process does it all."""
        return {}

    def is_alive(self) -> bool:
        """Say that it lives, for whoever can ask."""
        return True

    def recent(self, totals: Mapping[str, float]) -> Recent:
        """Return the growth of totals in the last minute; C{totals} are those now."""
        return self.history.recent(LATELY, self._clock.seconds(), totals)

    def _sample(self) -> None:
        self._sampling = self._clock.callLater(INTERVAL, self._sample)
        self.history.add(self._clock.seconds(), totals_of(self._source.read()))

    def _look_at_spool(self) -> None:
        spool = self._source.parts.spool
        if spool is not None and spool.messages:
            Deferred.fromCoroutine(self._find_oldest()).addErrback(
                lambda failure: self._log.failure(
                    "spool: not looked at", event="spool-look-failed", failure=failure
                )
            )
        else:
            self._source.spool_oldest = None
        self._looking = self._clock.callLater(_SPOOL_INTERVAL, self._look_at_spool)

    async def _find_oldest(self) -> None:
        spool = self._source.parts.spool
        assert spool is not None
        with suppress(SpoolError):  # logged by whoever writes to it
            self._source.spool_oldest = await spool.oldest()
