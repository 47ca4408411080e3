"""
Console over several workers, which are made up: what they are asked, and what is said once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway.admin.console import Console, Controls, Done, Operations
from gateway.admin.grammar import CommandError, Request, parse
from gateway.admin.page import WIDTH, page
from gateway.admin.peers import COLUMNS_OF_WORKERS, PeerQuery, query_of, slices_of
from gateway.admin.table import Row
from gateway.admin.views import VIEWS
from gateway.admin.workers import (
    PATIENCE,
    StandingOrders,
    WorkerAnswers,
    WorkerOperations,
    WorkerPeers,
    ids_of,
)
from gateway.config.load import Config
from gateway.model.errors import StoreError
from gateway.status.history import History, Recent
from gateway.status.status import Status
from gateway.status.workers import WorkerLife
from tests.status.samples import with_workers
from tests.web import made

Result = TypeVar("Result")

ROUTES = ("orders", "readings")


class LocalStub:
    """
    Operations and peers of one worker, in memory.

    @ivar paused: routes that are paused.
    @ivar waiting: messages of a route, for RESUME.
    """

    def __init__(self, number: int, peers: int) -> None:
        ids = ids_of(number, 0)
        self.columns = COLUMNS_OF_WORKERS
        self.rows: list[Row] = [
            (next(ids), number, "lines", f"10.0.0.{n}", "", 0.0, 0.0, n * number, 0, 0, "", "read")
            for n in range(peers)
        ]
        self.done: list[str] = []
        self.paused: set[str] = set()
        self.waiting = 0

    async def operate(self, request: Request) -> Done:
        route = request.subject
        if request.verb in ("PAUSE", "RESUME") and route and route not in ROUTES:
            raise CommandError(f"no route {route}; there are orders, readings")
        if request.verb == "KILL":
            if int(route) not in [row[0] for row in self.rows]:
                raise CommandError(f"no peer {route}; see SHOW PEERS")
            return Done([f"peer {route} is disconnected after its answers"])
        self.done.append(request.text)
        if request.verb == "PAUSE":
            self.paused.add(route)
            return Done([f"route {route} is paused"])
        if request.verb == "RESUME":
            self.paused.discard(route)
            return Done([f"route {route} is resumed"], waited=self.waiting)
        return Done([f"{request.text} is done"])

    async def slices(self, query: PeerQuery) -> AsyncIterator[Sequence[Row]]:
        rows = sorted(self.rows, key=lambda row: row[query.column] or 0, reverse=query.descending)
        for some in slices_of([rows], query):
            yield some


class Watching:
    """
    Watch that has one status.
    """

    history = History()

    def __init__(self, status: Status) -> None:
        self._status = status

    def status(self) -> Status:
        return self._status

    async def fresh_status(self) -> Status:
        return self._status

    def by_worker(self) -> Mapping[int, Status]:
        return {}

    def is_alive(self) -> bool:
        return True

    def recent(self, totals: Mapping[str, float]) -> Recent:
        return Recent(1.0, {}, totals)


class Workers:
    """
    Workers that are asked as over a channel.

    @ivar mute: numbers of those that do not answer.
    @ivar dying: numbers of those that die when they are asked.
    """

    def __init__(self, count: int, peers: int = 3) -> None:
        self.stubs = {number: LocalStub(number, peers) for number in range(1, count + 1)}
        self.pids: dict[int, int | None] = {number: 100 + number for number in self.stubs}
        self.mute: set[int] = set()
        self.dying: set[int] = set()
        self.asked = Counter[int]()

    def lives(self) -> Sequence[WorkerLife]:
        return [
            WorkerLife(number, pid, made.NOW, 0, "", is_serving=pid is not None)
            for number, pid in self.pids.items()
        ]

    async def ask(self, number: int, name: str, payload: bytes) -> bytes:
        self.asked[number] += 1
        if number in self.mute:
            await Deferred()
        if number in self.dying:
            self.pids[number] = None
            raise StoreError("the process is gone")
        stub = self.stubs[number]
        watching: Any = Watching(made.status(listeners=[made.listener("lines")]))
        peers: Any = stub
        answers = WorkerAnswers(watching, stub, peers)
        return await answers.questions()[name](payload, ())


def result_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns that waits for nothing."""
    found: list[Result | Failure] = []
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    (one,) = found
    if isinstance(one, Failure):
        one.raiseException()
    assert not isinstance(one, Failure)
    return one


