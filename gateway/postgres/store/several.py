"""
What commits of several batches have in common: how they are bound, and made sure of, and whether
their order can be seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from gateway.model.batch import Batch, Fence
from gateway.model.errors import (
    BatchesRefused,
    Faults,
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    StoreError,
)
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.pool import Pool
from gateway.postgres.store.executor import StatementExecutor
from gateway.postgres.store.route_cache import Definition, RouteCache
from gateway.sql.statement import Bound, Insert

_TOUCH_ALL: Final = (
    "UPDATE gateway.lane SET moved_at = now() WHERE id = ANY(%s::uuid[])"
    " RETURNING id::text, number, fates"
)


class BoundBatches(NamedTuple):
    """
    Batches with their statements, and a connection to run these.

    @ivar definitions: of the route of each batch; C{None} for one without rows to store.
    @ivar bounds: statement and parameters of each batch; C{None} for one without rows to store.
    """

    connection: Connection
    definitions: Sequence[Definition | None]
    bounds: Sequence[Bound | None]


class BatchBinder:
    """
    Binder of batches that are committed together.
    """

    def __init__(
        self,
        pool: Pool,
        route_cache: RouteCache,
        turn: Callable[[Definition], DeferredLock | None],
    ) -> None:
        """
        @param turn: the lock of a route whose rows may conflict.
        """
        self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._route_cache = route_cache
        self._turn = turn

    @asynccontextmanager
    async def bound(self, batches: Sequence[Batch]) -> AsyncIterator[BoundBatches]:
        """
        Bind the rows of all batches, and hold a connection and the turns of their routes.

        @raise BatchesRefused: some messages hold what their columns cannot.
        @raise StoreError: a route cannot take messages, see its C{route}, or there is no
            connection.
        """
        definitions = [self._definition(batch) for batch in batches]
        bounds = await self._bind(batches, definitions)
        turns = {
            definition.route.name: turn
            for definition in definitions
            if definition is not None and (turn := self._turn(definition)) is not None
        }
        async with AsyncExitStack() as stack:
            # In one order: else two commits could wait for each other.
            for name in sorted(turns):
                await turns[name].acquire()
                stack.callback(turns[name].release)
            connection = await stack.enter_async_context(self._pool.checkout())
            if bounds is None:
                for definition in dict.fromkeys(definitions):
                    if definition is not None and not self._is_fresh(definition):
                        await self._open(connection, definition)
                bounds = await self._bind(batches, definitions, examined=True)
                assert bounds is not None
            yield BoundBatches(connection, definitions, bounds)

    def _definition(self, batch: Batch) -> Definition | None:
        """
        Return the definition under which the messages of a batch were read; C{None} where it has no
        rows to store.
        """
        if not batch.count:
            return None
        try:
            return self._route_cache.definition_of(batch)
        except RouteError as error:
            error.route = batch.route
            raise

    async def _bind(
        self,
        batches: Sequence[Batch],
        definitions: Sequence[Definition | None],
        examined: bool = False,
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
            if definition is None:
                bounds.append(None)
                continue
            if definition.insert is None or not (examined or self._is_fresh(definition)):
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

    def _is_fresh(self, definition: Definition) -> bool:
        """Say whether a route is open, and its table was examined recently."""
        return definition.insert is not None and self._clock.seconds() < definition.until

    async def _open(self, connection: Connection, definition: Definition) -> None:
        try:
            await self._route_cache.open(connection, definition)
        except StoreError as error:
            error.route = definition.route.name
            raise


IsSound = Callable[[Connection, Insert, Definition], Awaitable[bool]]
"""Says whether a row that was stored before could be stored again."""


@dataclass(frozen=True, slots=True)
class CommitParts:
    """
    Parts of a store that commits of several batches work with.

    @ivar doubtful: gets the lanes on which a statement was lost.
    @ivar deadline: seconds for a statement.
    @ivar answer_timeout: seconds after which nobody waits for it.
    """

    binder: BatchBinder
    executor: StatementExecutor
    is_sound: IsSound
    doubtful: set[str]
    deadline: float
    answer_timeout: float

    async def sound(self, connection: Connection, definition: Definition) -> bool:
        """Say whether a row of the route that was stored before could be stored again."""
        insert = definition.insert
        return insert is not None and await self.is_sound(connection, insert, definition)

    def note_lost(self, fences: Sequence[Fence]) -> None:
        """Note that the reply to a statement that moves these was lost."""
        self.doubtful.update(fence.lane for fence in fences)

    async def touch(
        self, connection: Connection, fences: Sequence[Fence]
    ) -> dict[str, tuple[int, str | None]]:
        """
        Make sure that commits are as durable as they promise to be, see
        L{gateway.postgres.store.store.PostgresStore}.

        @return: lane -> number and fates of its last batch.
        @raise OutcomeUnknown: that is not certain yet.
        """
        lanes = [fence.lane for fence in fences]
        rows = await connection.query(_TOUCH_ALL, (lanes,), self.deadline, self.answer_timeout)
        if connection.warned:
            raise OutcomeUnknown("committed, but not known to be on the synchronous standby")
        return {lane: (number, fates) for lane, number, fates in rows}


def order_matters(definitions: Sequence[Definition]) -> bool:
    """
    Say whether anybody can see in which order the rows of batches are stored in one commit.

    @param definitions: of each batch.

    Nobody can where rows are only added. Where they are added or left out by what is in a table, or
    tell what it made of them, nobody can if no other route has to do with that table.
    """
    if len(definitions) < 2 or all(_only_adds(definition) for definition in definitions):
        return False
    relations = [definition.relation for definition in definitions]
    oids = [relation.oid for relation in relations if relation is not None and relation.simple]
    if len(oids) < len(relations):
        return True
    return any(
        oids.count(oid) > 1 and not _only_adds(definition)
        for oid, definition in zip(oids, definitions, strict=True)
    )


def _only_adds(definition: Definition) -> bool:
    route = definition.route
    # Of SQL of the user's own only what just adds rows has a table that is known.
    owned = bool(route.sql) and definition.relation is None
    return not owned and route.conflict == "error" and not route.returning
