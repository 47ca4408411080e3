"""
Streams in the Store port: one suite, held by the fake and by the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
import pytest_twisted

from gateway.batch import Batch, Chunk, Fence, Origin
from gateway.faults import FramesRefused
from gateway.moves import have_moved
from gateway.reply import DUPLICATE, Code, Outcome, Word, refused
from gateway.stream import BEHIND, TAKEN, Stream
from tests.in_memory import said
from tests.support import Database
from tests.test_store import MESSAGES, Adapter, MemoryAdapter, postgres

BAD = refused(Code.FORMAT, "never seen")


@pytest.fixture(params=["memory", "postgres"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Each store in turn."""
    if request.param == "memory":
        yield MemoryAdapter()
        return
    with postgres(request.getfixturevalue("database"), MESSAGES) as adapter:
        yield adapter


def fence(number: int = 1, lane: str = "") -> Fence:
    return Fence(lane or str(uuid4()), number)


async def claimed(adapter: Adapter, name: str = "s") -> Stream:
    claim = await adapter.store.claim_stream(name)
    return Stream(name, claim.number, claim.last, claim.marks, claim.refusals)


def batch(stream: Stream, *messages: bytes) -> Batch:
    first = stream.next
    stream.take_all(first, len(messages))
    return Batch.of([chunk(stream, first, *messages)])


def chunk(stream: Stream, first: int, *messages: bytes) -> Chunk:
    origin = Origin("peer", "listener")
    return Chunk(
        *("messages", [*messages], origin, 0.0, lambda chunk, runs: None, None, stream, first)
    )


async def store(adapter: Adapter, batch: Batch, fence: Fence) -> list[str]:
    written = await adapter.store.write(batch, fence)
    have_moved(batch)
    return said([*written.runs])


def bodies(adapter: Adapter) -> list[bytes]:
    return [body for _, body in adapter.rows()]


async def ready(adapter: Adapter) -> None:
    """A gateway opens its routes first, and with them its schema."""
    await adapter.store.probe("messages")


@pytest_twisted.ensureDeferred
async def test_a_stream_moves_with_its_messages(adapter: Adapter) -> None:
    """Whoever claims a stream is told how far it is."""
    await ready(adapter)
    stream = await claimed(adapter)
    assert (stream.claim, stream.last) == (1, 0)
    assert await store(adapter, batch(stream, b"a", b"b"), fence()) == ["+OK"] * 2
    again = await claimed(adapter)
    assert (again.claim, again.last, again.marks) == (2, 2, {"messages": 2})
    assert await store(adapter, batch(again, b"c"), fence()) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c"]


@pytest_twisted.ensureDeferred
async def test_a_lost_claim_stores_nothing(adapter: Adapter) -> None:
    """What an older claim still wants to store is not stored, nor is anything with it."""
    await ready(adapter)
    old = await claimed(adapter)
    await claimed(adapter)
    with pytest.raises(FramesRefused) as caught:
        await store(adapter, batch(old, b"a", b"b"), fence())
    assert caught.value.faults == [(0, TAKEN), (1, TAKEN)]
    assert bodies(adapter) == []


@pytest_twisted.ensureDeferred
async def test_asked_again(adapter: Adapter) -> None:
    """A batch that is written again is stored once, and its stream moved once."""
    await ready(adapter)
    stream = await claimed(adapter)
    messages, behind = batch(stream, b"a", b"b"), fence()
    await adapter.store.write(messages, behind)
    written = await adapter.store.write(messages, behind)
    assert (written.before, said([*written.runs])) == (True, ["+OK"] * 2)
    have_moved(messages)
    assert await store(adapter, batch(stream, b"c"), fence(2, behind.lane)) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c"]


@pytest_twisted.ensureDeferred
async def test_what_somebody_else_stored(adapter: Adapter) -> None:
    """Messages that came in by another way are duplicates; those behind them are stored."""
    await ready(adapter)
    stream = await claimed(adapter)
    loose = Stream("s", loose=True)
    spooled = Batch.of([chunk(loose, 1, b"a", b"b")])
    assert await store(adapter, spooled, fence()) == ["+OK"] * 2
    messages = batch(stream, b"a", b"b", b"c")
    with pytest.raises(FramesRefused) as caught:
        await adapter.store.write(messages, fence())
    assert caught.value.faults == [(0, DUPLICATE), (1, DUPLICATE)]
    left = messages.refuse(caught.value.faults)
    assert left is not None
    assert await store(adapter, left, fence()) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c"]


