"""
Queries against a real PostgreSQL: what peers are answered, and how calls are put together.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from gateway.config.load import Database as Settings
from gateway.model.outcome import Listing, Outcome
from gateway.model.query import Param, Queries, Query
from gateway.postgres.queries.call_queue import MOST_TOGETHER
from gateway.postgres.queries.service import PostgresQueries, query_pool
from tests.support import PATIENCE, Database

# mypy holds that it is what the port says.
_adapter: type[Queries] = PostgresQueries

NUMBER = Param("integer")

SCHEMA = """
    CREATE TABLE m (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
    INSERT INTO m (body) SELECT 'b' || n FROM generate_series(1, 3) n;
    CREATE DOMAIN age AS integer CHECK (value < 150);
    CREATE DOMAIN short AS varchar(3);
    CREATE TYPE mood AS ENUM ('fine', 'sad');
    CREATE FUNCTION noted(given text) RETURNS bigint LANGUAGE sql AS
        'INSERT INTO m (body) VALUES (given) RETURNING id';
    CREATE FUNCTION waited(seconds float8) RETURNS float8 STABLE LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(seconds); RETURN seconds; END';
"""

LAST = Query(
    "last",
    "SELECT id, body FROM m ORDER BY id DESC LIMIT %(n)s",
    {"n": Param("integer", False, "1")},
)


class Asker:
    """
    Queries on a database.
    """

    def __init__(self, database: Database, *queries: Query, **keywords: Any) -> None:
        configured = Settings(**{"acquire_timeout": PATIENCE, **keywords})
        self.pool = query_pool(configured, reactor, lambda attempt: 0.05)
        named = {query.name: query for query in queries}
        self.queries = PostgresQueries(named, self.pool, configured)
        self.queries.start(database.dsn)

    def call(self, name: str, arguments: bytes = b"") -> Deferred[Outcome | Listing]:
        return Deferred.fromCoroutine(self.queries.answer_call(name, arguments))

    async def ask(self, name: str, arguments: bytes = b"") -> Any:
        """The rows, or the words of the refusal."""
        return said(await self.queries.answer_call(name, arguments))

    async def together(self, name: str, *arguments: bytes) -> list[Any]:
        """Several calls at the same moment."""
        answers = await gatherResults([self.call(name, one) for one in arguments])
        return [said(answer) for answer in answers]


def said(answer: Outcome | Listing) -> Any:
    if isinstance(answer, Outcome):
        return bytes(answer).decode()
    assert not any(b"\n" in row or b"\r" in row for row in answer.rows)
    return [json.loads(row) for row in answer.rows]


@contextmanager
def asking(database: Database, *queries: Query, **keywords: Any) -> Iterator[Asker]:
    asker = Asker(database, *queries, **keywords)
    try:
        yield asker
    finally:
        asker.queries.close()


@pytest.fixture
def tables(database: Database) -> Database:
    """A database with something to ask for."""
    database.execute(SCHEMA)
    return database


@contextmanager
def logged() -> Iterator[list[str]]:
    """What operators are told meanwhile."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        if event["log_level"] >= LogLevel.info and "gateway" in event["log_namespace"]:
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)


async def until(condition: Any) -> None:
    """Let the reactor run until something is so."""
    for _ in range(2000):
        if condition():
            return
        await deferLater(reactor, 0.005)
    raise AssertionError("never came")


WAITS = "true AS a FROM pg_advisory_xact_lock_shared(1)"
"""What a statement selects that waits for as long as a test holds that lock."""

HELD_UP = (
    "FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE NOT granted AND locktype = 'advisory' AND datname = current_database()"
)
SLEEPERS = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


async def end_sleeper(database: Database) -> None:
    """End the session that waits in pg_sleep, as soon as there is one."""
    await until(lambda: database.column(SLEEPERS))
    database.execute(f"SELECT pg_terminate_backend(pid) FROM ({SLEEPERS}) s")


@pytest_twisted.ensureDeferred
async def test_constants_that_mean_the_present(tables: Database) -> None:
    """They are of each call, and not of the first one on a connection."""
    for sql in ("SELECT 'now'::timestamptz AS at", "SELECT %(n)s AS n, timestamptz ' Now ' AS at"):
        with asking(tables, Query("q", sql, {"n": NUMBER} if "%" in sql else {})) as asker:
            arguments = b'{"n": 1}' if "%" in sql else b""
            said = [(await asker.ask("q", arguments))[0]["at"] for _ in range(3)]
            assert len(set(said)) == 3


