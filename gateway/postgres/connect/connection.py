"""
Connection to PostgreSQL: txpostgres's, with timeouts and detection of its loss.

txpostgres leaves three things to its users, and they are here: a connection that dies while idle is
noticed at once instead of at its next query; connecting and executing have timeouts, enforced by
closing the connection (its own C{cancel} talks to the server synchronously, and its Deferreds
cannot time out); and errors are translated to ours, sorted by who must act.
"""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final, TypeVar

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from txpostgres import txpostgres
from zope.interface import implementer

from gateway.model.errors import OutcomeUnknown, StoreError, TransientError, Unavailable
from gateway.postgres.connect.driver_errors import PreparedStatementLost, first_line, translated
from gateway.sql.literals import Values, filled
from gateway.sql.sqlstate import READ_ONLY
from gateway.sql.statement import Preparable, named

_SENT_AT_ONCE: Final = 2048
"""
Bytes of a statement that libpq has certainly handed to the kernel when C{execute}
returns: nothing else is on its way, and no send buffer is smaller (socket(7) has 4608
as the least of SO_SNDBUF's effect). Looking again would be one more system call.
"""

Result = TypeVar("Result")

Rows = list[tuple[Any, ...]]

RunQuery = Callable[[str, Values], Awaitable[Rows]]
"""Runs one statement in some session and gives its rows."""

_READ_ONLY_QUERY: Final = "SELECT current_setting('transaction_read_only')::bool"

MINIMUM_VERSION: Final = 130000
"""PostgreSQL 13, as C{server_version_num} says it."""


class _Descriptor:
    """
    Duplicate of libpq's socket for the reactor.

    libpq closes its socket as soon as it finds it broken, while the reactor still has it; the
    number of the descriptor may then be reused. A duplicate is ours to close.

    An event may belong to the socket that had this number before: the reactor fetches many events
    at a time, and the first one's callback may close a descriptor whose number is reused before the
    last. So where a wrong event would do harm the socket is polled once more.
    """

    def __init__(self, connection: Connection, reactor: Any) -> None:
        self._connection = connection
        self._reactor = reactor
        self._number = os.dup(connection.fileno())

    def stop(self) -> None:
        """Stop watching; may be called again."""
        if self._number >= 0:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            os.close(self._number)
            self._number = -1

    def fileno(self) -> int:
        return self._number

    def logPrefix(self) -> str:
        return "postgres"

    def _says(self, events: int) -> bool:
        """Say whether one of these events, or a hang-up, is pending on the socket now."""
        if self._number < 0:
            return False
        look = select.poll()
        look.register(self._number, events)
        return bool(look.poll(0))


@implementer(IReadWriteDescriptor)
class _Handshake(_Descriptor):
    """
    Descriptor of a connection that is being opened.

    txpostgres could open it as well, but trusts each event: after a wrong one it polls libpq while
    the reactor still waits for the socket, which libpq may close or replace. The reactor would then
    keep a closed descriptor, and deliver no events to the next owner of its number.
    """

    def __init__(self, connection: Connection, reactor: Any, state: int) -> None:
        """
        @param state: event that libpq waits for.
        """
        super().__init__(connection, reactor)
        self._writes = state == extensions.POLL_WRITE
        self._watch()

    def _watch(self) -> None:
        if self._writes:
            self._reactor.addWriter(self)
        else:
            self._reactor.addReader(self)

    def doRead(self) -> None:
        if self._says(select.POLLOUT if self._writes else select.POLLIN):
            self._connection.step()

    def doWrite(self) -> None:
        self.doRead()

    def connectionLost(self, reason: Failure) -> None:
        # The reactor has removed it already.
        self._watch()
        self.doRead()


@implementer(IReadWriteDescriptor)
class _Watch(_Descriptor):
    """
    Descriptor of an open connection.
    """

    def __init__(self, connection: Connection, reactor: Any) -> None:
        super().__init__(connection, reactor)
        reactor.addReader(self)

    def doRead(self) -> None:
        self._connection.step()

    def doWrite(self) -> None:
        self._reactor.removeWriter(self)
        self._connection.step()

    def connectionLost(self, reason: Failure) -> None:
        # libpq may have a better reason than the reactor.
        self._connection.step()
        if self._number < 0:
            return
        if self._says(0):
            self._connection.discard()
        else:
            self._reactor.addReader(self)


