"""
Two routes by turns beside one, and what a route does beside the best statement for it::

    python -m benchmarks.cliffs               # the store, about 50 seconds
    python -m benchmarks.cliffs --gateway     # whole gateways, as long
    python -m benchmarks.cliffs --kinds own   # some kinds of routes

The first table drives the store alone, with one connection: commits of 2,000 messages of five typed
fields, of one route, of two whose messages alternate, and of such where the database refuses one
message in a hundred. "In runs" is how these were committed once, a commit for each change of the
route. The second table has the same rows and as many in a statement, by C{pgbench} and by the
store. With C{--gateway} eight connections send to a gateway whose listener routes by a field, with
a thousand messages under way each. Figures are CPU time of the server and of the process that
drives it, which hardly depends on what else the machine does, and the time that passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psutil

from benchmarks.routes import Talk, seconds_of
from gateway.commands.reactor import run
from gateway.config.load import Database as Settings
from gateway.model.arrival import in_order
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.grouping import Group, GroupedRead, placed
from gateway.model.outcome import refused_rows
from gateway.model.route import Conflict, Reading, Route, Value
from gateway.postgres.connect.pool import Pool
from gateway.postgres.store.store import PostgresStore
from tests.support import Database, Gateway, TemporaryServer

COMMIT = 2000
"""Messages of a commit."""

COMMITS = 20
IN_RUNS = 400
"""Messages, all of one peer, that are committed in runs."""

PEERS = 8
"""Peers that a commit's messages come from."""

FIELDS = {
    "at": "timestamptz",
    "device": "text",
    "temp": "float8",
    "count": "int4",
    "data": "jsonb",
}

TABLE = """
    CREATE TABLE {name} (
        at timestamptz NOT NULL, device text NOT NULL, temp double precision,
        count integer CHECK (count >= 0), data jsonb{more}
    );
"""

OWN = f"INSERT INTO {{table}} VALUES ({', '.join(f'%({field})s' for field in FIELDS)})"


class KindOfRoute(NamedTuple):
    """
    Kind of route that is measured.

    @ivar statement: the best statement by hand, with C{{table}} and C{{rows}}, a FROM clause;
        C{""}: it is not measured.
    """

    keyed: bool = False
    conflict: Conflict = "error"
    returning: tuple[str, ...] = ()
    own: str = ""
    statement: str = ""


_SET = ", ".join(f"{field} = excluded.{field}" for field in ("at", "temp", "data"))
_INSERT = "INSERT INTO {table} SELECT * FROM {rows}"

KINDS = {
    "plain": KindOfRoute(statement=_INSERT),
    "ignore": KindOfRoute(True, "ignore", statement=f"{_INSERT} ON CONFLICT DO NOTHING"),
    "update": KindOfRoute(
        True, "update", statement=f"{_INSERT} ON CONFLICT (device, count) DO UPDATE SET {_SET}"
    ),
    "returning": KindOfRoute(returning=("count",), statement=f"{_INSERT} RETURNING count"),
    "own": KindOfRoute(own=OWN, statement=_INSERT),
    "own-function": KindOfRoute(
        own=f"SELECT {{table}}_store({', '.join(f'%({field})s' for field in FIELDS)})",
        statement=f"SELECT {{table}}_store({', '.join(FIELDS)}) FROM {{rows}}",
    ),
    "own-upsert": KindOfRoute(
        True,
        own=f"{OWN} ON CONFLICT (device, count) DO UPDATE SET {_SET}",
        statement=f"{_INSERT} ON CONFLICT (device, count) DO UPDATE SET {_SET}",
    ),
}

FUNCTION = """
    CREATE FUNCTION {name}_store(timestamptz, text, float8, int, jsonb) RETURNS void LANGUAGE sql
    AS 'INSERT INTO {name} VALUES ($1, $2, $3, $4, $5)'
"""


def values(number: int, bad: bool) -> tuple[str, str, str, str, str]:
    at = f"2026-11-21T10:{number // 60 % 60:02}:{number % 60:02}.{number % 1_000_000:06}Z"
    data = f'{{"battery":{number % 100},"tags":["a","b"]}}'
    count = "-1" if bad else str(number)
    return at, f"sensor-{number % 1000}", f"{number / 7:.2f}", count, data


