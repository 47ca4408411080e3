"""
The Store port: one suite, held by the fake and by the real one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from unittest.mock import patch
from uuid import uuid4

import psycopg2
import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from gateway.commit.memory_store import MemoryStore
from gateway.config.load import Database as Settings
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import (
    BatchesRefused,
    FenceVoid,
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    StoredPartly,
    StoreError,
    TransientError,
    Unavailable,
)
from gateway.model.outcome import STORED, Code, Outcome, refused
from gateway.model.route import DEFAULT_COLUMNS, Route, Value
from gateway.model.store import Store
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.pool import Pool
from gateway.postgres.schema.migrations import migrations
from gateway.postgres.store.durability import weaknesses_of
from gateway.postgres.store.route_cache import AT_A_TIME, in_turns
from gateway.postgres.store.store import PostgresStore
from gateway.relay.store import RelayStore
from gateway.sql.statement import Binding, Bound, Statement
from tests.in_memory import said
from tests.support import Database


def sources(**columns: str) -> dict[str, Value]:
    """Columns that are filled from these, and nothing else is said of them."""
    return {column: Value(source) for column, source in columns.items()}


MESSAGES = Route("messages", "messages", sources(body="@frame", peer="@peer"), {**DEFAULT_COLUMNS})

# mypy holds that all are what the port says; tests/relay has the suite of the last.
_adapters: tuple[type[Store], ...] = (MemoryStore, PostgresStore, RelayStore)


class Adapter(Protocol):
    """
    A store, and a way to look into it.
    """

    store: Store

    def rows(self) -> list[tuple[str, bytes]]:
        """(peer, message) of everything stored, in order."""

    def dead_letters(self) -> list[tuple[bytes, str, str]]:
        """(message, error, sqlstate) of every dead letter, in order."""

    def poison(self) -> None:
        """From now on, messages that hold "bad" break a rule of the database."""


class MemoryAdapter:
    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.store: Store = self.memory

    def rows(self) -> list[tuple[str, bytes]]:
        return [(origin.peer, body) for origin, body in self.memory.rows]

    def dead_letters(self) -> list[tuple[bytes, str, str]]:
        return [(frame, o.text, o.sqlstate) for frame, o in self.memory.dead_letters]

    def poison(self) -> None:
        self.memory.poison = {b"bad"}


class PostgresAdapter:
    def __init__(self, database: Database, *routes: Route, **keywords: Any) -> None:
        values: dict[str, Any] = {"pool_min": 1, "pool_max": 2, "acquire_timeout": 5.0}
        configured = Settings(**(values | keywords))
        self.database = database
        self.pool = Pool(configured, reactor, lambda attempt: 0.05)
        self.postgres = PostgresStore(
            self.pool, {route.name: route for route in routes or (MESSAGES,)}, configured
        )
        self.store: Store = self.postgres
        self.pool.start(database.dsn)

    def rows(self) -> list[tuple[str, bytes]]:
        found = self.database.execute("SELECT peer, body FROM messages ORDER BY id")
        return [(peer, body.encode()) for peer, body in found]

    def dead_letters(self) -> list[tuple[bytes, str, str]]:
        found = self.database.execute(
            "SELECT frame, error, coalesce(sqlstate, '') FROM gateway.dead_letter ORDER BY id"
        )
        return [(bytes(frame), error, sqlstate) for frame, error, sqlstate in found]

    def poison(self) -> None:
        self.database.execute(
            "ALTER TABLE messages ADD CONSTRAINT fine CHECK (body NOT LIKE '%bad%')"
        )


@contextmanager
def postgres(database: Database, *routes: Route, **keywords: Any) -> Iterator[PostgresAdapter]:
    adapter = PostgresAdapter(database, *routes, **keywords)
    try:
        yield adapter
    finally:
        adapter.pool.close()


@pytest.fixture(params=["memory", "postgres"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Each store in turn."""
    if request.param == "memory":
        yield MemoryAdapter()
        return
    with postgres(request.getfixturevalue("database")) as adapter:
        yield adapter


def batch(*messages: bytes, peer: str = "1.2.3.4:5", route: str = "messages") -> Batch:
    return chunks([(peer, list(messages))], route)


def chunks(parts: list[tuple[str, list[bytes]]], route: str = "messages") -> Batch:
    return Batch.of(
        [
            Chunk(route, frames, Origin(peer, "lines"), 1.5, lambda chunk, runs: None)
            for peer, frames in parts
        ]
    )


async def stored(store: Store, batch: Batch, fence: Fence) -> bool:
    """Whether this write moved the fence, and every row is stored."""
    written = await store.write(batch, fence)
    assert list(written.runs) == [(batch.count, STORED)]
    return not written.before


def new_lane() -> str:
    return str(uuid4())


@pytest_twisted.ensureDeferred
async def test_rows_in_order(adapter: Adapter) -> None:
    """What is written is there, in the order of chunks and messages."""
    lane = new_lane()
    assert await stored(
        adapter.store,
        chunks([("a:1", [b"1", b"2"]), ("b:2", [b""]), ("a:1", [b"3", b"", b"4"])]),
        Fence(lane, 1),
    )
    assert await stored(adapter.store, batch(b"5"), Fence(lane, 2))
    assert adapter.rows() == [
        *(("a:1", b"1"), ("a:1", b"2"), ("b:2", b""), ("a:1", b"3"), ("a:1", b""), ("a:1", b"4")),
        ("1.2.3.4:5", b"5"),
    ]