class SessionSharing:
    """
    Knowledge of a pool's connections: whether a pooler shares their sessions with others.

    Where it does, as PgBouncer in transaction mode, a prepared statement is missing sooner or
    later; from then on plain text is sent.

    @ivar prepares: whether statements are prepared.
    """

    _log = Logger()

    def __init__(self) -> None:
        self.prepares = True

    def found(self, error: PreparedStatementLost) -> None:
        """Note that a prepared statement was missing."""
        if self.prepares:
            self.prepares = False
            self._log.info(
                "database: sessions are shared by a pooler, statements are not prepared any"
                " more ({reason})",
                event="sessions-shared",
                reason=error,
            )


class Connection(txpostgres.Connection):  # type: ignore[misc]  # txpostgres has no types
    """
    Connection that reports its loss.

    Once connected, one L{_Watch} stays with the reactor. txpostgres's cursors would register
    themselves for each query and pass their result through another turn of the reactor, which cost
    a third of the latency of a small statement.

    @ivar opened_at: when it was connected, in seconds of the reactor's clock.
    @ivar used_at: when it was last returned to the pool.
    @ivar prepared: names of the statements prepared in its session.
    @ivar sharing: whether a pooler shares its session, as far as its pool knows.
    @ivar lost: called once when the connection is no longer usable.
    @ivar notified: called with a list of notifications (channel, payload) that came in one read, in
        order. C{None}: txpostgres's observers get them.
    @ivar fault: why it is unusable; C{""} if we closed it without a fault.
    @ivar server: host for messages; C{""} if there is only one.
    @ivar shares_load: whether other servers of its list may serve the pool at the same time.
    @ivar generation: generation of the pool when it was opened.
    @ivar idle: called once when a late answer, for which nobody waits any longer, has come.
    @ivar reads: whether the current statement must only read, so that an error about a write says
        nothing about the server.
    """

    opened_at = 0.0
    used_at = 0.0
    fault = ""
    server = ""
    shares_load = False
    generation = 0
    reads = False
    lost: Callable[[Connection], None] | None = None
    notified: Callable[[list[tuple[str, str]]], None] | None = None
    idle: Callable[[Connection], None] | None = None

    def __init__(self, reactor: Any, cooperator: Any = None) -> None:
        super().__init__(reactor, cooperator)
        self.prepared: set[str] = set()
        self.sharing = SessionSharing()
        self._clock: IReactorTime = reactor
        self._watch: _Handshake | _Watch | None = None
        self._last: Any = None
        self._answer: Deferred[None] | None = None
        self._deadline: float | None = None
        self._answer_deadline: float | None = None
        self.left_alone = False
        self._timer: IDelayedCall | None = None
        self._wakes = inf
        self._timeout = 0.0

    @property
    def warned(self) -> bool:
        """True if the server sent a notice with the answer to the last L{query}."""
        return bool(self._connection.notices)

    @property
    def columns(self) -> list[tuple[str, int]]:
        """Names of the last result's columns, and the oids of their types."""
        return [(column.name, column.type_code) for column in self._last.description or ()]

    @property
    def usable(self) -> bool:
        """True while it is open, as far as is known without a query."""
        return self._connection is not None and not self._connection.closed

    @property
    def silence(self) -> float:
        """Seconds for which the server has owed an answer; 0 while nothing is asked."""
        if self._deadline is None:
            return 0.0
        return self._clock.seconds() - (self._deadline - self._timeout)

    async def open(self, dsn: str, timeout: float) -> None:
        """
        Connect, within C{timeout} seconds.

        libpq's own C{connect_timeout} does not work for asynchronous connections
        (PostgreSQL documentation, section 32.1 "PQconnectPoll").

        @raise Unavailable: with the reason.
        """
        self._arm(timeout)
        try:
            self._connection = self.connectionFactory(dsn, client_encoding="UTF8", async_=True)
            while (state := self._connection.poll()) != extensions.POLL_OK:
                self._watch = _Handshake(self, self.reactor, state)
                answer = self._answer = Deferred()
                await answer
            self._watch = _Watch(self, self.reactor)
        except Exception as error:
            reason = self.fault or first_line(error)
            self.discard()
            # libpq gives no SQLSTATE for this, only its text.
            raise Unavailable(reason) from error
        self._deadline = None
        self.opened_at = self.used_at = self._clock.seconds()

    async def query(
        self, sql: str, values: Values, timeout: float, answer_timeout: float | None = None
    ) -> Rows:
        """
        Run one statement.

        @param timeout: seconds after which the connection is closed. PostgreSQL's
            own C{statement_timeout} should be shorter: it costs only the statement.
        @param answer_timeout: seconds after which the caller stops waiting: L{OutcomeUnknown} is
            raised, and the connection becomes usable again when the answer comes.
        @return: its rows, none where it has no result.
        @raise StoreError: of the kind that says who must act.
        @raise StoredBefore: the fence did not move.
        @raise PreparedStatementLost: the statement was never run.
        """
        assert self._answer is None and not self.left_alone, "one statement at a time"
        self._arm(timeout, answer_timeout)
        try:
            connection = self._connection
            if connection.notices:
                del connection.notices[:]
            cursor = self._last
            if cursor is None:
                cursor = self._last = connection.cursor()
            cursor.execute(filled(sql, values))
            answer = self._answer = Deferred()
            if len(cursor.query) > _SENT_AT_ONCE:
                self.step()
            await answer
            return cursor.fetchall() if cursor.description is not None else []
        except (psycopg2.Error, ConnectionLost) as error:
            if getattr(error, "pgcode", None) == READ_ONLY and await self._takes_writes(timeout):
                # The server of a foreign table, or a trigger.
                raise TransientError(str(translated(error)), READ_ONLY) from error
            raise self._translated(error) from error
        finally:
            self._answer_deadline = None
            if not self.left_alone:
                self._deadline = None

    async def execute(
        self,
        statement: Preparable,
        values: Sequence[Any],
        timeout: float,
        answer_timeout: float | None = None,
        before: str = "",
        undo: str = "",
    ) -> Rows:
        """
        Run a statement: prepared, which is done once in each session since planning a small one
        costs more than running it, or as plain text where a pooler shares sessions or it does not
        last.

        @param before: statements in front of it, each with its C{;}, without parameters and with
            each percent sign doubled.
        @param undo: statement that ends the transaction which C{before} begins; C{""}: none.
        @return: the rows of the statement.
        @raise StoreError: as for L{query}.
        """
        if self.sharing.prepares and statement.lasts:
            try:
                if statement.name not in self.prepared:
                    await self.query(statement.prepare, None, timeout, answer_timeout)
                    self.prepared.add(statement.name)
                return await self.query(before + statement.execute, values, timeout, answer_timeout)
            except PreparedStatementLost as error:
                # Refused before anything was done.
                self.sharing.found(error)
                if undo:
                    await self.query(undo, None, timeout, answer_timeout)
        return await self.query(before + statement.plain, named(values), timeout, answer_timeout)

    async def prepare(self, statements: Iterable[Preparable], timeout: float) -> bool:
        """
        Prepare statements in this session, so that L{Preparable.execute} runs them.

        @return: C{False} where a pooler shares sessions.
        """
        if not self.sharing.prepares:
            return False
        for statement in statements:
            if statement.name not in self.prepared:
                try:
                    await self.query(statement.prepare, None, timeout)
                except PreparedStatementLost as error:
                    self.sharing.found(error)
                    return False
                self.prepared.add(statement.name)
        return True

    async def _takes_writes(self, timeout: float) -> bool:
        """
        Ask the connection's own server whether it takes writes after all, after an error that says
        a server does not.
        """
        if not self.usable or self.reads:
            return False
        try:
            ((read_only,),) = await self.query(_READ_ONLY_QUERY, None, timeout)
        except StoreError:
            return False
        return not read_only

    async def block(
        self,
        body: str,
        values: Mapping[str, Any],
        sql: str,
        after: Values,
        timeout: float,
        before: str = "",
        answer_timeout: float | None = None,
    ) -> Rows:
        """
        Run an anonymous code block and statements behind it, as one transaction.

        @param body: in PL/pgSQL, with C{%(name)s} for the values. They become literals
            within a literal: C{DO} takes no parameters.
        @param sql: the statements, and C{after} their parameters.
        @param before: statements in front of the block, without parameters.
        @return: the rows of the last statement.
        @raise StoreError: as for L{query}.
        """
        block = filled("DO %s", (filled(body, values),))
        statements = f"{before}{block}; {filled(sql, after)}"
        return await self.query(statements, None, timeout, answer_timeout)

    # So that txpostgres's own cursors work as well: they take the watch's place.

    def cursorRunning(self, cursor: txpostgres.Cursor) -> None:
        if self._watch is not None:
            self.reactor.removeReader(self._watch)
        self._cursors.add(cursor)

    def cursorFinished(self, cursor: txpostgres.Cursor) -> None:
        self._cursors.remove(cursor)
        if self._watch is not None:
            self.reactor.addReader(self._watch)
            self.checkForNotifies()

    def discard(self) -> None:
        """
        Close it, whatever it is doing; a query in flight fails.
        """
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        if self._connection is not None:
            self.close()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        lost, self.lost = self.lost, None
        if lost is not None:
            lost(self)
        self._settle(Failure(ConnectionLost()))

    def step(self) -> None:
        """
        Continue the query in flight, or read what the server sends to an idle session.
        """
        watch = self._watch
        if watch is None:
            return
        if isinstance(watch, _Handshake):
            # libpq may close this socket and go on with another one.
            watch.stop()
            self._settle(None)
            return
        try:
            state = self._connection.poll()
        except psycopg2.Error as error:
            if self.left_alone and self.usable and not _ends(error):
                self._settle(None)  # an answer that nobody waits for any longer
            elif self._answer is None:
                # The server ended an idle session.
                self.fault = first_line(error)
                self.discard()
            else:
                self._settle(Failure())
            return
        if state == extensions.POLL_WRITE:
            self.reactor.addWriter(watch)
        elif state == extensions.POLL_OK:
            # In this order: a caller of LISTEN gets its answer before the first notification.
            self._settle(None)
            if self._watch is not None and self._connection.notifies:
                self.checkForNotifies()

    def checkForNotifies(self) -> None:
        # txpostgres's observers are a set, told in later rounds of the reactor.
        if self.notified is None:
            super().checkForNotifies()
        elif notifies := self._connection.notifies:
            brought = [(notify.channel, notify.payload) for notify in notifies]
            del notifies[:]
            self.notified(brought)

    def _settle(self, result: Failure | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(result)
        elif self.left_alone and self.usable:
            self.left_alone = False
            self._deadline = None
            if self.idle is not None:
                self.idle(self)

    # Deadlines: the timer is left running from query to query and looks at the
    # deadline when it fires; most queries never touch it.

    def _arm(self, timeout: float, answer_timeout: float | None = None) -> None:
        self._timeout = timeout
        now = self._clock.seconds()
        due = self._deadline = now + timeout
        if answer_timeout is not None and answer_timeout < timeout:
            due = self._answer_deadline = now + answer_timeout
        if due < self._wakes:
            self._wake(due, now)

    def _wake(self, due: float, now: float) -> None:
        self._wakes = due
        if self._timer is not None and self._timer.active():
            self._timer.reset(due - now)
        else:
            self._timer = self._clock.callLater(due - now, self._look)

    def _look(self) -> None:
        self._wakes = inf
        if self._deadline is None:
            return
        now = self._clock.seconds()
        if self._answer_deadline is not None and self._answer_deadline <= now:
            waited = self._timeout - (self._deadline - now)
            self._answer_deadline = None
            self.left_alone = True
            answer, self._answer = self._answer, None
            if answer is not None:
                answer.errback(OutcomeUnknown(f"no answer from the server within {waited:g} s"))
        if self._deadline is None:
            return
        due = self._deadline if self._answer_deadline is None else self._answer_deadline
        if due > now:
            self._wake(due, now)
        else:
            self.fault = f"no answer from the server within {self._timeout:g} s"
            self.discard()

    def _translated(self, error: Exception) -> Exception:
        """
        Return our error for psycopg2's, and close the connection if it is lost.
        """
        translation = translated(error, self.reads)
        if isinstance(translation, OutcomeUnknown) or not self.usable:
            self.fault = self.fault or str(translation)
            self.discard()
        if isinstance(translation, OutcomeUnknown) and getattr(error, "pgcode", None) is None:
            return OutcomeUnknown(f"connection lost: {self.fault}")
        return translation

    async def transaction(
        self, work: Callable[[RunQuery], Awaitable[Result]], timeout: float
    ) -> Result:
        """
        Run several statements as one transaction.

        @param timeout: seconds for each of them.
        @raise StoreError: nothing was done, unless it is L{OutcomeUnknown}.
        """

        async def query(sql: str, values: Values) -> Rows:
            return await self.query(sql, values, timeout)

        await query("BEGIN", None)
        try:
            result = await work(query)
            await query("COMMIT", None)
        except StoreError:
            if self.usable:
                await query("ROLLBACK", None)
            raise
        return result


def _ends(error: Exception) -> bool:
    """Say whether an error ends its connection."""
    return isinstance(translated(error), OutcomeUnknown)


def server_settings(statement_timeout: float) -> tuple[str, tuple[str, ...]]:
    """
    Return the first statement of every session: it sets our options, and asks for the server's
    version and whether it is read-only.
    """
    sql = (
        "SELECT current_setting('server_version_num')::int,"
        " current_setting('transaction_read_only')::bool,"
        " set_config('statement_timeout', %s, false),"
        " set_config('standard_conforming_strings', 'on', false),"
        # Lower levels do not concern us; a higher one would hide that a commit was not replicated.
        " set_config('client_min_messages', 'warning', false),"
        " set_config('default_transaction_isolation', 'read committed', false)"
    )
    return sql, (f"{int(statement_timeout * 1000)}ms",)
