"""
Faults of the gateway's own process: killed, stopped, and with a clock that jumps.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.faults.load import Load, judge_soon
from tests.faults.look import Start, assert_quiet, sample, wait_locked_out
from tests.support import LISTEN, PATIENCE, Database, Gateway, wait_until


def test_gateway_killed(database: Database, start_gateway: Start) -> None:
    """Number 33: kill -9 at random moments: what was acknowledged is there, once."""
    loads = []
    for turn in range(8):
        gateway = start_gateway("--database", database.dsn, *LISTEN)
        load = Load(gateway, first=turn * 10)
        load.wait_progress()
        time.sleep(random.random() / 5)  # the moment is the test's point
        gateway.process.kill()
        gateway.process.wait()
        load.finish()
        loads.append(load)
    # Whatever the last one may have left behind is taken over.
    start_gateway("--database", database.dsn, *LISTEN)
    judge_soon(database, *loads)


def test_stopped_under_load(database: Database, start_gateway: Start) -> None:
    """Number 35: SIGTERM under load: status 0 well before drain_timeout, nothing lost."""
    for turn in range(3):
        gateway = start_gateway("--database", database.dsn, *LISTEN)
        load = Load(gateway, first=turn * 10)
        load.wait_progress()
        asked = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - asked < 8
        load.finish()
        judge_soon(database, load)
        assert_quiet(gateway)


def test_second_signal(database: Database, start_configured: Start) -> None:
    """
    Number 35: while the database is stalled a first SIGTERM waits for answers, a second one
    does not; what was acknowledged before is there.
    """
    gateway = start_configured(database.dsn, limits=f"drain_timeout = {PATIENCE}")
    load = Load(gateway)
    load.wait_progress()
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    idle = gateway.connect()
    wait_locked_out(database)
    gateway.process.send_signal(signal.SIGTERM)
    assert idle.read_all().startswith(b"-BYE DRAIN")
    idle.close()
    # Longer than it waits for peers to take their last answers.
    assert set(sample(gateway.process.poll, 1.5)) == {None}
    asked = time.monotonic()
    assert gateway.terminate() == 0
    assert time.monotonic() - asked < 5
    load.finish()
    locker.close()
    judge_soon(database, load)
    assert_quiet(gateway)


_SITECUSTOMIZE = """
import mmap, os, struct, time
_file = open(os.environ["CLOCK"], "rb")
_offset = mmap.mmap(_file.fileno(), 8, prot=mmap.PROT_READ)
_true = time.time
time.time = lambda: _true() + struct.unpack("d", _offset[:])[0]
"""


class Clock:
    """
    The wall clock of a gateway, seconds ahead of the true one.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        self._file = folder / "offset"
        self._file.write_bytes(struct.pack("d", 0))
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.wrapper = ("env", f"PYTHONPATH={path}", f"CLOCK={self._file}")

    def jump(self, seconds: float) -> None:
        """Set it, so many seconds off the true time."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("d", seconds))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock to set."""
    return Clock(tmp_path / "clock")


@pytest.fixture
def start_with_clock(
    tmp_path: Path, clock: Clock, database: Database
) -> Iterator[Callable[[str], Gateway]]:
    """Starts a gateway that goes by that clock."""
    running: list[Gateway] = []

    def start(settings: str) -> Gateway:
        config = tmp_path / "gateway.toml"
        dsn = database.dsn.replace("'", "")
        config.write_text(
            f'[database]\ndsn = "{dsn}"\n{settings}\n[limits]\ndrain_timeout = 1\n'
            '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
        )
        gateway = Gateway(("--config", str(config)), tmp_path, wrapper=clock.wrapper)
        running.append(gateway)
        gateway.wait_ready()
        return gateway

    yield start
    for gateway in running:
        gateway.end()


HOUR = 3600.0


def test_clock_jumps_under_load(
    clock: Clock, start_with_clock: Callable[[str], Gateway], database: Database
) -> None:
    """Number 38: the clock jumps an hour forth and back under load: order is kept, none refused."""
    gateway = start_with_clock("")
    load = Load(gateway)
    for offset in (HOUR, 0, -HOUR, 0, HOUR, -HOUR):
        load.wait_progress()
        clock.jump(offset)
    load.wait_progress()
    load.finish()
    assert not load.refused
    judge_soon(database, load)
    assert_quiet(gateway)


def test_clock_jumps_forth_in_a_stall(
    clock: Clock, start_with_clock: Callable[[str], Gateway], database: Database
) -> None:
    """Number 38: an hour that did not pass times nothing out."""
    gateway = start_with_clock("")
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    peer = gateway.connect()
    peer.send(b"one\ntwo\n")
    wait_locked_out(database)
    clock.jump(HOUR)
    # Anything that wakes the reactor, so that it looks at its clock.
    assert gateway.connect().ask(b"") == b""
    locker.close()
    assert peer.read_lines(2) == [b"+OK", b"+OK"]
    peer.close()
    assert database.bodies() == ["one", "two"]
    assert "no answer from the server" not in gateway.log


def test_clock_jumps_back_in_a_stall(
    clock: Clock, start_with_clock: Callable[[str], Gateway], database: Database
) -> None:
    """Number 38: what waits to be tried again does not wait for an hour more."""
    gateway = start_with_clock("statement_timeout = 0.1")
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    peers = [gateway.connect() for _ in range(8)]
    for peer in peers:
        peer.send(b"%d\n" % peers.index(peer))
    wait_locked_out(database)
    locked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    wait_until(lambda: database.column(locked) == [0], "all of them pause")
    clock.jump(-HOUR)
    locker.close()
    until = time.monotonic() + 5
    answered = [
        peer.readable(max(0, until - time.monotonic())) and peer.read_lines(1) for peer in peers
    ]
    for peer in peers:
        peer.close()
    assert answered == [[b"+OK"]] * len(peers)
    assert_quiet(gateway)
