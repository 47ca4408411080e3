"""
Streams in the Store port: one suite, held by the fake and by the real one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import wording
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import FenceVoid, StoredPartly, StreamBehind, StreamsElsewhere
from gateway.model.outcome import DUPLICATE, Code, Outcome, Word, refused
from gateway.model.store import Seen, Spooled
from gateway.model.stream import Stream
from gateway.model.stream_marks import StreamPosition
from gateway.postgres.schema.migrations import migrations
from gateway.sql.streams import KEPT_DIGESTS
from tests.in_memory import said
from tests.postgres.store.test_store import MESSAGES, Adapter, MemoryAdapter, postgres
from tests.support import Database

BAD = refused(Code.FORMAT, "never seen")

ONE = str(UUID(int=1))
"""An epoch that no database has made up."""

TWO = str(UUID(int=2))
"""Another one."""


@pytest.fixture(params=["memory", "postgres"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Each store in turn."""
    if request.param == "memory":
        yield MemoryAdapter()
        return
    with postgres(request.getfixturevalue("database"), MESSAGES) as adapter:
        yield adapter


def fence(number: int = 1, lane: str = "", first: int = 0) -> Fence:
    return Fence(lane or str(uuid4()), number, first)


async def claimed(
    adapter: Adapter, name: str = "s", seen: Seen | None = None, spooled: Spooled | None = None
) -> Stream:
    claim = await adapter.store.claim_stream(name, seen, spooled or {})
    return Stream(name, claim.epoch, claim.claim, claim.mark, claim.refusals)


async def mark_of(adapter: Adapter, name: str = "s") -> tuple[str, int]:
    """Where a stream is, without changing its epoch."""
    stream = await claimed(adapter, name, Seen(0, ""))
    return stream.epoch, stream.last


def batch(stream: Stream, *messages: bytes) -> Batch:
    first = stream.next
    stream.take_all(first, len(messages))
    return Batch.of([chunk(stream, first, *messages)])


def chunk(
    stream: Stream,
    first: int,
    *messages: bytes,
    route: str = "messages",
    refusal: Outcome | None = None,
) -> Chunk:
    origin = Origin("peer", "listener")
    return Chunk(
        *(route, [*messages], origin, 0.0, lambda chunk, runs: None, None, stream, first),
        refusal,
    )


def at(stream: Stream, first: int, *messages: bytes) -> Batch:
    """Messages with numbers from there on, wherever the stream is."""
    return Batch.of([chunk(stream, first, *messages)])


def loose(epoch: str, name: str = "s") -> Stream:
    """What was left in a spool."""
    return Stream(name, epoch, loose=True)


async def store(adapter: Adapter, batch: Batch, fence: Fence) -> list[str]:
    written = await adapter.store.write(batch, fence)
    return said([*written.runs])


async def elsewhere(adapter: Adapter, batch: Batch) -> Mapping[str, StreamPosition]:
    """Where the streams are that keep a batch from being stored."""
    with pytest.raises(StreamsElsewhere) as caught:
        await adapter.store.write(batch, fence())
    return caught.value.stream_positions


def bodies(adapter: Adapter) -> list[bytes]:
    return [body for _, body in adapter.rows()]


def known(stream_position: StreamPosition, first: int, *messages: bytes) -> list[bool]:
    """Which of some messages are shown to be those of their numbers."""
    return [
        stream_position.has_message(first + place, frame) for place, frame in enumerate(messages)
    ]


async def ready(adapter: Adapter) -> None:
    """A gateway opens its routes first, and with them its schema."""
    await adapter.store.probe("messages")


# Claims.


@pytest_twisted.ensureDeferred
async def test_a_stream_moves_with_its_messages(adapter: Adapter) -> None:
    """Whoever claims a stream is told how far it is; without what was seen an epoch begins."""
    await ready(adapter)
    stream = await claimed(adapter)
    assert stream.claim and stream.epoch and stream.last == 0
    assert await store(adapter, batch(stream, b"a", b"b"), fence()) == ["+OK"] * 2
    again = await claimed(adapter)
    assert again.last == 2 and again.claim != stream.claim and again.epoch != stream.epoch
    assert await store(adapter, batch(again, b"c"), fence()) == ["+OK"]
    third = await claimed(adapter, seen=Seen(3, again.epoch))
    assert third.last == 3 and third.claim != again.claim and third.epoch == again.epoch
    assert await store(adapter, batch(third, b"d"), fence()) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c", b"d"]


# The mark is 3: seen, whether in its epoch (None: not said), what the spool holds in the epoch
# that it is in and in others, how far it is behind (None: it is not), whether an epoch begins.
CLAIMS: list[tuple[int | None, bool | None, Spooled, str | None, bool]] = [
    (None, None, {}, None, True),
    (None, None, {ONE: [(4, 5)]}, None, True),
    (None, None, {"now": [(5, 9)]}, None, True),
    (None, None, {"now": [(1, 3)]}, None, True),
    (None, None, {"now": [(4, 4)]}, None, False),
    (None, None, {"now": [(2, 5), (9, 9)]}, None, True),
    (None, None, {"now": [(2, 5), (9, 9)], "": [(6, 8)]}, None, False),
    (None, None, {"": [(4, 5)]}, None, False),
    (None, None, {"": [(4, 5), (7, 7)]}, None, True),
    (0, None, {}, None, False),
    (3, None, {}, None, False),
    (3, True, {}, None, False),
    (2, True, {"now": [(5, 9)]}, None, False),
    (4, True, {}, "3", False),
    (4, None, {}, "3", False),
    (0, False, {}, "3", False),
    (3, False, {}, "3", False),
    (4, True, {ONE: [(4, 9)]}, "3", False),
    (4, True, {"now": [(5, 9)]}, "3", False),
    (5, True, {"now": [(4, 5)]}, None, False),
    (5, None, {"now": [(1, 5)]}, None, False),
    (6, True, {"now": [(4, 5), (7, 9)]}, "5", False),
    (9, True, {"now": [(4, 5), (6, 9)]}, None, False),
    (9, True, {"now": [(4, 5), (7, 9)], "": [(6, 6)]}, None, False),
    (9, True, {"now": [(7, 9)], "": [(4, 6)], ONE: [(1, 20)]}, None, False),
    (10, True, {"now": [(7, 9)], "": [(4, 6)], ONE: [(1, 20)]}, "9", False),
    (9, False, {"now": [(4, 9)]}, "9", False),
]


