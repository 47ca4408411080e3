"""
Rows stored one by one: what a block must judge as the statement would have.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
import pytest_twisted

from gateway.commit.attempt import Attempt, NextStep, retry_delay
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.lane import Lane
from gateway.metrics.counters import RouteCounters
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import FramesRefused, RowError, StoreError, TransientError
from gateway.model.outcome import Run
from gateway.model.route import Conflict, Reading, Route, Value
from tests.in_memory import said
from tests.postgres.store.test_store import new_lane, postgres
from tests.support import Database

KV = {"k": Value("k"), "v": Value("v")}


def kv(
    conflict: Conflict = "error", returning: tuple[str, ...] = (), sql: str = "", table: str = "t"
) -> Route:
    key = () if conflict == "error" else ("k",)
    return Route(
        "r",
        "" if sql else table,
        KV,
        reading=Reading("json"),
        conflict=conflict,
        key=key,
        returning=returning,
        sql=sql,
    )


def batch(*rows: tuple[Any, Any]) -> Batch:
    frames = [json.dumps({"k": k, "v": v}).encode() for k, v in rows]
    return Batch.of([Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)])


async def answers(database: Database, route: Route, *rows: tuple[Any, Any]) -> list[str]:
    with postgres(database, route) as adapter:
        written = await adapter.store.write(batch(*rows), Fence(new_lane(), 1))
    return [answer.split(" :")[0] for answer in said([*written.runs])]


OWN = "INSERT INTO t (k, v) VALUES (%(k)s, %(v)s)"
CHECKED = "-REJ CONSTRAINT sqlstate=23514"


@pytest.mark.parametrize("sql", ["", OWN])
@pytest_twisted.ensureDeferred
async def test_char_of_a_length(database: Database, sql: str) -> None:
    """A char(n) keeps all its characters, whichever way it is stored."""
    database.execute("CREATE TABLE t (id serial, k char(5), v int CHECK (v < 100))")
    found = await answers(database, kv(sql=sql), ("abc", 1), ("x", 100), ("abd", 2))
    assert found == ["+OK", CHECKED, "+OK"]
    assert database.column("SELECT k FROM t ORDER BY id") == ["abc  ", "abd  "]


@pytest_twisted.ensureDeferred
async def test_text_into_char(database: Database) -> None:
    """A text route into char(n), and lists of them."""
    database.execute(
        "CREATE DOMAIN five AS char(5); CREATE TABLE t (k five);"
        " CREATE TABLE l (k char(3)[], v int CHECK (v < 9))"
    )
    text = Route("r", "t", {"k": Value("@frame")})
    with postgres(database, text) as adapter:
        frames = [b"abc", b"de"]
        chunk = Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)
        await adapter.store.write(Batch.of([chunk]), Fence(new_lane(), 1))
    assert database.column("SELECT k FROM t ORDER BY k") == ["abc  ", "de   "]
    assert await answers(database, kv(table="l"), (["abc", "d"], 1), (["x"], 9)) == ["+OK", CHECKED]
    assert database.column("SELECT k::text FROM l") == ['{abc,"d  "}']


@pytest.mark.parametrize(
    ("made", "kind", "long", "fits"),
    [
        ("CREATE DOMAIN d AS varbit(4)", "d", ("10101", "10100"), "1010"),
        ("CREATE DOMAIN d AS varchar(3)[]", "d", (["abc1"], ["abc2"]), ["abc"]),
        ("", "bit(4)", ("10", "101"), "1010"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_keys_that_a_cast_would_cut(
    database: Database, made: str, kind: str, long: tuple[Any, Any], fits: Any
) -> None:
    """A key of the wrong length is refused as an INSERT refuses it, and is nobody's duplicate."""
    database.execute(f"{made}; CREATE TABLE t (k {kind} PRIMARY KEY, v int)")
    rows = [(fits, 1), (long[0], 2), (long[1], 3), (fits, 4)]
    found = await answers(database, kv("ignore"), *rows)
    assert [answer.split(" sqlstate")[0] for answer in found] == [
        "+OK",
        "-REJ DATA",
        "-REJ DATA",
        "+DUP",
    ]
    assert database.column("SELECT v FROM t") == [1]


