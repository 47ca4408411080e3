"""
Cache of open routes, each with its statement.

A route is opened when it is first used: the schema is brought up to date, its table is created if
that is configured, its types are looked up and the statement is built. An error that suggests a
changed table closes it, so that the next batch opens it again, and no restart is needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.model.batch import Batch, Slice
from gateway.model.errors import RouteError, RowError, StoreError
from gateway.model.outcome import Run, refused_rows
from gateway.model.route import Route
from gateway.postgres.connect.connection import Connection, RunQuery
from gateway.postgres.schema.findings import Findings, Problem, Relation
from gateway.postgres.schema.migrations import create_table, migrate, refuse_newer
from gateway.postgres.store.catalog import examine
from gateway.postgres.store.slow_reading_log import SlowReadingLog
from gateway.sql.statement import Binding, Bound, Insert

ROUTE_MAX_AGE: Final = 60.0
"""Seconds after which a route's table is examined again, though no error suggests a change."""

ROUTE_MAX_AGE_AFTER_ERROR: Final = 1.0
"""Seconds after which it is examined again, before messages are refused for the types it had."""

AT_A_TIME: Final = 0.01
"""Seconds of reading messages after which others have their turn."""


class Definition:
    """
    Definition of a route, and its statement while it is open.

    @ivar route: as configured.
    @ivar insert: C{None}: the route is not open.
    @ivar since: when its table was examined, in seconds of the reactor's clock.
    @ivar until: when it is to be examined again.
    @ivar passed: slice whose last row was stored; C{None}: none is known.
    @ivar relation: its table as examined; C{None} where it has none, or is not open.
    """

    __slots__ = ("insert", "passed", "relation", "route", "since", "until")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.insert: Insert | None = None
        self.since = self.until = 0.0
        self.passed: Slice | None = None
        self.relation: Relation | None = None

    def close(self) -> None:
        """
        Close the route, so that its table is examined before the next batch.
        """
        self.insert = None

    def note_stored(self, batch: Batch, runs: Sequence[Run]) -> None:
        """
        Keep the last row that was stored.

        @param runs: fates of the batch's rows.
        """
        if len(runs) == 1:
            if not refused_rows(runs):
                self.passed = batch.slices[-1]
        elif self.passed is None:
            at_fault = {row for row, _ in refused_rows(runs)}
            passed = next((n for n in range(batch.count) if n not in at_fault), None)
            if passed is not None:
                self.passed = batch.only([passed]).slices[0]


