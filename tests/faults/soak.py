"""
The long form: kill the gateway and PostgreSQL under load, again and again, then judge.

    python -m tests.faults.soak                                        # about ten minutes
    python -m tests.faults.soak --gateway-kills 5 --database-kills 2   # half a minute

Prints one row of the table in C{docs/reliability.md}; exits with 1 where the promise
was broken. With the same C{--seed} the same things happen in the same order, though
not at the same moments.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.cluster import kill_postmaster
from tests.faults.load import Load
from tests.support import Database, Gateway, TemporaryServer, wait_until

PEERS: Final = 4
WINDOW: Final = 40

_CONFIG: Final = """
[database]
dsn = "{dsn}"
acquire_timeout = 0.3
[listeners.lines]
endpoint = "tcp:{port}:interface=127.0.0.1"
route = "messages"
"""


@dataclass
class Verdict:
    """
    The promise held against the table.

    @ivar acknowledged: messages answered C{+OK} or C{+QUE}.
    @ivar queued: those of them that were answered C{+QUE}.
    @ivar missing: acknowledged, and not in the table.
    @ivar doubled: in the table more than once.
    @ivar disordered: connections whose messages are not in the order they were sent.
    """

    acknowledged: int = 0
    queued: int = 0
    stored: int = 0
    missing: int = 0
    doubled: int = 0
    disordered: int = 0

    @property
    def kept(self) -> bool:
        return self.acknowledged > 0 and not (self.missing or self.doubled or self.disordered)


def judge(database: Database, load: Load) -> Verdict:
    """
    One peer at a time: there are millions of messages.
    """
    verdict = Verdict()
    for loader in load.loaders:
        there = database.column(
            "SELECT split_part(body, ' ', 2)::int FROM messages"
            " WHERE split_part(body, ' ', 1) = %s ORDER BY id",
            str(loader.number),
        )
        once = set(there)
        verdict.stored += len(there)
        verdict.acknowledged += len(loader.acknowledged)
        verdict.queued += loader.queued
        verdict.missing += len(set(loader.acknowledged) - once)
        verdict.doubled += len(there) - len(once)
        verdict.disordered += sum(one != sorted(one) for one in loader.by_connection(there))
    return verdict


class Soak:
    """
    A gateway, a server, a load, and what becomes of them.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder = folder
        self._chance = chance
        self._server = TemporaryServer(folder / "server")
        (folder / "server").mkdir()
        self._server.start()
        self.database = Database(self._server.embedded.dsn)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        dsn = self.database.dsn.replace("'", "")
        (folder / "gateway.toml").write_text(_CONFIG.format(dsn=dsn, port=port))
        self._gateway = self._start()
        self.load = Load(port, PEERS, window=WINDOW, reconnect=True)

    def _start(self) -> Gateway:
        gateway = Gateway(("--config", "gateway.toml"), self._folder)
        gateway.wait_log("listener lines")
        return gateway

    def _wait_a_moment(self, most: float) -> None:
        # The moment is the test's point.
        time.sleep(self._chance.random() * most)

    def kill_gateway(self) -> None:
        self.load.wait_progress()
        self._wait_a_moment(0.5)
        self._gateway.process.kill()
        self._gateway.process.wait()
        self._gateway = self._start()

    def kill_database(self) -> None:
        self.load.wait_progress()
        self._wait_a_moment(0.5)
        kill_postmaster(self._server.embedded.data)
        if self._chance.random() < 0.5:
            # Long enough for the spool; sometimes the gateway dies meanwhile.
            self._wait_a_moment(2.0)
            if self._chance.random() < 0.5:
                self.kill_gateway()
        self._server.restart()

    def finish(self) -> None:
        """Wait until what was spooled is stored."""
        self.load.wait_progress()
        self.load.finish()

        def complete() -> bool:
            return not judge(self.database, self.load).missing

        wait_until(complete, "everything acknowledged is in the table", 120)

    def end(self) -> None:
        self.load.finish()
        self._gateway.end()
        self._server.stop()


def soak(gateway_kills: int, database_kills: int, seed: int) -> tuple[Verdict, float]:
    """
    @return: the verdict, and how many seconds it took.
    """
    chance = random.Random(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder:
        running = Soak(Path(folder), chance)
        try:
            deeds = [running.kill_gateway] * gateway_kills + [
                running.kill_database
            ] * database_kills
            chance.shuffle(deeds)
            for number, deed in enumerate(deeds, 1):
                deed()
                if sys.stderr.isatty():
                    print(f"\r{number} of {len(deeds)}", end="", file=sys.stderr)
            running.finish()
            return judge(running.database, running.load), time.monotonic() - began
        finally:
            running.end()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--gateway-kills", type=int, default=200)
    parser.add_argument("--database-kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    verdict, seconds = soak(options.gateway_kills, options.database_kills, options.seed)
    print(
        "| gateway killed | PostgreSQL killed | acknowledged | of them +QUE | missing | doubled |"
        " out of order | seed | time |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {options.gateway_kills} | {options.database_kills} | {verdict.acknowledged:,} |"
        f" {verdict.queued:,} | {verdict.missing} | {verdict.doubled} | {verdict.disordered} |"
        f" {options.seed} | {seconds:.0f} s |"
    )
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
