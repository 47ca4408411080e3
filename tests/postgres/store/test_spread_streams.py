"""
Streams over several databases, in one of them: one suite, held by the fake and by the real store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
import pytest_twisted

from gateway.commit.placed_store import SpreadStore
from gateway.model.errors import StoreError, TransientError
from gateway.model.route import HOME
from gateway.model.store import Seen, SpreadPosition
from gateway.model.stream import Stream
from tests.postgres.store.test_store import MESSAGES, Adapter, MemoryAdapter, postgres
from tests.postgres.store.test_streams import (
    ONE,
    TWO,
    at,
    bodies,
    claimed,
    elsewhere,
    fence,
    loose,
    ready,
    store,
)

FIRST, SECOND = "00000000-0000-4000-8000-0000000000a1", "00000000-0000-4000-8000-0000000000a2"
"""Words of claims."""


@pytest.fixture(params=["memory", "postgres"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Each store in turn."""
    if request.param == "memory":
        yield MemoryAdapter()
        return
    with postgres(request.getfixturevalue("database"), MESSAGES) as adapter:
        yield adapter


def spread(adapter: Adapter) -> SpreadStore:
    return cast(SpreadStore, adapter.store)


def stream_of(claim: str, epoch: str, **marks: int) -> Stream:
    return Stream("s", epoch, claim, marks=marks)


@pytest_twisted.ensureDeferred
async def test_a_database_keeps_its_own_mark_and_those_of_all(adapter: Adapter) -> None:
    """A write moves the mark over numbers that are elsewhere, and notes the marks of all."""
    await ready(adapter)
    assert await spread(adapter).spread_position("s") == SpreadPosition("", "", 0, {}, {})
    assert await spread(adapter).claim_spread("s", FIRST, "", ONE) == SpreadPosition(
        *(FIRST, ONE, 0, {}, {})
    )
    stream = stream_of(FIRST, ONE, **{HOME: 0, "b": 2})
    assert await store(adapter, at(stream, 3, b"c", b"d"), fence()) == ["+OK", "+OK"]
    marks = {HOME: 4, "b": 2}
    position = SpreadPosition(FIRST, ONE, 4, marks, {})
    assert await spread(adapter).spread_position("s") == position
    # Another claim keeps what was noted; in another epoch nothing counts that was noted before.
    again = await spread(adapter).claim_spread("s", SECOND, FIRST, None)
    assert again == position._replace(claim=SECOND)
    anew = await spread(adapter).claim_spread("s", FIRST, SECOND, TWO)
    assert anew == SpreadPosition(FIRST, TWO, 4, {}, {})


@pytest_twisted.ensureDeferred
async def test_a_claim_that_comes_late_changes_nothing(adapter: Adapter) -> None:
    """One that was begun before another one came is refused, whatever its epoch."""
    await ready(adapter)
    await spread(adapter).claim_spread("s", FIRST, "", ONE)
    stream = stream_of(FIRST, ONE, **{HOME: 0, "b": 2})
    assert await store(adapter, at(stream, 3, b"c"), fence()) == ["+OK"]
    position = await spread(adapter).spread_position("s")
    for before in ("", SECOND):
        with pytest.raises(TransientError, match="another connection has opened the stream"):
            await spread(adapter).claim_spread("s", SECOND, before, TWO)
    assert await spread(adapter).spread_position("s") == position


@pytest_twisted.ensureDeferred
async def test_what_is_not_where_it_should_be_is_not_stored(adapter: Adapter) -> None:
    """Only the last claim stores, in its epoch, from where this database is, and forwards."""
    await ready(adapter)
    await spread(adapter).claim_spread("s", FIRST, "", ONE)
    await store(adapter, at(stream_of(FIRST, ONE, **{HOME: 0}), 3, b"c"), fence())
    for stream, first, is_claimed, is_current in (
        (stream_of(SECOND, ONE, **{HOME: 3}), 4, False, True),
        (stream_of(FIRST, TWO, **{HOME: 3}), 4, True, False),
        # Set back, or written by another way.
        (stream_of(FIRST, ONE, **{HOME: 5}), 6, True, True),
        (stream_of(FIRST, ONE, **{HOME: 2}), 4, True, True),
        (stream_of(FIRST, ONE, **{HOME: 3}), 3, True, True),
    ):
        found = (await elsewhere(adapter, at(stream, first, b"x")))["s"]
        assert (found.claimed, found.current, found.mark) == (is_claimed, is_current, 3)
    assert bodies(adapter) == [b"c"]


@pytest_twisted.ensureDeferred
async def test_a_gateway_with_one_database_is_refused(adapter: Adapter) -> None:
    """A stream that is spread cannot be claimed as if one database had all, nor stored so."""
    await ready(adapter)
    await spread(adapter).claim_spread("s", FIRST, "", ONE)
    for seen in (None, Seen(0, ONE)):
        with pytest.raises(StoreError, match="several databases"):
            await claimed(adapter, "s", seen)
    found = (await elsewhere(adapter, at(loose(ONE), 1, b"x")))["s"]
    assert not found.current
    assert bodies(adapter) == []