@pytest_twisted.ensureDeferred
async def test_arguments(tables: Database) -> None:
    """By name, by position, or left out; what does not fit is refused before it is asked."""
    query = Query(
        "q",
        "SELECT %(a)s AS a, %(b)s AS b, %(c)s AS c",
        {"a": NUMBER, "b": Param(), "c": Param("date", False)},
    )
    with asking(tables, query, LAST) as asker:
        b3, b2 = {"id": 3, "body": "b3"}, {"id": 2, "body": "b2"}
        assert await asker.ask("last") == [b3]
        assert await asker.ask("last", b' {"n" : 2}') == [b3, b2]
        assert await asker.ask("last", b"[2]") == [b3, b2]
        assert await asker.ask("last", b"[]") == [b3]
        assert await asker.ask("last", b"[0]") == []
        assert len(await asker.ask("last", b"[null]")) == 3  # LIMIT NULL
        whole = [{"a": 1, "b": "x", "c": "2026-01-02"}]
        assert await asker.ask("q", b'[1, "x", "2026-01-02"]') == whole
        assert await asker.ask("q", b'{"c":"2026-01-02","b":"x","a":1}') == whole
        assert await asker.ask("q", b'["1",5]') == [{"a": 1, "b": "5", "c": None}]
        assert await asker.ask("q", b"[null,null,null]") == [dict.fromkeys("abc")]
        for arguments, text in [
            (b'{"a":"x","b":""}', "parameter 'a': 'x' is not an integer"),
            (b'{"a":1.5,"b":""}', "parameter 'a': '1.5' is not an integer"),
            (b"[3000000000,1]", "parameter 'a': '3000000000' is out of range for integer"),
            (b"[{},1]", "parameter 'a': '{}' is an object, not integer"),
            (b'[1,"\\u0000"]', "parameter 'b': '?' holds the character NUL (byte 0), which text"),
            (b'[1,"\xff"]', "parameter 'b' is not JSON: not UTF-8"),
            (b'[1,"","soon"]', "parameter 'c': 'soon' is no date: write it as 2000-12-31"),
            (b"[1]", "parameter 'b' is missing"),
            (b"", "parameter 'a' is missing"),
            (b'{"a":1,"bb":2}', "no parameter 'bb'; did you mean 'b'?"),
            (b'{"a":1,"b":2,"zzz":2}', "no parameter 'zzz'; there are a, b, c"),
            (b"[1,2,3,4]", "4 arguments, but the query takes 3 (a, b, c)"),
            (b"1", "'1' is neither a JSON object nor an array"),
            (b"{", "the arguments are not JSON: it ends too early"),
            (b'{"a":1} {}', "the arguments are not JSON: trailing characters"),
            (b"[" * 1_000_000, "the arguments are not JSON: nested too deeply"),
        ]:
            answer = await asker.ask("q", arguments)
            assert answer.startswith(f"-REJ QUERY :{text}"), (arguments, answer)


@pytest_twisted.ensureDeferred
async def test_unknown_names(tables: Database) -> None:
    """A query that is not configured is refused with what was meant."""
    with asking(tables, LAST) as asker:
        assert await asker.ask("lst") == "-REJ QUERY :no query 'lst'; did you mean 'last'?"
        assert await asker.ask("\x00") == "-REJ QUERY :no query '?'"
    with asking(tables) as asker:
        assert await asker.ask("last") == "-REJ QUERY :no query 'last'"
        assert asker.pool.figures.opened == 0


@pytest_twisted.ensureDeferred
async def test_types_of_parameters(tables: Database) -> None:
    """Domains, enums, arrays and lengths are those of the live database."""
    params = {
        "age": Param("age", False),
        "short": Param("short", False),
        "mood": Param("mood", False),
        "many": Param("integer[]", False),
        "ages": Param("age[]", False),
        "code": Param("varchar(2)", False),
        "data": Param("jsonb", False),
        "raw": Param("bytea", False),
        "at": Param("timestamptz", False),
    }
    sql = ", ".join(f"%({name})s AS {name}" for name in params)
    with asking(tables, Query("q", f"SELECT {sql}", params)) as asker:
        whole: dict[str, Any] = {
            "age": 5,
            "short": "abc",
            "mood": "sad",
            "many": [1, None, 3],
            "ages": [1, 2],
            "code": "xy",
            "data": {"a": [1, "x"]},
            "raw": base64.b64encode(b"\0\xff").decode(),
            "at": "2026-01-02T03:04:05.123456+00:00",
        }
        everything: list[dict[str, Any]] = [whole, dict.fromkeys(params), {}, {"data": "text"}]
        for sent in everything:
            (row,) = await asker.ask("q", json.dumps(sent).encode())
            row["at"] = row["at"] and datetime.fromisoformat(row["at"]).astimezone(UTC).isoformat()
            assert row == dict.fromkeys(params) | sent
        for wrong, text in [
            ({"age": 150}, "sqlstate=23514 :value for domain age violates check constraint"),
            ({"short": "abcd"}, ":parameter 'short': 'abcd' is longer than 3 characters"),
            ({"code": "abc"}, ":parameter 'code': 'abc' is longer than 2 characters"),
            ({"mood": "odd"}, 'sqlstate=22P02 :invalid input value for enum mood: "odd"'),
            ({"many": [1, "x"]}, ":parameter 'many': element 'x' is not an integer"),
            ({"many": 5}, ":parameter 'many': '5' is not an array; write [1, 2] or {1,2}"),
        ]:
            answer = await asker.ask("q", json.dumps(wrong).encode())
            assert answer.startswith(f"-REJ QUERY {text}"), (wrong, answer)