@pytest_twisted.ensureDeferred
async def test_a_fence_moves_once(adapter: Adapter) -> None:
    """The same fence again stores nothing and says so; another lane is not concerned."""
    lane = new_lane()
    assert await stored(adapter.store, batch(b"once"), Fence(lane, 1)) is True
    assert await stored(adapter.store, batch(b"once"), Fence(lane, 1)) is False
    assert await stored(adapter.store, batch(b"next"), Fence(lane, 2)) is True
    assert await stored(adapter.store, batch(b"once"), Fence(lane, 1)) is False
    assert await stored(adapter.store, batch(b"other"), Fence(new_lane(), 1)) is True
    assert [body for _, body in adapter.rows()] == [b"once", b"next", b"other"]


@pytest_twisted.ensureDeferred
async def test_refused_by_a_rule(adapter: Adapter) -> None:
    """Rows that break a rule are refused alone; whoever asks again is told the same."""
    lane = new_lane()
    await adapter.store.write(batch(b"first"), Fence(lane, 1))
    adapter.poison()
    mixed = batch(b"a", b"bad", b"b", b"bad too")
    for before in (False, True):
        written = await adapter.store.write(mixed, Fence(lane, 2))
        assert written.before is before
        fates = [fate for count, fate in written.runs for _ in range(count)]
        assert [fate is STORED for fate in fates] == [True, False, True, False]
        refusal = fates[1]
        assert isinstance(refusal, Outcome)
        assert (refusal.code, refusal.sqlstate) == (Code.CONSTRAINT, "23514")
    resolved = await adapter.store.resolve(mixed, Fence(lane, 2))
    assert resolved is not None and resolved.before and resolved.runs == written.runs
    alone = await adapter.store.write(batch(b"bad"), Fence(lane, 3))
    assert alone.runs == [(1, refusal)]
    assert await stored(adapter.store, batch(b"c"), Fence(lane, 4))
    assert [body for _, body in adapter.rows()] == [b"first", b"a", b"b", b"c"]


@pytest_twisted.ensureDeferred
async def test_refused_before_the_database(adapter: Adapter) -> None:
    """What no text can hold is named by its row, across chunks; nothing is stored."""
    with pytest.raises(FramesRefused) as caught:
        await adapter.store.write(
            chunks([("a:1", [b"ok", b"\xff"]), ("b:2", [b"ok"]), ("b:2", [b"n\0ul", b"ok"])]),
            Fence(new_lane(), 1),
        )
    assert [row for row, _ in caught.value.faults] == [1, 3]
    assert await stored(adapter.store, batch(b"ok"), Fence(new_lane(), 1))
    assert [body for _, body in adapter.rows()] == [b"ok"]


NASTY = [
    *("'); DROP TABLE messages; --", "%s %% %(name)s %", "\\ \\\\ \\n \\x41 \\", 'a "quoted" one'),
    *("$1 $$ $tag$", '{a,b} {"c"}', "NULL", "", " ", "\t\r\v\f", "\x1f\x1e\x1d\x1c", "a\nb\n\nc\n"),
    *("\u00e9\u4e2d\u6587\u202e", "\U0001f600\U0001f468\u200d\U0001f469", "\ufffe\uffff\U0010ffff"),
    *("E'\\''", "\x01\x7f\x80", "'" * 99, "\\" * 99, '"' * 99, ",", "\ue000\U000f0000"),
]


@pytest_twisted.ensureDeferred
async def test_byte_for_byte(adapter: Adapter) -> None:
    """Nothing that looks like SQL, an array or an escape is anything but data."""
    planes = [
        "".join(c for c in map(chr, range(start, start + 0x800)) if c.isprintable())
        for start in [*range(0x20, 0xD000, 0x800), 0xE000, 0x1F000, 0x20000, 0x30000, 0xE0000]
    ]
    sent = [text.encode() for text in [*NASTY, *planes]]
    await adapter.store.write(batch(*sent, peer="it's"), Fence(new_lane(), 1))
    assert adapter.rows() == [("it's", body) for body in sent]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=4,
    )
)
@pytest_twisted.ensureDeferred
async def test_whatever_is_sent_reads_back(database: Database, parts: list[list[str]]) -> None:
    """Any texts, alone or together, read back equal."""
    with postgres(database, pool_min=1) as adapter:
        await adapter.postgres.open_all()
        database.execute("TRUNCATE messages")
        sent = [(f"p:{i}", [t.encode() for t in part]) for i, part in enumerate(parts)]
        await adapter.store.write(chunks(sent), Fence(new_lane(), 1))
        assert adapter.rows() == [(p, f) for p, frames in sent for f in frames]


