"""
CALL of a query of one row beside C{pgbench -S}, on the same table of the same server::

    python -m benchmarks.queries            # about two minutes; --quick for a quarter of one

64 clients each, and each waits for its answer before it asks again. pgbench sends its query
straight to the server, as text as it does by itself, and then prepared as well; CALL goes
through a gateway, which prepares and puts calls together. One after the other, several
times; the median of the ratios to C{pgbench -S} as it is counts. With it, what 64 coroutines
reach without the wire, and one client alone. Exits with 1 where the ratio is under the bound
or an answer is wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.support import Database, Gateway, TemporaryServer

ROOT: Final = Path(__file__).parent.parent
BOUND: Final = 0.5
CLIENTS: Final = 64
SCALE: Final = 10
ROWS: Final = 100_000 * SCALE

SQL: Final = "SELECT abalance FROM pgbench_accounts WHERE aid = %(aid)s"

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[queries.balance]
sql = "{sql}"
params = {{ aid = {{ type = "integer" }} }}
"""

ANSWER: Final = b'*1\n{"abalance":0}\n'


class Bench:
    """
    A server with pgbench's tables, and a gateway on it.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        self._pgbench("-i", "-q", "-s", str(SCALE))
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=self.database.dsn, sql=SQL))
        self.gateway = Gateway(("--config", str(config)), folder)
        self.gateway.wait_ready()

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def pgbench(self, clients: int, mode: str = "simple") -> float:
        """
        Queries a second.

        @param mode: pgbench's C{-M}; C{simple} is its own choice.
        """
        said = self._pgbench(
            *("-n", "-S", "-M", mode, "-c", str(clients), "-j", str(min(clients, 2))),
            *("-T", str(int(self.seconds))),
        )
        return float(re.findall(r"tps = ([\d.]+)", said)[0])

    def call(self, clients: int) -> float:
        """Calls a second, over the wire."""
        return load(self.gateway.port("commands"), clients, self.seconds)

    def inside(self, clients: int) -> float:
        """Calls a second, of coroutines in a process of their own."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.inside", self.database.dsn),
                *(str(clients), str(self.seconds)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return float(done.stdout)

    def _pgbench(self, *arguments: str) -> str:
        binary = self.server.embedded.binaries / "pgbench"
        command = [str(binary), *arguments, self.database.dsn]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def load(port: int, clients: int, seconds: float) -> float:
    """
    Have so many connections call, each with one call in flight.

    @return: calls a second.
    @raise RuntimeError: an answer is not the row.
    """
    frames = [b'CALL balance {"aid":%d}\n' % random.randint(1, ROWS) for _ in range(100_000)]
    peers = {}
    for _ in range(clients):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peers[peer.fileno()] = peer
    poll = select.epoll()
    for number in peers:
        poll.register(number, select.EPOLLIN)
    count = 0
    try:
        begun = time.monotonic()
        for peer in peers.values():
            peer.send(frames[count])
            count += 1
        waiting = clients
        while waiting:
            going_on = time.monotonic() - begun < seconds
            for number, _ in poll.poll():
                peer = peers[number]
                answer = peer.recv(4096)
                if answer != ANSWER:  # so small that it comes in one piece
                    raise RuntimeError(f"answered {answer!r}")
                if going_on:
                    peer.send(frames[count % len(frames)])
                    count += 1
                else:
                    waiting -= 1
        return count / (time.monotonic() - begun)
    finally:
        poll.close()
        for peer in peers.values():
            peer.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries")
    parser.add_argument("--quick", action="store_true", help="one small pair")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
        bench = Bench(Path(folder), 3.0 if options.quick else 5.0)
        try:
            columns = ("pgbench/s", "prepared/s", "CALL/s", "inside/s", "ratio", "prepared")
            print(f"{'':12}" + "".join(f"{column:>12}" for column in columns), flush=True)
            found = []
            for _ in range(1 if options.quick else options.pairs):
                plain, calls = bench.pgbench(CLIENTS), bench.call(CLIENTS)
                prepared, alone = bench.pgbench(CLIENTS, "prepared"), bench.inside(CLIENTS)
                found.append((calls / plain, calls / prepared))
                rates = f"{plain:12,.0f}{prepared:12,.0f}{calls:12,.0f}{alone:12,.0f}"
                ratios = f"{calls / plain:12.2f}{calls / prepared:12.2f}"
                print(f"{CLIENTS:>3} clients {rates}{ratios}", flush=True)
            one, call = bench.pgbench(1), bench.call(1)
            print(f"  1 client  {one:12,.0f}{'':12}{call:12,.0f}{'':12}{call / one:12.2f}")
        finally:
            bench.close()
    ratio, strict = (statistics.median(ratios) for ratios in zip(*found, strict=True))
    print(f"median of the ratios: {ratio:.2f} (bound {BOUND}), to prepared ones {strict:.2f}")
    return 0 if ratio >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
