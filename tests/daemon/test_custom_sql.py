"""
Routes with SQL of the user's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sql.parameters import gives_rows, parameters, with_places
from tests.faults.load import responsive
from tests.support import Database, Gateway, wait_until

StartWith = Callable[[str], Gateway]

SECTIONS = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "r"
window = 100_000
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.r]
dead_letter = true
"""

SCHEMA = """
    CREATE TABLE users (
        id bigint GENERATED ALWAYS AS IDENTITY, name text UNIQUE, age integer CHECK (age < 150),
        seen timestamptz, logins integer NOT NULL DEFAULT 0
    );
    CREATE FUNCTION save_user(given text, old integer) RETURNS bigint LANGUAGE sql AS
        $$INSERT INTO users (name, age) VALUES (given, old) RETURNING id$$;
    CREATE PROCEDURE saved(given text, old integer) LANGUAGE sql AS
        $$INSERT INTO users (name, age) VALUES (given, old)$$;
"""


def people(*given: tuple[str, object]) -> bytes:
    return b"".join(b"%s\n" % json.dumps({"name": n, "age": a}).encode() for n, a in given)


@pytest.mark.parametrize(
    ("sql", "returns"),
    [
        ("SELECT save_user(%(name)s, %(age)s) AS id", True),
        ("select id from save_user(%(name)s, %(age)s) as id;", True),
        ("INSERT INTO users (name, age) VALUES (%(name)s, %(age)s) RETURNING id", True),
        ("INSERT INTO users (name, age) VALUES (%(name)s, %(age)s) -- 100 %%", False),
        (
            "WITH n AS (INSERT INTO users (name, age) VALUES (%(name)s, %(age)s) RETURNING id)"
            " SELECT id FROM n",
            True,
        ),
        (
            "WITH n AS (SELECT %(name)s::text AS name, %(age)s::int AS age)"
            " INSERT INTO users (name, age) SELECT name, age FROM n",
            False,
        ),
        (
            "MERGE INTO users u USING (VALUES (%(name)s::text, %(age)s::int)) AS n(name, age)"
            " ON false WHEN NOT MATCHED THEN INSERT (name, age) VALUES (n.name, n.age)",
            False,
        ),
        ("CALL saved(%(name)s, %(age)s)", False),
        ("CALL saved(upper(%(name)s), %(age)s::int)", False),
    ],
)
def test_any_statement(start_with: StartWith, database: Database, sql: str, returns: bool) -> None:
    """Stored in order, one statement a message; each bad one is refused alone, with its reason."""
    if sql.startswith("MERGE") and database.column("SHOW server_version_num") < ["150000"]:
        pytest.skip("PostgreSQL has MERGE since version 15")
    database.execute(SCHEMA)
    keys = f"sql = '''{sql}'''\nformat = \"json\"" + ('\nreturning = ["id"]' if returns else "")
    peer = start_with(SECTIONS + keys).connect()
    peer.send(
        people(("a", 1), ("b%", 2), ("c'; DROP TABLE users; --", 3), ("b%", 4), ("d", 200))
        + people(("e", "old"), ("f", None))
        + b"{\n"
    )
    answers = [line.decode() for line in peer.read_lines(8)]
    assert [answer.split(" :")[0].split(" id=")[0] for answer in answers] == [
        *("+OK", "+OK", "+OK"),
        *("-REJ CONSTRAINT sqlstate=23505", "-REJ CONSTRAINT sqlstate=23514"),
        *(answers[5].split(" :")[0], "+OK", "-REJ FORMAT"),
    ]
    assert (answers[5].startswith("-REJ DATA") and "age" in answers[5]) or "CALL" in sql
    rows = database.execute("SELECT id, lower(name), age FROM users ORDER BY id")
    assert [(name, age) for _, name, age in rows] == [
        *(("a", 1), ("b%", 2), ("c'; drop table users; --", 3), ("f", None))
    ]
    if returns:
        told = [answer for answer in answers if answer.startswith("+OK")]
        assert told == [f"+OK id={id}" for id, _, _ in rows]
    assert database.column("SELECT count(*) FROM gateway.dead_letter") == [4]
    peer.close()


def test_text_and_metadata(start_with: StartWith, database: Database) -> None:
    """One parameter of a text route takes the whole message; others are named."""
    database.execute(SCHEMA)
    gateway = start_with(
        SECTIONS
        + """
        sql = "INSERT INTO users (name) VALUES (%(name)s)"
        [listeners.logins]
        endpoint = "tcp:0:interface=127.0.0.1"
        route = "logins"
        [routes.logins]
        sql = '''
            UPDATE users SET logins = logins + 1, seen = %(at)s WHERE name = %(who)s
            RETURNING logins, name'''
        returning = ["logins", "name"]
        [routes.logins.columns]
        who = "@frame"
        at = "@received_at"
        """
    )
    names = gateway.connect("lines")
    names.send(b"ann\n\xff\nbob\n")
    assert [answer[:9] for answer in names.read_lines(3)] == [b"+OK", b"-REJ DATA", b"+OK"]
    logins = gateway.connect("logins")
    logins.send(b"ann\nann\nnobody\nbob\n")
    assert logins.read_lines(4) == [
        *(b"+OK logins=1 name=ann", b"+OK logins=2 name=ann", b"+OK", b"+OK logins=1 name=bob")
    ]
    assert database.column("SELECT count(*) FROM users WHERE seen > now() - interval '1 min'") == [
        2
    ]
    names.close()
    logins.close()


