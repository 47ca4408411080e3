"""
Blocking client for scripts, with the standard library alone.

Strategy: L{Session} decides what to write and what answers mean; each call runs a loop over one
socket and a clock until its result has come. There is no thread, so nothing happens between calls.
A lost connection is opened again within the timeout of the call, and unanswered messages are sent
on over it.
"""

from __future__ import annotations

import random
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Unpack

from .answers import Answer, ClientError, Closed, Refused, Unknown
from .buffer import Buffer, MemoryBuffer
from .client_options import ClientOptions
from .dial import Shown, Tls, dial, tls_context
from .parcel import Parcel, Push, Question, Runs
from .pushes import PushBuffer
from .requests import Params, decoded
from .retry_after import backoff_policy
from .session import Session

_IO_BYTES: Final = 256 * 1024
"""Bytes read or written at a time."""

_AHEAD: Final = 4
"""Chunks that L{BlockingClient.send_each} has unanswered at a time."""


class BlockingClient:
    """
    Client with one connection, which is opened again when it is lost. For one thread.
    """

    def __init__(
        self,
        host: str,
        port: int = 8002,
        *,
        route: str = "messages",
        buffer: Buffer | None = None,
        tls: Tls = False,
        server_name: str | None = None,
        certificate: Shown = None,
        key: Shown = None,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        answer_timeout: float = 30.0,
        retry: Callable[[int], float] | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        """
        @param host: a name or an address; with a slash, the path of a Unix socket.
        @param route: route of messages that name none; the command dialect only.
        @param buffer: a L{gateway.client.buffer.DiskBuffer} keeps messages beyond the end of this
            process.
        @param tls: C{True} for TLS with the system's authorities, the path of a PEM file with
            authorities, or a context that verifies. The host's name is always verified.
        @param server_name: name to verify, if not C{host}.
        @param certificate: PEM file of the client's certificate; C{key}: of its key, if not in it.
        @param timeout: limit of a call in seconds, reconnecting included.
        @param connect_timeout: seconds for one connection, TLS included.
        @param answer_timeout: seconds of silence while an answer is due; then it reconnects.
        @param retry: attempt -> seconds to wait before it; attempts in a row count from 1.
        @param options: see L{ClientOptions}.
        @raise ValueError: with the name of the parameter at fault.
        @raise ClientError: the buffer cannot be opened.
        """
        self.route = route
        self._where = (host, port)
        self._context = tls_context(tls, certificate, key)
        self._server_name = server_name or host
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._answer_timeout = answer_timeout
        self._retry = backoff_policy(random.random) if retry is None else retry
        self._buffer: Buffer = MemoryBuffer() if buffer is None else buffer
        self._session = Session(self._buffer, self._retry, **options)
        self._session.open()
        self._socket: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._out = bytearray()
        self._heard = self._not_before = 0.0
        self._failures = 0
        self._reason: OSError | ClientError | None = None
        self._pushes = PushBuffer()
        self._closed = False

    @property
    def unanswered(self) -> int:
        """Number of messages without a final answer."""
        return self._session.unanswered

    def send(self, message: bytes, route: str | None = None) -> Answer:
        """
        Send one message and wait for its answer.

        @return: +OK, +DUP or +QUE.
        @raise Refused: -REJ, refused for good.
        @raise TimeoutError: no answer in time. The message is not dropped: the next call, such as
            L{flush}, goes on sending it; to send it again would make a second message.
        @raise ClientError: others, see L{gateway.client.answers}.
        """
        ((_, answer),) = self.send_many([message], route)
        if answer.kept:
            return answer
        raise Unknown(answer.text) if answer.word == "?" else Refused(answer, message)

    def send_many(self, messages: Sequence[bytes], route: str | None = None) -> Runs:
        """
        Send messages and wait for all answers.

        @return: (count, answer) for each run of equal answers, in the order of the messages;
            refusals are among them.
        @raise TimeoutError: as L{send}.
        """
        parcel = self._put(messages, route)
        self._turn_until(lambda: not parcel.left, self._timeout)
        return parcel.runs

    def send_each(
        self, messages: Iterable[bytes], route: str | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """
        Send any number of messages, without waiting for the answer to each.

        @return: (count, answer) as they come, in the order of the messages.
        @raise TimeoutError: as L{send}; the time counts from one answer to the next.
        """
        waiting: deque[Parcel] = deque()
        rest = iter(messages)
        while chunk := list(islice(rest, max(1, self._session.window // 2))):
            while waiting and (len(waiting) == _AHEAD or not self._roomy(chunk)):
                yield from self._first(waiting)
            waiting.append(self._put(chunk, route))
        while waiting:
            yield from self._first(waiting)

    def post(self, messages: Sequence[bytes], route: str | None = None) -> None:
        """
        Queue messages without waiting for answers; with a L{DiskBuffer} they are on disk. The calls
        that follow, such as L{flush}, send them.

        @raise BufferFull: none is queued.
        """
        self._put(messages, route)

    def flush(self, timeout: float | None = None) -> None:
        """
        Wait until every message has its answer, those from the buffer's file included.

        @raise TimeoutError: not in time.
        """
        self._check_open()
        self._turn_until(
            lambda: not self._session.unanswered, self._timeout if timeout is None else timeout
        )

    def call(
        self,
        query: str,
        params: Params = None,
        *,
        exact: bool = False,
    ) -> list[dict[str, Any]]:
        """
        Call a query of the gateway's configuration.

        @param exact: whether numbers with a decimal point become C{decimal.Decimal}.
        @raise Refused: no such query, wrong arguments, or the database refused it.
        @raise Garbled: the answer cannot be parsed.
        @raise TimeoutError: no answer in time.
        """
        return decoded(self._ask(lambda: self._session.call(query, params)).rows, exact)

    def ping(self, text: str = "") -> str:
        """
        Send a PING, and return the text from its answer.
        """
        return self._ask(lambda: self._session.ping(text)).text

    def listen(self, *channels: str, timeout: float | None = None) -> Iterator[Push]:
        """
        Yield notifications of channels, also across reconnects.

        @param timeout: end after so many seconds without one; C{None}: never.
        @return: pushes; a payload of C{None} means that some may have been missed.
        @raise Refused: the gateway does not allow a channel.
        """
        for channel in channels:
            self._pushes.expect(channel)
            self._ask(lambda name=channel: self._session.listen(name))  # type: ignore[misc]
        return self._listening(timeout)

    def unlisten(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._pushes.drop_channel(channel)
        self._ask(lambda: self._session.unlisten(channel))

    def close(self) -> None:
        """
        Disconnect. A L{DiskBuffer} keeps unanswered messages; otherwise they are lost.
        """
        self._closed = True
        self._disconnect()
        self._session.close()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None and self._session.unanswered:
                self.flush()
        finally:
            self.close()

    def _put(self, messages: Sequence[bytes], route: str | None) -> Parcel:
        self._check_open()
        return self._session.put(self.route if route is None else route, messages)

    def _first(self, waiting: deque[Parcel]) -> Runs:
        parcel = waiting.popleft()
        self._turn_until(lambda: not parcel.left, self._timeout)
        return parcel.runs

    def _roomy(self, messages: Sequence[bytes]) -> bool:
        return self._buffer.size + 2 * sum(map(len, messages)) <= self._buffer.max_bytes

    def _ask(self, ask: Callable[[], Question]) -> Question:
        self._check_open()
        question = ask()
        try:
            self._turn_until(lambda: question.complete, self._timeout)
        except TimeoutError:
            question.dropped = True
            raise
        if question.failure is not None:
            raise question.failure
        answer = question.answer
        assert answer is not None
        if not answer.kept:
            raise Refused(answer, question.payload)
        return question

    def _listening(self, timeout: float | None) -> Iterator[Push]:
        while True:
            try:
                self._turn_until(lambda: bool(self._pushes), timeout, idle=True)
            except TimeoutError:
                return
            yield self._pushes.next()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the client is closed")

    def _turn_until(
        self, done: Callable[[], bool], timeout: float | None, idle: bool = False
    ) -> None:
        """
        Run until C{done}.

        @param idle: whether silence is normal, so that a PING checks the connection.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not done():
            now = time.monotonic()
            if until is not None and now >= until:
                reason = self._session.put_off or self._session.connection_doubt or self._reason
                why = f" ({reason})" if reason else ""
                raise TimeoutError(
                    f"not within {timeout} seconds{why}; {self.unanswered} messages are unanswered"
                    " and are sent on by the next call"
                ) from self._reason
            limit = now + self._answer_timeout if until is None else until
            if self._socket is None:
                self._connect(now, limit)
            else:
                if idle and not self._session.awaits_answer and self._silent(now):
                    self._session.ping("")
                self._turn(now, limit)

    @property
    def _doubt(self) -> str:
        doubt = self._session.connection_doubt
        return f": {doubt}" if doubt else ""

    def _silent(self, now: float) -> bool:
        return now - self._heard >= self._answer_timeout

    def _connect(self, now: float, until: float) -> None:
        if now < self._not_before:
            time.sleep(min(self._not_before, until) - now)
            return
        self._failures += 1
        self._not_before = now + self._retry(self._failures)
        try:
            left = min(self._connect_timeout, max(0.001, until - now))
            self._socket = dial(*self._where, self._context, self._server_name, left)
        except ssl.SSLCertVerificationError:
            raise  # a person must act
        except OSError as error:
            self._reason = error
            return
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._heard = time.monotonic()
        self._session.connected()

    def _disconnect(self) -> None:
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._session.lost()
            self._take()
        self._out.clear()

    def _turn(self, now: float, until: float) -> None:
        """Write or read once, or wait until one of them is possible."""
        assert self._selector is not None
        try:
            waited = self._session.awaits_answer
            self._out += self._session.output(now)
            if not waited:
                self._heard = max(self._heard, now) if self._session.awaits_answer else self._heard
            if not self._exchange():
                if self._session.awaits_answer and self._silent(now):
                    raise Closed(f"no answer within {self._answer_timeout} seconds{self._doubt}")
                again = self._session.wait(now)
                # Short enough to notice a silent other end in time.
                pause = min(until - now, self._answer_timeout / 4)
                pause = pause if again is None else min(pause, again)
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
                self._selector.modify(self._socket, events)  # type: ignore[arg-type]
                self._selector.select(max(0.0, pause))
        except (OSError, ClientError) as error:
            self._reason = error
            self._disconnect()
        else:
            if self._session.leaving:
                self._reason = self._session.failure or Closed(str(self._session.goodbye))
                self._disconnect()
        if self._session.failure is not None:
            raise self._session.failure

    def _exchange(self) -> bool:
        """
        Write and read without blocking; return whether any bytes moved.
        """
        assert self._socket is not None
        done = False
        try:
            if self._out:
                sent = self._socket.send(self._out[:_IO_BYTES])
                del self._out[:sent]
                done = sent > 0
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        try:
            data = self._socket.recv(_IO_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return done
        if not data:
            raise Closed(f"the gateway closed the connection{self._doubt}")
        self._heard = time.monotonic()
        try:
            self._session.receive(data, self._heard)
        finally:
            self._take()
        return True

    def _take(self) -> None:
        for event in self._session.take_events():
            if isinstance(event, Push):
                self._pushes.add(event)
            self._failures = 0