@pytest_twisted.ensureDeferred
async def test_values_are_never_sql(tables: Database) -> None:
    """Whatever an argument holds, it stays a value, prepared or in plain text."""
    nasty = ["'; DROP TABLE m; --", "%s %(n)s %%", "\\'\"{},", "$1 $$", "é\u2028😀", "NULL", ""]
    query = Query("q", "SELECT %(a)s AS a, 'x%%' AS b, 7 %% 4 AS c", {"a": Param()})
    writes = Query("w", query.sql, query.params, read_only=False)
    with asking(tables, query, writes) as asker:
        for prepares in (True, False):
            asker.pool.sharing.prepares = prepares
            sent = [json.dumps([text]).encode() for text in nasty]
            for name in ("q", "w"):
                answers = await asker.together(name, *sent)
                assert answers == [[{"a": text, "b": "x%", "c": 3}] for text in nasty]


@pytest_twisted.ensureDeferred
async def test_results(tables: Database) -> None:
    """Each row is a line of JSON: ISO 8601, Base64, exact numbers, NaN and Infinity as strings."""
    columns = """
        '2026-01-02 03:04:05.678Z'::timestamptz AT TIME ZONE 'UTC' AS at,
        decode(repeat('ff', 100), 'hex') AS raw, ARRAY['\\x00ff'::bytea, NULL] AS raws,
        ARRAY[]::bytea[] AS no_raws, NULL::bytea AS no_raw, 1.10::numeric AS exact,
        'NaN'::float8 AS nan, '-Infinity'::float8 AS inf, 'NaN'::numeric AS nans,
        9007199254740993 AS big, true AS yes, E'{"a":\\n\\r\\n [1]}'::json AS doc,
        E'a\\nb\\x1e\\x1d\\x0b' AS text, ARRAY[[1,2],[3,4]] AS grid
    """
    with asking(tables, Query("q", f"SELECT {columns}")) as asker:
        answer = await asker.call("q")
        assert isinstance(answer, Listing)
        assert answer.rows == [
            b'{"at":"2026-01-02T03:04:05.678","raw":"%b","raws":["AP8=",null],"no_raws":[],'
            b'"no_raw":null,"exact":1.10,"nan":"NaN","inf":"-Infinity","nans":"NaN",'
            b'"big":9007199254740993,"yes":true,"doc":{"a":    [1]},'
            b'"text":"a\\nb\\u001e\\u001d\\u000b","grid":[[1,2],[3,4]]}'
            % base64.b64encode(b"\xff" * 100)
        ]


@pytest_twisted.ensureDeferred
async def test_bytes_of_domains(tables: Database) -> None:
    """Bytes are Base64 under a domain, under a domain over it, and as elements of both."""
    tables.execute(
        "CREATE DOMAIN raw AS bytea; CREATE DOMAIN stamp AS raw;"
        " CREATE DOMAIN raws AS bytea[]; CREATE DOMAIN stamps AS raws"
    )
    columns = """
        '\\xff'::raw AS a, '\\xff'::stamp AS b, ARRAY['\\xff'::raw] AS c,
        ARRAY['\\xff'::stamp] AS d, ARRAY['\\xff'::bytea]::raws AS e,
        ARRAY['\\xff'::bytea]::stamps AS f
    """
    with asking(tables, Query("q", f"SELECT {columns}")) as asker:
        answer = await asker.call("q")
        assert isinstance(answer, Listing)
        assert answer.rows == [
            b'{"a":"/w==","b":"/w==","c":["/w=="],"d":["/w=="],"e":["/w=="],"f":["/w=="]}'
        ]


