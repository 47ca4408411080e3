"""
What a million messages cost: CPU seconds of the gateway and of PostgreSQL, bytes of a row and of
the database's log::

    python -m benchmarks.capacity             # a minute or two
    python -m benchmarks.capacity --quick     # a tenth of the messages

CPU seconds hardly depend on what else the machine does; docs/capacity.md says what follows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import psycopg2

from benchmarks.cpu import LINE, send
from tests.support import Database, Gateway, TemporaryServer

JSON: Final = (
    b'{"at":"2026-11-27T18:00:00Z","device":"pump-17","temp":21.5,"ok":true,'
    b'"note":"as it was before, no change"}\n'
)

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "off"
[listeners.text]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
window = 1000
[listeners.json]
endpoint = "tcp:0:interface=127.0.0.1"
route = "readings"
window = 1000
[routes.messages]
table = "messages"
create = true
[routes.messages.columns]
body = "@frame"
peer = "@peer"
[routes.readings]
table = "readings"
format = "json"
create = true
[routes.readings.create_columns]
id = "bigint generated always as identity primary key"
at = "timestamptz"
device = "text"
temp = "float8"
ok = "boolean"
note = "text"
[routes.readings.columns]
at = "at"
device = "device"
temp = "temp"
ok = "ok"
note = "note"
"""


class Kind(NamedTuple):
    """
    One kind of load.

    @ivar window: messages under way of each connection.
    @ivar messages: of all connections together.
    """

    name: str
    listener: str
    table: str
    line: bytes
    connections: int
    window: int
    messages: int


KINDS: Final = (
    Kind("text, 16 x 1000", "text", "messages", LINE, 16, 1000, 800_000),
    Kind("JSON, 16 x 1000", "json", "readings", JSON, 16, 1000, 400_000),
    Kind("text, 64 x 1", "text", "messages", LINE, 64, 1, 40_000),
    Kind("text, 1 x 1", "text", "messages", LINE, 1, 1, 4_000),
)


def seconds_of(process: psutil.Process) -> float:
    """
    @return: CPU seconds of a process, and of its children, those that have ended too.
    """
    times = process.cpu_times()
    used: float = times.user + times.system + times.children_user + times.children_system
    return used + sum(seconds_of(child) for child in process.children())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity")
    parser.add_argument("--quick", action="store_true")
    share = 10 if parser.parse_args().quick else 1
    print(f"{'for a million messages':24} {'gateway':>9} {'PostgreSQL':>11} {'row':>7} {'log':>7}")
    with tempfile.TemporaryDirectory(prefix="gateway-capacity-") as name:
        folder = Path(name)
        server = TemporaryServer(folder)
        server.start()
        dsn = Database(server.embedded.dsn).dsn
        postmaster = psutil.Process(
            int((server.embedded.data / "postmaster.pid").read_text().splitlines()[0])
        )
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=dsn))
        # As an operator starts it, not forked as for tests.
        gateway = Gateway(("--config", str(config)), folder, wrapper=("env",))
        try:
            gateway.wait_ready()
            with psycopg2.connect(dsn) as look, look.cursor() as cursor:
                look.autocommit = True
                process = psutil.Process(gateway.process.pid)
                for kind in KINDS:
                    port, count = gateway.port(kind.listener), kind.messages // share
                    load = (kind.connections, kind.window)
                    send(port, *load, count // 10, kind.line)
                    cursor.execute("SELECT pg_current_wal_lsn()")
                    (place,) = cursor.fetchone() or ("0/0",)
                    used, server_used = seconds_of(process), seconds_of(postmaster)
                    send(port, *load, count, kind.line)
                    used, server_used = (
                        seconds_of(process) - used,
                        seconds_of(postmaster) - server_used,
                    )
                    cursor.execute(
                        "SELECT pg_total_relation_size(%s) / count(*),"
                        f" (pg_current_wal_lsn() - %s) / %s FROM {kind.table}",
                        (kind.table, place, count),
                    )
                    row, log = cursor.fetchone() or (0, 0)
                    print(
                        f"{kind.name:24} {used / count * 1e6:7.2f} s"
                        f" {server_used / count * 1e6:9.2f} s {row:5.0f} B {log:5.0f} B",
                        flush=True,
                    )
        finally:
            gateway.end()
            server.stop()


if __name__ == "__main__":
    main()
