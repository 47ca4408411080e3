"""
The parts of a gateway to which a reload is applied, in memory: real listeners on sockets that
nobody accepts from, a store whose commits a test releases, a database that does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from gateway.access.authenticator import Authenticator
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.memory_store import MemoryStore
from gateway.commit.writer import Writer
from gateway.config.load import Config, load_config
from gateway.daemon.configuration import Loaded, endpoint_fault
from gateway.daemon.reload import Reload, ReloadOutcome, ReloadParts
from gateway.daemon.storing import dead_letter_routes
from gateway.daemon.systemd import Systemd
from gateway.dialects.command import CommandDialect
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Subscriptions
from gateway.listeners.build import Listeners
from gateway.model.batch import Batch, Fence
from gateway.model.errors import ConfigError, Unavailable
from gateway.model.store import Written
from gateway.peers.factory import PeerServices
from gateway.postgres.queries.placed import PlacedQueries
from gateway.postgres.store.databases import Databases
from gateway.postgres.store.route_cache import Definition
from gateway.postgres.store.store import PostgresStore
from gateway.tls.registry import TlsRegistry
from tests.in_memory import MemoryNotifier, made_up


def load(text: str) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), endpoint_fault)


class Sockets(Clock):
    """
    A reactor that listens, and never accepts; time passes as a test says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        """Nothing is written."""

    def removeWriter(self, writer: Any) -> None:
        """Nothing is written."""

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> Any:
        port = tcp.Port._fromListeningDescriptor(self, descriptor, family, factory)
        port.startListening()
        return port


