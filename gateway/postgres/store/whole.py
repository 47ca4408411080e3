"""
Whole commits: several batches in one transaction, every row of them or none.

Strategy: first all statements in one round trip. Where that fails, the same rows by code blocks
(L{gateway.sql.block}) in one transaction, which tell the rows at fault: if there are any, it is
rolled back and they are reported, so that what is committed is always the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import (
    BatchesRefused,
    BatchesStored,
    Faults,
    FenceVoid,
    OrderMatters,
    OutcomeUnknown,
    RouteError,
    RowError,
    StoreError,
    TransientError,
)
from gateway.model.outcome import row_refused
from gateway.model.store import first_of
from gateway.model.unit import is_unit_key
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.driver_errors import SlowRow, StoredBefore
from gateway.postgres.store.executor import (
    WholeFailed,
    WholeRefused,
    passes,
    route_fault,
)
from gateway.postgres.store.route_cache import Definition
from gateway.postgres.store.several import CommitParts, order_matters
from gateway.sql.block import Blame
from gateway.sql.fates import VOID
from gateway.sql.sqlstate import CANCELLED, TIMEOUT_MESSAGE
from gateway.sql.statement import Bound


class WholeCommit:
    """
    Writer of batches that are stored together or not at all.
    """

    def __init__(self, parts: CommitParts) -> None:
        self._parts = parts

    async def write(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk],
        *,
        patient: bool,
        blame: bool,
    ) -> None:
        """
        Store all batches, see L{gateway.model.store.Store.write_whole}.
        """
        async with self._parts.binder.bound(batches) as (connection, definitions, bounds):
            if not (chunks and order_matters([d for d in definitions if d is not None])):
                chunks = ()
            await self._write(
                *(connection, batches, fences, chunks, definitions, bounds, patient, blame)
            )
        for definition, batch in zip(definitions, batches, strict=True):
            if definition is not None:
                definition.passed = batch.slices[-1]

    async def _write(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk],
        definitions: Sequence[Definition | None],
        bounds: Sequence[Bound | None],
        patient: bool,
        blame: bool,
    ) -> None:
        try:
            try:
                await self._parts.executor.run_whole(
                    connection, bounds, fences, batches, chunks, patient
                )
            except (RowError, RouteError, TransientError) as error:
                slow = error.sqlstate == CANCELLED
                if not connection.usable or (passes(error) and not slow and not blame):
                    raise
                if chunks:
                    raise OrderMatters from error
                await self._apart(connection, batches, fences, definitions, bounds, blame, slow)
        except StoredBefore:
            raise await self._stored_before(connection, fences) from None
        except OutcomeUnknown:
            self._parts.note_lost(fences)
            raise
        if connection.warned:
            await self._parts.touch(connection, fences)

    async def _apart(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        definitions: Sequence[Definition | None],
        bounds: Sequence[Bound | None],
        blame: bool,
        watch: bool,
    ) -> None:
        """
        Store all batches by code blocks, or report the rows at fault.

        Where no row of a batch passes, one that was stored before tells whether the rows are at
        fault or their route.
        """
        blames = [Blame.PASSING if blame else Blame.MOST] * len(batches)
        while True:
            try:
                await self._parts.executor.run_apart(
                    connection, bounds, fences, batches, blames, watch=watch
                )
                return
            except WholeRefused as refused:
                raise BatchesRefused(refused.faults, by_database=True) from None
            except WholeFailed as failed:
                place, error = failed.place, failed.error
            definition = definitions[place]
            if definition is None:
                raise error
            if isinstance(error, SlowRow):
                faults: list[Faults] = [[] for _ in batches]
                faults[place] = [(error.row, row_refused(TIMEOUT_MESSAGE, CANCELLED))]
                if not error.row and not await self._parts.sound(connection, definition):
                    raise _about(batches[place], TransientError(TIMEOUT_MESSAGE, CANCELLED))
                raise BatchesRefused(faults, by_database=True)
            if isinstance(error, TransientError) and error.sqlstate == CANCELLED and not watch:
                watch = True
                continue
            if not isinstance(error, (RowError, RouteError, TransientError)):
                raise error
            if blames[place] is Blame.ALL or (passes(error) and blames[place] is Blame.MOST):
                raise _about(batches[place], error)
            sound = await self._parts.sound(connection, definition)
            fault = route_fault(error, sound=sound, passed=definition.passed is not None)
            if fault is not None:
                raise _about(batches[place], fault)
            blames[place] = Blame.ALL

    async def _stored_before(self, connection: Connection, fences: Sequence[Fence]) -> Exception:
        """
        Find out which batches were stored before, and make sure of it.
        """
        numbers = await self._parts.touch(connection, fences)
        places = []
        for place, fence in enumerate(fences):
            number, fates = numbers.get(fence.lane, (0, None))
            if number < first_of(fence, fences):
                continue
            # What a spool has taken apart is in its pieces.
            if fates == VOID and number <= fence.number and not is_unit_key(fence.lane):
                return FenceVoid(number)
            places.append(place)
        if not places:
            return TransientError("a batch that was stored before is not known any more", "40001")
        return BatchesStored(places)


def _about(batch: Batch, error: StoreError) -> StoreError:
    error.route = batch.route
    return error
