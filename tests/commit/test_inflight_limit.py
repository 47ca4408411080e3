"""
The cap on what peers make the gateway hold.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.commit.inflight_limit import InflightLimit
from tests.in_memory import Bench, HalfClosing, give, take

LIMIT = 1000


class Reader:
    """
    A peer that is told to wait, and maybe to go.
    """

    def __init__(self, inflight_limit: InflightLimit) -> None:
        self.held = False
        self.gone = False
        self.kept = 0
        self._inflight_limit = inflight_limit
        inflight_limit.add_reader(self)

    def hold_reading(self, held: bool) -> None:
        self.held = held

    def disconnect(self) -> None:
        self.gone = True

    def keep(self, size: int) -> None:
        if not self.gone:
            self.kept = size
            self._inflight_limit.set_kept(self, size)


def test_who_has_most_is_disconnected() -> None:
    """What is kept for peers may be nearly all while nothing is in flight; over that, whoever has
    most of it is disconnected, and nobody else."""
    inflight_limit = InflightLimit(LIMIT)
    small, large, medium = (Reader(inflight_limit) for _ in range(3))
    small.keep(100)
    large.keep(600)
    medium.keep(290)
    assert not (small.gone or large.gone or medium.gone or inflight_limit.full)
    small.keep(120)
    assert large.gone and not (small.gone or medium.gone) and inflight_limit.kept == 410
    assert not inflight_limit.full


def test_half_is_left_for_messages() -> None:
    """Messages in flight make their readers wait, and what is kept beside them goes down to half
    of the cap, so that they go on when those messages are answered, whatever is kept."""
    inflight_limit = InflightLimit(LIMIT)
    keepers = [Reader(inflight_limit) for _ in range(4)]
    for place, keeper in enumerate(keepers):
        keeper.keep(220 + place)
    take(inflight_limit, 300)
    assert [keeper.gone for keeper in keepers] == [False, False, True, True]
    assert inflight_limit.kept == 441 and not inflight_limit.full
    take(inflight_limit, 300)
    assert inflight_limit.full and all(keeper.held for keeper in keepers)
    give(inflight_limit, 600)
    assert not inflight_limit.full and not any(keeper.held for keeper in keepers)


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=10, max_size=80))
def test_nobody_waits_for_ever(steps: list[tuple[int, int]]) -> None:
    """Whatever comes and is kept, the cap is passed by one message at most, it is known how much is
    kept, and when all messages are answered everybody is read, though nobody takes anything."""
    inflight_limit = InflightLimit(LIMIT)
    readers = [Reader(inflight_limit) for _ in range(4)]
    in_flight = []
    for who, eighths in steps:
        size = eighths * LIMIT // 8
        if who < 4:
            readers[who].keep(size)
        elif who < 6 and not inflight_limit.full:
            take(inflight_limit, size)
            in_flight.append(size)
        elif in_flight:
            give(inflight_limit, in_flight.pop(0))
        assert inflight_limit.kept == sum(r.kept for r in readers if not r.gone)
        assert inflight_limit.kept <= max(LIMIT - inflight_limit.used, LIMIT // 2)
        assert inflight_limit.used == sum(in_flight) <= 2 * LIMIT
    for size in in_flight:
        give(inflight_limit, size)
    assert inflight_limit.used == 0 and not inflight_limit.full
    assert not any(reader.held for reader in readers)


def test_frames_that_are_not_finished() -> None:
    """Whoever has the longest unfinished frame is told to go when all of them are too much, and
    what came of it is forgotten; what it sent before is answered first."""
    bench = Bench(cap=30_000, max_frame=20_000)
    other, transport = bench.connect()
    other.dataReceived(b"x" * 14_000)
    bench.peer.dataReceived(b"before\n" + b"y" * 18_000)
    assert bench.inflight_limit.kept == 14_000
    bench.commit_all()
    bye = b"-BYE RATE :the gateway holds too much for its peers, and most for this one\n"
    assert bench.said == b"+OK\n" + bye
    bench.peer.dataReceived(b"y\n")
    other.dataReceived(b"x\n")
    assert bench.inflight_limit.kept == 0
    bench.commit_all()
    assert [body for _, body in bench.store.rows] == [b"before", b"x" * 14_001]
    assert transport.value() == b"+OK\n"


def test_answers_that_are_not_taken() -> None:
    """Whoever leaves the most untaken is disconnected at once, answers and notifications alike:
    nothing     that it is told would reach it."""
    carrier = HalfClosing()  # type: ignore[no-untyped-call]
    bench = Bench(cap=30_000, routes=["messages"], push_buffer=1_000_000, transport=carrier)
    other, _ = bench.connect()
    for peer in (bench.peer, other):
        peer.dataReceived(b"LISTEN news\n")
    bench.peer.pauseProducing()
    for _ in range(4):
        bench.notifier.notify(("news", "x" * 7000))
        bench.clock.pump([1] * 3)
    assert bench.inflight_limit.kept > 20_000 and not bench.transport.aborted
    bench.notifier.notify(("news", "x" * 7000))
    bench.clock.pump([1] * 3)
    assert bench.transport.aborted and bench.inflight_limit.kept == 0
    assert other in bench.channels._subscribed and bench.peer not in bench.channels._subscribed


def test_what_is_refused_in_a_stream_counts() -> None:
    """Refusals that are remembered with their numbers are kept, and count."""
    bench = Bench(cap=200_000, window=1000, routes=["messages"])
    bench.peer.dataReceived(b"HELLO s\n")
    for number in range(1, 1000):
        bench.peer.dataReceived(b"PUT messages #%d \xff\n" % number)
        bench.commit_all()
        if b"-BYE RATE" in bench.said:
            break
    assert 100 < number < 999
