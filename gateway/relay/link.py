"""
Link: one connection to the centre, greeted, over which commands and messages go.

The greeting is the client's PING, which no plain listener takes for a message, then the token and
RELAY, by which the centre says over which edges its own messages go. Messages are written in parts,
some ahead of their answers, so that a slow line is not taken for a dead one.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.python.failure import Failure

from gateway.client.answers import Answer, ClientError
from gateway.client.connection import ClientConnection, ConnectionFactory, WatchedEndpoint
from gateway.client.probe import MARK, NONCE, check_probe, mute, probe, stranger
from gateway.model.errors import StoreError
from gateway.relay.conversation import Conversation, Farewell, Request, Runs

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to connect, and again for TLS and for the greeting."""

SILENCE: Final = 10.0
"""Seconds without a byte, while an answer is due, after which a connection is given up."""

PART_ROWS: Final = 1000
PART_BYTES: Final = 128 * 1024
"""Most messages and bytes of a part, unless one message is larger."""

AHEAD_ROWS: Final = 8000
AHEAD_BYTES: Final = 1024 * 1024
"""
Messages and bytes that are written ahead of their answers: a megabyte in 50 ms is as much as a line
of 160 Mbit/s carries.
"""


class LinkError(StoreError):
    """
    The connection could not be made, or is lost.

    @ivar farewell: the -BYE that came before it was lost.
    """

    def __init__(self, text: str, farewell: Answer | None = None) -> None:
        super().__init__(text)
        self.farewell = farewell


class Segment(NamedTuple):
    """
    Numbered messages for one route.

    @ivar first: number of the first message; those of the others follow.
    """

    route: bytes
    first: int
    messages: Sequence[bytes]


class Sent(NamedTuple):
    """
    Fates of the first ones of messages that were sent together.

    @ivar runs: the answers that are final.
    @ivar settled: how many messages these are.
    @ivar put_off: -TRY of the first message without one; C{None}: it has no answer, or all have.
    @ivar farewell: -BYE after which the others have no answer.
    """

    runs: Runs
    settled: int
    put_off: Answer | None = None
    farewell: Answer | None = None


def behind(segments: Sequence[Segment], count: int) -> list[Segment]:
    """Return what is left of segments behind their first C{count} messages."""
    left = []
    for route, first, messages in segments:
        if count < len(messages):
            left.append(Segment(route, first + count, messages[count:] if count else messages))
        count = max(0, count - len(messages))
    return left


