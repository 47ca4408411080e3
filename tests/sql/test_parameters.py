"""
Parameters as elsewhere, C{$1}, C{?} or C{:name}: what is said of them, and of what only looks so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.model.errors import ConfigError
from gateway.sql.parameters import foreign_parameter, parameters
from tests.support import Database, Gateway, tool

HINT = "parameters are written %({})s here, not {}"


def problems(text: str) -> list[str]:
    """What is said of a file, without its name."""
    with pytest.raises(ConfigError) as caught:
        load_config(text, PurePath("/etc/g.toml"), endpoint_fault)
    return [line.removeprefix("/etc/g.toml: ") for line in caught.value.problems]


def test_numbers_are_told_at_once() -> None:
    """PostgreSQL would take $1 for a parameter of ours: it is refused before, by its name."""
    text = """
    [listeners.a]
    endpoint = "tcp:1"
    route = "r"
    [routes.r]
    sql = "insert into t values ($2, %(a)s)"
    columns = { a = "@frame", b = "@peer" }
    [queries.q]
    sql = "select * from t where id = $1"
    [queries.q.params.id]
    [queries.p]
    sql = "select $3"
    """
    assert problems(text) == [
        f"routes.r.sql: {HINT.format('b', '$2')}",
        f"queries.q.sql: {HINT.format('id', '$1')}",
        f"queries.p.sql: {HINT.format('name', '$3')}",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        *("select a$1, b$$, %(n)s from t", "select '$1', \"$2\", $$ $3 $$, $x$ $4 $x$, %(n)s"),
        *("select %(n)s -- $1", "select /* $1 */ %(n)s", "select E'\\'$1' || %(n)s"),
    ],
)
def test_what_is_no_number(sql: str) -> None:
    """Names with a dollar, quotes of all kinds and comments are left alone."""
    assert parameters(sql) == ["n"]


@pytest.mark.parametrize(
    ("sql", "name", "written"),
    [
        *(("insert into t values (?)", "name", "?"), ("select * from t where a=?", "name", "?")),
        *(("select ?::int", "name", "?"), ("select a from t limit ?", "name", "?")),
        *(("select * from t where a = ? and b = 1", "name", "?"),),
        *(("insert into t values (:who, 1)", "who", ":who"), ("select a=:b", "b", ":b")),
    ],
)
def test_other_ways(sql: str, name: str, written: str) -> None:
    """? and :name are known where a value is missing, by their names where they have one."""
    assert foreign_parameter(sql) == HINT.format(name, written)


@pytest.mark.parametrize(
    "sql",
    [
        *("select a ? 'b'", "select a ?| array['x'] and b ?& c", "select a @? '$.x'"),
        *("select a ? %(k)s", "select (a) ? 'b'", "select a #> 'x' ? 'b'", "select l ?-| m"),
        *("select a::int", "select a[1:n]", "select a[:n]", "select f(x := 1)", "select ':a', '?'"),
        *("select to_char(x, 'HH:MI')", "select 1 -- ? :a", "select $$ ? :a $$", "select ?- l"),
    ],
)
def test_operators_and_casts(sql: str) -> None:
    """Operators of jsonb and of shapes, casts, slices and what stands in quotes are none."""
    assert foreign_parameter(sql) == ""


@given(st.text(alphabet="a1$?:'\"[](),= \n-/*%s\\", max_size=30))
def test_any_statement(sql: str) -> None:
    """Whatever is written, it has parameters or a reason, and the hint names one."""
    foreign_parameter(sql)
    try:
        parameters(sql, ["a"])
    except ValueError as error:
        assert str(error)


def test_a_route_without_a_parameter_is_told() -> None:
    """Where a route has no parameter of ours, one of another kind is what was meant."""
    text = '[listeners.a]\nendpoint = "tcp:1"\nroute = "r"\n[routes.r]\nsql = "{}"\n'
    for sql, told in (
        ("insert into t values (?)", f"has no parameter: {HINT.format('name', '?')}"),
        ("insert into t values (:b)", f"has no parameter: {HINT.format('b', ':b')}"),
        ("select f(a ? 'b')", "has no parameter; write %(name)s"),
    ):
        assert problems(text.format(sql)) == [f"routes.r.sql: {told}, or messages would be lost"]


def test_what_postgresql_refuses_has_the_hint(database: Database, tmp_path: Path) -> None:
    """gateway check gives PostgreSQL's words and the hint; what PostgreSQL takes has none."""
    database.execute("CREATE TABLE t (a jsonb, b int[], c text)")
    config = tmp_path / "g.toml"
    config.write_text(
        f"""
        [database]
        dsn = '''{database.dsn}'''
        [listeners.a]
        endpoint = "tcp:1"
        route = "r"
        [routes.r]
        sql = "insert into t (c, b) values (%(c)s, ?)"
        columns = {{ c = "@frame" }}
        [routes.s]
        sql = "insert into t (c) select :c || %(c)s"
        columns = {{ c = "@frame" }}
        [routes.t]
        sql = "insert into t (c) select %(c)s from t where a ? 'x' and b[1:2]::text = ''"
        columns = {{ c = "@frame" }}
        [routes.u]
        sql = "insert into t (c) selct %(c)s, 'a ? b', ':c'"
        columns = {{ c = "@frame" }}
        [queries.p]
        sql = "select * from t where c = ?"
        [queries.q]
        sql = "select * from t where c = :c"
        [queries.s]
        sql = "select * from t where a ? 'x' or a ?| array['x'] or b[1:2]::text = %(c)s"
        """
    )
    done = tool("check", str(config))
    found = dict(
        line.removeprefix(f"{config}: ").split(": ", 1) for line in done.stderr.splitlines()
    )
    assert done.returncode == 1
    assert set(found) == {"routes.r.sql", "routes.s.sql", "routes.u.sql", "queries.p.sql",
                          "queries.q.sql"}  # fmt: skip
    assert all("syntax error" in text for text in found.values())
    assert found["routes.r.sql"].endswith(f"; {HINT.format('name', '?')}")
    assert found["routes.s.sql"].endswith(f"; {HINT.format('c', ':c')}")
    assert found["queries.p.sql"].endswith(f"; {HINT.format('name', '?')}")
    assert found["queries.q.sql"].endswith(f"; {HINT.format('c', ':c')}")
    assert "parameters are written" not in found["routes.u.sql"]


def test_the_log_has_it_too(
    database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """A gateway that starts with such a route says what to write."""
    config = tmp_path / "g.toml"
    config.write_text(
        f"[database]\ndsn = '''{database.dsn}'''\n"
        '[listeners.a]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "r"\n'
        '[routes.r]\nsql = "select :b, %(a)s"\n'
    )
    gateway = start_gateway("--config", str(config), until="not ready yet: ")
    gateway.wait_log(r"not ready yet: route r: its sql: syntax error .* here, not :b")
