"""
Beats' dialect: a window is acknowledged when all of it is stored, and never before.
"""

from __future__ import annotations

import pytest

from gateway.access.rates import Allowance
from gateway.dialects.beats import KEEPALIVE_EVERY, BeatsReader
from gateway.model.errors import Unavailable
from gateway.model.outcome import Code, goodbye
from tests.in_memory import Bench
from tests.lumberjack import ack, announced, event, window

KEPT = frozenset({"messages"})


def beats(
    held: bool = True,
    dead_letters: frozenset[str] = KEPT,
    max_frame: int = 100,
    max_chunk: int = 10_000,
    allowance: Allowance | None = None,
) -> Bench:
    """A peer that speaks Lumberjack."""
    return Bench(
        *("beats", held),
        allowance=allowance,
        reader=BeatsReader,
        dead_letters=dead_letters,
        max_frame=max_frame,
        max_chunk=max_chunk,
    )


def stored(bench: Bench) -> list[bytes]:
    return [message for _, message in bench.store.rows]


@pytest.mark.parametrize("level", [0, 3])
def test_a_window_is_acknowledged_when_it_is_stored(level: int) -> None:
    """Its last event's number, once, when all of it is committed in one transaction."""
    bench = beats()
    bench.peer.dataReceived(window([b"a", b"b", b"c"], level=level))
    assert bench.said == b""
    bench.store.commit()
    assert bench.said == ack(3)
    assert stored(bench) == [b"a", b"b", b"c"]
    assert bench.store.writes == [3]
    assert bench.inflight_limit.used == 0


def test_windows_are_stored_one_after_the_other() -> None:
    """Senders have two on their way; the second waits, and each has its own acknowledgement."""
    bench = beats()
    bench.peer.dataReceived(window([b"a", b"b"]) + window([b"c"]) + window([b"d"], first=2)[:9])
    assert bench.store.waiting_writes == 1
    bench.store.commit()
    assert bench.said == ack(2)
    bench.store.commit()
    assert bench.said == ack(2) + ack(1)
    bench.peer.dataReceived(window([b"d"], first=2)[9:])
    bench.commit_all()
    assert bench.said == ack(2) + ack(1) + ack(2)
    assert bench.store.writes == [2, 1, 1]


def test_the_sender_is_told_to_wait() -> None:
    """While a commit takes long, an acknowledgement of nothing comes every ten seconds, and none
    after it."""
    bench = beats()
    bench.peer.dataReceived(window([b"a"]))
    bench.wait(KEEPALIVE_EVERY - 1)
    assert bench.said == b""
    bench.wait(2 * KEEPALIVE_EVERY)
    assert bench.said == ack(0) * 2
    bench.store.commit()
    bench.wait(3 * KEEPALIVE_EVERY)
    assert bench.said == ack(0) * 2 + ack(1)


def test_version_1_is_never_told_to_wait() -> None:
    """To its senders any acknowledgement is that of the window."""
    bench = beats()
    bench.peer.dataReceived(window([b"a", b"b"], first=7, version=1))
    bench.wait(3 * KEEPALIVE_EVERY)
    assert bench.said == b""
    bench.store.commit()
    assert bench.said == ack(8, version=1)


def test_an_empty_window_is_acknowledged_at_once() -> None:
    """With the number of the event before it, which is what its sender waits for."""
    bench = beats(held=False)
    bench.peer.dataReceived(announced(0) + window([b"a"], first=5) + announced(0))
    assert bench.said == ack(0) + ack(5) + ack(5)


def test_refused_events_are_kept_and_acknowledged() -> None:
    """Lumberjack has no word for an event that is refused: it is a dead letter, in the commit of
    its window."""
    bench = beats(max_frame=10)
    bench.store.poison = {b"poison"}
    bench.peer.dataReceived(window([b"a", b"poison", b"\xff", b"x" * 11, b"b"]))
    bench.commit_all()
    assert bench.said == ack(5)
    assert stored(bench) == [b"a", b"b"]
    letters = [(frame, str(why.code)) for frame, why in bench.store.dead_letters]
    assert sorted(letters) == [
        (b"poison", "CONSTRAINT"),
        (b"x" * 11, "TOOBIG"),
        (b"\xff", "DATA"),
    ]


def test_nothing_is_acknowledged_where_a_refused_event_is_not_kept() -> None:
    """A route without dead letters, which a reload may bring: the connection ends."""
    bench = beats(held=False, dead_letters=frozenset())
    bench.peer.dataReceived(window([b"a", b"\xff", b"b"]) + window([b"c"]))
    assert bench.said == b""
    assert bench.transport.disconnecting
    assert b"c" not in stored(bench)


def test_what_is_not_stored_is_not_acknowledged() -> None:
    """The connection ends without a word, and nothing behind the window is stored."""
    bench = beats()
    bench.store.failures.extend([Unavailable("away")] * 9)
    bench.peer.dataReceived(window([b"a"]) + window([b"b"]))
    bench.commit_all()
    bench.wait(1)
    bench.commit_all()
    assert bench.said == b""
    assert bench.transport.disconnecting
    assert stored(bench) == []
    assert bench.inflight_limit.used == 0


def test_a_window_behind_a_lost_connection_is_not_begun() -> None:
    """Its sender sends it again anyway, so that it would be doubled for nothing."""
    bench = beats()
    bench.peer.dataReceived(window([b"a"]) + window([b"b"]))
    bench.peer.connectionLost()
    bench.commit_all()
    bench.wait(1)
    bench.commit_all()
    assert stored(bench) == [b"a"]
    assert bench.inflight_limit.used == 0


def test_part_of_a_window_is_not_stored() -> None:
    """A connection that ends within a window leaves none of it behind."""
    bench = beats(held=False)
    bench.peer.dataReceived(announced(3) + event(1, b"a") + event(2, b"b"))
    bench.peer.connectionLost()
    assert stored(bench) == []


def test_a_stop_waits_for_the_window_at_hand() -> None:
    """What is in flight is acknowledged, and what is behind it is not begun; no word ends it."""
    bench = beats()
    bench.peer.dataReceived(window([b"a"]) + window([b"b"]))
    bench.factory.close_all(goodbye(Code.DRAIN, "the gateway stops"))
    bench.store.commit()
    bench.wait(1)
    assert bench.said == ack(1)
    assert bench.transport.disconnecting
    assert stored(bench) == [b"a"]


def test_a_broken_stream_ends_the_connection() -> None:
    """The windows before the fault are stored and acknowledged; the reason is counted."""
    bench = beats(max_chunk=1000)
    bench.peer.dataReceived(window([b"a"]) + window([b"x" * 1001], level=9))
    bench.commit_all()
    assert bench.said == ack(1)
    assert bench.transport.disconnecting
    assert sum(bench.factory.counters.let_go.values()) == 1


def test_a_rate_limit_slows_a_sender_down() -> None:
    """It counts events, and since none can be refused, what is over it waits."""
    bench = beats(held=False, allowance=Allowance(messages=10.0))
    events = [b"%d" % number for number in range(20)]
    for _ in range(3):
        bench.peer.dataReceived(window(events))
    bench.wait(0.5)
    assert len(stored(bench)) == 20
    bench.wait(6)
    assert stored(bench) == events * 3
    assert bench.said == ack(20) * 3
