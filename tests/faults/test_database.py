"""
Faults of the database, under load: what was acknowledged is there, once, and in order.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.faults.load import Load, judge_soon
from tests.faults.look import BACKENDS, Start, assert_quiet
from tests.support import LISTEN, Database, TemporaryServer, wait_until


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
    assert not load.refused
    judge_soon(database, load)
    assert_quiet(gateway)


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
    judge_soon(database, load)
    assert_quiet(gateway)


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
    judge_soon(database, load)
    assert_quiet(gateway)


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
    judge_soon(Database(server.embedded.dsn), load)


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
    judge_soon(database, load)