@pytest_twisted.ensureDeferred
async def test_any_column_of_its_type(database: Database) -> None:
    """bytea takes any bytes, varchar its length and no more, json what is JSON; metadata fits."""
    database.execute(
        "CREATE TABLE t (id serial, raw bytea, short varchar(3), doc jsonb,"
        ' peer text, "l%s""x" text, at timestamptz, who text)'
    )
    meta = {
        **{"peer": "@peer", 'l%s"x': "@listener"},
        **{"at": "@received_at", "who": "@identity"},
    }
    raw = Route("raw", "t", sources(raw="@frame", **meta))
    short = Route("short", "public.t", sources(short="@frame"))
    doc = Route("doc", "t", sources(doc="@frame", raw="@frame"))
    with postgres(database, raw, short, doc) as adapter:
        lane = new_lane()
        await adapter.store.write(batch(b"\0\xff\n", b"", route="raw"), Fence(lane, 1))
        written = await adapter.store.write(batch(b"four", route="short"), Fence(lane, 2))
        assert "-REJ DATA sqlstate=22001 :value too long" in said([*written.runs])[0]
        await adapter.store.write(batch(b"abc", route="short"), Fence(lane, 3))
        written = await adapter.store.write(batch(b"{", route="doc"), Fence(lane, 4))
        assert "-REJ DATA sqlstate=22P02 :invalid input syntax" in said([*written.runs])[0]
        await adapter.store.write(batch(b'{"a": 1}', route="doc"), Fence(lane, 5))
        # Plain text, as behind a pooler, says the same.
        adapter.pool.sharing.prepares = False
        await adapter.store.write(batch(b"\x80", route="raw"), Fence(lane, 6))
    rows = database.execute(
        'SELECT raw, short, doc, peer, "l%s""x", extract(epoch FROM at)::float, who'
        " FROM t ORDER BY id"
    )
    assert [(None if r[0] is None else bytes(r[0]), *r[1:]) for r in rows] == [
        (b"\0\xff\n", None, None, "1.2.3.4:5", "lines", 1.5, None),
        (b"", None, None, "1.2.3.4:5", "lines", 1.5, None),
        (None, "abc", None, None, None, None, None),
        (b'{"a": 1}', None, {"a": 1}, None, None, None, None),
        (b"\x80", None, None, "1.2.3.4:5", "lines", 1.5, None),
    ]


@pytest_twisted.ensureDeferred
async def test_a_range_of_batches_is_stored_once(adapter: Adapter) -> None:
    """Put together differently after a crash, batches are stored once; the store says how far."""
    lane = new_lane()
    assert await stored(adapter.store, batch(b"1", b"2", b"3"), Fence(lane, 3, 1)) is True
    assert await stored(adapter.store, batch(b"1", b"2", b"3"), Fence(lane, 3, 1)) is False
    assert await stored(adapter.store, batch(b"1", b"2"), Fence(lane, 2, 1)) is False
    with pytest.raises(StoredPartly) as caught:
        await adapter.store.write(batch(b"2", b"3", b"4", b"5"), Fence(lane, 5, 2))
    assert caught.value.number == 3
    assert await stored(adapter.store, batch(b"4", b"5"), Fence(lane, 5, 4)) is True
    assert [body for _, body in adapter.rows()] == [b"1", b"2", b"3", b"4", b"5"]


@pytest_twisted.ensureDeferred
async def test_what_became_of_a_batch(adapter: Adapter) -> None:
    """What was stored is told as often as somebody asks; part of a range is said to be part."""
    lane = new_lane()
    await adapter.store.probe("messages")
    two, one = batch(b"1", b"2"), batch(b"3")
    assert await stored(adapter.store, two, Fence(lane, 2, 1)) is True
    for fence in (Fence(lane, 2, 1), Fence(lane, 1), Fence(lane, 2, 1)):
        assert await adapter.store.resolve(two, fence) == ([(2, STORED)], True)
    with pytest.raises(StoredPartly) as caught:
        await adapter.store.resolve(one, Fence(lane, 4, 2))
    assert caught.value.number == 2
    assert await stored(adapter.store, one, Fence(lane, 3)) is True
    assert [body for _, body in adapter.rows()] == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_what_was_not_stored_never_is(adapter: Adapter) -> None:
    """Who asks what became of a batch that is not stored takes its fence: whatever comes late is
    told so, and stores nothing, however often either is done."""
    await adapter.store.probe("messages")
    lane = new_lane()
    late = batch(b"late")
    for _ in range(2):
        assert await adapter.store.resolve(late, Fence(lane, 1)) is None
        with pytest.raises(FenceVoid) as caught:
            await adapter.store.write(late, Fence(lane, 1))
        assert caught.value.number == 1
    assert adapter.rows() == []
    assert await stored(adapter.store, batch(b"next"), Fence(lane, 2)) is True
    # What is void is not told for ever, but it is not stored either.
    assert (await adapter.store.write(late, Fence(lane, 1))).before
    assert [body for _, body in adapter.rows()] == [b"next"]


@pytest_twisted.ensureDeferred
async def test_a_range_that_was_not_stored_never_is(adapter: Adapter) -> None:
    """A range of batches is void as a whole; one that ends elsewhere is told where the void is."""
    await adapter.store.probe("messages")
    lane = new_lane()
    three = batch(b"1", b"2", b"3")
    for _ in range(2):
        assert await adapter.store.resolve(three, Fence(lane, 3, 1)) is None
    for first, last in ((1, 3), (1, 5), (3, 4), (3, 3)):
        with pytest.raises(FenceVoid) as caught:
            await adapter.store.write(three, Fence(lane, last, first))
        assert caught.value.number == 3
    # Another range may hold what is stored no more: who asks has to put it together anew.
    with pytest.raises(FenceVoid) as caught:
        await adapter.store.resolve(three, Fence(lane, 5, 2))
    assert caught.value.number == 3
    assert adapter.rows() == []
    assert await stored(adapter.store, batch(b"4", b"5"), Fence(lane, 5, 4)) is True
    assert [body for _, body in adapter.rows()] == [b"4", b"5"]


