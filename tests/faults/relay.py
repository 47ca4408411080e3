"""
An edge, its centre and the line between them, broken again and again under load.

    python -m tests.faults.relay                            # 100,000 numbered messages
    python -m tests.faults.relay --messages 4000 --peers 4 --seed 1

Numbered peers send over two routes until each of their messages is settled; one in fifty is refused
by the table. Others send without numbers, and never send anything again. Meanwhile edge and centre
are killed and stopped, the line is cut, swallows what is sent, and is slowed down. Prints one row
of the table in C{docs/relay.md}; exits with 1 where the promise was broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.load import Load
from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway, Peer, TemporaryServer, lasting_port, wait_until

WINDOW: Final = 400
"""Messages that a numbered peer has unanswered at most."""

ROUTES: Final = ("messages", "others")

CENTRE: Final = """
[database]
dsn = '''{dsn}'''
[http]
endpoint = "off"
[listeners.commands]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "command"
framing = "netstring"
[routes.messages]
table = "messages"
[routes.others]
table = "others"
"""

EDGE: Final = """
[relay]
endpoints = ["tcp:127.0.0.1:{port}"]
stream = "edge-7"
[spool]
on_outage = "{outage}"
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
[routes.others]
"""

TABLES: Final = """
CREATE SEQUENCE place;
CREATE TABLE messages (
    id bigint PRIMARY KEY DEFAULT nextval('place'), peer text, body text CHECK (body !~ 'bad'));
