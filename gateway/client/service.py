"""
Client for programs on Twisted.

Strategy: L{Session} decides what to write and what answers mean, L{Link} keeps it connected, and
this module adds the Deferreds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Unpack

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from .answers import Answer, ClientError, Closed, Refused, Unknown
from .buffer import Buffer, MemoryBuffer
from .client_options import ClientOptions
from .dial import Shown
from .link import Link
from .parcel import Event, Parcel, Push, Question, Runs
from .requests import Params, decoded
from .retry_after import backoff_policy
from .secure import client_endpoint
from .session import Session


class GatewayClient(Service):
    """
    Client with one connection, which is opened again when it is lost.

    Every method that returns a Deferred can be awaited.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: str | IStreamClientEndpoint,
        *,
        route: str = "messages",
        buffer: Buffer | None = None,
        tls: object = None,
        server_name: str | None = None,
        certificate: Shown = None,
        key: Shown = None,
        reactor: Any = None,
        retry: Callable[[int], float] | None = None,
        jitter: Callable[[], float] = random.random,
        connect_timeout: float = 30.0,
        answer_timeout: float = 60.0,
        stop_timeout: float = 5.0,
        **options: Unpack[ClientOptions],
    ) -> None:
        """
        @param endpoint: a client endpoint string (C{tcp:localhost:8002}) or an endpoint.
        @param route: route of messages that name none; the command dialect only.
        @param buffer: a L{gateway.client.buffer.DiskBuffer} keeps messages beyond the end of this
            process; the default keeps up to 64 MiB in memory.
        @param tls: C{True} for TLS with the system's authorities, the path of a PEM file with
            authorities, or trust roots as C{optionsForClientTLS} takes them. The host's name is
            always verified. Endpoint strings with C{tls:} need none of this.
        @param server_name: name to verify, if not that of the endpoint string.
        @param certificate: PEM file of the client's certificate; C{key}: of its key, if not in it.
        @param reactor: Twisted's, if not the one installed.
        @param retry: attempt -> seconds to wait before it; by default they double from 0.1 to 30.
        @param jitter: returns numbers from 0 to 1, by which the default is shortened, at most by
            half.
        @param connect_timeout: limit of connecting in seconds, and again of TLS.
        @param answer_timeout: limit of silence while an answer is due, in seconds; then it
            reconnects.
        @param stop_timeout: seconds that L{stopService} waits for answers.
        @param options: see L{ClientOptions}.
        @raise ValueError: with the name of the parameter at fault.
        """
        if reactor is None:
            from twisted.internet import reactor
        self.route = route
        self._reactor = reactor
        self._buffer: Buffer = MemoryBuffer() if buffer is None else buffer
        retry = backoff_policy(jitter) if retry is None else retry
        self._stop_timeout = stop_timeout
        self._session = Session(self._buffer, retry, **options)
        self._link = Link(
            self._session,
            self,
            client_endpoint(endpoint, tls, server_name, reactor, certificate, key),
            reactor,
            retry,
            connect_timeout,
            answer_timeout,
        )
        self._closed = False
        self._warned = ""
        self._parcels: dict[Parcel, tuple[Deferred[Any], bytes | None]] = {}
        self._questions: dict[Question, Deferred[Question]] = {}
        self._callbacks: dict[str, Callable[[str | None], object]] = {}
        self._rooms: list[Deferred[None]] = []
        self._flushes: list[Deferred[None]] = []

    @property
    def unanswered(self) -> int:
        """Number of messages without a final answer."""
        return self._session.unanswered

    @property
    def expects_pushes(self) -> bool:
        """True while pushes are expected; for the link."""
        return bool(self._callbacks)

    @property
    def connected(self) -> bool:
        """True if messages can be sent now."""
        return self._link.connected

    @property
    def trouble(self) -> BaseException | None:
        """
        Reason why nothing can be sent: the gateway's -TRY to HELLO, a silent other end, or why the
        last connection was lost or failed.
        """
        put_off, doubt = self._session.put_off, self._session.connection_doubt
        if put_off is not None:
            return Closed(str(put_off))
        return Closed(doubt) if doubt else self._link.trouble

    @property
    def put_off(self) -> Answer | None:
        """Answer -TRY with which the gateway does not open the stream yet; HELLO is sent again."""
        return self._session.put_off

    def send(self, message: bytes, route: str | None = None) -> Deferred[Answer]:
        """
        Send one message.

        @return: fires with +OK, +DUP or +QUE. Fails with L{Refused} (-REJ: refused for good),
            L{Unknown} (only with C{resend=False}), L{StreamLost}, L{StreamTaken}, L{Closed}; and at
            once with L{BufferFull} or L{Unsendable}, where the message was not queued. -TRY is
            never seen: the client sends again. With a L{DiskBuffer} the message is on disk when
            this method returns.
        """
        return self._put([message], route, message)

    def send_many(self, messages: Sequence[bytes], route: str | None = None) -> Deferred[Runs]:
        """
        Send messages as one chunk, many times faster than one by one.

        @return: fires when all have their answer, with (count, answer) for each run of equal
            answers, in the order of the messages; refusals are among them and are no failure. Fails
            as L{send}.
        """
        return self._put(messages, route, None)

    def room(self) -> Deferred[None]:
        """
        Return a Deferred that fires when the buffer is at most half full: wait for it before each
        L{send_many} of a long series.
        """
        if self._roomy:
            return succeed(None)
        return self._added(self._rooms)

    def flush(self) -> Deferred[None]:
        """
        Return a Deferred that fires when no message is without its answer.
        """
        if not self._session.unanswered:
            return succeed(None)
        return self._added(self._flushes)

    def call(
        self,
        query: str,
        params: Params = None,
        *,
        exact: bool = False,
    ) -> Deferred[list[dict[str, Any]]]:
        """
        Call a query of the gateway's configuration.

        @param exact: whether numbers with a decimal point become C{decimal.Decimal}.
        @return: fires with the rows; fails with L{Refused}, or with L{Garbled} where they cannot be
            parsed. The call is sent again after -TRY or a lost connection; cancel it, or use
            C{addTimeout}, to stop waiting.
        """
        return self.rows(query, params).addCallback(decoded, exact)

    def rows(self, query: str, params: Params = None) -> Deferred[list[bytes]]:
        """
        Call a query; fires with each row's JSON as it came.
        """
        return self._ask(lambda: self._session.call(query, params)).addCallback(
            lambda question: question.rows
        )

    def listen(self, channel: str, callback: Callable[[str | None], object]) -> Deferred[None]:
        """
        Subscribe to a channel, also after every reconnect.

        @param callback: called with each payload, and with C{None} where some may have been missed:
            the client's connection was lost, or the gateway's to the database.
        @return: fires when the gateway has begun to listen; fails with L{Refused}.
        """

        def refused(reason: Failure) -> Failure:
            self._callbacks.pop(channel, None)
            return reason

        answered = self._ask(lambda: self._session.listen(channel))
        self._callbacks[channel] = callback
        return answered.addCallbacks(lambda question: None, refused)

    def unlisten(self, channel: str) -> Deferred[None]:
        """Stop listening to a channel."""
        self._callbacks.pop(channel, None)
        answered = self._ask(lambda: self._session.unlisten(channel))
        return answered.addCallback(lambda question: None)

    def ping(self, text: str = "") -> Deferred[str]:
        """
        Send a PING; fires with the text from its answer.
        """
        answered = self._ask(lambda: self._session.ping(text))
        return answered.addCallback(lambda question: question.text)

    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[None]:
        """
        Wait for a usable connection.

        @return: fires when messages can be sent: over TLS the gateway is verified, and the stream
            is open. Fails after C{failAfterFailures} failed attempts in a row.
        """
        return self._link.when_connected(failAfterFailures)

    def startService(self) -> None:
        """
        Start to connect.

        @raise ClientError: the buffer cannot be opened.
        """
        self._session.open()
        super().startService()  # type: ignore[no-untyped-call]
        self._closed = False
        self._link.start()

    def stopService(self) -> Deferred[None]:
        """
        Accept no more messages, wait up to C{stop_timeout} for answers, then disconnect. Messages
        without an answer fail with L{Closed}; from a L{DiskBuffer} the next client sends them.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._closed = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._session.failure is None:
            flushed = self.flush()
            flushed.addTimeout(self._stop_timeout, self._reactor)
            flushed.addErrback(lambda reason: None)
            await flushed
        await self._link.stop()
        kept = "it is kept, and sent by the next client on this buffer"
        lost = "it may be stored or not"
        durable = not isinstance(self._buffer, MemoryBuffer)
        self.session_ended(Closed(f"the client was stopped: {kept if durable else lost}"))
        self._session.close()

    async def __aenter__(self) -> GatewayClient:
        self.startService()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stopService()

    def _put(
        self, messages: Sequence[bytes], route: str | None, single: bytes | None
    ) -> Deferred[Any]:
        if self._closed:
            return fail(Closed("the client is stopped; nothing was taken"))
        try:
            parcel = self._session.put(self.route if route is None else route, messages)
        except ClientError:
            return fail(Failure())
        done: Deferred[Any] = Deferred()
        self._parcels[parcel] = (done, single)
        self._link.turn_soon()
        return done

    def _ask(self, ask: Callable[[], Question]) -> Deferred[Question]:
        if self._closed:
            return fail(Closed("the client is stopped; nothing was asked"))
        try:
            question = ask()
        except ClientError:
            return fail(Failure())

        def dropped(cancelled: Deferred[Question]) -> None:
            question.dropped = True
            self._questions.pop(question, None)

        answered: Deferred[Question] = Deferred(dropped)
        self._questions[question] = answered
        self._link.turn_soon()
        return answered

    def take_event(self, event: Event) -> None:
        """Take an event; called by the link."""
        if isinstance(event, Parcel):
            done, message = self._parcels.pop(event, (None, None))
            if done is None:
                return  # of an earlier process
            if message is None:
                done.callback(event.runs)
                return
            ((_, answer),) = event.runs
            if answer.kept:
                done.callback(answer)
            elif answer.word == "?":
                done.errback(Unknown(answer.text))
            else:
                done.errback(Refused(answer, message))
        elif isinstance(event, Push):
            self._pushed(event)
        else:
            self._answered(event)

    def _answered(self, question: Question) -> None:
        answer = question.answer
        answered = self._questions.pop(question, None)
        if question.failure is not None:
            if answered is not None:
                answered.errback(question.failure)
            return
        assert answer is not None
        if answered is None:
            if question.own:
                self._log.warn(
                    "no longer listening to {channel}: {answer}",
                    event="unsubscribed",
                    channel=question.channel,
                    answer=str(answer),
                )
        elif answer.kept:
            answered.callback(question)
        else:
            answered.errback(Refused(answer, question.payload))

    def _pushed(self, push: Push) -> None:
        callback = self._callbacks.get(push.channel)
        if callback is not None:
            try:
                callback(push.payload)
            except Exception:  # noqa: BLE001  # one listener's bug must not cost the others
                self._log.failure(
                    "a listener of {channel} failed",
                    event="push-callback-failed",
                    channel=push.channel,
                )

    def turn_ended(self) -> None:
        """Take the end of a turn; called by the link."""
        self._warn_put_off()
        if not self._session.unanswered:
            _fire(self._flushes)
        if self._rooms and self._roomy:
            _fire(self._rooms)

    def _warn_put_off(self) -> None:
        """Log once why the stream is not open, and again only for another reason."""
        put_off = self._session.put_off
        if self._session.ready:
            self._warned = ""
        elif put_off is not None and put_off.code == "GAP" and str(put_off) != self._warned:
            self._warned = str(put_off)
            self._log.warn(
                "the gateway does not open the stream yet, asking again: {answer}",
                event="stream-not-open",
                answer=self._warned,
            )

    def session_ended(self, failure: ClientError) -> None:
        """Fail everything that waits; called by the link, and on stop."""
        parcels, self._parcels = self._parcels, {}
        questions, self._questions = self._questions, {}
        waiting = [*self._rooms, *self._flushes]
        self._rooms.clear()
        self._flushes.clear()
        for deferred in (*(one for one, _ in parcels.values()), *questions.values(), *waiting):
            deferred.errback(failure)
        self._link.fail_waiting(failure)

    @property
    def _roomy(self) -> bool:
        return self._buffer.size * 2 <= self._buffer.max_bytes

    def _added(self, waiting: list[Deferred[None]]) -> Deferred[None]:
        if self._session.failure is not None:
            return fail(self._session.failure)
        waiting.append(Deferred(waiting.remove))
        return waiting[-1]


def _fire(waiting: list[Deferred[None]]) -> None:
    ready = waiting[:]
    waiting.clear()
    for deferred in ready:
        deferred.callback(None)
