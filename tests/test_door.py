"""
The door: who gets in, how many, and what the others are told.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.logger import capturedLogs, formatEvent

from gateway.crowd import Crowd
from gateway.deadlines import Timeouts
from gateway.door import SPARE, Door, TurnedAway
from gateway.farewell import LINGER
from gateway.networks import Networks
from gateway.protocol import PeerProtocol
from tests.in_memory import Bench, HalfClosing


def address(host: str = "127.0.0.1", port: int = 5000) -> IPv4Address:
    return IPv4Address("TCP", host, port)


def come_in(door: Door, addr: Any = None) -> tuple[Any, Any]:
    """Somebody connects."""
    protocol = door.buildProtocol(addr or address())
    transport: Any = HalfClosing()  # type: ignore[no-untyped-call]
    if protocol is not None:
        protocol.makeConnection(transport)
    return protocol, transport


@pytest.mark.parametrize(
    ("allow", "deny", "inside"),
    [
        ([], [], True),
        (["127.0.0.0/8"], [], True),
        (["10.0.0.0/8"], [], False),
        (["127.0.0.0/8"], ["127.0.0.1/32"], False),
        ([], ["127.0.0.1/32"], False),
        ([], ["unix"], True),
    ],
)
def test_addresses(allow: list[str], deny: list[str], inside: bool) -> None:
    """Who is in allow and not in deny gets in; the others are told, and let go."""
    bench = Bench()
    door = Door(bench.factory, bench.clock, allow=Networks(allow), deny=Networks(deny))
    peer, transport = come_in(door)
    assert isinstance(peer, PeerProtocol) is inside
    if not inside:
        denied = b"-BYE DENIED :connections from your address are not allowed here\n"
        assert transport.value() == denied
        assert transport.half_closed
        peer.dataReceived(b"x\n")
        bench.clock.advance(LINGER)
        assert transport.aborted
        assert not bench.store.rows


def test_a_unix_socket_is_no_network() -> None:
    """Who comes through a Unix socket is meant by C{unix} alone."""
    bench = Bench()
    door = Door(bench.factory, bench.clock, allow=Networks(["unix"]))
    assert isinstance(come_in(door, UNIXAddress(b""))[0], PeerProtocol)
    assert isinstance(come_in(door)[0], TurnedAway)


def test_who_is_not_let_in_is_in_the_log_once() -> None:
    """A thousand that are refused are one line, which names the last."""
    bench = Bench()
    door = Door(bench.factory, bench.clock, deny=Networks(["127.0.0.0/8"]))
    with capturedLogs() as events:
        for port in range(1000):
            peer, _ = come_in(door, address(port=port))
            if peer is not None:
                peer.connectionLost()
        bench.wait(6)
    assert [formatEvent(event) for event in events] == [
        "listener lines: 1000 peers let go: connections from your address are not allowed here"
        " (last 127.0.0.1:999)"
    ]


def test_how_many_may_be_told_why_is_limited() -> None:
    """A flood of those who may not come in holds no more than some connections open."""
    bench = Bench()
    door = Door(bench.factory, bench.clock, deny=Networks(["127.0.0.0/8"]))
    outside = [come_in(door)[0] for _ in range(SPARE + 1)]
    assert outside[-1] is None and None not in outside[:-1]
    outside[0].connectionLost()
    assert come_in(door)[0] is not None


def test_connections_of_a_listener() -> None:
    """Over max_connections a peer is told to come later; when one has left, another may come."""
    crowd = Crowd()
    bench = Bench(crowd=crowd)
    crowd.most = 2  # with the one that the bench has
    door = Door(bench.factory, bench.clock)
    inside, _ = come_in(door)
    assert isinstance(inside, PeerProtocol)
    _, transport = come_in(door)
    assert transport.value() == (
        b"-BYE BUSY :too many connections at this listener; try again later\n"
    )
    inside.connectionLost()
    assert isinstance(come_in(door)[0], PeerProtocol)


def test_connections_from_one_address() -> None:
    """Over max_connections_per_address others still get in."""
    crowd = Crowd()
    bench = Bench(crowd=crowd)
    crowd.most_alike = 1
    door = Door(bench.factory, bench.clock)
    refused, transport = come_in(door)
    assert isinstance(refused, TurnedAway) and b"from this address" in transport.value()
    assert isinstance(come_in(door, address("127.0.0.2"))[0], PeerProtocol)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=60))
def test_the_crowd_counts_right(steps: list[tuple[int, int, bool]]) -> None:
    """Whoever comes and goes where, excess is what counting anew would give."""
    outer = Crowd(4)
    crowds = [Crowd(around=outer) for _ in range(3)]
    for crowd in crowds:
        crowd.most, crowd.most_alike = 3, 2
    inside: list[tuple[int, int]] = []
    for where, who, comes in steps:
        if comes:
            crowds[where].enter(who)
            inside.append((where, who))
        elif (where, who) in inside:
            crowds[where].leave(who)
            inside.remove((where, who))
        here = [w for w, _ in inside].count(where)
        alike = inside.count((where, who))
        expected = max(here + 1 - 3, alike + 1 - 2, len(inside) + 1 - 4, 0)
        assert crowds[where].excess(who)[0] == expected


def test_who_says_nothing_at_first_is_let_go() -> None:
    """The first message has its time, bytes that make none do not count; after it none is due."""
    bench = Bench(timeouts=Timeouts(first=10), held=False)
    door = Door(bench.factory, bench.clock)
    dripping, transport = come_in(door)
    speaking, other = come_in(door)
    speaking.dataReceived(b"x\n")
    for _ in range(13):
        dripping.dataReceived(b"x")
        bench.wait(1)
    assert transport.value() == b"-BYE RATE :no first message within 10 s\n"
    bench.wait(60)
    assert other.value() == b"+OK\n" and not other.half_closed
