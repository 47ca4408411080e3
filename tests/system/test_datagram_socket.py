"""
Sockets for datagrams: where they are, who may use them, and what the kernel drops.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from gateway.system.datagram_socket import DatagramSocket, open_socket
from gateway.system.endpoint_arguments import escaped, is_datagram, split_endpoint
from gateway.system.listening_reactor import ListenOptions


@contextmanager
def opened(text: str, options: ListenOptions | None = None) -> Iterator[DatagramSocket]:
    """A socket that is closed at the end."""
    endpoint = split_endpoint(text)
    assert endpoint is not None
    made = open_socket(None, text, endpoint, options or ListenOptions())
    try:
        yield made
    finally:
        made.close()


def send(where: DatagramSocket, *datagrams: bytes) -> None:
    """Somebody sends datagrams there."""
    with socket.socket(where.socket.family, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, where.socket.getsockname())


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("udp:514", True),
        ("unixgram:log.sock", True),
        ("systemd:domain=INET:name=x:type=datagram", True),
        ("systemd:domain=INET:name=x", False),
        ("tcp:514", False),
        ("unix:type=datagram", False),
    ],
)
def test_which_endpoints_are_for_datagrams(text: str, is_one: bool) -> None:
    """Their own two kinds, and a socket of systemd's that is said to be one."""
    assert is_datagram(text) is is_one


@pytest.mark.parametrize(
    ("text", "kind", "host"),
    [
        ("udp:0:interface=127.0.0.1", IPv4Address, "127.0.0.1"),
        ("udp:port=0", IPv4Address, "0.0.0.0"),
        (r"udp:0:interface=\:\:1", IPv6Address, "::1"),
    ],
)
def test_udp(text: str, kind: type, host: str) -> None:
    """It listens where it is told, and says where that is; datagrams arrive."""
    with opened(text) as made:
        assert isinstance(made.address, kind) and made.has_sources
        assert made.address.type == "UDP" and made.address.host == host  # type: ignore[union-attr]
        if host != "0.0.0.0":
            send(made, b"hello")
            assert made.socket.recv(99) == b"hello"


def test_a_port_in_use() -> None:
    """It is not shared, unless the listener says so."""
    with opened("udp:0:interface=127.0.0.1") as made:
        port = made.socket.getsockname()[1]
        with pytest.raises(OSError) as caught, opened(f"udp:{port}:interface=127.0.0.1"):
            pass
        assert caught.value.errno == errno.EADDRINUSE
    shared = ListenOptions(reuse_port=True)
    with opened("udp:0:interface=127.0.0.1", shared) as made:
        port = made.socket.getsockname()[1]
        with opened(f"udp:{port}:interface=127.0.0.1", shared):
            pass


def test_a_unix_socket(tmp_path: Path) -> None:
    """Its file is for its owner, or as the listener says; one left behind is replaced."""
    path = tmp_path / "log.sock"
    text = f"unixgram:{escaped(str(path))}"
    with opened(text) as made:
        assert made.address == UNIXAddress(str(path).encode()) and not made.has_sources
        assert path.stat().st_mode & 0o777 == 0o600
        send(made, b"a", b"b")
        assert [made.socket.recv(9), made.socket.recv(9)] == [b"a", b"b"]
        with pytest.raises(OSError) as caught, opened(text):
            pass
        assert caught.value.errno == errno.EADDRINUSE
    assert not path.exists()
    with opened(f"{text}:mode=660"):
        assert path.stat().st_mode & 0o777 == 0o660
    with opened(f"{text}:mode=660", ListenOptions(mode=0o622, owner=str(os.getuid()))):
        assert path.stat().st_mode & 0o777 == 0o622
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    with opened(text) as made:
        send(made, b"c")
        assert made.socket.recv(9) == b"c"
    path.write_text("mine")
    with pytest.raises(OSError, match="is no socket"), opened(text):
        pass
    assert path.read_text() == "mine"


def test_a_stream_socket_in_its_place(tmp_path: Path) -> None:
    """A listener for connections that lives is left alone."""
    path = tmp_path / "log.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(OSError, match="in use"), opened(f"unixgram:{escaped(str(path))}"):
            pass
        assert path.exists()


def test_drops() -> None:
    """What the kernel had no room for is counted once."""
    with opened("udp:0:interface=127.0.0.1", ListenOptions(receive_buffer=4096)) as made:
        assert made.take_drops() == 0
        send(made, *[b"x" * 500] * 200)
        drops = made.take_drops()
        assert 0 < drops < 200
        assert made.take_drops() == 0
        received = 0
        with pytest.raises(BlockingIOError):
            while made.socket.recv(999):
                received += 1
        assert received + drops == 200


def test_a_receive_buffer() -> None:
    """It is as large as the kernel allows; a large one is asked for by default."""
    with opened("udp:0:interface=127.0.0.1", ListenOptions(receive_buffer=100_000)) as made:
        assert made.granted >= 100_000
    with opened("udp:0:interface=127.0.0.1") as made:
        assert made.granted >= 200_000