def test_texts_of_several_lines(start_with: StartWith, database: Database) -> None:
    """What stands in quotes reaches PostgreSQL as it is written, whatever it looks like."""
    database.execute("CREATE TABLE t (body text, rest text)")
    sql = (
        "INSERT INTO t (body, rest) -- a ; comment\n"
        "VALUES (%(body)s || '\n\n  two; lines %% $1' || $x$ 'it''s'\n$gateway$ $x$, 'end;'); \n"
    )
    peer = start_with(SECTIONS + f'sql = """{sql}"""').connect()
    peer.send(b"one\n")
    assert peer.read_lines(1) == [b"+OK"]
    assert database.execute("SELECT body, rest FROM t") == [
        ("one\n\n  two; lines % $1 'it''s'\n$gateway$ ", "end;")
    ]
    peer.close()


def test_many_in_one_round_trip(start_with: StartWith, database: Database) -> None:
    """Ten thousand messages with a bad one in a hundred: exactly these are refused, no stall."""
    database.execute(SCHEMA)
    sql = "SELECT save_user(%(name)s, %(age)s) AS id"
    gateway = start_with(SECTIONS + f'sql = "{sql}"\nformat = "json"\nreturning = ["id"]')
    peer = gateway.connect()
    with responsive(gateway):
        peer.send(people(*[(f"n{n}", 200 if n % 100 == 50 else 20) for n in range(10_000)]))
        answers = peer.read_lines(10_000)
    stored = database.execute("SELECT name, id FROM users ORDER BY id")
    assert [name for name, _ in stored] == [f"n{n}" for n in range(10_000) if n % 100 != 50]
    ids = dict(stored)
    for number, answer in enumerate(answers):
        if number % 100 == 50:
            assert answer.startswith(b"-REJ CONSTRAINT sqlstate=23514 :")
        else:
            assert answer == b"+OK id=%d" % ids[f"n{number}"]
    peer.close()


def test_a_statement_that_is_of_no_use(start_with: StartWith, database: Database) -> None:
    """The operator gets one line with the reason; the route heals by itself."""
    database.execute(SCHEMA)
    gateway = start_with(SECTIONS + 'sql = "SELECT save_user(%(name)s, 7)"\nformat = "json"')
    peer = gateway.connect()
    database.execute("DROP FUNCTION save_user")
    peer.send(people(("a", 1)))
    assert peer.read_lines(1)[0].startswith(b"-TRY ROUTE sqlstate=42883 ")
    assert gateway.log.count("its sql: function save_user(unknown, integer) does not exist") == 1
    database.execute("DROP TABLE users; DROP PROCEDURE saved;" + SCHEMA)

    def taken() -> bool:
        peer.send(people(("b", 1)))
        return peer.read_lines(1) == [b"+OK"]

    wait_until(taken, "the route is mended")
    assert database.execute("SELECT name, age FROM users") == [("b", 7)]
    peer.close()


@given(st.lists(st.sampled_from(["%(a)s", "%(b c)s", "%%", "x", "%%(a)s", "'$1'", "\n"])))
def test_parameters(parts: list[str]) -> None:
    """Names become places, %% becomes %, and nothing else changes."""
    sql = "-" + "".join(parts) + "-"
    names = [part[2:-2] for part in parts if part in ("%(a)s", "%(b c)s")]
    assert parameters(sql) == list(dict.fromkeys(names))
    places = {"%(a)s": "<a>", "%(b c)s": "<b c>", "%%": "%", "%%(a)s": "%(a)s"}
    expected = "-" + "".join(places.get(part, part) for part in parts) + "-"
    assert with_places(sql, lambda name: f"<{name}>") == expected


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("INSERT INTO t VALUES ('%(k)s')", "stands inside quotes or a comment"),
        ("SELECT f(%(a)s) -- %(b)s", "stands inside quotes or a comment"),
        ("SELECT $x$ %(b)s $x$", "stands inside quotes or a comment"),
        ('SELECT "%(b)s"', "stands inside quotes or a comment"),
        ("SELECT f(%(a)s); DELETE FROM t", "has more than one statement"),
        ("SELECT f(%(a)s);;", "has more than one statement"),
    ],
)
def test_what_is_not_one_statement(sql: str, problem: str) -> None:
    """Nothing is run that was not meant as the statement, nor a parameter overlooked."""
    with pytest.raises(ValueError, match=problem):
        parameters(sql)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select f(%(a)s)", True),
        ("VALUES (1)", True),
        ("INSERT INTO t VALUES (';--', $$ ; $$) /* ; */ ; -- done", False),
        ("INSERT INTO t SELECT 1", False),
        ("insert into t values (1) returning id", True),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING id) SELECT id FROM a", True),
        ("WITH a AS (SELECT 1 RETURNING) UPDATE t SET x = 'returning'", False),
        ("WITH RECURSIVE a(n) AS (SELECT 1) DELETE FROM t RETURNING x", True),
        ("MERGE INTO t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE", False),
        ("CALL f(%(a)s)", False),
    ],
)
def test_what_gives_rows(sql: str, rows: bool) -> None:
    """What a statement returns is told by its own words, not by those in quotes or within."""
    parameters(sql)
    assert gives_rows(sql) is rows
    assert ";" not in with_places(sql, str).replace("';--'", "").replace("$$ ; $$", "").replace(
        "/* ; */", ""
    )


@pytest.mark.parametrize("sql", ["a % b", "%s", "%(a)d", "%(a", "%()s", "100%"])
def test_a_stray_percent(sql: str) -> None:
    """What is neither a parameter nor %% is named."""
    with pytest.raises(ValueError, match=r"a parameter is %\(name\)s, and any other % is %%"):
        parameters(sql)