class RouteCache:
    """
    Cache of the statements of configured routes.

    A reload replaces definitions. Messages in flight are stored by the one under which they were
    read; those of a removed route by its last one, also from the spool.

    @ivar current: route -> its definition in force.
    @ivar replaced: (last generation of the messages they are for, route -> definition), oldest
        first; mostly none.
    """

    def __init__(self, routes: Mapping[str, Route], clock: IReactorTime, timeout: float) -> None:
        """
        @param timeout: seconds for each statement of an examination.
        """
        self._clock = clock
        self._timeout = timeout
        self._slow_readings = SlowReadingLog(clock)
        self.current = {name: Definition(route) for name, route in routes.items()}
        self._removed: dict[str, Definition] = {}
        self.replaced: list[tuple[int, dict[str, Definition]]] = []
        # An old gateway may go on beside a newer one, but must not start beside it.
        self._may_begin = False

    def replace(
        self, routes: Mapping[str, Route], changed: Collection[str], generation: int, oldest: int
    ) -> Sequence[Definition]:
        """
        Replace the definitions of routes.

        @param changed: names of those that are others now, or removed.
        @param generation: last generation of messages that are for the definitions until now.
        @param oldest: oldest generation of messages in flight.
        @return: the definitions that were replaced.
        """
        replaced = {name: self.current[name] for name in changed if name in self.current}
        self.replaced = [entry for entry in [*self.replaced, (generation, replaced)] if entry[1]]
        self.replaced = [entry for entry in self.replaced if entry[0] >= oldest]
        self._removed.update(replaced)
        self.current = {
            name: Definition(route) if name in changed or known is None else known
            for name, route in routes.items()
            for known in [self.current.get(name)]
        }
        for name in self.current:
            self._removed.pop(name, None)
        return list(replaced.values())

    def definition(self, name: str) -> Definition:
        """
        Return the definition of a route that is in force, or was until the route was removed.

        @raise RouteError: there is none: the spool may hold messages of a route that was removed
            from the configuration before the gateway started.
        """
        definition = self.current.get(name) or self._removed.get(name)
        if definition is None:
            raise RouteError("it is not in the configuration; its messages wait in the spool")
        return definition

    def definition_of(self, batch: Batch) -> Definition:
        """
        Return the definition under which the messages of a batch were read.

        @raise RouteError: there is none.
        """
        if self.replaced:
            piece = (batch.slices or batch.refusals)[0]
            generation = piece.chunk.generation
            for last, definitions in self.replaced:
                if 0 < generation <= last and batch.route in definitions:
                    return definitions[batch.route]
        return self.definition(batch.route)

    def may_be_old(self, definition: Definition) -> bool:
        """
        Say whether the table should be examined again before a message is refused for its type.
        """
        age = self._clock.seconds() - definition.since
        return definition.insert is None or age >= ROUTE_MAX_AGE_AFTER_ERROR

    async def open(self, connection: Connection, definition: Definition) -> Insert:
        """
        Open a route on this connection.

        @raise gateway.model.errors.StoreError: it cannot take messages.
        """
        await self._begin(connection)
        work = partial(ready, definition.route)
        findings = await connection.transaction(work, self._timeout)
        insert, definition.relation = findings.sound, findings.relation
        now = self._clock.seconds()
        definition.insert, definition.since, definition.until = insert, now, now + ROUTE_MAX_AGE
        return insert

    def in_turns(self, binding: Bound | Binding, route: str) -> Awaitable[Bound]:
        """
        Bind a batch of any size, with pauses for the reactor's other work; log where reading the
        messages of a chunk takes long.
        """
        return in_turns(binding, self._clock, partial(self._slow_readings.note, route))

    async def check(self, connection: Connection, route: Route) -> Sequence[Problem]:
        """
        Return the problems that would keep a route from being opened; change nothing.

        @raise gateway.model.errors.StoreError: it could not be examined.
        """
        undone = _Undone()

        async def work(query: RunQuery) -> None:
            undone.problems = (await ready(route, query)).problems
            raise undone

        try:
            await connection.transaction(work, self._timeout)
        except _Undone:
            return undone.problems
        except (RouteError, RowError) as error:
            return [Problem("sql" if route.sql else "table", str(error))]
        raise AssertionError("a transaction that is undone was committed")

    async def open_all(self, connection: Connection) -> None:
        """
        Open all routes.

        @raise gateway.model.errors.StoreError: for the first route that cannot take messages.
        """
        await self._begin(connection)
        for name, definition in self.current.items():
            if definition.insert is None:
                try:
                    await self.open(connection, definition)
                except RouteError as error:
                    raise RouteError(f"route {name}: {error}", error.sqlstate) from None

    async def _begin(self, connection: Connection) -> None:
        """
        Check the schema's version once.

        @raise gateway.model.errors.SchemaNewer: it is newer than this gateway.
        """
        if not self._may_begin:
            try:
                await connection.transaction(refuse_newer, self._timeout)
            except RouteError:
                # The table is not granted; the statements that need it will fail and say so.
                return
            self._may_begin = True


async def ready(route: Route, query: RunQuery) -> Findings:
    """
    Create schema and table as configured, then examine the route.
    """
    await migrate(query)
    if route.create_columns is not None:
        await create_table(query, route)
    return await examine(query, route)


class _Undone(StoreError):
    """Error that rolls an examination back."""

    problems: Sequence[Problem] = ()


async def in_turns(
    binding: Bound | Binding, clock: IReactorTime, took: Callable[[float], None]
) -> Bound:
    """
    Bind a batch of any size, with pauses for the reactor's other work.

    @param took: told the seconds that the messages of each chunk took.
    """
    if isinstance(binding, tuple):
        return binding
    since = before = clock.seconds()
    while True:
        try:
            next(binding)
        except StopIteration as done:
            bound: Bound = done.value
            return bound
        now = clock.seconds()
        took(now - before)
        before = now
        if now - since > AT_A_TIME:
            await deferLater(clock, 0)
            since = before = clock.seconds()
