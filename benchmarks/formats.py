"""
Formats beside json: the same messages, as netstrings, into the same typed columns::

    python -m benchmarks.formats           # two minutes; --quick for a fifth of it

Five typed fields (timestamptz, text, double precision, integer, jsonb) by sixteen connections,
each message acknowledged after its commit. Beside the messages stored a second, what the gateway
itself spends to read a message and write its columns, on one processor: the median of the rounds,
and the least. C{python} is a function that does no more than C{json.loads}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, Final

import cbor2
import msgpack

from benchmarks.routes import CONNECTIONS, TABLE, Talk, row, seconds_of
from gateway.columns.kind import SqlType
from gateway.model.batch import Chunk, Origin, Slice
from gateway.model.route import FormatName, Reading, Route, Value
from gateway.sql.route import insert_for
from gateway.sql.statement import bind_at_once
from tests.support import Database, Gateway, TemporaryServer

TYPES: Final = {
    "at": SqlType("timestamp with time zone", "timestamptz"),
    "device": SqlType("text", "text"),
    "temp": SqlType("double precision", "float8"),
    "count": SqlType("integer", "int4"),
    "data": SqlType("jsonb", "jsonb"),
}

SOURCES: Final = {name: name for name in TYPES}

GELF: Final = {
    "at": "timestamp",
    "device": "host",
    "temp": "_temp",
    "count": "_count",
    "data": "_data",
}

SECTION: Final = """
[listeners.{name}]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "{name}"
window = 1000
[routes.{name}]
table = "readings"
format = "{name}"
{keys}
[routes.{name}.columns]
"""

FORMATS: Final[tuple[FormatName, ...]] = ("json", "gelf", "msgpack", "cbor", "python")

FUNCTION: Final = "json:loads"


def message(number: int) -> dict[str, Any]:
    at, device, temp, count, data = row(number)
    read = {"temp": float(temp), "count": int(count), "data": json.loads(data)}
    return {"at": at, "device": device, **read}


def gelf(message: dict[str, Any]) -> dict[str, Any]:
    added = {f"_{name}": message[name] for name in ("temp", "count", "data")}
    named = {"timestamp": message["at"], "host": message["device"]}
    return {"version": "1.1", "short_message": "reading", **named, **added}


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


WRITERS: Final[dict[str, Callable[[dict[str, Any]], bytes]]] = {
    "json": _json,
    "gelf": lambda message: _json(gelf(message)),
    "msgpack": lambda message: bytes(msgpack.packb(message)),
    "cbor": cbor2.dumps,
    "python": _json,
}


def columns_of(name: str) -> dict[str, str]:
    return GELF if name == "gelf" else SOURCES


class NetstringTalk(Talk):
    """
    One connection: sends all it has, counts the answers.
    """

    def run(self) -> None:
        sender = Thread(target=self._socket.sendall, args=(self._load,))
        sender.start()
        left, tail = self._count, b""
        while left and (data := self._socket.recv(1 << 18)):
            seen = tail + data
            found = seen.count(b"3:+OK,")
            tail = seen[-5:] if not seen.endswith(b"3:+OK,") else b""
            self.ok += found
            left -= found
        sender.join()
        self._socket.close()


def microseconds(name: FormatName, frames: list[bytes]) -> float:
    """@return: of one processor, for a message."""
    function = FUNCTION if name == "python" else ""
    columns = {column: Value(source) for column, source in columns_of(name).items()}
    route = Route("r", "readings", columns, reading=Reading(name, function=function))
    insert = insert_for(route, TYPES)
    chunk = Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)
    part = [Slice(chunk, 0, len(frames))]
    bind_at_once(insert, part)
    begun = time.process_time()
    for _ in range(20):
        bind_at_once(insert, part)
    return (time.process_time() - begun) / 20 / len(frames) * 1e6


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
        config = folder / "gateway.toml"
        sections = ""
        for name in FORMATS:
            keys = f'function = "{FUNCTION}"' if name == "python" else ""
            sections += SECTION.format(name=name, keys=keys) + "".join(
                f'{column} = "{source}"\n' for column, source in columns_of(name).items()
            )
        config.write_text(f"[database]\ndsn = '''{self.database.dsn}'''\n{sections}")
        self.gateway = Gateway(("--config", str(config)), folder)
        self.gateway.wait_ready()

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def send(self, name: str) -> float:
        """@return: messages answered per second."""
        self.database.execute("TRUNCATE readings")
        self.database.execute("CHECKPOINT")
        share = self.count // CONNECTIONS
        write = WRITERS[name]
        frames = [write(message(number)) for number in range(share)]
        load = b"".join(b"%d:%s," % (len(frame), frame) for frame in frames)
        peers = [NetstringTalk(self.gateway.port(name), load, share) for _ in range(CONNECTIONS)]
        seconds = seconds_of(peers)
        (stored,) = self.database.column("SELECT count(*) FROM readings")
        if not sum(peer.ok for peer in peers) == stored == share * CONNECTIONS:
            raise RuntimeError(f"{name}: {stored} of {share * CONNECTIONS} are stored")
        return float(stored) / seconds


def measure(bench: Bench, rounds: int) -> str:
    """
    @return: the table, in Markdown.
    """
    frames = {name: [WRITERS[name](message(n)) for n in range(1000)] for name in FORMATS}
    rates: dict[str, list[float]] = {name: [] for name in FORMATS}
    costs: dict[str, list[float]] = {name: [] for name in FORMATS}
    for turn in range(rounds):
        for name in FORMATS:
            rates[name].append(bench.send(name))
            costs[name].append(microseconds(name, frames[name]))
            print(f"round {turn + 1}: {name:8} {rates[name][-1]:10,.0f} messages/s", flush=True)
    lines = ["| format | bytes | messages/s | of json | µs to read |", "|---|---:|---:|---:|---:|"]
    first = statistics.median(rates["json"])
    for name in FORMATS:
        rate, cost = statistics.median(rates[name]), min(costs[name])
        size = sum(map(len, frames[name])) / len(frames[name])
        lines.append(f"| {name} | {size:.0f} | {rate:,.0f} | {rate / first:.2f} | {cost:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Formats into typed columns beside json.")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the rows")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory(prefix="gateway-formats-") as folder:
        bench = Bench(Path(folder), 64_000 if quick else 320_000)
        try:
            table = measure(bench, 1 if quick else 3)
        finally:
            bench.close()
    print(f"\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