@pytest.mark.parametrize(("seen", "same", "spooled", "behind", "anew"), CLAIMS)
@pytest_twisted.ensureDeferred
async def test_claims(
    adapter: Adapter,
    seen: int | None,
    same: bool | None,
    spooled: Spooled,
    behind: str | None,
    anew: bool,
) -> None:
    """A claim reaches as far as the mark and what waits in its own epoch from there on; one that
    is behind what its peer has seen changes nothing."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b", b"c"), fence())
    spooled = {stream.epoch if key == "now" else key: found for key, found in spooled.items()}
    said_epoch = {True: stream.epoch, False: TWO, None: ""}[same]
    peer = None if seen is None else Seen(seen, said_epoch)
    if behind is None:
        again = await claimed(adapter, seen=peer, spooled=spooled)
        assert again.last == 3, "the mark is what the database has"
        assert (again.epoch != stream.epoch) is anew
        stream_positions = await elsewhere(adapter, at(stream, 4, b"d"))
        assert stream_positions["s"].claimed is False and stream_positions["s"].current is not anew
        return
    with pytest.raises(StreamBehind) as caught:
        await claimed(adapter, seen=peer, spooled=spooled)
    assert str(caught.value) == behind
    assert await store(adapter, batch(stream, b"d"), fence()) == ["+OK"], "it is claimed as before"


# A stream that the database does not know: seen, its epoch, what the spool holds, how far it is
# behind (None: it is not), the epoch that it is in then ("new": one made up).
STRANGERS: list[tuple[int | None, str, Spooled, str | None, str]] = [
    (None, "", {}, None, "new"),
    (0, "", {}, None, "new"),
    (0, ONE, {}, "0", ""),
    (1, "", {}, "0", ""),
    (None, "", {ONE: [(1, 2)]}, None, ONE),
    (2, "", {ONE: [(1, 2)]}, None, ONE),
    (None, "", {ONE: [(1, 2), (4, 4)]}, None, "new"),
    (2, ONE, {ONE: [(1, 2), (4, 4)]}, None, ONE),
    (3, ONE, {ONE: [(1, 2), (4, 4)]}, "2", ""),
    (2, TWO, {ONE: [(1, 2)]}, "2", ""),
    (0, ONE, {ONE: [(2, 2)]}, "0", ""),
    (None, "", {ONE: [(2, 2)]}, None, "new"),
    (None, "", {ONE: [(1, 2)], TWO: [(3, 4)]}, None, ONE),
    (None, "", {ONE: [(1, 2)], TWO: [(1, 1)]}, None, "new"),
    (2, ONE, {ONE: [(1, 2)], TWO: [(1, 1)]}, "0", ""),
    (None, "", {"": [(1, 2)]}, None, "new"),
    (4, ONE, {ONE: [(1, 2)], "": [(3, 4)]}, None, ONE),
    (2, "", {"": [(1, 2)]}, None, "new"),
    (3, "", {"": [(1, 2)]}, "2", ""),
    (2, ONE, {"": [(1, 2)]}, "2", ""),
]


@pytest.mark.parametrize(("seen", "epoch", "spooled", "behind", "now"), STRANGERS)
@pytest_twisted.ensureDeferred
async def test_claims_of_a_stream_that_is_not_known(
    adapter: Adapter, seen: int | None, epoch: str, spooled: Spooled, behind: str | None, now: str
) -> None:
    """The spool may know a stream that the database does not, or not any more; then it goes on in
    the epoch that begins there. What is behind leaves no trace."""
    await ready(adapter)
    peer = None if seen is None else Seen(seen, epoch)
    if behind is None:
        stream = await claimed(adapter, seen=peer, spooled=spooled)
        assert stream.last == 0 and stream.refusals == {}
        assert stream.epoch == now or (now == "new" and stream.epoch not in ("", ONE, TWO))
        return
    with pytest.raises(StreamBehind) as caught:
        await claimed(adapter, seen=peer, spooled=spooled)
    assert str(caught.value) == behind
    assert await store(adapter, at(loose(TWO), 1, b"a"), fence()) == ["+OK"]
    assert await mark_of(adapter) == (TWO, 1), "nothing had begun"


@pytest_twisted.ensureDeferred
async def test_a_lost_claim_stores_nothing(adapter: Adapter) -> None:
    """What an older claim still wants to store is not stored, nor is anything with it."""
    await ready(adapter)
    old = await claimed(adapter)
    await claimed(adapter, seen=Seen(0, old.epoch))
    late = batch(old, b"a", b"b")
    stream_position = (await elsewhere(adapter, late))["s"]
    assert (stream_position.claimed, stream_position.current, stream_position.mark) == (
        False,
        True,
        0,
    )
    assert stream_position.outcome(late.moves[0]) is wording.STREAM_TAKEN
    assert bodies(adapter) == []


@pytest_twisted.ensureDeferred
async def test_a_stream_that_was_never_claimed(adapter: Adapter) -> None:
    """A claim of a database that lost it since stores nothing: the peer has to say HELLO again."""
    await ready(adapter)
    for first in (1, 5):
        late = at(Stream("gone", ONE, str(UUID(int=7)), first - 1), first, b"a")
        stream_position = (await elsewhere(adapter, late))["gone"]
        assert (stream_position.claimed, stream_position.current, stream_position.mark) == (
            False,
            True,
            0,
        )
    assert bodies(adapter) == []


@pytest_twisted.ensureDeferred
async def test_a_stream_that_was_opened_without_the_database(adapter: Adapter) -> None:
    """Opened in an outage, a stream moves without a claim, from just before its messages and in
    its own epoch."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a"), fence())
    blind = Stream("s", stream.epoch, None, 1)
    assert await store(adapter, batch(blind, b"b"), fence()) == ["+OK"]
    assert await mark_of(adapter) == (stream.epoch, 2)
    assert (await elsewhere(adapter, at(blind, 5, b"e")))["s"].mark == 2
    other = Stream("s", ONE, None, 2)
    assert (await elsewhere(adapter, batch(other, b"c")))["s"].current is False
    assert bodies(adapter) == [b"a", b"b"]


