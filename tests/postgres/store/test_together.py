"""
Commits of several routes against a real PostgreSQL: what they store, and in which order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import OrderMatters, RouteError
from gateway.model.outcome import STORED
from gateway.model.route import Conflict, Reading, Route, Value
from gateway.model.stream import Stream
from gateway.postgres.schema.findings import Relation
from gateway.postgres.store.route_cache import Definition
from gateway.postgres.store.several import order_matters
from tests.in_memory import said
from tests.postgres.store.test_store import PostgresAdapter, new_lane, postgres
from tests.support import Database

TABLES = """
    CREATE TABLE plain (id serial, k text NOT NULL, v int CHECK (v < 100));
    CREATE TABLE keyed (k text PRIMARY KEY, v int CHECK (v < 100));
    CREATE TABLE other (k text PRIMARY KEY, v int CHECK (v < 100));
    CREATE TABLE log (id serial, k text, v int, seen bigint)
"""

OWN = (
    "INSERT INTO log (k, v, seen) SELECT %(k)s, %(v)s, (SELECT count(*) FROM keyed) + 1 / (100"
    " - %(v)s)"
)


def route(
    name: str,
    table: str,
    conflict: Conflict = "error",
    returning: tuple[str, ...] = (),
    sql: str = "",
) -> Route:
    return Route(
        name,
        table,
        {"k": Value("k"), "v": Value("v")},
        reading=Reading("json"),
        conflict=conflict,
        key=() if conflict == "error" else ("k",),
        returning=returning,
        sql=sql,
    )


ROUTES = {
    made.name: made
    for made in (
        route("plain", "plain"),
        route("told", "plain", returning=("id", "k")),
        route("strict", "keyed"),
        route("ignore", "keyed", "ignore"),
        route("ignore-told", "keyed", "ignore", ("k", "v")),
        route("update", "keyed", "update"),
        route("update-told", "keyed", "update", ("v",)),
        route("elsewhere", "other", "ignore"),
        route("own", "", sql=OWN),
        route("own-told", "", returning=("id", "seen"), sql=OWN + " RETURNING id, seen"),
    )
}

Row = tuple[str, str, int]
"""Route, key and value; 100 and more is refused."""


def chunks_of(rows: Sequence[Row]) -> list[Chunk]:
    """A chunk for each run of messages for one route."""
    chunks: list[Chunk] = []
    for name, k, v in rows:
        frame = json.dumps({"k": k, "v": v}).encode()
        if chunks and chunks[-1].route == name:
            chunks[-1].frames.append(frame)
        else:
            chunks.append(Chunk(name, [frame], Origin("p", "l"), 0.0, lambda chunk, runs: None))
    return chunks


@pytest.fixture
def adapter(database: Database) -> Iterator[PostgresAdapter]:
    database.execute(TABLES)
    with postgres(database, *ROUTES.values(), pool_max=1) as made:
        yield made


def held(database: Database) -> list[Any]:
    return [
        database.execute("SELECT k, v FROM plain ORDER BY id"),
        database.execute("SELECT k, v FROM keyed ORDER BY k"),
        database.execute("SELECT k, v FROM other ORDER BY k"),
        database.execute("SELECT k, v, seen FROM log ORDER BY id"),
    ]


def empty(database: Database) -> None:
    database.execute("TRUNCATE plain, keyed, other, log RESTART IDENTITY")


async def together(adapter: PostgresAdapter, rows: Sequence[Row]) -> list[str]:
    """Store rows in one commit, and return their answers in order of arrival."""
    chunks = chunks_of(rows)
    batches = Batch.by_route(chunks)
    fences = [Fence(new_lane(), 1) for _ in batches]
    written = await adapter.store.write_together(batches, fences, chunks)
    assert written is not None
    answers = {
        batch.route: iter(said([*each.runs])) for batch, each in zip(batches, written, strict=True)
    }
    for batch, fence, each in zip(batches, fences, written, strict=True):
        # As they are told after a lost reply.
        assert await adapter.store.resolve(batch, fence) == (each.runs, True)
    return [next(answers[name]) for name, _, _ in rows]


async def one_by_one(adapter: PostgresAdapter, rows: Sequence[Row]) -> list[str]:
    answers = []
    for row in rows:
        (chunk,) = chunks_of([row])
        written = await adapter.store.write(Batch.of([chunk]), Fence(new_lane(), 1))
        answers += said([*written.runs])
    return answers


ROWS = st.lists(
    st.tuples(st.sampled_from([*ROUTES]), st.sampled_from("abcd"), st.sampled_from([1, 2, 3, 100])),
    min_size=2,
    max_size=40,
)

SEEDS: list[list[Row]] = [
    [("update", "a", 1), ("own", "x", 1), ("update", "b", 2), ("own", "y", 1)],
    [("strict", "c", 1), ("ignore", "a", 1), ("strict", "a", 2), ("ignore", "c", 3)],
    [("update", "a", n) for n in range(40)] + [("elsewhere", "a", 1)] * 3,
    [(("plain", "elsewhere")[n % 2], str(n), n) for n in range(102)],
]


async def same(adapter: PostgresAdapter, rows: Sequence[Row]) -> None:
    found = []
    for way in (together, one_by_one):
        empty(adapter.database)
        answers = await way(adapter, rows)
        # A refused row may have used a number of the sequence up.
        found.append(
            ([re.sub(r" id=\d+", "", answer) for answer in answers], held(adapter.database))
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("rows", SEEDS, ids=["own", "strict", "update", "apart"])
@pytest_twisted.ensureDeferred
async def test_as_one_by_one(adapter: PostgresAdapter, rows: list[Row]) -> None:
    """What is stored and answered is what it is where each message has a commit of its own."""
    await adapter.postgres.open_all()
    await same(adapter, rows)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(ROWS)
@pytest_twisted.ensureDeferred
async def test_any_as_one_by_one(adapter: PostgresAdapter, rows: list[Row]) -> None:
    """As above, for any routes, keys and refusals."""
    await adapter.postgres.open_all()
    if len({name for name, _, _ in rows}) > 1:
        await same(adapter, rows)


@pytest_twisted.ensureDeferred
async def test_a_child_behind_its_parent(adapter: PostgresAdapter) -> None:
    """What refers to a row of another route that came before it is stored, though others are
    refused, and their routes came first."""
    adapter.database.execute("ALTER TABLE plain ADD FOREIGN KEY (k) REFERENCES keyed")
    rows = [("plain", "none", 1), ("strict", "a", 1), ("plain", "a", 1), ("plain", "b", 1)]
    rows += [("strict", "b", 100)]
    answers = await together(adapter, rows)
    assert [answer[:4] for answer in answers] == ["-REJ", "+OK", "+OK", "-REJ", "-REJ"]
    assert held(adapter.database)[:2] == [[("a", 1)], [("a", 1)]]


@pytest_twisted.ensureDeferred
async def test_rows_or_their_route(adapter: PostgresAdapter) -> None:
    """Where all rows of a route fail for a reason that names none, a row that was stored before
    decides: they are refused, or nothing is stored and the caller goes on one by one."""
    database = adapter.database
    rows = [("plain", "a", 1), ("elsewhere", "a", 7), ("plain", "b", 2)]
    await adapter.postgres.open_all()
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.v = 7 THEN"
        " RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END IF; RETURN NEW; END$$;"
        "CREATE TRIGGER no BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION no()"
    )
    with pytest.raises(RouteError):
        await together(adapter, rows)
    assert held(database)[0] == []
    await one_by_one(adapter, [("plain", "c", 1), ("elsewhere", "c", 1)])
    answers = await together(adapter, rows)
    assert [answer.split(" :")[0] for answer in answers] == [
        "+OK",
        "-REJ DATA sqlstate=42501",
        "+OK",
    ]


@pytest_twisted.ensureDeferred
async def test_refused_numbers_of_streams(adapter: PostgresAdapter) -> None:
    """A stream moves over all its routes; what was refused of it is remembered."""
    await adapter.postgres.open_all()
    claim = await adapter.store.claim_stream("s", None, {})
    stream = Stream("s", claim.epoch, claim.claim)
    chunks = []
    for number, (name, k, v) in enumerate(
        [("plain", "a", 1), ("own", "b", 100), ("own", "c", 1)], 1
    ):
        frame = json.dumps({"k": k, "v": v}).encode()
        stream.take_all(number, 1)
        chunks.append(
            Chunk(name, [frame], Origin("p", "l"), 0.0, lambda c, r: None, None, stream, number)
        )
    batches = Batch.by_route(chunks)
    written = await adapter.store.write_together(
        batches, [Fence(new_lane(), 1) for _ in batches], chunks
    )
    assert written is not None and written[0].runs == [(1, STORED)]
    claim = await adapter.store.claim_stream("s", None, {})
    assert claim.mark == 3 and [*claim.refusals] == [2]


def definition(name: str, oid: int = 1, simple: bool = True) -> Definition:
    made = Definition(ROUTES[name])
    made.relation = None if ROUTES[name].sql else Relation(oid, simple)
    return made


def test_where_order_matters() -> None:
    """Only rows that are just added, or have their table to themselves, go route by route."""
    plain, ignore, own = definition("plain"), definition("ignore", 2), definition("own")
    assert not order_matters([own])
    assert not order_matters([plain, plain])
    assert not order_matters([plain, ignore])
    assert order_matters([plain, definition("ignore", 1)])
    assert order_matters([ignore, definition("plain", 2)])
    assert order_matters([plain, own])
    assert order_matters([plain, definition("ignore", 2, simple=False)])
    assert order_matters([definition("plain", simple=False), ignore])
    assert order_matters([definition("told"), plain])


@pytest_twisted.ensureDeferred
async def test_a_unit_in_order(adapter: PostgresAdapter) -> None:
    """What is stored as a whole, or not at all, is stored in order of arrival where that can be
    seen; rows at fault are only looked for in batches that have that order."""
    rows = [(("update", "own", "ignore", "plain")[n % 4], str(n % 5), n) for n in range(40)]
    await one_by_one(adapter, rows)
    expected = held(adapter.database)
    empty(adapter.database)
    chunks = chunks_of(rows)
    batches = Batch.by_route(chunks)
    await adapter.store.write_whole(batches, [Fence(new_lane(), 1) for _ in batches], chunks)
    assert held(adapter.database) == expected
    # Two batches of one route, those of the later chunks first, as units with a key may be.
    first, second = chunks_of([("update", "x", 1)]), chunks_of([("update", "x", 2)])
    batches = [Batch.of(second), Batch.of(first)]
    fences = [Fence(new_lane(), 1) for _ in batches]
    await adapter.store.write_whole(batches, fences, [*first, *second])
    assert adapter.database.column("SELECT v FROM keyed WHERE k = 'x'") == [2]
    bad = chunks_of([("update", "y", 1), ("ignore", "y", 2), ("update", "z", 100)])
    batches = Batch.by_route(bad)
    with pytest.raises(OrderMatters):
        await adapter.store.write_whole(batches, [Fence(new_lane(), 1) for _ in batches], bad)
    assert adapter.database.column("SELECT v FROM keyed WHERE k = 'y'") == []
