"""
A gateway of several workers under load while its processes are killed.

    python -m tests.faults.workers                     # twenty minutes
    python -m tests.faults.workers --minutes 3 --workers 2

Six streams with numbers and four plain peers; workers and the parent are killed (SIGKILL), workers
stand still (SIGSTOP) until they are replaced, the line to the database is cut, so that spools are
left to successors. What was answered is held against the table: nothing lost, nothing twice, in
order. Exits with 1 where the promise was broken.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.faults.load import Load, judge_soon
from tests.faults.proxy import FaultProxy
from tests.faults.streams_soak import ROUTES, StreamPeer
from tests.support import Database, Gateway, TemporaryServer, wait_until

_CONFIG: Final = """
[process]
workers = {workers}
[database]
dsn = '''{dsn}'''
acquire_timeout = 0.3
connect_timeout = 1.0
answer_timeout = 1.0
[http]
endpoint = "off"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.lines]
endpoint = "tcp:{port}:interface=127.0.0.1"
route = "plain"
[routes.plain]
table = "plain"
[routes.messages]
table = "messages"
[routes.others]
table = "others"
"""

_TABLES: Final = """
CREATE SEQUENCE place;
CREATE TABLE messages (id bigint PRIMARY KEY DEFAULT nextval('place'), peer text, body text);
CREATE TABLE others (LIKE messages INCLUDING ALL);
CREATE TABLE plain (id bigserial PRIMARY KEY, peer text, body text)
"""

_ORPHANS: Final = 15.0
"""Seconds after which a worker without a parent is an orphan."""

_BODIES: Final = "SELECT body FROM messages UNION ALL SELECT body FROM others"


def workers_of(gateway: Gateway) -> dict[int, int]:
    """Number of a worker -> its process."""
    found = {}
    for child in psutil.Process(gateway.process.pid).children():
        try:
            words = child.cmdline()
        except psutil.Error:
            continue  # it just ends
        if "gateway.daemon.worker" in words:
            number, _, _ = words[words.index("gateway.daemon.worker") + 1].partition("/")
            found[int(number)] = child.pid
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waits for any more is a zombie at most."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Verdict:
    """
    What became of the promise.

    @ivar promised: numbered messages that were answered.
    @ivar plain: plain messages that were answered.
    @ivar queued: of both, those that were answered +QUE.
    @ivar dead_letters: of streams that began anew while a spool held a part of them.
    @ivar needless: dead letters of streams that say what they have seen.
    @ivar orphans: workers that outlived their parent.
    """

    promised: int = 0
    plain: int = 0
    queued: int = 0
    missing: int = 0
    doubled: int = 0
    disordered: int = 0
    dead_letters: int = 0
    needless: int = 0
    orphans: int = 0
    done: Counter[str] = field(default_factory=Counter)

    @property
    def is_kept(self) -> bool:
        broken = self.missing or self.doubled or self.disordered or self.needless
        return self.promised > 0 and self.plain > 0 and not broken and not self.orphans


class PlainDatabase(Database):
    """
    The database as L{judge_soon} looks at it: its messages are the plain ones.
    """

    def execute(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        return super().execute(sql.replace("FROM messages", "FROM plain"), *values)


class WorkersSoak:
    """
    A gateway of several workers, its load, and what is done to it.
    """

    def __init__(self, folder: Path, server: TemporaryServer, workers: int, seed: int) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._verdict = Verdict()
        self._database = Database(server.embedded.dsn)
        self._database.execute(_TABLES)
        self._proxy = FaultProxy.before_database(server.embedded.dsn)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (folder / "gateway.toml").write_text(
            _CONFIG.format(dsn=self._proxy.dsn(server.embedded.dsn), port=port, workers=workers)
        )
        self._workers = workers
        self._gateway = self._start()
        self._streams = [
            StreamPeer(f"s{n}", n % 3 != 0, lambda: [self._gateway], seed + n, 0.1)
            for n in range(6)
        ]
        self._load = Load(port, peers=4, window=20, reconnect=True)
        for stream in self._streams:
            stream.start()

    def _start(self) -> Gateway:
        gateway = Gateway(("--config", "gateway.toml"), self._folder)
        gateway.wait_log("listener commands")
        return gateway

    def run(self, seconds: float, freezes: bool = True) -> Verdict:
        """Break it for some time, each time when it goes on, then judge."""
        deeds: list[Callable[[], None]] = [
            *(self._kill_worker, self._kill_worker, self._kill_worker, self._kill_parent),
            *(self._cut_off, self._kill_cut_off),
        ]
        if freezes:
            deeds.append(self._freeze)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            deed = self._chance.choice(deeds)
            self._wait_progress()
            self._verdict.done[deed.__name__.strip("_")] += 1
            deed()
            time.sleep(self._chance.random() * 1.5)
        self._wait_progress()
        self._settle()
        return self._judge()

    def end(self) -> None:
        """End everything."""
        for stream in self._streams:
            stream.ending = True
        self._gateway.end()
        self._proxy.end()

    def _wait_progress(self) -> None:
        """Streams and plain peers have more answers, those of streams from the database."""

        def counts() -> tuple[int, int]:
            promised = sum(len(stream.promised) for stream in self._streams)
            return promised, self._load.acknowledged

        before = counts()
        wait_until(
            lambda: all(now > then for now, then in zip(counts(), before, strict=True)),
            "it goes on",
        )

    # What is done to it.

    def _kill_worker(self) -> None:
        pids = workers_of(self._gateway)
        if pids:
            with suppress(ProcessLookupError):  # it was just ending
                os.kill(self._chance.choice(list(pids.values())), signal.SIGKILL)

    def _kill_parent(self) -> None:
        pids = workers_of(self._gateway)
        self._gateway.process.kill()
        self._gateway.process.wait()
        self._gateway = self._start()
        until = time.monotonic() + _ORPHANS
        while any(map(is_alive, pids.values())) and time.monotonic() < until:
            time.sleep(0.02)  # one that was just started notices it when it has imported all
        self._verdict.orphans += sum(map(is_alive, pids.values()))

    def _cut_off(self) -> None:
        self._proxy.tell("refuse")
        self._proxy.tell("reset")
        time.sleep(0.5 + self._chance.random() * 2)
        self._proxy.tell("accept")

    def _kill_cut_off(self) -> None:
        """While the database is away, so that a successor has its spool."""
        self._proxy.tell("refuse")
        self._proxy.tell("reset")
        time.sleep(1)
        self._chance.choice([self._kill_worker, self._kill_parent])()
        time.sleep(1)
        self._proxy.tell("accept")

    def _freeze(self) -> None:
        pids = workers_of(self._gateway)
        if not pids:
            return
        pid = self._chance.choice(list(pids.values()))
        os.kill(pid, signal.SIGSTOP)
        # One that has just been started has a minute.
        wait_until(lambda: not is_alive(pid), "a worker that stands still is killed", 90)

    # How it ends.

    def _waiting(self) -> int:
        """Messages in the spools."""
        marks = (self._folder / "gateway-data").glob("spool*.mark")
        return sum(int(mark.read_text().split()[3]) for mark in marks)

    def _settle(self) -> None:
        self._load.finish()
        for stream in self._streams:
            stream.ending = True
        for stream in self._streams:
            stream.join(60)
        stuck = {stream.stream: stream.last for stream in self._streams if stream.is_alive()}
        assert not stuck, f"these wait for ever: {stuck}\n{self._gateway.log[-3000:]}"
        wait_until(lambda: not self._waiting(), "the spools are empty", 120)

    def _judge(self) -> Verdict:
        verdict = self._verdict
        judge_soon(PlainDatabase(self._database.dsn), self._load)
        verdict.plain = self._load.acknowledged
        stored = self._database.column(_BODIES)
        once = set(stored)
        verdict.doubled = len(stored) - len(once)
        letters = [
            bytes(frame).decode()
            for frame in self._database.column("SELECT frame FROM gateway.dead_letter")
        ]
        verdict.dead_letters = len(letters)
        verdict.queued = sum(loader.queued for loader in self._load.loaders)
        for stream in self._streams:
            verdict.promised += len(stream.promised)
            verdict.queued += stream.queued
            verdict.missing += len(stream.promised - once - set(letters))
            if stream.says:
                verdict.needless += sum(one.split()[0] == stream.stream for one in letters)
            for table in ROUTES:
                # Within one commit nobody sees in which order tables are filled.
                numbers = [
                    int(body.split()[1])
                    for body in self._database.bodies(table)
                    if body.split()[0] == stream.stream
                ]
                verdict.disordered += numbers != sorted(numbers)
        return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server").mkdir()
        (folder / "gateway").mkdir()
        server = TemporaryServer(folder / "server")
        server.start()
        soak = WorkersSoak(folder / "gateway", server, options.workers, options.seed)
        try:
            verdict = soak.run(options.minutes * 60)
        finally:
            soak.end()
            server.stop()
    print(verdict)
    print("kept" if verdict.is_kept else "BROKEN")
    return 0 if verdict.is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
