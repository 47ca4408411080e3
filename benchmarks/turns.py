"""
Two routes by turns beside one: CPU of the gateway, and messages in a second::

    python -m benchmarks.turns    # half a minute

Sixteen peers with a thousand messages under way each, once all for one route and once for two
routes, message by message; routes are chosen by a field (C{route_by}) and by C{PUT}.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.cpu import send

CONNECTIONS, WINDOW, COUNT, ROUNDS = 16, 1000, 320_000, 3

CONFIG = """
[database]
dsn = '''{dsn}'''
[routes.one]
table = "one"
format = "json"
columns = {{ device = "device", value = "value" }}
[routes.two]
table = "two"
format = "json"
columns = {{ device = "device", value = "value" }}
[listeners.field]
endpoint = "tcp:0:interface=127.0.0.1"
route_by = "device"
window = 1000
[listeners.field.routes]
a = "one"
b = "two"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
window = 1000
"""

BODIES = (
    b'{"device":"a","value":"%s"}' % (b"x" * 60),
    b'{"device":"b","value":"%s"}' % (b"x" * 60),
)
KINDS = {
    "route_by": ("field", (BODIES[0] + b"\n", BODIES[1] + b"\n")),
    "PUT": ("commands", (b"PUT one %s\n" % BODIES[0], b"PUT two %s\n" % BODIES[1])),
}
"""Name -> listener, a message for each of two routes."""


def main() -> None:
    from tests.support import Database, Gateway, TemporaryServer

    with tempfile.TemporaryDirectory(prefix="gateway-turns-") as name:
        folder = Path(name)
        server = TemporaryServer(folder)
        server.start()
        database = Database(server.embedded.dsn)
        for table in ("one", "two"):
            database.execute(f"CREATE UNLOGGED TABLE {table} (device text, value text)")
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=database.dsn))
        gateway = Gateway(("--config", str(config)), folder, wrapper=("env",))
        try:
            gateway.wait_ready()
            process = psutil.Process(gateway.process.pid)
            print("| routes by | routes | microseconds of CPU | messages/s |\n|---|---|---:|---:|")
            for kind, (listener, (first, second)) in KINDS.items():
                port = gateway.port(listener)
                for text, block in (("one", first * 2), ("two by turns", first + second)):
                    send(port, CONNECTIONS, WINDOW, COUNT // 20, block)
                    costs, rates = [], []
                    for _ in range(ROUNDS):
                        before, begun = process.cpu_times(), time.monotonic()
                        send(port, CONNECTIONS, WINDOW, COUNT // 2, block)
                        after, taken = process.cpu_times(), time.monotonic() - begun
                        used = after.user + after.system - before.user - before.system
                        costs.append(used / COUNT * 1e6)
                        rates.append(COUNT / taken)
                    cost, rate = statistics.median(costs), statistics.median(rates)
                    print(f"| {kind} | {text} | {cost:.2f} | {rate:,.0f} |", flush=True)
        finally:
            gateway.end()
            server.stop()


if __name__ == "__main__":
    main()
