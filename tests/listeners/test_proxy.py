"""
The PROXY protocol: what a header says, however it comes, and who gets the connection then.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from gateway.listeners.proxy import DEADLINE, LATE, ProxyHeader
from gateway.model.errors import HeaderError
from gateway.wire.proxy_header import MOST_V2, Header, HeaderReader, ProxiedAddress

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"

ports = st.integers(0, 65535)

sources = st.builds(ProxiedAddress, st.ip_addresses(), ports)


def line_of(source: ProxiedAddress, own: ProxiedAddress) -> bytes:
    """Version 1."""
    kind = f"PROXY TCP{source.address.version}"
    return f"{kind} {source.address} {own.address} {source.port} {own.port}\r\n".encode()


def binary(command: int, family: int, block: bytes) -> bytes:
    """Version 2, of any content."""
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


def addresses(source: ProxiedAddress, own: ProxiedAddress) -> bytes:
    """The block of version 2."""
    numbers = source.port.to_bytes(2, "big") + own.port.to_bytes(2, "big")
    return source.address.packed + own.address.packed + numbers


def header_of(
    version: int, source: ProxiedAddress, own: ProxiedAddress, more: bytes = b""
) -> bytes:
    if version == 1:
        return line_of(source, own)
    family = 0x11 if source.address.version == 4 else 0x21
    return binary(0x21, family, addresses(source, own) + more)


def read(stream: bytes, step: int) -> Header | None:
    """
    Fed in pieces until a header is complete; what was not fed by then counts as its rest.
    """
    reader = HeaderReader()
    for start in range(0, len(stream), step):
        header = reader.receive(stream[start : start + step])
        if header is not None:
            return Header(header.source, header.rest + stream[start + step :])
    return None


def refusal(stream: bytes) -> tuple[int, str]:
    """
    @return: after how many bytes it is refused, and why.
    """
    reader = HeaderReader()
    for count in range(len(stream)):
        try:
            assert reader.receive(stream[count : count + 1]) is None, stream
        except HeaderError as error:
            with pytest.raises(HeaderError):
                HeaderReader().receive(stream)
            return count + 1, str(error).removeprefix("no PROXY header: ")
    raise AssertionError(f"{stream!r} is taken for the beginning of a header")


@given(
    st.sampled_from([1, 2]),
    sources,
    sources,
    st.binary(max_size=30),
    st.binary(max_size=30),
    st.integers(1, 70),
)
def test_round_trip(
    version: int, source: ProxiedAddress, own: ProxiedAddress, more: bytes, rest: bytes, step: int
) -> None:
    """Byte by byte, whole, or with what follows in one piece: the source and the rest."""
    assume(source.address.version == own.address.version)
    header = header_of(version, source, own, more)
    for each in (1, step, len(header), len(header) + len(rest)):
        assert read(header + rest, each) == Header(source, rest)
    assert read(header[:-1], step) is None


@given(st.sampled_from([1, 2]), sources, sources, st.binary(max_size=30))
def test_agrees_with_another_reader(
    version: int, source: ProxiedAddress, own: ProxiedAddress, rest: bytes
) -> None:
    """Twisted's parser finds the same source, and the same bytes behind the header."""
    assume(source.address.version == own.address.version)
    parser: Any = V1Parser() if version == 1 else V2Parser()
    info, left = parser.feed(header_of(version, source, own) + rest)
    assert ProxiedAddress(ip_address(info.source.host), info.source.port) == source
    assert read(header_of(version, source, own) + rest, 4096) == Header(source, left)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        b"PROXY UNKNOWN " + b"\xff" * 91 + b"\r\n",
        binary(0x20, 0x00, b""),
        binary(
            0x20,
            0x11,
            addresses(ProxiedAddress(IPv4Address(1), 1), ProxiedAddress(IPv4Address(2), 2)),
        ),
        binary(0x20, 0x11, b"short"),
        binary(0x20, 0xFF, b"of no family there is"),
        binary(0x21, 0x00, b""),
        binary(0x21, 0x00, b"\x03\x00\x04abcd"),
        binary(0x21, 0x10, b""),
        binary(0x21, 0x12, bytes(12)),
        binary(0x21, 0x22, bytes(36)),
        binary(0x21, 0x31, bytes(216)),
        binary(0x21, 0x32, bytes(216)),
    ],
)
def test_no_source(header: bytes) -> None:
    """The proxy itself, unknown, Unix sockets and datagrams: the connection's own address."""
    for step in (1, 7, 5000):
        assert read(header + b"rest", step) == Header(None, b"rest")


