"""
What keeps a session going: a connection that is made again, the clock, turns.

In one turn everything that is done is told first, and then all there is to say is written
at once.

C{ClientService}'s own C{prepareConnection} is not used: a connection that is lost while
it is being prepared finds that state machine without a transition (Twisted 26.10). What
it is for, a back-off that grows until a connection has proved useful, is done by
counting here which ones did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from .answers import ClientError, Closed
from .connection import Connection, ConnectionFactory, WatchedEndpoint
from .parcel import Event
from .session import Session

LOOKS: Final = 4
"""How often within C{answer_timeout} the clock is looked at."""

PROVEN: Final = 10.0
"""Seconds after which a connection was worth it even if nothing was said."""


CLOSING: Final = 1.0
"""Seconds for an orderly end."""


class Hearer(Protocol):
    """
    Receiver of what a session has done.
    """

    @property
    def listens(self) -> bool:
        """Whether pushes are expected."""

    def heard(self, event: Event) -> None:
        """Something has come or is done."""

    def turned(self) -> None:
        """All of one turn was told."""

    def ended(self, failure: ClientError) -> None:
        """The session has ended for good."""


class Link:
    """
    A session's way to its gateway.

    @ivar trouble: why the last connection was lost or could not be made.
    """

    _log = Logger()

    def __init__(
        self,
        session: Session,
        hearer: Hearer,
        endpoint: IStreamClientEndpoint,
        reactor: Any,
        retry: Callable[[int], float],
        connect_timeout: float,
        answer_timeout: float,
    ) -> None:
        """
        @param retry: seconds before the nth try in a row to connect.
        @param connect_timeout: seconds for a connection, and again for TLS.
        @param answer_timeout: seconds without a word while an answer is due.
        """
        self._session = session
        self._hearer = hearer
        self._reactor = reactor
        self._retry = retry
        self._answer_timeout = answer_timeout
        self._client = ClientService(
            WatchedEndpoint(endpoint, reactor, connect_timeout, self._failed),
            ConnectionFactory(lambda: Connection(self, reactor, connect_timeout)),
            retryPolicy=self._next_try,
            clock=reactor,
        )
        self._connection: Connection | None = None
        self._dropped: ConnectionError | None = None
        self._failures = 0
        self._made_at = self._heard_at = 0.0
        self._turning = False
        self._stopping = False
        self._soon: IDelayedCall | None = None
        self._wake: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._connecting: list[tuple[Deferred[None], int | None]] = []
        self.trouble: BaseException | None = None

    @property
    def connected(self) -> bool:
        """Whether messages can be sent right now."""
        return self._connection is not None and self._session.ready

    def when_connected(self, failures: int | None) -> Deferred[None]:
        """
        @param failures: so many failures in a row, from now on, are too many.
        """
        if self.connected:
            return succeed(None)
        if self._session.failure is not None:
            return fail(self._session.failure)
        waiting: Deferred[None] = Deferred()
        self._connecting.append((waiting, failures))
        return waiting

    def start(self) -> None:
        self._stopping = False
        self._client.startService()

    async def stop(self) -> None:
        """Disconnect, and connect no more."""
        self._stopping = True
        late = None
        if self._connection is not None:
            # Politely where nothing is due; TLS may then wait for a mute end for ever.
            retry_after = 0.0 if self._session.waiting or self._session.leaving else CLOSING
            late = self._reactor.callLater(retry_after, self._connection.abort)
        await maybeDeferred(self._client.stopService)
        for call in (late, self._soon, self._wake, self._look):
            _cancel(call)
        self._soon = self._wake = self._look = None

    def give_up(self, failure: ClientError) -> None:
        """Those who wait for a connection wait in vain."""
        self._connecting, waiting = [], self._connecting
        for deferred, _ in waiting:
            deferred.errback(failure)

    def turn_soon(self) -> None:
        """There is something to say."""
        if not self._turning and self._soon is None:
            self._soon = self._reactor.callLater(0, self._turn)

    def made(self, connection: Connection) -> None:
        """The connection's: it can be used."""
        self._connection = connection
        self._made_at = self._heard_at = self._reactor.seconds()
        self._session.connected()
        self._look = self._reactor.callLater(self._answer_timeout / LOOKS, self._looked)
        self._turn()

    def received(self, data: bytes) -> None:
        """The connection's: bytes have come."""
        self._heard_at = self._reactor.seconds()
        try:
            self._session.receive(data, self._heard_at)
        except ClientError as error:
            self._drop(error)
        self._turn()

    def gone(self, connection: Connection, reason: Failure) -> None:
        """The connection's: it is lost."""
        _cancel(self._look)
        if self._connection is connection:
            self._connection = None
            doubt, dropped = self._session.doubt, self._dropped
            self._dropped = None
            self._session.lost()
            if self._session.failure is not None:
                reason = Failure(self._session.failure)
            elif dropped is not None:
                reason = Failure(dropped)
            elif doubt and reason.check(ConnectionDone, ConnectionLost):
                # Else it says more, such as that TLS wants a certificate.
                reason = Failure(ConnectionError(f"lost at once: {doubt}"))
            if self._reactor.seconds() - self._made_at >= PROVEN:
                self._failures = 0
        self._failed(reason)
        self._turn()

    def _turn(self) -> None:
        _cancel(self._soon)
        self._soon = None
        if self._turning:
            return
        self._turning = True
        try:
            while events := self._session.take():
                self._failures = 0
                for event in events:
                    self._hearer.heard(event)
            self._write()
        except ClientError as error:
            self._session.failure = error
        finally:
            self._turning = False
        if self._session.failure is not None:
            self._end(self._session.failure)
            return
        if self.connected:
            self._connecting, waiting = [], self._connecting
            for deferred, _ in waiting:
                deferred.callback(None)
        self._hearer.turned()

    def _write(self) -> None:
        connection = self._connection
        if connection is None or not connection.usable:
            return
        if self._session.leaving:
            connection.abort()
            return
        now = self._reactor.seconds()
        waited = self._session.waiting
        data = self._session.output(now)
        if data:
            if not waited:
                self._heard_at = now
            connection.write(data)
        wait = self._session.wait(now)
        _cancel(self._wake)
        self._wake = None if wait is None else self._reactor.callLater(wait, self._turn)

    def _looked(self) -> None:
        """Is the other end still there?"""
        now = self._reactor.seconds()
        self._look = self._reactor.callLater(self._answer_timeout / LOOKS, self._looked)
        if now - self._heard_at < self._answer_timeout:
            return
        if self._session.waiting:
            doubt = self._session.doubt
            why = f": {doubt}" if doubt else ""
            self._drop(Closed(f"no answer within {self._answer_timeout} seconds{why}"))
        elif self._hearer.listens and self._session.ready:
            # Who only listens would never notice that nobody speaks any more.
            self._session.ping("")
            self._turn()

    def _drop(self, error: ClientError) -> None:
        self._log.warn("connection given up: {error}", error=str(error))
        if self._connection is not None:
            self._dropped = ConnectionError(str(error))
            self._connection.abort()

    def _failed(self, reason: Failure) -> None:
        """A connection could not be made, or is lost."""
        self.trouble = reason.value
        self._connecting, waiting = [], self._connecting
        for deferred, left in waiting:
            if left is not None and left <= 1:
                deferred.errback(reason)
            else:
                self._connecting.append((deferred, None if left is None else left - 1))

    def _next_try(self, attempt: int) -> float:
        self._failures += 1
        return self._retry(self._failures)

    def _end(self, failure: ClientError) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._log.warn("the client gives up: {failure}", failure=str(failure))
        stopped = Deferred.fromCoroutine(self.stop())
        stopped.addErrback(lambda reason: self._log.failure("stopping", reason))
        self._hearer.ended(failure)


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
