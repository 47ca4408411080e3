"""
Load generator of C{gateway bench}.

Strategy: each connection keeps C{window} messages in flight. It sends slices of one prepared block
and counts answers, so that generating load costs little beside handling it (both usually share a
machine). Latency is measured from the write of a message to the read of its answer, for every
message, at one clock reading a write and one a read: messages written together share their start.
"""

from __future__ import annotations

import random
import string
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import socket
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import (
    IPullProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ISystemHandle,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.client.answers import NotAllowed
from gateway.peers.output import send_now
from gateway.wire.framing import make_framing

MAX_ANSWER_BYTES: Final = 65536
"""Longest answer taken in, in bytes."""


@dataclass(frozen=True, slots=True)
class Load:
    """
    Load to send.

    @ivar window: most messages in flight on a connection.
    @ivar size: payload of a message, in bytes.
    @ivar route: with the command dialect: route of the messages.
    @ivar token: sent first on each connection.
    @ivar count: number of messages; C{None}: as many as fit into C{duration} seconds.
    """

    connections: int = 16
    window: int = 1000
    size: int = 100
    framing: str = "line"
    route: str | None = None
    token: str | None = field(default=None, repr=False)
    count: int | None = None
    duration: float = 10.0


@dataclass(frozen=True, slots=True)
class BenchReport:
    """
    Result of a run. Latencies are in seconds, from write to answer.

    @ivar sent: number of messages written.
    @ivar answers: word and code of an answer -> number of messages.
    @ivar unanswered: number of messages without an answer.
    @ivar seconds: from the first write to the last answer.
    """

    sent: int
    answers: dict[str, int]
    unanswered: int
    seconds: float
    rate: float
    p50: float
    p99: float
    longest: float


class _Latencies:
    """
    Latency of every message, as pairs (seconds, count).
    """

    def __init__(self) -> None:
        self._seconds = array("d")
        self._counts = array("q")

    def add(self, seconds: float, count: int) -> None:
        self._seconds.append(seconds)
        self._counts.append(count)

    def quantiles(self, *shares: float) -> list[float]:
        pairs = sorted(zip(self._seconds, self._counts, strict=True))
        total = sum(self._counts)
        seconds_at = []
        for share in shares:
            left = share * total
            at = 0.0
            for seconds, count in pairs:
                at = seconds
                left -= count
                if left <= 0:
                    break
            seconds_at.append(at)
        return seconds_at


@implementer(IPullProducer)
class _Peer(Protocol):
    """
    Protocol of one connection under load.
    """

    _socket: socket | None = None
    _blocked = False

    def __init__(self, run: _BenchRun) -> None:
        self._run = run
        self._framing = make_framing(run.load.framing, MAX_ANSWER_BYTES)
        # Reads consist of these frames alone when all is well.
        self._ok = self._framing.frame(b"+OK")
        self._starts: deque[tuple[float, int]] = deque()
        self.unanswered = 0
        # Fires with the refusal of the token; C{""} where it is accepted.
        self.admitted: Deferred[str] = Deferred()
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
        # With TLS it is no socket, and nothing may go past the encryption.
        self._socket = handle if isinstance(handle, socket) else None
        transport.registerProducer(self, False)
        if self._run.proof:
            self._write(self._run.proof)
        else:
            self.admitted.callback("")

    def start(self) -> None:
        self._send(self._run.load.window)

    def dataReceived(self, data: bytes) -> None:
        if not self.admitted.called:
            for answer in self._framing.receive(data)[:1]:
                self.admitted.callback(
                    "" if answer == b"+OK" else answer.decode("utf-8", "replace")
                )
            return
        count, rest = divmod(len(data), len(self._ok))
        if rest == 0 and not self._framing.pending and data == self._ok * count:
            self._run.answers["+OK"] += count
        else:
            answers = self._framing.receive(data)
            count = len(answers)
            self._run.answers.update(map(_kind, answers))
        self._answered(count)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.admitted.called:
            self.admitted.callback("the connection was lost before the token had its answer")
        if not self.done.called:
            self.done.callback(None)

    def _answered(self, count: int) -> None:
        now = self._run.clock.seconds()
        self.unanswered -= count
        left = count
        while left > 0 and self._starts:
            start, size = self._starts.popleft()
            if size > left:
                self._starts.appendleft((start, size - left))
                size = left
            left -= size
            self._run.latencies.add(now - start, size)
        self._send(count)
        if not self.unanswered and not self.done.called:
            self.done.callback(None)

    def _send(self, room: int) -> None:
        count = self._run.allot(room)
        if count:
            self.unanswered += count
            self._starts.append((self._run.clock.seconds(), count))
            self._write(self._run.block(count))

    def _write(self, data: bytes) -> None:
        # At once where it can be: a round of the reactor would be measured as latency.
        if not self._blocked and self._socket is not None:
            data = data[send_now(self._socket, data) :]
        if data:
            self._blocked = True
            assert self.transport is not None
            self.transport.write(data)

    def resumeProducing(self) -> None:
        """Note that the transport has written its buffer."""
        self._blocked = False

    def stopProducing(self) -> None:
        """Do nothing: the connection is closed."""


class _BenchRun:
    """
    State that the connections of one run share.
    """

    def __init__(self, load: Load, clock: IReactorTime) -> None:
        self.load = load
        self.clock = clock
        self.answers: Counter[str] = Counter()
        self.latencies = _Latencies()
        self.sent = 0
        self.until = float("inf")
        frame = make_framing(load.framing, load.size).frame
        head = b"" if load.route is None else f"PUT {load.route} ".encode()
        self.proof = b""
        if load.token is not None:
            verb = b"" if load.route is None else b"AUTH "
            self.proof = frame(verb + load.token.encode())
        # Random, so that compression on the way does not improve the numbers.
        alphabet = string.ascii_letters + string.digits + " "
        messages = [
            frame(head + "".join(random.choices(alphabet, k=load.size)).encode())
            for _ in range(min(load.window, 1000))
        ]
        repeats = -(-load.window // len(messages))
        self._frame_size = len(messages[0])
        self._block = memoryview(b"".join(messages) * repeats)

    def allot(self, room: int) -> int:
        """Count as sent, and return, how many of C{room} messages may still be sent."""
        if self.load.count is not None:
            room = min(room, self.load.count - self.sent)
        elif self.clock.seconds() >= self.until:
            return 0
        self.sent += room
        return room

    def block(self, count: int) -> bytes:
        return bytes(self._block[: count * self._frame_size])


def _kind(answer: bytes) -> str:
    words = answer.decode("utf-8", "replace").split(" ", 2)
    return " ".join(words[:1] if words[0].startswith("+") else words[:2])


async def bench(
    endpoint: Callable[[], IStreamClientEndpoint], load: Load, reactor: Any
) -> BenchReport:
    """
    Put load on a gateway until all messages are answered.

    @param endpoint: returns an endpoint, once for each connection.
    @raise twisted.internet.error.ConnectError: a connection failed.
    @raise NotAllowed: the gateway refused the token.
    """
    run = _BenchRun(load, reactor)
    try:
        peers = await gatherResults(
            [connectProtocol(endpoint(), _Peer(run)) for _ in range(load.connections)],
            consumeErrors=True,
        )
    except FirstError as first:
        first.subFailure.raiseException()
        raise
    refusals = [text for text in await gatherResults([peer.admitted for peer in peers]) if text]
    if refusals:
        raise NotAllowed(refusals[0])
    begun = reactor.seconds()
    if load.count is None:
        run.until = begun + load.duration
    for peer in peers:
        peer.start()
    await DeferredList([peer.done for peer in peers if peer.unanswered])
    seconds = reactor.seconds() - begun
    unanswered = sum(peer.unanswered for peer in peers)
    for peer in peers:
        peer.transport.abortConnection()
    p50, p99, longest = run.latencies.quantiles(0.5, 0.99, 1.0)
    answered = run.sent - unanswered
    return BenchReport(
        sent=run.sent,
        answers=dict(run.answers),
        unanswered=unanswered,
        seconds=seconds,
        rate=answered / seconds if seconds else 0.0,
        p50=p50,
        p99=p99,
        longest=longest,
    )
