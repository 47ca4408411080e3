"""
The queries of a configuration: all problems at once, and what C{gateway check} says of them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePath

import pytest

from gateway.config.load import Config, Database, default_config, load_config
from gateway.config.query import ParamSection, QuerySection
from gateway.daemon.configuration import endpoint_fault
from gateway.model.errors import ConfigError
from gateway.model.query import Param, Query
from gateway.sql.parameters import called, halves
from tests.support import Database as LiveDatabase
from tests.support import tool

SAMPLE = Path(__file__).parents[2] / "etc" / "gateway.toml"

LAST = Query(
    "last",
    "select id, body from messages order by id desc limit %(n)s",
    {"n": Param("integer", False, "1")},
)


def load(text: str) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), endpoint_fault)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    found = caught.value.problems
    assert all(line.startswith("/etc/g.toml: queries") for line in found)
    return [line.removeprefix("/etc/g.toml: ") for line in found]


def test_the_default_is_what_the_sample_says() -> None:
    """Without a file there is the query of the sample; with one there is what it names."""
    sample = load(SAMPLE.read_text())
    assert default_config().queries == {"last": LAST} == sample.queries
    assert load("").queries == {}
    assert Database().query_connections == 2


def test_sample_is_complete() -> None:
    """Every key of a query and of a parameter is in etc/gateway.toml."""
    data = tomllib.loads(re.sub(r"(?m)^#(?=[^ ])", "", SAMPLE.read_text()))
    queries = data["queries"].values()
    assert {key for query in queries for key in query} == set(QuerySection.__struct_fields__)
    params = [param for query in queries for param in query["params"].values()]
    assert {key for param in params for key in param} == set(ParamSection.__struct_fields__)


def test_values() -> None:
    """What is left out has its default; parameters come as in the file, then as in the SQL."""
    config = load(
        """
        [queries.a]
        sql = "select %(z)s, %(b)s, %(a)s, %(z)s"
        max_rows = 5
        max_bytes = 100
        timeout = 1
        read_only = false
        [queries.a.params]
        a = { type = "bigint[]", default = [1, 2] }
        b = { type = "date", default = 2026-01-02 }
        [queries.b]
        sql = "select 1"
        [queries.c]
        sql = "select %(x)s"
        params = { x = { required = false } }
        """
    )
    assert config.queries["a"] == Query(
        "a",
        "select %(z)s, %(b)s, %(a)s, %(z)s",
        {
            "a": Param("bigint[]", False, "[1,2]"),
            "b": Param("date", False, "2026-01-02"),
            "z": Param(),
        },
        5,
        100,
        1.0,
        False,
    )
    assert list(config.queries["a"].params) == ["a", "b", "z"]
    assert config.queries["b"] == Query("b", "select 1", {}, 1000, 16777216, 5.0, True)
    assert config.queries["c"].params == {"x": Param("text", False, None)}


def test_all_problems_at_once() -> None:
    """Everything that is wrong is named with its key, in one go."""
    found = problems(
        """
        [queries.a]
        sql = "select %(name)s"
        max_row = 5
        [queries.b]
        sql = "select %(name)s"
        max_rows = 0
        timeout = "soon"
        read_only = 1
        [queries.c]
        timeout = 1
        [queries.d]
        sql = "select %(name)s, 5 % 3"
        [queries.e]
        sql = "select '%(name)s'"
        [queries.f]
        sql = "select 1; select 2"
        [queries.g]
        sql = "select %(name)s, %(n)s, %(m)s, %(o)s, %(p)s"
        [queries.g.params.nam]
        [queries.g.params.n]
        type = "integer"
        default = "one"
        [queries.g.params.m]
        typ = "integer"
        [queries.g.params.o]
        type = "smallint[]"
        default = [1, 70000]
        [queries.g.params.p]
        default = { a = 1 }
        [queries.h]
        sql = "select %(a)s, %(b)s"
        [queries.h.params]
        a = "integer"
        b = { required = true, default = 1 }
        [queries.i]
        sql = "/* select */ vacuum"
        [queries."two words"]
        sql = " ; "
        """
    )
    verbs = "a query is one of SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE"
    for wanted in [
        "queries.a.max_row: unknown key; did you mean 'max_rows'?",
        "queries.b.max_rows: expected a whole number >= 1",
        "queries.b.timeout: 'soon' is no duration: write a number of seconds, or \"500ms\","
        ' "5s", "5m", "1h", "1d"',
        "queries.b.read_only: expected true or false, got a whole number",
        "queries.c.sql: is missing",
        "queries.d.sql: '% 3': a parameter is %(name)s, and any other % is %%",
        "queries.e.sql: %(name)s stands inside quotes or a comment; parameters are written"
        " without quotes",
        "queries.f.sql: has more than one statement; put them into a function",
        "queries.g.params.nam: is no parameter of sql; did you mean 'name'?",
        "queries.g.params.n.default: 'one' is not an integer",
        "queries.g.params.m.typ: unknown key; did you mean 'type'?",
        "queries.g.params.o.default: element '70000' is out of range for smallint",
        "queries.g.params.p.default: must be a value, not a table",
        "queries.h.params.a: must be a table: [queries.h.params.a]",
        "queries.h.params.b: required and default exclude each other",
        "queries.two words: cannot be called: a name has no spaces and is not empty",
        f"queries.two words.sql: is empty; {verbs}",
        f"queries.i.sql: begins with VACUUM; {verbs}",
    ]:
        assert wanted in found
        found.remove(wanted)
    assert found == []


def test_queries_must_be_tables() -> None:
    """What is no table of queries is named as such."""
    assert problems("queries = 1") == ["queries: must be tables: [queries.NAME]"]
    assert problems("[queries]\na = 1") == ["queries.a: must be a table: [queries.a]"]


def test_names_of_functions() -> None:
    """Whatever stands before a parenthesis may be a function, as PostgreSQL would look it up."""
    sql = """select F(1), "G h"( 2 ), s.k /* x( */ (3), 'l('(4), %(m)s, a in (5) -- n("""
    assert called(sql) == ["f", "G h", "k", "in"]


@pytest.mark.parametrize(
    ("sql", "head"),
    [
        ("select (with a as (select 1) select 2)", ""),
        ("/* with */ insert into t default values", ""),
        ("with a as (select 1), b as (insert into t select 1) ", "itself"),
        ("WITH RECURSIVE a AS (VALUES (1)) ", "itself"),
    ],
)
def test_halves_of_a_statement(sql: str, head: str) -> None:
    """The statement that the queries of WITH are for is told from them."""
    if head:
        assert halves(f"{sql}delete from t") == (sql, "delete from t")
    else:
        assert halves(sql) == ("", sql)


def test_check(database: LiveDatabase, tmp_path: Path) -> None:
    """Every query is prepared: what it takes and gives, or each problem with its key."""
    database.execute(
        "CREATE TABLE m (id bigint, body text);"
        " CREATE FUNCTION noted(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';"
        " CREATE TYPE mood AS ENUM ('fine')"
    )
    config = tmp_path / "g.toml"
    config.write_text(
        f"""
        [database]
        dsn = '''{database.dsn}'''
        [queries.last]
        sql = "select id, body from m order by id desc limit %(n)s"
        params = {{ n = {{ type = "integer", default = 1 }} }}
        [queries.none]
        sql = "delete from m"
        read_only = false
        [queries.noted]
        sql = "select noted(%(x)s) as x"
        params = {{ x = {{ type = "bigint" }} }}
        [queries.table]
        sql = "select * from n"
        [queries.type]
        sql = "select %(x)s"
        params = {{ x = {{ type = "intger" }} }}
        """
        + """
        [queries.pseudo]
        sql = "select %(x)s"
        params = { x = { type = "record" } }
        [queries.mood]
        sql = "select %(x)s as x"
        params = { x = { type = "mood", default = "fine" } }
        [queries.bool]
        sql = "select %(x)s as x"
        params = { x = { type = "pg_catalog.bool", default = "maybe" } }
        [queries.twice]
        sql = "select 1 as a, 2 as a"
        [queries.twice_written]
        sql = "update m set id = id returning id, id"
        read_only = false
        [queries.writes]
        sql = "insert into m values (1)"
        [queries.text]
        sql = "select * from m where id = %(id)s"
        """
    )
    done = tool("check", str(config))
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("queries")] == [
        "queries.last: n integer -> id bigint, body text",
        "queries.none: nothing -> no rows",
        "queries.noted: x bigint -> x bigint; each call by itself, since it calls noted(),"
        " which is volatile",
        "queries.mood: x mood -> x mood",
    ]
    assert done.stderr.replace(f"{config}: ", "").splitlines() == [
        'queries.table.sql: relation "n" does not exist',
        "queries.type.params.x.type: type 'intger' does not exist; did you mean 'integer'?",
        "queries.pseudo.params.x.type: type 'record' does not exist",
        "queries.bool.params.x.default: 'maybe' is not a truth value",
        "queries.twice.sql: has two columns called 'a'; name one of them by AS",
        "queries.twice_written.sql: has two columns of the same name; name one of them by AS",
        "queries.writes.sql: writes; set read_only = false, or have it read only",
        "queries.text.sql: operator does not exist: bigint = text; parameter 'id' is text as long"
        " as [queries.text.params.id] names no other type",
    ]
