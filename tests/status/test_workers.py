"""
Watch over several workers, which are made up.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway.model.errors import StoreError
from gateway.status.history import INTERVAL
from gateway.status.status import Status, Warning, encoded
from gateway.status.workers import SILENT, STATUS, PeerLimits, WorkerLife, WorkersWatch
from tests.web import made

ENDED = "killed by signal 9"


class Made:
    """
    Workers that tell what they are given.

    @ivar told: number -> status; C{None}: it does not answer.
    """

    def __init__(self, **lives: WorkerLife) -> None:
        self.known = {life.number: life for life in lives.values()}
        self.told: dict[int, Status | None] = {}
        self.asked = 0

    def lives(self) -> Sequence[WorkerLife]:
        return [self.known[number] for number in sorted(self.known)]

    async def ask(self, number: int, name: str, payload: bytes) -> bytes:
        assert name == STATUS and self.known[number].pid is not None
        self.asked += 1
        status = self.told.get(number)
        if status is None:
            await Deferred()
            raise StoreError("unreachable")
        return encoded(status)

    def begin(self, number: int, pid: int, restarts: int = 0) -> None:
        last = ENDED if restarts else ""
        self.known[number] = WorkerLife(number, pid, made.NOW - 50, restarts, last)

    def end(self, number: int) -> None:
        life = self.known[number]
        self.known[number] = WorkerLife(number, None, None, life.restarts, ENDED)

    def tell(self, number: int, messages: int, **changed: object) -> None:
        """Have a worker tell that it received some messages."""
        process = replace(made.status().process, pid=self.known[number].pid or 0)
        listener = made.listener("lines", messages=messages, answers={"+OK": messages}, peers=3)
        self.told[number] = made.status(
            **{"process": process, "listeners": [listener], "peers": 3, **changed}
        )


class Two:
    """
    Two workers and the watch over them.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.workers = Made()
        for number in (1, 2):
            self.workers.begin(number, 100 + number)
            self.workers.tell(number, 10 * number)
        self.watch = WorkersWatch(
            self.workers,
            self.clock,
            lambda: made.NOW + self.clock.seconds(),
            ["the remark"],
            lambda: PeerLimits(100, {"lines": 50}),
            lambda: made.status().certificates,
        )

    def messages(self) -> int:
        return sum(listener.messages for listener in self.watch.status().listeners)

    def seconds(self, count: int) -> None:
        self.clock.pump([1.0] * count)


@pytest.fixture
def two() -> Two:
    return Two()


def test_the_whole(two: Two) -> None:
    """It has the sums of both, limits of the whole, a row for each worker, and remarks once."""
    two.watch.start()
    status = two.watch.status()
    assert (status.state, status.is_taking, status.peers, two.messages()) == ("ready", True, 6, 30)
    assert (status.most_peers, status.listeners[0].most_peers) == (100, 50)
    assert [(one.number, one.pid, one.messages) for one in status.workers] == [
        *((1, 101, 10), (2, 102, 20))
    ]
    assert status.certificates == made.status().certificates
    assert {lane.worker for lane in status.lanes} == {1, 2}
    assert [one.text for one in status.warnings if one.code == "configuration"] == ["the remark"]
    assert list(two.watch.by_worker()) == [1, 2]
    two.watch.stop()
    assert not two.clock.getDelayedCalls()


def test_before_any_has_told(two: Two) -> None:
    """It is starting and takes nothing, and says of whom."""
    two.workers.told.clear()
    two.watch.start()
    status = two.watch.status()
    assert (status.state, status.is_taking, status.listeners) == ("starting", False, [])
    assert status.reasons == ["worker 1: starting", "worker 2: starting"]
    assert [one.state for one in status.workers] == ["starting", "starting"]
    assert two.watch.by_worker() == {}