class Link:
    """
    One connection to the centre.

    @ivar is_open: whether it is greeted, and not lost.
    @ivar path: identifiers of the edges that the centre's own messages go over, itself the first.
    @ivar generation: which choice of an endpoint it belongs to.
    @ivar ended: called once it is lost.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        framing: str,
        reactor: Any,
        generation: int = 0,
        ended: Callable[[Link], object] = lambda link: None,
    ) -> None:
        self.is_open = False
        self.path: Sequence[str] = ()
        self.generation = generation
        self.ended = ended
        self._framing = framing
        self._reactor = reactor
        self._endpoint = endpoint
        self._conversation = Conversation(framing)
        self._connection: ClientConnection | None = None
        self._made: Deferred[None] = Deferred()
        self._beginning = b""
        self._understood = False
        self._farewell: Answer | None = None
        self._reason = "the connection was lost"
        self._heard_at = 0.0
        self._look: IDelayedCall | None = None

    async def open(self, token: str | None, identifier: str) -> None:
        """
        Connect, and greet.

        @param identifier: of this edge.
        @raise LinkError: it cannot be used.
        """
        watched = WatchedEndpoint(
            self._endpoint, self._reactor, CONNECT_TIMEOUT, lambda reason: None
        )
        factory = ConnectionFactory(lambda: ClientConnection(self, self._reactor, CONNECT_TIMEOUT))
        try:
            await watched.connect(factory)
            await self._made
        except LinkError:
            raise
        except Exception as error:  # noqa: BLE001 - endpoints raise what they like
            raise LinkError(str(error) or type(error).__name__) from None
        late = self._reactor.callLater(CONNECT_TIMEOUT, self._silent)
        try:
            await self._greet(token, identifier)
        except BaseException:
            self.close()
            raise
        finally:
            if late.active():
                late.cancel()
        self.is_open = True

    async def _greet(self, token: str | None, identifier: str) -> None:
        payload = probe(self._framing, secrets.token_hex(NONCE // 2))
        answer = await self.ask(payload)
        if (wrong := check_probe(payload, answer)) is not None:
            raise LinkError(str(wrong))
        self._understood = True
        if token is not None:
            answer = await self.ask(b"AUTH " + token.encode())
            if not answer.kept:
                raise LinkError(f"the centre does not take the token: {answer}")
        await self.ask_path(identifier)

    async def ask_path(self, identifier: str) -> None:
        """
        Ask over which edges the centre's messages go.

        @raise LinkError: it does not say.
        """
        answer = await self.ask(b"RELAY " + identifier.encode())
        if answer.code == "FORMAT":
            raise LinkError("the centre is a gateway of an earlier version, which takes no relays")
        if not answer.kept:
            raise LinkError(f"the centre takes no relay: {answer}")
        path = answer.values.get("path") or ""
        self.path = path.split(",") if path else ()

    def ask(self, payload: bytes) -> Deferred[Answer]:
        """
        Send a command; fires with its answer, and fails with L{LinkError}.
        """
        answered: Deferred[Answer] = Deferred()

        def ended(request: Request) -> None:
            if request.left:
                answered.errback(self._error())
            else:
                answered.callback(request.runs[0][1])

        if self._connection is None:
            return _failed(self._error())
        self._write(self._conversation.command(payload, ended))
        return answered

    def put(self, segments: Sequence[Segment]) -> Deferred[Sent]:
        """
        Send numbered messages; fires with their fates, never fails.
        """
        return _Sending(self, segments).done

    def close(self) -> None:
        """Close the connection at once."""
        self.is_open = False
        if self._connection is not None:
            self._connection.abort()

    def _error(self) -> LinkError:
        if self._farewell is not None:
            return LinkError(f"the centre closed the connection: {self._farewell}", self._farewell)
        return LinkError(self._reason)

    def _write(self, data: bytes) -> None:
        assert self._connection is not None
        if self._look is None:
            self._heard_at = self._reactor.seconds()
            self._look = self._reactor.callLater(SILENCE / 2, self._looked)
        self._connection.write(data)

    def _looked(self) -> None:
        self._look = None
        if not self._conversation.owed:
            return
        if self._reactor.seconds() - self._heard_at >= SILENCE:
            self._silent()
            return
        self._look = self._reactor.callLater(SILENCE / 2, self._looked)

    def _silent(self) -> None:
        self._reason = "the centre does not answer" if self._understood else mute()
        self.close()

    # Called by the connection.

    def connection_made(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._heard_at = self._reactor.seconds()
        self._made.callback(None)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._reactor.seconds()
        if not self._understood:
            self._beginning = (self._beginning + data)[:300]
        try:
            self._conversation.receive(data)
        except Farewell as farewell:
            self._farewell = farewell.answer
            self.close()
        except ClientError as error:
            self._reason = str(error)
            if not self._understood and MARK not in self._beginning:
                self._reason = stranger(self._beginning, self._framing, False)[0]
            self.close()

    def connection_lost(self, connection: ClientConnection, reason: Failure) -> None:
        self.is_open = False
        self._connection = None
        if self._reason == "the connection was lost":
            self._reason = reason.getErrorMessage()
        if self._look is not None and self._look.active():
            self._look.cancel()
        if not self._made.called:
            self._made.errback(LinkError(reason.getErrorMessage()))
        self._conversation.lost()
        self.ended(self)


class _Sending:
    """
    Messages that are sent part by part over one link.
    """

    def __init__(self, link: Link, segments: Sequence[Segment]) -> None:
        self.done: Deferred[Sent] = Deferred()
        self._link = link
        self._parts = deque(parts_of(segments))
        self._runs: Runs = []
        self._settled = 0
        self._put_off: Answer | None = None
        self._ahead: deque[tuple[int, int]] = deque()  # messages and bytes of each part
        self._rows = self._bytes = 0
        self._stopped = False
        self._go_on()

    def _go_on(self) -> None:
        link = self._link
        while self._parts and not self._stopped:
            if self._rows >= AHEAD_ROWS or self._bytes >= AHEAD_BYTES:
                return
            connection = link._connection
            if connection is None or not connection.usable:
                self._stopped = True
                break
            (route, first, messages), size = self._parts.popleft()
            self._ahead.append((len(messages), size))
            self._rows += len(messages)
            self._bytes += size
            link._write(link._conversation.put(route, first, messages, self._ended))
        if not self._ahead and not self.done.called:
            self.done.callback(Sent(self._runs, self._settled, self._put_off, link._farewell))

    def _ended(self, request: Request) -> None:
        rows, size = self._ahead.popleft()
        self._rows -= rows
        self._bytes -= size
        if not self._stopped:
            for count, answer in request.runs:
                if answer.word == "-TRY":
                    self._put_off, self._stopped = answer, True
                    break
                self._runs.append((count, answer))
                self._settled += count
            self._stopped = self._stopped or request.left > 0
        self._go_on()


def parts_of(segments: Sequence[Segment]) -> list[tuple[Segment, int]]:
    """Cut segments into parts, each with the bytes of its messages."""
    parts = []
    for route, first, messages in segments:
        size = sum(map(len, messages))
        step = PART_ROWS
        if size > PART_BYTES:
            step = max(1, min(step, PART_BYTES * len(messages) // size))
        for start in range(0, len(messages), step):
            some = messages[start : start + step] if len(messages) > step else messages
            weight = size if some is messages else sum(map(len, some))
            parts.append((Segment(route, first + start, some), weight))
    return parts


def _failed(error: LinkError) -> Deferred[Any]:
    failed: Deferred[Any] = Deferred()
    failed.errback(error)
    return failed
