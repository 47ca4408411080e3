"""
The long form: kill the gateway and PostgreSQL under load, again and again, then judge.

    python -m tests.faults.soak                                        # about ten minutes
    python -m tests.faults.soak --gateway-kills 5 --database-kills 2   # half a minute

Prints one row of the table in C{docs/reliability.md}; exits with 1 where the promise
was broken. With the same C{--seed} the same things happen in the same order, though
not at the same moments.

    python -m tests.faults.soak --usage 3600      # an hour, nothing killed

loads one gateway with faults that it survives instead (backends terminated, connections
reset, bad messages), and prints what it uses after each round: nothing of it may grow.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from operator import lt
from pathlib import Path
from typing import Final

import psutil

from tests.faults.cluster import kill_postmaster
from tests.faults.load import Load
from tests.faults.look import BACKENDS, assert_quiet
from tests.support import Database, Gateway, Peer, TemporaryServer, lasting_port, wait_until

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
        port = lasting_port()
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


_USAGE_CONFIG: Final = """
[database]
dsn = "{dsn}"
pool_min = 4
pool_max = 4
query_connections = 1
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
frame_timeout = 1.0
max_frame = 4096
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "messages"
frame_timeout = 1.0
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
frame_timeout = 1.0
[queries.last]
sql = "select body from messages order by id desc limit 3"
"""

_COUNTING: Final = """
import gc, os, signal

def count(number, frame):
    from twisted.internet import reactor
    gc.collect()
    path = os.environ["USAGE"]
    with open(path + ".new", "w") as file:
        print(len(reactor.getDelayedCalls()), len(gc.get_objects()), file=file)
    os.rename(path + ".new", path)

signal.signal(signal.SIGUSR2, count)
"""
"""
A C{sitecustomize} for the gateway's process: at SIGUSR2 it writes the number of pending timers,
and of objects. The gateway's own code knows nothing of it.
"""


@dataclass(frozen=True)
class Usage:
    """
    What a gateway uses when it has nothing to do.

    @ivar memory: resident, in bytes.
    @ivar descriptors: files and sockets that are open.
    @ivar timers: calls that its reactor has pending.
    @ivar objects: of Python's, those that its collector knows.
    """

    memory: int
    descriptors: int
    timers: int
    objects: int


MOST_GROWTH: Final = Usage(memory=3 * 1024 * 1024, descriptors=4, timers=8, objects=480)
"""
Between two rounds, however many lie between them, and each with 240 peers: the allocator's slack;
two connections to the database, of two files each; a timer of each listener and connection, and
one; what is remembered of some peers, of which one object each would be 960 in the shortest run.
"""


@dataclass
class UsageVerdict:
    """
    @ivar readings: after each round, the first of them to warm up.
    @ivar peers: connections that came and went beside the load.
    """

    verdict: Verdict = field(default_factory=Verdict)
    readings: list[Usage] = field(default_factory=list)
    peers: int = 0

    WARM_UP: Final = 2

    @property
    def growth(self) -> Usage:
        """From the least of the first third after the warm-up to the least of the last."""
        warm = self.readings[self.WARM_UP :]
        third = max(len(warm) // 3, 1)
        before, after = (
            [min(values) for values in zip(*map(astuple, part), strict=True)]
            for part in (warm[:third], warm[-third:])
        )
        return Usage(*(last - first for first, last in zip(before, after, strict=True)))

    @property
    def flat(self) -> bool:
        pairs = zip(astuple(self.growth), astuple(MOST_GROWTH), strict=True)
        return len(self.readings) > self.WARM_UP + 1 and all(grown <= most for grown, most in pairs)


class UsageSoak:
    """
    One gateway that lives through rounds of load and faults.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._chance = chance
        self._report = folder / "usage"
        self._server = TemporaryServer(folder / "server")
        (folder / "server").mkdir()
        (folder / "counting").mkdir()
        (folder / "counting" / "sitecustomize.py").write_text(_COUNTING)
        self._server.start()
        self.database = Database(self._server.embedded.dsn)
        dsn = self.database.dsn.replace("'", "")
        (folder / "gateway.toml").write_text(_USAGE_CONFIG.format(dsn=dsn))
        path = os.pathsep.join([str(folder / "counting"), os.environ.get("PYTHONPATH", "")])
        self.gateway = Gateway(
            ("--config", "gateway.toml"),
            folder,
            wrapper=("env", f"PYTHONPATH={path}", f"USAGE={self._report}"),
        )
        self.gateway.wait_ready()
        self._process = psutil.Process(self.gateway.process.pid)
        self._ports = {
            name: self.gateway.port(name) for name in ("lines", "netstrings", "commands")
        }
        self.result = UsageVerdict()

    def round(self) -> None:
        """Load and every fault, in some order; then the promise, and what is used afterwards."""
        self.database.execute("TRUNCATE messages")
        load = Load(self._ports["lines"], PEERS, window=WINDOW)
        deeds = [
            self._terminate,
            self._reset,
            self._bad_lines,
            self._bad_frames,
            self._commands,
        ] * 2
        self._chance.shuffle(deeds)
        try:
            for deed in deeds:
                deed()
            load.wait_progress()
        finally:
            load.finish()
        found, sums = judge(self.database, load), self.result.verdict
        # Nobody's connection was touched and the database was never away for long.
        assert not load.refused, load.refused[:3]
        for name, value in vars(found).items():
            setattr(sums, name, getattr(sums, name) + value)
        self.result.readings.append(self.usage())

    def usage(self) -> Usage:
        """As soon as all peers are gone and the database's connections are back."""
        ports = self._ports.values()

        def quiet() -> bool:
            return len(self.database.column(BACKENDS)) >= 4 and not any(
                connection.status != psutil.CONN_LISTEN and connection.laddr.port in ports
                for connection in self._process.net_connections("tcp")
            )

        wait_until(quiet, "all peers are gone, and the pool is full")
        readings: list[tuple[int, ...]] = []
        fell = True
        # Each listener looks at its peers once more, a fifth of a second later, or when a busy
        # machine lets it. What has leaked does not fall any more.
        while len(readings) < 4 or fell:
            time.sleep(0.3)
            last = astuple(self._reading())
            fell = bool(readings) and any(map(lt, last[1:], readings[-1][1:]))
            readings.append(last)
        return Usage(*map(min, zip(*readings, strict=True)))

    def _reading(self) -> Usage:
        self._report.unlink(missing_ok=True)
        self.gateway.process.send_signal(signal.SIGUSR2)
        wait_until(self._report.exists, "the gateway has counted")
        timers, objects = map(int, self._report.read_text().split())
        return Usage(self._process.memory_info().rss, self._process.num_fds(), timers, objects)

    def end(self) -> None:
        self.gateway.end()
        self._server.stop()

    def _peers(self, listener: str) -> list[Peer]:
        self.result.peers += 30
        return [Peer(self._ports[listener]) for _ in range(30)]

    def _terminate(self) -> None:
        """One of the gateway's backends, or all."""
        pids = self.database.column(BACKENDS)
        if self._chance.random() < 0.7:
            pids = pids[:1]
        self.database.execute("SELECT pg_terminate_backend(p) FROM unnest(%s::int[]) AS u(p)", pids)

    def _reset(self) -> None:
        """Peers that go with RST, in the middle of a frame, or before their answers."""
        peers = self._peers(self._chance.choice(list(self._ports)))
        for peer in peers:
            peer.send(self._chance.choice([b"", b"3:", b"PUT messages x\n" * 20, b"x"]))
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for peer in peers:
            peer.close()

    def _bad_lines(self) -> None:
        """Lines that are refused, and a frame that is never finished."""
        for peer in self._peers("lines"):
            answers = peer.ask(b"\x00\n\xff\n" + b"x" * 5000 + b"\ngood\nunfinished").split(b"\n")
            assert [answer[:4] for answer in answers] == [b"-REJ", b"-REJ", b"-REJ", b"+OK", b""]

    def _bad_frames(self) -> None:
        """Netstrings that are none, and peers that take no answers but stay for a moment."""
        peers = self._peers("netstrings")
        for peer in peers:
            peer.send(b"4:good," * 10 + self._chance.choice([b"0003:bad,", b"-1:x,", b"3:badx"]))
        for peer in peers[::2]:
            assert b"-BYE FORMAT" in peer.read_all()
        for peer in peers:
            peer.close()

    def _commands(self) -> None:
        """Streams, queries and verbs that are none."""
        for number, peer in enumerate(self._peers("commands")):
            peer.send(b"HELLO stream-%d\nNOPE\nCALL last\nCALL none\nPUT messages #9 x\n" % number)
            with suppress(OSError):
                peer.finish()
            assert b"-REJ" in peer.read_all()
            peer.close()


