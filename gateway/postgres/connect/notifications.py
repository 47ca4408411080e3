"""
Keep one connection that LISTENs.

It is opened for the first channel that is wanted, and closed some time after the last one. One
coroutine runs LISTEN and UNLISTEN on it until the channels listened to are those wanted: a thousand
subscribers of one channel cost one statement, and a change of mind meanwhile costs one more, never
a wrong state.

A lost connection is opened again with back-off and listens to all channels again; then subscribers
are told that they may have missed notifications. A connection that dies silently, or a session that
is not ours (a pooler that shares them), is found by a periodic query for the channels of the
session.

Unlike with txpostgres's observers, notifications come in PostgreSQL's order, all of one read
together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.config.load import Database
from gateway.dialects.subscriptions import Receiver
from gateway.logs.last_reason import LastReason
from gateway.model.errors import StoreError, Unavailable
from gateway.model.route import identifier
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.connector import ConnectAttempt, Connector

CHECK_EVERY: Final = 30.0
"""Seconds between two looks whether the session is still there, and still ours."""

ANSWERED: Final = 200
"""Subscribers that hear of LISTEN at a stretch."""

_POOLER: Final = (
    "its session does not listen any more: is there a pooler in transaction mode on the way?"
    " then channels.dsn must lead around it"
)


class Notifications:
    """
    L{gateway.dialects.subscriptions.Notifier} for PostgreSQL.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Database,
        clock: IReactorTime,
        backoff: Callable[[int], float],
        connector: Connector,
        check_every: float = CHECK_EVERY,
    ) -> None:
        """
        @param backoff: failed attempts -> seconds to wait.
        @param check_every: seconds between two checks of the session.
        """
        self._settings = settings
        self._clock = clock
        self._backoff = backoff
        self._connector = connector
        self._check_every = check_every
        self._receiver: Receiver | None = None
        self._dsn: str | None = None
        self._wanted: set[str] = set()
        self._listening: set[str] = set()
        # Listened to when the connection was lost, and not yet again.
        self._interrupted: set[str] = set()
        self._waiting: dict[str, deque[Deferred[None]]] = {}
        self._connection: Connection | None = None
        # Whether a LISTEN on it has succeeded.
        self._proven = False
        self._opening: ConnectAttempt | None = None
        self._working = False
        self._heard = False
        self._check_due = False
        self._failures = 0
        self._trouble = LastReason()
        self._down = ""
        self._retry: IDelayedCall | None = None
        self._check: IDelayedCall | None = None

    # Life.

    def start(self, dsn: str) -> None:
        """
        Allow connections from now on; open no socket yet.

        @param dsn: a libpq connection string.
        """
        self._dsn = dsn

    def stop(self) -> None:
        """
        Disconnect; waiting subscribers get an error, later ones no notification.
        """
        self._dsn = None
        for call in (self._retry, self._check):
            if call is not None and call.active():
                call.cancel()
        if self._opening is not None:
            self._opening.stop()
        if self._connection is not None:
            self._connection.discard()
        self._refuse_all("the gateway stops")

    @property
    def listening(self) -> frozenset[str]:
        """Channels that PostgreSQL has confirmed."""
        return frozenset(self._listening)

    # For L{gateway.dialects.subscriptions.Subscriptions}.

    def bring_to(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def listen(self, channel: str) -> None:
        if self._dsn is None:
            raise Unavailable("the gateway is not ready")
        if channel in self._listening:
            self._wanted.add(channel)
            return
        if self._down:
            raise Unavailable("the database cannot be reached")
        self._wanted.add(channel)
        waiting: Deferred[None] = Deferred()
        self._waiting.setdefault(channel, deque()).append(waiting)
        self._wake()
        try:
            await waiting.addTimeout(self._settings.acquire_timeout, self._clock)
        except TimeoutError:
            raise Unavailable("the database does not answer") from None

    def unlisten(self, channel: str) -> None:
        self._wanted.discard(channel)
        self._interrupted.discard(channel)
        self._waiting.pop(channel, None)
        self._wake()

    # Upkeep.

    def _wake(self) -> None:
        if not self._working and self._dsn is not None:
            self._working = True
            Deferred.fromCoroutine(self._work()).addErrback(self._bug)

    async def _work(self) -> None:
        try:
            while self._dsn is not None:
                if self._connection is None:
                    if self._retry is not None and self._retry.active():
                        return
                    if not self._wanted:
                        # The next subscriber starts without back-off.
                        self._failures = 0
                        self._down = ""
                        return
                    await self._connect(self._dsn)
                elif self._wanted != self._listening:
                    await self._say(self._connection)
                elif self._check_due:
                    await self._look(self._connection)
                else:
                    return
        finally:
            self._working = False

    async def _connect(self, dsn: str) -> None:
        opening = self._opening = self._connector.begin(dsn)
        try:
            connection = await opening.connect()
        except StoreError as error:
            self._failed(str(error))
            return
        finally:
            self._opening = None
        if self._dsn is None:
            connection.discard()
            return
        connection.lost = self._on_lost
        connection.notified = self._on_notified
        self._connection = connection
        self._proven = False
        self._check_due = False
        self._check = self._clock.callLater(self._check_every, self._ask_for_check)

    async def _say(self, connection: Connection) -> None:
        """
        LISTEN to missing channels and UNLISTEN those no longer wanted, as one transaction.
        """
        listen = self._wanted - self._listening
        unlisten = self._listening - self._wanted
        self._listening -= unlisten
        statements = [f"UNLISTEN {identifier(channel)}" for channel in sorted(unlisten)]
        statements += [f"LISTEN {identifier(channel)}" for channel in sorted(listen)]
        if await self._query(connection, "; ".join(statements)) is None:
            return
        self._listening |= listen
        if listen:
            self._say_back()
            again = self._interrupted & listen
            self._interrupted -= again
            if again and self._receiver is not None:
                self._receiver.missed(sorted(again))
            await self._answer(listen)

    async def _answer(self, channels: Collection[str]) -> None:
        """
        Answer waiting subscribers, some at a time; if the connection is lost meanwhile, the others
        wait on.
        """
        answered = 0
        for channel in sorted(channels):
            while channel in self._listening and self._waiting.get(channel):
                waiting = self._waiting[channel].popleft()
                if not waiting.called:
                    waiting.callback(None)
                    answered += 1
                    if answered % ANSWERED == 0:
                        await deferLater(self._clock, 0)
            if not self._waiting.get(channel, True):
                del self._waiting[channel]

    async def _look(self, connection: Connection) -> None:
        """
        Check that the server answers, and that the session is still ours.
        """
        self._check_due = False
        self._check = self._clock.callLater(self._check_every, self._ask_for_check)
        if not self._wanted:
            connection.discard()
            return
        if self._heard:
            # Notifications came, so the server is alive; while busy with them it may answer too
            # late.
            self._heard = False
        else:
            sql = "SELECT array(SELECT pg_catalog.pg_listening_channels())"
            rows = await self._query(connection, sql)
            if rows is None:
                return
            if not self._listening <= set(rows[0][0]):
                connection.fault = _POOLER
                connection.discard()
                return
        self._failures = 0

    def _ask_for_check(self) -> None:
        self._check_due = True
        self._wake()

    async def _query(self, connection: Connection, sql: str) -> list[tuple[list[str]]] | None:
        """
        Run a statement; C{None} where the connection is lost, be it in the meantime.
        """
        try:
            rows = await connection.query(sql, None, self._settings.connect_timeout)
        except StoreError as error:
            if connection is self._connection:
                connection.fault = connection.fault or str(error)
                connection.discard()
            return None
        return rows if connection is self._connection else None

    # Events of the connection.

    def _on_notified(self, brought: list[tuple[str, str]]) -> None:
        self._heard = True
        if self._receiver is not None:
            self._receiver.notified(brought)

    def _on_lost(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if self._check is not None and self._check.active():
            self._check.cancel()
        self._interrupted |= self._listening & self._wanted
        self._listening.clear()
        if self._dsn is None or not connection.fault:
            return
        if self._proven:
            self._log.warn(
                "channels: the connection was lost, notifications may be missed: {reason}",
                event="channels-lost",
                reason=connection.fault,
            )
            self._trouble.note(connection.fault)
            self._try_again()
        else:
            self._failed(connection.fault)

    def _failed(self, reason: str) -> None:
        if self._dsn is None:
            return
        if self._trouble.note(reason):
            self._log.warn(
                "channels: cannot listen, peers are told to try later: {reason}",
                event="channels-away",
                reason=reason,
            )
        self._down = reason
        # First, since waiting subscribers are the reason to reconnect, and are refused below.
        self._try_again()
        self._refuse_all("the database cannot be reached")

    def _try_again(self) -> None:
        self._failures += 1
        self._retry = self._clock.callLater(self._backoff(self._failures), self._wake)

    def _say_back(self) -> None:
        self._proven = True
        if self._trouble.forget():
            self._log.info("channels: listening again", event="channels-back")
        self._down = ""

    def _refuse_all(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for each in [each for channel in waiting.values() for each in channel]:
            if not each.called:
                each.errback(Failure(Unavailable(reason)))

    def _bug(self, failure: Failure) -> None:
        self._log.failure("channels: listening failed", event="channels-failed", failure=failure)
        if self._connection is not None:
            self._connection.fault = "a bug, see the log"
            self._connection.discard()
        else:
            self._failed("a bug, see the log")
