"""
What an edge costs: the same peers at the centre itself, and through an edge, in turns::

    python -m benchmarks.relay                # about a minute
    python -m benchmarks.relay --rounds 3

One database, one run. Prints messages a second, and CPU seconds of the gateways for a million
messages: sixteen peers with a thousand under way, and 64 that wait for each answer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.cpu import send
from tests.support import Database, Gateway, TemporaryServer, lasting_port

KINDS = {"16 x 1000": (16, 1000, 320_000), "64 x 1": (64, 1, 20_000)}
"""Name -> connections, messages under way of each, messages in all."""

CENTRE = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.edges]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "command"
framing = "int32"
window = 8000
"""

EDGE = """
[relay]
endpoints = ["tcp:127.0.0.1:{port}"]
stream = "edge-7"
framing = "int32"
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
"""


def seconds_of(gateway: Gateway) -> float:
    """CPU seconds of a gateway so far."""
    times = psutil.Process(gateway.process.pid).cpu_times()
    return times.user + times.system


def started(folder: Path, name: str, text: str) -> Gateway:
    (folder / name).mkdir()
    (folder / name / "gateway.toml").write_text(text)
    gateway = Gateway(("--config", "gateway.toml"), folder / name)
    gateway.wait_ready()
    return gateway


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        server = TemporaryServer(folder / "server")
        server.start()
        database = Database(server.embedded.dsn)
        port = lasting_port()
        centre = started(folder, "centre", CENTRE.format(dsn=database.dsn, port=port))
        edge = started(folder, "edge", EDGE.format(port=port))
        rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        try:
            for _ in range(options.rounds):
                for kind, (connections, window, count) in KINDS.items():
                    for way, gateway in (("direct", centre), ("edge", edge)):
                        before = seconds_of(centre), seconds_of(edge)
                        began = time.monotonic()
                        send(gateway.port("lines"), connections, window, count)
                        took = time.monotonic() - began
                        cost = (
                            (seconds_of(centre) - before[0]) * 1e6 / count,
                            (seconds_of(edge) - before[1]) * 1e6 / count,
                        )
                        rows.setdefault((kind, way), []).append((count / took, *cost))
                        database.execute("TRUNCATE messages")
        finally:
            edge.end()
            centre.end()
            server.stop()
    print("| peers | way | messages a second | of direct | centre, us a message | edge |")
    print("|---|---|---|---|---|---|")
    for (kind, way), found in rows.items():
        rate, of_centre, of_edge = (
            statistics.median(column) for column in zip(*found, strict=True)
        )
        direct = statistics.median(row[0] for row in rows[kind, "direct"])
        share = "" if way == "direct" else f"{rate / direct:.2f}"
        own = "" if way == "direct" else f"{of_edge:.1f}"
        print(f"| {kind} | {way} | {rate:,.0f} | {share} | {of_centre:.1f} | {own} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
