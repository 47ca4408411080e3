"""
The long form of the client library: a stream of messages through a gateway that is killed
again and again, behind a proxy that cuts, slices, delays and limits.

    python -m tests.faults.client_soak                                 # a few minutes
    python -m tests.faults.client_soak --messages 8000 --kills 4

The client is given every message at the beginning, with C{send}, and nothing more. Prints one row
of the table in C{docs/client.md}; exits with 1 where a message is missing, doubled or out of order.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from gateway.client.answers import Answer
from gateway.client.service import GatewayClient
from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway, TemporaryServer, lasting_port, wait_until

_CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[listeners.commands]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "command"
"""


@dataclass(frozen=True)
class Verdict:
    """
    @ivar answers: first words, and how often.
    @ivar attempts: how often the client tried to connect.
    """

    messages: int
    kills: int
    resets: int
    attempts: int
    answers: dict[str, int]
    missing: int
    doubled: int
    disordered: int
    seconds: float

    @property
    def kept(self) -> bool:
        return not (self.missing or self.doubled or self.disordered)


class Trouble:
    """
    A gateway that is killed, and a network that is no better.
    """

    def __init__(self, dsn: str, folder: Path, chance: random.Random) -> None:
        port = lasting_port()
        (folder / "gateway.toml").write_text(_CONFIG.format(dsn=dsn, port=port))
        self.kills = 0
        self.resets = 0
        self.log = ""
        self._folder = folder
        self._chance = chance
        self._gateway = self._start()
        self.proxy = FaultProxy(f"tcp:127.0.0.1:{port}")

    def _start(self) -> Gateway:
        gateway = Gateway(("--config", "gateway.toml"), self._folder)
        gateway.wait_ready()
        return gateway

    def stir(self, kills: int, unanswered: Callable[[], int], messages: int) -> None:
        """
        Kill the gateway at even stages of the way, with other faults in between.
        """
        for turn in range(kills):
            self._bother()
            due = messages * (kills - turn) // (kills + 1)
            wait_until(lambda due=due: unanswered() <= due, "it goes on", 120)
            if self._chance.random() < 0.5:
                self.proxy.tell("reset")
                self.resets += 1
            time.sleep(self._chance.random() / 20)  # the moment is the test's point
            self._gateway.process.kill()
            self._gateway.process.wait()
            self.log += self._gateway.log
            self.kills += 1
            self._gateway = self._start()
        self.proxy.tell("both pass")

    def _bother(self) -> None:
        """Another fault in each direction."""
        number = self._chance.randrange
        up = [f"slice {number(40, 200)}", f"limit {number(40_000, 200_000)}"]
        down = [f"slice {number(10, 200)}", f"delay {number(1, 40)}", "pass"]
        self.proxy.tell(f"up {self._chance.choice(up)}")
        self.proxy.tell(f"down {self._chance.choice(down)}")

    def end(self) -> None:
        self.proxy.end()
        self._gateway.end()
        self.log += self._gateway.log


async def soak(
    database: Database, folder: Path, messages: int, kills: int, seed: int, reactor: Any
) -> tuple[Verdict, str]:
    """
    @return: the verdict, and what the gateways logged.
    """
    began = time.monotonic()
    trouble: Trouble = await deferToThread(Trouble, database.dsn, folder, random.Random(seed))
    attempts = 0

    def paced(attempt: int) -> float:
        nonlocal attempts
        attempts += 1
        return 0.02 * min(attempt, 10)

    client = GatewayClient(
        f"tcp:127.0.0.1:{trouble.proxy.port}", stream="soak", retry=paced, reactor=reactor
    )
    try:
        async with client:
            sent = [client.send(b"%d" % number) for number in range(messages)]
            stirred = deferToThread(trouble.stir, kills, lambda: client.unanswered, messages)
            answers: list[Answer] = await gatherResults(sent, consumeErrors=True)
            await stirred
        there = [int(body) for body in await deferToThread(_stored, database, messages)]
    finally:
        await deferToThread(trouble.end)
    verdict = Verdict(
        messages=messages,
        kills=trouble.kills,
        resets=trouble.resets,
        attempts=attempts + 1,
        answers=dict(Counter(answer.word for answer in answers)),
        missing=messages - len(set(there)),
        doubled=len(there) - len(set(there)),
        disordered=sum(a > b for a, b in pairwise(there)),
        seconds=time.monotonic() - began,
    )
    return verdict, trouble.log


def _stored(database: Database, messages: int) -> list[str]:
    last = "SELECT body FROM messages ORDER BY id DESC LIMIT 1"
    wait_until(lambda: database.column(last) == [str(messages - 1)], "the last one is stored")
    return database.bodies()


async def _main(reactor: Any, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="gateway-client-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        server = TemporaryServer(folder / "server")
        await deferToThread(server.start)
        try:
            database = Database(server.embedded.dsn)
            verdict, _ = await soak(
                database, folder, options.messages, options.kills, options.seed, reactor
            )
        finally:
            await deferToThread(server.stop)
    told = ", ".join(f"{count:,} {word}" for word, count in sorted(verdict.answers.items()))
    print(
        "| messages | gateway killed | resets | attempts to connect | told | missing | doubled |",
        end="",
    )
    print(" out of order | seed | time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {verdict.messages:,} | {verdict.kills} | {verdict.resets} | {verdict.attempts:,} |"
        f" {told} | {verdict.missing} | {verdict.doubled} | {verdict.disordered} |"
        f" {options.seed} | {verdict.seconds:.0f} s |"
    )
    if not verdict.kept:
        raise SystemExit(1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.client_soak")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, options)))


if __name__ == "__main__":
    main(sys.argv[1:])
