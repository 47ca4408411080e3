"""
The Store that commits to PostgreSQL: one statement and one round trip a batch.

A route is opened when it is first used: the schema is brought up to date, its
table is made if it may be, the catalog is asked for its types and the statement
is written. Any error that says the route no longer fits closes it, so that the
next batch looks again; a table changed under us heals without a restart.

The statement is prepared once in each session (planning it costs more than
running it for small batches). Where sessions are not ours to keep, as behind
PgBouncer in transaction mode, a prepared statement is missing sooner or later;
from then on the plain text is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from twisted.logger import Logger

from gateway.batch import Batch, Fence
from gateway.config import Database
from gateway.errors import RouteError
from gateway.insert import Bound, Insert, Statement
from gateway.postgres.catalog import Findings, examine
from gateway.postgres.connection import (
    Connection,
    PreparedStatementLost,
    Query,
    StoredBefore,
    Values,
)
from gateway.postgres.pool import Pool
from gateway.postgres.schema import create_table, migrate
from gateway.route import Route

DEADLINE_MARGIN = 5.0
"""
Seconds that a statement may take beyond C{statement_timeout} before its connection
is closed: the server should be the one to give up, that costs no connection.
"""


class _Prepared:
    """
    A statement with a name in every session.

    The name says what the text is. Where a pooler shares sessions, another gateway
    may have prepared a statement of its own there; by a name that both use it
    would store our messages into its table.
    """

    __slots__ = ("execute", "name", "prepare")

    def __init__(self, statement: Statement) -> None:
        text = f"{statement.types} {statement.prepared}"
        name = self.name = f"gateway_{sha256(text.encode()).hexdigest()[:32]}"
        self.prepare = f"PREPARE {name} ({', '.join(statement.types)}) AS {statement.prepared}"
        self.execute = f"EXECUTE {name} ({', '.join(['%s'] * len(statement.types))})"


class PostgresStore:
    """
    Stores batches through a pool.

    @ivar prepares: whether statements are prepared.
    """

    _log = Logger()

    def __init__(self, pool: Pool, routes: Mapping[str, Route], settings: Database) -> None:
        self.prepares = True
        self._pool = pool
        self._routes = routes
        self._deadline = settings.statement_timeout + DEADLINE_MARGIN
        self._open: dict[str, Insert] = {}
        self._prepared: dict[Statement, _Prepared] = {}

    async def write(self, batch: Batch, fence: Fence) -> bool:
        insert = self._open.get(batch.route)
        # Values first: what cannot be stored needs no connection to be refused.
        bound = None if insert is None else insert.bind(batch.slices)
        async with self._pool.checkout() as connection:
            if bound is not None:
                try:
                    return await self._store(connection, bound, fence)
                except RouteError:
                    # The table may have changed under us: look again, then say so.
                    self._open.pop(batch.route, None)
            insert = await self._open_route(connection, self._routes[batch.route])
            return await self._store(connection, insert.bind(batch.slices), fence)

    async def open_all(self) -> None:
        """
        Open every route, so that a bad one is known before its first message.

        @raise StoreError: for the first that cannot be.
        """
        async with self._pool.checkout() as connection:
            for route in self._routes.values():
                if route.name not in self._open:
                    await self._open_route(connection, route)

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """
        Forget lanes that will never be used again.

        @precondition: nothing is in flight on them.
        """
        async with self._pool.checkout() as connection:
            await self._query(
                connection, "DELETE FROM gateway.lane WHERE id = ANY(%s::uuid[])", (list(lanes),)
            )

    async def _store(self, connection: Connection, bound: Bound, fence: Fence) -> bool:
        statement, values = bound
        try:
            await self._execute(connection, statement, [fence.lane, fence.number, *values])
        except StoredBefore:
            return False
        return True

    async def _execute(
        self, connection: Connection, statement: Statement, values: list[Any]
    ) -> None:
        if self.prepares:
            prepared = self._prepared[statement]
            try:
                if prepared.name not in connection.prepared:
                    await self._query(connection, prepared.prepare, None)
                    connection.prepared.add(prepared.name)
                await self._query(connection, prepared.execute, values)
                return
            except PreparedStatementLost as error:
                # Refused before anything was done.
                if self.prepares:
                    self.prepares = False
                    self._log.info(
                        "database: sessions are shared by a pooler, statements are not prepared"
                        " any more ({error})",
                        error=error,
                    )
        named = {f"p{number}": value for number, value in enumerate(values, 1)}
        await self._query(connection, statement.plain, named)

    async def _open_route(self, connection: Connection, route: Route) -> Insert:
        findings = await connection.transaction(partial(_ready, route), self._deadline)
        if findings.problems:
            raise RouteError("; ".join(findings.problems))
        insert = Insert(route, findings.types)
        for statement in (insert.many, insert.one):
            self._prepared.setdefault(statement, _Prepared(statement))
        self._open[route.name] = insert
        return insert

    async def _query(self, connection: Connection, sql: str, values: Values) -> None:
        await connection.query(sql, values, self._deadline)


async def _ready(route: Route, query: Query) -> Findings:
    """
    Make what may be made, then look at what is there.
    """
    await migrate(query)
    if route.create_columns is not None:
        await create_table(query, route)
    return await examine(query, route)