class Away:
    """
    A pool whose database does not answer.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.size = 0
        self.name = "database"

    def start(self, dsn: str) -> None:
        """Nothing comes of it."""

    @asynccontextmanager
    async def checkout(self) -> Any:
        raise Unavailable("the database cannot be reached")
        yield


class NotingStore(MemoryStore):
    """
    A store that notes for which definition of its route each batch is.

    @ivar tries: (messages, table), of each write, also of one that is tried again.
    """

    def __init__(self) -> None:
        super().__init__(True, made_up())
        self.tries: list[tuple[list[bytes], str]] = []
        self.find_table: Any = None

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        generations = {piece.chunk.generation for piece in batch.slices}
        assert len(generations) == 1, generations
        frames = [frame for piece in batch.slices for frame in piece.frames]
        self.tries.append((frames, self.find_table(batch)))
        return await super().write(batch, fence, patient=patient, blame=blame)


class InMemory:
    """
    What a reload is applied to.

    @ivar loaded: what it reads; an error: it fails.
    """

    def __init__(self, text: str, folder: str) -> None:
        """
        @param text: configuration, with {0} for the folder.
        """
        self._folder = folder
        config = self._load(text)
        self.reactor = Sockets()
        self.loaded: Loaded | Exception = Loaded(config, None, {})
        self.store = NotingStore()
        self.store.find_table = lambda batch: self.definition_of(batch).route.table
        pool: Any = Away(self.reactor)
        self.routes = PostgresStore(pool, config.routes, config.database)
        self.queries = PlacedQueries(
            config.queries, config.database, config.databases, pool, pool, lambda attempt: 0.5
        )
        self.inflight_limit = InflightLimit(config.limits.bytes_in_flight)
        self.channels = Subscriptions(config.channels.allow, MemoryNotifier(), self.reactor)
        breakers = CircuitBreakers(self.store, self.reactor, lambda attempt: 0.5)
        self.writer = Writer(
            self.store,
            self.reactor,
            2,
            self.inflight_limit,
            lambda: 0.0,
            breakers,
            dead_letters=dead_letter_routes(config),
        )
        authenticator = Authenticator(None, lambda work, done: done(work()), lambda: 0.0)
        streams = StreamRegistry(self.store)
        tls = TlsRegistry(self.reactor)
        self.listeners = Listeners(
            config,
            self.reactor,
            connections=config.limits.connections,
            services=PeerServices(
                self.writer, self.inflight_limit, self.reactor, lambda: 0.0, self.channels
            ),
            commands=CommandDialect(streams, self.queries, self.channels, authenticator),
            tls=tls,
            authenticator=authenticator,
        )
        service: Any = SimpleNamespace(
            is_stopping=False, replace_limits=lambda limits: None, open_routes=lambda: None
        )
        self.service = service
        watch: Any = SimpleNamespace(remarks=[])
        http: Any = SimpleNamespace(reload=lambda config: None)
        self.reload = Reload(
            Loaded(config, None, {}),
            self._read,
            ReloadParts(
                service=service,
                listeners=self.listeners,
                store=Databases(self.routes, config, self.reactor, lambda attempt: 0.5),
                writer=self.writer,
                breakers=breakers,
                queries=self.queries,
                channels=self.channels,
                tls=tls,
                authenticator=authenticator,
                inflight_limit=self.inflight_limit,
                spool=None,
                spooler=None,
                watch=watch,
                http=http,
                systemd=Systemd(None, Clock(), str),
                take_log=lambda config: None,
                room=lambda limits, listeners: (limits.connections, []),
                warnings=lambda config: [],
            ),
        )

    def definition_of(self, batch: Batch) -> Definition:
        """The definition by which the real store would store a batch."""
        return self.routes._route_cache.definition_of(batch)

    def _read(self) -> Loaded:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded

    def listen(self) -> None:
        """Open the ports, as a start does."""
        for listener in self.listeners:
            listener.listen()

    def _load(self, text: str) -> Config:
        return load(text.replace("{0}", self._folder))

    def apply(self, text: str) -> ReloadOutcome:
        """Reload, with the text of a configuration."""
        try:
            self.loaded = Loaded(self._load(text), None, {})
        except ConfigError as error:
            self.loaded = error
        return self.again()

    def again(self) -> ReloadOutcome:
        """Reload with what there is."""
        outcomes: list[Any] = []
        Deferred.fromCoroutine(self.reload.apply()).addBoth(outcomes.append)
        for _ in range(20):
            # Ports are closed in the reactor's next turn.
            self.reactor.advance(0)
        (outcome,) = outcomes
        assert isinstance(outcome, ReloadOutcome), outcome
        return outcome

    def connect(self, listener: str) -> Peer:
        """Connect a peer to a listener."""
        for service in self.listeners:
            if service.factory.listener == listener:
                return Peer(service.admission)
        raise LookupError(listener)

    def commit(self) -> None:
        """Commit what waits."""
        while self.store.waiting_writes:
            self.store.commit()

    def close(self) -> None:
        """Close the ports."""
        for service in self.listeners.with_closing:
            Deferred.fromCoroutine(service.close_port())
        self.reactor.advance(0)

    def offered(self) -> Mapping[str, object]:
        """What peers are offered, as values that compare equal where it is the same."""
        limit = self.listeners.connection_limit
        return {
            "listeners": {
                service.factory.listener: _listener(service) for service in self.listeners
            },
            "routes": {
                name: definition.route
                for name, definition in self.routes._route_cache.current.items()
            },
            "queries": {name: queue.query for name, queue in self.queries._home._queues.items()},
            "channels": self.channels._allowed,
            "counted": (sorted(self.channels.counters), sorted(self.queries.counters)),
            "limits": (limit.most, self.inflight_limit.limit, self.inflight_limit._low),
            "dead letters": self.writer.dead_letters,
        }


def _listener(service: Any) -> object:
    admission, factory = service.admission, service.factory
    limit, dialect = factory.connection_limit, factory.dialect
    return {
        "endpoint": service._text,
        "port": vars(vars(service._port._endpoint)["_reactor"])["_options"],
        "example": service.example,
        "networks": [
            (networks._unix, networks._four, networks._six)
            for networks in (admission.allow, admission.deny, admission.proxies)
        ],
        "limits": (limit.most, limit.most_alike, factory.rates.allowance),
        "settings": [
            getattr(factory, key)
            for key in (
                *("framing", "max_frame", "window", "timeouts", "push_buffer", "auth", "telnet"),
                *("refuses_http", "socket_options", "listener"),
            )
        ],
        "timeouts": (factory._sweep._timeouts, factory._sweep._interval),
        "words": (factory.words.ack, factory.words.nak),
        "dialect": (type(dialect).__name__, dialect.takes_commands, tuple(dialect.routes)),
        "rights": sorted(
            factory.rights(Peer(admission, connects=False).protocol.peer_info).routes.values()
        ),
    }


class Peer:
    """
    A peer that an admission let in, or refused.
    """

    def __init__(self, admission: Any, *, connects: bool = True) -> None:
        self.protocol: Any = admission.buildProtocol(IPv4Address("TCP", "127.0.0.1", 4000))
        self.transport = StringTransport()
        if connects:
            self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    @property
    def said(self) -> bytes:
        """All that it was told so far."""
        data: bytes = self.transport.value()
        return data
