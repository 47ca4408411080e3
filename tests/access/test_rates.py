"""
Rates: what a peer may send, and what becomes of the rest.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.rates import Allowance, Bucket, Rates
from gateway.model.outcome import Words
from tests.in_memory import Bench

TEN = Allowance(messages=10)

OVER = b"-TRY RATE retry=1 :more than this listener takes from one peer\n"


@given(
    st.floats(0.5, 1000),
    st.floats(0.1, 5),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), max_size=50),
)
def test_never_more_messages_than_the_rate(
    rate: float, burst: float, sent: list[tuple[float, int]]
) -> None:
    """However they come, in any time no more pass than the burst and what the rate gave since."""
    bucket = Bucket(Allowance(messages=rate, burst=burst), 0.0)
    now = passed = 0.0
    for pause, count in sent:
        now += pause
        passed += bucket.take([b""] * count, now)
        assert passed <= max(1.0, rate * burst) + rate * now + 1e-6


@given(
    st.floats(1, 1000),
    st.lists(st.tuples(st.floats(0, 3), st.lists(st.binary(max_size=300), min_size=1))),
)
def test_never_more_bytes_than_the_rate_but_for_one_message(
    rate: float, sent: list[tuple[float, list[bytes]]]
) -> None:
    """No more bytes pass than the burst and what the rate gave, and the last message's own."""
    bucket = Bucket(Allowance(bytes=rate), 0.0)
    now = passed = 0.0
    for pause, messages in sent:
        now += pause
        taken = bucket.take(messages, now)
        passed += sum(map(len, messages[:taken]))
        assert passed <= rate + rate * now + 300 + 1e-6


@given(st.floats(0.01, 1000), st.floats(0.01, 1000), st.integers(0, 5000))
def test_after_the_wait_a_message_passes(messages: float, size: float, length: int) -> None:
    """The time that is told is enough, however large the message, and not much too long."""
    bucket = Bucket(Allowance(messages=messages, bytes=size), 0.0)
    message = [b"x" * length]
    now = 0.0
    for _ in range(5):
        while bucket.take(message, now):
            pass
        wait = bucket.wait(now)
        if wait > 0.01:
            assert not bucket.take(message, now + wait * 0.9)
        now += wait
        assert bucket.take(message, now)


def test_buckets_outlive_their_peers_until_they_are_full() -> None:
    """Connecting anew gains nothing, and a million addresses leave nothing behind."""
    rates = Rates(TEN)
    bucket = rates.bucket("a", 0.0)
    assert bucket is not None and bucket.take([b""] * 99, 0.0) == 10
    assert rates.bucket("a", 0.0) is bucket
    for number in range(100_000):
        rates.bucket(number, 0.0)
        assert len(rates._buckets) <= 1025
    assert rates.bucket("a", 0.0) is bucket
    assert Rates(Allowance()).bucket("a", 0.0) is None


def test_over_the_rate_is_refused_in_order_and_then_not_read() -> None:
    """What is over it is answered -TRY RATE in its place, and the peer is not read for a while."""
    bench = Bench(allowance=TEN, held=False)
    bench.peer.dataReceived(b"x\n" * 12)
    assert bench.said == b"+OK\n" * 10 + OVER * 2
    assert bench.paused
    bench.wait(0.15)
    assert not bench.paused
    bench.transport.clear()
    bench.peer.dataReceived(b"x\n" * 3)
    assert bench.said == b"+OK\n" + OVER * 2
    bench.wait(5)
    bench.transport.clear()
    bench.peer.dataReceived(b"x\n" * 10)
    assert bench.said == b"+OK\n" * 10


def test_refused_commands_repeat_their_tags() -> None:
    """-TRY RATE has the tag of its frame, as every answer has; a refused PUT took no number."""
    bench = Bench(allowance=Allowance(messages=3), held=False, routes=["messages"])
    bench.peer.dataReceived(b"HELLO s\n@1 PUT messages #1 x\n@2 PUT messages #2 y\n@3 PING\n")
    assert bench.said == b"+OK seq=0 epoch=w1\n@1 +OK\n@2 +OK\n@3 " + OVER
    bench.wait(5)
    bench.transport.clear()
    bench.peer.dataReceived(b"PUT messages #3 z\n")
    assert bench.said == b"+OK\n"


