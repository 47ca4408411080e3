"""
The pool: txpostgres's ConnectionPool, made to heal and to grow.

Its connections are added when they are open and taken out when they are lost, so
a checkout never meets a dead one. Keeping C{min} of them open, growing to C{max}
while somebody waits, and replacing old ones is one step, L{Pool._maintain}, that
runs whenever something changed. Failing to connect is never fatal: it is tried
again with back-off, and logged when it begins and when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from txpostgres import txpostgres

from gateway.config import Database
from gateway.errors import StoreError, Unavailable
from gateway.postgres.connection import MINIMUM_VERSION, Connection, server_settings

_CHECK_EVERY = 30.0
"""Seconds between looks at the age of idle connections."""


class Checkout:
    """
    A connection for as long as a C{with} statement.
    """

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.acquire()
        return self._connection

    async def __aexit__(self, *error: object) -> None:
        self._pool.give_back(self._connection)


class Pool(txpostgres.ConnectionPool):  # type: ignore[misc]  # txpostgres has no types
    """
    Open connections, at least C{min}, at most C{max}.

    @ivar lost: how many connections were lost.
    """

    connectionFactory = Connection
    connections: set[Connection]

    _log = Logger()

    def __init__(
        self,
        settings: Database,
        reactor: Any,
        backoff: Callable[[int], float],
    ) -> None:
        """
        @param backoff: failed attempts -> seconds to wait.
        """
        self.reactor = reactor
        # The base class wants to make its connections now; we do that one by one.
        super().__init__(None, min=1)
        self.remove(next(iter(self.connections)))
        self.min = settings.pool_min
        self.max = settings.pool_max
        self.lost = 0
        self._dsn = ""
        self._settings = settings
        self._clock: IReactorTime = reactor
        self._backoff = backoff
        self._busy: set[Connection] = set()
        self._opening: set[Connection] = set()
        self._waiting = 0
        self._running = False
        self._failures = 0
        self._trouble = ""
        self._retry: IDelayedCall | None = None
        self._check: IDelayedCall | None = None

    # Life.

    def start(self, dsn: str) -> None:
        """
        Begin to connect; never fails.

        @param dsn: a libpq connection string; what it leaves out, PG* variables say.
        """
        self._dsn = dsn
        self._running = True
        self._check = self._clock.callLater(_CHECK_EVERY, self._check_ages)
        self._maintain()

    def close(self) -> None:
        """
        Disconnect, whatever the connections are doing.
        """
        self._running = False
        for call in (self._retry, self._check):
            if call is not None and call.active():
                call.cancel()
        for connection in [*self.connections, *self._busy, *self._opening]:
            connection.discard()

    @property
    def size(self) -> int:
        """Connections open now."""
        return len(self.connections) + len(self._busy)

    # Checkout.

    def checkout(self) -> Checkout:
        """
        A connection that is open as far as anybody can know; it is always given back::

            async with pool.checkout() as connection:

        @raise Unavailable: on entering; none could be had within
            C{acquire_timeout} seconds.
        """
        return Checkout(self)

    async def acquire(self) -> Connection:
        """
        For L{Checkout}.
        """
        if not self.connections:
            await self._wait_for_one()
        else:
            # A token for each idle connection: this one is free at once.
            await self._semaphore.acquire()
        connection = self.connections.pop()
        self._busy.add(connection)
        return connection

    async def _wait_for_one(self) -> None:
        self._waiting += 1
        try:
            waiting: Deferred[Any] = self._semaphore.acquire()
            waiting.addTimeout(self._settings.acquire_timeout, self._clock)
            self._maintain()
            await waiting
        except TimeoutError:
            reason = self._trouble or "every connection of the pool is in use"
            raise Unavailable(
                f"no connection within {self._settings.acquire_timeout:g} s: {reason}"
            ) from None
        finally:
            self._waiting -= 1

    def give_back(self, connection: Connection) -> None:
        """
        For L{Checkout}.
        """
        if connection not in self._busy:
            return  # lost meanwhile, its token with it
        self._busy.remove(connection)
        connection.used_at = self._clock.seconds()
        if self._too_old(connection):
            self._busy.add(connection)
            connection.discard()
            return
        self.connections.add(connection)
        self._semaphore.release()

    async def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        async with self.checkout() as connection:
            return await getattr(connection, name)(*args, **kwargs)

    # txpostgres's own ways to use the pool, on connections that are alive.

    def runQuery(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.run("runQuery", *args, **kwargs))

    def runOperation(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.run("runOperation", *args, **kwargs))

    def runInteraction(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.run("runInteraction", *args, **kwargs))

    # Upkeep.

    def _maintain(self) -> None:
        """
        Open what is missing: up to C{min}, or one for each that waits, up to C{max}.
        """
        if not self._running or (self._retry is not None and self._retry.active()):
            return
        while True:
            coming = len(self._opening)
            total = self.size + coming
            if not (total < self.min or (coming < self._waiting and total < self.max)):
                return
            connection = Connection(self.reactor)
            self._opening.add(connection)
            Deferred.fromCoroutine(self._open(connection)).addErrback(self._bug)
            if self._failures:
                return  # one at a time until the server is back

    async def _open(self, connection: Connection) -> None:
        try:
            await connection.open(self._dsn, self._settings.connect_timeout)
            await self._prepare_session(connection)
        except StoreError as error:
            self._opening.discard(connection)
            connection.discard()
            self._not_opened(str(error))
            return
        self._opening.discard(connection)
        if not self._running:
            connection.discard()
            return
        connection.lost = self._on_lost
        self._failures = 0
        if self._trouble:
            self._trouble = ""
            self._log.info("database: connected again")
        self.add(connection)
        self._maintain()

    async def _prepare_session(self, connection: Connection) -> None:
        sql, values = server_settings(self._settings.statement_timeout)
        rows = await connection.query(sql, values, self._settings.connect_timeout)
        version, read_only, *_ = rows[0]
        if version < MINIMUM_VERSION:
            raise Unavailable(f"PostgreSQL 13 or newer is needed, this one says {version}")
        if read_only:
            raise Unavailable("the server is read-only (a standby?)")

    def _not_opened(self, reason: str) -> None:
        if not self._running:
            return
        self._failures += 1
        if reason != self._trouble:
            self._trouble = reason
            self._log.warn("database: cannot connect, trying again: {reason}", reason=reason)
        if self._retry is None or not self._retry.active():
            self._retry = self._clock.callLater(self._backoff(self._failures), self._maintain)

    def _on_lost(self, connection: Connection) -> None:
        if connection in self.connections:
            self.remove(connection)
        elif connection in self._busy:
            # Its token is checked out with it and must not come back.
            self._busy.remove(connection)
            self._semaphore.limit -= 1
        if self._running:
            if connection.fault:
                self.lost += 1
                self._log.warn(
                    "database: a connection was lost ({reason}), {size} left",
                    reason=connection.fault,
                    size=self.size,
                )
            self._maintain()

    def _too_old(self, connection: Connection) -> bool:
        return self._clock.seconds() - connection.opened_at > self._settings.recycle_after

    def _check_ages(self) -> None:
        now = self._clock.seconds()
        for connection in list(self.connections):
            idle = now - connection.used_at > self._settings.idle_timeout
            if self._too_old(connection) or (idle and self.size > self.min):
                connection.discard()
        self._check = self._clock.callLater(_CHECK_EVERY, self._check_ages)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("database: opening a connection failed", failure=failure)