@pytest_twisted.ensureDeferred
async def test_a_void_behind_what_is_stored(adapter: Adapter) -> None:
    """A lane that has moved is taken from there on; what it had stored is as it was."""
    lane = new_lane()
    assert await stored(adapter.store, batch(b"1"), Fence(lane, 1))
    assert await adapter.store.resolve(batch(b"2"), Fence(lane, 2)) is None
    assert await adapter.store.resolve(batch(b"1"), Fence(lane, 1)) == ([(1, STORED)], True)
    with pytest.raises(FenceVoid):
        await adapter.store.write(batch(b"2"), Fence(lane, 2))
    assert await stored(adapter.store, batch(b"3"), Fence(lane, 3))
    assert [body for _, body in adapter.rows()] == [b"1", b"3"]


@pytest_twisted.ensureDeferred
async def test_together(adapter: Adapter) -> None:
    """Several batches are stored all at once, and once; rows at fault alone are left out."""
    await adapter.store.probe("messages")
    fences = [Fence(new_lane(), 1), Fence(new_lane(), 1)]
    batches = [batch(b"1", b"2"), batch(b"%s '", peer="p")]
    for _ in range(2):
        assert await adapter.store.write_together(batches, fences)
        assert [body for _, body in adapter.rows()] == [b"1", b"2", b"%s '"]
    for batch_, fence in zip(batches, fences, strict=True):
        written = await adapter.store.resolve(batch_, fence)
        assert written == ([(batch_.count, STORED)], True)
    following = [Fence(fences[0].lane, 3), Fence(fences[1].lane, 2)]
    with pytest.raises(BatchesRefused) as refusal:
        await adapter.store.write_together([batch(b"3"), batch(b"4", b"\xff")], following)
    assert [[row for row, _ in faults] for faults in refusal.value.faults] == [[], [1]]
    adapter.poison()
    batches = [batch(b"3"), batch(b"bad", b"4")]
    both = await adapter.store.write_together(batches, following)
    assert both is not None
    for batch_, fence, now in zip(batches, following, both, strict=True):
        assert await adapter.store.resolve(batch_, fence) == (now.runs, True)
    answers = [[answer.split(" :")[0] for answer in said([*now.runs])] for now in both]
    assert answers == [["+OK"], ["-REJ CONSTRAINT sqlstate=23514", "+OK"]]
    assert [body for _, body in adapter.rows()][3:] == [b"3", b"4"]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("fate", ["stored", "partly", "void"])
@pytest_twisted.ensureDeferred
async def test_together_for_the_first_time(adapter: Adapter, place: int, fate: str) -> None:
    """Where one of several batches has a fate of its own, none of them is stored by this."""
    await adapter.store.probe("messages")
    fences = [Fence(new_lane(), 3, 2), Fence(new_lane(), 3, 2)]
    batches = [batch(b"a1", b"a2"), batch(b"b1", b"b2")]
    lane = fences[place].lane
    if fate == "void":
        assert await adapter.store.resolve(batches[place], fences[place]) is None
    else:
        await adapter.store.write(batch(b"first"), Fence(lane, 3 if fate == "stored" else 2))
    before = adapter.rows()
    assert not await adapter.store.write_together(batches, fences, afresh=True)
    assert adapter.rows() == before
    other = 1 - place
    assert await stored(adapter.store, batches[other], fences[other])
    new = [Fence(new_lane(), 9, 8), Fence(new_lane(), 9, 8)]
    assert await adapter.store.write_together(batches, new, afresh=True)
    assert not await adapter.store.write_together(batches, new, afresh=True)
    assert len(adapter.rows()) == len(before) + 2 + 4


@pytest_twisted.ensureDeferred
async def test_a_commit_of_several_routes_that_was_not_stored_never_is(adapter: Adapter) -> None:
    """Whose first fence is void is void as a whole; the other fences are as they were."""
    await adapter.store.probe("messages")
    fences = [Fence(new_lane(), 1), Fence(new_lane(), 1)]
    batches = [batch(b"late"), batch(b"later")]
    for _ in range(2):
        assert await adapter.store.resolve(batches[0], fences[0]) is None
        with pytest.raises(FenceVoid):
            await adapter.store.write_together(batches, fences)
    assert adapter.rows() == []
    assert await stored(adapter.store, batches[0], Fence(fences[0].lane, 2))
    assert await stored(adapter.store, batches[1], fences[1])
    assert [body for _, body in adapter.rows()] == [b"late", b"later"]


@pytest_twisted.ensureDeferred
async def test_a_trigger_that_stands_before_the_fence(database: Database) -> None:
    """A trigger for the whole statement fires before the fence moves; it refuses nothing stored."""
    with postgres(database) as adapter:
        lane = new_lane()
        assert await stored(adapter.store, batch(b"1"), Fence(lane, 1))
        database.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'no more'; END$$;"
            "CREATE TRIGGER no BEFORE INSERT ON messages FOR EACH STATEMENT EXECUTE FUNCTION no()"
        )
        assert await stored(adapter.store, batch(b"1"), Fence(lane, 1)) is False
        written = await adapter.store.write(batch(b"2"), Fence(lane, 2))
        assert said([*written.runs]) == ["-REJ CONSTRAINT sqlstate=P0001 :no more"]


