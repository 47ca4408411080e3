"""
Commit of batches of several routes at once.

A peer that changes the route with every message would otherwise have a commit for each.
In one transaction the messages of each route go together, since nobody sees a part of a
commit. This is for batches without errors: those that cannot be stored like this, because a row
is refused or refers to one of another route that came before it, are stored in order of
arrival afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence

from twisted.internet.task import deferLater

from gateway.commit.attempt import Attempt, NextStep, retry_delay
from gateway.commit.lane_context import LaneContext
from gateway.metrics.counters import NOT_STORED, SPOOLED
from gateway.model import wording
from gateway.model.batch import Batch, Fence
from gateway.model.errors import (
    BatchesRefused,
    Faults,
    OutcomeUnknown,
    SpoolError,
    SpoolUnknown,
    StoreError,
)
from gateway.model.outcome import QUEUED, STORED

Without = Callable[[Batch, Faults], Batch | None]
"""Refuses rows of a batch; gives what is left of it."""


class MultiRouteCommit:
    """
    Commit of batches of several routes at once.
    """

    def __init__(
        self, context: LaneContext, fences: MutableMapping[str, Fence], without: Without
    ) -> None:
        """
        @param fences: route -> the fence of its next batch; makes up those that are missing.
        """
        self._context = context
        self._fences = fences
        self._without = without

    async def commit(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """
        Commit batches, each of another route; return those that have to be committed one by one.
        """
        context, store = self._context, self._context.store
        while len(batches) > 1 and self._free(batches):
            fences = [self._fences[batch.route] for batch in batches]
            started = context.clock.seconds()
            try:
                if not await store.write_together(batches, fences):
                    break
            except BatchesRefused as error:
                batches = [
                    left
                    for batch, faults in zip(batches, error.faults, strict=True)
                    if (left := self._without(batch, faults)) is not None
                ]
                continue
            except OutcomeUnknown as error:
                if not await self._settle(batches, fences, context.attempt(started), error):
                    break
                return []
            except StoreError:
                break
            self._stored(batches, fences, started, None, by_earlier_try=False)
            return []
        return batches

    def _free(self, batches: Sequence[Batch]) -> bool:
        """Say whether all batches may be stored: none is void, out of service, or for the spool."""
        breakers, spooler = self._context.breakers, self._context.spooler
        return not any(
            batch.void
            or batch.route in breakers.answers
            or (spooler is not None and spooler.leads(batch))
            for batch in batches
        )

    def _stored(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        started: float,
        attempt: Attempt | None,
        *,
        by_earlier_try: bool,
    ) -> None:
        for batch, fence in zip(batches, fences, strict=True):
            self._fences[batch.route] = fence.next
            runs = [(batch.count, STORED)]
            self._context.committed(batch, runs, started, attempt, by_earlier_try=by_earlier_try)
            batch.settle(runs)

    async def _settle(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        attempt: Attempt,
        trouble: StoreError,
    ) -> bool:
        """
        Resolve a commit whose reply was lost.

        @return: whether the batches are settled; else they are not stored, nor ever will be.
        """
        context = self._context
        routes = [batch.route for batch in batches]
        while True:
            step = context.note_failure(attempt, routes[0], trouble, routes[1:])
            if step is NextStep.SPOOL and await self._spool(batches, fences, str(trouble)):
                return True
            await deferLater(context.clock, retry_delay(attempt.failures))
            try:
                stored = await context.store.resolve(batches[0], fences[0]) is not None
            except StoreError as error:
                trouble = error
                continue
            if stored:
                self._stored(batches, fences, attempt.started, attempt, by_earlier_try=True)
            else:
                for batch in batches:
                    context.counters[batch.route].resolved[NOT_STORED] += 1
                # The fence is void; the others never stand for another batch.
                self._fences[batches[0].route] = fences[0].next
                for batch in batches[1:]:
                    self._fences.pop(batch.route, None)
            return stored

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