# Moves.


@pytest_twisted.ensureDeferred
async def test_asked_again(adapter: Adapter) -> None:
    """A batch that is written again is stored once, and its stream moved once."""
    await ready(adapter)
    stream = await claimed(adapter)
    messages, behind = batch(stream, b"a", b"b"), fence()
    await adapter.store.write(messages, behind)
    for _ in range(2):
        written = await adapter.store.write(messages, behind)
        assert (written.before, said([*written.runs])) == (True, ["+OK"] * 2)
    assert await adapter.store.resolve(messages, behind) == written
    assert await store(adapter, batch(stream, b"c"), fence(2, behind.lane)) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (1, wording.STREAM_MOVED),
        (2, wording.STREAM_MOVED),
        (3, wording.STREAM_MOVED),
        (5, wording.STREAM_BEHIND),
        (9, wording.STREAM_BEHIND),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_stream_moves_from_just_before_its_messages(
    adapter: Adapter, first: int, outcome: Outcome
) -> None:
    """Numbers that do not begin just behind the mark are not stored, whoever believes they do."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b", b"c"), fence())
    wrong = at(stream, first, b"x", b"y")
    stream_position = (await elsewhere(adapter, wrong))["s"]
    assert (stream_position.claimed, stream_position.current, stream_position.mark) == (
        True,
        True,
        3,
    )
    assert stream_position.outcome(wrong.moves[0]) is outcome
    assert await store(adapter, at(stream, 4, b"d"), fence()) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c", b"d"]


@pytest_twisted.ensureDeferred
async def test_several_streams_share_a_batch(adapter: Adapter) -> None:
    """Streams and plain messages are stored by one statement; where some streams are elsewhere
    all of these are named, and the others can be stored without them."""
    await ready(adapter)
    one, two, three = [await claimed(adapter, name) for name in "123"]
    await claimed(adapter, "2", Seen(0, two.epoch))
    await claimed(adapter, "3")
    plain = Chunk("messages", [b"p"], Origin("peer", "l"), 0.0, lambda chunk, runs: None)
    parts = [batch(stream, b"m").slices[0].chunk for stream in (one, two, three)]
    together = Batch.of([parts[0], plain, *parts[1:]])
    stream_positions = await elsewhere(adapter, together)
    assert {name: found.current for name, found in stream_positions.items()} == {
        "2": True,
        "3": False,
    }
    left = together.settle_streams({"2", "3"}, wording.STREAM_TAKEN)
    assert left is not None
    assert await store(adapter, left, fence()) == ["+OK"] * 2
    assert bodies(adapter) == [b"m", b"p"]
    assert [(await mark_of(adapter, name))[1] for name in "123"] == [1, 0, 0]


@pytest_twisted.ensureDeferred
async def test_odd_names(adapter: Adapter) -> None:
    """A stream may be called whatever a peer can say; nothing of it is taken for SQL."""
    await ready(adapter)
    names = [
        'a"b',
        "c\\d",
        "{e,f}",
        "NULL",
        "it's",
        "%s%%",
        "g\u00e9\u4e2d\U0001f600",
        ",",
        "\\x41",
    ]
    streams = [await claimed(adapter, name) for name in names]
    parts = [batch(stream, b"m").refuse([(0, BAD)]) for stream in streams]
    refusals = [refusal for part in parts if part is not None for refusal in part.refusals]
    slices = [at(stream, 2, b"n").slices[0] for stream in streams]
    assert await store(adapter, Batch("messages", slices, refusals), fence()) == ["+OK"] * 9
    for name in names:
        again = await claimed(adapter, name)
        assert (again.last, dict(again.refusals)) == (2, {1: BAD})


@pytest_twisted.ensureDeferred
async def test_a_database_that_was_set_back(adapter: Adapter) -> None:
    """Where the database has lost what it had the peer hears GAP, whatever it says HELLO with."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b"), fence())
    with pytest.raises(StreamBehind):
        await claimed(adapter, seen=Seen(3, stream.epoch))
    # The same number, but of a time after which something else was stored.
    other = await claimed(adapter)
    assert other.last == 2
    with pytest.raises(StreamBehind):
        await claimed(adapter, seen=Seen(2, stream.epoch))


# Several routes.


