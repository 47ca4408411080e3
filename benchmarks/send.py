"""
``gateway send`` beside ``gateway bench``, one connection each, the same window and messages::

    python -m benchmarks.send            # about three minutes; --quick for half of one

``bench`` sends slices of one prepared block and only counts answers; ``send`` reads a file, cuts
it into lines, keeps what is not answered, and knows each message's answer. Pairs of both,
one after the other, on an emptied table; the median of the pairs' ratios counts. Exits with 1
where it is under the bound, or the table does not hold what was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.forking import BIN
from tests.support import LISTEN, Database, Gateway, TemporaryServer

BOUND: Final = 0.7
WINDOW: Final = 1000
SIZE: Final = 100


class Bench:
    """
    A server, a gateway, and a file to send.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        self.gateway = Gateway(("--database", self.database.dsn, *LISTEN), folder)
        self.gateway.wait_ready()
        alphabet = string.ascii_letters + string.digits + " "
        block = "".join(f"{''.join(random.choices(alphabet, k=SIZE))}\n" for _ in range(1000))
        self.file = folder / "messages"
        with self.file.open("w") as file:
            for _ in range(count // 1000):
                file.write(block)
        self._streams = 0

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def bench(self, listener: str, *arguments: str) -> float:
        """By gateway bench: messages a second."""
        return self._rate(
            *("bench", self._endpoint(listener), "--json", "--connections", "1"),
            *("--count", str(self.count), "--size", str(SIZE), *arguments),
        )

    def send(self, listener: str, *arguments: str) -> float:
        """By gateway send."""
        return self._rate(
            *("send", "-e", self._endpoint(listener), "--json", str(self.file), *arguments)
        )

    def stream(self, listener: str) -> float:
        """By gateway send, as a stream that is new each time."""
        self._streams += 1
        return self.send(listener, "--stream", f"benchmark-{self._streams}")

    def _endpoint(self, listener: str) -> str:
        return f"tcp:127.0.0.1:{self.gateway.port(listener)}"

    def _rate(self, *arguments: str) -> float:
        self.database.execute("TRUNCATE messages")
        self.database.execute("CHECKPOINT")
        done = subprocess.run(
            [str(BIN / "gateway"), *arguments, "--window", str(WINDOW)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
        report = json.loads(done.stdout)
        (stored,) = self.database.column("SELECT count(*) FROM messages")
        if not stored == report["sent"] == self.count:
            raise RuntimeError(f"{report['sent']} acknowledged, {stored} in the table")
        rate: float = report["rate"]
        return rate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.send")
    parser.add_argument("--quick", action="store_true", help="one small pair of each")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    pairs = 1 if options.quick else options.pairs
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
        bench = Bench(Path(folder), 200_000 if options.quick else 500_000)
        put = ("--route", "messages")
        kinds: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
            "lines": (lambda: bench.bench("lines"), lambda: bench.send("lines")),
            "netstrings": (
                lambda: bench.bench("netstrings", "--framing", "netstring"),
                lambda: bench.send("netstrings", "--framing", "netstring"),
            ),
            "PUT": (
                lambda: bench.bench("commands", *put),
                lambda: bench.send("commands", *put),
            ),
            "PUT, --stream": (
                lambda: bench.bench("commands", *put),
                lambda: bench.stream("commands"),
            ),
        }
        print(f"{'':16}{'bench/s':>12}{'send/s':>12}{'ratio':>8}   (bound {BOUND})")
        missed = False
        try:
            for name, (by_bench, by_send) in kinds.items():
                found = [(by_bench(), by_send()) for _ in range(pairs)]
                ratio = statistics.median(send / load for load, send in found)
                load, send = (statistics.median(rates) for rates in zip(*found, strict=True))
                print(f"{name:16}{load:12,.0f}{send:12,.0f}{ratio:8.2f}", flush=True)
                missed = missed or ratio < BOUND
        finally:
            bench.close()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
