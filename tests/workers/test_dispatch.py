"""
The dispatch of connections to workers that take them, or do not.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from twisted.internet.testing import MemoryReactorClock

from gateway.config.listener import Listener
from gateway.workers.channel import Channel
from gateway.workers.dispatch import Dispatch, Room, Seats
from gateway.workers.messages import FrameReader, Passed, Taken, frame_of
from gateway.workers.processes import Worker


class Taker:
    """
    A worker, as its parent sees it.

    @ivar passed: connections that it was given.
    """

    def __init__(self, number: int, dispatch: Dispatch) -> None:
        self.passed: list[Passed] = []
        own, self._end = socket.socketpair()
        self._end.setblocking(False)
        self.worker = Worker(number, channel=Channel(MemoryReactorClock(), own, lambda: None))
        self._reader = FrameReader()
        dispatch.opened(self.worker)
        dispatch.serving(self.worker)

    def look(self) -> int:
        """Read what came; return how many connections it was given until now."""
        while True:
            try:
                data = self._end.recv(65536)
            except BlockingIOError:
                return len(self.passed)
            for message in self._reader.receive(data):
                assert isinstance(message, Passed)
                self.passed.append(message)

    def take(self, count: int) -> None:
        """Say that it has taken the first ones."""
        self.look()
        for passed in self.passed[:count]:
            self._end.sendall(frame_of(Taken(passed.number)))
        del self.passed[:count]
        assert self.worker.channel is not None
        self.worker.channel.doRead()

    def close(self) -> None:
        assert self.worker.channel is not None
        self.worker.channel.close()
        self._end.close()


class Bench:
    """
    A dispatch, and those who connect.

    @ivar filled: C{is_full} whenever it changed.
    """

    def __init__(self, room: Room) -> None:
        self.dispatch = Dispatch(room, lambda: 0.0)
        self.filled: list[bool] = []
        self.dispatch.on_filled(lambda: self.filled.append(self.dispatch.is_full))
        self._seats = Seats("lines", self.dispatch.limit, Listener(endpoint="tcp:0"))
        self._peers: list[socket.socket] = []
        self._takers: list[Taker] = []

    def taker(self) -> Taker:
        taker = Taker(len(self._takers) + 1, self.dispatch)
        self._takers.append(taker)
        return taker

    def connect(self, count: int) -> None:
        for _ in range(count):
            own, peer = socket.socketpair()
            self._peers.append(peer)
            self.dispatch.accept(self._seats, own, None)

    def end(self) -> None:
        self.dispatch.close()
        for taker in self._takers:
            taker.close()
        for peer in self._peers:
            peer.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(getattr(request, "param", Room(1000, 1000)))
    yield made
    made.end()


def test_no_more_are_accepted_than_workers_take(bench: Bench) -> None:
    """Each connection that waits holds descriptors, of which the parent needs some."""
    one, other = bench.taker(), bench.taker()
    bench.connect(63)
    assert bench.filled == []
    bench.connect(1)
    assert bench.filled == [True]
    assert (one.look(), other.look()) == (32, 32)
    one.take(15)
    assert bench.filled == [True]
    one.take(2)
    assert bench.filled == [True, False]


def test_one_that_takes_nothing_gets_no_more(bench: Bench) -> None:
    """What comes then goes to the other, though that has more."""
    still, other = bench.taker(), bench.taker()
    bench.connect(40)
    other.take(20)
    for _ in range(6):
        bench.connect(20)
        other.take(other.look())
    assert still.look() == 32
    assert bench.dispatch.counts() == {1: 32, 2: 128}
    assert bench.filled == []


def test_the_end_of_those_that_are_full(bench: Bench) -> None:
    """What they have not taken waits for the next one."""
    bench.connect(10)
    assert bench.filled == []
    taker = bench.taker()
    bench.connect(60)
    assert bench.filled == [True]
    bench.dispatch.gone(taker.worker)
    assert bench.filled == [True, False]
    assert bench.taker().look() == 70
    assert bench.filled == [True, False, True]


@pytest.mark.parametrize("bench", [Room(100, 3)], indirect=True)
def test_a_worker_keeps_files_for_itself(bench: Bench) -> None:
    """Who comes while the others are away, and would be too many for one, is refused."""
    taker = bench.taker()
    bench.connect(4)
    taker.look()
    assert [passed.refusal for passed in taker.passed] == ["", "", "", "connections"]