def frame(number: int, bad: bool) -> bytes:
    at, device, temp, count, data = values(number, bad)
    side = "ab"[number % 2]
    text = (
        f'{{"side":"{side}","at":"{at}","device":"{device}","temp":{temp},"count":{count},'
        f'"data":{data}}}'
    )
    return text.encode()


def routes_of(name: str, kind: KindOfRoute) -> list[Route]:
    """Two routes, each with a table of its own."""
    made = []
    for letter in "ab":
        table = f"{'keyed' if kind.keyed else 'free'}_{letter}"
        made.append(
            Route(
                f"{name}-{letter}",
                "" if kind.own else table,
                {field: Value(field) for field in FIELDS},
                reading=Reading("json"),
                conflict=kind.conflict,
                key=() if kind.conflict == "error" else ("device", "count"),
                returning=kind.returning,
                sql=kind.own.format(table=table),
            )
        )
    return made


def make_tables(database: Database) -> None:
    for letter in "ab":
        for name, more in (("free", ""), ("keyed", ", UNIQUE (device, count)")):
            table = f"{name}_{letter}"
            database.execute(TABLE.format(name=table, more=more))
            database.execute(FUNCTION.format(name=table))


EMPTY = "TRUNCATE free_a, free_b, keyed_a, keyed_b"


class Cost(NamedTuple):
    """
    Cost of messages.

    @ivar server: CPU seconds of the server's backend, for each message.
    @ivar gateway: CPU seconds of this process, for each message.
    @ivar seconds: that passed, for each message.
    """

    server: float
    gateway: float
    seconds: float

    def __str__(self) -> str:
        micro = f"{self.server * 1e6:.1f} + {self.gateway * 1e6:.1f}"
        return f"{1 / self.seconds:,.0f}/s, {micro} us"

    @property
    def cpu(self) -> float:
        return self.server + self.gateway


