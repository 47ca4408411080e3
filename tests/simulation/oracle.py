"""
The oracle: what peers were promised, and whether it is kept.

It knows what was answered to whom, and looks where the messages are: in a table, among the
dead letters, or on a gateway's disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.connection import Connection
from tests.simulation.database import Database
from tests.simulation.layout import Layout
from tests.simulation.messages import Fault, Message
from tests.simulation.process import Gateway
from tests.simulation.world import Finding


class Oracle:
    """
    Judges a schedule.

    @ivar messages: all that were sent, by their bodies.
    @ivar promised: those that are to be found somewhere, by their bodies.
    """

    def __init__(self, layout: Layout, gateways: Sequence[Gateway]) -> None:
        self.messages: dict[bytes, Message] = {}
        self.promised: dict[bytes, Message] = {}
        self._numbers: dict[bytes, int] = {}
        self._turns: dict[bytes, tuple[Connection, int]] = {}
        self._sendings = 0
        self._layout = layout
        self._gateways = gateways

    def made(self, message: Message) -> None:
        """A peer has made a message."""
        self.messages[message.body] = message

    def sent(self, message: Message, connection: Connection) -> None:
        """
        A peer that numbers nothing has sent a message, maybe again.

        @param connection: what it sends to a route by one is stored in that order.
        """
        self._sendings += 1
        self._turns[message.body] = connection, self._sendings

    def promise(self, message: Message, number: int = 0) -> None:
        """
        A peer was told that a message is kept, or will be.

        @param number: that it has in its stream.
        """
        self.promised[message.body] = message
        self._numbers[message.body] = number

    def covered(self, message: Message) -> None:
        """A peer was told that its stream is past a message."""
        if message.fault is None:
            self.promised[message.body] = message

    def duplicate(self, message: Message, number: int, gateway: str) -> None:
        """A peer was told that a number is held already."""
        if message.fault is not None:
            return
        self.promised[message.body] = message
        body = message.body
        if self._layout.setbacks or self._layout.holds(body):
            return
        for each in self._gateways:
            if each.name == gateway and body in each.disk.bodies:
                return
        raise Finding(f"P2: +DUP of #{number} ({message}) at {gateway}, where nobody holds it")

    def refused(self, message: Message, line: bytes) -> None:
        """A peer was told that a message is refused."""
        if message.fault is None:
            raise Finding(f"P2: {message} is refused for nothing: {line.decode()}")

    def check(self) -> None:
        """
        See that what was promised is there.

        @raise Finding: it is not.
        """
        databases = self._layout.databases.values()
        for database in databases:
            if database.findings:
                raise Finding(database.findings[0])
        spooled: set[bytes] | None = None
        for body, message in self.promised.items():
            if any(body in d.held or body in d.dead or body in d.lost for d in databases):
                continue
            if spooled is None:
                spooled = self._spooled()
            if message.fault is not None and self._is_refused(message):
                continue  # it went another way as well, and was refused there
            if body not in spooled:
                raise Finding(f"P1: {message} was promised and is nowhere")

    def _spooled(self) -> set[bytes]:
        return set().union(*[gateway.disk.bodies for gateway in self._gateways])

    def _is_refused(self, message: Message) -> bool:
        number = self._numbers.get(message.body, 0)
        return any(
            number in database.memory.streams[message.peer].refusals
            for database in self._layout.databases.values()
            if message.peer in database.memory.streams
        )

    def check_end(self, exact: Sequence[str]) -> None:
        """
        See that everything has come to its end.

        @param exact: peers whose messages must all be stored, in order, good ones never as
            dead letters.
        @raise Finding: it has not.
        """
        for database in self._layout.databases.values():
            self._check_end_of(database, exact)

    def _check_end_of(self, database: Database, exact: Sequence[str]) -> None:
        for body in sorted(database.dead):
            message = self.messages[body]
            if message.peer in exact and message.fault is None:
                raise Finding(f"needless: {message} became a dead letter")
            if message.peer in exact and database.dead[body] > 1:
                raise Finding(f"P1: {message} became a dead letter twice")
        for body in sorted(database.held):
            if body in database.dead:
                message = self.messages[body]
                if message.peer in exact:
                    raise Finding(f"P1: {message} is stored and a dead letter")
            if self.messages[body].fault in (Fault.NOT_TEXT, Fault.NO_ROUTE):
                raise Finding(f"P1: {self.messages[body]} is stored")

    def check_order(self, peer: str) -> None:
        """
        See that all good messages of a peer are stored in the order in which it made them.
        """
        stored: dict[int, list[int]] = {}
        for row in self._layout.table:
            message = self.messages[row.body]
            if message.peer == peer:
                stored.setdefault(row.commit, []).append(message.index)
        last = -1
        for indices in stored.values():
            if min(indices) < last:
                raise Finding(f"P4: {peer}.{min(indices)} is stored after {peer}.{last}")
            last = max(indices)
        found = {index for indices in stored.values() for index in indices}
        for message in self.messages.values():
            if message.peer == peer and message.fault is None and message.index not in found:
                raise Finding(f"{message} is not stored at the end")

    def check_turns(self) -> None:
        """
        See that messages without numbers are stored in the order in which a connection sent
        them, those of each route: what is for another one may pass a route in trouble. What
        has no answer counts for nothing, as its connection has failed.

        @raise Finding: they are not.
        """
        last: dict[tuple[Connection, str], tuple[int, bytes]] = {}
        for row in self._layout.table:
            if row.body in self._turns and row.body in self.promised:
                connection, turn = self._turns[row.body]
                before, body = last.get((connection, row.route), (0, b""))
                if turn < before:
                    raise Finding(f"order: {row.body!r} is stored after {body!r}, sent later")
                last[connection, row.route] = turn, row.body

    @property
    def missing(self) -> list[Message]:
        """
        What was promised, and lost by a database that was set back. The dead letter of a
        message may be lost alone, which nobody can be told of: its number is used up.
        """
        spooled = self._spooled()
        lost = set().union(*[each.lost for each in self._layout.databases.values()])
        return [
            message
            for body, message in self.promised.items()
            if message.fault is None
            and body in lost
            and not self._layout.holds(body)
            and body not in spooled
        ]
