"""
Numbered streams that move between two gateways while everything around them breaks.

    python -m tests.faults.streams_soak                     # twenty minutes
    python -m tests.faults.streams_soak --seconds 20 --restores 0 --pause 0

What waits in a spool at the end is judged when it is stored or a dead letter, some hundred records
a second: without pauses twenty minutes leave more than that in ten.

Twelve streams over two routes, eight of which say what they have seen and four of which do not;
two gateways with a spool each on one database; killed, cut off, started again, a route renamed,
the database set back. Prints one row of the table in C{docs/reliability.md}; exits with 1 where
the promise was broken.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg2

from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway, Peer, TemporaryServer, wait_until

WINDOW: Final = 60
"""Messages that a stream has unanswered at most."""

ROUTES: Final = ("messages", "others")

_CONFIG: Final = """
[database]
dsn = '''{dsn}'''
acquire_timeout = 0.3
connect_timeout = 1.0
answer_timeout = 1.0
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
[routes.others]
table = "others"
"""

_TABLES: Final = """
CREATE SEQUENCE place;
CREATE TABLE messages (id bigint PRIMARY KEY DEFAULT nextval('place'), peer text, body text);
CREATE TABLE others (LIKE messages INCLUDING ALL)
"""

_KEPT: Final = (*ROUTES, "gateway.lane", "gateway.stream", "gateway.digest", "gateway.refusal")
"""What a restored database has older copies of."""

_BODIES: Final = (
    "SELECT body FROM (SELECT id, body FROM messages UNION ALL SELECT id, body FROM others) u"
    " ORDER BY id"
)


class StreamPeer(threading.Thread):
    """
    A peer with a stream, that goes from gateway to gateway.

    @ivar says: whether it says what it has seen.
    @ivar promised: messages whose number was answered +OK, +DUP or +QUE, or covered by a seq.
    @ivar queued: how many were answered +QUE.
    @ivar last: why its last connection ended.
    @ivar gaps: how often HELLO was put off, or the peer disconnected, with GAP.
    """

    def __init__(
        self,
        name: str,
        says: bool,
        gateways: Callable[[], Sequence[Gateway]],
        seed: int,
        pause: float,
    ) -> None:
        """
        @param says: whether it says what it has seen.
        @param pause: seconds that it lies low between two connections, at most.
        """
        super().__init__(daemon=True)
        self.stream = name
        self.promised: set[str] = set()
        self.queued = self.gaps = self.greeted = 0
        self.last = ""
        self.ending = False
        self.forgets = False
        self.says = says
        self._gateways = gateways
        self._pause = pause
        self._chance = random.Random(seed)
        self._made = 0
        self._unanswered: deque[str] = deque()
        self._answered = 0
        self._epoch = ""

    @property
    def done(self) -> bool:
        """Whether it has ended with every message answered."""
        return self.ending and not self._unanswered

    def run(self) -> None:
        while not self.done:
            gateway = self._chance.choice(self._gateways())
            try:
                peer = Peer(gateway.port("commands"))
                try:
                    self._converse(peer)
                finally:
                    peer.close()
            except (AssertionError, OSError) as error:
                self.last = str(error)
            # It is less patient than it is asked to be.
            time.sleep(0.02 + self._chance.uniform(0, 0 if self.ending else self._pause))

    def _converse(self, peer: Peer) -> None:
        hello = f"HELLO {self.stream}"
        if self.says and self._epoch and not self.forgets:
            hello += f" seen={self._answered} epoch={self._epoch}"
        peer.send(hello.encode() + b"\n")
        greeting = peer.read_lines(1)[0].decode()
        if not greeting.startswith("+OK"):
            self.gaps += " GAP" in greeting
            raise OSError(greeting)
        self.greeted += 1
        seq, epoch = (word.split("=")[1] for word in greeting.split()[1:])
        self._resume(int(seq), epoch)
        for _ in range(self._chance.randint(1, 20)):
            self._send_some(peer)

    def _resume(self, seq: int, epoch: str) -> None:
        """Whatever is covered is promised, the rest goes on from there."""
        if self.forgets:
            # The database was set back, and it was told so: what it was promised is counted.
            self.forgets = False
        covered = seq - self._answered
        for _ in range(min(max(0, covered), len(self._unanswered))):
            self.promised.add(self._unanswered.popleft())
        self._answered, self._epoch = seq, epoch

    def _send_some(self, peer: Peer) -> None:
        count = self._chance.randint(1, WINDOW)
        while len(self._unanswered) < count and not self.ending:
            self._made += 1
            self._unanswered.append(f"{self.stream} {self._made}")
        sent = list(self._unanswered)[:count]
        lines = []
        for place, body in enumerate(sent, 1):
            number = self._answered + place
            lines.append(f"PUT {ROUTES[number % 7 == 0]} #{number} {body}\n")
        peer.send("".join(lines).encode())
        if self._chance.random() < 0.1:
            raise OSError("it leaves without a word")
        for _ in sent:
            answer = peer.read_lines(1)[0]
            if not answer.startswith((b"+OK", b"+QUE", b"+DUP")):
                self.gaps += b" GAP" in answer
                raise OSError(answer)
            self.queued += answer == b"+QUE"
            self.promised.add(self._unanswered.popleft())
            self._answered += 1


class Site:
    """
    A gateway and its line to the database.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        folder.mkdir()
        self._folder = folder
        self._proxy = FaultProxy.before_database(database.dsn)
        (folder / "gateway.toml").write_text(_CONFIG.format(dsn=self._proxy.dsn(database.dsn)))
        self.logs: list[Gateway] = []
        self.start()

    @property
    def gateway(self) -> Gateway:
        return self.logs[-1]

    @property
    def waiting(self) -> int:
        """Messages in its spool."""
        mark = (self._folder / "gateway-data" / "spool.db.mark").read_text()
        return int(mark.split()[3])

    def start(self) -> None:
        gateway = Gateway(("--config", "gateway.toml"), self._folder)
        gateway.wait_log("listener commands")
        self.logs.append(gateway)

    def kill(self) -> None:
        self.gateway.process.kill()
        self.gateway.process.wait()
        self.start()

    def restart(self) -> None:
        try:
            self.gateway.terminate()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not stop:\n{self.gateway.log[-4000:]}") from None
        self.start()

    def cut_off(self, seconds: float) -> None:
        self._proxy.tell("refuse")
        self._proxy.tell("reset")
        time.sleep(seconds)
        self._proxy.tell("accept")

    def end(self) -> None:
        self.gateway.end()
        self._proxy.end()