@pytest_twisted.ensureDeferred
async def test_limits_of_an_answer(tables: Database) -> None:
    """An answer over max_rows or max_bytes is refused, and a neighbour's is not."""
    query = Query(
        "q",
        "SELECT repeat('x', %(size)s) AS a FROM generate_series(1, %(n)s)",
        {"n": NUMBER, "size": NUMBER},
        max_rows=10,
        max_bytes=1000,
    )
    volatile = Query("v", f"{query.sql} ORDER BY random()", query.params, 10, 1000)
    writes = Query("w", query.sql, query.params, 10, 1000, read_only=False)
    with asking(tables, query, volatile, writes) as asker:
        for name in ("q", "v", "w"):
            answers = await asker.together(name, b"[10,1]", b"[11,1]", b"[1,991]", b"[1,992]")
            assert (
                answers
                == [
                    [{"a": "x"}] * 10,
                    "-REJ TOOBIG :more than 10 rows",
                    [{"a": "x" * 991}],
                    "-REJ TOOBIG :more than 1000 bytes",
                ][:2]
                + answers[2:]
            )
            assert answers[2] == [{"a": "x" * 991}] or name == ""


@pytest_twisted.ensureDeferred
async def test_answers_too_large_together(tables: Database) -> None:
    """Answers that are too large to be sent together are sent one by one."""
    query = Query("q", "SELECT repeat('x', %(n)s) AS a", {"n": NUMBER}, max_bytes=400_000)
    with asking(tables, query) as asker:
        sizes = [300_000 + n for n in range(8)]
        answers = await asker.together("q", *[b"[%d]" % n for n in sizes], b"[500000]")
        assert [len(answer[0]["a"]) for answer in answers[:-1]] == sizes
        assert answers[-1] == "-REJ TOOBIG :more than 400000 bytes"


