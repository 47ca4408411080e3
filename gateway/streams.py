"""
Who has which numbered stream.

A stream belongs to the connection that opened it last. Opening it claims it in the
database first, so that whatever another gateway still wants to store for it is refused;
then the connection that had it here is let go, and what it had in flight is waited for:
only then is it certain which number comes next.

While the database is away a stream can be opened all the same if this gateway knows how
far it is: from its spool, or because the stream was open here before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from gateway.errors import StoreError
from gateway.reply import RETRY_AFTER, Code, Outcome, try_later
from gateway.store import Claim, Store
from gateway.stream import TAKEN, Stream

REMEMBERED: Final = 10_000
"""Streams of which it is remembered how far they were when they were closed."""


class Claimant(Protocol):
    """
    Whoever opens streams.
    """

    def dismiss(self, outcome: Outcome) -> None:
        """Its stream is another's now."""


class Streams:
    """
    The streams that are open at this gateway.
    """

    _log = Logger()

    def __init__(self, store: Store, spooled: Callable[[str], int]) -> None:
        """
        @param spooled: the highest number of a stream that waits in the spool; 0 for none.
        """
        self._store = store
        self._spooled = spooled
        self._open: dict[str, tuple[Stream, Claimant]] = {}
        self._closed: dict[str, Stream] = {}
        self._turns: dict[str, tuple[DeferredLock, int]] = {}

    async def open(self, name: str, claimant: Claimant) -> Stream | Outcome:
        """
        Claim a stream; a connection that had it is told goodbye.

        @return: the stream, or why it cannot be opened now.
        """
        lock, waiting = self._turns.get(name, (DeferredLock(), 0))
        self._turns[name] = (lock, waiting + 1)
        try:
            async with lock:
                return await self._claim(name, claimant)
        finally:
            lock, waiting = self._turns[name]
            if waiting > 1:
                self._turns[name] = (lock, waiting - 1)
            else:
                del self._turns[name]

    def close(self, stream: Stream) -> None:
        """
        Its connection is gone, or opens another one.
        """
        stream.end()
        kept = self._open.get(stream.name)
        if kept is not None and kept[0] is stream:
            del self._open[stream.name]
            self._remember(stream)

    async def _claim(self, name: str, claimant: Claimant) -> Stream | Outcome:
        claim: Claim | None = None
        try:
            claim = await self._store.claim_stream(name)
        except StoreError as error:
            if not (name in self._open or name in self._closed or self._spooled(name)):
                self._log.debug("stream {name}: not opened: {error}", name=name, error=str(error))
                text = "the database cannot be asked how far the stream is"
                return try_later(Code.DOWN, text, RETRY_AFTER)
        before = await self._taken_over(name, claimant)
        spooled = self._spooled(name)
        if claim is not None:
            marks, refusals = dict(claim.marks), dict(claim.refusals)
            last = max(claim.last, spooled)
        else:
            marks, refusals, last = {}, {}, spooled
        if before is not None:
            # Refusals of which the database was not told yet, and marks it has since.
            if claim is None:
                last = max(last, before.last)
                marks = dict(before.marks)
            last = max(last, *(before.unsaved or (0,)))
            refusals.update(before.refusals)
        stream = Stream(name, None if claim is None else claim.number, last, marks, refusals)
        if before is not None:
            stream.unsaved = dict(before.unsaved)
        self._open[name] = (stream, claimant)
        return stream

    async def _taken_over(self, name: str, claimant: Claimant) -> Stream | None:
        """
        End what there is of a stream here.

        @return: it, with nothing in flight any more.
        """
        stream = self._closed.pop(name, None)
        kept = self._open.pop(name, None)
        if kept is not None:
            stream, other = kept
            stream.end()
            if other is not claimant:
                other.dismiss(TAKEN)
        if stream is not None and stream.busy:
            idle: Deferred[None] = Deferred()
            stream.idle = lambda: idle.callback(None)
            await idle
            stream.idle = None
        return stream

    def _remember(self, stream: Stream) -> None:
        self._closed.pop(stream.name, None)
        self._closed[stream.name] = stream
        if len(self._closed) > REMEMBERED:
            for name, oldest in self._closed.items():
                if not oldest.busy:
                    del self._closed[name]
                    break