@pytest_twisted.ensureDeferred
async def test_numbers_of_several_routes(adapter: Adapter) -> None:
    """Numbers that go to several routes by turns, refused ones and those of unknown routes among
    them, are one move of the commit that has them all; alone none of the batches is in a row."""
    await ready(adapter)
    await adapter.store.write(
        Batch.of([Chunk("messages", [b"0"], Origin("p", "l"), 0.0, lambda chunk, runs: None)]),
        fence(),
    )
    stream, other = await claimed(adapter), await claimed(adapter, "t")
    first = Batch.of(
        [chunk(stream, 1, b"1"), chunk(stream, 4, b"\xff", b"5"), chunk(other, 1, b"t")]
    )
    left = first.refuse([(1, BAD)])
    assert left is not None
    second = Batch.of([chunk(stream, 2, b"2"), chunk(stream, 6, b"6")])
    unknown = Batch.of([chunk(stream, 3, b"3", route="", refusal=BAD)])
    batches, fences = [left, second, unknown], [fence(), fence(), fence()]
    for _ in range(2):
        assert await adapter.store.write_together(batches, fences)
    assert sorted(bodies(adapter)) == [b"0", b"1", b"2", b"5", b"6", b"t"]
    again = await claimed(adapter)
    assert again.last == 6 and dict(again.refusals) == {3: BAD, 4: BAD}
    assert (await mark_of(adapter, "t"))[1] == 1
    for one, behind in zip(batches, fences, strict=True):
        written = await adapter.store.resolve(one, behind)
        assert written is not None and written.before


@pytest_twisted.ensureDeferred
async def test_several_routes_of_a_stream_elsewhere(adapter: Adapter) -> None:
    """Where a stream is not just before the messages of a commit of several routes, nothing of
    it is stored, and no fence is moved."""
    await ready(adapter)
    await adapter.store.write(
        Batch.of([Chunk("messages", [b"0"], Origin("p", "l"), 0.0, lambda chunk, runs: None)]),
        fence(),
    )
    stream = await claimed(adapter)
    for batches in (
        [at(stream, 2, b"2"), at(stream, 3, b"3")],
        [at(stream, 1, b"1"), at(Stream("t", ONE, ONE), 1, b"t")],
    ):
        fences = [fence(), fence()]
        assert await adapter.store.write_together(batches, fences) is None
        assert bodies(adapter) == [b"0"]
        assert await adapter.store.resolve(batches[1], fences[1]) is None
    assert await store(adapter, at(stream, 1, b"1"), fence()) == ["+OK"]


@pytest_twisted.ensureDeferred
async def test_a_lost_commit_of_several_routes_moves_nothing(adapter: Adapter) -> None:
    """Once its first fence is void, neither its streams nor the other fences ever move by it."""
    await ready(adapter)
    await adapter.store.write(
        Batch.of([Chunk("messages", [b"0"], Origin("p", "l"), 0.0, lambda chunk, runs: None)]),
        fence(),
    )
    stream = await claimed(adapter)
    batches = [at(stream, 1, b"1"), at(stream, 2, b"2")]
    fences = [fence(), fence()]
    assert await adapter.store.resolve(batches[0], fences[0]) is None
    with pytest.raises(FenceVoid):
        await adapter.store.write_together(batches, fences)
    assert await mark_of(adapter) == (stream.epoch, 0)
    stream = await claimed(adapter, seen=Seen(0, stream.epoch))
    assert await store(adapter, at(stream, 1, b"1", b"2"), fence()) == ["+OK"] * 2


# Refusals.


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
async def test_a_batch_of_refusals_alone(adapter: Adapter) -> None:
    """Numbers that are only used up move their stream though no row is stored, once."""
    await ready(adapter)
    stream = await claimed(adapter)
    used_up = Batch.of([chunk(stream, 1, b"1", b"2", route="", refusal=BAD)])
    behind = fence()
    for before in (False, True):
        written = await adapter.store.write(used_up, behind)
        assert (written.before, said([*written.runs])) == (before, [])
    assert await adapter.store.resolve(used_up, behind) == written
    again = await claimed(adapter)
    assert again.last == 2 and dict(again.refusals) == {1: BAD, 2: BAD}
    late = Batch.of([chunk(stream, 3, b"3", route="", refusal=BAD)])
    assert (await elsewhere(adapter, late))["s"].claimed is False
    assert (await claimed(adapter)).refusals.keys() == {1, 2}


@pytest_twisted.ensureDeferred
async def test_refusals_go_with_what_they_are_about(adapter: Adapter) -> None:
    """Nothing is remembered of a batch that is not stored, and nothing kept of it."""
    await ready(adapter)
    stream = await claimed(adapter)
    left = at(stream, 1, b"\xff", b"2").refuse([(0, BAD)], dead_letter=True)
    assert left is not None
    behind = fence()
    assert await adapter.store.resolve(left, behind) is None
    with pytest.raises(FenceVoid):
        await adapter.store.write(left, behind)
    again = await claimed(adapter, seen=Seen(0, stream.epoch))
    assert again.last == 0 and not again.refusals and not adapter.dead_letters()
    await claimed(adapter)
    assert (await elsewhere(adapter, left)).keys() == {"s"}
    assert not adapter.dead_letters() and not bodies(adapter)


@pytest_twisted.ensureDeferred
async def test_dead_letters_move_their_stream(adapter: Adapter) -> None:
    """A refused number whose route keeps dead letters is kept and used up in one commit; one that
    its stream has passed is kept alone."""
    await ready(adapter)
    stream = await claimed(adapter)
    left = at(stream, 1, b"1", b"\xff").refuse([(1, BAD)], dead_letter=True)
    assert left is not None
    assert await store(adapter, left, fence()) == ["+OK"]
    assert await mark_of(adapter) == (stream.epoch, 2)
    passed = Batch("messages", [], [left.refusals[0]._replace(counts=False)])
    assert await store(adapter, passed, fence()) == []
    assert [frame for frame, _, _ in adapter.dead_letters()] == [b"\xff"] * 2
    assert (await claimed(adapter)).last == 2


