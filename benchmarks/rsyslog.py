"""
rsyslog into PostgreSQL: over RELP through the gateway, by its own ompgsql, and over RELP through
another rsyslog::

    python -m benchmarks.rsyslog            # some twelve minutes; --quick for eight

Debian's rsyslog with its plugins, each brought in where it is missing. First messages a second,
from the first one given to rsyslog until all are in the table. Then messages are given to it all
the time while PostgreSQL is killed three times and away for two seconds each, while what receives
RELP is killed, and while it is killed with PostgreSQL away: how many of them are missing in the
end, and how many are there twice.
A window of 1,024 messages is as many as ompgsql has in a transaction, rsyslog's own is 128. The
rsyslog that is given messages lives on, its queue is in memory, and it tries for ever
(C{action.resumeRetryCount="-1"}).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.faults.cluster import kill_postmaster
from tests.installing import Installer
from tests.rsyslog import Feeder, Rsyslog, relp_action
from tests.support import Database, Gateway, TemporaryServer, lasting_port, wait_until

ROOT: Final = Path(__file__).parent.parent

KILLS: Final = 3
AWAY: Final = 2.0
"""Seconds for which PostgreSQL, or a receiver, is away after it was killed."""

SETTLED: Final = 12.0
"""Seconds without a new row after which nothing more is expected; rsyslog tries again every one."""

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "off"
[listeners.relp]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "relp"
route = "messages"
"""

TABLE: Final = """
    CREATE TABLE messages (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        received_at timestamptz NOT NULL DEFAULT now(), peer text, body text NOT NULL
    )
"""

TEMPLATE: Final = """
template(name="insert" type="list" option.stdsql="on") {
    constant(value="INSERT INTO messages (body) VALUES ('")
    property(name="rawmsg")
    constant(value="')")
}
"""

PGSQL: Final = """
action(name="out" type="ompgsql" server="{server}" user="gateway" pass="none" db="gateway"
       template="insert" action.resumeRetryCount="-1" action.resumeInterval="1"
       queue.type="LinkedList" queue.size="1000000" queue.dequeueBatchSize="1024"
       queue.timeoutShutdown="30000")
"""

RECEIVING: Final = """
input(type="imrelp" address="127.0.0.1" port="{port}" ruleset="out" maxDataSize="64k")
"""


class Way:
    """
    One way from rsyslog into the table, and what of it may be killed.
    """

    name = ""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        """
        @param stack: ends what this starts.
        """
        self.bench = bench
        self.stack = stack
        self.rsyslog = self.start()

    def start(self) -> Rsyslog:
        """Start all of it; return the rsyslog that is given messages."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill what receives."""
        raise NotImplementedError

    def start_again(self) -> None:
        """Start what was killed."""
        raise NotImplementedError


class ThroughGateway(Way):
    name = "RELP, gateway"
    keys = ""

    def start(self) -> Rsyslog:
        self._gateway = self._receiver()
        action = relp_action(self.bench.port, self.keys)
        return self.bench.rsyslog("out", self.stack, action, ["omrelp"])

    def kill(self) -> None:
        self._gateway.process.kill()
        self._gateway.process.wait()

    def start_again(self) -> None:
        self._gateway = self._receiver()

    def _receiver(self) -> Gateway:
        config = self.bench.folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=self.bench.database.dsn, port=self.bench.port))
        gateway = Gateway(("--config", str(config)), self.bench.folder)
        self.stack.callback(gateway.end)
        gateway.wait_ready()
        return gateway


class ThroughGatewayWide(ThroughGateway):
    name = "RELP, window 1024"
    keys = 'windowSize="1024"'


class Ompgsql(Way):
    name = "ompgsql"

    def start(self) -> Rsyslog:
        return self.bench.rsyslog("out", self.stack, self.bench.pgsql, ["ompgsql"], TEMPLATE)


class ThroughRsyslog(Way):
    name = "RELP, imrelp, ompgsql"

    def start(self) -> Rsyslog:
        self._receiver = self._received()
        return self.bench.rsyslog("out", self.stack, relp_action(self.bench.port), ["omrelp"])

    def kill(self) -> None:
        self._receiver.end()

    def start_again(self) -> None:
        self._receiver = self._received()

    def _received(self) -> Rsyslog:
        more = TEMPLATE + RECEIVING.format(port=self.bench.port)
        plugins = ["ompgsql", "imrelp"]
        return self.bench.rsyslog("in", self.stack, self.bench.pgsql, plugins, more)