def dead(*frames: bytes, outcomes: Sequence[Outcome]) -> Batch:
    """A batch of dead letters, and no row to be stored."""
    whole = batch(*frames)
    left = whole.refuse([*enumerate(outcomes)], dead_letter=True)
    assert left is not None and left.count == 0
    return left


OUTCOMES = [refused(Code.DATA, "not UTF-8"), refused(Code.CONSTRAINT, "a rule", "23514")]


@pytest_twisted.ensureDeferred
async def test_dead_letters(adapter: Adapter) -> None:
    """Refused messages are kept byte for byte with the reason, once behind their fence, though
    there is no row to be stored."""
    await adapter.store.probe("messages")
    lane = new_lane()
    letters = dead(b"\xff\0", b"%s ' \\ bad", outcomes=OUTCOMES)
    for before in (False, True):
        written = await adapter.store.write(letters, Fence(lane, 1))
        assert written == ([(0, STORED)], before)
    assert adapter.dead_letters() == [
        (b"\xff\0", "not UTF-8", ""),
        (b"%s ' \\ bad", "a rule", "23514"),
    ]
    assert adapter.rows() == []
    assert await stored(adapter.store, batch(b"1"), Fence(lane, 2))
    await adapter.store.close_lanes([lane])


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_kept_with_their_neighbours(adapter: Adapter) -> None:
    """In the commit of the rows that are stored, and not at all where that does not happen."""
    await adapter.store.probe("messages")
    lane = new_lane()
    frames = (b"\xff\0", b"%s ' \\ bad", b"100 % %% fine")
    for number, resolves in ((1, True), (2, False)):
        left = batch(*frames).refuse([*enumerate(OUTCOMES)], dead_letter=True)
        assert left is not None
        if resolves:
            assert await adapter.store.resolve(left, Fence(lane, number)) is None
            with pytest.raises(FenceVoid):
                await adapter.store.write(left, Fence(lane, number))
            assert adapter.dead_letters() == []
            continue
        for before in (False, True):
            written = await adapter.store.write(left, Fence(lane, number))
            assert written == ([(1, STORED)], before)
    assert [body for _, body in adapter.rows()] == [b"100 % %% fine"]
    assert [frame for frame, _, _ in adapter.dead_letters()] == [*frames[:2]]


@pytest_twisted.ensureDeferred
async def test_dead_letters_beside_a_row_at_fault(adapter: Adapter) -> None:
    """Where the database refuses a row of such a batch, everything else of it is kept once."""
    await adapter.store.probe("messages")
    adapter.poison()
    left = batch(b"\xff", b"1", b"bad", b"2").refuse([(0, OUTCOMES[0])], dead_letter=True)
    assert left is not None
    written = await adapter.store.write(left, Fence(new_lane(), 1))
    assert [word[:4] for word in said([*written.runs])] == ["+OK", "-REJ", "+OK"]
    assert [body for _, body in adapter.rows()] == [b"1", b"2"]
    assert [frame for frame, _, _ in adapter.dead_letters()] == [b"\xff"]


@pytest_twisted.ensureDeferred
async def test_dead_letters_of_several_routes(adapter: Adapter) -> None:
    """A commit of several batches keeps the dead letters of each, rows to be stored or not."""
    await adapter.store.probe("messages")
    await adapter.store.write(batch(b"0"), Fence(new_lane(), 1))
    fences = [Fence(new_lane(), 1), Fence(new_lane(), 1)]
    mixed = batch(b"\xff", b"1").refuse([(0, OUTCOMES[0])], dead_letter=True)
    assert mixed is not None
    batches = [mixed, dead(b"x", outcomes=OUTCOMES[1:])]
    for _ in range(2):
        assert await adapter.store.write_together(batches, fences)
    assert [body for _, body in adapter.rows()] == [b"0", b"1"]
    assert [frame for frame, _, _ in adapter.dead_letters()] == [b"\xff", b"x"]
    assert await adapter.store.resolve(batches[1], fences[1]) == ([(0, STORED)], True)


@pytest_twisted.ensureDeferred
async def test_a_batch_without_a_row_needs_no_route(adapter: Adapter) -> None:
    """What only uses its numbers up, or is only kept, is stored though its route is unknown."""
    await adapter.store.probe("messages")
    letters = Batch("gone", [], dead(b"x", outcomes=OUTCOMES[:1]).refusals)
    assert await adapter.store.write(letters, Fence(new_lane(), 1)) == ([(0, STORED)], False)
    assert [frame for frame, _, _ in adapter.dead_letters()] == [b"x"]


@pytest_twisted.ensureDeferred
async def test_lanes_of_gateways_long_gone(database: Database) -> None:
    """Rows that have not moved for 90 days are removed, others are not."""
    with postgres(database) as adapter:
        old, new = new_lane(), new_lane()
        await adapter.store.write(batch(b"1"), Fence(old, 1))
        await adapter.store.write(batch(b"2"), Fence(new, 1))
        database.execute(
            "UPDATE gateway.lane SET moved_at = now() - interval '91 days' WHERE id = %s", old
        )
        await adapter.postgres.close_abandoned_lanes()
        assert database.column("SELECT id::text FROM gateway.lane") == [new]


