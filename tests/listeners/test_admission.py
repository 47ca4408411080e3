"""
Admission: who gets in, how many, and what the others are told.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.logger import capturedLogs, formatEvent

from gateway.access.connection_limit import ConnectionLimit
from gateway.listeners.admission import SPARE, Admission, TurnedAway
from gateway.peers.closing import LINGER
from gateway.peers.protocol import PeerProtocol
from gateway.peers.timeouts import Timeouts
from gateway.system.addresses import Networks
from tests.in_memory import Bench, HalfClosing


def address(host: str = "127.0.0.1", port: int = 5000) -> IPv4Address:
    return IPv4Address("TCP", host, port)


def come_in(admission: Admission, addr: Any = None) -> tuple[Any, Any]:
    """Somebody connects."""
    protocol = admission.buildProtocol(addr or address())
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
    """Who is in allow and not in deny gets in; the others are told, and disconnected."""
    bench = Bench()
    admission = Admission(bench.factory, bench.clock, allow=Networks(allow), deny=Networks(deny))
    peer, transport = come_in(admission)
    assert isinstance(peer, PeerProtocol) is inside
    if not inside:
        denied = b"-BYE DENIED :connections from your address are not allowed here\n"
        assert transport.value() == denied
        assert transport.half_closed
        peer.dataReceived(b"x\n")
        bench.clock.advance(LINGER)
        assert transport.aborted
        assert not bench.store.rows


LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"


def behind(bench: Bench, **networks: Any) -> Admission:
    """An admission that one proxy may use."""
    return Admission(bench.factory, bench.clock, proxies=Networks(["127.0.0.1/32"]), **networks)


def inside_of(transport: Any, protocol: Any) -> Any:
    """Who has the transport, as the reactor does it, after the header."""
    transport.protocol = protocol
    protocol.dataReceived(LINE + b"hello\n")
    return transport.protocol


def test_a_proxy_says_for_whom() -> None:
    """What a trusted proxy says is the peer's address from then on, with what follows."""
    bench = Bench(held=False)
    protocol, transport = come_in(behind(bench))
    assert not isinstance(protocol, PeerProtocol) and protocol not in bench.factory.peers
    peer = inside_of(transport, protocol)
    assert isinstance(peer, PeerProtocol) and peer in bench.factory.peers
    assert (peer.peer_info.name, str(peer.peer_info.address)) == ("192.0.2.7:56324", "192.0.2.7")
    assert transport.value() == b"+OK\n"


@pytest.mark.parametrize(
    ("allow", "deny", "inside"),
    [
        (["192.0.2.0/24"], [], True),
        (["127.0.0.0/8"], [], False),
        ([], ["192.0.2.7/32"], False),
        ([], ["127.0.0.1/32"], True),
    ],
)
def test_the_told_address_is_looked_at(allow: list[str], deny: list[str], inside: bool) -> None:
    """Who may connect is asked of whom the proxy named, and not of the proxy."""
    bench = Bench()
    protocol, transport = come_in(behind(bench, allow=Networks(allow), deny=Networks(deny)))
    assert isinstance(inside_of(transport, protocol), PeerProtocol) is inside
    assert (b"-BYE DENIED" in transport.value()) is not inside