class Bench:
    """
    One server, and a store with one connection to it.
    """

    def __init__(self, reactor: Any, folder: Path, kinds: Sequence[str]) -> None:
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        make_tables(self.database)
        self.routes = {name: routes_of(name, KINDS[name]) for name in kinds}
        every = {route.name: route for both in self.routes.values() for route in both}
        settings = Settings(dsn=self.database.dsn, pool_min=1, pool_max=1, acquire_timeout=5.0)
        self.pool = Pool(settings, reactor, lambda attempt: 0.05)
        self.store = PostgresStore(self.pool, every, settings)
        self.pool.start(self.database.dsn)
        self._number = 0

    async def open(self) -> None:
        await self.store.open_all()
        async with self.pool.checkout() as connection:
            ((pid,),) = await connection.query("SELECT pg_backend_pid()", None, 5.0)
        self._backend = psutil.Process(pid)

    def close(self) -> None:
        self.pool.close()
        self.server.stop()

    def empty(self) -> None:
        self.database.execute(EMPTY)
        self.database.execute("CHECKPOINT")

    def chunks(
        self, routes: Sequence[str], count: int, refused: bool, peers: int = PEERS
    ) -> list[Chunk]:
        """Messages of several peers whose routes alternate, a read of each."""
        chunks: list[Chunk] = []
        share = count // peers
        for peer in range(peers):
            origin = Origin(f"p{peer}", "l")
            bad = [
                refused and n % 100 == 50 + n // 100 % 2
                for n in range(peer * share, (peer + 1) * share)
            ]
            frames = [frame(self._number + n, bad[n]) for n in range(share)]
            self._number += share
            step = len(routes)
            groups = placed(
                [
                    Group(route, frames[n::step], None, [*range(n, share, step)])
                    for n, route in enumerate(routes)
                ]
            )
            read = GroupedRead(None, groups)
            for route, own, _, places in groups:
                chunk = Chunk(route, own, origin, 0.0, lambda chunk, runs: None)
                if len(groups) > 1:
                    chunk.places, chunk.read = places, read
                chunks.append(chunk)
        return chunks

    async def cost(
        self, name: str, two: bool, refused: bool = False, in_runs: bool = False
    ) -> Cost:
        """
        Measure commits of a kind of route.

        @param two: whether of two routes by turns.
        @param in_runs: whether each change of the route begins a commit.
        """
        self.empty()
        routes = [route.name for route in self.routes[name]][: 2 if two else 1]
        count, commits = (IN_RUNS, 1) if in_runs else (COMMIT, COMMITS)
        peers = 1 if in_runs else PEERS
        work = [self.chunks(routes, count, refused, peers) for _ in range(commits)]
        lanes = {route: str(uuid4()) for route in routes}
        numbers = dict.fromkeys(routes, 0)
        rejected = 0
        begun = self._times()
        for chunks in work:
            batches = Batch.by_route(chunks)
            if in_runs:
                batches = in_order(batches, chunks)
            fences = []
            for batch in batches:
                numbers[batch.route] += 1
                fences.append(Fence(lanes[batch.route], numbers[batch.route]))
            if two and not in_runs:
                written = await self.store.write_together(batches, fences, chunks)
                if written is None:
                    raise RuntimeError("they are not stored together")
            else:
                written = [
                    await self.store.write(*both) for both in zip(batches, fences, strict=True)
                ]
            rejected += sum(len(refused_rows(each.runs)) for each in written)
        taken = [after - before for before, after in zip(begun, self._times(), strict=True)]
        total = count * commits
        if rejected != (total // 100 if refused else 0):
            raise RuntimeError(f"{rejected} of {total} messages were refused")
        return Cost(*[seconds / total for seconds in taken])

    def _times(self) -> tuple[float, float, float]:
        backend = self._backend.cpu_times()
        return backend.user + backend.system, time.process_time(), time.monotonic()

    def by_hand(self, name: str, folder: Path) -> float:
        """
        Run the best statement for a kind of route by C{pgbench}.

        @return: CPU seconds of the server for each row.
        """
        self.empty()
        script = folder / "script.sql"
        with script.open("w") as file:
            for _ in range(COMMITS):
                rows = [values(self._number + n, False) for n in range(COMMIT)]
                self._number += COMMIT
                arrays = ", ".join(
                    f"'{array_literal(cells)}'::{kind}[]"
                    for cells, kind in zip(zip(*rows, strict=True), FIELDS.values(), strict=True)
                )
                table = "keyed_a" if KINDS[name].keyed else "free_a"
                text = KINDS[name].statement.format(
                    table=table, rows=f"unnest({arrays}) AS u({', '.join(FIELDS)})"
                )
                file.write(f"{text};\n")
            file.write("SELECT pg_sleep(3);\n")
        pgbench = subprocess.Popen(
            [
                *(self.server.embedded.binaries / "pgbench", "-n", "-t", "1"),
                *("-f", script, self.database.dsn),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        asleep = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(3)%'"
        while not (pids := self.database.column(asleep)):
            time.sleep(0.1)
        times = psutil.Process(pids[0]).cpu_times()
        if pgbench.wait():
            raise RuntimeError("pgbench failed")
        return (times.user + times.system) / (COMMIT * COMMITS)


def array_literal(cells: Sequence[str]) -> str:
    quoted = [json.dumps(cell, ensure_ascii=False) for cell in cells]
    return "{" + ",".join(quoted).replace("'", "''") + "}"


CONFIG = """
[database]
dsn = '''{dsn}'''
{sections}
"""

LISTENERS = """
[listeners.{name}]
endpoint = "tcp:0:interface=127.0.0.1"
route = "{name}-a"
window = 1000
[listeners.{name}-turns]
endpoint = "tcp:0:interface=127.0.0.1"
route_by = "side"
window = 1000
[listeners.{name}-turns.routes]
a = "{name}-a"
b = "{name}-b"
"""

ROUTE = """
[routes.{route.name}]
format = "json"
conflict = "{route.conflict}"
{keys}
[routes.{route.name}.columns]
{columns}
"""

MESSAGES = 40_000
"""Messages of one measurement of a gateway."""


def configuration(dsn: str, routes: Mapping[str, Sequence[Route]]) -> str:
    sections = ""
    for name, both in routes.items():
        sections += LISTENERS.format(name=name)
        for route in both:
            keys = {"table": route.table, "key": list(route.key), "sql": route.sql}
            keys["returning"] = list(route.returning)
            sections += ROUTE.format(
                route=route,
                keys="\n".join(f"{key} = {json.dumps(kept)}" for key, kept in keys.items() if kept),
                columns="\n".join(f'{field} = "{field}"' for field in FIELDS),
            )
    return CONFIG.format(dsn=dsn, sections=sections)


class GatewayBench:
    """
    One server, and a gateway with two listeners for each kind of route.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        make_tables(self.database)
        config = folder / "gateway.toml"
        routes = {name: routes_of(name, KINDS[name]) for name in kinds}
        config.write_text(configuration(self.database.dsn, routes))
        self.gateway = Gateway(("--config", str(config)), folder)
        self.gateway.wait_ready()
        (pid,) = self.database.column(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        )
        self._postmaster = psutil.Process(psutil.Process(pid).ppid())
        self._process = psutil.Process(self.gateway.process.pid)
        self._number = 0

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def cost(self, name: str, two: bool, refused: bool = False) -> Cost:
        """
        Measure a kind of route.

        @param two: whether two routes by turns.
        """
        self.database.execute(EMPTY)
        self.database.execute("CHECKPOINT")
        share = MESSAGES // PEERS
        loads = []
        for _ in range(PEERS):
            frames = [
                frame(self._number + n, refused and n % 100 == 50 + n // 100 % 2)
                for n in range(share)
            ]
            self._number += share
            loads.append(b"".join([message + b"\n" for message in frames]))
        port = self.gateway.port(f"{name}-turns" if two else name)
        peers = [Talk(port, load, share) for load in loads]
        before = self._times()
        seconds = seconds_of(peers)
        taken = [after - begun for begun, after in zip(before, self._times(), strict=True)]
        rejected = sum(peer.refused for peer in peers)
        if rejected != (MESSAGES // 100 if refused else 0):
            raise RuntimeError(f"{rejected} messages were refused")
        return Cost(*[each / MESSAGES for each in [*taken, seconds]])

    def _times(self) -> tuple[float, float]:
        server = 0.0
        for child in self._postmaster.children():
            with suppress(psutil.NoSuchProcess):
                if "gateway" in child.cmdline()[0]:
                    times = child.cpu_times()
                    server += times.user + times.system
        times = self._process.cpu_times()
        return server, times.user + times.system


def measure_gateway(bench: GatewayBench, kinds: Sequence[str]) -> str:
    """
    @return: the table, in Markdown.
    """
    lines = [
        "| kind of route | one route | two by turns | of one | 1 % refused | of one |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in kinds:
        bench.cost(name, two=True)
        one = bench.cost(name, two=False)
        two = bench.cost(name, two=True)
        refused = bench.cost(name, two=True, refused=True)
        lines.append(
            f"| {name} | {one} | {two} | {one.cpu / two.cpu:.2f} | {refused}"
            f" | {one.cpu / refused.cpu:.2f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


async def measure(bench: Bench, folder: Path) -> str:
    """
    @return: both tables, in Markdown.
    """
    await bench.open()
    lines = [
        "| kind of route | one route | two by turns | of one | 1 % refused | of one | in runs |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    ones = {}
    for name in bench.routes:
        await bench.cost(name, two=True)
        one = ones[name] = await bench.cost(name, two=False)
        two = await bench.cost(name, two=True)
        refused = await bench.cost(name, two=True, refused=True)
        runs = await bench.cost(name, two=True, in_runs=True)
        lines.append(
            f"| {name} | {one} | {two} | {one.cpu / two.cpu:.2f} | {refused}"
            f" | {one.cpu / refused.cpu:.2f} | {1 / runs.seconds:,.0f}/s |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "| kind of route | by hand | the store | of by hand |", "|---|---:|---:|---:|"]
    for name, one in ones.items():
        if KINDS[name].statement:
            best = bench.by_hand(name, folder)
            lines.append(
                f"| {name} | {best * 1e6:.1f} us | {one.server * 1e6:.1f} us"
                f" | {best / one.server:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Two routes by turns beside one.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--gateway", action="store_true", help="measure whole gateways")
    options = parser.parse_args(arguments)
    kinds = options.kinds
    with tempfile.TemporaryDirectory(prefix="gateway-cliffs-") as name:
        folder = Path(name)
        if options.gateway:
            gateway = GatewayBench(folder, kinds)
            try:
                print(measure_gateway(gateway, kinds))
            finally:
                gateway.close()
            return 0

        async def work(reactor: Any) -> int:
            bench = Bench(reactor, folder, kinds)
            try:
                print(await measure(bench, folder))
            finally:
                bench.close()
            return 0

        run(work)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
