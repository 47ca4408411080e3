"""
Number 34: kill -9 of the gateway at named points; what it acknowledged is there, once.
"""

from __future__ import annotations

import signal
import sys

import pytest

from tests.faults.armed import POINTS
from tests.faults.load import Load, judge_soon
from tests.faults.look import Start
from tests.support import PATIENCE, Database, TemporaryServer, wait_until

QUICK = "acquire_timeout = 0.3"

DIRECT = ("before commit", "after commit, before the answer")
SPOOLING = (
    "before the spool's flush",
    "after the spool's flush, before the answer",
    "after the spool's mark, before the answer",
)
DRAINING = tuple(point for point in POINTS if point not in DIRECT + SPOOLING)


def armed(point: str, count: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.faults.armed", point, str(count))


def judge_what_is_acknowledged(database: Database, load: Load) -> None:
    """Some peers may not have got an answer before the end."""
    load.loaders = [loader for loader in load.loaders if loader.acknowledged]
    judge_soon(database, load)


@pytest.mark.parametrize("count", [40, 61, 97])
@pytest.mark.parametrize("point", DIRECT)
def test_at_a_commit(point: str, count: int, database: Database, start_configured: Start) -> None:
    """Around a commit: the batch is stored whole or not at all, and nobody was told a lie."""
    gateway = start_configured(database.dsn, wrapper=armed(point, count))
    load = Load(gateway)
    assert gateway.process.wait(PATIENCE) == -signal.SIGKILL
    load.finish()
    start_configured(database.dsn)
    judge_what_is_acknowledged(database, load)


@pytest.mark.parametrize("count", [6, 15])
@pytest.mark.parametrize("point", SPOOLING)
def test_at_the_spool(
    point: str, count: int, own_server: TemporaryServer, start_configured: Start
) -> None:
    """Around the spool's flush: what was answered +QUE is stored by the next gateway, once."""
    database = Database(own_server.embedded.dsn)
    gateway = start_configured(database.dsn, QUICK, wrapper=armed(point, count))
    own_server.stop()
    load = Load(gateway)
    assert gateway.process.wait(PATIENCE) == -signal.SIGKILL
    load.finish()
    own_server.restart()
    start_configured(database.dsn)
    judge_what_is_acknowledged(database, load)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("point", DRAINING)
def test_while_the_spool_is_stored(
    point: str, count: int, own_server: TemporaryServer, start_configured: Start
) -> None:
    """Between PostgreSQL's commit and the spool's: the next gateway finds it stored, once."""
    database = Database(own_server.embedded.dsn)
    # An idle spool is looked through at the start already.
    gateway = start_configured(
        database.dsn, QUICK, wrapper=armed(point, count + ("shrunk" in point))
    )
    own_server.stop()
    load = Load(gateway)
    wait_until(lambda: load.acknowledged > 20_000, "something is spooled")
    load.finish()
    own_server.restart()
    if "shrunk" not in point or count == 1:
        assert gateway.process.wait(PATIENCE) == -signal.SIGKILL
    else:
        gateway.end()
    start_configured(database.dsn)
    judge_soon(database, load)
