"""
A gateway in memory: one peer, its transport, a store whose commits the test releases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from socket import socket
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableDescriptor, ISystemHandle
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.access.authenticator import Authenticator
from gateway.access.connection_limit import ConnectionLimit
from gateway.access.grants import AccessSection
from gateway.access.rates import Allowance, Rates
from gateway.access.rights import Access
from gateway.access.tokens import Token
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.memory_store import MemoryStore
from gateway.commit.writer import Writer
from gateway.dialects.acknowledging import (
    AcknowledgingDialect,
    AcknowledgingReader,
    DialectSettings,
)
from gateway.dialects.base import Dialect
from gateway.dialects.command import CommandDialect
from gateway.dialects.plain import PlainDialect
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Receiver, Subscriptions
from gateway.dialects.token_first import TokenFirst
from gateway.model.errors import Unavailable
from gateway.model.outcome import Code, Listing, Run, Words, refused
from gateway.model.query import OnOutcome
from gateway.peers.factory import ListenerSettings, PeerFactory, PeerServices
from gateway.peers.protocol import PeerProtocol
from gateway.peers.timeouts import Timeouts
from gateway.system.socket_options import SocketOptions
from gateway.wire.forward_handshake import HandshakeSecrets
from gateway.wire.protocols import PROTOCOLS


def made_up() -> Callable[[], str]:
    """Words that are the same in each run: w1, w2, and so on."""
    numbers = itertools.count(1)
    return lambda: f"w{next(numbers)}"


def take(limit: InflightLimit, size: int) -> None:
    """Use bytes of a limit, as messages in flight do."""
    limit.used += size
    if limit.used > limit.room:
        limit.exceeded()


def give(limit: InflightLimit, size: int) -> None:
    """Give bytes of a limit back, as answered messages do."""
    limit.used -= size
    if limit.full:
        limit.eased()


def said(runs: list[Run]) -> list[str]:
    """Answers, one for each message."""
    found: list[bytes] = []
    for count, fate in runs:
        payload = Words().payload(fate)
        assert payload is not None
        found += [payload] * count if isinstance(payload, bytes) else payload
    return [payload.decode() for payload in found]


@implementer(IHalfCloseableDescriptor)
class HalfClosing(StringTransport):
    """
    A transport that can close its own half, as those of sockets can.
    """

    half_closed = False
    aborted = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def readConnectionLost(self, reason: Failure) -> None:
        """The reactor's, which is not here."""

    def writeConnectionLost(self, reason: Failure) -> None:
        """The reactor's, which is not here."""

    def abortConnection(self) -> None:
        self.aborted = True


@implementer(ISystemHandle)
class OnSocket(HalfClosing):
    """
    A transport with a socket of the kernel's below it.
    """

    def __init__(self, connection: socket) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._connection = connection

    def getHandle(self) -> socket:
        return self._connection


class Listed:
    """
    Queries that give back what they were asked for.
    """

    def ask(self, name: str, arguments: bytes, told: OnOutcome) -> None:
        if name == "rows":
            told(Listing([arguments] * 3))
        else:
            told(refused(Code.QUERY, f"no query '{name}'"))


