"""
One schedule: what happens, in an order that its seed decides.

First a plan is drawn: how many gateways and peers, and which kinds of faults there are. Then
events follow one another: a peer acts, the network delivers, a statement is executed, time
passes, something fails. In the end everything is mended, and all must come to its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Final

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from tests.simulation.connection import Connection
from tests.simulation.database import Chances, Database, Statement
from tests.simulation.layout import SECOND, Layout, spread_routes
from tests.simulation.oracle import Oracle
from tests.simulation.peers import Habits, PlainPeer, StreamPeer, UnitPeer
from tests.simulation.process import Gateway
from tests.simulation.world import Finding, World

ROUNDS: Final = 400
"""Rounds after which what is not at its end, everything being mended, never will be."""

SPREAD: Final = 3
"""Every how many seeds there is a schedule with two databases."""

Event = Callable[[], object]


class Schedule:
    """
    Everything of one schedule.

    @ivar world: with its trace.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = world = World(seed)
        # The lanes' pauses come from the module's own generator.
        random.seed(seed)
        draw = world.random
        self._steps = draw.choice((20, 40, 60, 90))
        # Moods: peers that move and send again all the time, while all else goes its way, mostly;
        # or a database that mostly stands still, and peers that send without numbers too;
        # or one in which statements often fail for reasons that pass, and many such peers.
        mood = draw.choice(("", "", "", "hectic", "hectic", "stuck", "stuck", "troubled"))
        hectic, stuck, troubled = (mood == each for each in ("hectic", "stuck", "troubled"))
        databases = [Database(world, self._drawn_chances(mood))]
        routes = None
        if not seed % SPREAD:
            databases.append(Database(world, self._drawn_chances(mood), SECOND))
            routes = spread_routes(draw)
        self.layout = layout = Layout(databases, routes)
        self._databases = databases
        lanes = draw.choice((1, 2, 2, 3))
        window = draw.choice((2, 4) if troubled else (8, 8, 2))
        disk_prompt = draw.choice((0.5, 0.9, 1.0))
        self.gateways = [
            Gateway(f"g{number}", world, layout, lanes, window, disk_prompt)
            for number in range(draw.choice((1, 2, 2, 2, 3)))
        ]
        self.connections: list[Connection] = []
        self._prompt_network = 0.95 if hectic else draw.choice((0.5, 0.9))
        self.oracle = oracle = Oracle(layout, self.gateways)
        faulty = draw.choice((0.2, 0.4) if hectic else (0.0, 0.0, 0.15, 0.4))
        ends = (self.gateways, self.connections, layout)
        self.streams = [
            StreamPeer(f"s{number}", self._drawn_habits(hectic, faulty), world, oracle, *ends)
            for number in range(draw.choice((0, 1) if troubled else (1, 1, 2, 3)))
        ]
        most, plain = 6, (1, 1, 2) if stuck else (0, 1)
        if troubled:
            most, plain = 20, (2, 3, 4)
        self.plain = [
            PlainPeer(f"p{number}", world, oracle, *ends, draw.randint(1, most), faulty)
            for number in range(draw.choice(plain))
        ]
        unitary = draw.choice((0, 0, 1, 2))
        if not unitary and not self.streams and not self.plain:
            unitary = 1
        self.unitary = [
            UnitPeer(f"u{number}", world, oracle, *ends, draw.randint(1, 4), faulty)
            for number in range(unitary)
        ]
        self.peers: list[StreamPeer | PlainPeer | UnitPeer] = [*self.streams, *self.plain]
        self.peers += self.unitary
        self._faults = self._drawn_faults(mood)
        self._fault_rate = draw.choice((0.05, 0.1, 0.15))
        self._recovery = draw.choice((0.15, 0.4, 0.6))
        self._mended = False

    def _drawn_chances(self, mood: str) -> Chances:
        draw = self.world.random
        if mood == "stuck":
            return Chances(0.5, 0.04, 0.08, 0.01)
        if mood == "troubled":
            return Chances(0.2, 0.01, 0.01, 0.3)
        prompt = 0.9 if mood == "hectic" else draw.choice((0.3, 0.6, 0.9))
        if draw.random() < 0.4:
            return Chances(prompt, 0.0, 0.0, 0.0)
        odd = (0.0, 0.03)
        return Chances(prompt, draw.choice(odd), draw.choice(odd), draw.choice((0.0, 0.0, 0.02)))

    def _drawn_habits(self, hectic: bool, faulty: float) -> Habits:
        draw = self.world.random
        kind = draw.choice(("a", "a", "b1", "b2"))
        if hectic:
            return Habits(kind, draw.randint(6, 14), faulty, 0.5, 0.3)
        stubborn, restless = draw.choice((0.0, 0.05, 0.4)), draw.choice((0.05, 0.15, 0.35))
        return Habits(kind, draw.randint(2, 9), faulty, stubborn, restless)

    def _drawn_faults(self, mood: str) -> list[Event]:
        """
        @return: the faults that this schedule may have, each as often as it may come.
        """
        draw = self.world.random
        kinds: list[tuple[Event, int]] = [
            (self._kill, 4),
            (self._stop, 2),
            (self._cut, 5),
            (self._outage, 3),
            (self._close_route, 3),
            (self._fail_over, 2),
            (self._fill_disk, 2),
            (self._break_disk, 1),
            (self._set_back, 3),
            (self._pause, 4),
        ]
        # Few kinds in most schedules: each then comes in more of its own combinations.
        first = {"stuck": self._kill, "troubled": self._close_route}
        found: list[Event] = [first[mood]] * 2 if mood in first else []
        for kind, most in draw.sample(kinds, draw.choice((1, 2, 2, 3, 4, 6))):
            found += [kind] * draw.randint(1, most)
        if self.layout.places is not None and draw.random() < 0.4:
            found += [self._set_back] * 6
        return found

    # Running.

    def run(self) -> None:
        """
        Run it to its end.

        @raise Finding: a rule is broken.
        """
        world = self.world
        bugs: list[str] = []

        @provider(ILogObserver)
        def hear(event: LogEvent) -> None:
            failure = event.get("log_failure")
            if failure is not None:
                bugs.append(f"{failure.type.__name__}: {failure.value}\n{failure.getTraceback()}")

        globalLogPublisher.addObserver(hear)
        try:
            names = " ".join(f"{peer.name}:{getattr(peer, 'kind', 'p')}" for peer in self.peers)
            world.note(f"{len(self.gateways)} gateways, peers {names}")
            if self.layout.places is not None:
                inner = ", ".join(f"{name}: {at.name}" for name, at in self.layout.inner.items())
                world.note(f"routes {inner}")
            for gateway in self.gateways:
                gateway.start()
            for _ in range(self._steps):
                world.begin_event()
                self._step()
                self._judge(bugs)
            self._mend()
            for _ in range(ROUNDS):
                world.begin_event()
                self._round()
                self._judge(bugs)
                if self._at_end():
                    break
            else:
                raise Finding(f"P3: not at its end: {self._state()}")
            self._check_end(bugs)
        finally:
            globalLogPublisher.removeObserver(hear)

    def _judge(self, bugs: list[str]) -> None:
        if bugs:
            raise Finding(f"a bug: {bugs[0]}")
        self.oracle.check()
        for peer in self.unitary:
            peer.check_whole(self.layout.holds)

    @property
    def digest(self) -> str:
        """Of the trace."""
        return sha256("\n".join(self.world.trace).encode()).hexdigest()

    # Events.

    def _step(self) -> None:
        draw = self.world.random
        drawn = draw.random()
        if drawn < self._fault_rate:
            if self._faults:
                self._faults.pop(draw.randrange(len(self._faults)))()
        elif drawn < 0.27:
            self._recover() if draw.random() < self._recovery else self._time_passes()
        elif drawn < 0.37:
            self._network_acts()
        elif drawn < 0.57:
            self._database_acts()
        else:
            draw.choice(self.peers).act()
        self._prompt()

    def _prompt(self) -> None:
        """Let what is on its way come, mostly."""
        chance = self.world.chance
        for connection in self.connections:
            if connection.deliverable and chance(self._prompt_network):
                self._deliver(connection, len(connection.sent))
        for connection in self.connections:
            if connection.unheard and chance(self._prompt_network):
                connection.hear()

    def _deliver(self, connection: Connection, count: int) -> None:
        lines = [line.decode("ascii", "backslashreplace").strip() for line in connection.sent]
        text = " | ".join(lines[:count])
        self.world.note(f"{connection.gateway} reads of {connection.peer}: {text}")
        connection.deliver(count)

    def _network_acts(self) -> None:
        draw = self.world.random
        connections = [c for c in self.connections if not c.lost or c.unheard]
        self.connections[:] = connections
        if not connections:
            return
        connection = draw.choice(connections)
        if connection.deliverable:
            self._deliver(connection, draw.randint(1, len(connection.sent)))
        elif connection.unheard:
            connection.hear()
        elif (connection.left or connection.closed) and not connection.lost:
            self._lose(connection)

    def _lose(self, connection: Connection) -> None:
        self.world.note(f"{connection.gateway} loses its connection of {connection.peer}")
        connection.lose()

    def _some_database(self) -> Database:
        databases = self._databases
        return databases[0] if len(databases) == 1 else self.world.random.choice(databases)

    def _database_acts(self) -> None:
        draw, database = self.world.random, self._some_database()
        working = [g for g in self.gateways if g.process is not None and g.process.thread.waiting]
        if database.frozen and draw.random() < 0.15:
            database.thaw(draw.choice(database.frozen))
        elif working and draw.random() < 0.3:
            self._work(draw.choice(working))
        elif database.waiting:
            statement = draw.choice(database.waiting)
            drawn = draw.random()
            if drawn < 0.8:
                database.finish(statement)
            else:
                database.lose(statement, draw.choice(("executed", "dropped", "frozen")))
        elif database.frozen:
            if draw.random() < 0.4:
                database.thaw(draw.choice(database.frozen))
        elif working:
            self._work(draw.choice(working))

    def _work(self, gateway: Gateway) -> None:
        assert gateway.process is not None
        self.world.note(f"{gateway} flushes its spool")
        gateway.process.thread.work()

    def _time_passes(self) -> None:
        due = self.world.next_timer()
        if due is None or self.world.chance(0.2):
            due = self.world.random.choice((0.1, 1.0, 6.0))
        self.world.advance(due)

    # Faults, and what ends them.

    def _up(self) -> list[Gateway]:
        return [gateway for gateway in self.gateways if gateway.process is not None]

    def _kill(self) -> None:
        if up := self._up():
            self.world.random.choice(up).kill()

    def _stop(self) -> None:
        if up := [gateway for gateway in self.gateways if gateway.open]:
            self.world.random.choice(up).stop()

    def _cut(self) -> None:
        database = self._some_database()
        near = [gateway for gateway in self.gateways if database not in gateway.cut_off]
        if near:
            self.world.random.choice(near).cut(database)

    def _outage(self) -> None:
        database = self._some_database()
        self._lose_connections(database)
        database.away = True
        self.world.note(f"{database.name} is away")

    def _lose_connections(self, database: Database) -> None:
        for gateway in self._up():
            assert gateway.process is not None
            database.sever(gateway.process.stores[database.name])

    def _fail_over(self) -> None:
        database = self._some_database()
        self.world.note(f"{database.name} fails over")
        self._lose_connections(database)

    def _set_back(self) -> None:
        database, draw = self._some_database(), self.world.random
        if not database.snapshots or draw.random() < 0.4:
            self._faults.append(self._set_back)
            database.take_snapshot()
            self.world.note(f"a backup of {database.name} is taken")
            return
        self._lose_connections(database)
        which = draw.randrange(len(database.snapshots))
        database.set_back(which)
        gone = ", ".join(sorted(body.decode("ascii", "replace") for body in database.lost))
        self.world.note(f"{database.name} is set back, without {gone}")
        if draw.random() < 0.5:
            database.frozen.clear()

    def _close_route(self) -> None:
        route = self.world.random.choice(tuple(self.layout.inner))
        self.layout.inner[route].memory.closed.add(route)
        self.world.note(f"route {route} is out of service")

    def _pause(self) -> None:
        if up := [gateway for gateway in self.gateways if gateway.open]:
            draw = self.world.random
            draw.choice(up).pause(draw.choice((*self.layout.inner, None)))

    def _fill_disk(self) -> None:
        gateway = self.world.random.choice(self.gateways)
        gateway.disk.full = True
        self.world.note(f"the disk of {gateway} is full")

    def _break_disk(self) -> None:
        gateway = self.world.random.choice(self.gateways)
        gateway.disk.failing = True
        self.world.note(f"the disk of {gateway} fails at its next flush")

    def _recover(self) -> None:
        """End one of the faults."""
        draw, world = self.world.random, self.world
        ends: list[Event] = [g.start for g in self.gateways if g.process is None]
        ends += [partial(g.reach, database) for g in self.gateways for database in g.cut_off]
        ends += [partial(self._end_outage, each) for each in self._databases if each.away]
        ends += [partial(self._open_route, route) for route in self.layout.closed]
        ends += [gateway.resume for gateway in self.gateways if gateway.is_paused]
        full = [gateway for gateway in self.gateways if gateway.disk.full]
        if ends:
            draw.choice(ends)()
        elif full:
            full[0].disk.full = False
            world.note(f"the disk of {full[0]} has room again")

    def _end_outage(self, database: Database) -> None:
        database.away = False
        self.world.note(f"{database.name} is back")

    def _open_route(self, route: str) -> None:
        self.layout.inner[route].memory.closed.discard(route)
        self.world.note(f"route {route} is mended")

    # The end.

    def _mend(self) -> None:
        """
        End all faults: from now on all goes well.
        """
        world = self.world
        world.note("everything is mended")
        self._mended = True
        for database in self._databases:
            self._end_outage(database)
        for route in self.layout.closed:
            self._open_route(route)
        for gateway in self.gateways:
            gateway.disk.full = False
            for database in list(gateway.cut_off):
                gateway.reach(database)
            if gateway.is_paused:
                gateway.resume()
            if gateway.disk.failing:
                gateway.disk.failing = False
        for database in self._databases:
            database.chances = Chances(1.0, 0.0, 0.0, 0.0)
            for statement in list(database.frozen):
                if world.chance(0.7):
                    database.thaw(statement)
            database.frozen.clear()

    def _round(self) -> None:
        """
        Let everything go on for a while.
        """
        world = self.world
        for gateway in self.gateways:
            process = gateway.process
            if process is None:
                gateway.start()
            elif process.thread.waiting:
                self._work(gateway)
            elif process.spool._broken and process.stopping is None:
                gateway.stop()  # its operator has been told to start it again
        for database in self._databases:
            for statement in list(database.waiting):
                # What the one before was waited for may have ended the wait for this one.
                if statement in database.waiting:
                    database.finish(statement)
        for connection in list(self.connections):
            if connection.deliverable:
                self._deliver(connection, len(connection.sent))
            if connection.unheard:
                connection.hear()
            if (connection.left or connection.closed) and not connection.lost:
                self._lose(connection)
        for peer in self.peers:
            peer.settle()
        busy = self._waiting or any(c.deliverable or c.unheard for c in self.connections)
        if not busy:
            world.advance(min(world.next_timer() or 0.5, 0.5))

    @property
    def _waiting(self) -> list[Statement]:
        return [statement for each in self._databases for statement in each.waiting]

    def _at_end(self) -> bool:
        if not all(peer.done for peer in self.peers) or self._waiting:
            return False
        for gateway in self.gateways:
            process = gateway.process
            if process is None or process.stopping is not None or not process.quiet:
                return False
            if process.spool._broken:
                return False
            if process.spool.rows or (process.spool.aside and not self._waits_visibly(gateway)):
                return False
        return True

    def _waits_visibly(self, gateway: Gateway) -> bool:
        """
        Whether what a spool holds waits for what the database has lost, and says so.
        """
        process = gateway.process
        assert process is not None
        held = process.spooler._drain.held
        return self.layout.setbacks > 0 and all(
            stream in held and held[stream].tries > 3 for stream in process.spool.aside
        )

    def _state(self) -> str:
        found = [f"{peer.name} done={peer.done}" for peer in self.peers]
        for gateway in self.gateways:
            process = gateway.process
            if process is None:
                found.append(f"{gateway} down")
            else:
                found.append(
                    f"{gateway} in flight {process.writer.in_flight},"
                    f" spool {process.spool.rows} {process.spool.aside}"
                    f" held {process.spooler._drain.held}, stopping={process.stopping is not None}"
                )
        found += [f"waiting: {statement.text}" for statement in self._waiting]
        return "; ".join(found)

    def _check_end(self, bugs: list[str]) -> None:
        oracle = self.oracle
        exact = [peer.name for peer in self.plain]
        exact += [peer.name for peer in self.unitary]
        if not self.layout.setbacks:
            whole = [peer.name for peer in self.streams if peer.kind == "a"]
            exact += whole
            for name in whole:
                oracle.check_order(name)
            oracle.check_turns()
        oracle.check_end(exact)
        for peer in self.streams:
            if peer.kind == "a" and self._is_missing(peer) and not peer.heard_gap:
                peer.leave()
                for _ in range(ROUNDS):
                    if peer.heard_gap or peer.greeted:
                        break
                    if not peer.waits:
                        peer.ask()
                    self._round()
                    self._judge(bugs)
                if not peer.heard_gap and self._is_missing(peer):
                    raise Finding(f"{peer.name} is not told that something is gone")

    def _is_missing(self, peer: StreamPeer) -> bool:
        """Whether something that a peer was promised is gone."""
        return any(message.peer == peer.name for message in self.oracle.missing)