CREATE TABLE others (LIKE messages INCLUDING ALL)
"""


def body_of(stream: str, number: int) -> str:
    """The message that a numbered peer sends under a number."""
    return f"{stream} {number}" + (" bad" if number % 50 == 7 else "")


class NumberedPeer(threading.Thread):
    """
    A peer with a stream, that comes back until all of its messages are settled.

    @ivar settled: the last number that was answered for good, or that a HELLO covered.
    @ivar told: number -> the first answer for good.
    @ivar fault: what should never have been.
    """

    def __init__(
        self, stream: str, port: Callable[[], int], count: int, seed: int, pause: float
    ) -> None:
        """
        @param pause: seconds between two things that it sends.
        """
        super().__init__(daemon=True)
        self.stream = stream
        self.settled = 0
        self.told: dict[int, bytes] = {}
        self.fault = ""
        self.answers = Counter[str]()
        self.last = ""
        self._port = port
        self._pause = pause
        self._count = count
        self._chance = random.Random(seed)
        self._epoch = ""

    def run(self) -> None:
        while self.settled < self._count and not self.fault:
            try:
                peer = Peer(self._port())
                try:
                    self._converse(peer)
                finally:
                    peer.close()
            except (AssertionError, OSError) as error:
                self.last = str(error)
                time.sleep(0.05)  # less patient than it is asked to be

    def _converse(self, peer: Peer) -> None:
        hello = f"HELLO {self.stream}"
        if self._epoch:
            hello += f" seen={self.settled} epoch={self._epoch}"
        peer.send(hello.encode() + b"\n")
        greeting = peer.read_lines(1)[0].decode()
        self.answers[" ".join(greeting.split()[:2]).split("=")[0]] += 1
        if not greeting.startswith("+OK"):
            raise OSError(greeting)
        seq, epoch = (word.split("=")[1] for word in greeting.split()[1:])
        if self._epoch and epoch != self._epoch:
            self.fault = f"another epoch: {greeting}"
            return
        self._epoch = epoch
        if int(seq) < self.settled:
            self.fault = f"{self.settled} was answered, and HELLO says {greeting}"
            return
        due = self.settled + 1  # also what a HELLO covers is sent again, to hear its fate
        sent = due - 1
        while due <= self._count:
            while sent < min(self._count, due + WINDOW):
                stop = min(self._count, sent + self._chance.randint(1, WINDOW))
                lines = [
                    f"PUT {ROUTES[n % 7 == 0]} #{n} {body_of(self.stream, n)}\n"
                    for n in range(sent + 1, stop + 1)
                ]
                peer.send("".join(lines).encode())
                time.sleep(self._pause)
                sent = stop
            answer = peer.read_lines(1)[0]
            self.answers[" ".join(answer.decode().split()[:2])] += 1
            if not answer.startswith((b"+OK", b"+QUE", b"+DUP", b"-REJ")):
                raise OSError(answer)
            self.told[due] = answer
            self.settled = due
            due += 1


@dataclass
class Verdict:
    """
    What became of the promise.

    @ivar numbered: messages that numbered peers were told to be kept.
    @ivar plain: the same of peers without numbers.
    @ivar lost: told to be kept, and neither stored nor a dead letter.
    @ivar doubled: stored more than once.
    @ivar disordered: pairs of a peer and a table in which its messages are out of order.
    @ivar dead_letters: refused after +QUE, and kept by the edge.
    @ivar wrong: faults that peers met; refused though the table takes it, or the other way round.
    """

    numbered: int = 0
    plain: int = 0
    queued: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    dead_letters: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> bool:
        return self.numbered > 0 and not (
            self.lost or self.doubled or self.disordered or self.wrong
        )


class RelaySoak:
    """
    A server, a centre, a line, an edge; peers, and what becomes of their messages.
    """

    def __init__(self, folder: Path, seed: int, spools: bool) -> None:
        """
        @param spools: whether the edge has a spool.
        """
        self._chance = random.Random(seed)
        self._seed = seed
        (folder / "server").mkdir()
        self._server = TemporaryServer(folder / "server")
        self._server.start()
        self.database = Database(self._server.embedded.dsn)
        self.database.execute(TABLES)
        port = lasting_port()
        self._line = FaultProxy(f"tcp:127.0.0.1:{port}")
        self._folders = {name: folder / name for name in ("centre", "edge")}
        texts = {
            "centre": CENTRE.format(dsn=self.database.dsn, port=port),
            "edge": EDGE.format(port=self._line.port, outage="spool" if spools else "refuse"),
        }
        for name, text in texts.items():
            self._folders[name].mkdir()
            (self._folders[name] / "gateway.toml").write_text(text)
        self.gateways: dict[str, Gateway] = {}
        self.logs: list[Gateway] = []
        self._start("centre")
        self._start("edge")
        self.gateways["edge"].wait_ready()

    def _start(self, name: str) -> None:
        gateway = Gateway(("--config", "gateway.toml"), self._folders[name])
        gateway.wait_log("listener commands")
        self.gateways[name] = gateway
        self.logs.append(gateway)

    # What is done to them.

    def _kill(self, name: str) -> None:
        self.gateways[name].process.kill()
        self.gateways[name].process.wait()
        if self._chance.random() < 0.3:
            time.sleep(self._chance.random())
        self._start(name)

    def kill_edge(self) -> None:
        self._kill("edge")

    def kill_centre(self) -> None:
        self._kill("centre")

    def kill_both(self) -> None:
        for name in ("edge", "centre"):
            self.gateways[name].process.kill()
            self.gateways[name].process.wait()
        for name in self._chance.sample(["edge", "centre"], 2):
            self._start(name)

    def stop_edge(self) -> None:
        self.gateways["edge"].terminate()
        self._start("edge")

    def cut(self) -> None:
        self._line.tell("reset")

    def cut_off(self) -> None:
        """Long enough for the spool."""
        self._line.tell("refuse")
        self._line.tell("reset")
        time.sleep(0.2 + self._chance.random() * 2)
        self._line.tell("accept")

    def swallow(self) -> None:
        """The answers are lost, then the connection."""
        self._line.tell("down drop")
        time.sleep(0.1 + self._chance.random() * 0.3)
        self._line.tell("reset")
        self._line.tell("down pass")

    def kill_edge_cut_off(self) -> None:
        """What is in its spool, and not known to be stored, is left to the next one."""
        self._line.tell("down drop")
        time.sleep(0.2)
        self._line.tell("refuse")
        self._line.tell("reset")
        time.sleep(0.3 if self._chance.random() < 0.5 else 6)
        self._line.tell("down pass")
        self._kill("edge")
        self._line.tell("accept")

    def slow(self) -> None:
        self._line.tell("both limit 200000")
        time.sleep(1 + self._chance.random() * 2)
        self._line.tell("both pass")

    def late(self) -> None:
        self._line.tell("both delay 50")
        time.sleep(1 + self._chance.random())
        self._line.tell("both pass")

    # How it goes.

    def run(self, messages: int, peers: int, least: int) -> Verdict:
        """
        @param least: how often something is broken at least; 0: nothing is.
        """
        verdict = Verdict()
        began = time.monotonic()
        numbered = [
            NumberedPeer(
                f"s{n}",
                lambda: self.gateways["edge"].port("commands"),
                messages // peers,
                self._seed + n,
                0.1 if least else 0.0,
            )
            for n in range(peers)
        ]
        plain = [Load(self.gateways["edge"], peers=2, first=0, window=8, pause=0.01)]
        for peer in numbered:
            peer.start()
        deeds = [
            *(self.kill_edge, self.kill_centre, self.kill_both, self.stop_edge, self.cut),
            *(self.cut_off, self.swallow, self.kill_edge_cut_off, self.slow, self.late),
        ]
        self._chance.shuffle(deeds)
        place = 0
        while place < least or any(peer.is_alive() for peer in numbered):
            if not least:
                time.sleep(0.1)
                continue
            deed = deeds[place % len(deeds)]
            place += 1
            verdict.done[deed.__name__] += 1
            before = self.gateways["edge"]
            deed()
            if self.gateways["edge"] is not before:
                plain.append(
                    Load(self.gateways["edge"], peers=2, first=2 * len(plain), window=8, pause=0.01)
                )
            time.sleep(0.3 + self._chance.random())
            faults = [peer.fault for peer in numbered if peer.fault]
            if faults:
                break
            if time.monotonic() - began > 1800:
                verdict.wrong += [f"{p.stream} waits: {p.last}" for p in numbered if p.is_alive()]
                break
        verdict.seconds = time.monotonic() - began
        for load in plain:
            load.finish()
        try:
            wait_until(lambda: not self._spooled(), "the spools are empty", 120)
        except AssertionError as error:
            verdict.wrong.append(f"{error}: {self._spooled()}")
        self._judge(verdict, numbered, plain)
        return verdict

    def _spooled(self) -> int:
        """Messages in both spools."""
        marks = [folder / "gateway-data" / "spool.db.mark" for folder in self._folders.values()]
        return sum(int(mark.read_text().split()[3]) for mark in marks if mark.exists())

    def _judge(self, verdict: Verdict, numbered: list[NumberedPeer], plain: list[Load]) -> None:
        stored = Counter[str]()
        of_table = {}
        for table in ROUTES:
            of_table[table] = self.database.bodies(table)
            stored.update(of_table[table])
        letters = self._letters()
        verdict.dead_letters = len(letters)
        verdict.doubled = sum(count - 1 for count in stored.values())
        for peer in numbered:
            verdict.wrong += [peer.fault] if peer.fault else []
            for number, answer in peer.told.items():
                body = body_of(peer.stream, number)
                verdict.queued += answer.startswith(b"+QUE")
                if answer.startswith(b"-REJ"):
                    if not body.endswith(" bad"):
                        verdict.wrong.append(f"{body}: {answer!r}")
                    elif body in stored:
                        verdict.wrong.append(f"{body}: stored, and answered {answer!r}")
                elif body not in stored and body not in letters:
                    verdict.lost += 1
                else:
                    verdict.numbered += 1
            for bodies in of_table.values():
                ours = [int(b.split()[1]) for b in bodies if b.split()[0] == peer.stream]
                verdict.disordered += ours != sorted(ours)
        rows: dict[int, list[int]] = {}
        for body in of_table["messages"]:
            if not body.startswith("s"):
                of_peer, place = body.split()
                rows.setdefault(int(of_peer), []).append(int(place))
        for load in plain:
            for loader in load.loaders:
                there = rows.get(loader.number, [])
                verdict.plain += len(loader.acknowledged)
                verdict.lost += len(set(loader.acknowledged) - set(there))
                verdict.disordered += any(one != sorted(one) for one in loader.by_connection(there))
        for gateway in self.logs:
            log = gateway.log
            at = max(log.find("Traceback"), log.find("Unhandled"))
            if at >= 0:
                verdict.wrong.append(log[max(0, at - 500) : at + 2500])

    def _letters(self) -> set[str]:
        """What the edge keeps of what was refused."""
        import sqlite3

        file = self._folders["edge"] / "gateway-data" / "relay.db"
        connection = sqlite3.connect(file)
        try:
            return {
                bytes(payload).decode()
                for (payload,) in connection.execute("SELECT payload FROM dead_letter")
            }
        finally:
            connection.close()

    def end(self) -> None:
        for gateway in self.gateways.values():
            gateway.end()
        self._line.end()
        self._server.stop()


def soak(messages: int, peers: int, seed: int, least: int, spools: bool = True) -> Verdict:
    """
    Send so many messages while everything breaks, then see what became of the promise.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-relay-") as folder:
        running = RelaySoak(Path(folder), seed, spools)
        try:
            return running.run(messages, peers, least)
        finally:
            running.end()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.relay")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--faults", type=int, default=60, help="at least so many; 0: none")
    parser.add_argument("--no-spool", action="store_false", dest="spools", help="at the edge")
    options = parser.parse_args(arguments)
    verdict = soak(options.messages, options.peers, options.seed, options.faults, options.spools)
    print(
        "| numbered | without numbers | of the numbered +QUE | lost | doubled | out of order"
        " | dead letters | seconds | seed |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {verdict.numbered:,} | {verdict.plain:,} | {verdict.queued:,} | {verdict.lost}"
        f" | {verdict.doubled} | {verdict.disordered} | {verdict.dead_letters}"
        f" | {verdict.seconds:.0f} | {options.seed} |"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(verdict.done.items())))
    for wrong in verdict.wrong[:10]:
        print("WRONG:", wrong)
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
