"""
Listeners under load: too many connections, no files left, a reconnect storm; others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.support import Database, Gateway, Peer, wait_until

Start = Callable[..., Gateway]

LISTENERS = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
"""

BUSY = b"-BYE BUSY :too many connections; try again later\n"


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as stack:
        yield stack


def test_no_files_left(database: Database, start_gateway: Start, peers: ExitStack) -> None:
    """
    With 256 files, 400 peers that come at once are served or told to come later, none hangs;
    those who are in go on, the database's connections are renewed, and when some have left
    others come in.
    """
    limited = ("prlimit", "--nofile=256:256")
    gateway = start_gateway(
        *("--database", database.dsn, "--line", "tcp:0:interface=127.0.0.1"), wrapper=limited
    )
    room = int(gateway.wait_log(r"limits.connections: 16384 .* at most (\d+);")[1])
    crowd = [gateway.connect() for _ in range(400)]
    for peer in crowd:
        peers.callback(peer.close)
    wait_until(lambda: sum(not peer.readable(0) for peer in crowd) == room, "the rest is told")
    inside = [peer for peer in crowd if not peer.readable(0)]
    assert len(inside) == room and room > 64
    told = [peer.read_all() for peer in crowd if peer not in inside]
    assert set(told) == {BUSY, b""} and told.count(BUSY) >= 32
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for peer in inside:
        peer.send(b"in\n")
    for peer in inside:
        assert peer.read_lines(1) == [b"+OK"]
    for peer in inside[:50]:
        peer.close()
    process = psutil.Process(gateway.process.pid)
    wait_until(lambda: len(process.net_connections()) < room - 20, "they have left")
    late = [gateway.connect() for _ in range(40)]
    for peer in late:
        peers.callback(peer.close)
        peer.send(b"late\n")
    assert [peer.read_lines(1) for peer in late] == [[b"+OK"]] * 40
    assert len(database.bodies()) == room + 40
    assert "Traceback" not in gateway.log


def test_limits_of_connections(start_with: Start, peers: ExitStack) -> None:
    """A listener's limit and that of an address hold on real sockets, each with its own words."""
    gateway = start_with(
        LISTENERS
        + "max_connections = 3\nframe_timeout = 2.0\n"
        + LISTENERS.replace("lines", "shared")
        + "max_connections_per_address = 2\n"
    )

    def connect(listener: str) -> Peer:
        peer = gateway.connect(listener)
        peers.callback(peer.close)
        return peer

    for listener, most, words in (
        ("lines", 3, b"connections at this listener"),
        ("shared", 2, b"connections from this address"),
    ):
        inside = [connect(listener) for _ in range(most)]
        for peer in inside:
            peer.send(b"x\n")
            assert peer.read_lines(1) == [b"+OK"]
        assert connect(listener).ask(b"x\n") == b"-BYE BUSY :too many %s; try again later\n" % words
        inside[0].close()
        wait_until(lambda at=listener: connect(at).ask(b"x\n") == b"+OK\n", "there is room again")
    gateway.wait_log("disconnected: too many connections at this listener; try again later")


def test_a_reconnect_storm(start_with: Start, database: Database) -> None:
    """Thousands that come and go at once leave nothing behind, and few lines in the log."""
    gateway = start_with(LISTENERS + "max_connections = 20\n")
    process = psutil.Process(gateway.process.pid)
    assert gateway.connect().ask(b"first\n") == b"+OK\n"
    before = process.num_fds()
    for _ in range(40):
        crowd = [gateway.connect() for _ in range(50)]
        for peer in crowd:
            peer.close()

    def stores_last() -> bool:
        # Some of the crowd may still wait in the kernel to be accepted.
        with suppress(ConnectionError):
            return gateway.connect().ask(b"last\n") == b"+OK\n"
        return False

    wait_until(stores_last, "there is room again")
    wait_until(lambda: process.num_fds() <= before, "all have left")
    assert database.bodies() == ["first", "last"]
    assert gateway.log.count("disconnected") < 20


@pytest.mark.long
def test_a_flood_is_held_to_its_rate(start_with: Start, database: Database) -> None:
    """
    Who sends ten thousand at once has so many stored as the rate lets through, each of the others
    refused, and is read so slowly that a neighbour does not notice.
    """
    gateway = start_with(
        LISTENERS + "messages_per_second = 1000\n" + LISTENERS.replace("lines", "others")
    )
    flood, neighbour = gateway.connect(), gateway.connect("others")
    flood.send(b"x\n" * 10_000)
    for _ in range(20):
        neighbour.send(b"y\n")
        assert neighbour.read_lines(1) == [b"+OK"]
    neighbour.close()
    flood.finish()
    answers = flood.read_all().splitlines()
    flood.close()
    assert len(answers) == 10_000
    stored = answers.count(b"+OK")
    over = b"-TRY RATE retry=1 :more than this listener takes from one peer"
    assert answers.count(over) == 10_000 - stored
    assert stored >= 1000
    assert len(database.bodies()) == stored + 20
