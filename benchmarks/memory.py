"""
Memory of the gateway: over ten million messages, and with ten thousand idle connections.

    python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import resource
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from tests.forking import BIN
from tests.support import LISTEN, Gateway, TemporaryServer, wait_until


def rss(gateway: Gateway) -> int:
    """Resident memory of the gateway in bytes."""
    memory: int = psutil.Process(gateway.process.pid).memory_info().rss
    return memory


def many_messages(gateway: Gateway, count: int) -> None:
    """
    Samples while the load runs; a leak would show as a slope.
    """
    port = gateway.port("lines")
    load = subprocess.Popen(
        [str(BIN / "gateway"), "bench", f"tcp:127.0.0.1:{port}", "--count", str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    samples = []
    while load.poll() is None:
        samples.append(rss(gateway))
        time.sleep(0.5)
    assert load.stdout is not None
    print(load.stdout.read())
    tenth = max(len(samples) // 10, 1)
    marks = [max(samples[i : i + tenth]) // 1024 for i in range(0, len(samples), tenth)]
    print(f"most RSS in each tenth of the run, KiB: {marks}")


def many_connections(gateway: Gateway, count: int) -> None:
    """
    Idle connections, and what each costs.
    """
    port = gateway.port("lines")
    before = rss(gateway)
    peers = []
    for _ in range(count):
        peers.append(socket.create_connection(("127.0.0.1", port)))
    # The last one is served, so all before it are accepted.
    peers[-1].sendall(b"hello\n")
    assert peers[-1].recv(100) == b"+OK\n"
    each = (rss(gateway) - before) / count / 1024
    print(f"{count:,} idle connections: {each:.2f} KiB each")
    for peer in peers:
        peer.sendall(b"hello\n")
    for peer in peers:
        peer.settimeout(30)
        assert peer.recv(100).startswith(b"+OK\n") or peer is peers[-1]
    each = (rss(gateway) - before) / count / 1024
    print(f"{count:,} connections, each used once: {each:.2f} KiB each")
    for peer in peers:
        peer.close()
    process = psutil.Process(gateway.process.pid)
    wait_until(lambda: process.num_fds() < 200, "all connections are closed")
    print(f"file descriptors after they left: {process.num_fds()}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="gateway-memory-") as name:
        folder = Path(name)
        server = TemporaryServer(folder)
        server.start()
        gateway = Gateway(("--database", server.embedded.dsn, *LISTEN), folder)
        try:
            gateway.wait_ready()
            many_connections(gateway, options.connections)
            many_messages(gateway, options.count)
        finally:
            gateway.end()
            server.stop()


if __name__ == "__main__":
    main()
