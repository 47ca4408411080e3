"""
Spools of workers that are no more: stored until they are empty, then removed.

Where a gateway is started with fewer workers than before, each of the others takes some of the
spools that are left. Nothing new comes into them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.logs.last_reason import LastReason
from gateway.model.errors import EmbeddedError
from gateway.model.store import Store
from gateway.spool.file import SpoolFile
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import OwnThread, Spool
from gateway.system.regular_file import is_there

_LOOK: Final = 1.0
"""Seconds between two looks whether a spool is empty."""

_AGAIN: Final = 10.0
"""Seconds until a spool is opened again that another process had."""

_SUFFIXES: Final = ("", "-wal", "-shm", ".mark", ".new", ".lock")
"""Of the files of a spool; that of its lock last."""


class LeftoverParts(NamedTuple):
    """
    Parts of the gateway that leftover spools are stored with.

    @ivar backoff: failed attempts -> seconds to wait.
    @ivar missing: see L{OutageSpool}.
    """

    store: Store
    breakers: CircuitBreakers
    clock: Any
    backoff: Callable[[int], float]
    missing: Callable[[str, str], None]


class LeftoverSpool(NamedTuple):
    """
    Spool that is left, for the status.

    @ivar spool: C{None}: it cannot be read now; likewise C{spooler}.
    @ivar reason: why not.
    """

    path: Path
    spool: Spool | None
    spooler: OutageSpool | None
    reason: str


class Leftovers:
    """
    Spools that are left from workers of before.
    """

    def __init__(self, paths: Sequence[Path], max_bytes: int, parts: LeftoverParts) -> None:
        """
        @param max_bytes: limit of each one's size.
        """
        self._spools = [_Leftover(path, max_bytes, parts) for path in paths]

    def __bool__(self) -> bool:
        """Whether any is left."""
        return any(not spool.is_done for spool in self._spools)

    def present(self) -> Sequence[LeftoverSpool]:
        """Return those that are not done with."""
        return [spool.as_seen() for spool in self._spools if not spool.is_done]

    def start(self) -> None:
        """Begin to store what is in them."""
        for spool in self._spools:
            spool.start()

    def begin_stop(self) -> None:
        """Begin nothing more; later failures are not logged as outages, since the gateway stops."""
        for spool in self._spools:
            spool.begin_stop()

    async def stop(self) -> None:
        """Stop storing; the rest stays for the next start."""
        for spool in self._spools:
            await spool.stop()


class _Leftover:
    """
    One spool that is left.

    @ivar is_done: whether it was empty, and is removed.
    """

    _log = Logger()

    def __init__(self, path: Path, max_bytes: int, parts: LeftoverParts) -> None:
        self.is_done = False
        self._path = path
        self._max_bytes = max_bytes
        self._parts = parts
        self._reason = LastReason()
        self._fault = "it is not opened yet"
        self._running: Deferred[None] | None = None
        self._opened: tuple[Spool, OutageSpool] | None = None

    def start(self) -> None:
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._failed)

    def as_seen(self) -> LeftoverSpool:
        spool, spooler = (None, None) if self._opened is None else self._opened
        return LeftoverSpool(self._path, spool, spooler, self._fault)

    def begin_stop(self) -> None:
        if self._opened is not None:
            self._opened[1].begin_stop()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
        await self._close()

    async def _run(self) -> None:
        clock = self._parts.clock
        while is_there(self._path):
            opened = self._open()
            if opened is None:
                await deferLater(clock, _AGAIN)
                continue
            spool, spooler = self._opened = opened
            spool.start()
            spooler.start()
            while spool.messages:
                await deferLater(clock, _LOOK)
            is_damaged = bool(spool.damaged)
            await self._close()
            if not is_damaged:
                self._remove()
            break
        self.is_done = True

    def _open(self) -> tuple[Spool, OutageSpool] | None:
        """Open the spool; C{None}: that is not possible now."""
        parts = self._parts
        spool = Spool(SpoolFile(self._path, self._max_bytes), OwnThread(parts.clock))
        try:
            spool.open()
        except EmbeddedError as error:
            self._fault = str(error)
            if self._reason.note(str(error)):
                self._log.warn(
                    "spool: {path} of a worker that is no more is not stored yet: {reason}",
                    event="spool-left-over-unread",
                    path=str(self._path),
                    reason=str(error),
                )
            return None
        spooler = OutageSpool(
            *(spool, parts.store, parts.breakers, parts.clock, parts.backoff, parts.missing),
            takes=False,
        )
        return spool, spooler

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            spool, spooler = opened
            await spooler.stop()
            await spool.close()

    def _remove(self) -> None:
        for suffix in _SUFFIXES:
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        self._log.info(
            "spool: {path} of a worker that is no more is empty, and removed",
            event="spool-left-over-removed",
            path=str(self._path),
        )

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure(
                "spool: storing what a worker left failed",
                failure,
                event="spool-left-over-failed",
            )
