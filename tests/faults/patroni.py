"""
Two gateways on servers under Patroni, whose leader is switched over, killed and frozen under load.

    python -m tests.faults.patroni                 # five minutes
    python -m tests.faults.patroni --rounds 1 --deeds switchover
    python -m tests.faults.patroni --ttl 30 --servers 3

One gateway names all servers in its connection string, the other one goes through HAProxy. Eight
numbered streams move between them; beside these a peer of each sends one message after the other,
by which the outage is measured. Prints the tables in C{docs/scaling.md}; exits with 1 where the
promise was broken. Patroni, etcd and HAProxy are installed where they are missing, as root.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.faults.look import assert_quiet
from tests.faults.patroni_cluster import PatroniCluster, PatroniNode
from tests.faults.streams_soak import ROUTES, StreamPeer
from tests.installing import Installer
from tests.support import Gateway, wait_until

STREAMS: Final = 8

DEEDS: Final = ("switchover", "kill", "kill-server", "freeze")

_CACHE: Final = Path(__file__).parents[2] / ".pytest_cache" / "d" / "others"

_QUIET: Final = 3.0
"""Seconds of answers before the next deed."""

_CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "off"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "probes"
[routes.messages]
table = "messages"
[routes.others]
table = "others"
[routes.probes]
table = "probes"
"""

_TABLES: Final = """
CREATE SEQUENCE place;
CREATE TABLE messages (id bigint PRIMARY KEY DEFAULT nextval('place'), peer text, body text);
CREATE TABLE others (LIKE messages INCLUDING ALL);
CREATE TABLE probes (LIKE messages INCLUDING ALL)
"""