@pytest_twisted.ensureDeferred
async def test_a_statement_that_comes_late_finds_its_lane(database: Database) -> None:
    """A server that stood still goes on with a batch that was stored by another try since."""
    with postgres(database, pool_max=1, statement_timeout=0.5) as adapter:
        lane = new_lane()
        assert await stored(adapter.store, batch(b"1"), Fence(lane, 1))
        async with adapter.pool.checkout() as connection:
            (pid,) = (await connection.query("SELECT pg_backend_pid()", None, 5.0))[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown):
                await adapter.store.write(batch(b"2"), Fence(lane, 2))
            assert await stored(adapter.store, batch(b"2"), Fence(lane, 2))
            await adapter.store.close_lanes([lane])
        finally:
            os.kill(pid, signal.SIGCONT)
        gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        while database.column(gone, pid) != [0]:
            await deferLater(reactor, 0.02)
        assert [body for _, body in adapter.rows()] == [b"1", b"2"]


@pytest_twisted.ensureDeferred
async def test_what_a_commit_is_worth(database: Database) -> None:
    """Settings that make +OK mean less are named; the defaults of a single server are fine."""
    with postgres(database) as adapter:
        assert await adapter.postgres.durability() == []
    name = database.column("SELECT current_database()")[0]
    database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    with postgres(database) as adapter:
        (line,) = await adapter.postgres.durability()
        assert line.startswith("synchronous_commit = off: a crash of the server loses")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("on", True, True, False, 0), []),
        (("on", True, True, True, 1), []),
        (("remote_apply", True, True, True, 0), []),
        (("on", False, True, False, 0), ["fsync"]),
        (("on", True, False, False, 0), ["full_page_writes"]),
        (("off", True, True, True, 1), ["synchronous_commit = off"]),
        (("local", True, True, True, 0), ["synchronous_commit = local"]),
        (("local", True, True, False, 0), []),
        (("on", True, True, False, 2), ["the standby is asynchronous"]),
        (("off", False, True, False, 0), ["fsync", "synchronous_commit = off"]),
    ],
)
def test_weaknesses(settings: tuple[str, bool, bool, bool, int], says: list[str]) -> None:
    """One line for each way to lose what was answered +OK, none where there is none."""
    found = weaknesses_of(*settings)
    assert [line.startswith(start) for line, start in zip(found, says, strict=True)] == [
        True for _ in says
    ]


@pytest_twisted.ensureDeferred
async def test_a_warning_is_not_taken_for_a_commit_on_the_standby(database: Database) -> None:
    """Anything the server says beside its answer makes us confirm the commit by another one."""
    with postgres(database) as adapter:
        await adapter.store.write(batch(b"1"), Fence(new_lane(), 1))
        database.execute(
            "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE WARNING 'hm'; RETURN NEW; END$$;"
            "CREATE TRIGGER warn BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION warn()"
        )
        lane = new_lane()
        xmin = "SELECT xmin::text FROM %s"
        assert await stored(adapter.store, batch(b"2"), Fence(lane, 1))
        moved = database.column(xmin % "gateway.lane" + " WHERE id = %s", lane)
        inserted = database.column(xmin % "messages" + " WHERE body = '2'")
        assert moved != inserted, "the lane was moved by the batch, then touched by another"


@pytest_twisted.ensureDeferred
async def test_a_session_that_forgets_its_statements(database: Database) -> None:
    """Prepared statements gone, as behind a pooler in transaction mode: plain text from then on."""
    with postgres(database, pool_max=1) as adapter:
        lane = new_lane()
        await adapter.store.write(batch(b"prepared"), Fence(lane, 1))
        async with adapter.pool.checkout() as connection:
            await connection.query("DEALLOCATE ALL", None, 5.0)
        await adapter.store.write(batch(b"plain"), Fence(lane, 2))
        assert not adapter.pool.sharing.prepares
        assert [body for _, body in adapter.rows()] == [b"prepared", b"plain"]


@pytest_twisted.ensureDeferred
async def test_a_session_shared_with_another_gateway(database: Database) -> None:
    """Statements another gateway prepared in the same session are never taken for ours."""
    database.execute("CREATE TABLE a (id serial, t text); CREATE TABLE b (id serial, t text)")
    one = Route("r", "a", sources(t="@frame"))
    two = Route("r", "b", sources(t="@frame"))
    with postgres(database, one) as first, postgres(database, two) as second:
        lane = new_lane()
        await first.store.write(batch(b"1", route="r"), Fence(lane, 1))
        await second.store.write(batch(b"2", route="r"), Fence(lane, 2))
        names = [
            {name for connection in adapter.pool.connections for name in connection.prepared}
            for adapter in (first, second)
        ]
        assert len(names[0]) == 1 and not names[0] & names[1]
    assert database.column("SELECT t FROM a") == ["1"]
    assert database.column("SELECT t FROM b") == ["2"]


