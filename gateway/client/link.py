"""
Link of a session to its gateway: reconnecting, the clock, and turns.

Each turn reports everything that is done first, and then writes all output at once.

C{ClientService}'s own C{prepareConnection} is not used: its state machine has no transition for a
connection that is lost while it is being prepared (Twisted 26.10). Its purpose, a back-off that
grows until a connection proves useful, is served by counting here.
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
from .connection import ClientConnection, ConnectionFactory, WatchedEndpoint
from .parcel import Event
from .session import Session

LOOKS: Final = 4
"""Number of checks of the clock within C{answer_timeout}."""

PROVEN: Final = 10.0
"""Seconds after which a connection was worth it even if nothing was said."""


CLOSING: Final = 1.0
"""Seconds for an orderly end."""


class EventReceiver(Protocol):
    """
    Receiver of a session's events.
    """

    @property
    def expects_pushes(self) -> bool:
        """True while pushes are expected."""

    def take_event(self, event: Event) -> None:
        """Take an event."""

    def turn_ended(self) -> None:
        """Take the end of a turn, after all its events."""

    def session_ended(self, failure: ClientError) -> None:
        """Take the final failure of the session."""


class Link:
    """
    Link of a session to its gateway.

    @ivar trouble: reason why the last connection was lost or failed.
    """

    _log = Logger()

    def __init__(
        self,
        session: Session,
        receiver: EventReceiver,
        endpoint: IStreamClientEndpoint,
        reactor: Any,
        retry: Callable[[int], float],
        connect_timeout: float,
        answer_timeout: float,
    ) -> None:
        """
        @param retry: attempt -> seconds to wait before it; attempts in a row count from 1.
        @param connect_timeout: limit of connecting in seconds, and again of TLS.
        @param answer_timeout: limit of silence while an answer is due, in seconds.
        """
        self._session = session
        self._receiver = receiver
        self._reactor = reactor
        self._retry = retry
        self._answer_timeout = answer_timeout
        self._client = ClientService(
            WatchedEndpoint(endpoint, reactor, connect_timeout, self._failed),
            ConnectionFactory(lambda: ClientConnection(self, reactor, connect_timeout)),
            retryPolicy=self._next_try,
            clock=reactor,
        )
        self._connection: ClientConnection | None = None
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
        """True if messages can be sent now."""
        return self._connection is not None and self._session.ready

    def when_connected(self, failures: int | None) -> Deferred[None]:
        """
        Return a Deferred that fires when messages can be sent.

        @param failures: number of failures in a row after which it fails; C{None}: never.
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
        """Disconnect, and stop reconnecting."""
        self._stopping = True
        late = None
        if self._connection is not None:
            # Orderly where no answer is due; but TLS may wait for a silent other end for ever.
            retry_after = 0.0 if self._session.awaits_answer or self._session.leaving else CLOSING
            late = self._reactor.callLater(retry_after, self._connection.abort)
        await maybeDeferred(self._client.stopService)
        for call in (late, self._soon, self._wake, self._look):
            _cancel(call)
        self._soon = self._wake = self._look = None

    def fail_waiting(self, failure: ClientError) -> None:
        """Fail the Deferreds that wait for a connection."""
        self._connecting, waiting = [], self._connecting
        for deferred, _ in waiting:
            deferred.errback(failure)

    def turn_soon(self) -> None:
        """Schedule a write of the session's output and the delivery of its events."""
        if not self._turning and self._soon is None:
            self._soon = self._reactor.callLater(0, self._turn)

    def connection_made(self, connection: ClientConnection) -> None:
        """Begin to send over a usable connection; called by the connection."""
        self._connection = connection
        self._made_at = self._heard_at = self._reactor.seconds()
        self._session.connected()
        self._look = self._reactor.callLater(self._answer_timeout / LOOKS, self._looked)
        self._turn()

    def data_received(self, data: bytes) -> None:
        """Take received bytes; called by the connection."""
        self._heard_at = self._reactor.seconds()
        try:
            self._session.receive(data, self._heard_at)
        except ClientError as error:
            self._drop(error)
        self._turn()

    def connection_lost(self, connection: ClientConnection, reason: Failure) -> None:
        """Take the loss of the connection; called by the connection."""
        _cancel(self._look)
        if self._connection is connection:
            self._connection = None
            doubt, dropped = self._session.connection_doubt, self._dropped
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
            while events := self._session.take_events():
                self._failures = 0
                for event in events:
                    self._receiver.take_event(event)
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
        self._receiver.turn_ended()

    def _write(self) -> None:
        connection = self._connection
        if connection is None or not connection.usable:
            return
        if self._session.leaving:
            connection.abort()
            return
        now = self._reactor.seconds()
        waited = self._session.awaits_answer
        data = self._session.output(now)
        if data:
            if not waited:
                self._heard_at = now
            connection.write(data)
        wait = self._session.wait(now)
        _cancel(self._wake)
        self._wake = None if wait is None else self._reactor.callLater(wait, self._turn)

    def _looked(self) -> None:
        """Check that the other end is alive."""
        now = self._reactor.seconds()
        self._look = self._reactor.callLater(self._answer_timeout / LOOKS, self._looked)
        if now - self._heard_at < self._answer_timeout:
            return
        if self._session.awaits_answer:
            doubt = self._session.connection_doubt
            why = f": {doubt}" if doubt else ""
            self._drop(Closed(f"no answer within {self._answer_timeout} seconds{why}"))
        elif self._receiver.expects_pushes and self._session.ready:
            # A client that only listens would not notice a dead connection.
            self._session.ping("")
            self._turn()

    def _drop(self, error: ClientError) -> None:
        self._log.warn(
            "connection given up: {reason}", event="connection-given-up", reason=str(error)
        )
        if self._connection is not None:
            self._dropped = ConnectionError(str(error))
            self._connection.abort()

    def _failed(self, reason: Failure) -> None:
        """Count a failure to connect, or a loss."""
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
        self._log.warn(
            "the client gives up: {reason}", event="client-gives-up", reason=str(failure)
        )
        stopped = Deferred.fromCoroutine(self.stop())
        stopped.addErrback(
            lambda reason: self._log.failure("stopping", reason, event="client-stop-failed")
        )
        self._receiver.session_ended(failure)


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