@pytest.mark.parametrize("kind", ["varchar(3)", "char(3)"])
@pytest_twisted.ensureDeferred
async def test_the_length_of_a_domain_over_a_domain(database: Database, kind: str) -> None:
    """It is known before the server is asked; blanks that are too many are left out."""
    database.execute(f"CREATE DOMAIN d AS {kind}; CREATE DOMAIN e AS d")
    database.execute("CREATE TABLE t (k e PRIMARY KEY, v int)")
    with pytest.raises(FramesRefused) as caught:
        await answers(database, kv("ignore"), ("abc", 1), ("abc1", 2), ("abc2", 3))
    assert [row for row, _ in caught.value.faults] == [1, 2]
    assert await answers(database, kv("ignore"), ("abc  ", 1), ("abc", 2)) == ["+OK", "+DUP"]
    assert database.column("SELECT k || '|' FROM t") == ["abc|"]


LOWER = """
    CREATE FUNCTION lower_k() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN NEW.k = lower(NEW.k); RETURN NEW; END$$;
    CREATE TRIGGER lower_k BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION lower_k()
"""


@pytest.mark.parametrize(
    ("kind", "more", "rows", "stored"),
    [
        ("numeric(5,2)", "", [(1.004, "first"), (1.001, "second")], ["first"]),
        ("timestamptz(0)", "", [(1.4, "first"), (1.1, "second"), (2, "x")], ["first", "x"]),
        ("char(5)", "", [("a ", "first"), ("a", "second")], ["first"]),
        ("text", LOWER, [("z", "-"), ("A", "1"), ("z", "2"), ("b", "3"), ("B", "4")], None),
    ],
)
@pytest.mark.parametrize("returning", [(), ("v",)])
@pytest_twisted.ensureDeferred
async def test_keys_that_are_the_same_in_the_table(
    database: Database,
    kind: str,
    more: str,
    rows: list[tuple[Any, str]],
    stored: list[str] | None,
    returning: tuple[str, ...],
) -> None:
    """Of rows that have one key in the table the first is stored and told its own values."""
    database.execute(f"CREATE TABLE t (id serial, k {kind} UNIQUE, v text);{more}")
    found = await answers(database, kv("ignore", returning), *rows)
    wanted = stored or ["-", "1", "3"]
    assert database.column("SELECT v FROM t ORDER BY id") == wanted
    assert found == [
        "+DUP" if v not in wanted else f"+OK v={v}" if returning else "+OK" for _, v in rows
    ]


@pytest_twisted.ensureDeferred
async def test_constraints_that_wait(database: Database) -> None:
    """A message that keeps a deferred rule by its own end is refused for no neighbour's fault."""
    database.execute(
        "CREATE TABLE p (id int PRIMARY KEY);"
        "CREATE TABLE t (k int REFERENCES p DEFERRABLE INITIALLY DEFERRED, v int CHECK (v < 9));"
        "CREATE FUNCTION save(a int, b int) RETURNS void LANGUAGE sql AS"
        " $$INSERT INTO t VALUES (a, b); INSERT INTO p SELECT a WHERE b > 0$$"
    )
    route = kv(sql="SELECT save(%(k)s, %(v)s)")
    found = await answers(database, route, (1, 1), (2, 9), (3, 3), (4, 0))
    assert found == ["+OK", CHECKED, "+OK", "-REJ CONSTRAINT sqlstate=23503"]


