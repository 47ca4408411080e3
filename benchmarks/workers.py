"""
Several workers: how connections are spread, and what a message costs.

    python -m benchmarks.workers

The table is unlogged, so that the database is no bottleneck for one process. The load comes from
C{gateway bench} on the same machine: with few cores rates say little, and CPU time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.forking import BIN
from tests.support import Database, Gateway, TemporaryServer, wait_until

_CONFIG = """
[process]
workers = {workers}
[database]
dsn = '''{dsn}'''
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
table = "messages"
columns = {{ body = "@frame" }}
"""


@contextmanager
def gateway(folder: Path, database: Database, workers: int) -> Iterator[Gateway]:
    """A gateway of so many workers on an empty unlogged table."""
    database.execute("DROP TABLE IF EXISTS messages; CREATE UNLOGGED TABLE messages (body text)")
    (folder / "gateway.toml").write_text(_CONFIG.format(dsn=database.dsn, workers=workers))
    running = Gateway(("--config", "gateway.toml"), folder)
    try:
        running.wait_ready()
        if workers > 1:
            running.wait_log(f"{workers} of {workers} do")
        yield running
    finally:
        running.end()


def processes(running: Gateway) -> list[psutil.Process]:
    """The gateway's process, or the parent and its workers."""
    own = psutil.Process(running.process.pid)
    return [own, *(one for one in own.children() if "gateway.daemon.worker" in one.cmdline())]


def spread(running: Gateway, count: int) -> list[int]:
    """Connections that each worker has of so many."""
    sockets = [socket.create_connection(("127.0.0.1", running.port("lines"))) for _ in range(count)]

    def counts() -> list[int]:
        return [
            sum(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections("inet4"))
            for worker in processes(running)[1:]
        ]

    try:
        wait_until(lambda: sum(counts()) == count, "all are passed")
        return sorted(counts(), reverse=True)
    finally:
        for one in sockets:
            one.close()


def cpu(running: Gateway) -> dict[int, float]:
    """Process -> seconds of CPU."""
    times = {one.pid: one.cpu_times() for one in processes(running)}
    return {pid: used.user + used.system for pid, used in times.items()}


def measure(running: Gateway, connections: int, window: int, seconds: float) -> str:
    """Rate and CPU of a load."""
    before = cpu(running)
    done = subprocess.run(
        [
            *(BIN / "gateway", "bench", f"tcp:127.0.0.1:{running.port('lines')}", "--json"),
            *("--connections", str(connections), "--window", str(window)),
            *("--duration", str(seconds)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    after = cpu(running)
    used = {pid: after[pid] - before[pid] for pid in before}
    total = sum(used.values()) / report["sent"] * 1e6
    parent = used[running.process.pid] / report["sent"] * 1e6 if len(used) > 1 else 0.0
    return (
        f"{connections:4} peers, window {window:4}: {report['rate']:9,.0f} messages/s,"
        f" {total:6.2f} us of CPU a message, of which the parent {parent:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server").mkdir()
        server = TemporaryServer(folder / "server")
        server.start()
        try:
            database = Database(server.embedded.dsn)
            for workers in (1, 2, 4):
                with gateway(folder, database, workers) as running:
                    print(f"{workers} workers", flush=True)
                    if workers > 1:
                        for count in (16, 1000):
                            began = time.monotonic()
                            found = spread(running, count)
                            took = time.monotonic() - began
                            print(f"  {count} connections: {found}, in {took:.2f} s", flush=True)
                    for connections, window in ((64, 1), (16, 1000)):
                        print(f"  {measure(running, connections, window, options.seconds)}")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