def test_a_told_address_of_ipv4_is_one() -> None:
    """A proxy that listens for both families tells it in the words of IPv6."""
    bench = Bench()
    protocol, transport = come_in(behind(bench, allow=Networks(["192.0.2.0/24"])))
    transport.protocol = protocol
    protocol.dataReceived(b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:127.0.0.1 5 6\r\n")
    assert transport.protocol.peer_info.name == "192.0.2.7:5"


def test_limits_count_those_behind_a_proxy() -> None:
    """How many may come from one address goes by whom the proxy named."""
    connection_limit = ConnectionLimit()
    bench = Bench(connection_limit=connection_limit)
    connection_limit.most_alike = 1
    admission = behind(bench)
    protocol, transport = come_in(admission)
    assert isinstance(inside_of(transport, protocol), PeerProtocol)
    protocol, transport = come_in(admission)
    assert isinstance(inside_of(transport, protocol), TurnedAway)
    assert b"-BYE BUSY :too many connections from this address" in transport.value()


def test_nobody_else_says_for_whom() -> None:
    """Who is no trusted proxy is refused before a byte of a header is read, or of a message."""
    bench = Bench()
    protocol, transport = come_in(behind(bench), address("127.0.0.2"))
    assert isinstance(inside_of(transport, protocol), TurnedAway)
    assert transport.value() == b"-BYE DENIED :connections come through a proxy here\n"
    assert len(bench.factory.peers) == 1


def test_a_proxy_that_sends_no_header() -> None:
    """It is closed without a word, and the log says why and who."""
    bench = Bench()
    with capturedLogs() as events:
        protocol, transport = come_in(behind(bench))
        protocol.dataReceived(b"hello\n")
        bench.wait(6)
    assert transport.aborted and not transport.value()
    assert [formatEvent(event) for event in events] == [
        "listener lines: 1 peer disconnected: no PROXY header: these are not its first bytes"
        " (127.0.0.1:5000)"
    ]


def test_a_proxy_for_itself() -> None:
    """A header without a source is that of the proxy's own connection."""
    bench = Bench()
    protocol, transport = come_in(behind(bench))
    transport.protocol = protocol
    protocol.dataReceived(b"PROXY UNKNOWN\r\n")
    assert transport.protocol.peer_info.name == "127.0.0.1:5000"


def test_who_comes_while_it_stops() -> None:
    """Whose header ends when the gateway stops is not let in any more."""
    bench = Bench()
    admission = behind(bench)
    protocol, transport = come_in(admission)
    admission.close()
    assert isinstance(inside_of(transport, protocol), TurnedAway)
    assert transport.value().startswith(b"-BYE DRAIN ")


def test_a_unix_socket_is_no_network() -> None:
    """Who comes through a Unix socket is meant by C{unix} alone."""
    bench = Bench()
    admission = Admission(bench.factory, bench.clock, allow=Networks(["unix"]))
    assert isinstance(come_in(admission, UNIXAddress(b""))[0], PeerProtocol)
    assert isinstance(come_in(admission)[0], TurnedAway)


def test_who_is_not_let_in_is_in_the_log_once() -> None:
    """A thousand that are refused are one line, which names the last."""
    bench = Bench()
    admission = Admission(bench.factory, bench.clock, deny=Networks(["127.0.0.0/8"]))
    with capturedLogs() as events:
        for port in range(1000):
            peer, _ = come_in(admission, address(port=port))
            if peer is not None:
                peer.connectionLost()
        bench.wait(6)
    assert [formatEvent(event) for event in events] == [
        "listener lines: 1000 peers disconnected: connections from your address are not allowed"
        " here (last 127.0.0.1:999)"
    ]


def test_how_many_may_be_told_why_is_limited() -> None:
    """A flood of those who may not come in holds no more than some connections open."""
    bench = Bench()
    admission = Admission(bench.factory, bench.clock, deny=Networks(["127.0.0.0/8"]))
    outside = [come_in(admission)[0] for _ in range(SPARE + 1)]
    assert outside[-1] is None and None not in outside[:-1]
    outside[0].connectionLost()
    assert come_in(admission)[0] is not None


def test_connections_of_a_listener() -> None:
    """Over max_connections a peer is told to come later; when one has left, another may come."""
    connection_limit = ConnectionLimit()
    bench = Bench(connection_limit=connection_limit)
    connection_limit.most = 2  # with the one that the bench has
    admission = Admission(bench.factory, bench.clock)
    inside, _ = come_in(admission)
    assert isinstance(inside, PeerProtocol)
    _, transport = come_in(admission)
    assert transport.value() == (
        b"-BYE BUSY :too many connections at this listener; try again later\n"
    )
    inside.connectionLost()
    assert isinstance(come_in(admission)[0], PeerProtocol)


def test_connections_from_one_address() -> None:
    """Over max_connections_per_address others still get in."""
    connection_limit = ConnectionLimit()
    bench = Bench(connection_limit=connection_limit)
    connection_limit.most_alike = 1
    admission = Admission(bench.factory, bench.clock)
    refused, transport = come_in(admission)
    assert isinstance(refused, TurnedAway) and b"from this address" in transport.value()
    assert isinstance(come_in(admission, address("127.0.0.2"))[0], PeerProtocol)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=60))
def test_the_crowd_counts_right(steps: list[tuple[int, int, bool]]) -> None:
    """Whoever comes and goes where, excess is what counting anew would give."""
    outer = ConnectionLimit(4)
    connection_limits = [ConnectionLimit(around=outer) for _ in range(3)]
    for connection_limit in connection_limits:
        connection_limit.most, connection_limit.most_alike = 3, 2
    inside: list[tuple[int, int]] = []
    for where, who, comes in steps:
        if comes:
            connection_limits[where].enter(who)
            inside.append((where, who))
        elif (where, who) in inside:
            connection_limits[where].leave(who)
            inside.remove((where, who))
        here = [w for w, _ in inside].count(where)
        alike = inside.count((where, who))
        expected = max(here + 1 - 3, alike + 1 - 2, len(inside) + 1 - 4, 0)
        assert connection_limits[where].excess(who)[0] == expected


def test_who_says_nothing_at_first_is_disconnected() -> None:
    """The first message has its time, bytes that make none do not count; after it none is due."""
    bench = Bench(timeouts=Timeouts(first=10), held=False)
    admission = Admission(bench.factory, bench.clock)
    dripping, transport = come_in(admission)
    speaking, other = come_in(admission)
    speaking.dataReceived(b"x\n")
    for _ in range(13):
        dripping.dataReceived(b"x")
        bench.wait(1)
    assert transport.value() == b"-BYE RATE :no first message within 10 s\n"
    bench.wait(60)
    assert other.value() == b"+OK\n" and not other.half_closed


def test_who_waits_for_a_header_counts() -> None:
    """Connections that never say for whom they are take no more places than others, and give
    them back."""
    connection_limit = ConnectionLimit()
    bench = Bench(connection_limit=connection_limit)
    connection_limit.most = 3
    admission = behind(bench)
    waiting = [come_in(admission)[0] for _ in range(2)]
    assert connection_limit.count == 3
    assert isinstance(come_in(admission)[0], TurnedAway)
    waiting[0].connectionLost()
    waiting[1].dataReceived(b"nonsense")
    assert connection_limit.count == 1
    late, _ = come_in(admission)
    bench.clock.advance(11)
    assert connection_limit.count == 1 and late.transport.aborted
    protocol, transport = come_in(admission)
    inside_of(transport, protocol)
    assert connection_limit.count == 2
