"""
Forward protocol under load, with the gateway killed and the database taken away: what was
acknowledged is there, and no record is there twice, however often its chunk was sent.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from tests.faults.cluster import kill_postmaster
from tests.faults.look import Start, assert_quiet
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway, TemporaryServer, lasting_port, wait_until

CLIENTS: Final = Path(__file__).parent.parent / "clients"

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
answer_timeout = {answer_timeout}
[spool]
on_outage = "{on_outage}"
[listeners.forward]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "forward"
route = "logs"
[routes.logs]
table = "logs"
format = "json"
dead_letter = true
create = true
columns = {{ number = "number", tag = "@tag" }}
[routes.logs.create_columns]
id = "bigint generated always as identity primary key"
number = "integer not null"
tag = "text not null"
"""

RECORDS: Final = 20
"""Of a chunk."""


class Sender(threading.Thread):
    """
    A sender that sends each chunk until it is acknowledged, over new connections, as Fluentd and
    Fluent Bit do; it gives up waiting at random, so that chunks are sent again that are stored.

    @ivar acknowledged: chunks that were.
    @ivar again: how often a chunk was sent again.
    """

    def __init__(self, number: int, ports: Sequence[int], patience: float) -> None:
        """
        @param ports: of gateways at the same database, one of which is used at random.
        @param patience: seconds that it waits for an acknowledgement, at most.
        """
        super().__init__(daemon=True)
        self.number = number
        self.acknowledged = 0
        self.again = 0
        self._ports = ports
        self._patience = patience
        self._chance = random.Random(number)
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            frame, name = self._chunk(self.acknowledged)
            while not self._sent(frame, name):
                self.again += 1
                time.sleep(0.01)
            self.acknowledged += 1

    def _chunk(self, number: int) -> tuple[bytes, str]:
        first = (self.number * 1000 + number) * RECORDS
        entries = [msgpack.packb([1, {"number": n}]) for n in range(first, first + RECORDS)]
        name = f"{self.number}-{number}"
        return msgpack.packb(["load", b"".join(entries), {"chunk": name}]), name

    def _sent(self, frame: bytes, name: str) -> bool:
        try:
            address = ("127.0.0.1", self._chance.choice(self._ports))
            with socket.create_connection(address, 5) as peer:
                peer.settimeout(self._patience * self._chance.random())
                peer.sendall(frame)
                answer = peer.recv(100)
        except OSError:
            return False
        if not answer:
            return False
        assert msgpack.unpackb(answer) == {"ack": name}
        return True

    @property
    def numbers(self) -> range:
        """Of all records that were acknowledged."""
        first = self.number * 1000 * RECORDS
        return range(first, first + self.acknowledged * RECORDS)

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "still waits for an acknowledgement"


class Client:
    """
    A client in a process of its own, which prints C{+NUMBER} for what was acknowledged.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said: deque[str] = deque(maxlen=20)
        self.numbers: set[int] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("+"):
                self.numbers.add(int(line))
            else:
                self._said.append(line)

    def wait_progress(self) -> None:
        seen = len(self.numbers)

        def goes_on() -> bool:
            assert self._process.poll() is None, f"the client ended: {[*self._said]}"
            return len(self.numbers) > seen + 20

        wait_until(goes_on, "the client goes on")

    def finish(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE) == 0
        self._reader.join(PATIENCE)

    def end(self) -> None:
        """Whatever it takes."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Clients that end with the test."""
    running: list[Client] = []
    yield running
    for client in running:
        client.end()


def start(
    start_gateway: Start,
    folder: Path,
    dsn: str,
    port: int,
    on_outage: str = "spool",
    answer_timeout: float = 5.0,
) -> Gateway:
    folder.mkdir(exist_ok=True)
    config = folder / "gateway.toml"
    config.write_text(
        CONFIG.format(dsn=dsn, port=port, on_outage=on_outage, answer_timeout=answer_timeout)
    )
    return start_gateway("--config", str(config), "--data-dir", str(folder / "data"), cwd=folder)


def judge(database: Database, acknowledged: set[int]) -> None:
    """
    Everything acknowledged is stored, or will be by the spool, and nothing is stored twice.
    """

    def missing() -> set[int]:
        return acknowledged - set(database.column("SELECT number FROM logs"))

    wait_until(lambda: not missing(), "all that was acknowledged is stored")
    counts = Counter(database.column("SELECT number FROM logs"))
    twice = [number for number, count in counts.items() if count > 1]
    assert not twice, f"{len(twice)} records are there twice, such as {sorted(twice)[:5]}"
    assert acknowledged
    assert not database.column("SELECT count(*) FROM gateway.dead_letter")[0]


def kill(gateway: Gateway) -> None:
    gateway.process.kill()
    gateway.process.wait()


