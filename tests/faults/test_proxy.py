"""
The fault proxy itself: a proxy that did nothing would make every test behind it hold.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.proxy import FaultProxy
from tests.support import PATIENCE


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A reset is what the tests are about."""


@pytest.fixture
def proxy(start_proxy: Callable[[str], FaultProxy]) -> Iterator[FaultProxy]:
    """A proxy before a server that says what it is told."""
    with _Server(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield start_proxy(f"tcp:127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    """A connection through the proxy that works."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client:
        _say(client, b"hello")
        yield client


def _say(client: socket.socket, data: bytes) -> float:
    """Seconds until all of it has come back, as it was."""
    began = time.monotonic()
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        more = client.recv(len(data) - len(back))
        assert more, "closed"
        back += more
    assert back == data
    return time.monotonic() - began


def test_delay(proxy: FaultProxy, client: socket.socket) -> None:
    """Either way adds its own delay, and loses nothing."""
    proxy.tell("up delay 50")
    assert _say(client, b"x" * 100_000) > 0.05
    proxy.tell("both delay 50")
    assert _say(client, b"x" * 100_000) > 0.1
    proxy.tell("both pass")
    assert _say(client, b"y" * 100_000) < 10


def test_slices_and_limits(proxy: FaultProxy, client: socket.socket) -> None:
    """Slices arrive one by one; a limit sets the pace; nothing is lost, also where much waits."""
    proxy.tell("down slice 3")
    # Whoever reads late finds several together; a hundred of them take their time all the same.
    assert _say(client, b"0123456789" * 30) > 0.09
    proxy.tell("down limit 100000")
    assert _say(client, b"x" * 30_000) > 0.2
    proxy.tell("both limit 20000000")
    sender = threading.Thread(target=client.sendall, args=(b"z" * 3_000_000,))
    sender.start()
    left = 3_000_000
    while left:
        left -= len(client.recv(left))
    sender.join()


def test_drop(proxy: FaultProxy, client: socket.socket) -> None:
    """Dropped bytes never arrive, and nobody is told."""
    proxy.tell("up drop")
    client.sendall(b"lost")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.tell("up pass")
    client.settimeout(PATIENCE)
    _say(client, b"here again")


def test_reset_close_refuse(proxy: FaultProxy, client: socket.socket) -> None:
    """Reset is RST, close is an end of the stream, refused connections get RST at once."""
    proxy.tell("close")
    assert client.recv(1) == b""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as second:
        _say(second, b"hello")
        proxy.tell("reset")
        with pytest.raises(ConnectionResetError):
            second.recv(1)
    proxy.tell("refuse")
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as third,
    ):
        third.recv(1)
    proxy.tell("accept")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as fourth:
        _say(fourth, b"hello")


def test_half_close(proxy: FaultProxy, client: socket.socket) -> None:
    """Who has said all still hears all, however late."""
    proxy.tell("both delay 20")
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"last words"
    assert client.recv(100) == b""


def test_drop_reply(proxy: FaultProxy, client: socket.socket) -> None:
    """The reply to one request is lost with its connection; others are not."""
    proxy.tell("drop-reply-to COMMIT")
    _say(client, b"BEGIN")
    client.sendall(b"COM")
    _ = client.recv(3)
    client.sendall(b"MIT")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    proxy.wait_event("dropped-reply")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as second:
        _say(second, b"COMMIT")
