"""
Faults under load: whatever was answered +OK is in the table, and nothing is twice.

The oracle for all: messages are numbered for each peer; what was acknowledged must
be a subset of the table, every number once, and each peer's numbers in order.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import LISTEN, PATIENCE, Database, Gateway, Peer, TemporaryServer, wait_until

Start = Callable[..., Gateway]


class Loader(threading.Thread):
    """
    A peer that keeps a window of numbered messages in flight until told to stop.

    @ivar acknowledged: numbers answered +OK.
    """

    def __init__(self, number: int, port: int, window: int = 200) -> None:
        super().__init__()
        self.number = number
        self.acknowledged: list[int] = []
        self.refused: list[bytes] = []
        self._port = port
        self._window = window
        self._stop_asked = threading.Event()

    def run(self) -> None:
        peer = Peer(self._port)
        sent = 0
        try:
            while not self._stop_asked.is_set():
                peer.send(
                    b"".join(
                        b"%d %d\n" % (self.number, n) for n in range(sent, sent + self._window)
                    )
                )
                for n, answer in enumerate(peer.read_lines(self._window), sent):
                    if answer == b"+OK":
                        self.acknowledged.append(n)
                    else:
                        self.refused.append(answer)
                sent += self._window
        except (AssertionError, OSError):
            pass  # the gateway is gone; what has no answer is free to be either
        finally:
            peer.close()

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(PATIENCE)
        assert not self.is_alive(), "still waits for an answer"


class Load:
    """
    Several loaders.
    """

    def __init__(self, gateway: Gateway, peers: int = 6, first: int = 0) -> None:
        port = gateway.port("lines")
        self.loaders = [Loader(first + n, port) for n in range(peers)]
        for loader in self.loaders:
            loader.start()

    @property
    def acknowledged(self) -> int:
        return sum(len(loader.acknowledged) for loader in self.loaders)

    def wait_progress(self) -> None:
        """Every peer gets answers."""
        for loader in self.loaders:
            seen = len(loader.acknowledged)
            wait_until(
                lambda loader=loader, seen=seen: len(loader.acknowledged) > seen,
                f"peer {loader.number} goes on",
            )

    def finish(self) -> None:
        for loader in self.loaders:
            loader.finish()


def judge(database: Database, *loads: Load) -> None:
    """
    Hold the promise against the table.
    """
    rows = database.execute(
        "SELECT split_part(body, ' ', 1)::int, split_part(body, ' ', 2)::int"
        " FROM messages ORDER BY id"
    )
    stored: dict[int, list[int]] = {}
    for peer, number in rows:
        stored.setdefault(peer, []).append(number)
    for load in loads:
        for loader in load.loaders:
            there = stored.get(loader.number, [])
            assert len(there) == len(set(there)), "a message is there twice"
            assert there == sorted(there), "messages of a peer are out of order"
            missing = set(loader.acknowledged) - set(there)
            assert not missing, f"{len(missing)} acknowledged messages are missing"
            assert loader.acknowledged, "nothing was acknowledged"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TemporaryServer]:
    """A server that may be killed."""
    server = TemporaryServer(tmp_path)
    server.start()
    yield server
    server.stop()


BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
    " AND datname = current_database() AND pid <> pg_backend_pid()"
)


def test_backends_terminated(database: Database, start_gateway: Start) -> None:
    """Backends ended one after the other, idle and busy: nobody is refused, nothing is lost."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    for _ in range(15):
        load.wait_progress()
        for pid in database.column(BACKENDS):
            database.execute("SELECT pg_terminate_backend(%s)", pid)
    load.wait_progress()
    load.finish()
    assert [loader.refused for loader in load.loaders] == [[]] * len(load.loaders)
    judge(database, load)
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


def test_backend_killed(own_server: TemporaryServer, start_gateway: Start) -> None:
    """kill -9 of a backend makes PostgreSQL restart; the gateway goes on by itself."""
    database = Database(own_server.embedded.dsn)
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    for _ in range(3):
        load.wait_progress()
        pids = database.column(BACKENDS)
        os.kill(random.choice(pids), signal.SIGKILL)
        load.wait_progress()
    load.finish()
    judge(database, load)
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_server_restarted(
    own_server: TemporaryServer, start_gateway: Start, how: signal.Signals
) -> None:
    """PostgreSQL restarted under load, orderly or not: the gateway goes on by itself."""
    database = Database(own_server.embedded.dsn)
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    for _ in range(3):
        load.wait_progress()
        own_server.restart(how)
        load.wait_progress()
    load.finish()
    judge(database, load)
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log


def test_embedded_server_killed(tmp_path: Path, start_gateway: Start) -> None:
    """kill -9 of the embedded postmaster: the gateway starts it again and goes on."""
    gateway = start_gateway(*LISTEN)
    server = TemporaryServer(tmp_path / "gateway-data")
    load = Load(gateway)
    load.wait_progress()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    gateway.wait_log("embedded PostgreSQL is running again")
    load.wait_progress()
    load.finish()
    judge(Database(server.embedded.dsn), load)


def test_gateway_killed(database: Database, start_gateway: Start) -> None:
    """kill -9 of the gateway at random moments: what it acknowledged is there, once."""
    loads = []
    for turn in range(5):
        gateway = start_gateway("--database", database.dsn, *LISTEN)
        load = Load(gateway, first=turn * 10)
        load.wait_progress()
        time.sleep(random.random() / 10)  # the moment is the test's point
        gateway.process.kill()
        gateway.process.wait()
        load.finish()
        loads.append(load)
    judge(database, *loads)


def test_frozen_backend(database: Database, tmp_path: Path, start_gateway: Start) -> None:
    """
    A backend that does not answer is given up at the deadline, and its batch stored through
    another; when it wakes and finds the statement, the fence keeps it from storing again.
    """
    config = tmp_path / "g.toml"
    dsn = database.dsn.replace("'", "")
    config.write_text(
        f'[database]\ndsn = "{dsn}"\nstatement_timeout = 0.5\npool_min = 2\n'
        '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
    )
    gateway = start_gateway("--config", str(config))
    idle = wait_until(
        lambda: pids if len(pids := database.column(BACKENDS)) == 2 else None, "two connections"
    )
    for pid in idle:
        os.kill(pid, signal.SIGSTOP)
    try:
        load = Load(gateway)
        load.wait_progress()
        assert "no answer from the server within 5.5 s" in gateway.log
    finally:
        for pid in idle:
            os.kill(pid, signal.SIGCONT)
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY(%s)"
    wait_until(lambda: database.column(gone, idle)[0], "the frozen backends end")
    load.finish()
    judge(database, load)
