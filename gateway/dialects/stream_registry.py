"""
Registry of numbered streams: which peer has opened which.

A stream belongs to the connection that opened it last. A connection that had it here is
closed first, and its messages in flight are waited for; then the stream is claimed in the
database, which returns the stream's mark and from then on refuses what any other gateway still
wants to store for it. Numbers in this gateway's own spool count, where they continue the mark.

While the database is away a stream can be opened by a peer that says what it has seen, if
this gateway has settled as much itself, in the same epoch: in its spool, or because the
stream was open here before. A peer that does not say it is never given a number from memory.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from gateway.metrics.counters import StreamCounters
from gateway.model import wording
from gateway.model.errors import StoreError, StreamBehind
from gateway.model.outcome import Outcome
from gateway.model.store import Backlog, Claim, Seen, Store, Waiting, reached
from gateway.model.stream import Stream

MAX_CLOSED_STREAMS: Final = 10_000
"""Streams of which it is remembered how far they were when they were closed."""


class Claimant(Protocol):
    """
    Connection that opens streams.
    """

    def close_with(self, outcome: Outcome) -> None:
        """Close the connection: another one has opened its stream."""


class StreamRegistry:
    """
    Registry of the streams that are open at this gateway.

    @ivar counters: of the streams.
    """

    _log = Logger()

    def __init__(
        self, store: Store, backlog: Backlog | None = None, *, spread: bool = False
    ) -> None:
        """
        @param backlog: numbers that wait in the spool; C{None} where there is none.
        @param spread: whether streams are over several databases: then no stream is opened without
            asking all of them.
        """
        self._spread = spread
        self.counters = StreamCounters()
        self._store = store
        self._backlog = backlog
        self._open: dict[str, tuple[Stream, Claimant]] = {}
        self._closed: dict[str, Stream] = {}
        self._turns: dict[str, tuple[DeferredLock, int]] = {}

    @property
    def count(self) -> int:
        """Number of streams that are open."""
        return len(self._open)

    def owners(self) -> dict[int, str]:
        """Return the names of the open streams, by the C{id} of the connection that has each."""
        return {id(claimant): name for name, (_, claimant) in self._open.items()}

    async def open_stream(
        self, name: str, claimant: Claimant, seen: Seen | None = None
    ) -> Stream | Outcome:
        """
        Claim a stream; another connection that has it is closed.

        @param seen: number and epoch that the peer knows; C{None}: nothing.
        @return: the stream, or why it cannot be opened now.
        """
        lock, waiting = self._turns.get(name, (DeferredLock(), 0))
        self._turns[name] = (lock, waiting + 1)
        try:
            async with lock:
                return await self._claim(name, claimant, seen)
        finally:
            lock, waiting = self._turns[name]
            if waiting > 1:
                self._turns[name] = (lock, waiting - 1)
            else:
                del self._turns[name]

    def close_stream(self, stream: Stream) -> None:
        """
        End a stream whose connection is gone, or opens another one.
        """
        stream.end_claim()
        kept = self._open.get(stream.name)
        if kept is not None and kept[0] is stream:
            del self._open[stream.name]
            self._remember(stream)

    def missing(self, name: str, epoch: str) -> None:
        """
        Close the connection of a stream of which an answered message is gone.
        """
        kept = self._open.get(name)
        if kept is not None and kept[0].epoch == epoch:
            stream, claimant = kept
            stream.sure = False
            self.close_stream(stream)
            self.counters.gaps += 1
            claimant.close_with(wording.STREAM_BEHIND)
        closed = self._closed.get(name)
        if closed is not None and closed.epoch == epoch:
            closed.sure = False

    async def _claim(self, name: str, claimant: Claimant, seen: Seen | None) -> Stream | Outcome:
        if self._is_held_otherwise(name, claimant, seen):
            # Whoever has the stream keeps it, unless the database says that this one is right.
            assert seen is not None
            refusal = await self._refusal(name, seen)
            if refusal is not None:
                return refusal
        before = await self._taken_over(name, claimant)
        waiting = self._waiting(name)
        try:
            claim = await self._ask(name, seen, waiting)
        except StreamBehind as behind:
            self.counters.gaps += 1
            self._keep(before)
            return _not_there(behind, seen)
        except StoreError as error:
            self._keep(before)
            self._log.debug(
                "stream {stream}: not claimed: {reason}",
                event="stream-not-claimed",
                stream=name,
                reason=str(error),
            )
            known = None
            if seen is not None and not self._spread:
                known = _known(before, waiting, seen.number)
            if seen is None or known is None:
                return wording.STREAM_UNKNOWN
            epoch, last = known
            if last < seen.number or seen.epoch not in ("", epoch):
                return wording.stream_not_so_far("the database cannot be asked")
            stream = Stream(name, epoch, None, last)
            if before is not None and before.epoch == epoch:
                stream.refusals.update(before.refusals)
        else:
            stream = _claimed(name, claim, waiting)
        if waiting is not None:
            for epoch in ("", stream.epoch):
                stream.refusals.update(waiting.refusals.get(epoch, {}))
        self._closed.pop(name, None)
        self._open[name] = (stream, claimant)
        self.counters.claims += 1
        return stream

    def _is_held_otherwise(self, name: str, claimant: Claimant, seen: Seen | None) -> bool:
        """Say whether another connection has the stream here, in another epoch than is said."""
        held = self._open.get(name)
        if seen is None or held is None or held[1] is claimant:
            return False
        return seen.epoch not in ("", held[0].epoch)

    async def _refusal(self, name: str, seen: Seen) -> Outcome | None:
        """
        Ask the database whether a peer of another epoch may have a stream, while somebody has it.

        @return: why not; C{None} where it may, and whoever has it here has lost it already.
        """
        try:
            await self._ask(name, seen, self._waiting(name))
        except StreamBehind as behind:
            return _not_there(behind, seen)
        except StoreError:
            return wording.stream_not_so_far("the database cannot be asked")
        return None

    def _waiting(self, name: str) -> Waiting | None:
        """Return what the spool holds of a stream; C{None} where that is nothing."""
        return None if self._backlog is None else self._backlog.numbers_of(name)

    def _ask(self, name: str, seen: Seen | None, waiting: Waiting | None) -> Awaitable[Claim]:
        numbers = {} if waiting is None else waiting.numbers
        return self._store.claim_stream(name, seen, numbers)

    async def _taken_over(self, name: str, claimant: Claimant) -> Stream | None:
        """
        End the present claim of a stream here, and wait until nothing of it is in flight.

        @return: claim of the other gateway; C{None}: there was none.
        """
        stream = self._closed.get(name)
        kept = self._open.pop(name, None)
        if kept is not None:
            stream, other = kept
            stream.end_claim()
            if other is not claimant:
                self.counters.taken_over += 1
                other.close_with(wording.STREAM_TAKEN)
        if stream is not None and stream.busy:
            idle: Deferred[None] = Deferred()
            stream.idle = lambda: idle.callback(None)
            await idle
            stream.idle = None
        return stream

    def _keep(self, stream: Stream | None) -> None:
        """
        Remember the former claim of a stream that could not be opened again.
        """
        if stream is not None and self._closed.get(stream.name) is not stream:
            self._remember(stream)

    def _remember(self, stream: Stream) -> None:
        self._closed.pop(stream.name, None)
        self._closed[stream.name] = stream
        stream.rest()
        if len(self._closed) > MAX_CLOSED_STREAMS:
            for name, oldest in self._closed.items():
                if not oldest.busy:
                    del self._closed[name]
                    break


def _claimed(name: str, claim: Claim, waiting: Waiting | None) -> Stream:
    last = claim.mark
    if waiting is not None:
        numbers = waiting.numbers
        last = reached(last, sorted([*numbers.get(claim.epoch, ()), *numbers.get("", ())]))
    return Stream(name, claim.epoch, claim.claim, last, claim.refusals, marks=claim.marks)


def _known(before: Stream | None, waiting: Waiting | None, seen: int) -> tuple[str, int] | None:
    """
    Return the epoch and the last number that this gateway has settled itself.

    @param seen: the last number that the peer had an answer for.
    """
    if before is not None and before.sure:
        return before.epoch, before.last
    if waiting is None:
        return None
    epoch, last = waiting.last
    if last < seen:
        return epoch, last
    # What waits there may have a hole, where a disk failed.
    return epoch, reached(seen, waiting.numbers.get(epoch, ()))


def _not_there(behind: StreamBehind, seen: Seen | None) -> Outcome:
    if behind.lost:
        return wording.stream_set_back(behind.lost)
    if seen is not None and int(str(behind)) >= seen.number:
        return wording.stream_renewed(f"it is at #{behind}")
    return wording.stream_not_so_far(f"it is at #{behind}", int(str(behind)))
