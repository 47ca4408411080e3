"""
TLS beside plain text, and what ten thousand TLS connections cost::

    python -m benchmarks.tls            # about two minutes; --quick for a third

C{gateway bench} loads a plain listener and a TLS listener of one gateway by turns; the
median of the rounds counts. Afterwards connections are made, each with its handshake
and one message, and the gateway's memory is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import trustme

from tests.forking import BIN
from tests.support import Database, Gateway, TemporaryServer

BOUND = 0.6
"""Of the speed without TLS."""

CONFIG = """
[database]
dsn = '''{dsn}'''
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
tls = {{ certificate = "server.pem" }}
"""


def load(database: Database, endpoint: str, seconds: float) -> float:
    """@return: messages a second, each answered after its commit."""
    database.execute("TRUNCATE messages")
    database.execute("CHECKPOINT")
    done = subprocess.run(
        [str(BIN / "gateway"), "bench", endpoint, "--duration", str(seconds), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    rate: float = json.loads(done.stdout)["rate"]
    return rate


def throughput(gateway: Gateway, database: Database, roots: Path, seconds: float, n: int) -> None:
    plain = f"tcp:127.0.0.1:{gateway.port('lines')}"
    secure = f"tls:localhost:{gateway.port('secure')}:trustRoots={roots}"
    load(database, plain, 2.0)
    ratios = []
    for _ in range(n):
        without, with_tls = load(database, plain, seconds), load(database, secure, seconds)
        ratios.append(with_tls / without)
        print(f"plain {without:10,.0f}/s   TLS {with_tls:10,.0f}/s   {ratios[-1]:.2f}", flush=True)
    ratio = statistics.median(ratios)
    print(f"TLS/plain {ratio:.2f} (bound {BOUND}){'' if ratio >= BOUND else '  MISSED'}")


def connections(gateway: Gateway, ca: trustme.CA, count: int) -> None:
    """
    Connections, each used once and kept.
    """
    context = ssl.create_default_context()
    ca.configure_trust(context)
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    begun = time.monotonic()
    kept = []
    for _ in range(count):
        plain = socket.create_connection(("127.0.0.1", gateway.port("secure")))
        peer = context.wrap_socket(plain, server_hostname="localhost")
        peer.sendall(b"hello\n")
        kept.append(peer)
    for peer in kept:
        if peer.recv(100) != b"+OK\n":
            raise SystemExit("not stored")
    took = time.monotonic() - begun
    each = (process.memory_info().rss - before) / count / 1024
    print(f"{count:,} TLS connections: {each:.1f} KiB each, {count / took:,.0f} handshakes/s")
    for peer in kept:
        peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    seconds, rounds = (4.0, 3) if options.quick else (10.0, 5)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="gateway-tls-") as name:
        folder = Path(name)
        ca = trustme.CA()
        ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            folder / "server.pem"
        )
        roots = folder / "roots"
        roots.mkdir()
        ca.cert_pem.write_to_path(roots / "ca.pem")
        server = TemporaryServer(folder)
        server.start()
        database = Database(server.embedded.dsn)
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=database.dsn))
        gateway = Gateway(("--config", str(config)), folder)
        try:
            gateway.wait_ready()
            throughput(gateway, database, roots, seconds, rounds)
            connections(gateway, ca, options.connections)
        finally:
            gateway.end()
            server.stop()


if __name__ == "__main__":
    main()
