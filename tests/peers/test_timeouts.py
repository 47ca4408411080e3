"""
Limits in time: who is too slow is disconnected, and nobody else.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from gateway.peers.timeouts import Limit, PeerActivity, Stopwatches, Timeouts
from tests.in_memory import Bench, HalfClosing, OnSocket, give, take

TEN = Timeouts(frame=10, write=10, idle=10)
FRAME = Timeouts(frame=10)
WRITE = Timeouts(write=10)
IDLE = Timeouts(idle=10)

LATE = b"-BYE RATE :frame not finished within 10 s\n"
QUIET = b"-BYE RATE :nothing sent for 10 s\n"


@given(st.floats(0.5, 500), st.floats(0, 20), st.sampled_from(Limit))
def test_never_early_and_hardly_late(timeout: float, begin: float, limit: Limit) -> None:
    """Whenever a state begins, its limit is over after the timeout and within two looks."""
    timeouts = Timeouts(frame=timeout, write=timeout, idle=timeout, first=timeout)
    step = timeouts.interval
    watch = Stopwatches()
    for looks in range(1, 1000):
        so = looks * step >= begin
        activity = PeerActivity(
            heard=False,
            finished=False,
            unfinished=so and limit is Limit.FRAME,
            idle=so and limit is Limit.IDLE,
            silent=so and limit is Limit.FIRST,
            was_read=True,
            queue=7 if so and limit is Limit.WRITE else None,
        )
        found = watch.advance(timeouts, step, activity)
        if found is not None:
            break
    assert found is limit
    assert timeout - 1e-6 <= looks * step - begin <= timeout + 2 * step + 1e-6


@pytest.mark.parametrize(
    ("timeouts", "interval"),
    [(Timeouts(), 5), (Timeouts(write=2), 0.2), (Timeouts(frame=0.1), 0.05), (IDLE, 1)],
)
def test_looks_follow_the_shortest_limit(timeouts: Timeouts, interval: float) -> None:
    """A tenth of it, but neither a busy loop nor longer than five seconds."""
    assert timeouts.interval == interval


@pytest.mark.parametrize(
    ("framing", "sent", "answer"),
    [
        ("line", b"a\nx", b"+OK\n" + LATE),
        ("netstring", b"1:a,99:x", b"3:+OK,41:" + LATE[:-1] + b","),
        ("octet-counted", b"1 a99 x", b"3 +OK41 " + LATE[:-1]),
    ],
)
def test_a_frame_must_be_finished(framing: str, sent: bytes, answer: bytes) -> None:
    """One that drips its bytes is told at the deadline, after the answers of what came before."""
    bench = Bench(framing, timeouts=FRAME)
    bench.peer.dataReceived(sent)
    for _ in range(9):
        bench.peer.dataReceived(b"x")
        bench.wait(1)
        assert not bench.paused
    bench.wait(3)
    assert bench.paused and bench.said == b""
    bench.commit_all()
    assert bench.said == answer and bench.transport.disconnecting
    assert [body for _, body in bench.store.rows] == [b"a"]


def test_a_line_that_is_skipped_must_end() -> None:
    """A line over the limit is refused at once, and has to end all the same."""
    bench = Bench(timeouts=FRAME)
    for _ in range(14):
        bench.peer.dataReceived(b"x" * 101)
        bench.wait(1)
    assert bench.said == b"-REJ TOOBIG :longer than max_frame of this listener\n" + LATE
    assert bench.transport.disconnecting


def test_who_finishes_frames_goes_on() -> None:
    """A peer in the middle of a frame at every look is served as long as it finishes some."""
    bench = Bench(held=False, timeouts=FRAME)
    for _ in range(40):
        bench.peer.dataReceived(b"a\nb")
        bench.wait(1)
    assert bench.said == b"+OK\n" * 40


@pytest.mark.parametrize("reason", ["window", "pressure", "answers"])
def test_time_in_which_we_do_not_read_is_free(reason: str) -> None:
    """A frame that we keep from being finished is not late; once we read, its time runs."""
    bench = Bench(window=1 if reason == "window" else 100, timeouts=FRAME)
    if reason == "pressure":
        take(bench.inflight_limit, 2_000_000)
    bench.peer.dataReceived(b"a\nbegun")
    if reason == "answers":
        bench.peer.pauseProducing()
        bench.clock.advance(0)
    assert bench.paused
    for _ in range(9):
        bench.wait(1)
    if reason == "answers":
        # Its own limit is another one, and not over: it has taken some.
        bench.peer.resumeProducing()
        bench.peer.pauseProducing()
    bench.wait(9)
    assert bench.paused and bench.said == b""
    if reason == "pressure":
        give(bench.inflight_limit, 2_000_000)
    if reason == "answers":
        bench.peer.resumeProducing()
    bench.commit_all()
    bench.wait(9)
    assert bench.said == b"+OK\n" and not bench.paused
    bench.wait(4)
    assert bench.said == b"+OK\n" + LATE


def test_a_moment_unread_costs_the_peer_nothing() -> None:
    """A pause between two looks is not seen by either, and yet their time does not count."""
    bench = Bench(timeouts=FRAME)
    bench.peer.dataReceived(b"begun")
    for _ in range(30):
        bench.peer.hold_reading(True)
        bench.peer.hold_reading(False)
        bench.wait(1)
    assert not bench.said
    bench.wait(12)
    assert bench.said == LATE


def test_an_idle_peer_is_disconnected() -> None:
    """Nothing in flight and nothing sent: the end. Half a frame is something, for so long."""
    bench = Bench(held=False, timeouts=IDLE)
    for _ in range(4):
        bench.wait(9)
        bench.peer.dataReceived(b"a")
    bench.wait(9)
    bench.peer.dataReceived(b"\n")
    bench.wait(9)
    assert bench.said == b"+OK\n"
    bench.wait(3)
    assert bench.said == b"+OK\n" + QUIET and bench.transport.disconnecting


def test_work_in_flight_is_not_idle() -> None:
    """A peer that waits for the store is not idle; its time begins with its answer."""
    bench = Bench(timeouts=IDLE)
    bench.peer.dataReceived(b"a\n")
    bench.wait(100)
    bench.commit_all()
    bench.wait(9)
    assert bench.said == b"+OK\n"
    bench.wait(3)
    assert bench.said == b"+OK\n" + QUIET


def test_a_peer_may_be_idle_for_ever() -> None:
    """Where no idle_timeout is set; and looking at it makes it no larger."""
    bench = Bench(timeouts=Timeouts(idle=inf))
    before = dict(vars(bench.peer))
    bench.wait(1000)
    assert not bench.said and vars(bench.peer) == before


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a Unix socket, the first one not blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def flooded(pair: tuple[socket.socket, socket.socket]) -> Bench:
    """A peer that asked for more than the kernel holds and has read none of it."""
    transport = OnSocket(pair[0])
    bench = Bench(routes=[], window=100_000, timeouts=WRITE, transport=transport)
    for _ in range(100):
        if not bench.paused:
            bench.peer.dataReceived((b"PING " + b"x" * 90 + b"\n") * 500)
    assert bench.paused
    return bench


def test_who_takes_no_answers_is_dropped(pair: tuple[socket.socket, socket.socket]) -> None:
    """At the deadline, without a word, since no word would be read."""
    bench = flooded(pair)
    bench.wait(9)
    assert not bench.transport.aborted
    bench.wait(3)
    assert bench.transport.aborted


def test_who_takes_some_answers_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    """A slow reader has all the time it needs, as long as it reads at all."""
    bench = flooded(pair)
    for _ in range(4):
        bench.wait(9)
        assert len(pair[1].recv(48_000)) == 48_000
    assert not bench.transport.aborted
    bench.wait(12)
    assert bench.transport.aborted


def test_last_answers_must_be_taken_too(pair: tuple[socket.socket, socket.socket]) -> None:
    """A peer that has ended and does not read what it asked for does not stay for ever."""
    bench = flooded(pair)
    bench.peer.readConnectionLost()
    assert bench.transport.disconnecting
    bench.wait(9)
    assert not bench.transport.aborted
    bench.wait(3)
    assert bench.transport.aborted


def test_who_talks_after_the_last_word_is_cut_off() -> None:
    """The two seconds after -BYE are all there is, however much still comes."""
    transport = HalfClosing()  # type: ignore[no-untyped-call]
    bench = Bench(timeouts=FRAME, transport=transport)
    bench.peer.dataReceived(b"x")
    bench.wait(12)
    assert bench.said == LATE and transport.half_closed
    for _ in range(20):
        bench.peer.dataReceived(b"x\n" * 100)
        bench.wait(0.1)
    assert transport.aborted and bench.said == LATE and not bench.store.rows


def test_one_timer_while_there_are_peers() -> None:
    """However many peers, one timer; without any, none."""
    bench = Bench(timeouts=TEN)
    peers = [bench.peer, *(bench.connect()[0] for _ in range(100))]
    for peer in peers[1:]:
        peer.dataReceived(b"begun")
        peer.connectionLost(Failure(ConnectionDone()))
        bench.wait(0.1)
        assert len(bench.clock.getDelayedCalls()) == 1
    bench.peer.connectionLost(Failure(ConnectionDone()))
    assert not bench.clock.getDelayedCalls()
    bench.connect()
    assert len(bench.clock.getDelayedCalls()) == 1


def test_a_gateway_held_up_blames_nobody() -> None:
    """After a stop of the process an hour has passed in which no peer was read."""
    bench = Bench(timeouts=TEN)
    bench.peer.dataReceived(b"begun")
    bench.wait(5)
    bench.clock.advance(3600)
    bench.wait(2)
    bench.peer.dataReceived(b"\n")
    bench.commit_all()
    assert bench.said == b"+OK\n"


def test_many_late_peers_are_one_line_in_the_log() -> None:
    """The operator hears how many and why, not of each."""
    bench = Bench(timeouts=FRAME)
    for _ in range(50):
        bench.connect()[0].dataReceived(b"begun")
    with capturedLogs() as events:
        bench.wait(13)
    assert [formatEvent(event) for event in events] == [
        "listener lines: 50 peers disconnected: frame not finished within 10 s"
        " (last 127.0.0.1:4000)"
    ]


def test_one_after_the_other_they_are_few_lines_too() -> None:
    """Who comes, is told to go, and comes again does not fill the log."""
    bench = Bench(timeouts=FRAME)
    bench.peer.connectionLost()
    with capturedLogs() as events:
        for number in range(50):
            bench.factory.log_refusal(f"peer {number}", "auth", "no such token")
            bench.connect()[0].connectionLost()
            bench.wait(0.05)
        bench.wait(2)
    said = [formatEvent(event) for event in events]
    assert said[0] == "listener lines: 1 peer disconnected: no such token (peer 0)"
    counts = [int(line.split()[2]) for line in said]
    assert sum(counts) == 50 and len(counts) <= 4