class MemoryNotifier:
    """
    A Notifier whose LISTENs the test confirms.

    @ivar held: whether LISTEN waits for L{confirm}.
    @ivar away: whether the database cannot be reached.
    @ivar said: LISTEN and UNLISTEN as PostgreSQL would hear them.
    """

    def __init__(self, held: bool = False) -> None:
        self.held = held
        self.away = False
        self.said: list[str] = []
        self._listening: set[str] = set()
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._receiver: Receiver | None = None

    def bring_to(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def listen(self, channel: str) -> None:
        if self.away:
            raise Unavailable("the database cannot be reached")
        if channel in self._listening:
            return
        if channel not in self._waiting:
            self.said.append(f"LISTEN {channel}")
        waiting: Deferred[None] = Deferred()
        self._waiting.setdefault(channel, []).append(waiting)
        if not self.held:
            self.confirm()
        await waiting

    def unlisten(self, channel: str) -> None:
        if channel in self._listening:
            self.said.append(f"UNLISTEN {channel}")
            self._listening.discard(channel)

    def confirm(self) -> None:
        """PostgreSQL listens to all that was asked for."""
        waiting, self._waiting = self._waiting, {}
        self._listening |= set(waiting)
        for each in [each for channel in waiting.values() for each in channel]:
            each.callback(None)

    def lose(self) -> None:
        """The connection is lost while LISTEN is under way."""
        waiting, self._waiting = self._waiting, {}
        for each in [each for channel in waiting.values() for each in channel]:
            each.errback(Failure(Unavailable("the database cannot be reached")))

    def notify(self, *brought: tuple[str, str]) -> None:
        """One read brings these: (channel, payload)."""
        assert self._receiver is not None
        self._receiver.notified(brought)

    def miss(self, *channels: str) -> None:
        """Notifications of these may have been lost."""
        assert self._receiver is not None
        self._receiver.missed(channels)


class PlainToken(Token):
    """
    A token whose hash is its secret.
    """

    def has_secret(self, secret: bytes) -> bool:
        return secret.decode() == self.hash


def token_of(identity: str, expires: datetime | None = None) -> PlainToken:
    """A token for somebody."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return PlainToken(f"ID-of-{identity}", identity, begin, expires, f"secret-of-{identity}")


def saying(identity: str) -> bytes:
    """The same as a peer says it."""
    return f"ID-of-{identity}.secret-of-{identity}".encode()


TOKENS: Final = tuple(map(token_of, ("till-1", "till-2", "shop", "nobody")))


class Desk:
    """
    Where tokens are verified.

    @ivar now: by the wall clock.
    @ivar held: whether the test does the work.
    """

    def __init__(self) -> None:
        self.now = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
        self.held = False
        self._waiting: list[tuple[Callable[[], bool], Callable[[bool | Failure], None]]] = []

    def __call__(self, work: Callable[[], bool], done: Callable[[bool | Failure], None]) -> None:
        self._waiting.append((work, done))
        if not self.held:
            self.work()

    def work(self) -> None:
        """Verify what waits."""
        while self._waiting:
            work, done = self._waiting.pop(0)
            done(work())


class Bench:
    """
    One peer of a gateway in memory.
    """

    def __init__(
        self,
        framing: str = "line",
        held: bool = True,
        window: int = 100,
        cap: int = 1_000_000,
        dialect: Dialect | None = None,
        routes: Sequence[str] | None = None,
        words: Words | None = None,
        timeouts: Timeouts | None = None,
        telnet: bool = False,
        socket_options: SocketOptions | None = None,
        transport: Any = None,
        channels: Sequence[str] = ("news", "orders"),
        push_buffer: int = 16384,
        dead_letters: frozenset[str] = frozenset(),
        access: AccessSection | None = None,
        auth: bool = False,
        known: Sequence[str] = ("messages",),
        allowance: Allowance | None = None,
        connection_limit: ConnectionLimit | None = None,
        max_frame: int = 100,
        max_chunk: int = 10_000,
        reader: type[AcknowledgingReader] | None = None,
        remember_chunks: float = 0.0,
        handshake: HandshakeSecrets | None = None,
        proves: bool = False,
    ) -> None:
        """
        @param reader: of a protocol with an acknowledgement of its own, which C{framing} names.
        @param routes: those of the command dialect; C{None}: plain.
        @param auth: whether a token is asked for: C{ID-of-WHO.secret} is WHO's, and is verified
            when the test says so (C{self.desk}).
        @param proves: whether an identity is asked for, in the protocol's own way.
        @param known: the routes there are, where C{routes} does not say.
        """
        self.clock = Clock()
        self.notifier = MemoryNotifier()
        self.channels = Subscriptions(channels, self.notifier, self.clock)
        self.store = MemoryStore(held, made_up())
        self.inflight_limit = InflightLimit(cap)
        self.streams = StreamRegistry(self.store)
        self.desk = Desk()
        self.authenticator = Authenticator(
            {t.id: t for t in TOKENS}, self.desk, lambda: self.desk.now
        )
        if routes is not None:
            dialect = CommandDialect(self.streams, Listed(), self.channels, self.authenticator)
        elif reader is not None:
            settings = DialectSettings(
                *(self.clock, max_frame, max_chunk, remember_chunks, {}, handshake),
                wall=lambda: self.desk.now,
            )
            dialect = AcknowledgingDialect(reader, dialect or PlainDialect("messages"), settings)
            words = Words(b"", PROTOCOLS[framing].farewell)
        elif auth:
            dialect = TokenFirst(dialect or PlainDialect("messages"), self.authenticator)
        writer = Writer(
            self.store,
            self.clock,
            1,
            self.inflight_limit,
            lambda: 0.0,
            CircuitBreakers(self.store, self.clock, lambda attempt: 0.5),
            dead_letters=dead_letters,
        )
        self.factory = PeerFactory(
            ListenerSettings(
                listener="lines",
                framing=framing,
                words=words or Words(),
                max_frame=max_frame,
                max_chunk=max_chunk,
                window=window,
                timeouts=timeouts or Timeouts(),
                push_buffer=push_buffer,
                auth=auth or proves,
                telnet=telnet,
                socket_options=socket_options or SocketOptions(),
            ),
            PeerServices(
                writer, self.inflight_limit, self.clock, lambda: self.desk.now, self.channels
            ),
            dialect or PlainDialect("messages"),
            Access(access, known if routes is None else routes),
            Rates(allowance or Allowance()),
            connection_limit,
        )
        self.peer, self.transport = self.connect(transport)

    def connect(self, transport: Any = None) -> tuple[PeerProtocol, Any]:
        transport = transport or StringTransport()
        peer = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 4000))
        peer.makeConnection(transport)  # type: ignore[no-untyped-call]
        return peer, transport

    @property
    def said(self) -> bytes:
        said: bytes = self.transport.value()
        return said

    @property
    def paused(self) -> bool:
        return bool(self.transport.producerState == "paused")

    def wait(self, seconds: float) -> None:
        """Time passes, and nothing comes."""
        for _ in range(round(seconds * 20)):
            self.clock.advance(0.05)

    def commit_all(self) -> None:
        while self.store.waiting_writes:
            self.store.commit()
