"""
Whole commits: several batches in one transaction, every row of them or none, in both stores.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest
import pytest_twisted

from gateway.model.batch import Batch, Fence
from gateway.model.errors import (
    BatchesRefused,
    BatchesStored,
    RouteError,
    TransientError,
)
from gateway.model.outcome import Code, refused
from gateway.model.route import Reading, Route, Value
from gateway.model.unit import is_unit_key, unit_key
from tests.postgres.store.test_store import (
    MESSAGES,
    Adapter,
    MemoryAdapter,
    batch,
    new_lane,
    postgres,
    sources,
)
from tests.support import Database

BAD = refused(Code.DATA, "bad")


@pytest.fixture(params=["memory", "postgres"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Each store in turn."""
    if request.param == "memory":
        yield MemoryAdapter()
        return
    with postgres(request.getfixturevalue("database"), MESSAGES) as adapter:
        yield adapter


def bodies(adapter: Adapter) -> list[bytes]:
    return [body for _, body in adapter.rows()]


def refusing(batch: Batch, *rows: int) -> Batch:
    """A batch of which some rows are refused, and kept as dead letters."""
    left = batch.refuse([(row, BAD) for row in rows], dead_letter=True)
    assert left is not None
    return left


def positions(error: BatchesRefused) -> list[list[int]]:
    return [[row for row, _ in faults] for faults in error.faults]


@pytest_twisted.ensureDeferred
async def test_all_at_once(adapter: Adapter) -> None:
    """All rows and dead letters are stored by one call, in the order of the batches."""
    await adapter.store.probe("messages")
    first = batch(b"1", b"2", b"3")
    await adapter.store.write_whole(
        [refusing(first, 1), batch(b"4"), refusing(batch(b"5"), 0)],
        [Fence(new_lane(), 1), Fence(new_lane(), 1), Fence(new_lane(), 1)],
    )
    assert bodies(adapter) == [b"1", b"3", b"4"]
    assert [frame for frame, _, _ in adapter.dead_letters()] == [b"2", b"5"]


@pytest_twisted.ensureDeferred
async def test_several_batches_of_one_lane(adapter: Adapter) -> None:
    """Batches may be behind consecutive numbers of one lane."""
    lane = new_lane()
    await adapter.store.write_whole([batch(b"1"), batch(b"2")], [Fence(lane, 1), Fence(lane, 2)])
    assert bodies(adapter) == [b"1", b"2"]
    with pytest.raises(BatchesStored) as stored:
        await adapter.store.write_whole(
            [batch(b"1"), batch(b"2"), batch(b"3")],
            [Fence(lane, 1), Fence(lane, 2), Fence(lane, 3)],
        )
    assert stored.value.places == [0, 1, 2]
    await adapter.store.write_whole([batch(b"3")], [Fence(lane, 3)])
    assert bodies(adapter) == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_a_fence_that_moved(adapter: Adapter) -> None:
    """Behind a fence that has moved nothing is stored, whatever the batch holds now."""
    fences = [Fence(new_lane(), 1), Fence(new_lane(), 1)]
    await adapter.store.write_whole([batch(b"1")], fences[:1])
    with pytest.raises(BatchesStored) as stored:
        await adapter.store.write_whole([batch(b"other"), batch(b"2")], fences)
    assert stored.value.places == [0]
    assert bodies(adapter) == [b"1"]


@pytest_twisted.ensureDeferred
async def test_a_unit_that_was_cut_in_another_way(adapter: Adapter) -> None:
    """Batches on a lane of a unit are known together, however the unit is cut into batches."""
    await adapter.store.probe("messages")
    for lane, cut, other in (
        (unit_key(b"1"), [batch(b"1"), batch(b"2")], [batch(b"1", b"2")]),
        (unit_key(b"2"), [batch(b"3", b"4")], [batch(b"3"), batch(b"4")]),
    ):
        await adapter.store.write_whole(cut, [Fence(lane, 1), Fence(lane, 2)][: len(cut)])
        fences = [Fence(lane, 1), Fence(lane, 2)][: len(other)]
        with pytest.raises(BatchesStored) as stored:
            await adapter.store.write_whole(
                [batch(b"new"), *other], [Fence(new_lane(), 1), *fences]
            )
        assert stored.value.places == [*range(1, 1 + len(other))]
    assert bodies(adapter) == [b"1", b"2", b"3", b"4"]


