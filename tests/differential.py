"""
Values beside PostgreSQL's own: what a route stores, and C{INSERT ... VALUES ('text')}.

Every type that a column can have is given literals, picked by hand and made from these by
small changes. What the server accepts and stores of each is the measure; json, csv, logfmt,
msgpack and cbor routes and SQL of the user's own must do the same, but for the table of differences
in docs/routes.md. In msgpack and cbor a literal is a number, a truth value, bytes, an address or a
UUID where one is written just like it, else a text. The suite does a part of it; the long form
goes on with one seed after the other::

    python -m tests.differential --dsn "dbname=..." --rounds 20
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import cbor2
import msgpack
import psycopg2

from gateway.formats.objects import json_token
from gateway.model.batch import Chunk, Origin, Slice
from gateway.model.errors import FramesRefused
from gateway.model.route import Reading, Route, Value
from gateway.postgres.schema.findings import Findings
from gateway.postgres.schema.migrations import migrate
from gateway.postgres.schema.types import sql_types
from gateway.postgres.store.catalog import examine
from gateway.sql.fates import FATES_OF
from gateway.sql.statement import Insert, Statement, bind_at_once, named

DOCS: Final = Path(__file__).parent.parent / "docs" / "routes.md"

EXTENSIONS: Final = {"citext": ("citext",), "hstore": ("hstore",), "postgis": ("geometry",)}
"""Extension -> its types."""

DECLARED: Final = """
CREATE DOMAIN short AS varchar(3); CREATE DOMAIN shorter AS short;
CREATE DOMAIN padded AS char(3); CREATE DOMAIN padded_twice AS padded;
CREATE DOMAIN bits AS varbit(4); CREATE DOMAIN shorts AS varchar(3)[];
CREATE DOMAIN small AS int4 CHECK (value < 100); CREATE DOMAIN days AS interval day;
CREATE DOMAIN code AS uuid; CREATE DOMAIN flags AS bit(4);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'of');
CREATE TYPE pair AS (name varchar(3), flags bit(4), number small);
CREATE DOMAIN some_pair AS pair CHECK (value IS NULL OR (value).name <> 'no');
"""
_TYPES: Final = """
    SELECT format_type(oid, -1) FROM pg_type
     WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm', 'e')
       AND typelem NOT IN (SELECT oid FROM pg_type WHERE typtype IN ('p', 'c'))
       AND (%s OR typinput <> 'array_in'::regproc)
     ORDER BY typname
