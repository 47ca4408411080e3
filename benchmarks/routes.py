"""
Structured messages into typed columns, beside COPY of the same rows::

    python -m benchmarks.routes            # about six minutes; --quick for half of one

A million messages of five typed fields (timestamptz, text, double precision, integer,
jsonb) by sixteen connections, each acknowledged after its commit; the median of the
rounds counts. Then the same with bad messages among them: such as the gateway finds,
and such as only the database can; and with what else a route may do (the table with a key
has an index that COPY's has not). Writes the table that docs/performance.md shows.
"""

from __future__ import annotations

import argparse
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support import Database, Gateway, TemporaryServer

ROOT = Path(__file__).parent.parent
CONNECTIONS = 16
WINDOW = 1000

TABLE = """
    CREATE TABLE readings (
        at timestamptz NOT NULL, device text NOT NULL, temp double precision,
        count integer CHECK (count >= 0), data jsonb
    );
    CREATE TABLE keyed (LIKE readings INCLUDING ALL, UNIQUE (device, count))
"""

FIELDS = ("at", "device", "temp", "count", "data")

KEYED = 'table = "keyed"\nkey = ["device", "count"]\n'

# name of listener and route -> keys of the route
ROUTES = {
    "json": 'table = "readings"',
    "csv": f'table = "readings"\nfields = [{", ".join(map(repr, FIELDS))}]',
    "returning": 'table = "readings"\nreturning = ["count"]',
    "ignore": f'{KEYED}conflict = "ignore"',
    "update": f'{KEYED}conflict = "update"',
    "own": f'sql = "INSERT INTO readings VALUES ({", ".join(f"%({f})s" for f in FIELDS)})"',
    "other": 'table = "keyed"',
}

TURNS = f"""
[listeners.turns]
endpoint = "tcp:0:interface=127.0.0.1"
route_by = "data.battery"
window = {{window}}
[listeners.turns.routes]
{"".join(f'{n} = "{("json", "other")[n % 2]}"' + chr(10) for n in range(100))}
"""

CONFIG = """
[database]
dsn = '''{dsn}'''
{sections}
"""

SECTION = """
[listeners.{name}]
endpoint = "tcp:0:interface=127.0.0.1"
route = "{name}"
window = {window}
[routes.{name}]
format = "{format}"
{keys}
[routes.{name}.columns]
at = "at"
device = "device"
temp = "temp"
count = "count"
data = "data"
"""

Row = tuple[str, str, str, str, str]

BOUNDS = {"json": 0.35, "csv": 0.35}
BAD_BOUND = 0.5


def row(number: int) -> Row:
    at = f"2026-11-21T10:{number // 60 % 60:02}:{number % 60:02}.{number % 1_000_000:06}Z"
    data = f'{{"battery":{number % 100},"tags":["a","b"]}}'
    return at, f"sensor-{number % 1000}", f"{number / 7:.2f}", str(number), data


def as_json(values: Row) -> str:
    at, device, temp, count, data = values
    return f'{{"at":"{at}","device":"{device}","temp":{temp},"count":{count},"data":{data}}}\n'


def as_csv(values: Row) -> str:
    quoted = values[4].replace('"', '""')
    return f'{",".join(values[:4])},"{quoted}"\n'


def spoilt(values: Row) -> Row:
    """What the gateway finds: no number."""
    return (*values[:2], "none" if values[2] == "0.00" else f'"{values[2]}x"', *values[3:])


def forbidden(values: Row) -> Row:
    """What only the database finds: its CHECK."""
    return (*values[:3], "-1", values[4])


