"""
Fuzzing of the command dialect, the long form: a gateway in a process of its own on a real
PostgreSQL, and many peers at once who say what is right, nearly right and not right at all.

    python -m tests.fuzzing.live                    # ten minutes
    python -m tests.fuzzing.live --seconds 30 --seed 7

Every frame must be answered as C{docs/protocol.md} has it, in order; no connection may end
but for a reason that was said; the log must hold no error; memory must not grow. Prints what
it did, and exits with 1 where any of that was not so. With the same C{--seed} each peer says
the same.
"""

from __future__ import annotations

import argparse
import random
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import psutil
from argon2 import PasswordHasher

from gateway.access.token_file import TokenFile
from gateway.wire.framing import FRAMINGS
from tests.support import PATIENCE, Database, Gateway, Peer, TemporaryServer
from tests.talk import SHARED, TOKEN, Expected, Hearing, Judge, Speaker, Tally, paired

MAX_FRAME: Final = 4096

PEERS: Final = 24

GROWTH: Final = 64 * 1024 * 1024
"""Bytes that the gateway may have gained when it ends, after it was warm."""

CONFIG: Final = """
[database]
dsn = "{dsn}"
[listeners.line]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
max_frame = 4096
window = 64
[listeners.nul]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
framing = "nul"
max_frame = 4096
[listeners.netstring]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
framing = "netstring"
max_frame = 4096
[listeners.octet-counted]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
framing = "octet-counted"
max_frame = 4096
window = 3
[listeners.int16]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
framing = "int16"
max_frame = 4096
[listeners.int32]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
framing = "int32"
max_frame = 4096
[routes.messages]
table = "messages"
[routes.messages.columns]
body = "@frame"
[routes.numbers]
table = "numbers"
[routes.numbers.columns]
n = "@frame"
[routes.once]
table = "once"
conflict = "ignore"
key = ["body"]
[routes.once.columns]
body = "@frame"
[channels]
allow = ["news"]
[access]
tokens = "tokens"
[access.grants.all]
networks = ["127.0.0.0/8"]
routes = ["*"]
queries = ["*"]
channels = ["*"]
streams = ["*"]
[queries.last]
sql = "SELECT body FROM messages ORDER BY id DESC LIMIT %(n)s"
max_rows = 5
[queries.last.params.n]
type = "integer"
default = 1
[queries.fails]
sql = "SELECT 1 / %(n)s AS never"
[queries.fails.params.n]
type = "integer"
default = 0
"""

SPOKEN: Final = ("line", "nul", "netstring", "octet-counted", "int16", "int32")
"""Framings of the listeners: all but C{int8}, in which nobody commands, and C{delimited}."""

TABLES: Final = """
CREATE TABLE messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
CREATE TABLE numbers (n text NOT NULL CHECK (n ~ '^[0-9]{1,9}$'));
CREATE TABLE once (body text PRIMARY KEY);
"""