@pytest.fixture
def workers() -> Workers:
    return Workers(3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def operations(workers: Workers, clock: Clock) -> WorkerOperations:
    return WorkerOperations(workers, clock, lambda level: None)


def test_what_all_say_alike_is_said_once(workers: Workers, operations: WorkerOperations) -> None:
    """A command is carried out everywhere, and the answers differ only where they do."""
    assert result_of(operations.operate(parse("PAUSE orders"))) == Done(["route orders is paused"])
    assert all(stub.paused == {"orders"} for stub in workers.stubs.values())
    workers.stubs[1].waiting = workers.stubs[2].waiting = 7
    done = result_of(operations.operate(parse("RESUME orders")))
    assert done == Done(["route orders is resumed"], waited=14)
    assert operations.standing == StandingOrders()


def test_what_none_can_do(workers: Workers, operations: WorkerOperations) -> None:
    """A fault of all is one fault, and no standing order is left of it."""
    with pytest.raises(CommandError, match=r"^no route ordrs; there are orders, readings$"):
        result_of(operations.operate(parse("PAUSE ordrs")))
    assert operations.standing == StandingOrders()


def test_where_one_fails(workers: Workers, operations: WorkerOperations) -> None:
    """What was done is told, and the fault of one is one; it has the order when it is back."""
    workers.dying.add(2)
    done = result_of(operations.operate(parse("PAUSE orders")))
    assert done.lines == [
        "worker 2 does not serve now, and is told when it does",
        "workers 1, 3: route orders is paused",
    ]
    assert done.fault == "worker 2: the process is gone"
    workers.dying.clear()
    workers.pids[2] = 202
    result_of(operations.welcome(2, StandingOrders()))
    assert workers.stubs[2].paused == {"orders"}


def test_where_one_dies_meanwhile(workers: Workers, operations: WorkerOperations) -> None:
    """To resume is no fault then: its successor is told."""
    workers.dying.add(2)
    done = result_of(operations.operate(parse("RESUME orders")))
    assert done.lines == [
        "worker 2 does not serve now, and is told when it does",
        "route orders is resumed",
    ]
    assert (done.fault, done.waited) == ("", 0)


def test_one_that_is_started_meanwhile(
    workers: Workers, operations: WorkerOperations, clock: Clock
) -> None:
    """A worker that comes while the others are asked is asked as well, before all is told."""
    workers.pids[3] = None
    workers.mute.add(1)
    found: list[Any] = []
    coroutine = operations.operate(parse("PAUSE orders"))
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    assert workers.asked == {1: 1, 2: 1}
    workers.pids[3] = 303
    clock.advance(PATIENCE)
    (done,) = found
    assert done.fault == "worker 1: it does not answer"
    assert workers.stubs[3].paused == {"orders"} and workers.asked[3] == 1


def test_standing_orders(workers: Workers, operations: WorkerOperations) -> None:
    """Pauses and the level of the log hold for a worker that is started later, as they are then."""
    for command in ("PAUSE orders", "PAUSE readings", "SET LOG debug", "RESUME orders"):
        result_of(operations.operate(parse(command)))
    started_with = operations.standing
    workers.stubs[1] = LocalStub(1, 0)
    result_of(operations.welcome(1, StandingOrders()))
    assert workers.stubs[1].done == ["PAUSE readings", "SET LOG debug"]
    workers.stubs[1].done.clear()
    result_of(operations.welcome(1, started_with))
    assert not workers.stubs[1].done
    operations.standing = operations.standing.after(parse("RESUME readings"))
    operations.forget_level()
    result_of(operations.welcome(1, started_with))
    assert workers.stubs[1].done == ["RESUME readings"]
    total = StandingOrders().after(parse("PAUSE orders")).after(parse("PAUSE"))
    assert [request.text for request in total.requests()] == ["PAUSE orders", "PAUSE"]
    assert total.after(parse("RESUME")) == StandingOrders()


def test_a_peer_is_disconnected_where_it_is(workers: Workers, operations: WorkerOperations) -> None:
    """An ID tells its worker, which alone is asked; one of nobody is refused."""
    (number, *_) = workers.stubs[2].rows[1]
    assert result_of(operations.operate(parse(f"KILL {number}"))).lines == [
        f"peer {number} is disconnected after its answers"
    ]
    assert workers.asked == {2: 1}
    for unknown in ("5002", "9", "99999999999999999999999"):
        with pytest.raises(CommandError, match=r"^no peer "):
            result_of(operations.operate(parse(f"KILL {unknown}")))


def test_ids_are_unique() -> None:
    """No two workers, and no two processes of one worker, give the same ID."""

    def some(ids: Iterator[int]) -> list[int]:
        return [next(ids) for _ in range(100)]

    found = [some(ids_of(number, first)) for number in (1, 2, 64) for first in (0, 100, 250)]
    flat = [one for ids in found for one in ids]
    assert len(set(flat)) == len(flat)


def console(workers: Workers, clock: Clock, operations: Operations) -> Console:
    def nothing(*arguments: object) -> Any:
        raise AssertionError

    config: Callable[[], Config] = nothing
    whole, _ = with_workers(3)
    return Console(
        Watching(whole),
        config,
        Controls(nothing, lambda: None, lambda: None),
        operations,
        WorkerPeers(workers, clock),
    )


class Written:
    """
    Answer that is kept.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def write(self, lines: Sequence[str]) -> None:
        self.lines += lines


def test_peers_of_all(workers: Workers, operations: WorkerOperations, clock: Clock) -> None:
    """They are sorted over all workers, as many as are wanted, and each has its worker."""
    options = {"sort": "frames", "limit": "4"}
    query = query_of(options, ["lines"], COLUMNS_OF_WORKERS)
    shown: list[Row] = []

    async def show() -> None:
        async for rows in WorkerPeers(workers, clock).slices(query):
            shown.extend(rows)

    Deferred.fromCoroutine(show())
    clock.pump([0] * 5)
    assert [(row[1], row[7]) for row in shown] == [(3, 6), (2, 4), (3, 3), (1, 2)]


def test_peers_of_those_that_answer(
    workers: Workers, operations: WorkerOperations, clock: Clock
) -> None:
    """What others told is shown, and then that it is not all there is."""
    workers.mute.add(2)
    written, faults = Written(), list[str]()

    async def show() -> None:
        try:
            await console(workers, clock, operations).carry_out(
                parse("SHOW PEERS listener=listener0"), written, "me"
            )
        except CommandError as error:
            faults.append(str(error))

    Deferred.fromCoroutine(show())
    clock.advance(PATIENCE)
    clock.pump([0] * 5)
    assert faults == ["worker 2: it does not answer"]
    assert written.lines[0].split()[:3] == ["id", "worker", "listener"]


def test_a_change_that_fails_somewhere(
    workers: Workers, operations: WorkerOperations, clock: Clock
) -> None:
    """The console writes what was done, and ends with the fault."""
    workers.dying.add(3)
    written = Written()
    with pytest.raises(CommandError, match=r"^worker 3: the process is gone$"):
        result_of(
            console(workers, clock, operations).carry_out(parse("PAUSE orders"), written, "me")
        )
    assert written.lines[1:] == ["workers 1, 2: route orders is paused"]


def test_views_of_workers() -> None:
    """Each worker has its row, its pools, lanes and its spool; one process shows itself."""
    whole, _ = with_workers(3)

    def rows(subject: str, status: Status) -> list[Row]:
        table = VIEWS[subject](status, lambda name: 2.0 if name.startswith("worker") else 0.0)
        assert all(len(row) == len(table.columns) for row in table.rows)
        return [*table.rows]

    found = rows("WORKERS", whole)
    assert [row[:3] for row in found] == [(n, "ready", 4711 + n) for n in (1, 2, 3)]
    assert {row[7] for row in found} == {2.0}
    assert [row[0] for row in rows("POOL", whole)] == [1, 1, 2, 2, 3, 3]
    assert [row[0] for row in rows("SPOOL", whole)] == [1, 2, 3]
    assert len(rows("LANES", whole)) == 3
    (only,) = rows("WORKERS", made.status())
    assert only[:3] == (1, "ready", 4711)
    assert rows("SPOOL", made.status(spool=None)) == []
    left = made.spool(state="keeping", messages=7, path="/spool-9.db")
    status = made.status(left_spools=[left])
    assert [row[:2] for row in rows("SPOOL", status)] == [("empty", 0), ("keeping", 7)]
    assert any("7 messages in /spool-9.db" in line for line in page(status, lambda name: 0.0))


def test_the_page_has_a_row_for_each_worker() -> None:
    """One page for a terminal: a table of workers, no wider than the rest."""
    whole, _ = with_workers(4)
    lines = page(whole, lambda name: 12345.0)
    assert max(map(len, lines)) <= WIDTH
    (head,) = (place for place, line in enumerate(lines) if line.lstrip().startswith("worker "))
    assert [line.split()[0] for line in lines[head + 1 : head + 5]] == ["1", "2", "3", "4"]
    assert not any(line.lstrip().startswith("worker ") for line in page(made.status(), lambda _: 0))