@pytest_twisted.ensureDeferred
async def test_a_group_isolates_errors(tables: Database) -> None:
    """Many calls are one statement; where one of them fails, only that one is refused."""
    query = Query("q", "SELECT 12 / %(n)s AS a", {"n": NUMBER})
    with asking(tables, query) as asker:
        await asker.ask("q", b"[1]")
        numbers = [1, 2, 0, 3, 0, *range(4, 150)]
        answers = await asker.together("q", *[b"[%d]" % n for n in numbers])
        for number, answer in zip(numbers, answers, strict=True):
            if number:
                assert answer == [{"a": 12 // number}]
            else:
                assert answer == "-REJ QUERY sqlstate=22012 :division by zero"


@pytest_twisted.ensureDeferred
async def test_calls_go_together(tables: Database) -> None:
    """A thousand calls at once are a few statements, and each gets the answer to its own."""
    query = Query("q", "SELECT %(n)s AS a, txid_current_if_assigned() AS b", {"n": NUMBER})
    with asking(tables, query) as asker:
        await asker.ask("q", b"[1]")
        answers = await asker.together("q", *[b"[%d]" % n for n in range(1000)])
        assert answers == [[{"a": n, "b": None}] for n in range(1000)]
        took = asker.queries._queues["q"]
        assert 32 < took.together <= MOST_TOGETHER


@pytest_twisted.ensureDeferred
async def test_what_is_volatile_is_asked_one_by_one(tables: Database) -> None:
    """Calls that come together do not share what is made for each call."""
    queries = [
        Query("row", "SELECT gen_random_uuid() AS a"),
        Query("sorted", "SELECT random() AS a FROM generate_series(1, 1000) ORDER BY 1 LIMIT 1"),
    ]
    with asking(tables, *queries) as asker:
        for query in queries:
            answers = await asker.together(query.name, *[b""] * 10)
            assert len({answer[0]["a"] for answer in answers}) == 10


@pytest_twisted.ensureDeferred
async def test_sql_that_cannot_be_joined_to_calls(tables: Database) -> None:
    """What cannot stand in LATERAL is asked one by one, and means the same."""
    query = Query("q", "SELECT count(%(n)s) AS a FROM m; -- all of them", {"n": NUMBER})
    values = Query("v", "VALUES (%(n)s, 2)", {"n": NUMBER})
    inside = Query("i", "WITH x AS (SELECT %(n)s AS a) TABLE x", {"n": NUMBER})
    with asking(tables, query, values, inside) as asker:
        assert await asker.together("q", b"[1]", b"[null]") == [[{"a": 3}], [{"a": 0}]]
        assert await asker.together("v", b"[1]", b"[2]") == [
            [{"column1": 1, "column2": 2}],
            [{"column1": 2, "column2": 2}],
        ]
        assert await asker.together("i", b"[1]", b"[2]") == [[{"a": 1}], [{"a": 2}]]


@pytest_twisted.ensureDeferred
async def test_timeout(tables: Database) -> None:
    """A call that takes too long is given up, and those that came with it are answered."""
    query = Query("q", "SELECT waited(%(s)s) AS a", {"s": Param("float8")}, timeout=0.3)
    single = Query("v", "SELECT pg_sleep(%(s)s)", {"s": Param("float8")}, timeout=0.3)
    with asking(tables, query, single) as asker:
        late = "-TRY BUSY :no answer within 0.3 s"
        assert await asker.together("q", b"[0]", b"[9]", b"[0.01]") == [
            [{"a": 0}],
            late,
            [{"a": 0.01}],
        ]
        assert await asker.ask("v", b"[9]") == late
        assert await asker.ask("q", b"[0]") == [{"a": 0}]
        assert asker.pool.lost == 0


@pytest_twisted.ensureDeferred
async def test_a_slow_query_leaves_room_for_others(tables: Database) -> None:
    """While calls of a slow query wait for each other, those of another are answered."""
    slow = Query("slow", "SELECT waited(%(s)s) AS a", {"s": Param("float8")})
    with asking(tables, slow, LAST) as asker:
        await asker.ask("slow", b"[0]")
        waiting = [asker.call("slow", b"[0.2]") for _ in range(10)]
        for _ in range(20):
            assert await asker.ask("last") == [{"id": 3, "body": "b3"}]
        assert sum(not one.called for one in waiting) >= 5
        assert {said(answer)[0]["a"] for answer in await gatherResults(waiting)} == {0.2}


@pytest_twisted.ensureDeferred
async def test_bounded_waiting(tables: Database) -> None:
    """Beyond ten thousand calls without an answer there is no room, and nobody waits for ever."""
    slow = Query("slow", "SELECT pg_sleep(0.8)")
    with asking(tables, slow, LAST, acquire_timeout=0.4) as asker:
        await asker.ask("last")
        waiting = [asker.call("slow") for _ in range(10_000)]
        assert await asker.ask("last") == "-TRY BUSY retry=1 :too many calls are waiting"
        answers = [said(answer) for answer in await gatherResults(waiting)]
        busy = "-TRY BUSY retry=1 :the connections for queries are busy"
        assert answers.count(busy) >= 9_990
        assert [answer for answer in answers if answer != busy] == [[{"pg_sleep": ""}]] * (
            10_000 - answers.count(busy)
        )
        assert asker.queries.in_flight == 0
        assert await asker.ask("last") == [{"id": 3, "body": "b3"}]


@pytest_twisted.ensureDeferred
async def test_reading_cannot_write(tables: Database) -> None:
    """A query that only reads writes nothing, whatever it calls; the connection stays."""
    queries = [
        Query("calls", "SELECT noted(%(a)s) AS a", {"a": Param()}),
        Query("inserts", "INSERT INTO m (body) VALUES (%(a)s)", {"a": Param()}),
        Query("locks", "SELECT id FROM m WHERE body = %(a)s FOR UPDATE", {"a": Param()}),
    ]
    with asking(tables, *queries) as asker, logged() as lines:
        for query in queries:
            answers = await asker.together(query.name, b'["x"]', b'["y"]')
            assert answers == ["-TRY QUERY :the query does not work just now"] * 2
        assert tables.column("SELECT body FROM m") == ["b1", "b2", "b3"]
        assert asker.pool.lost == 0
        assert [line.split(": ", 2)[2] for line in lines] == [
            "cannot execute INSERT in a read-only transaction; set read_only = false",
            "sql: writes; set read_only = false, or have it read only",
            "cannot execute SELECT FOR UPDATE in a read-only transaction; set read_only = false",
        ]


@pytest_twisted.ensureDeferred
async def test_writing(tables: Database) -> None:
    """With read_only = false it may write; what is refused has changed nothing."""
    tables.execute("ALTER TABLE m ADD raw bytea, ADD UNIQUE (body)")
    body = {"b": Param()}
    queries = [
        Query(
            "insert",
            "INSERT INTO m (body, raw) VALUES (%(b)s, 'xx') RETURNING id, raw",
            body,
            read_only=False,
        ),
        Query("call", "SELECT noted(%(b)s) AS id", body, read_only=False),
        Query("quiet", "UPDATE m SET raw = NULL WHERE body = %(b)s", body, read_only=False),
        Query("many", "UPDATE m SET raw = 'zz' RETURNING id", max_rows=2, read_only=False),
        Query(
            "moved",
            "WITH gone AS (DELETE FROM m WHERE body = %(b)s RETURNING body)"
            " INSERT INTO m (body) SELECT body || '!' FROM gone RETURNING body",
            body,
            read_only=False,
        ),
    ]
    with asking(tables, *queries) as asker:
        assert await asker.together("insert", b'["x"]', b'["y"]') == [
            [{"id": 4, "raw": "eHg="}],
            [{"id": 5, "raw": "eHg="}],
        ]
        taken = "-REJ QUERY sqlstate=23505 :duplicate key value violates unique constraint"
        assert (await asker.ask("insert", b'["x"]')).startswith(taken)
        assert await asker.ask("call", b'["z"]') == [{"id": 7}]
        assert await asker.ask("quiet", b'["x"]') == []
        assert await asker.ask("many") == "-REJ TOOBIG :more than 2 rows"
        assert await asker.ask("moved", b'["y"]') == [{"body": "y!"}]
        found = tables.execute("SELECT body, raw IS NULL FROM m WHERE id > 3 ORDER BY id")
        assert found == [("x", True), ("z", True), ("y!", True)]


@pytest_twisted.ensureDeferred
async def test_deferred_rules_of_writing(tables: Database) -> None:
    """What a commit refuses is refused, and the connection is fit for the next call."""
    tables.execute("ALTER TABLE m ADD UNIQUE (body) DEFERRABLE INITIALLY DEFERRED")
    query = Query("w", "SELECT noted(%(b)s) AS id", {"b": Param()}, read_only=False)
    with asking(tables, query, query_connections=1) as asker:
        answer = await asker.ask("w", b'["b1"]')
        assert answer.startswith("-REJ QUERY sqlstate=23505 :duplicate key value")
        assert await asker.ask("w", b'["b5"]') == [{"id": 5}]


@pytest_twisted.ensureDeferred
async def test_a_lost_connection(tables: Database) -> None:
    """Reading is tried again on another connection; what was writing had not committed."""
    reads = Query("r", f"SELECT {WAITS}", timeout=PATIENCE)
    writes = Query("w", f"SELECT noted('w') AS id, {WAITS}", read_only=False, timeout=PATIENCE)
    with asking(tables, reads, writes, LAST) as asker:
        for name in ("r", "w"):
            await asker.ask(name)
            with closing(psycopg2.connect(tables.dsn)) as locker:
                locker.cursor().execute("SELECT pg_advisory_lock(1)")
                waiting = asker.call(name)
                await until(lambda: tables.column(f"SELECT pid {HELD_UP}"))
                tables.execute(f"SELECT pg_terminate_backend(pid) {HELD_UP}")
            if name == "r":
                assert said(await waiting) == [{"a": True}]
            else:
                down = "-TRY DOWN retry=1 :no connection to the database"
                assert said(await waiting) == down
        assert tables.column("SELECT count(*) FROM m WHERE body = 'w'") == [1]
        assert await asker.ask("last", b"[0]") == []


@pytest_twisted.ensureDeferred
async def test_a_commit_that_is_lost(tables: Database) -> None:
    """Where the connection ends during the commit, nobody pretends to know."""
    tables.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(9); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON m DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    query = Query("w", "SELECT noted('w') AS id", read_only=False)
    with asking(tables, query) as asker:
        waiting = asker.call("w")
        await end_sleeper(tables)
        assert said(await waiting) == (
            "-BYE INTERNAL :the connection to the database was lost; whether this was done is"
            " not known"
        )


@pytest_twisted.ensureDeferred
async def test_no_database() -> None:
    """Where there is no connection, the peer is told to come again."""
    database = Database("host=/nonexistent")
    with asking(database, LAST, acquire_timeout=0.2) as asker, logged() as lines:
        down = "-TRY DOWN retry=1 :no connection to the database"
        assert await asker.together("last", b"", b"[2]") == [down] * 2
        assert lines == []  # the main pool says it


@pytest.mark.parametrize("more", ["", ", random() > 2 AS f"])
@pytest_twisted.ensureDeferred
async def test_arguments_of_a_length(tables: Database, more: str) -> None:
    """An argument is what a column of its type would hold, or is refused; never cut or padded."""
    tables.execute("CREATE DOMAIN bits AS varbit(4); CREATE DOMAIN shorter AS short")
    params = {
        "a": Param("bit(4)"),
        "b": Param("bits", False),
        "c": Param("shorter", False),
        "d": Param("numeric(5, 2)", False),
        "e": Param("varchar(3)", False),
    }
    sql = "SELECT %(a)s AS a, %(b)s AS b, %(c)s AS c, %(d)s AS d, %(e)s AS e"
    with asking(tables, Query("q", sql + more, params)) as asker:
        (row,) = await asker.ask("q", b'["1010", "101", "abc", 1.005, "abc  "]')
        assert [*row.values()][:5] == ["1010", "101", "abc", 1.01, "abc"]
        for arguments in (b'["10"]', b'["1010", "10101"]', b'["1010", null, "abc1"]'):
            assert (await asker.ask("q", arguments)).startswith("-REJ QUERY")
    cut = Query("q", "SELECT %(a)s AS a", {"a": Param("varchar(3)[]")})
    with asking(tables, cut) as asker, logged() as lines:
        await asker.ask("q", b'[["abc1"]]')
        assert "'varchar(3)[]' cannot be kept to its length here" in lines[0]


@pytest_twisted.ensureDeferred
async def test_faults_of_the_operator(tables: Database) -> None:
    """A missing table or grant is told once, and heals by itself."""
    query = Query("q", "SELECT a FROM later WHERE a = %(a)s", {"a": NUMBER})
    out = "-TRY QUERY :the query does not work just now"
    with asking(tables, query) as asker, logged() as lines:
        for _ in range(5):
            assert await asker.together("q", b"[1]", b"[2]") == [out] * 2
        told = "query q: does not work, peers are told to try later: "
        assert lines == [f'{told}sql: relation "later" does not exist']
        tables.execute("CREATE TABLE later AS SELECT 1 AS a")

        async def healed() -> bool:
            return bool(await asker.ask("q", b"[1]") == [{"a": 1}])

        while not await healed():
            await deferLater(reactor, 0.05)
        assert lines[1:] == ["query q: works again"]


@pytest_twisted.ensureDeferred
async def test_a_changed_schema_heals(tables: Database) -> None:
    """Columns that come, go or change their type are seen without a restart."""
    tables.execute("CREATE TABLE t AS SELECT 1 AS a, '\\xff'::bytea AS b")
    query = Query("q", "SELECT * FROM t WHERE a = %(a)s", {"a": NUMBER})
    with asking(tables, query) as asker:
        assert await asker.ask("q", b"[1]") == [{"a": 1, "b": "/w=="}]
        clock = asker.queries._queues["q"]
        tables.execute("ALTER TABLE t ALTER a TYPE bigint")
        assert await asker.ask("q", b"[1]") == [{"a": 1, "b": "/w=="}]
        tables.execute("ALTER TABLE t DROP b")
        clock.examined_at -= 2  # as if it had been looked at two seconds ago
        assert await asker.ask("q", b"[1]") == [{"a": 1}]
        tables.execute("DROP TABLE t; CREATE TABLE t AS SELECT 1::int AS a, 'x'::text AS c")
        clock.examined_at -= 2
        assert await asker.ask("q", b"[1]") == [{"a": 1, "c": "x"}]


@pytest_twisted.ensureDeferred
async def test_a_look_from_time_to_time(tables: Database) -> None:
    """What no error tells is seen a minute later, without holding up a call."""
    tables.execute("CREATE TABLE t AS SELECT 1 AS a, 'x'::text AS b")
    with asking(tables, Query("q", "SELECT * FROM t")) as asker:
        assert await asker.ask("q") == [{"a": 1, "b": "x"}]
        tables.execute("ALTER TABLE t ALTER b TYPE bytea USING b::bytea")
        assert await asker.ask("q") == [{"a": 1, "b": "\\x78"}]
        opened = asker.queries._queues["q"].opened
        assert opened is not None
        opened.since -= 120
        await asker.ask("q")
        await until(lambda: asker.queries._queues["q"].opened is not opened)
        assert await asker.ask("q") == [{"a": 1, "b": "eA=="}]


@pytest_twisted.ensureDeferred
async def test_shared_sessions(tables: Database) -> None:
    """Where a pooler takes prepared statements away, the plain text is sent."""
    queries = [LAST, Query("w", "SELECT noted(%(b)s) AS id", {"b": Param()}, read_only=False)]
    for query, arguments in zip(queries, (b"[1]", b'["x"]'), strict=True):
        with asking(tables, query, query_connections=1) as asker, logged() as lines:
            await asker.ask(query.name, arguments)
            async with asker.pool.checkout() as connection:
                await connection.query("DEALLOCATE ALL", None, 5.0)
            assert len(await asker.ask(query.name, arguments)) == 1
            assert len(await asker.ask(query.name, arguments)) == 1
            assert len(lines) == 1 and "statements are not prepared any more" in lines[0]
    assert tables.column("SELECT count(*) FROM m WHERE body = 'x'") == [3]


@pytest_twisted.ensureDeferred
async def test_a_large_answer_leaves_the_reactor_responsive(tables: Database) -> None:
    """While sixteen megabytes of rows come in, the reactor never stands still for long."""
    query = Query(
        "q",
        "SELECT repeat('x', 1600) AS a, n FROM generate_series(1, %(n)s) n",
        {"n": NUMBER},
        max_rows=100_000,
    )
    with asking(tables, query) as asker:
        await asker.ask("q", b"[1]")
        waiting = asker.call("q", b"[10000]")
        longest = 0.0
        last = time.process_time()  # so that other processes are not measured
        while not waiting.called:
            await deferLater(reactor, 0.001)
            now = time.process_time()
            longest, last = max(longest, now - last), now
        answer = await waiting
        assert isinstance(answer, Listing) and len(answer.rows) == 10_000
        assert longest < 0.25


@pytest_twisted.ensureDeferred
async def test_closing(tables: Database) -> None:
    """Whoever waits when the gateway stops gets an answer."""
    slow = Query("slow", "SELECT pg_sleep(9)")
    with asking(tables, slow) as asker:
        await asker.ask("nothing")
        waiting = [asker.call("slow") for _ in range(5)]
        await until(
            lambda: tables.column("SELECT 1 FROM pg_stat_activity WHERE wait_event='PgSleep'")
        )
        asker.queries.close()
        down = "-TRY DOWN retry=1 :no connection to the database"
        assert [said(answer) for answer in await gatherResults(waiting)] == [down] * 5
        assert await asker.ask("slow") == down


COMMON = st.fixed_dictionaries(
    {
        "i": st.integers(-(2**31), 2**31 - 1),
        "l": st.integers(-(2**63), 2**63 - 1),
        "n": st.decimals(-(10**30), 10**30, allow_nan=False),
        "f": st.floats(),
        "t": st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        "b": st.booleans(),
        "d": st.dates(),
        "z": st.datetimes(min_value=datetime(2, 1, 1), timezones=st.just(UTC)),
        "u": st.uuids().map(str),
        "r": st.binary(),
        "a": st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)),
        "ra": st.lists(st.none() | st.binary(max_size=100)),
        "j": st.recursive(st.none() | st.integers() | st.text(), st.lists),
    }
)