@pytest.mark.long
def test_gateway_killed(database: Database, start_gateway: Start, tmp_path: Path) -> None:
    """kill -9 at random moments, and senders that lose patience: nothing is lost or doubled."""
    port = lasting_port()
    gateway = start(start_gateway, tmp_path / "one", database.dsn, port)
    senders = [Sender(number, [port], 0.2) for number in range(6)]
    for sender in senders:
        sender.start()
    for _ in range(6):
        _progress(senders)
        time.sleep(random.random() / 5)  # the moment is the test's point
        kill(gateway)
        gateway = start(start_gateway, tmp_path / "one", database.dsn, port)
    for sender in senders:
        sender.finish()
    judge(database, {number for sender in senders for number in sender.numbers})
    assert sum(sender.again for sender in senders) > 6
    assert_quiet(gateway)


@pytest.mark.long
@pytest.mark.parametrize("on_outage", ["spool", "refuse"])
def test_database_taken_away(
    own_server: TemporaryServer, start_gateway: Start, tmp_path: Path, on_outage: str
) -> None:
    """The database is killed and comes back, with a spool and without: nothing is lost or doubled,
    though chunks are sent again that wait in the spool."""
    database = Database(own_server.embedded.dsn)
    port = lasting_port()
    gateway = start(start_gateway, tmp_path / "one", database.dsn, port, on_outage, 1.0)
    senders = [Sender(number, [port], 1.0) for number in range(6)]
    for sender in senders:
        sender.start()
    for turn in range(3):
        _progress(senders)
        kill_postmaster(own_server.embedded.data)
        if on_outage == "spool":
            _progress(senders)
            if turn == 1:
                kill(gateway)
                gateway = start_gateway(
                    *("--config", str(tmp_path / "one" / "gateway.toml")),
                    *("--data-dir", str(tmp_path / "one" / "data")),
                    cwd=tmp_path / "one",
                    until="listener forward",
                )
        own_server.start()
        _progress(senders)
    for sender in senders:
        sender.finish()
    judge(database, {number for sender in senders for number in sender.numbers})
    assert_quiet(gateway)


@pytest.mark.long
def test_two_gateways(database: Database, start_gateway: Start, tmp_path: Path) -> None:
    """A chunk that one gateway has stored or has in flight is known to the other one too."""
    ports = [lasting_port(), lasting_port()]
    gateways = [start(start_gateway, tmp_path / str(port), database.dsn, port) for port in ports]
    senders = [Sender(number, ports, 0.05) for number in range(6)]
    for sender in senders:
        sender.start()
    for _ in range(5):
        _progress(senders)
    kill(gateways[0])
    for _ in range(3):
        _progress(senders)
    for sender in senders:
        sender.finish()
    judge(database, {number for sender in senders for number in sender.numbers})
    assert sum(sender.again for sender in senders) > 10


def _progress(senders: Sequence[Sender]) -> None:
    for sender in senders:
        seen = sender.acknowledged
        wait_until(
            lambda sender=sender, seen=seen: sender.acknowledged > seen,
            f"sender {sender.number} goes on",
        )


Run = Callable[[Installer, int], tuple[str, ...]]


def _go(installer: Installer, port: int) -> tuple[str, ...]:
    return installer.go(CLIENTS / "fluent.go"), str(port), "8"


def _node(installer: Installer, port: int) -> tuple[str, ...]:
    node, folder = installer.node(CLIENTS)
    settings: dict[str, Any] = {
        "port": port,
        "tag": "node",
        "window": 50,
        "options": {
            "ack": {"ackTimeout": 3000},
            "flushInterval": 5,
            "disconnect": {"waitForPending": True, "waitForPendingDelay": 5000},
        },
    }
    return node, str(folder / "fluent.mjs"), json.dumps(settings)


@pytest.mark.long
@pytest.mark.parametrize("command", [_go, _node], ids=["go", "node"])
def test_clients_of_others(
    own_server: TemporaryServer,
    start_gateway: Start,
    installer: Installer,
    tmp_path: Path,
    clients: list[Client],
    command: Run,
) -> None:
    """
    Docker's client, which sends each record until it is acknowledged, and npm's, which does not:
    the gateway is killed and the database taken away, and nothing is lost or doubled.
    """
    database = Database(own_server.embedded.dsn)
    port = lasting_port()
    gateway = start(start_gateway, tmp_path / "one", database.dsn, port, answer_timeout=1.0)
    client = Client(*command(installer, port))
    clients.append(client)
    for turn in range(4):
        client.wait_progress()
        if turn % 2:
            kill_postmaster(own_server.embedded.data)
            client.wait_progress()
            own_server.start()
        else:
            kill(gateway)
            gateway = start(start_gateway, tmp_path / "one", database.dsn, port, answer_timeout=1.0)
    client.wait_progress()
    client.finish()
    judge(database, client.numbers)
    assert_quiet(gateway)
