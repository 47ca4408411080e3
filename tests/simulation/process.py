"""
One gateway: the real writer, lanes, streams, spool and protocol, put together as
L{gateway.daemon.tap} does it, on a simulated database, disk, clock and network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from gateway.access.authenticator import Authenticator
from gateway.access.rights import Access
from gateway.commit.attempt import retry_delay
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.placed_store import PlacedStore
from gateway.commit.placed_writer import PlacedWriter
from gateway.commit.slow_commit_log import SlowCommitLog
from gateway.commit.writer import Writer
from gateway.dialects.command import CommandDialect
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Subscriptions
from gateway.metrics.counters import RouteCounters
from gateway.model import wording
from gateway.model.errors import StoreError
from gateway.model.outcome import Code, Words, refused
from gateway.model.query import OnOutcome
from gateway.model.route import HOME
from gateway.model.store import Store
from gateway.peers.factory import ListenerSettings, PeerFactory, PeerServices
from gateway.peers.protocol import PeerProtocol
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import Spool
from tests.in_memory import MemoryNotifier
from tests.simulation.connection import Connection
from tests.simulation.database import ANSWER_TIMEOUT, Database, SimulatedStore
from tests.simulation.layout import DEAD_LETTERS, Layout
from tests.simulation.spool_file import Disk, DiskThread, MemorySpoolFile
from tests.simulation.units import UnitFactory, unit_dialect
from tests.simulation.world import World

_ADDRESS: Final = IPv4Address("TCP", "127.0.0.1", 4000)

_POLL: Final = 0.5
_DRAIN: Final = 10.0
"""Seconds that an orderly stop waits for answers, as C{limits.drain_timeout}."""


class _NoQueries:
    """Answers no CALL."""

    def ask(self, name: str, arguments: bytes, told: OnOutcome) -> None:
        told(refused(Code.QUERY, f"no query '{name}'"))


class Process:
    """
    One life of a gateway, from its start to its end.

    @ivar thread: that uses its spool's file.
    """

    def __init__(
        self,
        name: str,
        world: World,
        layout: Layout,
        disk: Disk,
        lanes: int,
        window: int,
        prompt: float,
    ) -> None:
        """
        @param window: how many messages of a peer may be in flight at once.
        @param lanes: how many batches may be in flight at once.
        @param prompt: probability that the disk does its work at once.
        """
        self._world = world
        self.clock = clock = world.clock()
        self.stores = stores = {
            each.name: SimulatedStore(name, each, clock) for each in layout.databases.values()
        }
        places = layout.places
        self.store: Store = stores[HOME]
        if places is not None:
            self.store = PlacedStore(stores, places, self._is_away, world.new_id)
        store = self.store
        self.file = MemorySpoolFile(disk)
        self.thread = DiskThread(world, prompt)
        jitter = world.random.random

        def pause(attempt: int) -> float:
            return retry_delay(attempt, jitter)

        self.breakers = breakers = CircuitBreakers(store, clock, pause)
        self.spool = spool = Spool(self.file, self.thread, world.new_id)
        self.streams = streams = StreamRegistry(store, spool.backlog, spread=places is not None)
        self.spooler = spooler = OutageSpool(
            *(spool, store, breakers, clock, pause, streams.missing),
            takes=world.chance(0.8),
            places=places,
            is_away=lambda route: places is not None and self._is_away(places.database_of(route)),
        )
        inflight_limit = InflightLimit(1_000_000)
        counters = defaultdict[str, RouteCounters](RouteCounters)
        slow_commits = SlowCommitLog(clock)
        writers = {
            each: Writer(
                *(store, clock, lanes, inflight_limit, lambda: world.now, breakers, spooler),
                *(DEAD_LETTERS, ANSWER_TIMEOUT, world.new_id),
                counters=counters,
                slow_commits=slow_commits,
                is_spread=places is not None,
            )
            for each in stores
        }
        self.writer: Writer | PlacedWriter = writers[HOME]
        if places is not None:
            self.writer = PlacedWriter(writers, places, counters, slow_commits)
        channels = Subscriptions((), MemoryNotifier(), clock)
        authenticator = Authenticator({}, lambda work, done: done(work()), lambda: world.now)
        self._factory = PeerFactory(
            ListenerSettings("lines", "line", Words(), max_frame=100, window=window),
            PeerServices(self.writer, inflight_limit, clock, lambda: world.now, channels),
            CommandDialect(streams, _NoQueries(), channels, authenticator),
            Access(None, layout.routes),
        )
        self._unit_factory = UnitFactory(
            ListenerSettings("units", "line", Words(b"", b""), max_frame=1000, window=window),
            PeerServices(self.writer, inflight_limit, clock, lambda: world.now, channels),
            unit_dialect(clock, layout.unit_routes),
            Access(None, layout.unit_routes),
        )
        self.connections: list[tuple[Connection, PeerProtocol]] = []
        self.stopping: Deferred[None] | None = None
        spool.open()
        spool.start()
        spooler.start()

    def connect(self, connection: Connection, units: bool = False) -> None:
        """
        Take a peer in.

        @param units: whether it sends units, and not commands.
        """
        factory = self._unit_factory if units else self._factory
        protocol = factory.buildProtocol(_ADDRESS)
        connection.protocol = protocol
        self.connections.append((connection, protocol))
        protocol.makeConnection(connection)  # type: ignore[no-untyped-call]

    def _is_away(self, database: str) -> bool:
        return self.stores[database].is_away

    @property
    def quiet(self) -> bool:
        """Whether nothing that was submitted waits for its answer."""
        return not self.writer.in_flight and not self.thread.waiting

    # The end.

    def kill(self) -> None:
        """
        End at once. What is under way on the disk may be done or not, what is in flight may
        be executed at any time.
        """
        random = self._world.random
        if self._world.chance(0.5):
            self.thread.work(told=False)
        self.file.close()
        for connection, _ in self.connections:
            connection.die(heard=random.random() < 0.5)
        for store in self.stores.values():
            store.closed = True
        self._ended()

    def stop(self, ended: Callable[[], None]) -> None:
        """
        Stop as L{gateway.daemon.service} does.

        @param ended: called when that is done.
        """
        self.stopping = Deferred.fromCoroutine(self._stop())
        self.stopping.addCallback(lambda _: ended())

    async def _stop(self) -> None:
        for _, protocol in self.connections:
            protocol.close_with(wording.STOPPING)
        self.writer.give_back_held()
        drained = await self._within(_DRAIN, lambda: not self.writer.in_flight)
        await self._within(1.0, lambda: all(c.closed for c, _ in self.connections))
        for connection, _ in self.connections:
            connection.closed = True
            connection.lose()
        self.spooler.begin_stop()
        if drained:
            closing = Deferred.fromCoroutine(self.store.close_lanes(self.writer.lanes))
            closing.addErrback(lambda failure: failure.trap(StoreError))
            await self._within(1.0, lambda: closing.called)
        for store in self.stores.values():
            store.close()
        await self.spooler.stop()
        await self.spool.close()
        self._ended()

    def _ended(self) -> None:
        self._world.drop_clock(self.clock)

    async def _within(self, seconds: float, done: Callable[[], bool]) -> bool:
        until = self.clock.seconds() + seconds
        while not done():
            if self.clock.seconds() >= until:
                return False
            await deferLater(self.clock, _POLL)
        return True


class Gateway:
    """
    A gateway that is started again and again on the same spool.

    @ivar process: its present life; C{None} while it is down.
    @ivar cut_off: databases that it cannot reach.
    """

    def __init__(
        self, name: str, world: World, layout: Layout, lanes: int, window: int, prompt: float
    ) -> None:
        """
        @param lanes: as for L{Process}, and so are the next two.
        """
        self.name = name
        self.disk = Disk()
        self.process: Process | None = None
        self.cut_off: list[Database] = []
        self._world = world
        self._layout = layout
        self._lanes = lanes
        self._window = window
        self._prompt = prompt
        self._lives: list[Process] = []

    def __str__(self) -> str:
        return self.name

    @property
    def open(self) -> bool:
        """Whether peers can connect."""
        return self.process is not None and self.process.stopping is None

    def start(self) -> None:
        """Begin a new life."""
        self._world.note(f"{self.name} starts")
        self.disk.find(unflushed=self._world.chance(0.5))
        ends = (self._world, self._layout, self.disk)
        life = Process(self.name, *ends, self._lanes, self._window, self._prompt)
        for database in self.cut_off:
            life.stores[database.name].cut_off = True
        self.process = life
        # What is collected while the schedule runs would run its coroutines' ends.
        self._lives.append(life)

    def kill(self) -> None:
        """End it with C{kill -9}."""
        assert self.process is not None
        self._world.note(f"{self.name} is killed")
        process, self.process = self.process, None
        process.kill()
        for name, database in self._layout.databases.items():
            database.sever(process.stores[name], told=False)

    @property
    def is_paused(self) -> bool:
        """Whether any of its routes is paused."""
        return self.process is not None and self.process.breakers.pauses.on

    def pause(self, route: str | None) -> None:
        """Pause a route, or all of them."""
        assert self.process is not None
        self._world.note(f"{self.name} pauses {route or 'all routes'}")
        self.process.breakers.pauses.pause(route)

    def resume(self) -> None:
        """Resume all routes."""
        assert self.process is not None
        self._world.note(f"{self.name} resumes all routes")
        self.process.breakers.pauses.resume(None)

    def stop(self) -> None:
        """Stop it in order."""
        assert self.process is not None
        self._world.note(f"{self.name} stops")
        self.process.stop(self._stopped)

    def _stopped(self) -> None:
        self._world.note(f"{self.name} has stopped")
        self.process = None

    def cut(self, database: Database) -> None:
        """Cut it off from a database."""
        self._world.note(f"{self.name} is cut off from {database.name}")
        self.cut_off.append(database)
        if self.process is not None:
            store = self.process.stores[database.name]
            store.cut_off = True
            database.sever(store)

    def reach(self, database: Database) -> None:
        """End its being cut off."""
        self._world.note(f"{self.name} reaches {database.name} again")
        self.cut_off.remove(database)
        if self.process is not None:
            self.process.stores[database.name].cut_off = False
