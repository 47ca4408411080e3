"""
The site in memory: what is refused, what is bounded, and how a connection ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock

from gateway.system.addresses import Networks
from gateway.web.answer import Answer, Query, text
from gateway.web.channel import ANSWER_TIMEOUT, REQUEST_TIMEOUT
from gateway.web.hosts import OwnHosts
from gateway.web.site import MOST, StatusSite
from tests.in_memory import HalfClosing
from tests.support import logged

GET = b"GET / HTTP/1.1\r\nHost: localhost:8009\r\n\r\n"


class Site:
    """
    A site whose pages say what they were asked.

    @ivar asked: what came through.
    """

    def __init__(self, pages: Callable[[Query], Answer] | None = None) -> None:
        self.asked: list[Query] = []
        self.clock = Clock()

        def note(query: Query) -> Answer:
            self.asked.append(query)
            return text(200, "here you are")

        self.factory = StatusSite(pages or note, OwnHosts(["box"]), self.clock)

    def connect(self, source: str | None = "127.0.0.1", to: str = "127.0.0.1") -> Client:
        """
        @param source: C{None}: by a Unix socket.
        """
        own: Any = UNIXAddress(b"/run/http.sock") if source is None else IPv4Address("TCP", to, 1)
        peer: Any = UNIXAddress(None) if source is None else IPv4Address("TCP", source, 2)
        transport = HalfClosing(own, peer)  # type: ignore[no-untyped-call]
        return Client(self, transport, peer)


class Client:
    """
    A connection of a client.
    """

    def __init__(self, site: Site, transport: HalfClosing, peer: Any) -> None:
        self.transport = transport
        protocol: Any = site.factory.buildProtocol(peer)
        self.protocol = protocol
        self.protocol.makeConnection(transport)

    def ask(self, data: bytes, step: int = 10**6) -> bytes:
        """
        @param step: bytes that arrive at once.
        """
        for place in range(0, len(data), step):
            self.protocol.dataReceived(data[place : place + step])
        answer: bytes = self.transport.value()  # type: ignore[no-untyped-call]
        return answer


def code(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_one_request_one_answer(step: int) -> None:
    """The answer is whole, its end is sent behind it, and what else the client sends is nothing."""
    site = Site()
    client = site.connect()
    answer = client.ask(GET * 3, step)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert code(answer) == 200 and body == b"here you are\n"
    for header in (
        *(b"Connection: close", b"Content-Length: 13", b"X-Content-Type-Options: nosniff"),
        *(b"Cache-Control: no-store", b"Referrer-Policy: no-referrer", b"frame-ancestors 'none'"),
        b"Content-Security-Policy: default-src 'self';",
    ):
        assert header in head
    assert b"Twisted" not in head
    assert len(site.asked) == 1 and client.transport.half_closed


def test_head() -> None:
    """HEAD has the headers of GET and no body."""
    answer = Site().connect().ask(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert code(answer) == 200 and b"Content-Length: 13" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_arguments() -> None:
    """Arguments count with and without a value."""
    site = Site()
    site.connect().ask(b"GET /readyz?stored&route=a%20b HTTP/1.0\r\nAccept: x/y\r\n\r\n")
    assert site.asked == [Query("/readyz", {"stored": [""], "route": ["a b"]}, "x/y")]
    many = b"GET /?" + b"&".join(b"a" for _ in range(30)) + b" HTTP/1.0\r\n\r\n"
    assert code(site.connect().ask(many)) == 400


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\nx", 405),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"POST / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n", 400),
        (b"GET /" + b"x" * 20_000, 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 200 + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 9000 + b"\r\nc: " + b"d" * 9000 + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
    ],
)
def test_refused(sent: bytes, expected: int) -> None:
    """What cannot be answered is told so in a line, once, and no page is made."""
    site = Site()
    answer = site.connect().ask(sent + GET)
    assert code(answer) == expected and not site.asked
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body.count(b"\n") == 1 and b"Content-Type: text/plain" in head
    assert b"nosniff" in head and answer.count(b"HTTP/1.") == 1


def test_a_body_is_not_waited_for() -> None:
    """A GET with a body is answered before it, and the body is thrown away."""
    site = Site()
    head = b"GET / HTTP/1.1\r\nHost: box\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    client = site.connect()
    assert code(client.ask(head)) == 200
    assert client.ask(b"x" * 1_000_000).count(b"HTTP/1.1") == 1 and len(site.asked) == 1


def test_other_ways_in() -> None:
    """By a Unix socket, or an address of a network, any host will do."""
    site = Site()
    sent = b"GET / HTTP/1.1\r\nHost: gateway.example.org\r\n\r\n"
    assert code(site.connect(None).ask(sent)) == 200
    assert code(site.connect("192.0.2.9", "192.0.2.1").ask(sent)) == 200
    assert code(site.connect().ask(sent)) == 421


def test_networks() -> None:
    """Who may not connect is told so."""
    site = Site()
    site.factory.allow = Networks(["127.0.0.0/8", "192.0.2.0/24"])
    site.factory.deny = Networks(["192.0.2.9/32"])
    found = [
        code(site.connect(source).ask(GET))
        for source in ("127.0.0.1", "192.0.2.8", "192.0.2.9", "198.51.100.1", None)
    ]
    assert found == [200, 200, 403, 403, 403]


def test_a_slow_request() -> None:
    """However a client dribbles, its request is complete in ten seconds or it is gone, unlogged."""
    site = Site()
    with logged() as events:
        client = site.connect()
        for _ in range(int(REQUEST_TIMEOUT) - 1):
            client.ask(b"GET"[:1])
            site.clock.advance(1)
        assert not client.transport.aborted
        site.clock.advance(1)
    assert client.transport.aborted and client.ask(b"") == b"" and not events


def test_an_answer_that_is_not_taken() -> None:
    """Who does not take its answer, or does not leave, is disconnected."""
    site = Site()
    client = site.connect()
    client.ask(GET)
    site.clock.advance(ANSWER_TIMEOUT - 1)
    assert not client.transport.aborted
    site.clock.advance(1)
    assert client.transport.aborted


def test_the_end_of_the_client() -> None:
    """A client that has ended its own direction still gets its answer, and then the end; one that
    leaves without a request is let go, and nothing is left of either."""
    site = Site()
    for sent in (GET, b"GET /", b""):
        client = site.connect()
        client.ask(sent)
        client.protocol.readConnectionLost()
        assert client.transport.disconnecting
        client.protocol.connectionLost()
    assert not site.clock.getDelayedCalls()


def test_too_many_connections() -> None:
    """The oldest connection gives way to the newest, so that a probe always gets in."""
    site = Site()
    holding = [site.connect() for _ in range(MOST)]
    assert not any(client.transport.aborted for client in holding)
    assert code(site.connect().ask(GET)) == 200
    assert [client.transport.aborted for client in holding] == [True] + [False] * (MOST - 1)
    holding[1].protocol.connectionLost()
    site.connect()
    assert sum(client.transport.aborted for client in holding) == 1


def test_a_page_with_a_bug() -> None:
    """The client hears of it and the log has it; nothing of it is shown."""

    def fail(query: Query) -> Answer:
        raise ValueError("secret")

    with logged() as events:
        answer = Site(fail).connect().ask(GET)
    assert code(answer) == 500 and b"secret" not in answer
    assert ["the page could not be made" in event["log_format"] for event in events] == [True]


@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
def test_any_head(path: bytes, value: bytes, is_host: bool) -> None:
    """No path, argument or header makes more than an answer, or a line in the log."""
    site = Site()
    name = b"Host" if is_host else b"Host: localhost\r\nAccept"
    with logged() as events:
        site.connect().ask(b"GET /?" + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = site.connect().ask(b"GET / HTTP/1.1\r\n" + name + b": " + value + b"\r\n\r\n")
    assert code(answer) in (200, 400, 421) and not events


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes(sent: bytes, step: int) -> None:
    """Whatever comes, there is one answer at most, and no page but for a request."""
    site = Site()
    with logged() as events:
        answer = site.connect().ask(sent + b"\r\n\r\n", step)
    assert answer.count(b"HTTP/1.") <= 1 and not events