@pytest.mark.parametrize(
    ("stream", "count", "why"),
    [
        (b"hello\n", 1, "these are not its first bytes"),
        (b"PRIVATE", 3, "these are not its first bytes"),
        (b"PROXY\tTCP4", 6, "these are not its first bytes"),
        (b"\x16\x03\x01", 1, "these are not its first bytes"),
        (b"\r\n\r\nGET /", 5, "these are not its first bytes"),
        (b"PROXY  TCP4", 7, "no protocol it knows"),
        (b"PROXY TCP5 ", 10, "no protocol it knows"),
        (b"PROXY UNKNOWNS", 14, "no protocol it knows"),
        (b"PROXY UNKNOWN\n", 14, "no protocol it knows"),
        (LINE.replace(b"\r\n", b"\n"), len(LINE) - 1, "CR or LF inside the line"),
        (LINE.replace(b" 443", b"\r443"), LINE.index(b" 443") + 2, "CR or LF inside the line"),
        (LINE.replace(b" 443", b""), None, "not two addresses and two ports"),
        (LINE.replace(b"443", b"443 "), None, "not two addresses and two ports"),
        (LINE.replace(b" 443", b"  443"), None, "not two addresses and two ports"),
        (LINE.replace(b"192.0.2.7", b"192.0.02.7"), None, "no address of TCP4"),
        (LINE.replace(b"192.0.2.7", b"192.0.2.256"), None, "no address of TCP4"),
        (LINE.replace(b"192.0.2.7", b"::1"), None, "no address of TCP4"),
        (LINE.replace(b"192.0.2.7", b"\xb2"), None, "no address of TCP4"),
        (LINE.replace(b"TCP4", b"TCP6"), None, "no address of TCP6"),
        (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", 30, "no address of TCP6"),
        (b"PROXY TCP6 1:2:3 ::1 1 2\r\n", 26, "no address of TCP6"),
        (LINE.replace(b"56324", b"65536"), None, "no port"),
        (LINE.replace(b"56324", b"056324"), None, "no port"),
        (LINE.replace(b"56324", b"+5"), None, "no port"),
        (LINE.replace(b"443", b""), None, "no port"),
        (b"PROXY TCP4 " + b"1" * 200, 107, "no end of the line within 107 bytes"),
        (b"PROXY UNKNOWN " + b"1" * 200, 107, "no end of the line within 107 bytes"),
        (b"PROXY UNKNOWN " + b"1" * 92 + b"\r\n", 107, "no end of the line within 107 bytes"),
        (binary(0x11, 0, b""), 13, "no version and command it knows"),
        (binary(0x22, 0, b""), 13, "no version and command it knows"),
        (binary(0x21, 0x41, b""), 14, "no family and protocol it knows"),
        (binary(0x21, 0x13, b""), 14, "no family and protocol it knows"),
        (binary(0x21, 0x11, bytes(11)), 16, "too few bytes for its addresses"),
        (binary(0x21, 0x21, bytes(35)), 16, "too few bytes for its addresses"),
        (binary(0x21, 0x31, bytes(36)), 16, "too few bytes for its addresses"),
        (binary(0x20, 0, bytes(MOST_V2 - 15)), 16, "over the limit of 4096 bytes"),
        (SIGNATURE + b"\x21\x11\xff\xff", 16, "over the limit of 4096 bytes"),
    ],
)
def test_malformed(stream: bytes, count: int | None, why: str) -> None:
    """
    What cannot become a header is refused at the byte that says so, or (C{None}) as soon
    as its line is there; alone or in one piece.
    """
    assert refusal(stream) == (count or len(stream), why)


def test_reasons_do_not_vary_with_what_a_peer_chooses() -> None:
    """Any lengths, commands and families give as few reasons as there are faults."""
    reasons = set()
    for number in range(0x10000 - MOST_V2, 0x10000, 7):
        reasons.add(refusal(SIGNATURE + b"\x21\x11" + number.to_bytes(2, "big"))[1])
    for number in range(12):
        reasons.add(refusal(binary(0x21, 0x11, bytes(number)))[1])
    for number in range(0x22, 256):
        reasons.add(refusal(binary(number, 0, b""))[1])
        if number & 0x0F > 2:
            reasons.add(refusal(binary(0x21, number, b""))[1])
    assert len(reasons) == 4


def test_the_longest() -> None:
    """The limits themselves are within them."""
    long = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(long) == 107 and read(long, 1) == Header(None, b"")
    own = ProxiedAddress(IPv6Address("::"), 0)
    most = header_of(2, own, own, bytes(MOST_V2 - 16 - 36))
    assert len(most) == MOST_V2 and read(most + b"x", 4097) == Header(own, b"x")


beginnings = st.sampled_from(
    [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", SIGNATURE, LINE[:-4]]
    + [SIGNATURE + bytes([command, family]) for command in (32, 33) for family in (17, 33, 49)]
)


@given(beginnings, st.binary(max_size=200), st.integers(1, 220))
def test_any_bytes(beginning: bytes, more: bytes, step: int) -> None:
    """Any bytes at all are a header, the beginning of one, or refused; alike in any pieces."""
    stream = beginning + more
    found: list[object] = []
    for each in (len(stream) + 1, step, 1):
        try:
            found.append(read(stream, each))
        except HeaderError:
            found.append(HeaderError)
    assert found[0] == found[1] == found[2]


class Inner(Protocol):
    """
    Whoever the proxy named.
    """

    def __init__(self) -> None:
        self.events: list[object] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data)


class Entrance:
    """
    A protocol that waits for a header, its transport and what came of it.
    """

    def __init__(self, takes: bool = True) -> None:
        self.clock = Clock()
        self.built: list[ProxiedAddress | None] = []
        self.refused: list[str] = []
        self.inner = Inner()
        self.takes = takes
        self.protocol = ProxyHeader(self.clock, self.build, self.refused.append)
        transport: Any = StringTransport()
        transport.protocol = self.protocol
        self.transport = transport
        self.protocol.makeConnection(self.transport)  # type: ignore[no-untyped-call]

    def build(self, source: ProxiedAddress | None, exceeded: str) -> Inner | None:
        assert not exceeded
        self.built.append(source)
        return self.inner if self.takes else None

    def receive(self, data: bytes) -> None:
        """The reactor's: whoever is the transport's protocol now."""
        self.transport.protocol.dataReceived(data)


def test_takes_over() -> None:
    """The protocol of whoever was named has the transport from the header on, and no deadline."""
    entrance = Entrance()
    for byte in LINE[:-1]:
        entrance.receive(bytes([byte]))
    assert not entrance.built and entrance.clock.getDelayedCalls()
    entrance.receive(b"\nhello ")
    entrance.receive(b"world")
    assert entrance.built == [ProxiedAddress(IPv4Address("192.0.2.7"), 56324)]
    assert entrance.inner.events == ["made", b"hello ", b"world"]
    assert entrance.inner.transport is entrance.transport
    assert not entrance.clock.getDelayedCalls() and not entrance.refused


def test_nothing_follows() -> None:
    """A header alone brings no data; one without a source is for the connection itself."""
    entrance = Entrance()
    entrance.receive(binary(0x20, 0, b""))
    assert (entrance.built, entrance.inner.events) == ([None], ["made"])


def test_a_bad_header_ends_the_connection() -> None:
    """No answer, and nothing is built of it or of what comes after it."""
    entrance = Entrance()
    entrance.receive(b"hello\n")
    entrance.receive(LINE)
    assert entrance.transport.disconnected and not entrance.transport.value()
    assert entrance.refused == ["no PROXY header: these are not its first bytes"]
    assert not entrance.built and not entrance.clock.getDelayedCalls()


def test_a_deadline() -> None:
    """A header that is not complete in time is not waited for, however it trickles in."""
    entrance = Entrance()
    for byte in LINE[:9]:
        entrance.receive(bytes([byte]))
        entrance.clock.advance(DEADLINE / 10)
    assert not entrance.transport.disconnected
    entrance.clock.advance(DEADLINE / 10)
    assert entrance.transport.disconnected and entrance.refused == [LATE]
    entrance.receive(LINE[9:])
    assert not entrance.built


def test_whom_nobody_wants() -> None:
    """Where nothing is built the connection ends; whoever built nothing has said why."""
    entrance = Entrance(takes=False)
    entrance.receive(LINE + b"hello\n")
    assert entrance.transport.disconnected and not entrance.refused


@pytest.mark.parametrize(
    ("said", "refused"), [(b"", []), (b"PROXY", ["the connection ended inside its PROXY header"])]
)
def test_gone_before_its_header(said: bytes, refused: list[str]) -> None:
    """A proxy that only looks whether somebody is there leaves nothing, in the log either."""
    entrance = Entrance()
    if said:
        entrance.receive(said)
    entrance.protocol.connectionLost()
    assert entrance.refused == refused and not entrance.clock.getDelayedCalls()
