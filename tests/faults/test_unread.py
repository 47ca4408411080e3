"""
Peers that ask and do not listen: what they are told waits for them, and no more is begun.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from typing import Final

import psutil

from tests.faults.look import Start, assert_quiet
from tests.support import Database, Gateway

CONFIG: Final = """
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[queries.big]
sql = "SELECT repeat('x', 100000) AS x"
"""

HOSTILE: Final = 5

ROOM: Final = 64 * 2**20
"""Bytes that the gateway may grow by: some answers of 100,000 bytes each, and what they came in."""


def fill(peer: socket.socket, lines: bytes) -> int:
    """Send as much as the kernel takes."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += peer.send(lines, socket.MSG_DONTWAIT)
    return sent


def asks(gateway: Gateway) -> float:
    """Seconds that a peer who listens waits for its answer."""
    with socket.create_connection(("127.0.0.1", gateway.port("commands"))) as peer:
        began = time.monotonic()
        peer.sendall(b"CALL big\n")
        answer = b""
        while not answer.endswith(b"}\n"):
            answer += peer.recv(1 << 16)
        assert answer.startswith(b"*1\n") and len(answer) > 100_000
        return time.monotonic() - began


def test_answers_that_nobody_reads(database: Database, start_with: Start) -> None:
    """Queries sent without end by peers that read nothing cost a bounded amount of memory, and
    others their time, no more; whoever reads then has every answer."""
    gateway = start_with(CONFIG, dsn=database.dsn)
    asks(gateway)
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        peers = []
        for _ in range(HOSTILE):
            peers.append(stack.enter_context(socket.socket()))
            peers[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peers[-1].connect(("127.0.0.1", gateway.port("commands")))
        sent = 0
        until = time.monotonic() + 3
        while time.monotonic() < until:
            sent += sum(fill(peer, b"CALL big\n" * 1000) for peer in peers)
            assert process.memory_info().rss - before < ROOM
            asks(gateway)
        assert sent > 10_000 * HOSTILE
        peers[0].settimeout(30)
        told = 0
        while told < 30:
            told += peers[0].recv(1 << 20).count(b"*1\n")
    asks(gateway)
    assert_quiet(gateway)