def test_no_total_goes_down(two: Two) -> None:
    """Over a worker's end, its absence and its successor the whole's totals only grow."""
    two.watch.start()
    seen = [two.messages()]

    def look() -> None:
        two.seconds(1)
        seen.append(two.messages())

    look()
    two.workers.end(2)
    look()
    status = two.watch.status()
    assert status.workers[1].state == "away" and status.peers == 3
    assert "worker 2: away: killed by signal 9" in status.reasons
    assert Warning(
        code="worker-away",
        subject="worker 2",
        text="there is no process now: killed by signal 9",
    ) in [*status.warnings]
    assert list(two.watch.by_worker()) == [1]
    two.workers.begin(2, 202, 1)
    two.workers.told[2] = None
    look()
    assert two.watch.status().workers[1].state == "starting"
    two.workers.begin(2, 203, 2)  # the one before never told anything
    two.workers.tell(2, 4)
    look()
    two.workers.tell(2, 5)
    look()
    assert seen == [30, 30, 30, 30, 34, 35]
    assert two.watch.by_worker()[2].listeners[0].messages == 25
    assert two.watch.status().workers[1].restarts == 2


def test_rates_over_a_restart(two: Two) -> None:
    """A worker that begins at 0 neither takes from the rate nor adds what it had before."""
    two.watch.start()
    two.seconds(int(INTERVAL))
    two.workers.end(2)
    two.seconds(int(INTERVAL))
    two.workers.begin(2, 202, 1)
    two.workers.tell(2, 6)
    two.seconds(int(INTERVAL))
    recent = two.watch.recent(
        {"listener.lines.messages": float(two.messages()), "worker.2.messages": 26.0}
    )
    assert recent.growth("listener.lines.messages") == 6
    assert recent.growth("worker.2.messages") == 6


def test_what_waits_in_the_spool_of_one_that_is_away(two: Two) -> None:
    """Its messages are counted and listed with the reason until a successor has them."""
    two.workers.tell(2, 20, spool=made.spool(state="draining", messages=7, path="/spool-2.db"))
    two.watch.start()
    two.workers.end(2)
    two.seconds(1)
    status = two.watch.status()
    assert status.spool is not None and status.spool.messages == 7
    spool = status.workers[1].spool
    assert spool is not None and (spool.path, spool.state) == ("/spool-2.db", "keeping")
    assert spool.reason == "away: killed by signal 9"


def test_one_worker_is_enough(two: Two) -> None:
    """While one takes messages the whole does, and says what ails the other."""
    two.workers.tell(2, 20, is_storing=False, is_taking=False, reasons=["the database is away"])
    two.watch.start()
    status = two.watch.status()
    assert status.is_taking and status.is_storing
    assert status.reasons == ["worker 2: the database is away"]
    two.workers.tell(1, 10, state="draining", reasons=["draining: the gateway stops"])
    two.seconds(1)
    two.watch.state = "draining"
    assert two.watch.status().reasons == [
        "draining: the gateway stops",
        "worker 2: the database is away",
    ]
    assert not two.watch.status().is_taking and two.watch.status().state == "draining"


def test_a_silent_worker(two: Two) -> None:
    """One that is there and answers nothing for long is no sign of life; one that is away is."""
    two.watch.start()
    assert two.watch.is_alive()
    asked = two.workers.asked
    two.workers.told[2] = None
    two.seconds(int(SILENT))
    assert two.watch.is_alive()
    assert two.workers.asked == asked + 10 + 1  # it is not asked again and again
    two.seconds(2)
    assert not two.watch.is_alive()
    two.workers.end(2)
    assert two.watch.is_alive()
    two.workers.known[2] = WorkerLife(2, 202, made.NOW, 1, ENDED, is_serving=False)
    two.seconds(30)
    assert two.watch.is_alive()  # it starts, on a busy machine
    two.workers.begin(2, 202, 1)
    two.seconds(1)
    assert two.watch.is_alive()


def test_a_fresh_status(two: Two) -> None:
    """Who can wait has what workers say now, and of one that does not answer what it said."""
    two.watch.start()
    two.workers.tell(1, 11)
    assert two.messages() == 30
    found: list[Status] = []
    Deferred.fromCoroutine(two.watch.fresh_status()).addCallback(found.append)
    assert found and found[0].listeners[0].messages == 31
    two.workers.tell(1, 12)
    two.workers.told[2] = None
    Deferred.fromCoroutine(two.watch.fresh_status()).addCallback(found.append)
    assert len(found) == 1
    two.seconds(3)
    assert found[1].listeners[0].messages == 32
