"""
The client library through faults of everything between it and the table.
"""

from __future__ import annotations

from pathlib import Path

import pytest_twisted
from twisted.internet import reactor

from tests.faults.client_soak import soak
from tests.support import Database


@pytest_twisted.ensureDeferred
async def test_a_stream_through_everything(database: Database, tmp_path: Path) -> None:
    """
    Numbers 2, 8 and 33: a gateway killed again and again behind a proxy that cuts, slices,
    delays and limits: with nothing but C{send}, each message is stored once, in order.
    """
    verdict, log = await soak(database, tmp_path, 8_000, 4, seed=33, reactor=reactor)
    assert verdict.kept and verdict.kills == 4, verdict
    assert verdict.attempts > 4, verdict
    assert "Traceback" not in log and "Unhandled" not in log, log
