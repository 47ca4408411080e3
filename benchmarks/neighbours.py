"""
What fifty ordinary peers notice of bad neighbours::

    python -m benchmarks.neighbours            # about three minutes; --quick for a third

Each ordinary peer sends a message ten times a second and waits for its answer. Their
latencies are taken alone and beside a neighbour, by turns: one that floods (lines, as
fast as they are taken), the same where the listener limits its rate, 2,000 that
have connected to a TLS listener and never finish their handshake, and 210 of fourteen
hostile kinds (L{tests.faults.hostile}) at listeners with limits. The median of the rounds
counts, as a ratio to the turn without.

The server has written a gigabyte of log before, and keeps the files: to make new ones it
stops every commit for some 50 ms each, whoever it is that writes so much.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import trustme

from tests.faults import hostile
from tests.support import Database, Gateway, TemporaryServer

ORDINARY = 50

EVERY = 0.1
"""Seconds between two messages of an ordinary peer."""

HALF_OPEN = 2000

Beside = Callable[[], AbstractContextManager[None]]
"""Has a neighbour for as long as it is entered."""

BOUND = 2.0
"""p99 beside a neighbour over p99 without."""

CONFIG = """
[database]
dsn = '''{dsn}'''
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.limited]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
messages_per_second = 1000
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
tls = {{ certificate = "server.pem", handshake_timeout = 60 }}
"""

HOSTILE = 15
"""Peers of each hostile kind."""

LIMITS = "messages_per_second = 200\nbytes_per_second = 1000000\n"
"""What a listener that strangers reach has, see docs/security.md."""


def ordinary(port: int, seconds: float) -> list[float]:
    """
    @return: seconds from each message to its answer, sorted.
    """
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(ORDINARY)]
    by_number = {peer.fileno(): peer for peer in peers}
    waiting = select.epoll()
    for peer in peers:
        waiting.register(peer, select.EPOLLIN)
    begun = time.monotonic()
    due = [(begun + EVERY * place / ORDINARY, peer.fileno()) for place, peer in enumerate(peers)]
    sent: dict[int, float] = {}
    took = []
    while True:
        now = time.monotonic()
        if now > begun + seconds and not sent:
            break
        while due and due[0][0] <= now and now <= begun + seconds:
            when, number = heapq.heappop(due)
            if number in sent:  # not answered yet: the next one later, as a device would
                heapq.heappush(due, (when + EVERY, number))
                continue
            by_number[number].sendall(b"x" * 100 + b"\n")
            sent[number] = now
            heapq.heappush(due, (when + EVERY, number))
        timeout = max(0.0, due[0][0] - time.monotonic()) if now <= begun + seconds else 1.0
        for number, _ in waiting.poll(timeout):
            if by_number[number].recv(4096):
                took.append(time.monotonic() - sent.pop(number))
    for peer in peers:
        peer.close()
    return sorted(took)


def flood(port: int) -> None:
    """
    The other process: lines as fast as they are taken, answers read and thrown away.
    """
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setblocking(False)
    data = (b"f" * 100 + b"\n") * 600
    rest = data
    print("flooding", flush=True)
    while True:
        readable, writable, _ = select.select([peer], [peer], [])
        if readable and not peer.recv(1 << 20):
            return
        if writable:
            rest = rest[peer.send(rest) :] or data


@contextmanager
def flooding(port: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.neighbours", "--flood", str(port)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def half_open(port: int) -> Iterator[None]:
    peers = []
    for _ in range(HALF_OPEN):
        peer = socket.create_connection(("127.0.0.1", port))
        # The beginning of a record that says it is longer.
        peer.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        peers.append(peer)
    # One that is served came after all of them.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    last = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
    last.sendall(b"hello\n")
    last.recv(100)
    try:
        yield
    finally:
        for peer in (last, *peers):
            peer.close()


@contextmanager
def attacked(gateway: Gateway) -> Iterator[None]:
    names = {kind.listener for kind in hostile.KINDS.values()}
    ports = {name: gateway.port(f"public_{name}") for name in names}
    with hostile.hostile_peers(ports, HOSTILE):
        time.sleep(1)  # what they begin with is over
        yield
    rss = psutil.Process(gateway.process.pid).memory_info().rss
    print(f"{'':18} {rss / 2**20:.0f} MiB of resident memory beside them")


def write_log(database: Database) -> None:
    """
    Have the server write a gigabyte of log.
    """
    for name, size in (("min_wal_size", "1GB"), ("max_wal_size", "4GB")):
        database.execute(f"ALTER SYSTEM SET {name} = '{size}'")
    database.execute("SELECT pg_reload_conf()")
    for _ in range(5):
        database.execute(
            "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
        )
        database.execute("DROP TABLE filler")
    database.execute("CHECKPOINT")


def p99(took: list[float]) -> float:
    return took[int(len(took) * 0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--flood", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood is not None:
        flood(options.flood)
        return
    seconds, rounds = (4.0, 2) if options.quick else (8.0, 3)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="gateway-neighbours-") as name:
        folder = Path(name)
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            folder / "server.pem"
        )
        server = TemporaryServer(folder)
        server.start()
        database = Database(server.embedded.dsn)
        write_log(database)
        config = folder / "gateway.toml"
        public = hostile.CONFIG.replace("[listeners.", "[listeners.public_")
        public = public.replace("endpoint =", f"{LIMITS}endpoint =")
        config.write_text(CONFIG.format(dsn=database.dsn) + public)
        gateway = Gateway(("--config", str(config)), folder)
        try:
            gateway.wait_ready()
            neighbours: dict[str, Beside] = {
                "a flood": lambda: flooding(gateway.port("lines")),
                "a flood, limited": lambda: flooding(gateway.port("limited")),
                "half-open TLS": lambda: half_open(gateway.port("secure")),
                "hostile peers": lambda: attacked(gateway),
            }
            measure(gateway, database, neighbours, seconds, rounds)
        finally:
            gateway.end()
            server.stop()


def measure(
    gateway: Gateway,
    database: Database,
    neighbours: dict[str, Beside],
    seconds: float,
    rounds: int,
) -> None:
    port = gateway.port("lines")
    ordinary(port, 1.0)
    ratios: dict[str, list[float]] = {name: [] for name in neighbours}
    for _ in range(rounds):
        for name, beside in neighbours.items():
            database.execute("TRUNCATE messages")
            database.execute("CHECKPOINT")
            ordinary(port, 1.0)  # what comes after a checkpoint first is slow
            alone = ordinary(port, seconds)
            with beside():
                took = ordinary(port, seconds)
            stored = database.column("SELECT count(*) FROM messages")[0]
            ratios[name].append(p99(took) / p99(alone))
            print(
                f"{name:18} p50 {took[len(took) // 2] * 1e3:7.2f} ms, p99 {p99(took) * 1e3:7.2f} ms"
                f"   alone p99 {p99(alone) * 1e3:6.2f} ms   {stored / 2 / seconds:,.0f} stored/s",
                flush=True,
            )
    for name, found in ratios.items():
        ratio = statistics.median(found)
        print(f"{name:18} p99 {ratio:.2f} x (bound {BOUND}){'' if ratio < BOUND else '  MISSED'}")


if __name__ == "__main__":
    main()
