"""
Notifications to a thousand subscribers, with stores going on beside them::

    python -m benchmarks.channels            # about two minutes; --quick for a third

Each NOTIFY carries the time it was said; each subscriber, a socket of its own in another
process, notes when its last byte was there. Store rates are those of C{gateway bench},
with and without NOTIFYs by turns while the subscribers stay connected. The median of the
rounds counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from tests.forking import BIN
from tests.support import Database, Gateway, TemporaryServer

BOUND_LATENCY = 0.25
"""Seconds within which 99 of 100 subscribers have a notification while stores go on."""

BOUND_RATE = 0.8
"""Of the speed of stores without notifications."""

CONFIG = """
[database]
dsn = '''{dsn}'''
[channels]
allow = ["news"]
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
"""


@dataclass(frozen=True)
class Heard:
    """
    @ivar count: notifications times subscribers.
    @ivar p50: seconds from NOTIFY to the last byte, and so on.
    """

    count: int
    p50: float
    p99: float
    longest: float


def listen(port: int, count: int) -> None:
    """
    The other process: subscribers until standard input ends; a report for each line there.
    """
    peers = {}
    waiting = select.epoll()
    for _ in range(count):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.sendall(b"LISTEN news\n")
        peers[peer.fileno()] = peer
    for peer in peers.values():
        answer = peer.recv(100)
        if answer != b"+OK\n":
            raise SystemExit(f"LISTEN was answered {answer!r}")
        peer.setblocking(False)
        waiting.register(peer, select.EPOLLIN)
    waiting.register(sys.stdin, select.EPOLLIN)
    print("listening", flush=True)
    took = array("d")
    rest = dict.fromkeys(peers, b"")
    while True:
        for number, _ in waiting.poll():
            if number == sys.stdin.fileno():
                if not sys.stdin.readline():
                    return
                print(json.dumps(took.tolist()), flush=True)
                del took[:]
                continue
            *lines, rest[number] = (rest[number] + peers[number].recv(65536)).split(b"\n")
            now = time.monotonic()
            for line in lines:
                took.append(now - float(line.split(b" ")[1]))


class Subscribers:
    """
    That process, from outside.
    """

    def __init__(self, port: int, count: int) -> None:
        self.count = count
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.channels", "--listen", str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said()

    def heard(self, due: int) -> Heard:
        """Since it was last asked, once all of it has arrived."""
        took: list[float] = []
        until = time.monotonic() + 30.0
        while len(took) < due * self.count and time.monotonic() < until:
            assert self._process.stdin is not None
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            took += json.loads(self._said())
        if len(took) != due * self.count:
            raise RuntimeError(f"{len(took)} arrived, {due * self.count} were due")
        took.sort()
        return Heard(len(took), took[len(took) // 2], took[int(len(took) * 0.99)], took[-1])

    def close(self) -> None:
        self._process.communicate()

    def _said(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the subscribers have ended")
        return line


class Notifying(threading.Thread):
    """
    Says NOTIFY so many times a second, until told to stop.
    """

    def __init__(self, dsn: str, rate: float) -> None:
        super().__init__()
        self.said = 0
        self._rate = rate
        self._stop_asked = threading.Event()
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True

    def run(self) -> None:
        begun = time.monotonic()
        with self._connection.cursor() as cursor:
            while True:
                early = begun + self.said / self._rate - time.monotonic()
                if self._stop_asked.wait(max(0.0, early)):
                    return
                cursor.execute("SELECT pg_notify('news', %s)", (f"{time.monotonic():.6f}",))
                self.said += 1

    def finish(self) -> int:
        self._stop_asked.set()
        self.join()
        self._connection.close()
        return self.said


class Bench:
    """
    A server, a gateway and its subscribers.
    """

    def __init__(self, folder: Path, subscribers: int, seconds: float) -> None:
        self.seconds = seconds
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=self.database.dsn))
        self.gateway = Gateway(("--config", str(config)), folder)
        self.gateway.wait_ready()
        self.subscribers = Subscribers(self.gateway.port("commands"), subscribers)

    def close(self) -> None:
        self.subscribers.close()
        self.gateway.end()
        self.server.stop()

    def store(self) -> float:
        """@return: messages a second, each answered after its commit."""
        self.database.execute("TRUNCATE messages")
        self.database.execute("CHECKPOINT")
        done = subprocess.run(
            [
                *(str(BIN / "gateway"), "bench", f"tcp:127.0.0.1:{self.gateway.port('lines')}"),
                *("--duration", str(self.seconds), "--json"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        rate: float = json.loads(done.stdout)["rate"]
        return rate

    def notify(self, rate: float) -> Heard:
        """Notifications alone."""
        notifying = Notifying(self.database.dsn, rate)
        notifying.start()
        time.sleep(self.seconds)
        return self.subscribers.heard(notifying.finish())

    def both(self, rate: float) -> tuple[float, Heard]:
        """Stores, and notifications meanwhile."""
        notifying = Notifying(self.database.dsn, rate)
        notifying.start()
        stored = self.store()
        return stored, self.subscribers.heard(notifying.finish())


def measure(bench: Bench, rates: list[float], rounds: int) -> bool:
    """
    @return: whether the bounds hold at the first of the rates.
    """
    holds = True
    bench.store()
    print("| NOTIFY/s | stores | p50 | p99 | longest | stores/s, of those without |")
    print("|---:|---|---:|---:|---:|---:|")
    for rate in rates:
        alone = bench.notify(rate)
        print(f"| {rate:g} | none | {milliseconds(alone)} | |", flush=True)
        without, beside, heard = [], [], []
        for _ in range(rounds):
            without.append(bench.store())
            stored, found = bench.both(rate)
            beside.append(stored)
            heard.append(found)
        ratio = statistics.median(beside) / statistics.median(without)
        middle = sorted(heard, key=lambda h: h.p99)[rounds // 2]
        print(
            f"| {rate:g} | all the time | {milliseconds(middle)}"
            f" | {statistics.median(beside):,.0f}, {ratio:.2f} |",
            flush=True,
        )
        if rate == rates[0]:
            holds = middle.p99 <= BOUND_LATENCY and ratio >= BOUND_RATE
    print(
        f"\nbounds at {rates[0]:g} NOTIFY/s: p99 <= {BOUND_LATENCY * 1000:g} ms,"
        f" stores >= {BOUND_RATE}: {'held' if holds else 'NOT HELD'}"
    )
    return holds


def milliseconds(heard: Heard) -> str:
    return " | ".join(f"{t * 1000:.1f} ms" for t in (heard.p50, heard.p99, heard.longest))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.channels")
    parser.add_argument("--quick", action="store_true", help="one round, one rate")
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--listen", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.listen is not None:
        listen(*options.listen)
        return 0
    with tempfile.TemporaryDirectory(prefix="gateway-channels-") as folder:
        bench = Bench(Path(folder), options.subscribers, 5.0)
        try:
            rates = [10.0] if options.quick else [10.0, 1.0, 100.0]
            return 0 if measure(bench, rates, 1 if options.quick else 3) else 1
        finally:
            bench.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