@pytest_twisted.ensureDeferred
async def test_assertions(database: Database) -> None:
    """What an ASSERT refuses is refused, as what is raised otherwise."""
    database.execute(
        "CREATE TABLE t (k text, v int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN ASSERT NEW.v < 100; RETURN NEW; END$$;"
        "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    found = await answers(database, kv(), ("a", 1), ("b", 100), ("c", 2))
    assert found == ["+OK", "-REJ CONSTRAINT sqlstate=P0004", "+OK"]


class Alone:
    """The context of a lane on the real store, and of no other lane."""

    def __init__(self, store: Any, clock: Any) -> None:
        self.store, self.clock, self.spooler = store, clock, None
        self.is_spread = False
        self.dead_letters: frozenset[str] = frozenset()
        self.new_id = new_lane
        self.counters = defaultdict[str, RouteCounters](RouteCounters)
        self.breakers = CircuitBreakers(store, clock, retry_delay)
        self.errors: list[object] = []

    def attempt(self, started: float) -> Attempt:
        return Attempt(started, 5.0, False)

    def committed(self, batch: Batch, *how: object, **more: object) -> None: ...
    def note_failure(self, attempt: Attempt, route: str, error: StoreError) -> NextStep:
        return attempt.next_step(error, self.clock.seconds())

    def bug(self, failure: object) -> None:
        self.errors.append(failure)


@pytest.mark.parametrize("kind", ["table", "ignore", "own"])
@pytest_twisted.ensureDeferred
async def test_values_of_a_row_that_a_deferred_constraint_refuses(
    database: Database, kind: str
) -> None:
    """They are told to nobody: each message behind it gets those of its own row."""
    database.execute(
        "CREATE TABLE p (v int PRIMARY KEY); INSERT INTO p SELECT generate_series(1, 9);"
        "CREATE TABLE t (k text UNIQUE, v int REFERENCES p DEFERRABLE INITIALLY DEFERRED)"
    )
    route = kv(
        "ignore" if kind == "ignore" else "error",
        ("k", "v"),
        f"{OWN} RETURNING k, v" if kind == "own" else "",
    )
    rows = [("a", 1), ("b", 0), ("c", 2), ("d", 0), ("e", 3)]
    refused = "-REJ CONSTRAINT sqlstate=23503"
    found = await answers(database, route, *rows)
    assert found == ["+OK k=a v=1", refused, "+OK k=c v=2", refused, "+OK k=e v=3"]


@pytest_twisted.ensureDeferred
async def test_refused_when_nobody_can_say_which(database: Database) -> None:
    """Rows refused at the very end of their transaction are found by halves, alone at last."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    database.execute(
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1);"
        "CREATE TABLE t (k int REFERENCES p DEFERRABLE INITIALLY DEFERRED, v int);"
        "CREATE FUNCTION save(a int, b int) RETURNS void LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO t VALUES (a, b); SET CONSTRAINTS ALL DEFERRED; END$$;"
        # It fails when all else is done.
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF NEW.number > 0 AND EXISTS (SELECT FROM t WHERE v = 13) THEN RAISE 'thirteen'; END IF;"
        " RETURN NULL; END$$"
    )
    route = kv(sql="SELECT save(%(k)s, %(v)s), 1 AS x", returning=("x",))
    with postgres(database, route) as adapter:
        await adapter.store.probe("r")
        database.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON gateway.lane"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()"
        )
        rows = [(1, n) for n in range(10, 18)]
        with pytest.raises(RowError):
            await adapter.store.write(batch(*rows), Fence(new_lane(), 1))
        context = Alone(adapter.store, reactor)
        done: Deferred[Sequence[Run]] = Deferred()
        frames = [json.dumps({"k": k, "v": v}).encode() for k, v in rows]
        lane = Lane(context)  # type: ignore[arg-type]
        lane.queue(
            Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: done.callback(runs))
        )
        told = said([*(await done)])
        assert not context.errors
    assert [answer.split(" :")[0] for answer in told] == [
        "-REJ CONSTRAINT sqlstate=P0001" if n == 13 else "+OK x=1" for _, n in rows
    ]


@pytest_twisted.ensureDeferred
async def test_somebody_elses_connection(database: Database) -> None:
    """An error about another connection, as of a foreign table, is not the end of ours."""
    database.execute(
        "CREATE TABLE t (k text, v int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'no remote' USING ERRCODE = '08001'; END$$;"
        "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    with postgres(database, kv()) as adapter, pytest.raises(TransientError):
        await adapter.store.write(batch(("a", 1)), Fence(new_lane(), 1))


@pytest_twisted.ensureDeferred
async def test_a_value_that_is_no_syntax(database: Database) -> None:
    """Some types call a bad value an error of syntax; it is the value's, not the route's."""
    database.execute("CREATE TABLE t (k tsquery, v int)")
    found = await answers(database, kv(), ("a & b", 1), ("a b", 2), ("c", 3))
    assert found == ["+OK", "-REJ DATA sqlstate=42601", "+OK"]


@pytest.mark.parametrize("name", ["found", "gw_i", "gw_value"])
@pytest_twisted.ensureDeferred
async def test_columns_called_like_variables(database: Database, name: str) -> None:
    """A column may have a name that means something to PL/pgSQL."""
    database.execute(f"CREATE TABLE t ({name} int UNIQUE, v int CHECK (v < 9))")
    columns = {name: Value("k"), "v": Value("v")}
    route = Route(
        "r",
        "t",
        columns,
        reading=Reading("json"),
        conflict="ignore",
        key=(name,),
        returning=(name,),
    )
    found = await answers(database, route, (1, 1), (2, 9), (1, 2))
    assert found == [f"+OK {name}=1", CHECKED, "+DUP"]
