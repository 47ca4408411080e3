"""
Whole commits: several batches in one transaction, every row of them or none.

Strategy: first all statements in one round trip. Where that fails, the same rows by code blocks
(L{gateway.sql.block}) in one transaction, which tell the rows at fault: if there are any, it is
rolled back and they are reported, so that what is committed is always the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from gateway.model.batch import Batch, Fence
from gateway.model.errors import (
    BatchesRefused,
    BatchesStored,
    Faults,
    FenceVoid,
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    RowError,
    StoreError,
    TransientError,
)
from gateway.model.outcome import row_refused
from gateway.model.route import Route
from gateway.model.store import first_of
from gateway.model.unit import is_unit_key
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.driver_errors import SlowRow, StoredBefore
from gateway.postgres.connect.pool import Pool
from gateway.postgres.store.executor import (
    StatementExecutor,
    WholeFailed,
    WholeRefused,
    passes,
    route_fault,
)
from gateway.postgres.store.route_cache import Definition, RouteCache
from gateway.sql.block import Blame
from gateway.sql.fates import VOID
from gateway.sql.sqlstate import CANCELLED, TIMEOUT_MESSAGE
from gateway.sql.statement import Bound, Insert

_TOUCH_ALL: Final = (
    "UPDATE gateway.lane SET moved_at = now() WHERE id = ANY(%s::uuid[])"
    " RETURNING id::text, number, fates"
)

IsSound = Callable[[Connection, Insert, Definition], Awaitable[bool]]
"""Says whether a row that was stored before could be stored again."""


class WholeCommit:
    """
    Writer of batches that are stored together or not at all.
    """

    def __init__(
        self,
        pool: Pool,
        route_cache: RouteCache,
        executor: StatementExecutor,
        *,
        turn: Callable[[Route], DeferredLock | None],
        is_sound: IsSound,
        doubtful: set[str],
        deadline: float,
        answer_timeout: float,
    ) -> None:
        """
        @param turn: the lock of a route whose rows may conflict.
        @param doubtful: gets the lanes on which a statement was lost.
        """
        self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._route_cache = route_cache
        self._executor = executor
        self._turn = turn
        self._is_sound = is_sound
        self._doubtful = doubtful
        self._deadline = deadline
        self._answer_timeout = answer_timeout

    async def write(
        self, batches: Sequence[Batch], fences: Sequence[Fence], *, patient: bool, blame: bool
    ) -> None:
        """
        Store all batches, see L{gateway.model.store.Store.write_whole}.
        """
        try:
            definitions = [self._route_cache.definition_of(batch) for batch in batches]
        except RouteError as error:
            error.route = batches[0].route
            raise
        bounds = await self._bind(batches, definitions)
        turns = {
            definition.route.name: turn
            for definition in definitions
            if (turn := self._turn(definition.route)) is not None
        }
        async with AsyncExitStack() as stack:
            # In one order: else two commits could wait for each other.
            for name in sorted(turns):
                await turns[name].acquire()
                stack.callback(turns[name].release)
            connection = await stack.enter_async_context(self._pool.checkout())
            if bounds is None:
                for definition in dict.fromkeys(definitions):
                    if definition.insert is None or self._clock.seconds() >= definition.until:
                        await self._open(connection, definition)
                bounds = await self._bind(batches, definitions, examined=True)
                assert bounds is not None
            await self._write(connection, batches, fences, definitions, bounds, patient, blame)
        for definition, batch in zip(definitions, batches, strict=True):
            if batch.count:
                definition.passed = batch.slices[-1]

    async def _write(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        definitions: Sequence[Definition],
        bounds: Sequence[Bound | None],
        patient: bool,
        blame: bool,
    ) -> None:
        try:
            try:
                await self._executor.run_whole(connection, bounds, fences, batches, patient)
            except (RowError, RouteError, TransientError) as error:
                slow = error.sqlstate == CANCELLED
                if not connection.usable or (passes(error) and not slow and not blame):
                    raise
                await self._apart(connection, batches, fences, definitions, bounds, blame, slow)
        except StoredBefore:
            raise await self._stored_before(connection, fences) from None
        except OutcomeUnknown:
            self._doubtful.update(fence.lane for fence in fences)
            raise
        if connection.warned:
            await self._touch(connection, fences)

    async def _apart(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        definitions: Sequence[Definition],
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
                await self._executor.run_apart(
                    connection, bounds, fences, batches, blames, watch=watch
                )
                return
            except WholeRefused as refused:
                raise BatchesRefused(refused.faults, by_database=True) from None
            except WholeFailed as failed:
                place, error = failed.place, failed.error
            definition = definitions[place]
            if isinstance(error, SlowRow):
                faults: list[Faults] = [[] for _ in batches]
                faults[place] = [(error.row, row_refused(TIMEOUT_MESSAGE, CANCELLED))]
                if not error.row and not await self._sound(connection, definition):
                    raise _about(batches[place], TransientError(TIMEOUT_MESSAGE, CANCELLED))
                raise BatchesRefused(faults, by_database=True)
            if isinstance(error, TransientError) and error.sqlstate == CANCELLED and not watch:
                watch = True
                continue
            if not isinstance(error, (RowError, RouteError, TransientError)):
                raise error
            if blames[place] is Blame.ALL or (passes(error) and blames[place] is Blame.MOST):
                raise _about(batches[place], error)
            sound = await self._sound(connection, definition)
            fault = route_fault(error, sound=sound, passed=definition.passed is not None)
            if fault is not None:
                raise _about(batches[place], fault)
            blames[place] = Blame.ALL

    async def _sound(self, connection: Connection, definition: Definition) -> bool:
        insert = definition.insert
        return insert is not None and await self._is_sound(connection, insert, definition)

    async def _bind(
        self, batches: Sequence[Batch], definitions: Sequence[Definition], examined: bool = False
    ) -> list[Bound | None] | None:
        """
        Bind the rows of all batches.

        @param examined: whether all tables were examined just now.
        @return: C{None} where a table has to be examined first.
        @raise BatchesRefused: some messages hold what their columns cannot.
        """
        bounds: list[Bound | None] = []
        faults: list[Faults] = []
        for batch, definition in zip(batches, definitions, strict=True):
            faults.append([])
            if not batch.count:
                bounds.append(None)
                continue
            if definition.insert is None or (
                not examined and self._clock.seconds() >= definition.until
            ):
                return None
            try:
                binding = definition.insert.bind(batch.slices)
                bounds.append(await self._route_cache.in_turns(binding, batch.route))
            except FramesRefused as refused:
                old = refused.by_type and self._route_cache.may_be_old(definition)
                if old and not examined:
                    definition.close()
                    return None
                faults[-1] = refused.faults
        if any(faults):
            raise BatchesRefused(faults)
        return bounds

    async def _open(self, connection: Connection, definition: Definition) -> None:
        try:
            await self._route_cache.open(connection, definition)
        except StoreError as error:
            error.route = definition.route.name
            raise

    async def _stored_before(self, connection: Connection, fences: Sequence[Fence]) -> Exception:
        """
        Find out which batches were stored before, and make sure of it.
        """
        numbers = await self._touch(connection, fences)
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

    async def _touch(
        self, connection: Connection, fences: Sequence[Fence]
    ) -> dict[str, tuple[int, str | None]]:
        """
        Make sure that commits are as durable as they promise to be, see
        L{gateway.postgres.store.store.PostgresStore}.

        @return: lane -> number and fates of its last batch.
        @raise OutcomeUnknown: that is not certain yet.
        """
        lanes = [fence.lane for fence in fences]
        rows = await connection.query(_TOUCH_ALL, (lanes,), self._deadline, self._answer_timeout)
        if connection.warned:
            raise OutcomeUnknown("committed, but not known to be on the synchronous standby")
        return {lane: (number, fates) for lane, number, fates in rows}


def _about(batch: Batch, error: StoreError) -> StoreError:
    error.route = batch.route
    return error
