"""
Routes whose messages are no text, or are read by a function of the user's, in the store.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import ModuleType

import msgpack
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from gateway.model.batch import Fence
from gateway.model.errors import FramesRefused, RouteError
from gateway.model.route import Reading, Route, Value
from gateway.postgres.store.slow_reading_log import SLOW_READING, SlowReadingLog
from tests.postgres.store.test_store import batch, new_lane, postgres
from tests.support import Database, logged

COLUMNS = {"raw": Value("raw"), "n": Value("n")}


@pytest.fixture
def function() -> Iterator[str]:
    """A function that is there, in a module without a file."""
    module = ModuleType("made_for_a_test")

    def read(frame: bytes) -> dict[str, object]:
        if frame == b"slow":
            time.sleep(SLOW_READING * 1.2)
        return {"raw": frame, "n": len(frame)}

    module.read = read  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield f"{module.__name__}:read"
    del sys.modules[module.__name__]


def route(reading: Reading) -> Route:
    return Route("messages", "t", COLUMNS, reading=reading)


@pytest_twisted.ensureDeferred
async def test_bytes(database: Database) -> None:
    """Any bytes reach a column of bytes as they are."""
    database.execute("CREATE TABLE t (raw bytea, n int)")
    values = [bytes(range(256)), b"", b"\\x00", b"abcd"]
    frames = [msgpack.packb({"raw": value, "n": n}) for n, value in enumerate(values)]
    with postgres(database, route(Reading("msgpack"))) as adapter:
        await adapter.store.write(batch(*frames), Fence(new_lane(), 1))
    assert [bytes(raw) for raw in database.column("SELECT raw FROM t ORDER BY n")] == values


@pytest_twisted.ensureDeferred
async def test_a_function_that_is_not_there(database: Database) -> None:
    """Its route cannot be used, so that its messages wait; none of them is refused for it."""
    database.execute("CREATE TABLE t (raw bytea, n int)")
    with postgres(database, route(Reading("python", function="no_such_device:read"))) as adapter:
        for _ in range(2):
            with pytest.raises(RouteError, match="its function: no_such_device cannot be imp"):
                await adapter.store.write(batch(b"x"), Fence(new_lane(), 1))
    assert database.column("SELECT count(*) FROM t") == [0]


@pytest_twisted.ensureDeferred
async def test_a_function_that_is_slow(database: Database, function: str) -> None:
    """The messages are stored, and the log says what held up everything else."""
    database.execute("CREATE TABLE t (raw bytea, n smallint)")
    reading = Reading("python", function=function)
    with postgres(database, route(reading)) as adapter, logged() as events:
        await adapter.store.write(batch(b"x", b"slow"), Fence(new_lane(), 1))
        with pytest.raises(FramesRefused):
            await adapter.store.write(batch(b"x" * 40_000), Fence(new_lane(), 1))
    (event,) = (event for event in events if event.get("event") == "slow-reading")
    assert event["route"] == "messages" and event["seconds"] > SLOW_READING
    assert database.column("SELECT n FROM t ORDER BY n") == [1, 4]


def test_one_line_a_minute() -> None:
    """Of many slow readings of a route there is a line a minute, with the number of the others."""
    clock = Clock()
    log = SlowReadingLog(clock)
    with logged() as events:
        for _ in range(100):
            log.note("a", SLOW_READING * 2)
            log.note("b", SLOW_READING / 2)
            clock.advance(1)
        log.note("c", 1.0)
    found = [(event["route"], event["more"]) for event in events if "more" in event]
    assert found == [("a", 0), ("a", 59), ("c", 0)]