@pytest_twisted.ensureDeferred
async def test_what_a_spool_held_is_not_refused_to_its_peer(adapter: Adapter) -> None:
    """A message that was answered +QUE becomes a dead letter where the database refuses it; its
    peer is not told -REJ if it is sent again. What was refused before it was spooled is."""
    await ready(adapter)
    adapter.poison()
    await claimed(adapter)
    spooled = at(loose(""), 1, b"a", b"bad", b"\xff").refuse([(2, BAD)])
    assert spooled is not None
    answers = await store(adapter, spooled, fence())
    assert [answer[:4] for answer in answers] == ["+OK", "-REJ"]
    again = await claimed(adapter)
    assert again.last == 3 and dict(again.refusals) == {3: BAD}


@pytest_twisted.ensureDeferred
async def test_any_refusal_can_be_remembered(adapter: Adapter) -> None:
    """Also one whose text shows what no database can hold: its neighbours are stored."""
    await ready(adapter)
    stream = await claimed(adapter)
    told = refused(Code.ROUTE, "no route a\0b\ud800" + "x" * 300)
    odd = Batch.of([chunk(stream, 1, b"a", route="", refusal=told), chunk(stream, 2, b"b")])
    mixed = Batch("messages", odd.slices, odd.refusals)
    assert await store(adapter, mixed, fence()) == ["+OK"]
    again = await claimed(adapter)
    assert again.last == 2 and bytes(again.accept(1) or DUPLICATE) == bytes(told)


@pytest_twisted.ensureDeferred
async def test_old_refusals_are_forgotten(database: Database) -> None:
    """Refusals that are far behind the last number are removed when the stream is claimed."""
    with postgres(database, MESSAGES) as adapter:
        await ready(adapter)
        await claimed(adapter)
        database.execute("UPDATE gateway.stream SET mark = 500000")
        database.execute(
            "INSERT INTO gateway.refusal"
            " SELECT 's', n, jsonb_build_array('DATA', '', NULL, 'x')"
            " FROM unnest(ARRAY[1, 489999, 490000, 499999]) n"
        )
        assert (await claimed(adapter)).refusals.keys() == {490000, 499999}


# What was left in a spool.


@pytest.mark.parametrize("epoch", ["now", ""])
@pytest_twisted.ensureDeferred
async def test_left_in_a_spool(adapter: Adapter, epoch: str) -> None:
    """What waited in a spool is stored when it is next in its epoch, or was put there before there
    were epochs, whoever has the stream by now; that claim goes on behind it."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b"), fence())
    spooled = loose(stream.epoch if epoch else "")
    assert await store(adapter, at(spooled, 3, b"c"), fence()) == ["+OK"]
    assert await mark_of(adapter) == (stream.epoch, 3)
    claim = await claimed(adapter, seen=Seen(3, stream.epoch))
    stream_position = (await elsewhere(adapter, at(spooled, 2, b"b", b"c", b"d")))["s"]
    assert (stream_position.claimed, stream_position.current, stream_position.mark) == (
        True,
        True,
        3,
    )
    assert known(stream_position, 2, b"b", b"c") == [True, True]
    assert known(stream_position, 2, b"B", b"C") == [False, False]
    early = (await elsewhere(adapter, at(spooled, 5, b"e")))["s"]
    assert (early.claimed, early.current, early.mark) == (True, True, 3)
    assert await store(adapter, batch(claim, b"d"), fence()) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c", b"d"]


@pytest_twisted.ensureDeferred
async def test_left_in_a_spool_of_another_epoch(adapter: Adapter) -> None:
    """What is of another epoch is not stored, wherever the mark is; whether it is there already is
    shown as far as the mark, and not beyond."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b"), fence())
    for first, messages in ((1, (b"a", b"x", b"c")), (3, (b"c", b"d")), (9, (b"z",))):
        stream_position = (await elsewhere(adapter, at(loose(ONE), first, *messages)))["s"]
        assert (stream_position.claimed, stream_position.current, stream_position.mark) == (
            True,
            False,
            2,
        )
        expected = [first == 1 and place == 0 for place in range(len(messages))]
        assert known(stream_position, first, *messages) == expected
    assert bodies(adapter) == [b"a", b"b"]


@pytest_twisted.ensureDeferred
async def test_a_spool_begins_a_stream(adapter: Adapter) -> None:
    """Where the database does not know a stream, or not any more, what waited from #1 on begins it
    in its epoch; what waited from later on does not."""
    await ready(adapter)
    stream_position = (await elsewhere(adapter, at(loose(ONE), 2, b"b")))["s"]
    assert (stream_position.claimed, stream_position.current, stream_position.mark) == (
        True,
        True,
        0,
    )
    assert await store(adapter, at(loose(ONE), 1, b"a"), fence()) == ["+OK"]
    assert await store(adapter, at(loose(ONE), 2, b"b"), fence()) == ["+OK"]
    assert (await elsewhere(adapter, at(loose(TWO), 3, b"c")))["s"].current is False
    assert await mark_of(adapter) == (ONE, 2)
    # Of a gateway that knew of no epochs: the first that says one has it.
    assert await store(adapter, at(loose("", "t"), 1, b"t"), fence()) == ["+OK"]
    assert await store(adapter, at(loose(TWO, "t"), 2, b"u"), fence()) == ["+OK"]
    assert await mark_of(adapter, "t") == (TWO, 2)
    assert bodies(adapter) == [b"a", b"b", b"t", b"u"]