@pytest_twisted.ensureDeferred
async def test_left_in_a_spool(adapter: Adapter) -> None:
    """What waited in a spool is stored behind what is there, and only what is not there."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b"), fence())
    loose = Stream("s", loose=True)
    spooled = Batch.of([chunk(loose, 2, b"b", b"c")])
    with pytest.raises(FramesRefused) as caught:
        await adapter.store.write(spooled, fence())
    assert caught.value.faults == [(0, DUPLICATE)]
    left = spooled.refuse(caught.value.faults)
    assert left is not None
    assert await store(adapter, left, fence()) == ["+OK"]
    assert (await claimed(adapter)).last == 3
    assert await store(adapter, Batch.of([chunk(Stream("t", loose=True), 5, b"t")]), fence()) == [
        "+OK"
    ]
    assert (await claimed(adapter, "t")).last == 5
    assert bodies(adapter) == [b"a", b"b", b"c", b"t"]


@pytest_twisted.ensureDeferred
async def test_refusals_are_remembered(adapter: Adapter) -> None:
    """What the database, or the gateway before it, refused is told to whoever claims next."""
    await ready(adapter)
    adapter.poison()
    stream = await claimed(adapter)
    messages = batch(stream, b"not seen", b"a", b"bad", b"b").refuse([(0, BAD)])
    assert messages is not None
    answers = await store(adapter, messages, fence())
    assert [answer[:4] for answer in answers] == ["+OK", "-REJ", "+OK"]
    again = await claimed(adapter)
    assert again.last == 4 and again.refusals.keys() == {1, 3}
    assert again.refusals[1] == BAD
    told = again.refusals[3]
    assert isinstance(told, Outcome)
    assert (told.word, told.code, told.sqlstate) == (Word.REJ, Code.CONSTRAINT, "23514")
    assert bodies(adapter) == [b"a", b"b"]


@pytest_twisted.ensureDeferred
async def test_several_streams_share_a_batch(adapter: Adapter) -> None:
    """Streams and plain messages are stored by one statement; where one stream is elsewhere
    the others can be stored without it."""
    await ready(adapter)
    one, two = await claimed(adapter, "1"), await claimed(adapter, "2")
    await claimed(adapter, "2")
    plain = Chunk("messages", [b"p"], Origin("peer", "l"), 0.0, lambda chunk, runs: None)
    parts = [batch(one, b"a").slices[0].chunk, plain, batch(two, b"b").slices[0].chunk]
    together = Batch.of(parts)
    with pytest.raises(FramesRefused) as caught:
        await adapter.store.write(together, fence())
    assert caught.value.faults == [(2, TAKEN)]
    left = together.refuse(caught.value.faults)
    assert left is not None
    assert await store(adapter, left, fence()) == ["+OK"] * 2
    assert bodies(adapter) == [b"a", b"p"]


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_behind(database: Database) -> None:
    """Where the database lost what it had (an old backup), the peer has to say HELLO again."""
    with postgres(database, MESSAGES) as adapter:
        await ready(adapter)
        stream = await claimed(adapter)
        await store(adapter, batch(stream, b"a", b"b"), fence())
        database.execute("""UPDATE gateway.stream SET marks = '{"messages": 1}'""")
        with pytest.raises(FramesRefused) as caught:
            await adapter.store.write(batch(stream, b"c"), fence())
        assert caught.value.faults == [(0, BEHIND)]
        database.execute("DELETE FROM gateway.stream")
        with pytest.raises(FramesRefused) as caught:
            await adapter.store.write(batch(stream, b"c"), fence())
        assert caught.value.faults == [(0, TAKEN)]
        assert (await claimed(adapter)).last == 0


@pytest_twisted.ensureDeferred
async def test_old_refusals_are_forgotten(database: Database) -> None:
    """Refusals that are far behind the last number are removed when the stream is claimed."""
    with postgres(database, MESSAGES) as adapter:
        await ready(adapter)
        await claimed(adapter)
        database.execute("""UPDATE gateway.stream SET marks = '{"messages": 500000}'""")
        database.execute(
            "INSERT INTO gateway.refusal"
            " SELECT 's', n, jsonb_build_array('DATA', '', NULL, 'x')"
            " FROM unnest(ARRAY[1, 489999, 490000, 499999]) n"
        )
        assert (await claimed(adapter)).refusals.keys() == {490000, 499999}


@pytest_twisted.ensureDeferred
async def test_nothing_behind_a_mark_is_stored_again(adapter: Adapter) -> None:
    """Numbers that are stored are duplicates, even for whoever believes to be at the mark."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b"), fence())
    again = Batch.of([chunk(stream, 2, b"b", b"c")])
    with pytest.raises(FramesRefused) as caught:
        await adapter.store.write(again, fence())
    assert caught.value.faults == [(0, DUPLICATE)]
    assert bodies(adapter) == [b"a", b"b"]


@pytest_twisted.ensureDeferred
async def test_any_refusal_can_be_remembered(adapter: Adapter) -> None:
    """Also one whose text shows what no database can hold: its neighbours are stored."""
    await ready(adapter)
    stream = await claimed(adapter)
    told = stream.take_in_turn(1, refused(Code.ROUTE, "no route a\0b\ud800" + "x" * 300))
    assert await store(adapter, batch(stream, b"b"), fence()) == ["+OK"]
    again = await claimed(adapter)
    assert again.last == 2 and bytes(again.take(1) or DUPLICATE) == bytes(told)
