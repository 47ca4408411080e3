"""
Pool of connections: txpostgres's ConnectionPool, which reconnects and grows.

A connection is added once it is open and removed once it is lost, so a checkout never gets one
known to be dead. Keeping C{min} of them open, growing to C{max} while somebody waits, and replacing
old ones is one step, L{Pool._maintain}, which runs whenever something changed. A failure to connect
is never fatal: it is tried again with back-off, and logged when it begins and when it ends.

A connection that is lost in the middle of a statement puts the others in doubt: their server may be
shutting down, may have become a standby or may have gone silent, and each of them would cost
another batch to find out. So it ends a generation: idle connections are replaced at once, busy ones
when they are returned.

A server that hangs, or whose machine is gone, loses no connection for a long time: its statements
are merely not answered. With several hosts one more connection is opened then, and where it leads
to another server, that one is the primary now, and all connections to others are closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from txpostgres import txpostgres

from gateway.config.load import Database
from gateway.logs.last_reason import LastReason
from gateway.model.errors import StoreError, Unavailable
from gateway.model.route import HOME
from gateway.postgres.connect.connection import Connection, SessionSharing
from gateway.postgres.connect.connector import ConnectAttempt, Connector

_CHECK_EVERY = 30.0
"""Seconds between looks at the age of idle connections."""


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """
    Figures of the pool: its current state, and totals since its start.

    @ivar size: connections open, C{in_use} and C{idle} together.
    @ivar waiting: callers that wait for a connection.
    @ivar opening: attempts to connect under way.
    @ivar opened: connections opened in total.
    @ivar lost: number of them that were lost, not closed by us.
    @ivar reconnects: how often a connection was opened after a loss had left none.
    @ivar generation: how often all connections were put in doubt.
    @ivar trouble: why it cannot connect now; C{""} where it can.
    @ivar server: the server that the last connection reached; C{""} where libpq does not say.
    """

    size: int
    in_use: int
    idle: int
    waiting: int
    opening: int
    opened: int
    lost: int
    reconnects: int
    generation: int
    trouble: str
    server: str


class Checkout:
    """
    Context manager that takes a connection from the pool, and returns it.
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
    Pool of open connections, at least C{min}, at most C{max}.

    @ivar name: of the database.
    @ivar lost: how many connections were lost.
    @ivar sharing: whether a pooler shares their sessions.
    """

    connectionFactory = Connection
    connections: set[Connection]

    _log = Logger()

    def __init__(
        self,
        settings: Database,
        reactor: Any,
        backoff: Callable[[int], float],
        connector: Connector | None = None,
        quiet: bool = False,
        name: str = HOME,
    ) -> None:
        """
        @param backoff: failed attempts -> seconds to wait.
        @param connector: makes the connections; by default one with the environment that libpq sees
            in this process.
        @param quiet: log at debug level only, because another pool logs the state of this database.
        @param name: of the database, for the log.
        """
        self.reactor = reactor
        # The base class wants to make its connections now; we do that one by one.
        super().__init__(None, min=1)
        self.remove(next(iter(self.connections)))
        self.min = settings.pool_min
        self.max = settings.pool_max
        self.lost = 0
        self.sharing = SessionSharing()
        self._dsn = ""
        self._settings = settings
        self._clock: IReactorTime = reactor
        self._backoff = backoff
        self._busy: set[Connection] = set()
        self._connector = connector or Connector.of_process(settings, reactor)
        self._opening: set[ConnectAttempt] = set()
        self._opened = 0
        self._reconnects = 0
        self._none_left = False
        self._generation = 0
        self._doubled_at = 0.0
        self._server = ""
        self._waiting = 0
        self._running = False
        self._quiet = quiet
        self.name = name
        self._database = name if name == HOME else f"database {name}"
        self._failures = 0
        self._trouble = LastReason()
        self._retry: IDelayedCall | None = None
        self._check: IDelayedCall | None = None

    # Life.

    def start(self, dsn: str) -> None:
        """
        Start to connect; never fails.

        @param dsn: a libpq connection string; PG* variables give what it leaves out.
        """
        self._dsn = dsn
        self._running = True
        self._check = self._clock.callLater(_CHECK_EVERY, self._check_ages)
        self._maintain()

    def close(self) -> None:
        """
        Close all connections, whatever they are doing.
        """
        self._running = False
        for call in (self._retry, self._check):
            if call is not None and call.active():
                call.cancel()
        for opening in list(self._opening):
            opening.stop()
        for connection in [*self.connections, *self._busy]:
            connection.discard()

    @property
    def size(self) -> int:
        """Number of open connections."""
        return len(self.connections) + len(self._busy)

    @property
    def figures(self) -> PoolFigures:
        """Current figures, for messages and monitoring."""
        return PoolFigures(
            size=self.size,
            in_use=len(self._busy),
            idle=len(self.connections),
            waiting=self._waiting,
            opening=len(self._opening),
            opened=self._opened,
            lost=self.lost,
            reconnects=self._reconnects,
            generation=self._generation,
            trouble=self._trouble.text,
            server=self._server,
        )

    # Checkout.

    def checkout(self) -> Checkout:
        """
        Return a context manager for a connection that is open as far as is known; it is always
        returned to the pool::

            async with pool.checkout() as connection:

        @raise Unavailable: on entering: no connection within C{acquire_timeout} seconds.
        """
        return Checkout(self)

    def take(self) -> Connection | None:
        """
        Take an idle connection, to be given back; C{None} where there is none.

        For the path of each batch: a context manager, a coroutine and a Deferred would show in
        the latency of a small one.
        """
        if not self.connections:
            return None
        # A token for each idle connection: this one's is free.
        self._semaphore.tokens -= 1
        connection = self.connections.pop()
        self._busy.add(connection)
        return connection

    async def acquire(self) -> Connection:
        """
        Take a connection, to be given back, once there is one; used by L{Checkout}.
        """
        connection = self.take()
        if connection is None:
            await self._wait_for_one()
            connection = self.connections.pop()
            self._busy.add(connection)
        return connection

    async def _wait_for_one(self) -> None:
        self._waiting += 1
        # By then it shows whether a server hangs.
        look = self._clock.callLater(self._settings.connect_timeout, self._maintain)
        try:
            waiting: Deferred[Any] = self._semaphore.acquire()
            waiting.addTimeout(self._settings.acquire_timeout, self._clock)
            self._maintain()
            await waiting
        except TimeoutError:
            busy = "every connection of the pool is in use"
            reason = self._trouble.text or (busy if self.size else "still connecting")
            raise Unavailable(
                f"no connection within {self._settings.acquire_timeout:g} s: {reason}"
            ) from None
        finally:
            self._waiting -= 1
            if look.active():
                look.cancel()

    def give_back(self, connection: Connection) -> None:
        """
        Return a connection.
        """
        if connection not in self._busy:
            return  # lost meanwhile, its token with it
        if connection.left_alone:
            # The server still runs a statement that nobody waits for any longer.
            connection.idle = self.give_back
            return
        connection.idle = None
        self._busy.remove(connection)
        now = connection.used_at = self._clock.seconds()
        if self._too_old(connection, now) or connection.generation != self._generation:
            self._busy.add(connection)
            connection.discard()
            return
        self.connections.add(connection)
        self._semaphore.release()

    # Upkeep.

    def _maintain(self) -> None:
        """
        Open missing connections: up to C{min}, or one for each waiting caller up to C{max}.
        """
        if not self._running or (self._retry is not None and self._retry.active()):
            return
        while True:
            coming = len(self._opening)
            total = self.size + coming
            wanted = total < self.min or (coming < self._waiting and total < self.max)
            if not wanted and not self._looks_elsewhere():
                return
            opening = self._connector.begin(self._dsn)
            self._opening.add(opening)
            Deferred.fromCoroutine(self._open(opening)).addErrback(self._bug)
            if self._failures:
                return  # one at a time until the server is back

    def _looks_elsewhere(self) -> bool:
        """
        Say whether to open one connection above C{max}, to see whether another server took over:
        somebody waits, and none of the connections, to one of several hosts, is answered.
        """
        now = self._clock.seconds()
        patience = self._settings.connect_timeout
        if not self._waiting or self._opening or now - self._doubled_at < patience:
            return False
        if not all(one.server and one.silence >= patience for one in self._busy):
            return False
        self._doubled_at = now
        return bool(self._busy) and not self.connections

    async def _open(self, opening: ConnectAttempt) -> None:
        generation = self._generation
        try:
            connection = await opening.connect()
        except StoreError as error:
            self._not_opened(str(error))
            return
        finally:
            self._opening.discard(opening)
        if not self._running:
            connection.discard()
            return
        if generation != self._generation:
            # A new generation began while it was being opened.
            connection.discard()
            self._maintain()
            return
        self._leave_others(connection)
        if self.size >= self.max:
            # It was opened to look elsewhere, and found the server of all others: that lives.
            connection.discard()
            return
        connection.generation = self._generation
        connection.sharing = self.sharing
        connection.lost = self._on_lost
        self._failures = 0
        self._opened += 1
        self._reconnects += self._none_left
        self._none_left = False
        self._say_connected(connection)
        self.add(connection)
        self._maintain()

    def _leave_others(self, connection: Connection) -> None:
        """
        Close connections to other servers than this one's: it takes writes, so it is the primary.

        What became of their statements is found out as after any loss.
        """
        if not connection.server or connection.shares_load:
            return
        for other in [*self.connections, *self._busy]:
            if other.server != connection.server:
                other.fault = f"{connection.server} has taken over from {other.server}"
                other.discard()

    def _say_connected(self, connection: Connection) -> None:
        where = connection.server
        is_again = self._trouble.forget()
        if is_again or where != self._server:
            self._emit(
                LogLevel.info,
                "{_database}: {_what}{_where}",
                event="connected",
                database=self.name,
                _database=self._database,
                server=where,
                _what="connected again" if is_again else "connected",
                _where=f" to {where}" if where else "",
            )
        self._server = where

    def _not_opened(self, reason: str) -> None:
        if not self._running:
            return
        self._failures += 1
        if self._trouble.note(reason):
            text = "{_database}: cannot connect, trying again: {reason}"
            self._emit(
                LogLevel.warn,
                text,
                event="cannot-connect",
                database=self.name,
                reason=reason,
                _database=self._database,
            )
        if self._retry is None or not self._retry.active():
            self._retry = self._clock.callLater(self._backoff(self._failures), self._maintain)

    def _emit(self, level: Any, text: str, *, event: str, **fields: Any) -> None:
        self._log.emit(
            LogLevel.debug if self._quiet else level,
            text,
            event=event,
            **fields,
        )

    def _on_lost(self, connection: Connection) -> None:
        busy = connection in self._busy
        if busy:
            # Its token is checked out with it and must not come back.
            self._busy.remove(connection)
            self._semaphore.limit -= 1
        elif connection in self.connections:
            self.remove(connection)
        if not self._running:
            return
        if connection.fault:
            self.lost += 1
            self._emit(
                LogLevel.warn,
                "{_database}: a connection was lost ({reason}), {size} left",
                event="connection-lost",
                database=self.name,
                _database=self._database,
                reason=connection.fault,
                size=self.size,
            )
            if busy and connection.generation == self._generation:
                self._doubt()
            self._none_left = self._none_left or not self.size
        self._maintain()

    def renew(self) -> None:
        """Replace all connections: idle ones at once, the others when they are given back."""
        self._doubt()
        self._maintain()

    def _doubt(self) -> None:
        """
        End a generation: trust no connection that is open now.
        """
        self._generation += 1
        for connection in list(self.connections):
            connection.discard()

    def _too_old(self, connection: Connection, now: float) -> bool:
        return now - connection.opened_at > self._settings.recycle_after

    def _check_ages(self) -> None:
        now = self._clock.seconds()
        for connection in list(self.connections):
            idle = now - connection.used_at > self._settings.idle_timeout
            if self._too_old(connection, now) or (idle and self.size > self.min):
                connection.discard()
        self._check = self._clock.callLater(_CHECK_EVERY, self._check_ages)

    def _bug(self, failure: Failure) -> None:
        self._log.failure(
            "{_database}: opening a connection failed",
            event="connect-failed",
            database=self.name,
            _database=self._database,
            failure=failure,
        )
        self._not_opened("for a reason nobody foresaw, see the log")