class Bench:
    """
    One server, one gateway with a listener for each format.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        self.database.execute(TABLE)
        self.rows = folder / "rows.tsv"
        with self.rows.open("w") as file:
            file.writelines("\t".join(row(number)) + "\n" for number in range(count))
        config = folder / "gateway.toml"
        sections = TURNS.format(window=WINDOW) + "".join(
            SECTION.format(
                name=name, keys=keys, window=WINDOW, format="csv" if name == "csv" else "json"
            )
            for name, keys in ROUTES.items()
        )
        config.write_text(CONFIG.format(dsn=self.database.dsn, sections=sections))
        self.gateway = Gateway(("--config", str(config)), folder)
        self.gateway.wait_ready()

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def empty(self) -> None:
        self.database.execute("TRUNCATE readings, keyed")
        self.database.execute("CHECKPOINT")

    def copy(self) -> float:
        """@return: rows per second."""
        self.empty()
        begun = time.monotonic()
        command = f"\\copy readings FROM '{self.rows}'"
        subprocess.run([*self.server.embedded.psql.split(), "-qc", command], check=True)
        return self.count / (time.monotonic() - begun)

    def send(self, name: str, every: int = 0, bad: Callable[[Row], Row] = spoilt) -> float:
        """
        @param every: each so many messages one is bad; 0 for none.
        @return: messages answered per second.
        """
        self.empty()
        write = as_csv if name == "csv" else as_json

        def text(number: int) -> str:
            values = row(number)
            return write(bad(values) if every and number % every == every // 2 else values)

        share = self.count // CONNECTIONS
        loads = [
            "".join(map(text, range(first, first + share))).encode()
            for first in range(0, share * CONNECTIONS, share)
        ]
        port = self.gateway.port(name)
        peers = [Talk(port, load, share) for load in loads]
        seconds = seconds_of(peers)
        counts = "SELECT (SELECT count(*) FROM readings) + (SELECT count(*) FROM keyed)"
        stored = self.database.column(counts)[0]
        ok = sum(peer.ok for peer in peers)
        refused = sum(peer.refused for peer in peers)
        wrong = share * CONNECTIONS // every if every else 0
        if (ok, refused) != (stored, wrong) or ok + refused != share * CONNECTIONS:
            raise RuntimeError(f"{ok} acknowledged, {stored} stored, {refused} of {wrong} refused")
        return (ok + refused) / seconds

    def beside(self, bad: Callable[[Row], Row] | None) -> float:
        """
        Half of the connections, while as many send to another route what it takes.

        @param bad: makes all those others' messages bad; C{None}: they are good.
        @return: messages of the former answered per second.
        """
        self.empty()
        share = self.count // CONNECTIONS
        others = [
            Flood(self.gateway.port("update"), (bad(values) if bad else values for values in rows))
            for rows in (map(row, range(n, n + 2000)) for n in range(0, 16_000, 2000))
        ]
        load = "".join(as_json(row(number)) for number in range(share)).encode()
        peers = [Talk(self.gateway.port("json"), load, share) for _ in others]
        for other in others:
            other.start()
        seconds = seconds_of(peers)
        for other in others:
            other.end()
        if sum(peer.ok for peer in peers) != share * len(peers):
            raise RuntimeError("good messages were refused")
        return share * len(peers) / seconds


class Flood(threading.Thread):
    """
    One connection that sends the same messages for ever, and reads the answers.
    """

    def __init__(self, port: int, rows: Iterable[Row]) -> None:
        super().__init__()
        self._load = "".join(map(as_json, rows)).encode()
        self._socket = socket.create_connection(("127.0.0.1", port))

    def run(self) -> None:
        reader = threading.Thread(target=self._read)
        reader.start()
        with suppress(OSError):
            while True:
                self._socket.sendall(self._load)
        reader.join()
        self._socket.close()

    def _read(self) -> None:
        with suppress(OSError):
            while self._socket.recv(1 << 18):
                pass

    def end(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join()


class Talk(threading.Thread):
    """
    One connection: sends all it has, counts the answers.
    """

    def __init__(self, port: int, load: bytes, count: int) -> None:
        super().__init__()
        self.ok = self.refused = 0
        self._load = load
        self._count = count
        self._socket = socket.create_connection(("127.0.0.1", port))

    def run(self) -> None:
        sender = threading.Thread(target=self._socket.sendall, args=(self._load,))
        sender.start()
        rest = b""
        while self.ok + self.refused < self._count:
            data = self._socket.recv(1 << 18)
            if not data:
                break
            whole, end, rest = (rest + data).rpartition(b"\n")
            lines = b"\n" + whole + end
            self.ok += lines.count(b"\n+OK")
            self.refused += lines.count(b"\n-REJ")
        sender.join()
        self._socket.close()


def seconds_of(peers: Sequence[Talk]) -> float:
    """Start them all, and wait for the last one."""
    begun = time.monotonic()
    for peer in peers:
        peer.start()
    for peer in peers:
        peer.join()
    return time.monotonic() - begun


def measure(bench: Bench, rounds: int) -> str:
    """
    @return: the table, in Markdown.
    """
    steps: dict[str, Callable[[], float]] = {
        "COPY (psql)": bench.copy,
        "json": lambda: bench.send("json"),
        "csv": lambda: bench.send("csv"),
        "json, 1 % bad, found by the gateway": lambda: bench.send("json", 100),
        "json, 1 % bad, found by the database": lambda: bench.send("json", 100, forbidden),
        "json, a value returned": lambda: bench.send("returning"),
        "json, conflict = ignore, all new": lambda: bench.send("ignore"),
        "json, conflict = update, all new": lambda: bench.send("update"),
        "json, SQL of its own": lambda: bench.send("own"),
        "json, two routes by turns": lambda: bench.send("turns"),
        "json, half the connections on another route": lambda: bench.beside(None),
        "json, beside others that are all bad": lambda: bench.beside(forbidden),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        for name, step in steps.items():
            found[name].append(step())
            print(f"round {turn + 1}: {name:38} {found[name][-1]:12,.0f} messages/s", flush=True)
    rates = {name: statistics.median(figures) for name, figures in found.items()}
    copy, clean = rates["COPY (psql)"], rates["json"]
    lines = [
        "| format | messages/s | of COPY | of all good | bound |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, rate in rates.items():
        of_clean = f"{rate / clean:.2f}" if name.startswith("json,") else ""
        bound = f"{BOUNDS[name]} of COPY" if name in BOUNDS else ""
        if "% bad" in name:
            bound = f"{BAD_BOUND} of all good"
        elif "all bad" in name:
            ratio = rate / rates["json, half the connections on another route"]
            bound = f"{BAD_BOUND} of the line above; {ratio:.2f}"
        lines.append(f"| {name} | {rate:,.0f} | {rate / copy:.2f} | {of_clean} | {bound} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="JSON and CSV into typed columns beside COPY.")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the rows")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory(prefix="gateway-routes-") as folder:
        bench = Bench(Path(folder), 200_000 if quick else 1_000_000)
        try:
            table = measure(bench, 1 if quick else 3)
        finally:
            bench.close()
    print(f"\n{table}")
    if not quick:
        page = ROOT / "docs" / "performance.md"
        text = re.sub(
            r"(<!-- routes -->\n).*(<!-- end of routes -->)",
            lambda m: f"{m[1]}{table}{m[2]}",
            page.read_text(),
            flags=re.DOTALL,
        )
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