def as_stored(value: Any) -> Any:
    """A value for psycopg2."""
    if isinstance(value, list):
        return [as_stored(item) for item in value]
    return psycopg2.Binary(value) if isinstance(value, bytes) else value


def as_read(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON with its values as they were before."""
    raws = row["ra"]
    return row | {
        "n": Decimal(row["n"]),
        "f": float(row["f"]),
        "d": date.fromisoformat(row["d"]),
        "z": datetime.fromisoformat(row["z"]),
        "r": base64.b64decode(row["r"], validate=True),
        "ra": [None if raw is None else base64.b64decode(raw, validate=True) for raw in raws],
    }


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(COMMON, min_size=1, max_size=5))
@pytest_twisted.ensureDeferred
async def test_whatever_is_stored_reads_back_equal(database: Database, rows: list[Any]) -> None:
    """The JSON of a row says exactly what is stored, for every common type."""
    database.execute(
        "CREATE TABLE IF NOT EXISTS t (k integer, i integer, l bigint, n numeric, f float8, t text,"
        " b boolean, d date, z timestamptz, u uuid, r bytea, a integer[], ra bytea[], j json);"
        "TRUNCATE t"
    )
    places = ", ".join(["%s"] * 11)  # and three that need a type
    insert = f"INSERT INTO t VALUES ({places}, %s::integer[], %s::bytea[], %s::json)"
    for number, row in enumerate(rows):
        # Pretty-printed, so that there are line breaks in it.
        columns = ("i", "l", "n", "f", "t", "b", "d", "z", "u", "r", "a", "ra")
        values = [as_stored(row[column]) for column in columns]
        values.append(json.dumps(row["j"], indent=1))
        database.execute(insert, number, *values)
    query = Query("q", "SELECT * FROM t WHERE k = %(k)s", {"k": NUMBER})
    with asking(database, query) as asker:
        calls = [asker.call("q", b"[%d]" % number) for number in range(len(rows))]
        for number, (row, answer) in enumerate(zip(rows, await gatherResults(calls), strict=True)):
            assert isinstance(answer, Listing)
            found = as_read(json.loads(answer.rows[0], parse_float=Decimal))
            if math.isnan(row["f"]):
                assert math.isnan(found.pop("f"))
            assert found == {"k": number, **{name: row[name] for name in found if name != "k"}}
