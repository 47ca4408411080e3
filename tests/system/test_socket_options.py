"""
What the kernel does for a connection, asked of real ones.
"""

from __future__ import annotations

import socket

import pytest

from gateway.system.socket_options import SocketOptions, carrier_of, keep_alive, unread
from tests.in_memory import Bench, OnSocket
from tests.support import wait_until


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def option(connection: socket.socket, name: str) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


@pytest.mark.parametrize("seconds", [1, 2.5, 7, 60, 32767])
def test_a_vanished_peer_is_given_up_in_time(seconds: float) -> None:
    """Silence, then probes: together about twice the seconds; data has as long."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        keep_alive(ours, seconds)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        silence = option(ours, "TCP_KEEPIDLE")
        probing = option(ours, "TCP_KEEPINTVL") * option(ours, "TCP_KEEPCNT")
        assert seconds <= silence < seconds + 1
        assert 0 < probing <= silence
        assert option(ours, "TCP_USER_TIMEOUT") == 2000 * silence


def test_every_tcp_peer_is_asked() -> None:
    """The listener's keepalive reaches the sockets of those who connect, TCP only."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        Bench(socket_options=SocketOptions(keepalive=9), transport=OnSocket(ours))
        assert option(ours, "TCP_KEEPIDLE") == 9
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Bench(socket_options=SocketOptions(keepalive=9), transport=OnSocket(ours))
        assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_was_taken_is_seen(kind: str) -> None:
    """What the other end has not read is known, and shrinks as it reads."""
    ours, theirs = tcp_pair() if kind == "tcp" else socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert unread(ours) == 0
        sent = 0
        while True:
            try:
                sent += ours.send(bytes(65536))
            except BlockingIOError:
                break
        full = unread(ours)
        assert full
        taken = 0
        while taken < sent:
            taken += len(theirs.recv(65536))
        wait_until(lambda: unread(ours) == 0, "everything is taken")


def test_the_socket_below_tls() -> None:
    """A transport on top of another has the socket of that one; one in memory has none."""

    class OnTop:
        def __init__(self, transport: object) -> None:
            self.transport = transport

        def getHandle(self) -> object:
            return object()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        below = OnSocket(ours)
        assert carrier_of(below) is ours and carrier_of(OnTop(below)) is ours
    assert carrier_of(object()) is None
