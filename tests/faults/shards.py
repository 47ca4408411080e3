"""
Two shards on two servers, each killed under load, and what becomes of the promise.

    python -m tests.faults.shards                    # five minutes
    python -m tests.faults.shards --seconds 60 --seed 1

Two gateways that both know both servers; a route whose messages are spread over both by a field,
and one of each server alone. Peers with numbered streams move between the gateways and use the
first and the last of these; plain ones send by the first. Servers are killed with SIGKILL by turns,
and a gateway now and then; whenever one server is away, a message for the other is answered C{+OK}.
At the end every message that was answered is in a table once, and a stream's messages are in the
order of their numbers in each database. Prints the figures; exits with 1 where that is not so.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.cluster import kill_postmaster
from tests.faults.load import Load
from tests.faults.streams_soak import StreamPeer
from tests.support import Database, Gateway, TemporaryServer, wait_until

_CONFIG: Final = """
[database]
dsn = '''{home}'''
acquire_timeout = 1.0
connect_timeout = 1.0
answer_timeout = 2.0
pool_max = 4
[databases.two]
dsn = '''{two}'''
acquire_timeout = 1.0
connect_timeout = 1.0
answer_timeout = 2.0
pool_max = 4
[http]
endpoint = "off"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.home]
endpoint = "tcp:0:interface=127.0.0.1"
route = "home"
[listeners.two]
endpoint = "tcp:0:interface=127.0.0.1"
route = "others"
[routes.messages]
table = "messages"
format = "regex"
pattern = '(?P<who>[^ ]+) (?P<n>.+)'
columns = {{ body = "@frame" }}
shard_by = "n"
shards = ["database", "two"]
[routes.others]
table = "messages"
database = "two"
[routes.home]
table = "messages"
"""

_TABLE: Final = """
CREATE TABLE messages (
    peer text, body text, commit bigint DEFAULT pg_current_xact_id()::text::bigint
)
"""

NAMES: Final = ("home", "two")


@dataclass
class Verdict:
    """
    What became of the promise.

    @ivar promised: messages that were answered, or covered by a seq.
    @ivar stored: messages in each database.
    @ivar kills: how often each was killed.
    @ivar missing: promised, and in no table.
    @ivar doubled: in the tables more than once.
    @ivar disordered: streams that are out of order in some database.
    """

    promised: int = 0
    stored: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    doubled: int = 0
    disordered: int = 0

    @property
    def kept(self) -> bool:
        return self.promised > 0 and not (self.missing or self.doubled or self.disordered)


class Shards:
    """
    Two servers and two gateways.
    """

    def __init__(self, folder: Path, seed: int, streams: int, template: Path | None = None) -> None:
        self._chance = random.Random(seed)
        self.servers: dict[str, TemporaryServer] = {}
        self.gateways: list[Gateway] = []
        self._folder = folder
        for name in NAMES:
            (folder / name).mkdir()
            server = self.servers[name] = TemporaryServer(folder / name, template)
            server.start()
            self.database(name).execute(_TABLE)
        dsns = {name: server.embedded.dsn for name, server in self.servers.items()}
        for number in range(2):
            place = folder / f"gateway{number}"
            place.mkdir()
            (place / "gateway.toml").write_text(_CONFIG.format(**dsns))
            self.gateways.append(self._start(place))
        for gateway in self.gateways:
            gateway.wait_ready()
        self.loads = [Load(gateway, 2, reconnect=True) for gateway in self.gateways[:1]]
        self.peers = [
            StreamPeer(f"s{n}", n % 3 != 0, lambda: self.gateways, seed + n, 0.05)
            for n in range(streams)
        ]

    def database(self, name: str) -> Database:
        return Database(self.servers[name].embedded.dsn)

    def _start(self, place: Path) -> Gateway:
        gateway = Gateway(("--config", "gateway.toml"), place)
        gateway.wait_log("listener commands")
        return gateway

    def begin(self) -> None:
        for peer in self.peers:
            peer.start()

    def kill_server(self, name: str, seconds: float) -> None:
        """Kill a server, see that the other goes on, and start it again."""
        server = self.servers[name]
        other = "two" if name == "home" else "home"
        wait_until(lambda: self._probe(other) == b"+OK\n", f"{other} has nothing in the spool")
        kill_postmaster(server.embedded.data)
        until = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            answer = self._probe(other)
            assert answer == b"+OK\n", (name, answer, self.gateways[0].log[-3000:])
            assert time.monotonic() - began < 5.0
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        server.restart()

    def _probe(self, name: str) -> bytes:
        """Send a message for one server alone."""
        peer = self.gateways[0].connect(name)
        return peer.ask(b"probe %d\n" % self._chance.getrandbits(60))

    def kill_gateway(self) -> None:
        """Kill the second gateway, and start it again."""
        old = self.gateways[1]
        old.process.kill()
        old.process.wait()
        self.gateways[1] = self._start(old.cwd)

    def run(self, seconds: float) -> Verdict:
        verdict = Verdict()
        self.begin()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            name = self._chance.choice(NAMES)
            verdict.kills[name] += 1
            self.kill_server(name, self._chance.uniform(0, 3))
            if self._chance.random() < 0.3:
                verdict.kills["gateway"] += 1
                self.kill_gateway()
            time.sleep(self._chance.uniform(0.2, 2))
        self.settle()
        return self.judge(verdict)

    def settle(self) -> None:
        """End the load, and wait until all is answered and stored."""
        for load in self.loads:
            load.finish()
        for peer in self.peers:
            peer.ending = True
        for peer in self.peers:
            try:
                wait_until(lambda peer=peer: peer.done, f"{peer.stream} ends", 25)
            except AssertionError:
                raise AssertionError(f"{peer.stream} does not end: {peer.last}") from None
        # What was spooled is stored, too.
        deadline = time.monotonic() + 60
        while self.judge(Verdict()).missing and time.monotonic() < deadline:
            time.sleep(0.2)
        for gateway in self.gateways:
            gateway.terminate()

    def judge(self, verdict: Verdict) -> Verdict:
        """Hold what was promised against the tables."""
        stored: Counter[str] = Counter()
        for name in NAMES:
            rows = self.database(name).execute("SELECT commit, body FROM messages")
            bodies = [body for _, body in rows]
            verdict.stored[name] = len(bodies)
            stored.update(bodies)
            for peer in self.peers:
                begin = f"{peer.stream} "
                # A stream has one commit at a time.
                theirs = sorted((c, int(b.split()[1])) for c, b in rows if b.startswith(begin))
                numbers = [number for _, number in theirs]
                verdict.disordered += numbers != sorted(numbers)
        promised = {body for peer in self.peers for body in peer.promised}
        for load in self.loads:
            for loader in load.loaders:
                promised |= {f"{loader.number} {n}" for n in loader.acknowledged}
        verdict.promised = len(promised)
        verdict.missing = len(promised - stored.keys())
        known = {body: count for body, count in stored.items() if count > 1}
        verdict.doubled = len(known)
        return verdict

    def end(self) -> None:
        for load in self.loads:
            load.finish()
        for peer in self.peers:
            peer.ending = True
        for gateway in self.gateways:
            gateway.end()
        for server in self.servers.values():
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[1])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        shards = Shards(Path(folder), options.seed, 8)
        try:
            verdict = shards.run(options.seconds)
        finally:
            shards.end()
    print(verdict)
    sys.exit(not verdict.kept)


if __name__ == "__main__":
    main()
