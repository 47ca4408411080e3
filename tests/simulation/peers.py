"""
Peers: what they send, what they make of the answers, and how they go on after an end.

Peers of kind C{a} say what they have seen, keep what has no answer and send it again under
the same numbers. Those of kind C{b1} say a plain HELLO and go on from its C{seq} with what
they have left; those of kind C{b2} with new messages. Plain peers send without numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from tests.simulation.connection import Connection
from tests.simulation.messages import Fault, Message, message
from tests.simulation.oracle import Oracle
from tests.simulation.process import DEAD_LETTERS, ROUTES, Gateway
from tests.simulation.world import Finding, World

_FAULTS = (Fault.POISON, Fault.POISON, Fault.NOT_TEXT, Fault.NO_ROUTE)

PATIENCE = 12
"""GAPs in a row that a peer hears, after everything is mended, before it takes them as final."""

RETRY = 1.0
"""Seconds that a peer waits before it goes on after an end or a C{-TRY}, in the end."""


AT_ONCE = (1, 2, 3, 3, 6)
"""Messages that a peer sends at once: of three or more the routes may come by turns."""


class Asked(NamedTuple):
    """
    What a peer waits to have answered.

    @ivar message: C{None} for HELLO.
    """

    number: int
    message: Message | None


class Habits(NamedTuple):
    """
    What a peer with a stream is like.

    @ivar kind: C{"a"}, C{"b1"} or C{"b2"}.
    @ivar messages: how many it makes.
    @ivar faults: probability that something is wrong with one.
    @ivar stubborn: probability that it sends again what is settled.
    @ivar restless: probability that it leaves instead of sending.
    """

    kind: str
    messages: int
    faults: float
    stubborn: float
    restless: float


class Peer(Protocol):
    """A peer."""

    name: str

    @property
    def done(self) -> bool:
        """Whether it has nothing left to send, and everything has its answer."""

    def act(self) -> None:
        """Do something."""

    def settle(self) -> None:
        """Do what brings it to its end."""


class _Making:
    """
    Makes the messages of one peer.

    @ivar left: how many are still to be made.
    """

    def __init__(self, name: str, world: World, oracle: Oracle, count: int, faults: float) -> None:
        self.left = count
        self._made = 0
        self._name = name
        self._world = world
        self._oracle = oracle
        self._faults = faults

    def make(self) -> Message:
        """Make the next message."""
        random = self._world.random
        fault = random.choice(_FAULTS) if random.random() < self._faults else None
        made = message(self._name, self._made, random.choice(ROUTES), fault)
        self._made += 1
        self.left -= 1
        self._oracle.made(made)
        return made

    def make_kept(self) -> Message:
        """Make a message that is stored, or kept as a dead letter."""
        random = self._world.random
        fault = random.choice(_FAULTS[:3]) if random.random() < self._faults else None
        route = random.choice(ROUTES if fault is None else sorted(DEAD_LETTERS))
        made = message(self._name, self._made, route, fault)
        self._made += 1
        self._oracle.made(made)
        return made


class _Connecting:
    """
    The connections of one peer.

    @ivar current: that it uses; C{None}: none.
    """

    def __init__(
        self,
        name: str,
        world: World,
        gateways: Sequence[Gateway],
        connections: list[Connection],
        heard: Callable[[list[bytes]], None],
        units: bool = False,
    ) -> None:
        """
        @param units: whether the peer sends units.
        """
        self.current: Connection | None = None
        self._units = units
        self._name = name
        self._world = world
        self._gateways = gateways
        self._connections = connections
        self._heard = heard

    def connect(self) -> bool:
        """
        @return: whether there is a gateway to connect to.
        """
        open_ = [gateway for gateway in self._gateways if gateway.open]
        if not open_:
            return False
        gateway = self._world.random.choice(open_)
        assert gateway.process is not None
        connection = Connection(gateway.name, self._name)
        connection.heard = self._hear(connection)
        gateway.process.connect(connection, self._units)
        self._connections.append(connection)
        self.current = connection
        self._world.note(f"{self._name} connects to {gateway.name}")
        return True

    def _hear(self, connection: Connection) -> Callable[[list[bytes]], None]:
        def heard(lines: list[bytes]) -> None:
            # Nobody reads what is said to a connection that was given up.
            if self.current is connection:
                text = " | ".join(line.decode("ascii", "backslashreplace") for line in lines)
                self._world.note(f"{self._name} hears {text}")
                self._heard(lines)

        return heard

    def give_up(self, quietly: bool) -> None:
        """
        Use the connection no more.

        @param quietly: whether it stays open all the same.
        """
        assert self.current is not None
        how = "turns away from" if quietly else "leaves"
        self._world.note(f"{self._name} {how} {self.current.gateway}")
        if not quietly:
            self.current.leave()
        self.current = None


class StreamPeer:
    """
    A peer with a numbered stream.

    @ivar kind: as in its L{Habits}.
    @ivar heard_gap: whether it knows that something may be gone.
    """

    def __init__(
        self,
        name: str,
        habits: Habits,
        world: World,
        oracle: Oracle,
        gateways: Sequence[Gateway],
        connections: list[Connection],
        set_back: Callable[[], bool],
    ) -> None:
        """
        @param set_back: whether the database was set back.
        """
        self.name = name
        self.kind = habits.kind
        self.heard_gap = False
        self._habits = habits
        self._world = world
        self._oracle = oracle
        self._set_back = set_back
        self._making = _Making(name, world, oracle, habits.messages, habits.faults)
        self._link = _Connecting(name, world, gateways, connections, self._hear)
        # Everything up to this number is settled, as far as the peer knows.
        self._base = 0
        # Without an answer, from the number behind on.
        self._kept: deque[Message] = deque()
        # How many of them are sent on this connection.
        self._sent = 0
        self._numbers: dict[int, Message] = {}
        self._epoch = ""
        self._greeted = False
        # Whether it said HELLO without what it has seen; and ever after a set-back, when it gave
        # its messages numbers anew that others may still have in a spool elsewhere.
        self._plain = self._renumbered = False
        self._again = False
        self._asked: deque[Asked] = deque()
        self._gaps = 0
        self._rests_until = 0.0

    @property
    def done(self) -> bool:
        return not self._kept and not self._making.left and not self._asked

    # What it does.

    def act(self) -> None:
        random = self._world.random
        connection = self._link.current
        if connection is None:
            self._connect(plain=self.kind != "a" or (self._lost and random.random() < 0.4))
        elif connection.ended:
            self._end()
        elif random.random() < self._habits.restless:
            self._end(quietly=random.random() < 0.4)
        elif self._greeted and not self._again:
            self._send_again()
            self._send(random.choice(AT_ONCE))

    def settle(self) -> None:
        connection = self._link.current
        if connection is not None and connection.ended:
            self._end()
        elif self.done or self._world.now < self._rests_until:
            return
        elif connection is None:
            self._connect(plain=self.kind != "a" or (self._lost and self._gaps > PATIENCE))
        elif self._greeted and not self._again:
            self._send(3)

    def leave(self) -> None:
        """Give up the connection that it has."""
        if self._link.current is not None:
            self._end()

    def ask(self) -> None:
        """Connect anew, and say what it has seen."""
        self._connect(plain=self.kind != "a")

    @property
    def waits(self) -> bool:
        """Whether HELLO has no answer yet."""
        return self._link.current is not None and not (self._greeted or self._link.current.ended)

    @property
    def greeted(self) -> bool:
        """Whether HELLO was answered, and the stream is open."""
        return self._greeted

    @property
    def _lost(self) -> bool:
        return self.heard_gap and self._set_back()

    def _connect(self, plain: bool) -> None:
        self.leave()
        if not self._link.connect():
            return
        assert self._link.current is not None
        line = f"HELLO {self.name}"
        self._plain = plain
        self._renumbered = self._renumbered or (plain and self._set_back())
        if not plain:
            line += f" seen={self._base}"
            if self._epoch:
                line += f" epoch={self._epoch}"
        self._link.current.send(line.encode())
        self._asked.append(Asked(0, None))

    def _end(self, quietly: bool = False) -> None:
        self._link.give_up(quietly)
        self._rests_until = self._world.now + RETRY
        self._asked.clear()
        self._greeted = self._again = False
        self._sent = 0

    def _send(self, count: int) -> None:
        for _ in range(count):
            if self._sent == len(self._kept):
                if not self._making.left:
                    return
                self._kept.append(self._making.make())
            message = self._kept[self._sent]
            self._sent += 1
            number = self._base + self._sent
            self._numbers[number] = message
            self._say(number, message)

    def _send_again(self) -> None:
        """Send what is settled, or some of it: it does not look at what HELLO has told."""
        random = self._world.random
        if self._base and random.random() < self._habits.stubborn:
            number = random.randint(max(1, self._base - 2), self._base)
            message = self._numbers.get(number)
            if message is not None:
                self._say(number, message)

    def _say(self, number: int, message: Message) -> None:
        assert self._link.current is not None
        line = b"PUT %s #%d %s" % (message.route.encode(), number, message.body)
        self._link.current.send(line)
        self._asked.append(Asked(number, message))

    # What it hears.

    def _hear(self, lines: list[bytes]) -> None:
        for line in lines:
            if self._link.current is None:
                return
            word, _, rest = line.partition(b" ")
            if word == b"-BYE":
                self.heard_gap = self.heard_gap or rest.startswith(b"GAP")
                self._end()
                return
            if not self._asked:
                raise Finding(f"{self.name} hears {line!r}, and had asked for nothing")
            number, message = self._asked.popleft()
            if message is None:
                self._greet(word, rest)
            else:
                self._answered(number, message, word, line)
        if self._again and not self._asked:
            self._again = False
            self._sent = 0

    def _greet(self, word: bytes, rest: bytes) -> None:
        if word == b"+OK":
            values = dict(pair.split(b"=") for pair in rest.split())
            self._open(int(values[b"seq"]), values[b"epoch"].decode())
            return
        if word != b"-TRY":
            raise Finding(f"{self.name} hears {word!r} {rest!r} to HELLO")
        if rest.startswith(b"GAP"):
            self.heard_gap = True
            self._gaps += 1
        self._end()

    def _open(self, last: int, epoch: str) -> None:
        self._greeted = True
        self._gaps = 0
        self._epoch = epoch
        new = last - self._base
        if new < 0:
            self.heard_gap = True
            if self.kind == "a" and not self._set_back():
                raise Finding(f"{self.name} was settled up to {self._base}, and hears {last}")
        elif new > len(self._kept) and self.kind == "a" and not self._set_back():
            sent = self._base + len(self._kept)
            raise Finding(f"{self.name} hears {last}, and has sent up to {sent}")
        for _ in range(min(new, len(self._kept))):
            message = self._kept.popleft()
            # What a number of a database that was set back stands for is not known to a peer
            # that took the GAP as final and asked anew.
            if not ((self._plain or self._renumbered) and self._set_back()):
                self._oracle.covered(message)
        self._base = last
        for number in [n for n in self._numbers if n > last]:
            del self._numbers[number]
        if self.kind == "b2":
            self._kept.clear()

    def _answered(self, number: int, message: Message, word: bytes, line: bytes) -> None:
        if word == b"-TRY":
            self._again = True
            self._rests_until = self._world.now + RETRY
            return
        # What stands under a number of a peer that says nothing is not known after a set-back.
        known = self.kind == "a" and not self._renumbered
        sure = known or number > self._base or not self._set_back()
        if word == b"-REJ" and sure:
            self._oracle.refused(message, line)
        elif word == b"+DUP" and sure:
            self._oracle.duplicate(message, number, self._gateway)
        elif not sure:
            pass
        elif word in (b"+OK", b"+QUE"):
            self._oracle.promise(message, number)
        else:
            raise Finding(f"{self.name} hears {line!r}")
        if number > self._base + 1:
            raise Finding(f"{self.name} hears of #{number} after #{self._base}")
        if number == self._base + 1:
            self._base = number
            self._kept.popleft()
            self._sent -= 1

    @property
    def _gateway(self) -> str:
        assert self._link.current is not None
        return self._link.current.gateway


class PlainPeer:
    """
    A peer that sends messages without numbers, each at most once, unless it is told to send it
    again.
    """

    def __init__(
        self,
        name: str,
        world: World,
        oracle: Oracle,
        gateways: Sequence[Gateway],
        connections: list[Connection],
        count: int,
        faults: float,
    ) -> None:
        self.name = name
        self._world = world
        self._oracle = oracle
        self._making = _Making(name, world, oracle, count, faults)
        self._link = _Connecting(name, world, gateways, connections, self._hear)
        self._kept: deque[Message] = deque()
        self._asked: deque[Message] = deque()
        self._rests_until = 0.0

    @property
    def done(self) -> bool:
        return not self._kept and not self._making.left and not self._asked

    def act(self) -> None:
        random = self._world.random
        connection = self._link.current
        if connection is None:
            self._link.connect()
        elif connection.ended or random.random() < 0.05:
            self._end()
        else:
            self._send(random.choice(AT_ONCE))

    def settle(self) -> None:
        connection = self._link.current
        if connection is not None and connection.ended:
            self._end()
        elif self.done or self._world.now < self._rests_until:
            return
        elif connection is None:
            self._link.connect()
        else:
            self._send(3)

    def _end(self) -> None:
        self._link.give_up(quietly=False)
        self._rests_until = self._world.now + RETRY
        self._asked.clear()

    def _send(self, count: int) -> None:
        connection = self._link.current
        assert connection is not None
        for _ in range(count):
            if self._kept:
                message = self._kept.popleft()
            elif self._making.left:
                message = self._making.make()
            else:
                return
            connection.send(b"PUT %s %s" % (message.route.encode(), message.body))
            self._oracle.sent(message, connection)
            self._asked.append(message)

    def _hear(self, lines: list[bytes]) -> None:
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == b"-BYE":
                if rest.startswith(b"DRAIN"):
                    # What has no answer is not stored.
                    self._kept.extendleft(reversed(self._asked))
                self._end()
                return
            if not self._asked:
                raise Finding(f"{self.name} hears {line!r}, and had asked for nothing")
            message = self._asked.popleft()
            if word == b"-TRY":
                self._kept.append(message)
                self._rests_until = self._world.now + RETRY
            elif word == b"-REJ":
                self._oracle.refused(message, line)
            elif word in (b"+OK", b"+QUE"):
                self._oracle.promise(message)
            else:
                raise Finding(f"{self.name} hears {line!r}")


class UnitPeer:
    """
    A peer that sends units of messages, and each again until it is acknowledged.

    @ivar units: the messages of each unit that is not acknowledged yet, the next one first.
    """

    def __init__(
        self,
        name: str,
        world: World,
        oracle: Oracle,
        gateways: Sequence[Gateway],
        connections: list[Connection],
        count: int,
        faults: float,
    ) -> None:
        """
        @param count: of units.
        """
        self.name = name
        self._world = world
        self._oracle = oracle
        self._making = _Making(name, world, oracle, 0, faults)
        self._link = _Connecting(name, world, gateways, connections, self._hear, units=True)
        self.units: deque[tuple[bytes, list[Message]]] = deque()
        for number in range(count):
            unit = [self._making.make_kept() for _ in range(world.random.randint(1, 4))]
            self.units.append((f"{name}-{number}".encode(), unit))
        self._all = [unit for _, unit in self.units]
        self._sent = 0
        self._rests_until = 0.0

    @property
    def done(self) -> bool:
        return not self.units

    def check_whole(self, held: Collection[bytes], dead: Collection[bytes]) -> None:
        """
        See that the database has all of a unit, stored or as dead letters, or nothing.

        @raise Finding: it has a part.
        """
        for unit in self._all:
            found = [each for each in unit if each.body in held or each.body in dead]
            if found and len(found) < len(unit):
                raise Finding(f"a part: of {unit[0]} to {unit[-1]} there is {found[0]} alone")

    def act(self) -> None:
        connection = self._link.current
        if connection is None:
            self._link.connect()
        elif connection.ended:
            self._end()
        elif self._world.chance(0.1):
            self._end(quietly=self._world.chance(0.5))
        else:
            self._send(self._world.random.randint(1, 2))

    def settle(self) -> None:
        connection = self._link.current
        if connection is not None and connection.ended:
            self._end()
        elif self.done or self._world.now < self._rests_until:
            return
        elif connection is None:
            self._link.connect()
        else:
            self._send(2)

    def _end(self, quietly: bool = False) -> None:
        self._link.give_up(quietly)
        self._rests_until = self._world.now + RETRY
        self._sent = 0

    def _send(self, count: int) -> None:
        connection = self._link.current
        assert connection is not None
        for key, unit in [*self.units][self._sent : self._sent + count]:
            messages = b",".join(b"%s:%s" % (m.route.encode(), m.body) for m in unit)
            connection.send(b"%s %s" % (key, messages))
            self._sent += 1

    def _hear(self, lines: list[bytes]) -> None:
        for line in lines:
            if not self._sent or line != self.units[0][0]:
                raise Finding(f"{self.name} hears {line!r}, out of turn")
            _, unit = self.units.popleft()
            self._sent -= 1
            for each in unit:
                self._oracle.promise(each)
