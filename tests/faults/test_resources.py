"""
What ten thousand connections at once take.
"""

from __future__ import annotations

import os
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.faults.look import Start, assert_quiet
from tests.issuer import Issuer
from tests.support import PATIENCE, Database, Gateway, wait_until

PLAIN: Final = 10_000

TLS: Final = int(os.environ.get("GATEWAY_TEST_TLS_CONNECTIONS", "2000"))
"""Connections with TLS: the long form sets 10,000."""

MOST_PLAIN: Final = 10_000
"""Bytes of resident memory for each plain connection."""

MOST_TLS: Final = 40_000
"""The same with TLS: a third more than was measured, 29,400."""

_BESIDE: Final = 500
"""Files of the test's own, and of the gateway's."""

_POOL: Final = 2 * 8
"""Files of the gateway's connections to the database, at most; there are fewer at first."""

_FROM: Final = [f"127.0.0.{number}" for number in range(2, 7)]
"""Addresses to come from: each has some 28,000 ports, and others use them too."""

LISTENERS: Final = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
tls = { certificate = "gateway.pem" }
"""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for all of them in this process, and in the gateway that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(PLAIN, TLS) + _BESIDE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"RLIMIT_NOFILE is {hard} here, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def gateway(many_files: None, tmp_path: Path, start_with: Start) -> Gateway:
    """A gateway with a plain listener and one with TLS."""
    (tmp_path / "gateway.pem").write_bytes(issuer_of(tmp_path).issue("localhost").file.read_bytes())
    return start_with(LISTENERS)


def issuer_of(folder: Path) -> Issuer:
    issuer = Issuer(folder)
    (folder / "authority.pem").write_bytes(issuer.pem)
    return issuer


def bytes_for_each(
    gateway: Gateway, database: Database, connect: Callable[[int], socket.socket], count: int
) -> float:
    """
    Have so many peers connected at once, each with one message that is answered C{+OK}.

    @param connect: the number of a peer -> its connection.
    @return: bytes of resident memory that the gateway takes for each.
    """
    process = psutil.Process(gateway.process.pid)
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        # What is loaded, allocated and connected once is not theirs.
        for number in range(-100, 0):
            with connect(number) as first:
                first.sendall(b"%d\n" % number)
                assert first.recv(100) == b"+OK\n"
        base = process.num_fds()
        before = process.memory_info().rss
        peers = list(threads.map(connect, range(count)))
        for peer in peers:
            stack.callback(peer.close)
        for number, peer in enumerate(peers):
            peer.sendall(b"%d\n" % number)
        answers = [peer.recv(100) for peer in peers]
        assert answers.count(b"+OK\n") == count
        assert process.num_fds() >= base + count
        taken = process.memory_info().rss - before
    assert database.execute(
        "SELECT count(*), count(DISTINCT body) FROM messages WHERE body::int >= 0"
    ) == [(count, count)]
    wait_until(lambda: process.num_fds() <= base + _POOL, "all connections are closed")
    return taken / count


def connection(port: int, number: int) -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", port), timeout=PATIENCE, source_address=(_FROM[number % len(_FROM)], 0)
    )


@pytest.mark.long
def test_plain_connections(
    gateway: Gateway, database: Database, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """
    Number 39: 10,000 connections at once are served, each takes at most 10 KB of memory, and none
    is left behind.
    """
    port = gateway.port("lines")
    each = bytes_for_each(gateway, database, lambda number: connection(port, number), PLAIN)
    record_testsuite_property("bytes_per_plain_connection", round(each))
    assert each <= MOST_PLAIN
    assert_quiet(gateway)


@pytest.mark.long
def test_tls_connections(
    gateway: Gateway,
    database: Database,
    tmp_path: Path,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """
    Number 39: connections with TLS, 2,000 here and 10,000 in the long form, since two cores make
    some 500 handshakes a second, are served at once, and their memory is recorded and bounded.
    """
    port = gateway.port("secure")
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))

    def connect(number: int) -> socket.socket:
        return context.wrap_socket(connection(port, number), server_hostname="localhost")

    each = bytes_for_each(gateway, database, connect, TLS)
    record_testsuite_property("bytes_per_tls_connection", round(each))
    assert each <= MOST_TLS
    assert_quiet(gateway)