"""
_JUDGE: Final = """
CREATE OR REPLACE FUNCTION pg_temp.judge(literals text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    states text[];
BEGIN
    FOR n IN 1 .. cardinality(literals) LOOP
        BEGIN
            EXECUTE format('INSERT INTO given VALUES (%s, %L)', n, literals[n]);
            states := states || ''::text;
        EXCEPTION WHEN OTHERS THEN
            states := states || sqlstate;
        END;
    END LOOP;
    RETURN states;
END $$
"""
"""The SQLSTATE of each literal, C{''} where it is stored."""

MADE: Final = (
    *("bit(1)", "bit(4)", "varbit(4)", "varchar(3)", "char(3)", "numeric(5,2)", "time(1)"),
    *("interval day", "interval(2)", "short", "shorter", "padded"),
    *("padded_twice", "bits", "shorts", "small", "days", "code", "flags", "mood", "pair"),
    *("some_pair", "varchar(3)[]", "char(3)[]", "bit(4)[]", "shorter[]", "interval day[]"),
    *("numeric(5,2)[]", "mood[]", "pair[]"),
)
"""With a length, domains at any depth, enums, composites, and arrays of them."""

PICKED: Final = (
    *("", " ", "0", "1", "-1", "+7", " 7 ", "007", "10", "1010", "10101", "32768", "2147483648"),
    *("9223372036854775808", "1.5", ".5", "5.", "1.005", "999.995", "1e3", "1e400", "1e-400"),
    *("0x1F", "0b101", "1_000", "0x1p3", "nan", "-nan", "Infinity", "-inf", "1e131071"),
    *("1e131072", "1e-16383", "1e-16384", "0" * 50 + "1", "3.4028235e38", "3.5e38", "1\u00a0"),
    *("t", "TRUE", "tru", "of", "o", "off", "On", "yes", "n", "ye", "nope"),
    *("a", "abc", "abc1", "abc   ", "   abc", "ab    ", "\u00e9\u00e9\u00e9", "a,b", 'a"b', "a\\b"),
    *("a'b", "%s", "a\nb", "B101", "X1F", "x'1f'", "\\x00ff", "\\x00 ff", "\\x0", "YWJj"),
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "A0EEBC999C0B4EF8BB6D6BB9BD380A11",
    "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
    "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    "a-0eebc999c0b4ef8bb6d6bb9bd380a11",
    " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    *("10.0.0.1", "10.0.0.1/8", "10.0.0.0/8", "10.1/16", "10", "010.0.0.1", "10.0.0.256"),
    *("10.0.0.1/33", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "2001:db8::/32", "::/0/0"),
    *("08:00:2b:01:02:03", "08002b:010203", "08:00:2b:01:02:03:04:05", "12:34:56", "24:00"),
    *("12:34:56.789+02", "1 day", "P1DT2H", "1 mon 2 days", "10 min", "@ 1 hour ago", "1-2"),
    *("2026-11-21", "2026-11-21 10:00:00", "2026-11-21T10:00:00.1234567Z", "20261121"),
    *("2026-11-21 10:00:00+02", "infinity", "1700000000", "January 8, 1999", "0044-03-15 BC"),
    *(
        "(1,2)",
        "1,2",
        "((1,2),(3,4))",
        "[(1,2),(3,4)]",
        "<(1,2),3>",
        "{1,2,3}",
        "((1,2),(3,4),(5,6))",
    ),
    *("[1,5)", "(,)", "empty", "[5,1]", "{[1,3),[5,7)}", "[2026-01-01,2026-02-01)", "{}"),
    *("[2:3]={1,2}", "[0:0]={a}", "{{1,2},{3,4}}", "{{1},{2,3}}", "{abc1}", "{abc ,d}", "{1010}"),
    *('{"a b",NULL,"NULL"}', "[1, 2]", '["a"]', "[]", "{sad,ok}", "{10}", " {1} ", "{1,}", "1 2 3"),
    *("sad", "OK", "(abc,1010,7)", "(abc1,1010,7)", "(abc,10,7)", "(abc,1010,700)", "(no,,)"),
    *("(a,b)", '{"(abc,1010,7)"}', "pg_class", "pg_catalog.pg_type", "no_such", "123", "lower"),
    *("lower(text)", "+(int4,int4)", "english", "pg_catalog", "C", "=", "(0,1)", "0/16B3748"),
    *("10:20:10,14,15", "gateway=r/gateway", "fat & rat", "'a':1 b:2A", "a b c", "$.a[*]", "$.a ?"),
    *(
        '{"a": 1, "a": [null]}',
        '"x"',
        "null",
        "[1,",
        '"\\u0000"',
        '"\\ud800"',
        "[" * 1200 + "]" * 1200,
    ),
    *("<a>b</a>", "<a>", "12,345.67", "$1", "a=>1, b=>NULL", '"a"=>"1"', "POINT(1 2)"),
    *("SRID=4326;POINT(1 2)", "0101000000000000000000F03F0000000000000040"),
)
_ALPHABET: Final = "0123456789abcdefxABTZ \t\n+-.:,;/_'\"\\(){}[]<>=@%\u00a0\u00e9"


def made(seed: int, count: int, picked: Sequence[str] = PICKED) -> list[str]:
    """
    Literals by a few small changes of others.
    """
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        text = chance.choice(picked)[:60]
        for _ in range(chance.randint(1, 3)):
            place = chance.randint(0, len(text))
            what = chance.randrange(5)
            if what == 0:
                text = text[:place] + text[place + 1 :]
            elif what == 1:
                text = text[:place] + chance.choice(_ALPHABET) + text[place:]
            elif what == 2:
                text = text[:place] + chance.choice(_ALPHABET) + text[place + 1 :]
            elif what == 3:
                text = text.swapcase() if chance.random() < 0.5 else f" {text} "
            else:
                text = text[:place] + text[: chance.randint(0, 3)] + text[place:]
        found.append(text)
    return found


@dataclass(frozen=True, slots=True)
class Stored:
    """
    What became of a literal.

    @ivar value: what was stored, as text; C{None} where it was refused.
    @ivar sqlstate: of a refusal by the server.
    """

    value: str | None
    sqlstate: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """
    A literal that a route takes in another way than PostgreSQL.
    """

    type: str
    form: str
    literal: str
    wanted: Stored
    found: Stored

    @property
    def effect(self) -> str:
        """C{taken}, C{refused}, C{other} value, or another class of C{sqlstate}."""
        if self.wanted.value is None:
            return "sqlstate" if self.found.value is None else "taken"
        return "refused" if self.found.value is None else "other"


@dataclass(frozen=True, slots=True)
class Intended:
    """
    A row of the table of intended differences.

    @ivar form: the only one of L{FORMS} that it is for; C{""}: every one.
    @ivar wanted: what PostgreSQL stores, C{takes} for anything; C{None}: it refuses.
    @ivar found: the same of the gateway.
    """

    types: tuple[str, ...]
    form: str
    value: str
    wanted: str | None
    found: str | None

    @property
    def effect(self) -> str:
        """As L{Difference.effect}."""
        if self.wanted is None:
            return "taken"
        return "refused" if self.found is None else "other"


def intended() -> list[Intended]:
    """
    The table in docs/routes.md.
    """
    _, _, rest = DOCS.read_text("utf-8").partition("\n## Values that differ\n")
    rows = re.findall(r"^\| (`.*?) \| `(.*)` \| (.*?) \| (.*?) \| .* \|$", rest, re.MULTILINE)
    return [
        Intended(
            tuple(re.findall("`([^`]+)`", types)),
            "sql" if "SQL of your own" in types else "",
            value,
            *(None if cell == "refuses" else cell.strip("`") for cell in (wanted, found)),
        )
        for types, value, wanted, found in rows
    ]


FORMS: Final = ("json", "csv", "logfmt", "sql", "msgpack", "cbor")

TOKENS: Final = ("json", "msgpack", "cbor")
"""Forms in which a document is no text, but a value of the message."""


@dataclass(slots=True)
class Figures:
    """
    What was compared.
    """

    types: int = 0
    literals: int = 0
    values: int = 0
    differences: list[Difference] = field(default_factory=list)

    def unexplained(self, rows: Sequence[Intended], bases: dict[str, str]) -> list[Difference]:
        """
        @param bases: type -> what the table calls it.
        """
        allowed = {(name, row.form, row.effect) for row in rows for name in row.types}
        # What one takes and the other does not may be refused for another reason.
        allowed |= {(name, form, "sqlstate") for name, form, what in allowed if what == "taken"}
        return [
            d
            for d in self.differences
            if not allowed
            & {(t, form, d.effect) for t in (d.type, bases[d.type]) for form in ("", d.form)}
        ]


class Comparison:
    """
    Stores literals in both ways.

    @ivar bases: type -> the name of its base type; C{integer[]} of every array.
    """

    def __init__(self, dsn: str) -> None:
        self.bases: dict[str, str] = {}
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()
        self._ask("SET timezone = 'UTC'; SET client_min_messages = 'warning'")
        _run(migrate(self._query))
        self._ask(DECLARED)
        self.extended = [
            name
            for extension, names in EXTENSIONS.items()
            if self._ask("SELECT 1 FROM pg_available_extensions WHERE name = %s", extension)
            for name in names
            if self._ask(f"CREATE EXTENSION IF NOT EXISTS {extension}") == []
        ]

    def close(self) -> None:
        self._connection.close()

    def types(self, arrays: bool) -> list[str]:
        """
        Those of a fresh server that a column can have, and L{MADE}.

        @param arrays: whether arrays of each are among them.
        """
        rows = self._ask(_TYPES, arrays)
        return [name for (name,) in rows] + [*MADE, *self.extended]

    def one(self, type_: str, form: str, literal: str) -> tuple[Stored, Stored]:
        """
        @return: what the server makes of it, and what the gateway does.
        """
        _, differences = self.compare(type_, [literal], [form])
        if differences:
            return differences[0].wanted, differences[0].found
        (wanted,) = self._inserted([literal])
        return wanted, wanted

    def compare(
        self, type_: str, literals: Sequence[str], forms: Sequence[str] = FORMS
    ) -> tuple[int, list[Difference]]:
        """
        @return: how many values were compared, and how they differ.
        """
        self._ask("DROP TABLE IF EXISTS given, stored")
        self._ask(f"CREATE TABLE given (n int, c {type_}); CREATE TABLE stored (n int, c {type_})")
        rows = self._ask(
            "SELECT atttypid::bigint, atttypmod FROM pg_attribute"
            " WHERE attrelid = 'given'::regclass AND attname = 'c'"
        )
        (sql_type,) = _run(sql_types(self._query, [(rows[0][0], rows[0][1])]))
        self.bases[type_] = "integer[]" if sql_type.element else sql_type.name
        wanted = self._inserted(literals)
        compared, differences = 0, []
        for form in forms:
            chosen = [
                n
                for n, literal in enumerate(literals)
                if form not in TOKENS
                or sql_type.base not in ("json", "jsonb")
                or (form == "json" and _is_document(literal))
            ]
            raw = sql_type.base in ("json", "jsonb")
            found = self._stored(form, [(n, literals[n]) for n in chosen], wanted, raw)
            compared += len(found)
            for n, outcome in found.items():
                same = outcome.value == wanted[n].value and (
                    not outcome.sqlstate or outcome.sqlstate[:2] == wanted[n].sqlstate[:2]
                )
                if not same:
                    differences.append(Difference(type_, form, literals[n], wanted[n], outcome))
        return compared, differences

    def _inserted(self, literals: Sequence[str]) -> list[Stored]:
        """By INSERT with a literal."""
        self._ask(_JUDGE)
        ((states,),) = self._ask("SELECT pg_temp.judge(%s)", list(literals))
        values = dict(self._ask("SELECT n, c::text FROM given"))
        return [Stored(values.get(n), state) for n, state in enumerate(states, 1)]

    def _stored(
        self, form: str, literals: Sequence[tuple[int, str]], wanted: Sequence[Stored], raw: bool
    ) -> dict[int, Stored]:
        """
        By a route, row by row and then, of what is good, all at once.

        @param raw: whether a literal is a JSON token already.
        """
        insert = self._insert(form)
        frames = {n: _frame(form, n, literal, raw) for n, literal in literals}
        found: dict[int, Stored] = {}
        slices = _slices(list(frames.values()))
        try:
            bind_at_once(insert, slices)
        except FramesRefused as refused:
            numbers = list(frames)
            for place, _ in refused.faults:
                found[numbers[place]] = Stored(None)
        left = {n: frame for n, frame in frames.items() if n not in found}
        while left:
            try:
                stored, fates = self._run(insert, left, careful=True)
            except psycopg2.Error as error:
                # Of no row, as far as the gateway knows; but it must be one's.
                for n in self._blamed(insert, left, wanted, error):
                    found[n] = Stored(None, error.pgcode or "")
                    del left[n]
                continue
            numbers = list(left)
            for place, state, *_ in fates:
                found[numbers[place - 1]] = Stored(None, state)
            good = {n: frame for n, frame in left.items() if n not in found}
            together, _ = self._run(insert, good, careful=False) if good else ({}, [])
            assert together == stored, (form, together, stored)
            found |= {n: Stored(stored.get(n + 1)) for n in good}
            break
        return found

    def _blamed(
        self,
        insert: Insert,
        frames: dict[int, bytes],
        wanted: Sequence[Stored],
        error: psycopg2.Error,
    ) -> list[int]:
        """
        Those that raise an error which ends a whole block.
        """
        alike = [n for n in frames if wanted[n].sqlstate == error.pgcode]
        for n in [] if alike else frames:
            try:
                self._run(insert, {n: frames[n]}, careful=True)
            except psycopg2.Error:
                alike.append(n)
        assert alike, error
        return alike

    def _insert(self, form: str) -> Insert:
        route = Route(
            "r",
            "" if form == "sql" else "stored",
            {"n": Value("n"), "c": Value("c")},
            reading=Reading("csv" if form == "sql" else form, ("n", "c")),  # type: ignore[arg-type]
            sql="INSERT INTO stored (n, c) VALUES (%(n)s, %(c)s)" if form == "sql" else "",
        )
        findings: Findings = _run(examine(self._query, route))
        return findings.sound

    def _run(
        self, insert: Insert, frames: dict[int, bytes], careful: bool
    ) -> tuple[dict[int, str], list[Any]]:
        """
        @return: number -> value of what is stored, and the refusals.
        """
        statement, values = bind_at_once(insert, _slices(list(frames.values())))
        lane = str(uuid4())
        parameters = named([lane, 1, 1, *values])
        self._ask("TRUNCATE stored")
        if careful or statement.whole:
            self._block(statement, parameters, careful)
        else:
            self._cursor.execute(statement.plain, parameters)
        ((fates,),) = self._ask(FATES_OF, lane)
        refused = json.loads(fates or "{}").get("refused", [])
        return dict(self._ask("SELECT n, c::text FROM stored")), refused

    def _block(self, statement: Statement, parameters: dict[str, Any], careful: bool) -> None:
        body = statement.block if careful else statement.whole
        self._cursor.execute("DO %s", (self._cursor.mogrify(body, parameters).decode(),))

    def _ask(self, sql: str, *values: Any) -> list[Any]:
        self._cursor.execute(sql, values or None)
        return self._cursor.fetchall() if self._cursor.description else []

    async def _query(self, sql: str, values: Any) -> Any:
        self._cursor.execute(sql, values)
        return self._cursor.fetchall() if self._cursor.description else []


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns; nothing in it waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def _is_document(literal: str) -> bool:
    """Whether a JSON message can hold it, and as something else than NULL."""
    try:
        known = json.loads(literal, parse_constant=int) is not None
    except (ValueError, RecursionError):
        return False
    # Blanks around a token are no part of it.
    return known and literal == literal.strip() and re.search(r"\\u[dD][89a-fA-F]", literal) is None


def _frame(form: str, number: int, literal: str, raw: bool) -> bytes:
    number += 1
    if form == "msgpack":
        return bytes(msgpack.packb({"n": number, "c": native(literal)}))
    if form == "cbor":
        return cbor2.dumps({"n": number, "c": native(literal, MORE)})
    if form == "json":
        return f'{{"n":{number},"c":{literal if raw else json.dumps(literal)}}}'.encode()
    if form == "logfmt":
        escaped = literal.replace("\\", "\\\\").replace('"', '\\"')
        return f'n={number} c="{escaped}"'.encode()
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="").writerow([number, literal])
    return line.getvalue().encode()


def native(literal: str, more: Sequence[Callable[[str], Any]] = ()) -> Any:
    """
    The value that is written just like a literal, else the literal.

    @param more: for types that MessagePack does not have.
    """
    kinds: Sequence[Callable[[str], Any]] = (int, float, _truth, _octets, *more)
    for kind in kinds:
        try:
            value = kind(literal)
            token = json_token(value)
        except (ArithmeticError, ValueError, KeyError):
            continue
        if isinstance(value, int) and kind is int and not more and not -(2**63) <= value < 2**64:
            continue
        if (json.loads(token) if token.startswith('"') else token) == literal:
            return value
    return literal


def _truth(literal: str) -> bool:
    return {"true": True, "false": False}[literal]


def _octets(literal: str) -> bytes:
    if not literal.startswith("\\x"):
        raise ValueError
    return bytes.fromhex(literal[2:])


MORE: Final = (Decimal, UUID, ip_address)
"""Types that CBOR has beside those of MessagePack."""


def _slices(frames: list[bytes]) -> list[Slice]:
    chunk = Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)
    return [Slice(chunk, 0, len(frames))]


def rounds(comparison: Comparison, arrays: bool, seed: int, count: int) -> Iterator[Figures]:
    """
    @param count: literals for each type beside those picked by hand, which are in the first.
    """
    picked: Sequence[str] = PICKED
    while True:
        figures = Figures()
        for type_ in comparison.types(arrays):
            literals = [*picked, *made(seed, count)]
            try:
                compared, differences = comparison.compare(type_, literals)
            except Exception as error:
                raise AssertionError(f"of type {type_}, seed {seed}: {error}") from error
            figures.types += 1
            figures.literals += len(literals)
            figures.values += compared
            figures.differences += differences
        yield figures
        picked = ()
        seed += 1


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.differential")
    parser.add_argument("--dsn", required=True, help="an empty database, of a superuser")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    comparison = Comparison(given.dsn)
    rows = intended()
    for number, figures in zip(
        range(given.rounds), rounds(comparison, True, given.seed, 200), strict=False
    ):
        unexplained = figures.unexplained(rows, comparison.bases)
        say(
            f"seed {given.seed + number}: {figures.types} types, {figures.literals} literals,"
            f" {figures.values} values, {len(figures.differences)} differences,"
            f" {len(unexplained)} of them not in the table"
        )
        for difference in unexplained[:50]:
            say(f"    {difference}")


if __name__ == "__main__":
    main()
