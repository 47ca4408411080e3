"""
Sending: the messages that a peer makes, and the connections that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.connection import Connection
from tests.simulation.layout import DEAD_LETTERS
from tests.simulation.messages import Fault, Message, message
from tests.simulation.oracle import Oracle
from tests.simulation.process import Gateway
from tests.simulation.world import World

_FAULTS = (Fault.POISON, Fault.POISON, Fault.NOT_TEXT, Fault.NO_ROUTE)


class Making:
    """
    Makes the messages of one peer.

    @ivar left: how many are still to be made.
    """

    def __init__(
        self,
        name: str,
        world: World,
        oracle: Oracle,
        routes: Sequence[str],
        count: int,
        faults: float,
    ) -> None:
        """
        @param routes: that its messages are for.
        """
        self.left = count
        self._routes = routes
        self._made = 0
        self._name = name
        self._world = world
        self._oracle = oracle
        self._faults = faults

    def make(self) -> Message:
        """Make the next message."""
        random = self._world.random
        fault = random.choice(_FAULTS) if random.random() < self._faults else None
        made = message(self._name, self._made, random.choice(self._routes), fault)
        self._made += 1
        self.left -= 1
        self._oracle.made(made)
        return made

    def make_kept(self) -> Message:
        """Make a message that is stored, or kept as a dead letter."""
        random = self._world.random
        fault = random.choice(_FAULTS[:3]) if random.random() < self._faults else None
        route = random.choice(self._routes if fault is None else sorted(DEAD_LETTERS))
        made = message(self._name, self._made, route, fault)
        self._made += 1
        self._oracle.made(made)
        return made


class Connecting:
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