# Digests.


@pytest.mark.parametrize("size", [1, 7, 63, 64, 100, 3000])
@pytest_twisted.ensureDeferred
async def test_which_messages_were_stored(adapter: Adapter, size: int) -> None:
    """In whatever batches the last thousands of numbers were stored: each is shown to be its
    message's and nobody else's, refused ones too, for messages in any place."""
    await ready(adapter)
    stream = await claimed(adapter)
    total = max(200, size + 150) if size < 3000 else 7000
    messages = [b"m%d" % number for number in range(total + 1)]
    number = 1
    while number <= total:
        some = messages[number : min(number + size, total + 1)]
        whole: Batch | None = at(stream, number, *some)
        assert whole is not None
        if number % 5 == 0:
            whole = whole.refuse([(0, BAD)])
            assert whole is not None
        await adapter.store.write(whole, fence())
        number += len(some)
    spooled = loose(stream.epoch)
    for first, last in ((1, 3), (60, 70), (1, total + 5), (total - 2, total + 90), (120, 130)):
        wanted = messages[first : last + 1]
        wanted += [b"later"] * (last - first + 1 - len(wanted))
        stream_position = (await elsewhere(adapter, at(spooled, first, *wanted)))["s"]
        assert stream_position.mark == total and stream_position.current
        numbers = range(first, min(last, total) + 1)
        assert all(stream_position.has_message(n, messages[n]) for n in numbers)
        assert not any(stream_position.has_message(n, messages[n] + b"!") for n in numbers)
        assert not any(stream_position.has_message(n, messages[n - 1]) for n in numbers)


