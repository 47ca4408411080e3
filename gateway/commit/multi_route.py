"""
Commit of batches of several routes at once.

A peer that changes the route with every message would otherwise have a commit for each. In one
transaction the messages of each route go together where nobody can see that, and else in the order
in which they arrived; rows at fault are left out of it. Only where a route fails as a whole, or
some of the messages belong into the spool, are they committed one by one, in order of arrival.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence

from twisted.internet.task import deferLater

from gateway.commit.attempt import Attempt, NextStep, retry_delay
from gateway.commit.lane_context import LaneContext
from gateway.metrics.counters import NOT_STORED, SPOOLED
from gateway.model import wording
from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import (
    BatchesRefused,
    Faults,
    OutcomeUnknown,
    SpoolError,
    SpoolUnknown,
    StoreError,
)
from gateway.model.outcome import QUEUED, STORED, Run
from gateway.model.store import Written

Without = Callable[[Batch, Faults], Batch | None]
"""Refuses rows of a batch; gives what is left of it."""

Settle = Callable[[Batch, Sequence[Run]], Awaitable[None]]
"""Settles the rows of a batch, after refused ones are kept as dead letters."""


class MultiRouteCommit:
    """
    Commit of batches of several routes at once.
    """

    def __init__(
        self,
        context: LaneContext,
        fences: MutableMapping[str, Fence],
        without: Without,
        settle: Settle,
    ) -> None:
        """
        @param fences: route -> the fence of its next batch; makes up those that are missing.
        """
        self._context = context
        self._fences = fences
        self._without = without
        self._settle = settle

    async def commit(self, batches: Sequence[Batch], chunks: Sequence[Chunk]) -> Sequence[Batch]:
        """
        Commit batches, each of another route; return those that have to be committed one by one.

        @param chunks: all chunks of their rows, in the order in which they were received.
        """
        context, store = self._context, self._context.store
        batches = self._without_closed(batches)
        while len(batches) > 1 and self._free(batches):
            fences = [self._fences[batch.route] for batch in batches]
            started = context.clock.seconds()
            try:
                written = await store.write_together(
                    batches, fences, chunks, patient=context.spooler is None
                )
            except BatchesRefused as error:
                batches = [
                    left
                    for batch, faults in zip(batches, error.faults, strict=True)
                    if (left := self._without(batch, faults)) is not None
                ]
                continue
            except OutcomeUnknown as error:
                attempt = context.attempt(started, numbered=any(b.numbered for b in batches))
                return await self._resolve(batches, fences, attempt, error)
            except StoreError:
                break
            if written is None:
                break
            await self._stored([*zip(batches, fences, written, strict=True)], started, None)
            return []
        return batches

    def _without_closed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """
        Answer the messages of routes that are out of service, so that the others go together.

        Where messages have numbers, those before them have to be stored first.
        """
        closed = self._context.breakers.answers
        if not closed or any(batch.numbered for batch in batches):
            return batches
        left = []
        for batch in batches:
            answer = closed.get(batch.route)
            if answer is None:
                left.append(batch)
            else:
                batch.fail(answer)
        return left

    def _free(self, batches: Sequence[Batch]) -> bool:
        """Say whether all batches may be stored: none is void, out of service, or for the spool."""
        breakers, spooler = self._context.breakers, self._context.spooler
        return not any(
            batch.void
            or batch.route in breakers.answers
            or (spooler is not None and spooler.leads(batch))
            for batch in batches
        )

    async def _stored(
        self,
        moved: Sequence[tuple[Batch, Fence, Written]],
        started: float,
        attempt: Attempt | None,
    ) -> None:
        """Settle batches whose fences have moved."""
        for batch, fence, written in moved:
            self._fences[batch.route] = fence.next
            self._context.committed(
                batch, written.runs, started, attempt, by_earlier_try=written.before
            )
        refused = []
        for batch, _, written in moved:
            if len(written.runs) == 1 and written.runs[0][1] is STORED:
                batch.settle(written.runs)
            else:
                refused.append((batch, written.runs))
        # Dead letters need a commit, for which the others do not wait.
        for batch, runs in refused:
            await self._settle(batch, runs)

    async def _resolve(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        attempt: Attempt,
        trouble: StoreError,
    ) -> Sequence[Batch]:
        """
        Resolve a commit whose reply was lost, and settle what it stored.

        @return: batches that are not stored, nor ever will be by that commit.
        """
        context = self._context
        routes = [batch.route for batch in batches]
        while True:
            step = context.note_failure(attempt, routes[0], trouble, routes[1:])
            if step is NextStep.SPOOL and await self._spool(batches, fences, str(trouble)):
                return []
            await deferLater(context.clock, retry_delay(attempt.failures))
            try:
                # It was one transaction, so the first one tells whether anything is stored.
                first = await context.store.resolve(batches[0], fences[0])
                if first is None:
                    break
                others = [
                    await context.store.resolve(batch, fence)
                    for batch, fence in zip(batches[1:], fences[1:], strict=True)
                ]
            except StoreError as error:
                trouble = error
                continue
            moved = [
                (batch, fence, written)
                for batch, fence, written in zip(batches, fences, [first, *others], strict=True)
                if written is not None
            ]
            await self._stored(moved, attempt.started, attempt)
            # A database that was set back meanwhile holds the others no more.
            left = [b for b, written in zip(batches[1:], others, strict=True) if written is None]
            for batch in left:
                self._fences.pop(batch.route, None)
            return left
        for batch in batches:
            context.counters[batch.route].resolved[NOT_STORED] += 1
        # The fence is void; the others never stand for another batch.
        self._fences[batches[0].route] = fences[0].next
        for batch in batches[1:]:
            self._fences.pop(batch.route, None)
        return batches

    async def _spool(self, batches: Sequence[Batch], fences: Sequence[Fence], reason: str) -> bool:
        """
        Put batches that may be stored into the spool, each with its fence.

        @return: C{False} where there is no room even for the first of them.
        """
        spooler = self._context.spooler
        assert spooler is not None
        for place, (batch, fence) in enumerate(zip(batches, fences, strict=True)):
            attempt = 0
            outcome = QUEUED
            while True:
                try:
                    await spooler.keep(batch, fence, reason)
                except SpoolUnknown:
                    outcome = wording.STORING_FAILED
                except SpoolError:
                    if not place:
                        return False
                    # The first batches are in the spool with their fences, and can be resolved
                    # only there, so the others have to follow.
                    attempt += 1
                    await deferLater(self._context.clock, retry_delay(attempt))
                    continue
                break
            self._context.counters[batch.route].resolved[SPOOLED] += 1
            # The fence is the spool's now.
            self._fences.pop(batch.route, None)
            if outcome is QUEUED:
                batch.settle([(batch.count, outcome)])
            else:
                batch.fail(outcome)
        return True