@pytest.mark.parametrize("count", [11, 50, 500])
def test_who_hears_no_refusal_waits(count: int) -> None:
    """Where the listener says nothing every message is stored, as fast as it may be."""
    bench = Bench(allowance=TEN, held=False, words=Words.configured("none", None), window=1000)
    bench.peer.dataReceived(b"x\n" * count)
    assert len(bench.store.rows) == 10 and bench.paused
    # The burst, and then ten a second.
    bench.wait(math.ceil(count / 10) - 1 + 0.2)
    assert len(bench.store.rows) == count
    assert bench.said == b"" and not bench.paused


def test_peers_of_one_address_share_a_rate() -> None:
    """A second connection has no rate of its own, and waits that end with theirs leave no timer."""
    bench = Bench(allowance=TEN, held=False)
    other, transport = bench.connect()
    bench.peer.dataReceived(b"x\n" * 10)
    other.dataReceived(b"x\n")
    assert transport.value() == OVER
    for peer in (bench.peer, other):
        peer.connectionLost()
    assert not bench.clock.getDelayedCalls()


def test_a_new_rate_holds_for_those_who_are_there() -> None:
    """After a reload the rate is the new one, also for a peer that is just not read."""
    bench = Bench(allowance=TEN, held=False)
    bench.peer.dataReceived(b"x\n" * 11)
    assert bench.paused
    bench.factory.replace_rates(Rates(Allowance(messages=100)))
    assert not bench.paused
    bench.transport.clear()
    bench.peer.dataReceived(b"x\n" * 99)
    assert bench.said == b"+OK\n" * 99


@pytest.mark.parametrize(
    "sent",
    [b"a" * 60_000, b"\n" * 60_000, b"a\n" * 30_000, b"a" * 60_000 + b"\n"],
    ids=["no end", "empty", "short", "too long"],
)
def test_all_bytes_count(sent: bytes) -> None:
    """
    Those of line endings and of what is skipped too: for a minute's worth of bytes the peer is
    not read for a minute.
    """
    bench = Bench(allowance=Allowance(bytes=1000), held=False, window=100_000)
    bench.peer.dataReceived(sent)
    read = 0
    for _ in range(50):
        bench.wait(1)
        if not bench.paused:
            read += 1
            bench.peer.dataReceived(sent)
    assert read < (2 if sent[:2] != b"a\n" else 50)
    assert len(bench.store.rows) <= 60_000


def test_a_message_in_pieces_is_charged_once() -> None:
    """However TCP cuts it, and with its ending."""
    for step in (1, 7, 100):
        bench = Bench(allowance=Allowance(bytes=100, burst=10), held=False)
        message = b"x" * 98 + b"\r\n"
        for _ in range(10):
            for begin in range(0, 100, step):
                bench.peer.dataReceived(message[begin : begin + step])
        assert bench.said == b"+OK\r\n" * 10 and not bench.paused
        bench.peer.dataReceived(b"xx\r\n")
        assert bench.paused


def test_a_flood_is_looked_at_in_portions() -> None:
    """Of thousands of short messages in one read a hundred are refused, then the peer has to wait:
    the rest is not even cut until it may go on."""
    bench = Bench(allowance=TEN, held=False, window=1000)
    bench.peer.dataReceived(b"x\n" * 5000)
    assert bench.said == b"+OK\n" * 10 + OVER * 90
    bench.transport.clear()
    bench.wait(0.15)
    assert bench.said == b"+OK\n" + OVER * 99


def test_who_goes_on_is_read_more_seldom() -> None:
    """The pauses of a flood double up to a second, in which as much passes as ever; whoever is
    within its rate once has short ones again."""
    bench = Bench(allowance=TEN, held=False, window=1000)

    def pause() -> float:
        bench.peer.dataReceived(b"x\n" * 50)
        begun = bench.clock.seconds()
        while bench.paused:
            bench.wait(0.05)
        return bench.clock.seconds() - begun

    pauses = [pause() for _ in range(8)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], abs=0.06)
    # The burst, and what comes in each second.
    assert bench.said.count(b"+OK") == pytest.approx(10 + 10 * sum(pauses[:-1]), abs=3)
    bench.peer.dataReceived(b"x\n")
    assert pause() == pytest.approx(0.1, abs=0.06)