@pytest.mark.parametrize("size", [1, 63, 64, 100, 500])
@pytest_twisted.ensureDeferred
async def test_what_is_not_stored_is_not_known(adapter: Adapter, size: int) -> None:
    """However many messages were tried in vain, just behind the mark but in another epoch: none of
    them is taken for one that is there."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a", b"b"), fence())
    messages = [b"n%d" % n for n in range(size)]
    stream_position = (await elsewhere(adapter, at(loose(ONE), 3, *messages)))["s"]
    assert (stream_position.current, stream_position.mark) == (False, 2)
    assert known(stream_position, 3, *messages) == [False] * size


@pytest_twisted.ensureDeferred
async def test_a_peer_needs_no_digests(adapter: Adapter) -> None:
    """Whoever has a claim asks its peer, and need not be told what was stored."""
    await ready(adapter)
    stream = await claimed(adapter)
    await store(adapter, batch(stream, b"a"), fence())
    stream_position = (await elsewhere(adapter, at(stream, 1, b"a")))["s"]
    assert not stream_position.digests.strip(b"\0")


@pytest_twisted.ensureDeferred
async def test_old_digests_are_forgotten(database: Database) -> None:
    """Of numbers far behind nobody knows any more which message each was; nearer ones are known."""
    with postgres(database, MESSAGES) as adapter:
        await ready(adapter)
        stream = await claimed(adapter)
        total = 25_000
        for first in range(1, total, 2500):
            await store(adapter, at(stream, first, *[b"m"] * 2500), fence())
        spooled = loose(stream.epoch)
        near = total - KEPT_DIGESTS + 1
        for number, there in ((1, False), (2500, False), (near, True), (total, True)):
            stream_position = (await elsewhere(adapter, at(spooled, number, b"m")))["s"]
            assert stream_position.has_message(number, b"m") is there, number
        (size,) = database.column("SELECT sum(octet_length(digests)) / 8 FROM gateway.digest")
        assert KEPT_DIGESTS <= size <= KEPT_DIGESTS + 5000


@pytest_twisted.ensureDeferred
async def test_numbers_that_a_refused_row_interrupts(adapter: Adapter) -> None:
    """Digests are in the order of the numbers, whatever became of each and in whichever part of
    the commit it was."""
    await ready(adapter)
    stream = await claimed(adapter)
    mixed = Batch.of([chunk(stream, 3, b"c", b"d"), chunk(stream, 1, b"a", b"b")])
    left = mixed.refuse([(0, BAD), (3, BAD)])
    assert left is not None
    await store(adapter, left, fence())
    stream_position = (await elsewhere(adapter, at(loose(""), 1, b"a", b"b", b"c", b"d")))["s"]
    assert known(stream_position, 1, b"a", b"b", b"c", b"d") == [True] * 4


# Open fates.


@pytest_twisted.ensureDeferred
async def test_what_never_happened_moves_no_stream(adapter: Adapter) -> None:
    """Once a fate is settled as not stored, a late try neither stores nor moves, and is told so,
    whether the stream still waits or has gone on; the same numbers are stored by another batch."""
    await ready(adapter)
    stream = await claimed(adapter)
    late, behind = at(stream, 1, b"a", b"b"), fence(3, first=2)
    for _ in range(2):
        assert await adapter.store.resolve(late, behind) is None
        with pytest.raises(FenceVoid) as caught:
            await adapter.store.write(late, behind)
        assert caught.value.number == 3
    assert await store(adapter, at(stream, 1, b"a"), fence(4, behind.lane)) == ["+OK"]
    assert await store(adapter, at(stream, 2, b"b"), fence()) == ["+OK"]
    # The lane has gone on, so that nobody knows any more that it was void; nothing is stored.
    assert (await adapter.store.write(late, behind)).before
    other = at(stream, 1, b"a", b"b")
    elsewhere_lane = fence()
    assert await adapter.store.resolve(other, elsewhere_lane) is None
    with pytest.raises(FenceVoid):
        await adapter.store.write(other, elsewhere_lane)
    assert bodies(adapter) == [b"a", b"b"]


@pytest_twisted.ensureDeferred
async def test_a_range_of_a_stream_is_stored_once(adapter: Adapter) -> None:
    """Records of a spool that are put together differently after a crash: each is stored once, and
    whoever overlaps is told how far it is, not that its stream is elsewhere."""
    await ready(adapter)
    stream = await claimed(adapter)
    spooled, lane = loose(stream.epoch), str(uuid4())
    assert await store(adapter, at(spooled, 1, b"a", b"b", b"c"), fence(3, lane, 1)) == ["+OK"] * 3
    with pytest.raises(StoredPartly) as caught:
        await adapter.store.write(at(spooled, 1, b"a", b"b", b"c", b"d"), fence(4, lane, 1))
    assert caught.value.number == 3
    with pytest.raises(StoredPartly):
        await adapter.store.resolve(at(spooled, 1, b"a", b"b", b"c", b"d"), fence(4, lane, 1))
    written = await adapter.store.write(at(spooled, 2, b"b"), fence(2, lane))
    assert written.before
    assert await store(adapter, at(spooled, 4, b"d"), fence(4, lane)) == ["+OK"]
    assert bodies(adapter) == [b"a", b"b", b"c", b"d"]


# The state before there were epochs.


@pytest_twisted.ensureDeferred
async def test_streams_of_an_earlier_version(database: Database) -> None:
    """A database that was left with a mark for each route and counted claims is brought up to date:
    each stream is at the highest of its marks, what was refused is told, old claims are lost."""
    database.execute(
        "CREATE SCHEMA gateway; CREATE TABLE gateway.migration (number int PRIMARY KEY,"
        " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for number, name, sql in migrations()[:4]:
        # As one statement, whatever it holds.
        with psycopg2.connect(database.dsn) as old:
            old.cursor().execute(sql)
        old.close()
        database.execute(
            "INSERT INTO gateway.migration (number, name) VALUES (%s, %s)", number, name
        )
    database.execute(
        "INSERT INTO gateway.stream (name, claim, marks) VALUES"
        """ ('s', 7, '{"messages": 3, "orders": 5}'), ('empty', 2, '{}'),"""
        """ ('one', 1, '{"messages": 12}')"""
    )
    database.execute(
        "INSERT INTO gateway.refusal (stream, number, answer) VALUES"
        " ('s', 4, jsonb_build_array('FORMAT', '', NULL, 'never seen')),"
        " ('s', 5, jsonb_build_array('', '23514', NULL, 'a rule'))"
    )
    lane = str(uuid4())
    database.execute("INSERT INTO gateway.lane (id, number) VALUES (%s, 4)", lane)
    with postgres(database, MESSAGES) as adapter:
        await ready(adapter)
        stream = await claimed(adapter, "s", Seen(5, ""))
        assert stream.last == 5 and stream.refusals[4] == BAD
        told = stream.refusals[5]
        assert (told.code, told.sqlstate) == (Code.CONSTRAINT, "23514")
        with pytest.raises(StreamBehind, match="5"):
            await claimed(adapter, "s", Seen(6, ""))
        assert await store(adapter, batch(stream, b"six"), fence()) == ["+OK"]
        # What its spool held when it was stopped has no epoch; of older numbers none is known.
        spooled = loose("")
        assert await store(adapter, at(spooled, 7, b"seven"), fence(5, lane)) == ["+OK"]
        written = await adapter.store.write(at(spooled, 5, b"five"), fence(4, lane))
        assert written.before
        stream_position = (await elsewhere(adapter, at(spooled, 5, b"five", b"six", b"seven")))["s"]
        assert known(stream_position, 5, b"five", b"six", b"seven") == [False, True, True]
        assert [(await claimed(adapter, name)).last for name in ("empty", "one", "new")] == [
            *(0, 12, 0)
        ]
        assert bodies(adapter) == [b"six", b"seven"]


# Both alike, whatever is done.

NAMES = st.sampled_from("ab")

RANGES = st.dictionaries(
    st.integers(0, 4),
    st.sets(st.integers(1, 9), min_size=1).map(sorted),
    max_size=2,
)

OPERATIONS = st.one_of(
    st.tuples(st.just("claim"), NAMES, st.none() | st.integers(0, 9), st.integers(0, 4), RANGES),
    st.tuples(
        *(st.just("write"), NAMES, st.integers(-1, 4), st.integers(0, 4)),
        *(st.integers(-2, 2), st.sampled_from([1, 1, 2, 3, 70]), st.sets(st.integers(0, 2))),
    ),
    st.tuples(st.sampled_from(["again", "resolve", "late"]), st.integers(0, 9)),
    st.tuples(st.just("together"), NAMES, st.integers(-1, 4), st.integers(-1, 1)),
)


class Side:
    """
    One of the stores, and what the test knows of what was done there.

    @ivar epochs: those that were heard of, in order, so that they can be compared.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.epochs = ["", ONE]
        self._claims: list[tuple[str, str, str]] = []
        self._marks: dict[str, int] = {}
        self._written: list[tuple[Batch, Fence]] = []

    async def do(self, operation: tuple[Any, ...]) -> object:
        """
        @return: what came of it, in words that are the same for both.
        """
        try:
            return await getattr(self, f"_{operation[0]}")(*operation[1:])
        except StreamBehind as behind:
            return "behind", str(behind)
        except FenceVoid as void:
            return "void", void.number
        except StreamsElsewhere as error:
            return "elsewhere", self._stream_positions(error.stream_positions)

    def _epoch(self, which: int) -> str:
        return self.epochs[which % len(self.epochs)]

    def _which(self, epoch: str) -> int:
        if epoch not in self.epochs:
            self.epochs.append(epoch)
        return self.epochs.index(epoch)

    async def _claim(
        self, name: str, seen: int | None, epoch: int, spooled: dict[int, list[int]]
    ) -> object:
        runs = {self._epoch(key): _in_runs(numbers) for key, numbers in spooled.items()}
        peer = None if seen is None else Seen(seen, self._epoch(epoch))
        found = await self._adapter.store.claim_stream(name, peer, runs)
        self._claims.append((name, found.claim, found.epoch))
        self._marks[name] = found.mark
        # Their texts are each store's own.
        refusals = {n: (told.code, told.sqlstate) for n, told in found.refusals.items()}
        return "claim", self._which(found.epoch), found.mark, refusals

    def _stream(self, name: str, claim: int, epoch: int) -> Stream:
        own = [found for found in self._claims if found[0] == name]
        if claim < 0 or not own:
            return Stream(name, self._epoch(epoch), loose=True)
        # Mostly the last one, which is the one that may store.
        _, word, current = own[-1 - (claim // 4) % len(own)]
        return Stream(name, current, word)

    async def _write(
        self, name: str, claim: int, epoch: int, offset: int, size: int, bad: set[int]
    ) -> object:
        stream = self._stream(name, claim, epoch)
        first = max(1, self._marks.get(name, 0) + 1 + offset)
        messages = [b"m%d" % (first + place) for place in range(size)]
        if size == 3:
            messages[1] = b"bad"
        whole = at(stream, first, *messages)
        left = whole.refuse(
            [(row, BAD) for row in sorted(bad) if row < size], dead_letter=size == 2
        )
        assert left is not None
        self._written.append((left, fence()))
        return await self._store(name, *self._written[-1])

    async def _store(self, name: str, batch: Batch, fence: Fence) -> object:
        self._moves = batch.moves, batch
        written = await self._adapter.store.write(batch, fence)
        if not written.before and batch.moves:
            self._marks[name] = batch.moves[0].last
        return "written", written.before, [word[:4] for word in said([*written.runs])]

    async def _again(self, which: int) -> object:
        if not self._written:
            return None
        batch, fence = self._written[which % len(self._written)]
        return await self._store(batch.moves[0].stream.name, batch, fence)

    async def _resolve(self, which: int) -> object:
        if not self._written:
            return None
        batch, fence = self._written[which % len(self._written)]
        written = await self._adapter.store.resolve(batch, fence)
        return None if written is None else [word[:4] for word in said([*written.runs])]

    async def _late(self, which: int) -> object:
        """A batch whose fate was settled before it came."""
        if not self._written:
            return None
        batch, behind = self._written[which % len(self._written)]
        after = Fence(behind.lane, behind.number + 1)
        self._written.append((batch, after))
        return await self._store(batch.moves[0].stream.name, batch, after)

    async def _together(self, name: str, claim: int, offset: int) -> object:
        stream = self._stream(name, claim, claim + 1)
        first = max(1, self._marks.get(name, 0) + 1 + offset)
        batches = [
            Batch.of([chunk(stream, first, b"t1"), chunk(stream, first + 2, b"t3")]),
            Batch.of([chunk(stream, first + 1, b"t2")]),
            Batch.of([chunk(stream, first + 3, b"t4", route="", refusal=BAD)]),
        ]
        fences = [fence(), fence(), fence()]
        self._moves = batches[0].moves, batches[0]
        stored = await self._adapter.store.write_together(batches, fences)
        if stored:
            self._marks[name] = first + 3
        return "together", stored

    def _stream_positions(self, stream_positions: Mapping[str, StreamPosition]) -> object:
        moves, batch = self._moves
        frames = {part.first + n: f for part in batch.slices for n, f in enumerate(part.frames)}
        frames |= {r.number: r.chunk.frames[r.row] for r in batch.refusals}
        return {
            move.stream.name: (
                *(found.claimed, found.current, found.mark),
                *[found.has_message(n, frame) for n, frame in sorted(frames.items())],
            )
            for move in moves
            if (found := stream_positions.get(move.stream.name)) is not None
        }


def _in_runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.lists(OPERATIONS, min_size=1, max_size=14))
@pytest_twisted.ensureDeferred
async def test_both_stores_do_the_same(
    database: Database, operations: list[tuple[Any, ...]]
) -> None:
    """Whatever is claimed, stored, asked for again, taken back and put together in whatever order:
    both stores say the same and hold the same."""
    fake = MemoryAdapter()
    with postgres(database, MESSAGES) as real:
        await ready(real)
        database.execute(
            "TRUNCATE messages, gateway.dead_letter;"
            "ALTER TABLE messages DROP CONSTRAINT IF EXISTS fine"
        )
        real.poison()
        fake.poison()
        # Looked at once, or it is never stored together with others.
        await real.store.write(at(Stream("0", ONE, None, 0), 1, b"0"), fence())
        database.execute(
            "TRUNCATE messages, gateway.stream, gateway.digest, gateway.refusal, gateway.lane"
        )
        sides = Side(fake), Side(real)
        for operation in operations:
            # Where one message was bad it would take no routes together for a while.
            real.postgres.executor._suspected.clear()
            one, other = [await side.do(operation) for side in sides]
            assert one == other, operation
        assert bodies(fake) == bodies(real)
        assert fake.dead_letters() == real.dead_letters()
