"""
SQL of the user's own that may run for many rows at once: which is taken for that, and when.
"""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.route import Reading, Route, Value
from gateway.sql.plain_insert import PlainInsert, plain_insert
from gateway.sql.statement import is_of_its_time
from tests.in_memory import said
from tests.postgres.store.test_store import new_lane, postgres
from tests.support import Database


def test_a_plain_insert() -> None:
    """It is known whatever blanks, names, constants and casts it is written with."""
    assert plain_insert("insert INTO t VALUES (%(a)s)") == PlainInsert(
        "insert INTO t", "t", "%(a)s", []
    )
    sql = """INSERT INTO "S" . "t""x" (a, "b c")
        VALUES ( %(a)s::numeric::text, -1.5 , 'it''s 100%%; VALUES (', null, %(b c)s ) ;"""
    assert plain_insert(sql) == PlainInsert(
        'INSERT INTO "S" . "t""x" (a, "b c")',
        '"S" . "t""x"',
        "%(a)s::numeric::text, -1.5 , 'it''s 100%%; VALUES (', null, %(b c)s",
        ["numeric", "text"],
    )
    assert plain_insert("INSERT INTO t VALUES (%(a)s, 'unknown nowhere')") is not None


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (%(a)s), (%(b)s)",
        "INSERT INTO t VALUES (%(a)s) RETURNING a",
        "INSERT INTO t VALUES (%(a)s) ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES (f(%(a)s))",
        "INSERT INTO t VALUES (%(a)s + 1)",
        "INSERT INTO t VALUES ((SELECT max(a) FROM t))",
        "INSERT INTO t VALUES (DEFAULT, %(a)s)",
        "INSERT INTO t VALUES (current_user)",
        "INSERT INTO t VALUES (E'\\\\', %(a)s)",
        "INSERT INTO t SELECT %(a)s",
        "INSERT INTO t AS u VALUES (%(a)s)",
        "INSERT INTO t (a[1]) VALUES (%(a)s)",
        "INSERT INTO t /* 1 */ VALUES (%(a)s)",
        "WITH x AS (SELECT 1) INSERT INTO t VALUES (%(a)s)",
        "SELECT f(%(a)s)",
        "INSERT INTO t VALUES ()",
        "INSERT INTO t VALUES (%(a)s, 'now')",
        "INSERT INTO t VALUES (%(a)s, ' Today 10:00'::timestamptz)",
        "INSERT INTO t VALUES (%(a)s, '[yesterday,tomorrow)')",
    ],
)
def test_what_is_run_for_each_message(sql: str) -> None:
    """Anything that is not understood, or could look at the table."""
    assert plain_insert(sql) is None


def test_what_means_the_present() -> None:
    """It is known whatever stands around it; a call of now() and longer words are none of it."""
    assert is_of_its_time("SELECT 'now'")
    assert is_of_its_time("WHERE at > $x$Yesterday$x$ AND at < now()")
    assert not is_of_its_time("SELECT now(), NOW (), 'unknown', nowhere")


def own(table: str, note: str = "'%%s'") -> Route:
    return Route(
        "r",
        "",
        {"k": Value("k"), "v": Value("v")},
        reading=Reading("json"),
        sql=f"INSERT INTO {table} (k, v, note) VALUES (%(k)s, %(v)s, {note})",
    )


WATCHED = {
    "trigger": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    ),
    "itself": "ALTER TABLE t ADD FOREIGN KEY (note) REFERENCES t (k)",
    "policy": "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "domain": "CREATE DOMAIN d AS int; ALTER TABLE t ADD d d",
    "domains": "CREATE DOMAIN d AS int; ALTER TABLE t ADD d d[]",
    "row": "CREATE TYPE d AS (a int); ALTER TABLE t ADD d d",
    "cast": 'CREATE DOMAIN "a d" AS text',
    "default": (
        "CREATE FUNCTION f() RETURNS int STABLE LANGUAGE sql AS 'SELECT count(*)::int FROM t';"
        "ALTER TABLE t ADD seen int DEFAULT f()"
    ),
    "check": (
        "CREATE FUNCTION f() RETURNS bool STABLE LANGUAGE sql AS 'SELECT count(*) < 9 FROM t';"
        "ALTER TABLE t ADD CHECK (f())"
    ),
    "rule": "CREATE RULE r AS ON INSERT TO t DO ALSO NOTIFY t",
}


@pytest.mark.parametrize("change", ["", *WATCHED])
@pytest_twisted.ensureDeferred
async def test_what_may_look_at_the_table(database: Database, change: str) -> None:
    """A table with something that could tell rows stored at once from rows stored one by one is
    written one by one; the rows are as they were sent, and the one at fault is refused."""
    database.execute("CREATE TABLE t (id serial, k text UNIQUE, v int CHECK (v < 9), note text)")
    if change:
        database.execute(WATCHED[change])
    if change == "itself":
        database.execute(
            "ALTER TABLE t ALTER note SET DEFAULT NULL; INSERT INTO t (k) VALUES ('%s')"
        )
    frames = [json.dumps({"k": k, "v": v}).encode() for k, v in [("a", 1), ("b", 9), ("c", 2)]]
    note = """'%%s'::"a d\"""" if change == "cast" else "'%%s'"
    with postgres(database, own("t", note)) as adapter:
        await adapter.postgres.open_all()
        definition = adapter.postgres._route_cache.current["r"]
        assert definition.insert is not None
        assert [s.joins for s in definition.insert.statements] == [not change]
        assert (definition.relation is None) is bool(change)
        chunk = Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)
        written = await adapter.store.write(Batch.of([chunk]), Fence(new_lane(), 1))
        answers = [answer[:4] for answer in said([*written.runs])]
        good = Batch.of([Chunk("r", frames[:1], Origin("p", "l"), 0.0, lambda chunk, runs: None)])
        adapter.pool.sharing.prepares = False
        again = await adapter.store.write(good, Fence(new_lane(), 1))
    assert said([*again.runs])[0].startswith("-REJ CONSTRAINT sqlstate=23505")
    stored = database.execute("SELECT k, v, note FROM t WHERE v IS NOT NULL ORDER BY id")
    assert answers == ["+OK", "-REJ", "+OK"]
    assert stored == [("a", 1, "%s"), ("c", 2, "%s")]


@pytest_twisted.ensureDeferred
async def test_the_time_of_each_commit(database: Database) -> None:
    """A constant that means the present is another one in each commit, however often the statement
    was run on a connection before."""
    database.execute("CREATE TABLE t (k text, v int, note timestamptz)")
    with postgres(database, own("t", "'now'")) as adapter:
        lane = new_lane()
        for number in (1, 2):
            frames = [b'{"k": "a", "v": 1}', b'{"k": "b", "v": 2}']
            chunk = Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)
            written = await adapter.store.write(Batch.of([chunk]), Fence(lane, number))
            assert said([*written.runs]) == ["+OK", "+OK"]
    assert database.column("SELECT count(DISTINCT note) FROM t") == [2]
