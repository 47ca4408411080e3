"""
Peers: what they send, what they make of the answers, and how they go on after an end.

Peers of kind C{a} say what they have seen, keep what has no answer and send it again under
the same numbers. Those of kind C{b1} say a plain HELLO and go on from its C{seq} with what
they have left; those of kind C{b2} with new messages. Plain peers send without numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tests.simulation.connection import Connection
from tests.simulation.layout import Layout
from tests.simulation.messages import Message
from tests.simulation.oracle import Oracle
from tests.simulation.process import Gateway
from tests.simulation.sending import Connecting, Making
from tests.simulation.world import Finding, World

PATIENCE = 12
"""GAPs in a row that a peer hears, after everything is mended, before it takes them as final."""

RETRY = 1.0
"""Seconds that a peer waits before it goes on after an end or a C{-TRY}, in the end."""


AT_ONCE = (1, 2, 3, 3, 6)
"""Messages that a peer sends at once: of three or more the routes may come by turns."""


class Asked(NamedTuple):
    """
    What a peer waits to have answered.

    @ivar number: 0 for HELLO, and for a message without one.
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
        layout: Layout,
    ) -> None:
        self.name = name
        self.kind = habits.kind
        self.heard_gap = False
        self._habits = habits
        self._world = world
        self._oracle = oracle
        self._layout = layout
        self._making = Making(name, world, oracle, layout.routes, habits.messages, habits.faults)
        self._link = Connecting(name, world, gateways, connections, self._hear)
        # Without numbers, before HELLO.
        self._loose = Making(f"{name}-loose", world, oracle, layout.routes, 5, habits.faults)
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
        # Times that it said HELLO without what it has seen; how often a database had been set back
        # when it said HELLO last; and when it said that which was answered last, as far as that
        # still says something.
        self._plains = self._begun_at = 0
        self._trusted: int | None = None
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

    def _set_back(self) -> bool:
        """Say whether a database was set back."""
        return self._layout.setbacks > 0

    @property
    def _lost(self) -> bool:
        return self.heard_gap and self._set_back()

    def _connect(self, plain: bool) -> None:
        self.leave()
        if not self._link.connect():
            return
        assert self._link.current is not None
        self._send_loose()
        line = f"HELLO {self.name}"
        self._plain = plain
        self._renumbered = self._renumbered or (plain and self._set_back())
        if not plain:
            line += f" seen={self._base}"
            if self._epoch:
                line += f" epoch={self._epoch}"
        self._link.current.send(line.encode())
        self._asked.append(Asked(0, None))
        self._plains += plain
        self._begun_at = self._layout.setbacks
        if plain:
            self._trusted = None
        elif self._layout.places is not None and self._world.chance(0.3):
            self._send(2)  # it does not wait to hear how far its stream is

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

    def _send_loose(self) -> None:
        """Send messages before HELLO, without numbers, where there are several databases."""
        while self._layout.places is not None and self._loose.left and self._world.chance(0.3):
            assert self._link.current is not None
            message = self._loose.make()
            line = b"PUT %s %s" % (message.route.encode(), message.body)
            self._link.current.send(line)
            self._asked.append(Asked(0, message))

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
            if self._layout.places is not None and self._trusted == self._layout.setbacks:
                raise Finding(f"needless: {self.name} hears {rest!r}, and nothing is lost since")
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
        if self.kind == "a" and self._plains <= 1:
            # An earlier one that nobody waits for may still begin an epoch.
            self._trusted = self._begun_at
        if self._sent and new:
            self._end()  # part of what it sent was stored before

    def _answered(self, number: int, message: Message, word: bytes, line: bytes) -> None:
        if not number:
            if word == b"-REJ":
                self._oracle.refused(message, line)
            elif word != b"-TRY":
                self._oracle.promise(message)
            return
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
        layout: Layout,
        count: int,
        faults: float,
    ) -> None:
        self.name = name
        self._world = world
        self._oracle = oracle
        self._making = Making(name, world, oracle, layout.routes, count, faults)
        self._link = Connecting(name, world, gateways, connections, self._hear)
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
        layout: Layout,
        count: int,
        faults: float,
    ) -> None:
        """
        @param count: of units.
        """
        self.name = name
        self._world = world
        self._oracle = oracle
        self._making = Making(name, world, oracle, layout.unit_routes, 0, faults)
        self._link = Connecting(name, world, gateways, connections, self._hear, units=True)
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

    def check_whole(self, holds: Callable[[bytes], bool]) -> None:
        """
        See that the database has all of a unit, stored or as dead letters, or nothing.

        @param holds: says whether it has a message.
        @raise Finding: it has a part.
        """
        for unit in self._all:
            found = [each for each in unit if holds(each.body)]
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
