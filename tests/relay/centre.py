"""
A centre in memory: a whole gateway of commands behind the links of an edge's store.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway.client.answers import Answer
from gateway.model.errors import RouteError, Unavailable
from gateway.model.route import Route
from gateway.relay.ledger import Ledger
from gateway.relay.link import Link
from gateway.relay.store import RelayStore
from tests.in_memory import Bench, made_up

Result = TypeVar("Result")


class OnTheSpot:
    """
    A thread that has done everything at once.
    """

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""

    def run(self, work: Callable[[], Result]) -> Deferred[Result]:
        return succeed(work())


class _Line:
    """
    One connection between edge and centre.
    """

    usable = True

    def __init__(self, centre: MemoryCentre, link: Link) -> None:
        self.link = link
        self._centre = centre
        self.peer, self.transport = centre.bench.connect()

    def write(self, data: bytes) -> None:
        centre = self._centre
        if centre.loses_requests:
            self.abort()
            return
        self.peer.dataReceived(data)
        if centre.loses_answers and b"PUT " in data:
            centre.loses_answers -= 1
            self.transport.clear()
            self.abort()
            return
        if not centre.is_late:
            self.bring_answers()

    def bring_answers(self) -> None:
        """Bring what the centre has answered to the edge."""
        answers = self.transport.value()
        self.transport.clear()
        if answers:
            self.link.data_received(answers)

    def abort(self) -> None:
        if self.usable:
            self.usable = False
            self.peer.connectionLost()
            self.link.connection_lost(cast(Any, self), Failure(ConnectionError("cut")))


class MemoryCentre:
    """
    The centre, and the port to it.

    @ivar loses_answers: how many of the next writes of messages arrive, and have no answer.
    @ivar loses_requests: whether connections are cut before anything arrives.
    @ivar is_late: whether answers wait for L{MemoryCentre.catch_up}.
    @ivar is_away: whether no connection can be made.
    """

    endpoints: Sequence[str] = ("memory",)

    def __init__(self, routes: Sequence[str] = ("messages", "others")) -> None:
        self.bench = Bench(routes=list(routes), held=False, window=10_000)
        self.generation = 1
        self.busy = 0
        self.loses_answers = 0
        self.loses_requests = False
        self.is_late = False
        self.is_away = False
        self._lines: list[_Line] = []
        self._routes = routes

    @property
    def bodies(self) -> list[bytes]:
        """All messages that are stored, in their order."""
        return [body for _, body in self.bench.store.rows]

    def catch_up(self) -> None:
        """Bring all answers that wait, and have no others wait."""
        self.is_late = False
        for line in self._lines:
            line.bring_answers()

    async def connected(self) -> None:
        if self.is_away:
            raise Unavailable("away")

    async def link(self) -> Link:
        await self.connected()
        link = Link(cast(Any, None), "line", Clock(), self.generation)
        line = _Line(self, link)
        self._lines.append(line)
        link._connection = cast(Any, line)
        link.is_open = True
        return link

    async def check_route(self, route: str) -> None:
        await self.connected()
        if route not in self._routes:
            raise RouteError(f"no route {route}")

    async def ask(self, payload: bytes) -> Answer:
        return await (await self.link()).ask(payload)


def edge_of(
    centre: MemoryCentre, folder: Path, spools: bool = True, spooled: int = 0
) -> RelayStore:
    """An edge's store, on what an earlier one has left in the folder."""
    store = RelayStore(
        cast(Any, centre),
        Ledger(folder / "relay.db"),
        OnTheSpot(),
        Clock(),
        "edge-7",
        cast("dict[str, Route]", {}),
        spools=spools,
        new_id=made_up(),
    )
    store.start(spooled)
    return store


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Have no file grow beyond a size in bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