class Probe(threading.Thread):
    """
    A peer that sends one message after the other, each once the one before is answered.

    @ivar answers: when each was sent and answered, by the monotonic clock, and the answer.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[float, float, bytes]] = []
        self._peer = gateway.connect()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stop_asked.wait(0.01):
            number += 1
            sent = time.monotonic()
            self._peer.send(b"probe %d\n" % number)
            answer = self._peer.read_lines(1)[0]
            self.answers.append((sent, time.monotonic(), answer))

    def finish(self) -> None:
        self._stop_asked.set()
        self.join()

    def stored_since(self, since: float) -> bool:
        """Whether all messages of the last seconds, after some moment, were soon answered +OK."""
        now = time.monotonic()
        begin = now - _QUIET
        last = [(answered, word) for sent, answered, word in self.answers if sent > begin]
        times = [begin, *(answered for answered, _ in last), now]
        at_once = all(b - a < 1.0 for a, b in pairwise(times))
        return begin > since and at_once and {word for _, word in last} == {b"+OK"}

    def outage(self, since: float) -> Outage:
        """What became of the messages that were answered after some moment."""
        later = [answer for answer in self.answers if answer[1] >= since]
        stored = [since, *(answered for _, answered, word in later if word == b"+OK")]
        gap, end = max((b - a, b) for a, b in pairwise(stored))
        return Outage(
            gap,
            end - since,
            max(answered - sent for sent, answered, _ in later),
            sum(word == b"+QUE" for *_, word in later),
        )


@dataclass(frozen=True)
class Outage:
    """
    A deed as a peer sees it.

    @ivar without: the longest time without +OK, in seconds.
    @ivar until: seconds from the deed to the first +OK after that.
    @ivar longest: the longest wait for an answer, in seconds.
    @ivar queued: messages that were answered +QUE.
    """

    without: float
    until: float
    longest: float
    queued: int


@dataclass
class Verdict:
    """
    The promise held against the tables.

    @ivar promised: numbers of streams answered +OK, +DUP or +QUE, or covered by a HELLO.
    @ivar queued: how many were answered +QUE.
    @ivar missing: promised, and neither stored nor a dead letter.
    @ivar letters: dead letters.
    @ivar outages: for each deed, by gateway.
    """

    promised: int = 0
    queued: int = 0
    gaps: int = 0
    missing: int = 0
    doubled: int = 0
    disordered: int = 0
    letters: int = 0
    outages: dict[tuple[str, str], list[Outage]] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        broken = self.missing or self.doubled or self.disordered or self.letters
        return self.promised > 0 and not broken


class PatroniSoak:
    """
    Servers, two gateways, streams and probes, and what becomes of them.
    """

    def __init__(self, folder: Path, cluster: PatroniCluster, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._database = cluster.database
        self._database.execute(_TABLES)
        self._gateways = {
            "host list": self._start(folder / "list", cluster.dsn()),
            "HAProxy": self._start(folder / "haproxy", cluster.balanced_dsn()),
        }
        gateways = list(self._gateways.values())
        self._peers = [
            StreamPeer(f"s{number}", True, lambda: gateways, seed + number, 0.2)
            for number in range(STREAMS)
        ]
        self._probes = {name: Probe(gateway) for name, gateway in self._gateways.items()}

    def _start(self, folder: Path, dsn: str) -> Gateway:
        folder.mkdir()
        config = folder / "gateway.toml"
        config.touch(mode=0o600)
        config.write_text(_CONFIG.format(dsn=dsn))
        gateway = Gateway(("--config", "gateway.toml"), folder)
        gateway.wait_ready()
        return gateway

    def run(self, deeds: Sequence[str], rounds: int) -> Verdict:
        verdict = Verdict()
        for thread in (*self._peers, *self._probes.values()):
            thread.start()
        self._settle(time.monotonic())
        for name in [*deeds] * rounds:
            self._cluster.wait_whole()
            # The moment is the test's point.
            time.sleep(self._chance.random())
            since, repair = self._do(name)
            self._settle(since)
            for where, probe in self._probes.items():
                verdict.outages.setdefault((name, where), []).append(probe.outage(since))
            repair()
            print(name, verdict.outages[name, where][-1], file=sys.stderr)
        self._finish()
        return self._judge(verdict)

    def _do(self, name: str) -> tuple[float, Callable[[], None]]:
        """
        @return: when it was done, and what has to be done after.
        """
        leader: PatroniNode = self._cluster.leader
        since = time.monotonic()
        if name == "switchover":
            self._cluster.switch_over()
        elif name == "kill-server":
            leader.kill_server()
        elif name == "kill":
            leader.kill()
            return since, leader.start
        else:
            leader.freeze()
            return since, leader.thaw
        return since, lambda: None

    def _settle(self, since: float) -> None:
        for where, probe in self._probes.items():
            try:
                wait_until(lambda probe=probe: probe.stored_since(since), f"+OK by {where}", 120)
            except AssertionError as error:
                log = self._gateways[where].log[-3000:]
                raise AssertionError(f"{error}: {probe.answers[-3:]}\n{log}") from None

    def _finish(self) -> None:
        self._cluster.wait_whole()
        for probe in self._probes.values():
            probe.finish()
        for peer in self._peers:
            peer.ending = True
        for peer in self._peers:
            peer.join(120)
        waiting = {peer.stream: peer.last for peer in self._peers if peer.is_alive()}
        assert not waiting, f"these wait for ever: {waiting}"
        for gateway in self._gateways.values():
            mark = gateway.cwd / "gateway-data" / "spool.db.mark"
            wait_until(lambda mark=mark: int(mark.read_text().split()[3]) == 0, "it is empty", 120)

    def _judge(self, verdict: Verdict) -> Verdict:
        streams = [self._database.bodies(table) for table in ROUTES]
        stored = [body for bodies in streams for body in bodies]
        probes = self._database.bodies("probes")
        letters = self._database.column("SELECT count(*) FROM gateway.dead_letter")[0]
        once = set(stored)
        verdict.letters = int(letters)
        verdict.doubled = len(stored) - len(once)
        for peer in self._peers:
            verdict.promised += len(peer.promised)
            verdict.queued += peer.queued
            verdict.gaps += peer.gaps
            verdict.missing += len(peer.promised - once)
            for bodies in streams:
                ours = [int(b.split()[1]) for b in bodies if b.split()[0] == peer.stream]
                verdict.disordered += ours != sorted(ours)
        # Both number alike, and each was answered on the connection that it still has.
        sent = [f"probe {n}" for p in self._probes.values() for n in range(1, 1 + len(p.answers))]
        verdict.missing += len(sent) - len(probes)
        assert sorted(sent) == sorted(probes) or verdict.missing
        for gateway in self._gateways.values():
            assert_quiet(gateway)
        return verdict

    def end(self) -> None:
        for peer in self._peers:
            peer.ending = True
        for gateway in self._gateways.values():
            gateway.end()


def soak(
    deeds: Sequence[str], rounds: int, servers: int, ttl: int, seed: int
) -> tuple[Verdict, float]:
    """
    @return: the verdict, and how many seconds the servers needed to start.
    """
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gateway-patroni-") as folder:
        cluster = PatroniCluster(Path(folder), Installer(_CACHE), servers, ttl)
        began = time.monotonic()
        try:
            cluster.start()
            started = time.monotonic() - began
            running = PatroniSoak(Path(folder), cluster, seed)
            try:
                return running.run(deeds, rounds), started
            finally:
                running.end()
        finally:
            cluster.end()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.patroni")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deeds", nargs="+", choices=DEEDS, default=list(DEEDS))
    parser.add_argument("--servers", type=int, choices=(2, 3), default=2)
    parser.add_argument("--ttl", type=int, default=20, help="Patroni's, at least 20 seconds")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    verdict, started = soak(
        options.deeds, options.rounds, options.servers, options.ttl, options.seed
    )
    print("| deed | gateway by | first +OK after | longest wait for an answer | +QUE meanwhile |")
    print("|---|---|---|---|---|")
    for (deed, where), outages in verdict.outages.items():
        until = [outage.until for outage in outages]
        print(
            f"| {deed} | {where} | {_range(until)} | {_range([o.longest for o in outages])}"
            f" | {', '.join(str(outage.queued) for outage in outages)} |"
        )
    print()
    print("| promised | of them +QUE | GAP told | missing | doubled | out of order | seed |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {verdict.promised:,} | {verdict.queued:,} | {verdict.gaps:,} | {verdict.missing}"
        f" | {verdict.doubled} | {verdict.disordered} | {options.seed} |"
    )
    print(f"\n{options.servers} servers, ttl {options.ttl} s, started within {started:.0f} s")
    return 0 if verdict.kept else 1


def _range(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.1f} to {max(seconds):.1f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
