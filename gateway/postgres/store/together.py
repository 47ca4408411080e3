"""
Commits of several routes: their batches in one transaction and one round trip.

Strategy: the statements of the routes one behind the other. Where the order of arrival between them
makes a difference, one code block in their place that stores the rows of all in that order
(L{gateway.sql.block}). Where that fails, such a block finds the rows at fault, and leaves them out.
What became of the rows of each batch is read from their lanes in the same round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import FenceVoid, OutcomeUnknown, RouteError, RowError, TransientError
from gateway.model.outcome import STORED, Run
from gateway.model.store import Written
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.driver_errors import StoredBefore, StreamsUnmoved
from gateway.postgres.store.executor import passes
from gateway.postgres.store.route_cache import Definition
from gateway.postgres.store.several import (
    BoundBatches,
    CommitParts,
    order_matters,
)
from gateway.sql.block import Blame
from gateway.sql.fates import VOID, runs_of


class TogetherCommit:
    """
    Writer of batches of several routes that are stored in one commit.
    """

    def __init__(self, parts: CommitParts) -> None:
        self._parts = parts

    async def write(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk],
        patient: bool,
    ) -> Sequence[Written] | None:
        """
        Store all batches, see L{gateway.model.store.Store.write_together}.
        """
        async with self._parts.binder.bound(batches) as bound:
            connection, definitions, _ = bound
            try:
                fates = await self._run(bound, batches, fences, chunks, patient)
                if connection.warned:
                    await self._parts.touch(connection, fences)
            except StreamsUnmoved:
                return None
            except StoredBefore:
                return await self._stored_before(connection, batches, fences, definitions)
            except OutcomeUnknown:
                self._parts.note_lost(fences)
                raise
        everything = []
        for batch, fence, definition in zip(batches, fences, definitions, strict=True):
            runs = _runs(batch, fates.get(fence.lane), definition)
            if definition is not None:
                definition.note_stored(batch, runs)
            everything.append(Written(runs, False))
        return everything

    async def write_afresh(
        self, batches: Sequence[Batch], fences: Sequence[Fence]
    ) -> Sequence[Written] | None:
        """
        Store all batches, see C{afresh} at L{gateway.model.store.Store.write_together}.
        """
        async with self._parts.binder.bound(batches) as (connection, definitions, bounds):
            if not self._parts.executor.joins([bound for bound in bounds if bound is not None]):
                return None
            try:
                await self._parts.executor.run_all(connection, bounds, fences, batches)
                if connection.warned:
                    await self._parts.touch(connection, fences)
            except (StreamsUnmoved, StoredBefore):
                return None
            except OutcomeUnknown:
                self._parts.note_lost(fences)
                raise
        for batch, definition in zip(batches, definitions, strict=True):
            if definition is not None:
                definition.passed = batch.slices[-1]
        return [Written([(batch.count, STORED)], False) for batch in batches]

    async def _run(
        self,
        bound: BoundBatches,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk],
        patient: bool,
    ) -> dict[str, str | None]:
        """
        Store all batches.

        Where no row of a route passes, ones that were stored before tell whether the rows are at
        fault or their route.

        @return: lane -> fates of its rows, where not all are simply stored.
        """
        connection, definitions, bounds = bound
        run = partial(
            self._parts.executor.run_together,
            *(connection, bounds, fences, batches, chunks),
            ordered=order_matters([d for d in definitions if d is not None]),
            patient=patient,
        )
        try:
            return await run()
        except (RowError, RouteError, TransientError) as error:
            if not connection.usable or passes(error):
                raise
            for definition in definitions:
                if definition is not None and not await self._parts.sound(connection, definition):
                    raise
        return await run(blame=Blame.ALL)

    async def _stored_before(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        definitions: Sequence[Definition | None],
    ) -> Sequence[Written] | None:
        """
        Return the result of an earlier try; C{None} where it was not of all these batches.
        """
        numbers = await self._parts.touch(connection, fences)
        if numbers.get(fences[0].lane) == (fences[0].number, VOID):
            raise FenceVoid(fences[0].number)
        everything = []
        for batch, fence, definition in zip(batches, fences, definitions, strict=True):
            number, fates = numbers.get(fence.lane, (0, None))
            if number != fence.number or fates == VOID:
                return None
            everything.append(Written(_runs(batch, fates, definition), True))
        return everything


def _runs(batch: Batch, fates: str | None, definition: Definition | None) -> list[Run]:
    if fates is None or definition is None:
        return [(batch.count, STORED)]
    return runs_of(fates, batch.count, definition.route.returning)
