"""
Faults of the gateway's own process.
"""

from __future__ import annotations

import random
import time

from tests.faults.load import Load, judge_soon
from tests.faults.look import Start
from tests.support import LISTEN, Database


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
    judge_soon(database, *loads)