@pytest_twisted.ensureDeferred
async def test_a_route_heals(database: Database) -> None:
    """A missing table or column is the operator's to mend; then it works without a restart."""
    route = Route("r", "messages", sources(body="@frame", peer="@peer"))
    with postgres(database, route) as adapter:
        lane = new_lane()
        with pytest.raises(RouteError, match="does not exist"):
            await adapter.store.write(batch(b"x", route="r"), Fence(lane, 1))
        database.execute("CREATE TABLE messages (id serial, body text)")
        with pytest.raises(RouteError, match="column 'peer' does not exist"):
            await adapter.store.write(batch(b"x", route="r"), Fence(lane, 1))
        database.execute("ALTER TABLE messages ADD peer text")
        await adapter.store.write(batch(b"x", route="r"), Fence(lane, 1))
        database.execute("ALTER TABLE messages RENAME TO old")
        with pytest.raises(RouteError):
            await adapter.store.write(batch(b"y", route="r"), Fence(lane, 2))
        database.execute("CREATE TABLE public.messages (id serial, peer text, body text)")
        await adapter.store.write(batch(b"y", route="r"), Fence(lane, 2))
        # What changed between two batches costs nobody anything.
        database.execute("DROP SCHEMA gateway CASCADE")
        await adapter.store.write(batch(b"z", route="r"), Fence(lane, 3))
        database.execute("DROP TABLE messages")
        database.execute("CREATE TABLE public.messages (id serial, peer text, body bytea)")
        await adapter.store.write(batch(b"plain", b"text", route="r"), Fence(lane, 4))
        await adapter.store.write(batch(b"\xff", route="r"), Fence(lane, 5))
        bodies = database.column("SELECT body FROM messages ORDER BY id")
        assert [bytes(body) for body in bodies] == [b"plain", b"text", b"\xff"]


@pytest_twisted.ensureDeferred
async def test_a_route_that_is_no_longer_configured(database: Database) -> None:
    """Messages in the spool may be older than the configuration: their route is out of service."""
    with postgres(database) as adapter:
        gone = Chunk("gone", [b"1"], Origin("p", "l"), 0.0, lambda chunk, runs: None)
        with pytest.raises(RouteError, match="not in the configuration"):
            await adapter.store.write(Batch.of([gone]), Fence(new_lane(), 1))
        with pytest.raises(RouteError, match="not in the configuration"):
            await adapter.store.probe("gone")


@pytest_twisted.ensureDeferred
async def test_a_lost_lane_goes_on(database: Database) -> None:
    """A restored database lacks our lanes, or has them behind: neither loses a batch."""
    with postgres(database) as adapter:
        lane = new_lane()
        for number in (1, 2, 3):
            await adapter.store.write(batch(b"%d" % number), Fence(lane, number))
        database.execute("UPDATE gateway.lane SET number = 1")
        assert await stored(adapter.store, batch(b"4"), Fence(lane, 4))
        database.execute("DELETE FROM gateway.lane")
        assert await stored(adapter.store, batch(b"5"), Fence(lane, 5))
        assert await stored(adapter.store, batch(b"5"), Fence(lane, 5)) is False
        await adapter.postgres.close_lanes([lane])
        assert database.execute("SELECT * FROM gateway.lane") == []


@pytest_twisted.ensureDeferred
async def test_statement_timeout_costs_no_connection(database: Database) -> None:
    """A statement that takes too long is given up by the server, and may be retried; what waits
    for a lock is told so."""
    with postgres(database, statement_timeout=0.2) as adapter:
        await adapter.store.write(batch(b"first"), Fence(new_lane(), 1))
        locker = psycopg2.connect(database.dsn)
        locker.cursor().execute("LOCK TABLE messages")
        lane = new_lane()
        with pytest.raises(TransientError) as caught:
            await adapter.store.write(batch(b"second"), Fence(lane, 1))
        assert caught.value.sqlstate == "55P03"
        locker.close()
        assert await stored(adapter.store, batch(b"second"), Fence(lane, 1))
        assert adapter.pool.lost == 0


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_server_that_takes_too_long(database: Database) -> None:
    """After answer_timeout the fate of a batch is open; its connection is given back when its
    answer comes, and is used again."""
    with postgres(database, pool_max=1, answer_timeout=0.3) as adapter:
        lane = new_lane()
        assert await stored(adapter.store, batch(b"first"), Fence(lane, 1))
        database.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM pg_sleep(1.2); RETURN NEW; END$$;"
            "CREATE TRIGGER slow BEFORE INSERT ON messages FOR EACH ROW"
            " WHEN (NEW.body = 'slow') EXECUTE FUNCTION slow()"
        )
        began = reactor.seconds()
        with pytest.raises(OutcomeUnknown, match=r"no answer from the server within 0\.3"):
            await adapter.store.write(batch(b"slow"), Fence(lane, 2))
        assert 0.25 < reactor.seconds() - began < 1
        assert (adapter.pool.size, adapter.pool.figures.in_use) == (1, 1), "it is still at it"
        # Whoever asks next has that connection when its answer has come.
        written = await adapter.store.resolve(batch(b"slow"), Fence(lane, 2))
        assert written == ([(1, STORED)], True)
        assert reactor.seconds() - began > 1.1
        assert await stored(adapter.store, batch(b"next"), Fence(lane, 3))
        figures = adapter.pool.figures
        assert (figures.size, figures.in_use, figures.opened, figures.lost) == (1, 0, 1, 0)
        assert [body for _, body in adapter.rows()] == [b"first", b"slow", b"next"]


