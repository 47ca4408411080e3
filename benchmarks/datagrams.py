"""
Datagrams stored in a second, beside lines in the same run::

    python -m benchmarks.datagrams            # about two minutes; --quick for half of one

Lines are ``gateway bench``'s, 16 connections with 1,000 unanswered messages each. Datagrams come
from one socket: first as many as it sends, of which the kernel drops what the gateway does not
read in time; then at a rate that rises as long as nothing is lost. Each datagram is stored or
counted as lost, or this ends with 1.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.forking import BIN
from tests.support import Database, Gateway, TemporaryServer, wait_until

SIZE: Final = 100

AT_ONCE: Final = 50
"""Datagrams of one system call; the kernel cuts them (UDP_SEGMENT), as otherwise the sender would
be what is measured."""

UDP_SEGMENT: Final = 103
"""From include/uapi/linux/udp.h."""

STEP: Final = 1.25

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.peers]
endpoint = "udp:0:interface=127.0.0.1"
route = "messages"
receive_buffer = "16MB"
[listeners.bare]
endpoint = "udp:0:interface=127.0.0.1"
route = "bare"
receive_buffer = "16MB"
[routes.messages]
table = "messages"
create = true
[routes.bare]
table = "messages"
columns = {{ body = "@frame" }}
"""


class Bench:
    """
    A server, and a gateway with a listener of each kind.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=self.database.dsn))
        self.gateway = Gateway(("--config", str(config)), folder)
        self.gateway.wait_ready()

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def empty(self) -> None:
        """The same start for everybody."""
        for statement in ("TRUNCATE messages", "VACUUM", "CHECKPOINT"):
            self.database.execute(statement)

    def stored(self) -> int:
        count: int = self.database.column("SELECT count(*) FROM messages")[0]
        return count

    def lost(self) -> int:
        """Datagrams lost since the start of the gateway."""
        _, text = self.gateway.get("/metrics")
        found = re.findall(r"^gateway_datagrams_lost_total\{.*\} (\S+)", text, re.MULTILINE)
        return int(sum(map(float, found)))

    def lines(self) -> float:
        """Messages a second, by gateway bench."""
        self.empty()
        done = subprocess.run(
            [
                *(str(BIN / "gateway"), "bench", f"tcp:127.0.0.1:{self.gateway.port('lines')}"),
                *("--json", "--size", str(SIZE), "--duration", str(self.seconds)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(json.loads(done.stdout)["rate"])

    def datagrams(self, listener: str, rate: float | None) -> tuple[float, int, int]:
        """
        @param rate: datagrams a second; C{None}: as many as go.
        @return: messages stored a second, how many were sent, and how many of them were lost.
        """
        self.empty()
        before = self.lost()
        sent = 0
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
            sender.connect(("127.0.0.1", self.gateway.port(listener)))
            block = b"x" * SIZE * AT_ONCE
            begun = time.monotonic()
            while (passed := time.monotonic() - begun) < self.seconds:
                if rate is not None and sent > passed * rate:
                    time.sleep(0.001)
                    continue
                sender.send(block)
                sent += AT_ONCE
        wait_until(lambda: self.stored() + self.lost() - before >= sent, "each is accounted for")
        seconds = time.monotonic() - begun
        stored, lost = self.stored(), self.lost() - before
        if stored + lost != sent:
            raise RuntimeError(f"{sent} sent, {stored} stored, {lost} lost")
        return stored / seconds, sent, lost

    def without_loss(self, listener: str, rate: float) -> float:
        """
        @return: the highest rate at which nothing was lost.
        """
        best = 0.0
        while True:
            stored, _, lost = self.datagrams(listener, rate)
            print(f"  at {rate:9,.0f}/s: {stored:9,.0f} stored/s, {lost:,} lost", flush=True)
            if lost or stored < rate / 2:
                return best
            best = rate
            rate *= STEP


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        bench = Bench(Path(folder), 1.0 if options.quick else 4.0)
        try:
            lines = bench.lines()
            print(f"lines, 16 x 1000: {lines:,.0f} messages/s", flush=True)
            for listener, what in (("peers", "with @peer"), ("bare", "without")):
                stored, sent, lost = bench.datagrams(listener, None)
                print(
                    f"datagrams, {what}, a flood: {stored:,.0f} stored/s ({stored / lines:.2f} of"
                    f" lines); {sent:,} sent, {lost:,} dropped by the kernel, all counted"
                )
                best = bench.without_loss(listener, 50_000.0)
                print(f"datagrams, {what}, without a loss: {best:,.0f}/s ({best / lines:.2f})")
        finally:
            bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
