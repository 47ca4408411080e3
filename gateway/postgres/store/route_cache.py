"""
Cache of open routes, each with its statement.

A route is opened when it is first used: the schema is brought up to date, its table is created if
that is configured, its types are looked up and the statement is built. An error that suggests a
changed table closes it, so that the next batch opens it again, and no restart is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.model.errors import RouteError
from gateway.model.route import Route
from gateway.postgres.connect.connection import Connection, RunQuery
from gateway.postgres.schema.findings import Findings
from gateway.postgres.schema.migrations import create_table, migrate, refuse_newer
from gateway.postgres.store.catalog import examine
from gateway.sql.statement import Binding, Bound, Insert

ROUTE_MAX_AGE: Final = 60.0
"""Seconds after which a route's table is examined again, though no error suggests a change."""

ROUTE_MAX_AGE_AFTER_ERROR: Final = 1.0
"""Seconds after which it is examined again, before messages are refused for the types it had."""

AT_A_TIME: Final = 0.01
"""Seconds of reading messages after which others have their turn."""


class OpenRoute(NamedTuple):
    """
    Open route.

    @ivar since: when its table was examined, in seconds of the reactor's clock.
    @ivar until: when it is to be examined again.
    """

    insert: Insert
    since: float
    until: float


class RouteCache:
    """
    Cache of the statements of configured routes.

    @ivar opened: route -> its statement, for those that are open.
    """

    def __init__(self, routes: Mapping[str, Route], clock: IReactorTime, timeout: float) -> None:
        """
        @param timeout: seconds for each statement of an examination.
        """
        self._routes = routes
        self._clock = clock
        self._timeout = timeout
        self.opened: dict[str, OpenRoute] = {}
        # An old gateway may go on beside a newer one, but must not start beside it.
        self._may_begin = False

    def may_be_old(self, route: str) -> bool:
        """
        Say whether the table should be examined again before a message is refused for its type.
        """
        opened = self.opened.get(route)
        return opened is None or self._clock.seconds() - opened.since >= ROUTE_MAX_AGE_AFTER_ERROR

    def close_route(self, route: str) -> None:
        """
        Close a route, so that its table is examined before the next batch.
        """
        self.opened.pop(route, None)

    def route(self, name: str) -> Route:
        """
        Return a configured route.

        @raise RouteError: there is none: the spool may hold messages of a route that was removed
            from the configuration.
        """
        route = self._routes.get(name)
        if route is None:
            raise RouteError("it is not in the configuration; its messages wait in the spool")
        return route

    async def open(self, connection: Connection, name: str) -> Insert:
        """
        Open a route on this connection.

        @raise gateway.model.errors.StoreError: it cannot take messages.
        """
        await self._begin(connection)
        findings = await connection.transaction(partial(_ready, self.route(name)), self._timeout)
        insert = findings.sound
        now = self._clock.seconds()
        self.opened[name] = OpenRoute(insert, now, now + ROUTE_MAX_AGE)
        return insert

    async def open_all(self, connection: Connection) -> None:
        """
        Open all routes.

        @raise gateway.model.errors.StoreError: for the first route that cannot take messages.
        """
        await self._begin(connection)
        for name in self._routes:
            if name not in self.opened:
                try:
                    await self.open(connection, name)
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


async def _ready(route: Route, query: RunQuery) -> Findings:
    """
    Create schema and table as configured, then examine the route.
    """
    await migrate(query)
    if route.create_columns is not None:
        await create_table(query, route)
    return await examine(query, route)


async def in_turns(binding: Bound | Binding, clock: IReactorTime) -> Bound:
    """
    Bind a batch of any size, with pauses for the reactor's other work.
    """
    if isinstance(binding, tuple):
        return binding
    since = clock.seconds()
    while True:
        try:
            next(binding)
        except StopIteration as done:
            bound: Bound = done.value
            return bound
        if clock.seconds() - since > AT_A_TIME:
            await deferLater(clock, 0)
            since = clock.seconds()
