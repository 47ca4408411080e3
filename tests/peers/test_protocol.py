"""
The protocol: answers after the commit and in order, reading paused where it must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure

from gateway.model import wording
from gateway.model.outcome import Words
from gateway.peers.factory import peer_name
from tests.in_memory import Bench, HalfClosing


def test_answer_follows_commit() -> None:
    """Nothing is said to the peer until its message is committed."""
    bench = Bench()
    bench.peer.dataReceived(b"hello\n")
    assert bench.said == b""
    bench.store.commit()
    assert bench.said == b"+OK\n"
    assert [body for _, body in bench.store.rows] == [b"hello"]


def test_answers_keep_the_order_of_frames() -> None:
    """An answer known at once waits for those before it."""
    bench = Bench(routes=["messages"])
    bench.peer.dataReceived(b"PUT messages a\nPING x\n@1 PUT messages b\nNOPE\n")
    assert bench.said == b""
    bench.commit_all()
    assert bench.said == b"+OK\n+OK x\n@1 +OK\n-REJ FORMAT :unknown verb NOPE; try HELP\n"


@given(
    st.lists(st.sampled_from([b"a", b"bad", b"\xff", b"x" * 101, b""]), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(1, 10),
)
def test_one_answer_a_frame(frames: list[bytes], step: int, window: int) -> None:
    """However the stream is cut and whatever is bad, each frame gets its own answer."""
    bench = Bench(window=window)
    bench.store.poison = {b"bad"}
    stream = b"".join(frame + b"\n" for frame in frames)
    for start in range(0, len(stream), step):
        bench.peer.dataReceived(stream[start : start + step])
    bench.commit_all()
    expected = {
        b"a": b"+OK",
        b"": b"+OK",
        b"bad": b"-REJ CONSTRAINT sqlstate=23514 :violates a check constraint",
        b"\xff": b"-REJ DATA :not UTF-8: invalid start byte at byte 0",
        b"x" * 101: b"-REJ TOOBIG :longer than max_frame of this listener",
    }
    assert bench.said.splitlines() == [expected[frame] for frame in frames]
    good = [frame for frame in frames if frame in (b"a", b"")]
    assert [body for _, body in bench.store.rows] == good
    assert bench.inflight_limit.used == 0


def test_window_is_strict() -> None:
    """Never more than window frames are in flight, however many one read brings."""
    bench = Bench("netstring", window=10)
    bench.peer.dataReceived(b"1:x," * 5000)
    assert bench.paused
    stored = 0
    while bench.store.waiting_writes:
        assert bench.store.writes[-1] <= 10
        stored += bench.store.writes[-1]
        bench.store.commit()
    assert stored == 5000
    assert bench.said == b"3:+OK," * 5000
    assert not bench.paused


def test_many_instant_answers_with_a_small_window() -> None:
    """A flood of commands that need no store neither recurses nor stalls."""
    bench = Bench(window=1, routes=[])
    bench.peer.dataReceived(b"PING\n" * 10_000)
    assert bench.said == b"+OK\n" * 10_000
    assert not bench.paused


def test_framing_error_is_the_last_word() -> None:
    """What came before a fault is stored and answered, then -BYE; nothing after it is stored."""
    bench = Bench("netstring")
    bench.peer.dataReceived(b"1:a,1:b,x1:c,")
    bench.peer.dataReceived(b"1:d,")
    assert bench.said == b""
    bench.commit_all()
    assert (
        bench.said.startswith(b"3:+OK,3:+OK,")
        and b"-BYE FORMAT :netstring: bad length" in bench.said
    )
    assert [body for _, body in bench.store.rows] == [b"a", b"b"]
    assert bench.transport.disconnecting


def test_half_close_still_answers() -> None:
    """A peer that has said all it had to say gets all its answers, then the end."""
    bench = Bench()
    bench.peer.dataReceived(b"a\nb\npartial")
    bench.peer.readConnectionLost()
    assert not bench.transport.disconnecting
    bench.commit_all()
    assert bench.said == b"+OK\n+OK\n"
    assert bench.transport.disconnecting
    assert [body for _, body in bench.store.rows] == [b"a", b"b"]


def test_half_close_beyond_the_window() -> None:
    """Frames held back at the end of the stream are stored and answered too."""
    bench = Bench(window=2)
    bench.peer.dataReceived(b"x\n" * 7)
    bench.peer.readConnectionLost()
    bench.commit_all()
    assert bench.said == b"+OK\n" * 7
    assert bench.transport.disconnecting


def test_quit_ends_after_its_answer() -> None:
    """QUIT waits for what was asked before it."""
    bench = Bench(routes=["messages"])
    bench.peer.dataReceived(b"PUT messages a\r\nQUIT\r\nPUT messages never\r\n")
    assert not bench.transport.disconnecting
    bench.commit_all()
    assert bench.said == b"+OK\r\n+OK\r\n"
    assert bench.transport.disconnecting


def test_a_slow_reader_is_paused() -> None:
    """A peer that does not take its answers is not read from."""
    bench = Bench(held=False)
    bench.peer.pauseProducing()
    assert bench.paused
    bench.peer.resumeProducing()
    assert not bench.paused


def test_the_process_cap_pauses_everybody() -> None:
    """Over the cap all readers pause, those who connect then too; under it they go on."""
    bench = Bench(cap=100)
    other, other_transport = bench.connect()
    bench.peer.dataReceived(b"x" * 60 + b"\n" + b"y" * 60 + b"\n")
    assert bench.paused and other_transport.producerState == "paused"
    late, late_transport = bench.connect()
    assert late_transport.producerState == "paused"
    bench.commit_all()
    assert bench.inflight_limit.used == 0
    states = {t.producerState for t in (bench.transport, other_transport, late_transport)}
    assert states == {"producing"}
    assert len({other, late, bench.peer}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (Words.configured("Data saved successfully!", None), b"Data saved successfully!\n"),
        (Words.configured("none", None), b""),
    ],
)
def test_own_words(words: Words, said: bytes) -> None:
    """A device that expects other words gets them, or none."""
    bench = Bench(held=False, words=words)
    bench.peer.dataReceived(b"a\n")
    assert bench.said == said


def test_drain_answers_then_says_goodbye() -> None:
    """At a stop what is in flight is answered, what is not submitted gets no answer."""
    bench = Bench(window=1)
    bench.peer.dataReceived(b"a\nheld back\n")
    bench.peer.close_with(wording.STOPPING)
    bench.peer.dataReceived(b"too late\n")
    bench.commit_all()
    assert bench.said == (b"+OK\n-BYE DRAIN :the gateway stops; what has no answer is not stored\n")
    assert [body for _, body in bench.store.rows] == [b"a"]


def test_the_last_word_reaches_the_peer() -> None:
    """
    After -BYE our half is closed and what still comes is thrown away, until the peer ends
    too or its time is up: closing at once would make TCP drop the answers on their way.
    """
    bench = Bench("netstring", held=False)
    for ends in (True, False):
        transport: Any = HalfClosing()  # type: ignore[no-untyped-call]
        bench.peer, bench.transport = bench.connect(transport)
        bench.peer.dataReceived(b"x")
        assert bench.said.endswith(b"bad length b'x',")
        assert transport.half_closed and not transport.disconnecting
        assert transport.producerState == "producing"
        bench.peer.dataReceived(b"1:a,")
        if ends:
            bench.peer.readConnectionLost()
            assert transport.disconnecting and not transport.aborted
            bench.peer.connectionLost(Failure(ConnectionDone()))
        bench.clock.advance(10)
        assert transport.aborted is not ends
    assert bench.store.rows == []


def test_a_peer_that_left_leaves_nothing() -> None:
    """Messages of a peer that is gone are stored, and everything it held is given back."""
    bench = Bench()
    bench.peer.dataReceived(b"a\n")
    bench.peer.connectionLost(Failure(ConnectionDone()))
    bench.commit_all()
    assert [body for _, body in bench.store.rows] == [b"a"]
    assert bench.said == b""
    assert bench.inflight_limit.used == 0
    assert not bench.factory.peers
    assert not bench.clock.getDelayedCalls()


def test_peer_names() -> None:
    """Addresses as people write them."""
    assert peer_name(IPv4Address("TCP", "10.0.0.1", 5)) == "10.0.0.1:5"
    assert peer_name(IPv6Address("TCP", "::1", 5)) == "[::1]:5"
    assert peer_name(UNIXAddress(b"/tmp/x")) == "unix"


def test_nul_framing() -> None:
    """Messages that end with NUL are answered so; one that is too long is refused and skipped."""
    bench = Bench(framing="nul", held=False)
    bench.peer.dataReceived(b"a\nb\0" + b"x" * 101 + b"\0c\0d")
    assert [body for _, body in bench.store.rows] == [b"a\nb", b"c"]
    assert bench.said == b"+OK\0-REJ TOOBIG :longer than max_frame of this listener\0+OK\0"


def told_of_nul(events: Sequence[LogEvent]) -> list[str]:
    """The lines that the log has of it."""
    lines = [formatEvent(event) for event in events if event["log_level"].name == "warn"]
    return [line for line in lines if "end its messages with NUL" in line]


@pytest.mark.parametrize("telnet", [False, True])
@pytest.mark.parametrize("stream", [b"a\0b\0", b"a\n\n" + b"b\0" * 51, b"b\0" * 51 + b"c\nd\n"])
def test_nul_instead_of_newlines_is_told_once(stream: bytes, telnet: bool) -> None:
    """The log says once for a listener that its peers end messages with NUL, and what to do."""
    with capturedLogs() as events:
        bench = Bench(telnet=telnet)
        for _ in range(2):
            peer, _ = bench.connect()
            peer.dataReceived(stream)
            peer.connectionLost(Failure(ConnectionDone()))
    [told] = told_of_nul(events)
    assert told.startswith("listener lines: 127.0.0.1:4000 seems to end its messages with NUL")
    assert 'framing = "nul"' in told


def test_nul_is_told_of_a_peer_that_stays() -> None:
    """Nobody has to leave, or send too much: a line that does not go on is looked at."""
    with capturedLogs() as events:
        bench = Bench()
        bench.peer.dataReceived(b"<13>a\nb\0")
        bench.wait(11)
        assert len(told_of_nul(events)) == 1


@pytest.mark.parametrize(
    ("framing", "stream"),
    [("line", b"a\0b\nc"), ("nul", b"x" * 101 + b"\0a\0"), ("netstring", b"2:a\0,4:\0")],
)
def test_nul_within_messages_is_nothing_unusual(framing: str, stream: bytes) -> None:
    """Where frames end as they should, a NUL in them is no reason for a line in the log."""
    with capturedLogs() as events:
        bench = Bench(framing=framing)
        bench.peer.dataReceived(stream)
        bench.wait(11)
        bench.peer.connectionLost(Failure(ConnectionDone()))
    assert not told_of_nul(events)


def test_what_is_answered_at_once_keeps_its_place() -> None:
    """Beyond the window frames wait for all that came before them, also where the store answers
    while these are still being begun."""
    bench = Bench(held=False, window=2, routes=["one", "two"])
    bench.store.poison = {b"bad"}
    bench.peer.dataReceived(b"PUT one bad\nPUT two 2\nPUT one 3\nPUT two bad\nPUT one 5\n")
    assert [body for _, body in bench.store.rows] == [b"2", b"3", b"5"]
    assert [line[:4] for line in bench.said.splitlines()] == [
        b"-REJ",
        b"+OK",
        b"+OK",
        b"-REJ",
        b"+OK",
    ]
