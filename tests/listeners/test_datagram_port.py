"""
The port of a listener for datagrams, on real sockets, with a reactor that only notes its readers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from gateway.listeners.admission import Admission
from gateway.listeners.datagram_port import MAX_DATAGRAMS, DatagramEndpoint, DatagramPort
from gateway.system.endpoint_arguments import split_endpoint
from gateway.system.listening_reactor import ListenOptions
from tests.in_memory import Bench, give, take


class Readers(Clock):
    """
    A reactor that notes whom it would read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reading: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.reading.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.reading.discard(reader)


class Listening:
    """
    A listener on a port of this machine, and a sender.
    """

    def __init__(self, receive_buffer: int | None = None) -> None:
        self.bench = Bench(held=False)
        self.reactor = Readers()
        text = "udp:0:interface=127.0.0.1"
        arguments = split_endpoint(text)
        assert arguments is not None
        options = ListenOptions(receive_buffer=receive_buffer)
        endpoint = DatagramEndpoint(self.reactor, text, arguments, options)
        found: list[Any] = []
        endpoint.listen(Admission(self.bench.factory, self.bench.clock)).addBoth(found.append)
        (self.port,) = found
        assert isinstance(self.port, DatagramPort)
        self._sender = socket.socket(type=socket.SOCK_DGRAM)
        host = self.port.getHost()
        self._sender.connect((host.host, host.port))  # type: ignore[attr-defined]

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self._sender.send(datagram)

    @property
    def stored(self) -> list[bytes]:
        return [message for _, message in self.bench.store.rows]

    def close(self) -> None:
        self._sender.close()
        self.port.connectionLost()


@pytest.fixture
def here() -> Iterator[Listening]:
    listening = Listening()
    yield listening
    listening.close()


def test_a_turn(here: Listening) -> None:
    """A turn of the reactor reads what is there, and no more than its share."""
    assert here.reactor.reading == {here.port}
    here.port.doRead()
    assert here.stored == []
    here.send(b"a", b"b")
    here.port.doRead()
    assert here.stored == [b"a", b"b"]
    here.send(*[b"x"] * (MAX_DATAGRAMS + 5))
    here.port.doRead()
    assert len(here.stored) == 2 + MAX_DATAGRAMS
    here.port.doRead()
    assert len(here.stored) == 2 + MAX_DATAGRAMS + 5


def test_when_it_is_read(here: Listening) -> None:
    """Not before a reload lets it, and not while the gateway holds too much."""
    here.port.stopReading()
    assert here.reactor.reading == set()
    take(here.bench.inflight_limit, 1_000_001)
    here.port.startReading()
    assert here.reactor.reading == set()
    give(here.bench.inflight_limit, 1_000_001)
    assert here.reactor.reading == {here.port}


def test_the_end(here: Listening) -> None:
    """What has come is taken, then the socket is closed; a second time nothing happens."""
    here.send(*[b"x"] * (MAX_DATAGRAMS + 5))
    here.port.stopListening()
    assert len(here.stored) == MAX_DATAGRAMS + 5
    assert here.reactor.reading == set() and here.port.fileno() == -1
    here.port.stopListening()
    here.port.connectionLost()
    take(here.bench.inflight_limit, 1_000_001)
    give(here.bench.inflight_limit, 1_000_001)
    assert here.reactor.reading == set()


def test_a_bug_closes_no_port(here: Listening) -> None:
    """It is logged, and the next datagrams are taken."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError

    dialect, here.bench.factory.dialect = here.bench.factory.dialect, Broken()
    here.send(b"a")
    with capturedLogs() as events:
        here.port.doRead()
    assert [e["event"] for e in events] == ["datagrams-failed"]
    here.bench.factory.dialect = dialect
    here.send(b"b")
    here.port.doRead()
    assert here.stored == [b"b"]


def test_a_receive_buffer_that_the_kernel_does_not_give() -> None:
    """The log says how large it is, and what would change that."""
    with capturedLogs() as events:
        listening = Listening(receive_buffer=2**31 - 1)
        listening.close()
    (line,) = [str(formatEvent(event)) for event in events if "event" in event]
    assert line.startswith("listener lines: receive_buffer is ")
    assert line.endswith("sysctl net.core.rmem_max=2147483647")


def test_a_port_in_use(here: Listening) -> None:
    """The reason is told as for other ports."""
    host: Any = here.port.getHost()
    text = f"udp:{host.port}:interface=127.0.0.1"
    arguments = split_endpoint(text)
    assert arguments is not None
    endpoint = DatagramEndpoint(here.reactor, text, arguments, ListenOptions())
    found: list[Any] = []
    endpoint.listen(Admission(here.bench.factory, here.bench.clock)).addBoth(found.append)
    assert isinstance(found[0], Failure) and found[0].check(CannotListenError)
    assert "Address already in use" in str(found[0].value)