@pytest_twisted.ensureDeferred
async def test_rows_at_fault(adapter: Adapter) -> None:
    """Rows that the database refuses are told, of all batches, and nothing is stored."""
    await adapter.store.probe("messages")
    adapter.poison()
    batches = [batch(b"1", b"bad 2", b"3"), batch(b"4"), batch(b"bad 5", b"6")]
    fences = [Fence(new_lane(), 1) for _ in batches]
    for _ in range(2):
        with pytest.raises(BatchesRefused) as refusal:
            await adapter.store.write_whole(batches, fences)
        assert refusal.value.by_database
        assert positions(refusal.value) == [[1], [], [0]]
        assert {o.sqlstate for faults in refusal.value.faults for _, o in faults} == {"23514"}
    assert not adapter.rows()
    await adapter.store.write_whole(
        [refusing(batches[0], 1), batches[1], refusing(batches[2], 0)], fences
    )
    assert bodies(adapter) == [b"1", b"3", b"4", b"6"]
    assert [frame for frame, _, _ in adapter.dead_letters()] == [b"bad 2", b"bad 5"]


@pytest_twisted.ensureDeferred
async def test_messages_that_do_not_fit(adapter: Adapter) -> None:
    """What is no text is told before anything is sent to the database."""
    await adapter.store.probe("messages")
    fences = [Fence(new_lane(), 1), Fence(new_lane(), 1)]
    with pytest.raises(BatchesRefused) as refusal:
        await adapter.store.write_whole([batch(b"1"), batch(b"2", b"\xff")], fences)
    assert not refusal.value.by_database
    assert positions(refusal.value) == [[], [1]]
    assert not adapter.rows()


ONES = Route("ones", "ones", sources(n="n"), reading=Reading("json"), dead_letter=True)
TWOS = Route("twos", "twos", sources(n="n"), reading=Reading("json"))


def json_batch(route: str, *values: object) -> Batch:
    return batch(*[b'{"n": %s}' % str(value).encode() for value in values], route=route)


@pytest_twisted.ensureDeferred
async def test_one_transaction_over_routes(database: Database) -> None:
    """Rows of two tables have one transaction, and rows at fault of either undo both."""
    database.execute("CREATE TABLE ones (n integer CHECK (n < 9)); CREATE TABLE twos (n integer)")
    with postgres(database, ONES, TWOS) as adapter:
        await adapter.store.write_whole(
            [json_batch("ones", 1), json_batch("twos", 2)],
            [Fence(new_lane(), 1), Fence(new_lane(), 1)],
        )
        ((one, two),) = database.execute("SELECT o.xmin::text, t.xmin::text FROM ones o, twos t")
        assert one == two
        fences = [Fence(new_lane(), 1), Fence(new_lane(), 1)]
        with pytest.raises(BatchesRefused) as refusal:
            await adapter.store.write_whole(
                [json_batch("ones", 3, 9), json_batch("twos", 4)], fences
            )
        assert positions(refusal.value) == [[1], []]
        assert database.execute(
            "SELECT count(*) FROM ones UNION ALL SELECT count(*) FROM twos"
        ) == [
            (1,),
            (1,),
        ]


@pytest_twisted.ensureDeferred
async def test_every_kind_of_route(database: Database) -> None:
    """Routes that ignore, update, return values or have SQL of their own are stored whole too."""
    database.execute(
        "CREATE TABLE t (n integer PRIMARY KEY, id bigint GENERATED ALWAYS AS IDENTITY);"
        "CREATE TABLE u (n integer PRIMARY KEY, v integer); CREATE TABLE s (n integer)"
    )
    json = Reading("json")
    routes = [
        Route("i", "t", sources(n="n"), conflict="ignore", key=("n",), reading=json),
        Route("r", "t", sources(n="n"), returning=("id",), reading=json),
        Route("u", "u", sources(n="n", v="v"), conflict="update", key=("n",), reading=json),
        Route(
            *("s", "", {"n": Value("n")}),
            reading=json,
            sql="INSERT INTO s VALUES (10 * %(n)s)",
        ),
    ]
    with postgres(database, *routes) as adapter:
        for _ in range(2):
            batches = [
                json_batch("i", 1, 1),
                batch(b'{"n": 1, "v": 1}', b'{"n": 1, "v": 2}', route="u"),
                json_batch("s", 1),
            ]
            await adapter.store.write_whole(batches, [Fence(new_lane(), 1) for _ in batches])
        await adapter.store.write_whole([json_batch("r", 7, 8)], [Fence(new_lane(), 1)])
        assert database.execute("SELECT n FROM t ORDER BY n") == [(1,), (7,), (8,)]
        assert database.execute("SELECT n, v FROM u") == [(1, 2)]
        assert database.execute("SELECT n FROM s") == [(10,), (10,)]