class Bench:
    """
    One server, and what writes into its table in one way or another.
    """

    def __init__(self, folder: Path) -> None:
        cache = ROOT / ".pytest_cache" / "d" / "others"
        cache.mkdir(parents=True, exist_ok=True)
        self._installer = Installer(cache)
        self.folder = folder
        self.server = TemporaryServer(folder)
        self.server.start()
        self.database = Database(self.server.embedded.dsn)
        self.port = lasting_port()

    @property
    def pgsql(self) -> str:
        """Action that writes into the table."""
        return PGSQL.format(server=self.server.embedded.socket_dir)

    def rsyslog(
        self, name: str, stack: ExitStack, action: str, plugins: list[str], more: str = ""
    ) -> Rsyslog:
        """
        Start an rsyslog.

        @param name: of its folder.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        rsyslog = Rsyslog(self._installer, folder, action, plugins=plugins, more=more)
        stack.callback(rsyslog.end)
        return rsyslog

    def empty(self) -> None:
        self.database.execute("DROP TABLE IF EXISTS messages")
        self.database.execute(TABLE)
        self.database.execute("CHECKPOINT")

    def column(self, sql: str) -> int:
        (found,) = self.database.column(f"SELECT {sql} FROM messages")
        return int(found)

    def rate(self, way: type[Way], count: int) -> float:
        """
        @return: messages a second.
        """
        self.empty()
        with ExitStack() as stack:
            rsyslog = way(self, stack).rsyslog
            messages = [b"<13>message %9d %b" % (n, b"x" * 80) for n in range(count)]
            begun = time.monotonic()
            rsyslog.send(messages)
            wait_until(lambda: self.column("count(*)") >= count, "all are stored", 600)
            return count / (time.monotonic() - begun)

    def killed(self, way: type[Way], kill: Callable[[Way], None]) -> tuple[int, int, int]:
        """
        Kill something under load, again and again.

        @return: messages given, missing, and there once more than they should be.
        """
        self.empty()
        with ExitStack() as stack:
            running = way(self, stack)
            feeder = Feeder(running.rsyslog)
            for _ in range(KILLS):
                before = self.column("count(*)")
                wait_until(lambda before=before: self.column("count(*)") > before + 5000, "goes on")
                kill(running)
            time.sleep(2)
            feeder.finish()
            self._settle(feeder.given)
            distinct, count = self.column("count(DISTINCT body)"), self.column("count(*)")
            return feeder.given, feeder.given - distinct, count - distinct

    def _settle(self, given: int) -> None:
        """Wait until all is stored, or nothing more comes."""
        count, since = -1, time.monotonic()
        while self.column("count(DISTINCT body)") < given:
            if (now := self.column("count(*)")) != count:
                count, since = now, time.monotonic()
            elif time.monotonic() - since > SETTLED:
                break
            time.sleep(0.25)

    def kill_server(self, way: Way) -> None:
        """Kill PostgreSQL, and start it again."""
        kill_postmaster(self.server.embedded.data)
        time.sleep(AWAY)
        self._start_server()

    def kill_receiver(self, way: Way) -> None:
        """Kill what receives, and start it again."""
        way.kill()
        time.sleep(AWAY)
        way.start_again()

    def kill_both(self, way: Way) -> None:
        """Kill what receives while PostgreSQL is away."""
        kill_postmaster(self.server.embedded.data)
        time.sleep(AWAY)
        way.kill()
        self._start_server()
        way.start_again()

    def _start_server(self) -> None:
        self.server.start()
        wait_until(lambda: self._answers, "PostgreSQL is there")

    @property
    def _answers(self) -> bool:
        return bool(self.database.column("SELECT 1"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rsyslog")
    parser.add_argument("--quick", action="store_true", help="one round, fewer messages")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds, count = (1, 50_000) if options.quick else (options.rounds, 200_000)
    ways: tuple[type[Way], ...] = (ThroughGateway, ThroughGatewayWide, Ompgsql, ThroughRsyslog)
    lost = 0
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
        bench = Bench(Path(folder))
        try:
            rates: dict[str, list[float]] = {way.name: [] for way in ways}
            for _ in range(rounds):
                for way in ways:
                    rates[way.name].append(bench.rate(way, count))
            for name, found in rates.items():
                print(f"{name:24}{statistics.median(found):12,.0f} messages/s", flush=True)
            receiving = (ThroughGateway, ThroughGatewayWide, ThroughRsyslog)
            killed: list[tuple[str, type[Way], Callable[[Way], None]]] = [
                *(("PostgreSQL", way, bench.kill_server) for way in ways),
                *(("the receiver", way, bench.kill_receiver) for way in receiving),
                *(("the receiver, PostgreSQL away,", way, bench.kill_both) for way in receiving),
            ]
            for what, way, kill in killed:
                given, missing, doubled = bench.killed(way, kill)
                print(
                    f"{way.name:24}{what} killed {KILLS} times: of {given:,}"
                    f" {missing:,} missing, {doubled:,} doubled",
                    flush=True,
                )
                lost += missing if issubclass(way, ThroughGateway) else 0
        finally:
            bench.server.stop()
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