def takes(route: bytes, payload: bytes) -> bool | None:
    """
    Whether the tables take a message; C{None}: PostgreSQL alone knows.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return False
    if route == b"numbers":
        return re.fullmatch("[0-9]{1,9}", text) is not None
    if route == b"once" and len(payload) > 2000:
        return None  # an index has no room for everything
    return "\0" not in text


@dataclass
class Figures:
    """
    What was done, by all peers together.
    """

    connections: int = 0
    frames: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    pushes: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.connections += other.connections
        self.frames += other.frames
        self.answers += other.answers
        self.pushes += other.pushes
        self.ends += other.ends
        self.faults += other.faults


class Fuzzer(threading.Thread):
    """
    One peer after the other, until the time is up or something is wrong.

    @ivar whole: whether it came to its end.
    """

    def __init__(self, number: int, seed: int, port: Callable[[str], int], until: float) -> None:
        """
        @param port: a framing -> where it is spoken.
        """
        super().__init__(daemon=True)
        self.figures = Figures()
        self.whole = False
        self._number = number
        self._chance = Random(f"{seed} {number}")
        self._port = port
        self._until = until

    def run(self) -> None:
        while time.monotonic() < self._until and not self.figures.faults:
            framing = self._chance.choice(SPOKEN)
            self.figures.connections += 1
            conversation = _Conversation(self._conversation_name(), framing, self._chance)
            try:
                conversation.hold(self._port(framing), self._until, self.figures)
            except (AssertionError, OSError, ValueError) as error:
                self.figures.faults.append(
                    f"peer {self._number}, connection {self.figures.connections}, {framing}:"
                    f" {type(error).__name__}: {error}"
                )
        self.whole = True

    def _conversation_name(self) -> str:
        # Now and then streams of others: who had them is told goodbye.
        if self._chance.random() < 0.1:
            return SHARED.decode()
        return f"{self._chance.getrandbits(64):x}-"


class _Conversation:
    """
    One connection, from its first frame to its end.
    """

    def __init__(self, name: str, framing: str, chance: Random) -> None:
        self._chance = chance
        self._name = name
        self._framing = FRAMINGS[framing](MAX_FRAME)
        self._speaker = Speaker(chance, name, framing, MAX_FRAME)
        # No name is that of nobody else, since others have what begins with SHARED.
        self._judge = Judge(MAX_FRAME, takes, b"/" if name == SHARED.decode() else name.encode())
        self._hearing = Hearing(framing)
        self._tally = Tally()
        self._counted = framing not in ("line", "nul")
        self._ending = chance.choice([b"\n", b"\r\n"]) if framing == "line" else b""

    def hold(self, port: int, until: float, figures: Figures) -> None:
        """
        @raise AssertionError: something was not as it must be.
        """
        peer = Peer(port)
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number in range(self._chance.randrange(1, 20)):
                if time.monotonic() > until or not self._exchange(peer, number, figures):
                    break
            self._end(peer, figures)
        finally:
            figures.pushes += self._hearing.pushes
            peer.close()

    def _exchange(self, peer: Peer, number: int, figures: Figures) -> bool:
        """
        Some frames, and a probe at whose answer all of them must have been answered.

        @return: whether the gateway still listens.
        """
        probe = b"@probe-%d PING %s-%d" % (number, self._name.encode(), number)
        frames = [self._speaker.frame() for _ in range(self._chance.randrange(1, 60))]
        expected = [self._judge.expect(frame) for frame in [*frames, probe]]
        answer = probe.replace(b"PING", b"+OK")
        self._send(peer, [one.frame for one in expected])
        hearing = self._hearing
        while answer not in hearing.answers and self._hear(peer):
            pass
        if hearing.goodbye:
            assert hearing.goodbye.startswith(b"-BYE BUSY"), hearing.goodbye
            assert self._speaker.shares, hearing.goodbye
            figures.ends["another opened its stream"] += 1
            return False
        assert hearing.answers and hearing.answers[-1] == answer, f"no answer to {probe!r}"
        self._judged(expected, figures)
        return True

    def _judged(self, expected: list[Expected], figures: Figures) -> None:
        answers, self._hearing.answers = self._hearing.answers, []
        pairs = paired(expected, answers)
        self._tally.count(pairs)
        for one, answer in pairs:
            if answer is not None:
                self._speaker.heard(one.frame, answer)
                self._judge.heard(one.frame, answer)
        figures.frames += len(expected)
        for answer in answers:
            words = answer.decode("latin-1").split(" ")[answer.startswith(b"@") :]
            refused = words[0] in ("-REJ", "-TRY")
            kind = " ".join(words[:2]) if refused else words[0]
            figures.answers["*N" if kind.startswith("*") else kind] += 1

    def _send(self, peer: Peer, frames: list[bytes]) -> None:
        if self._ending:
            data = b"".join([frame + self._ending for frame in frames])
        else:
            data = b"".join(map(self._framing.frame, frames))
        # Sometimes whole, sometimes in pieces that are cut anywhere.
        most = self._chance.choice([len(data), 2000, 100, 7])
        while data:
            size = self._chance.randint(1, most)
            peer.send(data[:size])
            data = data[size:]

    def _hear(self, peer: Peer) -> bool:
        data = peer.socket.recv(65536)
        self._hearing.take(data)
        if self._ending == b"\r\n":
            assert data.count(b"\n") == data.count(b"\r\n") or data.startswith(b"\n"), data
        elif self._ending:
            assert b"\r" not in data, data
        return bool(data)

    def _end(self, peer: Peer, figures: Figures) -> None:
        """One of the ways in which a peer may end, and what it must hear then."""
        hearing = self._hearing
        if hearing.goodbye:
            return
        hearing.answers = []
        ways = ["QUIT", "half closed", "left", "reset"]
        if self._counted:
            ways.append("broken framing")
        way = self._chance.choice(ways)
        figures.ends[way] += 1
        if way in ("left", "reset"):
            self._send(peer, [self._speaker.frame()])
            if way == "reset":
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        last = b"@last QUIT" if way == "QUIT" else b"@last PING"
        self._send(peer, [last])
        if way == "half closed":
            peer.finish()
        elif way == "broken framing":
            peer.send(b"no length")
        while self._hear(peer):
            pass
        if hearing.goodbye.startswith(b"-BYE BUSY") and self._speaker.shares:
            return
        assert hearing.answers == [b"@last +OK"], f"{hearing.answers[-3:]} to {last!r}"
        assert hearing.goodbye.startswith(b"-BYE FORMAT") == (way == "broken framing")


def notify(database: Database, stop: threading.Event) -> None:
    """Something to push, all the time."""
    while not stop.wait(0.02):
        database.execute("NOTIFY news, 'hello'")


@dataclass
class Verdict:
    """
    What a run showed.

    @ivar warm: bytes of the gateway's memory after a fifth of the time.
    @ivar end: the same at the end.
    """

    figures: Figures
    warm: int
    end: int

    @property
    def good(self) -> bool:
        return not self.figures.faults and self.end - self.warm < GROWTH


def fuzz(folder: Path, seconds: float, seed: int, peers: int = PEERS) -> Verdict:
    """
    A gateway and a server in a folder, for so long.
    """
    server = TemporaryServer(folder / "server")
    (folder / "server").mkdir()
    server.start()
    stop = threading.Event()
    try:
        database = Database(server.embedded.dsn)
        database.execute(TABLES)
        hashed = PasswordHasher(1, 1024).hash(TOKEN.partition(b".")[2])
        TokenFile(folder / "tokens").change(
            lambda _: f"fuzzer-1 fuzzer 2026-01-01T00:00:00Z - {hashed}\n", make=True
        )
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=database.dsn.replace("'", "")))
        gateway = Gateway(("--config", str(config)), folder)
        try:
            gateway.wait_ready()
            notifier = threading.Thread(target=notify, args=(database, stop))
            notifier.start()
            verdict = _fuzz(gateway, seconds, seed, peers)
            stop.set()
            notifier.join(PATIENCE)
            _judge_end(gateway, verdict.figures)
            return verdict
        finally:
            stop.set()
            gateway.end()
    finally:
        server.stop()


def _fuzz(gateway: Gateway, seconds: float, seed: int, peers: int) -> Verdict:
    process = psutil.Process(gateway.process.pid)
    ports = {framing: gateway.port(framing) for framing in SPOKEN}
    began = time.monotonic()
    fuzzers = [Fuzzer(n, seed, ports.__getitem__, began + seconds) for n in range(peers)]
    for fuzzer in fuzzers:
        fuzzer.start()
    # A time to measure at, not something to wait for.
    threading.Event().wait(seconds / 5)
    warm = process.memory_info().rss
    figures = Figures()
    for fuzzer in fuzzers:
        fuzzer.join(seconds + PATIENCE)
        if not fuzzer.whole:
            figures.faults.append("a peer still waits for an answer, or failed")
        figures.add(fuzzer.figures)
    end = process.memory_info().rss if gateway.process.poll() is None else 0
    return Verdict(figures, warm, end)


def _judge_end(gateway: Gateway, figures: Figures) -> None:
    if gateway.process.poll() is not None:
        figures.faults.append(f"the gateway ended:\n{gateway.log[-2000:]}")
        return
    status = gateway.terminate()
    if status:
        figures.faults.append(f"the gateway ended with status {status}")
    for sign in ("Traceback", "Unhandled"):
        if sign in gateway.log:
            figures.faults.append(f"the log has:\n{gateway.log[gateway.log.index(sign) :][:4000]}")


def report(verdict: Verdict, seconds: float, seed: int) -> str:
    """Figures for a person."""
    figures = verdict.figures
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(figures.answers.items()))
    ends = ", ".join(f"{way} {count:,}" for way, count in sorted(figures.ends.items()))
    return "\n".join(
        [
            f"{seconds:.0f} s, seed {seed}, {PEERS} peers at a time",
            f"connections  {figures.connections:,} ({ends})",
            f"frames       {figures.frames:,}",
            f"answers      {figures.answers.total():,} ({kinds})",
            f"pushes       {figures.pushes:,}",
            f"memory       {verdict.warm / 1e6:.0f} MB warm, {verdict.end / 1e6:.0f} MB at the end",
            *figures.faults[:5],
            "all answered as documented, in order" if verdict.good else "NOT as documented",
        ]
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.live")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gateway-fuzzing-") as folder:
        verdict = fuzz(Path(folder), options.seconds, options.seed)
    print(report(verdict, options.seconds, options.seed))
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
