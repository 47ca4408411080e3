"""
One command, one server, one run::

    python -m benchmarks            # about ten minutes; --quick for two

Each round measures everything once, on emptied tables and after a checkpoint; the
median of the rounds counts. Prints the ratios that CONTRIBUTING.md asks for and
writes the table and the plot that docs/performance.md shows.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forking import BIN
from tests.support import LISTEN, Database, Gateway, TemporaryServer, wait_until

ROOT = Path(__file__).parent.parent
MESSAGE = "x" * 100
INSERT = "INSERT INTO messages (body, peer) VALUES ('" + MESSAGE + "', '127.0.0.1:50000');\n"
TABLE = (
    "CREATE TABLE IF NOT EXISTS messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " received_at timestamptz NOT NULL DEFAULT now(), peer text, body text NOT NULL)"
)


@dataclass(frozen=True)
class Figure:
    """
    @ivar rate: messages per second.
    @ivar latency: median seconds from sending to the answer, where that is the point.
    """

    rate: float
    latency: float | None = None


@dataclass(frozen=True)
class Target:
    """A ratio that must hold: C{name} over C{of}."""

    name: str
    of: str
    bound: float
    latency: bool = False


COPY = "COPY (psql)"
PGBENCH_1 = "pgbench, 1 client"
PGBENCH_64 = "pgbench, 64 clients"
NAIVE = "naive server, 16 x 1000"
RSYSLOG = "rsyslog imptcp -> ompgsql"
LINES = "gateway lines, 16 x 1000"
NETSTRINGS = "gateway netstrings, 16 x 1000"
WINDOW_1 = "gateway lines, 1 x 1"
WINDOW_1_TOOL = "the same, by gateway bench"
WINDOW_64 = "gateway lines, 64 x 1"

TARGETS = [
    Target(LINES, COPY, 0.55),
    Target(LINES, RSYSLOG, 5.0),
    Target(WINDOW_64, PGBENCH_64, 0.8),
    Target(WINDOW_1, PGBENCH_1, 3.5, latency=True),
    Target(NETSTRINGS, LINES, 0.8),
]


class Bench:
    """
    The server, the gateway on it, and how much to send.
    """

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder = folder
        self.count = int(2_000_000 * scale)
        self.seconds = max(2.0, 5.0 * scale)
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        self.database.execute(TABLE)
        self.rows = folder / "rows.tsv"
        self.rows.write_text(f"{MESSAGE}\t127.0.0.1:50000\n" * self.count)
        self.gateway = Gateway(("--database", self.database.dsn, *LISTEN), folder)
        self.gateway.wait_ready()

    def close(self) -> None:
        self.gateway.end()
        self.server.stop()

    def empty(self) -> None:
        """The same start for everybody."""
        self.database.execute("TRUNCATE messages")
        self.database.execute("VACUUM")
        self.database.execute("CHECKPOINT")

    def stored(self) -> int:
        count: int = self.database.column("SELECT count(*) FROM messages")[0]
        return count

    def copy(self) -> Figure:
        command = f"\\copy messages (body, peer) FROM '{self.rows}'"
        begun = time.monotonic()
        subprocess.run([*self.server.embedded.psql.split(), "-qc", command], check=True)
        return Figure(self.count / (time.monotonic() - begun))

    def pgbench(self, clients: int) -> Figure:
        script = self.folder / "insert.sql"
        script.write_text(INSERT)
        done = subprocess.run(
            [
                *(str(self.server.embedded.binaries / "pgbench"), "-n", "-M", "prepared"),
                *("-f", str(script), "-c", str(clients), "-j", str(min(clients, 2))),
                *("-T", str(int(self.seconds)), self.database.dsn),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        rate = float(re.findall(r"tps = ([\d.]+)", done.stdout)[0])
        latency = float(re.findall(r"latency average = ([\d.]+) ms", done.stdout)[0])
        return Figure(rate, latency / 1000)

    def gateway_bench(self, port: int, *arguments: str) -> Figure:
        done = subprocess.run(
            [str(BIN / "gateway"), "bench", f"tcp:127.0.0.1:{port}", "--json", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads(done.stdout)
        if set(report["answers"]) != {"+OK"} or report["unanswered"]:
            raise RuntimeError(f"not all stored: {report}")
        stored = self.stored()
        if stored != report["sent"]:
            raise RuntimeError(f"{report['sent']} acknowledged, {stored} in the table")
        return Figure(report["rate"], report["seconds"] / max(report["sent"], 1))

    def pipelined(self, listener: str, framing: str) -> Figure:
        return self.gateway_bench(
            self.gateway.port(listener),
            *("--framing", framing, "--count", str(self.count)),
        )

    def window_1(self, connections: int) -> Figure:
        figure = self.gateway_bench(
            self.gateway.port("lines"),
            *("--window", "1", "--connections", str(connections)),
            *("--duration", str(self.seconds)),
        )
        return Figure(figure.rate, connections / figure.rate)

    def one_by_one(self) -> Figure:
        """
        A client as lean as pgbench's, so that the latency is the gateway's and not its own.
        """
        frame = (MESSAGE + "\n").encode()
        sent = 0
        address = ("127.0.0.1", self.gateway.port("lines"))
        with socket.create_connection(address) as peer:
            begun = time.monotonic()
            while (seconds := time.monotonic() - begun) < self.seconds:
                peer.sendall(frame)
                answer = peer.recv(4096)
                if answer != b"+OK\n":
                    raise RuntimeError(f"answered {answer!r}")
                sent += 1
        if self.stored() != sent:
            raise RuntimeError(f"{sent} acknowledged, {self.stored()} in the table")
        return Figure(sent / seconds, seconds / sent)

    def naive(self) -> Figure:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.naive", self.database.dsn, str(port)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            return self.gateway_bench(port, "--duration", str(self.seconds))
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def rsyslog(self) -> Figure:
        count = self.count // 5
        with running_rsyslog(self.folder, self.server) as port:
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall((MESSAGE + "\n").encode() * count)
            wait_until(lambda: self.stored() >= count, "rsyslog has stored everything", 600)
            return Figure(count / (time.monotonic() - begun))


@contextmanager
def running_rsyslog(folder: Path, server: TemporaryServer) -> Iterator[int]:
    """
    rsyslog on a TCP port, writing into the same table in batches of 1,024.
    """
    port = free_port()
    config = folder / "rsyslog.conf"
    config.write_text(
        f"""
        global(workDirectory="{folder}" maxMessageSize="64k")
        module(load="imptcp")
        module(load="ompgsql")
        template(name="insert" type="list" option.stdsql="on") {{
            constant(value="INSERT INTO messages (body, peer) VALUES ('")
            property(name="rawmsg")
            constant(value="', '")
            property(name="fromhost-ip")
            constant(value="')")
        }}
        ruleset(name="store" queue.type="LinkedList" queue.size="5000000"
                queue.dequeueBatchSize="1024" queue.workerThreads="2") {{
            action(type="ompgsql" server="{server.embedded.socket_dir}"
                   user="gateway" pass="none" db="gateway" template="insert")
        }}
        input(type="imptcp" port="{port}" address="127.0.0.1" ruleset="store")
        """
    )
    with (folder / "rsyslog.log").open("wb") as log:
        process = subprocess.Popen(
            ["rsyslogd", "-n", "-f", str(config), "-i", str(folder / "rsyslog.pid")],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: _accepts(port), "rsyslog listens")
        yield port
    finally:
        process.terminate()
        process.wait()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure(bench: Bench, rounds: int) -> dict[str, Figure]:
    """
    @return: what was measured -> the median of the rounds.
    """
    steps: dict[str, Callable[[], Figure]] = {
        COPY: bench.copy,
        LINES: lambda: bench.pipelined("lines", "line"),
        NETSTRINGS: lambda: bench.pipelined("netstrings", "netstring"),
        PGBENCH_1: lambda: bench.pgbench(1),
        WINDOW_1: bench.one_by_one,
        WINDOW_1_TOOL: lambda: bench.window_1(1),
        PGBENCH_64: lambda: bench.pgbench(64),
        WINDOW_64: lambda: bench.window_1(64),
        NAIVE: bench.naive,
    }
    if shutil.which("rsyslogd") and Path("/usr/lib/x86_64-linux-gnu/rsyslog/ompgsql.so").exists():
        steps[RSYSLOG] = bench.rsyslog
    found: dict[str, list[Figure]] = {name: [] for name in steps}
    for turn in range(rounds):
        for name, step in steps.items():
            bench.empty()
            figure = step()
            found[name].append(figure)
            print(f"round {turn + 1}: {name:32} {figure.rate:12,.0f} messages/s", flush=True)
    return {
        name: sorted(figures, key=lambda f: f.rate)[len(figures) // 2]
        for name, figures in found.items()
    }


def ratio(target: Target, figures: dict[str, Figure]) -> float | None:
    """
    C{None} where one of the two was not measured.
    """
    if target.name not in figures or target.of not in figures:
        return None
    mine, other = figures[target.name], figures[target.of]
    if target.latency:
        return (mine.latency or 0.0) / (other.latency or 1.0)
    return mine.rate / other.rate


def table(figures: dict[str, Figure], version: str) -> str:
    """
    The results in Markdown.
    """
    lines = [
        f"PostgreSQL {version}, Python {platform.python_version()}, two cores,"
        " messages of 100 bytes; server, gateway and load generator on one machine.",
        "",
        "| what (connections x window) | messages/s | of COPY | latency |",
        "|---|---:|---:|---:|",
    ]
    base = figures[COPY].rate
    for name, figure in figures.items():
        small = name in (PGBENCH_1, PGBENCH_64, WINDOW_1, WINDOW_1_TOOL, WINDOW_64)
        latency = f"{figure.latency * 1000:.2f} ms" if figure.latency and small else ""
        lines.append(f"| {name} | {figure.rate:,.0f} | {figure.rate / base:.3f} | {latency} |")
    lines += ["", "| ratio | bound | measured |", "|---|---:|---:|"]
    for target in TARGETS:
        found = ratio(target, figures)
        if found is not None:
            sign, kind = ("<=", "latency ") if target.latency else (">=", "")
            lines.append(
                f"| {kind}{target.name} / {target.of} | {sign} {target.bound:g} | {found:.2f} |"
            )
    return "\n".join(lines) + "\n"


def with_table(page: str, text: str) -> str:
    """
    The page with its table replaced.
    """
    return re.sub(
        r"(<!-- table -->\n).*(<!-- end -->)",
        lambda m: f"{m[1]}{text}{m[2]}",
        page,
        flags=re.DOTALL,
    )


def plot(figures: dict[str, Figure], path: Path) -> None:
    """
    Bars of messages per second.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gateway"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    names = sorted(figures, key=lambda name: figures[name].rate)
    rates = [figures[name].rate for name in names]
    colours = ["#2b6cb0" if name.startswith("gateway") else "#a0aec0" for name in names]
    figure, axes = pyplot.subplots(figsize=(9, 4))
    bars = axes.barh(names, rates, color=colours)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1000, max(rates) * 4)
    axes.set_xlabel("messages/s, each answered after its commit where there is an answer")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="one small round, nothing written")
    parser.add_argument("--rounds", type=int, default=3)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
        bench = Bench(Path(folder), 0.2 if options.quick else 1.0)
        try:
            figures = measure(bench, 1 if options.quick else options.rounds)
            version = bench.database.column("SHOW server_version")[0]
        finally:
            bench.close()
    text = table(figures, version)
    print("\n" + text)
    if not options.quick:
        page = ROOT / "docs" / "performance.md"
        page.write_text(with_table(page.read_text(), text))
        plot(figures, ROOT / "docs" / "performance.svg")


if __name__ == "__main__":
    main()
