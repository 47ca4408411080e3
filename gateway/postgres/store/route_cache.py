"""
Cache of routes that take messages, each with its statement.

A route is opened when it is first used: the schema is brought up to date, its
table is made if it may be, the catalog is asked for its types and the statement
is written. Any error that says the route no longer fits closes it, so that the
next batch looks again; a table changed under us heals without a restart.
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

LOOKED_AT_FOR: Final = 60.0
"""Seconds after which a route's table is looked at again, though no error says it changed."""

LOOKED_AT_AGAIN: Final = 1.0
"""Seconds after which it is, before messages are refused for the types it had."""

AT_A_TIME: Final = 0.01
"""Seconds of reading messages after which others have their turn."""


class _Open(NamedTuple):
    """
    A route that takes messages.

    @ivar since: when its table was looked at, in seconds of the reactor's clock.
    """

    insert: Insert
    since: float


class RouteCache:
    """
    Cache of the configured routes' tables and statements.
    """

    def __init__(self, routes: Mapping[str, Route], clock: IReactorTime, timeout: float) -> None:
        """
        @param timeout: seconds for each statement that looks at a table.
        """
        self._routes = routes
        self._clock = clock
        self._timeout = timeout
        self._open: dict[str, _Open] = {}
        # A gateway that runs goes on beside a newer one that is started; none begins to.
        self._may_begin = False

    def __getitem__(self, route: str) -> Insert:
        return self._open[route].insert

    def fresh(self, route: str) -> Insert | None:
        """
        @return: the statement, where the table was looked at not too long ago.
        """
        opened = self._open.get(route)
        if opened is None or self._clock.seconds() - opened.since >= LOOKED_AT_FOR:
            return None
        return opened.insert

    def may_be_old(self, route: str) -> bool:
        """
        Whether its columns should be looked at before a message is refused for their types.
        """
        opened = self._open.get(route)
        return opened is None or self._clock.seconds() - opened.since >= LOOKED_AT_AGAIN

    def forget(self, route: str) -> None:
        """
        Look at its table before the next batch.
        """
        self._open.pop(route, None)

    def route(self, name: str) -> Route:
        """
        @raise RouteError: there is none: the spool may hold messages for a route that
            has been taken out of the configuration since.
        """
        route = self._routes.get(name)
        if route is None:
            raise RouteError("it is not in the configuration; its messages wait in the spool")
        return route

    async def open(self, connection: Connection, name: str) -> Insert:
        """
        @raise gateway.model.errors.StoreError: it takes no messages.
        """
        await self._begin(connection)
        findings = await connection.transaction(partial(_ready, self.route(name)), self._timeout)
        insert = findings.sound
        self._open[name] = _Open(insert, self._clock.seconds())
        return insert

    async def open_all(self, connection: Connection) -> None:
        """
        @raise gateway.model.errors.StoreError: for the first that takes no messages.
        """
        await self._begin(connection)
        for name in self._routes:
            if name not in self._open:
                try:
                    await self.open(connection, name)
                except RouteError as error:
                    raise RouteError(f"route {name}: {error}", error.sqlstate) from None

    async def _begin(self, connection: Connection) -> None:
        """
        @raise gateway.model.errors.SchemaNewer: it is not for this gateway.
        """
        if not self._may_begin:
            try:
                await connection.transaction(refuse_newer, self._timeout)
            except RouteError:
                # Not granted: what needs it says so.
                return
            self._may_begin = True


async def _ready(route: Route, query: RunQuery) -> Findings:
    """
    Make what may be made, then look at what is there.
    """
    await migrate(query)
    if route.create_columns is not None:
        await create_table(query, route)
    return await examine(query, route)


async def in_turns(binding: Binding, clock: IReactorTime) -> Bound:
    """
    Bind a batch, however much work it is, without holding up the reactor for long.
    """
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