def usage_soak(rounds: int, seconds: float, seed: int) -> tuple[UsageVerdict, float]:
    """
    @param rounds: at least, those to warm up included.
    @param seconds: how long to go on, at least.
    @return: what became of it, and how many seconds it took.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder:
        running = UsageSoak(Path(folder), random.Random(seed))
        try:
            while len(running.result.readings) < rounds or time.monotonic() - began < seconds:
                running.round()
                if sys.stderr.isatty():
                    print(running.result.readings[-1], file=sys.stderr)
            assert_quiet(running.gateway)
            return running.result, time.monotonic() - began
        finally:
            running.end()


def report_usage(seconds: float, seed: int) -> bool:
    """
    @return: whether nothing grew, and the promise was kept.
    """
    result, took = usage_soak(9, seconds, seed)
    print("| after | memory | descriptors | timers | objects |")
    print("|---|---|---|---|---|")
    for number in (result.WARM_UP, len(result.readings) - 1):
        reading = result.readings[number]
        print(
            f"| round {number + 1} | {reading.memory / 1024:,.0f} KiB | {reading.descriptors} |"
            f" {reading.timers} | {reading.objects:,} |"
        )
    verdict = result.verdict
    print(
        f"{took:.0f} s, {result.peers:,} peers, {verdict.acknowledged:,} messages acknowledged,"
        f" {verdict.missing} missing, {verdict.doubled} doubled, {verdict.disordered} out of order,"
        f" seed {seed}; growth of the least of a third: {result.growth}"
    )
    return verdict.kept and result.flat


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--gateway-kills", type=int, default=200)
    parser.add_argument("--database-kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--usage", type=float, metavar="SECONDS")
    options = parser.parse_args(arguments)
    if options.usage is not None:
        return 0 if report_usage(options.usage, options.seed) else 1
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
