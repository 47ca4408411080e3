"""
The probe of the reactor's lag: what it must see, and what it must not hold against a gateway.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.load import LagProbe
from tests.faults.look import Start
from tests.support import LISTEN, Database, wait_until

HELD = 0.25
"""Seconds."""


def test_a_gateway_that_is_held_up(database: Database, start_gateway: Start) -> None:
    """One that stands still is seen, whatever the machine does meanwhile."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    process = gateway.process.pid
    with LagProbe(gateway) as probe:
        wait_until(lambda: probe.answers > 3, "it is asked")
        os.kill(process, signal.SIGSTOP)
        try:
            wait_until(lambda: psutil.Process(process).status() == "stopped", "it stands still")
            time.sleep(HELD)
        finally:
            os.kill(process, signal.SIGCONT)
        answers = probe.answers
        wait_until(lambda: probe.answers > answers + 1, "it goes on")
    assert probe.longest > HELD * 0.8


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(),
    reason="needs the scheduler's statistics, which are not here",
)
def test_a_busy_machine(database: Database, start_gateway: Start) -> None:
    """Where others take the processors the gateway is not blamed for it."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    # One processor, which it shares with whatever these do.
    processor = min(os.sched_getaffinity(0))
    busy = [os.posix_spawn("/bin/sh", ["sh", "-c", "while :; do :; done"], {}) for _ in range(8)]
    try:
        for process in (gateway.process.pid, *busy):
            os.sched_setaffinity(process, {processor})
        with LagProbe(gateway) as probe:
            wait_until(lambda: probe.answers > 20 and probe.waited > 0, "it has to wait")
    finally:
        for process in busy:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    assert probe.longest < 0.1