@pytest_twisted.ensureDeferred
async def test_a_route_that_is_out_of_service(database: Database) -> None:
    """Where every row of a batch fails, the error says so and names the route."""
    database.execute("CREATE TABLE ones (n integer); CREATE TABLE twos (n integer)")
    with postgres(database, ONES, TWOS) as adapter:
        batches = [json_batch("ones", 1), json_batch("twos", 2)]
        await adapter.store.write_whole(batches, [Fence(new_lane(), 1), Fence(new_lane(), 1)])
        database.execute("DROP TABLE twos")
        with pytest.raises(RouteError) as error:
            await adapter.store.write_whole(batches, [Fence(new_lane(), 1), Fence(new_lane(), 1)])
        assert error.value.route == "twos"
        assert database.execute("SELECT count(*) FROM ones") == [(1,)]
        assert not database.execute("SELECT FROM pg_stat_activity WHERE state ~ 'in transaction'")


@pytest_twisted.ensureDeferred
async def test_all_rows_at_fault(database: Database) -> None:
    """Where all rows fail for an odd reason and one that was stored would pass, they are it."""
    database.execute(
        "CREATE TABLE ones (n integer);"
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n > 5 THEN"
        " RAISE EXCEPTION 'odd' USING ERRCODE = '42P01'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER odd BEFORE INSERT ON ones FOR EACH ROW EXECUTE FUNCTION odd()"
    )
    with postgres(database, ONES) as adapter:
        with pytest.raises(RouteError):
            await adapter.store.write_whole([json_batch("ones", 6, 7)], [Fence(new_lane(), 1)])
        await adapter.store.write_whole([json_batch("ones", 1)], [Fence(new_lane(), 1)])
        with pytest.raises(BatchesRefused) as refusal:
            await adapter.store.write_whole([json_batch("ones", 6, 7)], [Fence(new_lane(), 1)])
        assert positions(refusal.value) == [[0, 1]]


@pytest_twisted.ensureDeferred
async def test_a_slow_row(database: Database) -> None:
    """A row that takes longer than a statement may is at fault, alone."""
    database.execute(
        "CREATE TABLE ones (n integer);"
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n = 3 THEN"
        " PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER slow BEFORE INSERT ON ones FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    with postgres(database, ONES, statement_timeout=0.5) as adapter:
        with pytest.raises(BatchesRefused) as refusal:
            await adapter.store.write_whole(
                [json_batch("ones", 1, 2, 3, 4)], [Fence(new_lane(), 1)], patient=True
            )
        assert positions(refusal.value) == [[2]]
        assert not database.execute("SELECT FROM pg_stat_activity WHERE state ~ 'in transaction'")


@pytest_twisted.ensureDeferred
async def test_units_are_forgotten(database: Database) -> None:
    """Units are forgotten by age, and lanes are not; nor are units closed as lanes are."""
    with postgres(database, MESSAGES) as adapter:
        await adapter.store.probe("messages")
        lane, old, new = new_lane(), unit_key(b"old"), unit_key(b"new")
        assert [is_unit_key(each) for each in (lane, old, new)] == [False, True, True]
        for each in (lane, old, new):
            await adapter.store.write_whole([batch(each.encode())], [Fence(each, 1)])
        database.execute(
            "UPDATE gateway.lane SET moved_at = now() - interval '1 hour' WHERE id <> %s", (new,)
        )
        await adapter.store.close_lanes([old, new])
        assert await adapter.postgres.forget_units(7200.0) == 0
        assert await adapter.postgres.forget_units(1800.0) == 1
        left = database.execute("SELECT id::text FROM gateway.lane ORDER BY moved_at")
        assert left == [(lane,), (new,)]


@pytest_twisted.ensureDeferred
async def test_a_lock_is_nobodys_fault(database: Database) -> None:
    """What another session holds passes; no row is refused for it."""
    database.execute("CREATE TABLE ones (n integer PRIMARY KEY)")
    with postgres(database, ONES, statement_timeout=1.0) as adapter:
        await adapter.store.write_whole([json_batch("ones", 1)], [Fence(new_lane(), 1)])
        other = psycopg2.connect(database.dsn)
        other.cursor().execute("INSERT INTO ones VALUES (2)")
        with pytest.raises(TransientError):
            await adapter.store.write_whole(
                [json_batch("ones", 2, 3)], [Fence(new_lane(), 1)], patient=True
            )
        other.close()
        assert database.execute("SELECT n FROM ones") == [(1,)]
