"""
Sessions whose defaults are not PostgreSQL's: of a role, of a database, of C{options=}.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sql.literals import filled, literal, quoted_literal
from tests.support import Database, Gateway, Peer, tool

ODD: Final = {
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "escape_string_warning": "on",
    "bytea_output": "escape",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "client_encoding": "SJIS",
    "extra_float_digits": "-15",
    "default_transaction_isolation": "serializable",
    "quote_all_identifiers": "on",
    "lc_messages": "C",
    "search_path": "public, pg_catalog",
}
"""Settings that change what a text means, or how a value is written."""

CONFIG: Final = r"""
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
create = true
dead_letter = true
columns = { body = "@frame", peer = "@peer" }
[routes.keyed]
table = "keyed"
conflict = "ignore"
key = ["k"]
format = "json"
columns = { k = "k", b = "b", t = "t" }
[routes.own]
format = "json"
columns = { k = "k" }
sql = '''INSERT INTO own VALUES (%(k)s, 'a\b')'''
[queries.echo]
sql = '''SELECT %(s)s::text AS s, 'a\b' AS own'''
params = { s = { type = "text" } }
"""

HOSTILE: Final = (
    r"\', NULL); DROP TABLE messages; --",
    r"\'); DROP TABLE messages; --",
    r"\\'); DROP TABLE messages; --",
    "'); DROP TABLE messages; --",
    r"C:\new\table",
    "\\",
    "\\'",
    "'\\",
    "ソ表能\\",
    "%s %(x)s %% $1",
)
"""What would end its own quotes, or be another text, where a backslash is an escape."""


def as_options(settings: dict[str, str]) -> str:
    """Of a connection string, where they are escaped once more."""
    words = [f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items()]
    return "options='" + " ".join(words).replace("\\", "\\\\") + "'"


@pytest.fixture(params=["database", "role", "options"])
def odd(request: pytest.FixtureRequest, database: Database) -> str:
    """A connection string of such sessions."""
    with_role = database.dsn
    if request.param == "options":
        settings = {name: value for name, value in ODD.items() if name != "client_encoding"}
        return f"{database.dsn} {as_options(settings)}"
    if request.param == "role":
        name = psycopg2.extensions.parse_dsn(database.dsn)["dbname"]
        database.execute(f'CREATE ROLE "{name}" LOGIN SUPERUSER')
        of, with_role = f'ROLE "{name}"', f"{database.dsn} user={name}"
    else:
        of = f'DATABASE "{psycopg2.extensions.parse_dsn(database.dsn)["dbname"]}"'
    for name, value in ODD.items():
        database.execute(f"ALTER {of} SET {name} = {value if ',' in value else repr(value)}")
    return with_role


def ask(peer: Peer, *lines: str) -> list[str]:
    """The words of the answers."""
    peer.send("".join(f"{line}\n" for line in lines).encode())
    return [answer.split()[0].decode() for answer in peer.read_lines(len(lines))]


def test_what_is_sent_is_what_is_stored(
    odd: str, database: Database, start_with: Callable[..., Gateway]
) -> None:
    """By every kind of statement, and never run: plain, by key, own SQL, CALL, dead letters."""
    database.execute(
        "CREATE TABLE keyed (k text PRIMARY KEY, b bytea, t timestamptz);"
        "CREATE TABLE own (k text, constant text)"
    )
    gateway = start_with(CONFIG, dsn=odd)
    peer = gateway.connect("commands")
    count = len(HOSTILE)
    assert ask(peer, *(f"PUT messages {text}" for text in HOSTILE)) == ["+OK"] * count
    database.execute("ALTER TABLE messages ADD CHECK (body NOT LIKE '%refused%')")
    # As a block: one row of the batch is refused by the database.
    lines = [f"PUT messages {text}" for text in (*HOSTILE, f"{HOSTILE[0]} refused")]
    assert ask(peer, *lines) == [*["+OK"] * count, "-REJ"]
    assert database.bodies() == [*HOSTILE] * 2
    where = ("--config", str(gateway.cwd / "gateway.toml"))
    shown = tool("dead-letters", *where, "show", "1", "--raw").stdout
    assert shown == f"{HOSTILE[0]} refused"

    keyed = [{"k": text, "b": r"\x5c27", "t": "2026-11-12T01:02:03Z"} for text in HOSTILE]
    lines = [f"PUT keyed {json.dumps(value)}" for value in (*keyed, keyed[0])]
    assert ask(peer, *lines) == [*["+OK"] * count, "+DUP"]
    assert database.column("SELECT k FROM keyed ORDER BY ctid") == [*HOSTILE]
    alike = "SELECT DISTINCT encode(b, 'hex'), t = '2026-11-12T01:02:03Z' FROM keyed"
    assert database.execute(alike) == [("5c27", True)]

    assert ask(peer, *(f"PUT own {json.dumps({'k': t})}" for t in HOSTILE)) == ["+OK"] * count
    assert database.execute("SELECT k, constant FROM own") == [(t, r"a\b") for t in HOSTILE]

    peer.send("".join(f"CALL echo {json.dumps([text])}\n" for text in HOSTILE).encode())
    answers = peer.read_lines(2 * count)
    rows = [json.loads(line) for line in answers if line.startswith(b"{")]
    assert rows == [{"s": text, "own": r"a\b"} for text in HOSTILE]
    peer.close()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_text_cannot_end_its_quotes(text: str) -> None:
    """Read by either rule, a literal is one literal, and says what it was made of."""
    written = quoted_literal(text).strip()
    escapes = written.startswith("E")
    inner = written[1 + escapes : -1]
    if not escapes:
        assert "\\" not in inner
    read, rest = "", inner
    while rest:
        if rest[0] == "\\" or rest.startswith("''"):
            assert rest[1] == rest[0]
            read, rest = read + rest[0], rest[2:]
        else:
            assert rest[0] != "'"
            read, rest = read + rest[0], rest[1:]
    assert read == text


def test_literals_of_every_kind(database: Database) -> None:
    """Each comes back as what it was, in sessions of both kinds."""
    values = [
        None,
        True,
        False,
        0,
        -5,
        10**18,
        1.5,
        -0.25,
        1e300,
        "",
        "a'\\",
        b"\0\\'\xff",
        ["a\\", None],
    ]
    casts = ["text", "bool", "bool", "bigint", "bigint", "bigint", "float8", "float8", "float8"]
    casts += ["text", "text", "bytea", "text[]"]
    places = ", ".join(f"%s::{cast}" for cast in casts)
    for setting in ("on", "off"):
        sql = f"SET standard_conforming_strings = {setting}; SELECT 5 -%s, {places}, %s::text[]"
        ((five, *found, none),) = database.execute(
            filled(sql, [-5, *values, []]).replace("%", "%%")
        )
        assert five == 10 and none == []
        assert [bytes(v) if isinstance(v, memoryview) else v for v in found] == values


def test_what_is_no_value() -> None:
    """A NUL is in no text of PostgreSQL's; what nobody foresaw is not guessed."""
    with pytest.raises(ValueError, match="NUL"):
        literal("a\0b")
    with pytest.raises(TypeError, match="no literal for object"):
        literal(object())