@dataclass
class Verdict:
    """
    What became of the promise.

    @ivar lost_by_restore: promised, and gone since the database was set back.
    @ivar missing: promised, and neither stored nor a dead letter, nor lost so.
    @ivar doubled: stored more than once.
    @ivar disordered: streams whose messages are not stored in their order.
    @ivar dead_letters: dead letters.
    @ivar needless: those of them that are of peers that say what they have seen.
    """

    promised: int = 0
    queued: int = 0
    gaps: int = 0
    lost_by_restore: int = 0
    missing: int = 0
    doubled: int = 0
    disordered: int = 0
    dead_letters: int = 0
    needless: int = 0
    done: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        broken = self.missing or self.doubled or self.disordered or self.needless
        return self.promised > 0 and not broken


class StreamsSoak:
    """
    Two gateways, a server, twelve streams, and what becomes of them.
    """

    def __init__(self, folder: Path, seed: int, pause: float) -> None:
        self._chance = random.Random(seed)
        (folder / "server").mkdir()
        self._server = TemporaryServer(folder / "server")
        self._server.start()
        self.database = Database(self._server.embedded.dsn)
        self.database.execute(_TABLES)
        self._sites = [Site(folder / name, self.database) for name in ("a", "b")]
        for site in self._sites:
            site.gateway.wait_ready()
        self.lost: set[str] = set()
        self.set_backs = 0
        self._peers = [
            StreamPeer(
                *(f"s{n}", n % 3 != 0, lambda: [s.gateway for s in self._sites], seed + n, pause)
            )
            for n in range(12)
        ]

    def run(self, seconds: float, restores: int) -> Verdict:
        verdict = Verdict()
        for peer in self._peers:
            peer.start()
        deeds = [
            *(self._kill, self._kill, self._kill_cut_off, self._restart, self._rename),
            *(self._cut_off, self._cut_off, self._cut_off, self._cut_all_off),
        ]
        began = time.monotonic()
        due = [began + seconds * (n + 1) / (restores + 1) for n in range(restores)]
        while time.monotonic() < began + seconds:
            if due and time.monotonic() > due[0]:
                due.pop(0)
                deed: Callable[[], None] = self._set_back
            else:
                deed = self._chance.choice(deeds)
            name = deed.__name__.strip("_")
            verdict.done[name] = verdict.done.get(name, 0) + 1
            deed()
            time.sleep(self._chance.random() * 2)
        self._settle()
        return self._judge(verdict)

    # What is done to them.

    def _site(self) -> Site:
        return self._chance.choice(self._sites)

    def _moment(self) -> float:
        return self._chance.random() * 4

    def _kill(self) -> None:
        self._site().kill()

    def _restart(self) -> None:
        self._site().restart()

    def _cut_off(self) -> None:
        self._site().cut_off(self._moment())

    def _cut_all_off(self) -> None:
        threads = [
            threading.Thread(target=site.cut_off, args=(self._moment(),)) for site in self._sites
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _kill_cut_off(self) -> None:
        site = self._site()
        cut = threading.Thread(target=site.cut_off, args=(2 + self._moment(),))
        cut.start()
        time.sleep(1.5)
        site.kill()
        cut.join()

    def _rename(self) -> None:
        self.database.execute("ALTER TABLE others RENAME TO others_away")
        time.sleep(self._moment())
        self.database.execute("ALTER TABLE others_away RENAME TO others")

    def _set_back(self) -> None:
        """As when an older backup is restored while the gateways run."""
        for table in _KEPT:
            self.database.execute(f"CREATE TABLE kept_{table.replace('.', '_')} (LIKE {table})")
        copies = [(table, f"kept_{table.replace('.', '_')}") for table in _KEPT]
        with psycopg2.connect(self.database.dsn) as connection, connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for table, copy in copies:
                cursor.execute(f"INSERT INTO {copy} TABLE {table}")
        connection.close()
        time.sleep(1 + self._moment())
        if self._chance.random() < 0.5:
            # With an outage's spool between.
            self._cut_all_off()
        while True:
            try:
                self._restore(copies)
                break
            except psycopg2.errors.DeadlockDetected:
                continue  # with what the gateways were doing
        for _, copy in copies:
            self.database.execute(f"DROP TABLE {copy}")
        self.set_backs += 1
        time.sleep(3)
        # A person has looked into it: everybody begins anew from what the database has.
        for peer in self._peers:
            peer.forgets = True

    def _restore(self, copies: Sequence[tuple[str, str]]) -> None:
        connection = psycopg2.connect(self.database.dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(f"LOCK TABLE {', '.join(_KEPT)} IN ACCESS EXCLUSIVE MODE")
                cursor.execute(_BODIES)
                before = {body for (body,) in cursor.fetchall()}
                for table, copy in copies:
                    cursor.execute(f"DELETE FROM {table}; INSERT INTO {table} TABLE {copy}")
                cursor.execute(_BODIES)
                self.lost |= before - {body for (body,) in cursor.fetchall()}
        finally:
            connection.close()

    # How it ends.

    def _settle(self) -> None:
        for peer in self._peers:
            peer.ending = True
        until = time.monotonic() + 120
        for peer in self._peers:
            peer.join(max(0.0, until - time.monotonic()))
        stuck = {peer.stream: peer.last for peer in self._peers if peer.is_alive()}
        assert not stuck, f"these wait for ever: {stuck}"

        try:
            wait_until(
                lambda: not any(site.waiting for site in self._sites), "the spools are empty", 600
            )
        except AssertionError as error:
            logs = "\n".join(f"{s.waiting}:\n{s.gateway.log[-3000:]}" for s in self._sites)
            raise AssertionError(f"{error}\n{logs}") from None

    def _judge(self, verdict: Verdict) -> Verdict:
        stored = self.database.column(_BODIES)
        once = set(stored)
        letters = [
            bytes(frame).decode()
            for frame in self.database.column("SELECT frame FROM gateway.dead_letter")
        ]
        verdict.doubled = len(stored) - len(once)
        verdict.dead_letters = len(letters)
        for peer in self._peers:
            verdict.promised += len(peer.promised)
            verdict.queued += peer.queued
            verdict.gaps += peer.gaps
            gone = peer.promised - once - set(letters)
            verdict.lost_by_restore += len(gone & self.lost)
            verdict.missing += len(gone - self.lost)
            for table in ROUTES:
                # Within one commit nobody sees in which order tables are filled.
                ours = [
                    int(body.split()[1])
                    for body in self.database.bodies(table)
                    if body.split()[0] == peer.stream
                ]
                verdict.disordered += ours != sorted(ours)
        if not self.set_backs:
            says = {peer.stream for peer in self._peers if peer.says}
            verdict.needless = sum(letter.split()[0] in says for letter in set(letters))
        for site in self._sites:
            for gateway in site.logs:
                log = gateway.log
                at = max(log.find("Traceback"), log.find("Unhandled"))
                assert at < 0, log[max(0, at - 1000) : at + 3000]
        return verdict

    def end(self) -> None:
        for peer in self._peers:
            peer.ending = True
        for site in self._sites:
            site.end()
        self._server.stop()


def soak(seconds: float, restores: int, seed: int, pause: float) -> Verdict:
    """
    Break everything for so long, then see what became of the promise.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-streams-") as folder:
        running = StreamsSoak(Path(folder), seed, pause)
        try:
            return running.run(seconds, restores)
        finally:
            running.end()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.streams_soak")
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--restores", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--pause", type=float, default=5.0, help="of a stream, at most")
    options = parser.parse_args(arguments)
    verdict = soak(options.seconds, options.restores, options.seed, options.pause)
    print(
        "| promised | of them +QUE | GAP told | lost by restores | missing | doubled"
        " | out of order | dead letters | needless | seed |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {verdict.promised:,} | {verdict.queued:,} | {verdict.gaps:,}"
        f" | {verdict.lost_by_restore:,} | {verdict.missing} | {verdict.doubled}"
        f" | {verdict.disordered} | {verdict.dead_letters:,} | {verdict.needless}"
        f" | {options.seed} |"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(verdict.done.items())))
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