@pytest_twisted.ensureDeferred
async def test_a_connection_left_alone_is_used_again(database: Database) -> None:
    """Whoever runs a statement hears within its patience; how ever it ends then, with an answer, an
    error, its deadline or its connection, the pool is as large as it was."""
    with postgres(database, pool_max=1) as adapter:
        answered = ("SELECT pg_sleep(0.6)", "SELECT 1 / (count(*) - 1) FROM pg_sleep(0.6)")
        for sql in (
            *answered,
            "SELECT pg_sleep(0.6), pg_terminate_backend(pg_backend_pid())",
            "SELECT pg_sleep(60)",
        ):
            began = reactor.seconds()
            with pytest.raises(OutcomeUnknown):
                async with adapter.pool.checkout() as connection:
                    await connection.query(sql, None, 1.0, 0.2)
            assert reactor.seconds() - began < 0.5
            async with adapter.pool.checkout() as again:
                assert await again.query("SELECT 1", None, 5.0, 1.0) == [(1,)]
                # An error is an answer too.
                assert (again is connection) is (adapter.pool.lost == 0)
            assert (adapter.pool.lost == 0) is (sql in answered)
            figures = adapter.pool.figures
            assert (figures.size, figures.in_use, figures.waiting) == (1, 0, 0)


@pytest_twisted.ensureDeferred
async def test_patience_ends_with_the_answer(database: Database) -> None:
    """A statement that is answered in time leaves no limit behind for those after it."""
    with postgres(database, pool_max=1) as adapter:
        async with adapter.pool.checkout() as connection:
            for _ in range(3):
                assert await connection.query("SELECT 1", None, 5.0, 0.1) == [(1,)]
            assert await connection.query("SELECT 2 FROM pg_sleep(0.3)", None, 5.0) == [(2,)]
            # A patience longer than the deadline is none.
            assert await connection.query("SELECT 3", None, 1.0, 9.0) == [(3,)]
            assert not connection.left_alone


@pytest.mark.parametrize(
    ("severity", "error"), [("ERROR", TransientError), ("PANIC", OutcomeUnknown)]
)
def test_an_error_that_ends_the_server_may_follow_a_commit(
    severity: str, error: type[StoreError]
) -> None:
    """A disk that fails while a commit is flushed is a PANIC, and the commit may survive it."""

    class Diagnostics:
        severity_nonlocalized = severity
        message_primary = "could not fsync file"

    class Failed(psycopg2.OperationalError):
        pgcode = "58030"
        diag: Any = Diagnostics()

    connection = Connection(reactor)
    with patch.object(Connection, "usable", True):
        assert isinstance(connection._translated(Failed()), error)


@pytest_twisted.ensureDeferred
async def test_no_server(database: Database) -> None:
    """Nobody answers: known not to be stored, within acquire_timeout, and why."""
    gone = Database("host=/nonexistent")
    with (
        postgres(gone, acquire_timeout=0.3) as adapter,
        pytest.raises(Unavailable, match=r"no connection within 0\.3 s: .*No such file"),
    ):
        await adapter.store.write(batch(b"x"), Fence(new_lane(), 1))


@pytest_twisted.ensureDeferred
async def test_schema_is_made_once_by_many(database: Database) -> None:
    """Gateways that start together take turns; all find the schema and the table."""
    adapters = [PostgresAdapter(database) for _ in range(4)]
    try:
        waiting = [Deferred.fromCoroutine(a.postgres.open_all()) for a in adapters]
        for each in waiting:
            await each
        numbers = "SELECT number FROM gateway.migration ORDER BY number"
        assert database.column(numbers) == [number for number, *_ in migrations()]
    finally:
        for adapter in adapters:
            adapter.pool.close()


@pytest_twisted.ensureDeferred
async def test_tables_are_not_made_in_our_schema(database: Database) -> None:
    """A role called gateway finds our schema first; the user's table is made in public."""
    with postgres(database) as adapter:
        await adapter.store.write(batch(b"x"), Fence(new_lane(), 1))
    assert database.column("SELECT current_user::text") == ["gateway"]
    place = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'messages'"
    assert database.column(place) == ["public"]


def test_much_work_is_done_in_turns() -> None:
    """Binding a batch stops for the reactor once it has taken its time, and goes on later."""
    clock = CountingClock()
    took: list[float] = []
    bound: Bound = (Statement((), "", "", ""), [])

    def binding() -> Binding:
        for _ in range(10):
            clock.rightNow += AT_A_TIME * 0.6
            yield
        return bound

    done = Deferred.fromCoroutine(in_turns(binding(), clock, took.append))
    assert not done.called and len(clock.getDelayedCalls()) == 1
    clock.pump([0] * 10)
    assert done.called and clock.turns == 5
    assert took == pytest.approx([AT_A_TIME * 0.6] * 10), "how long each chunk took is told"
    # What is quick has no need of a turn.
    assert Deferred.fromCoroutine(in_turns(iter_once(bound), clock, took.append)).called


class CountingClock(Clock):
    turns = 0

    def callLater(self, *arguments: Any, **keywords: Any) -> Any:
        self.turns += 1
        return super().callLater(*arguments, **keywords)


def iter_once(bound: Bound) -> Binding:
    yield
    return bound
