"""
What C{gateway check} and C{gateway routes} say of routes, against a live table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import Database, Gateway, tool

TABLE = """
    CREATE TABLE readings (
        id bigint GENERATED ALWAYS AS IDENTITY, device text, at integer, temp numeric(5,2)
    );
    CREATE VIEW both_of_them AS SELECT a.device, b.at FROM readings a, readings b;
    CREATE FUNCTION save(device text, at integer) RETURNS integer LANGUAGE sql AS 'SELECT at'
"""

KEYED = 'table = "readings"\nformat = "json"\nconflict = "update"\nkey = ["device", "at"]'
COLUMNS = 'columns = { device = "device", at = "at", temp = "temp" }'


class Said(NamedTuple):
    status: int
    out: str
    problems: list[str]


Ask = Callable[..., Said]


@pytest.fixture
def ask(database: Database, tmp_path: Path, start_gateway: Callable[..., Gateway]) -> Iterator[Ask]:
    """Asks about a route; the gateway's own schema is there."""
    database.execute(TABLE)
    start_gateway("--database", database.dsn, "--line", "tcp:0").terminate()
    config = tmp_path / "g.toml"

    def ask(route: str, *command: str, role: str = "gateway", given: bytes = b"") -> Said:
        dsn = database.dsn.replace("user=gateway", f"user={role}")
        config.write_text(
            f"[database]\ndsn = '''{dsn}'''\n[listeners.a]\nendpoint = \"tcp:0\"\nroute = \"r\"\n"
            f"[routes.r]\n{route}\n"
        )
        arguments = [a.replace("CONFIG", str(config)) for a in command or ("check", "CONFIG")]
        done = tool(*arguments, given=given) if given else tool(*arguments)
        problems = [line.removeprefix(f"{config}: ") for line in done.stderr.splitlines()]
        return Said(done.returncode, done.stdout, problems)

    yield ask


def test_keys(ask: Ask, database: Database) -> None:
    """A key needs a unique index, and what is told to run makes the route fit."""
    said = ask(f"{KEYED}\n{COLUMNS}")
    assert said.problems == [
        'routes.r.key: "readings" has no unique index on ("device", "at");'
        ' run CREATE UNIQUE INDEX ON "readings" ("device", "at")'
    ]
    database.execute("CREATE UNIQUE INDEX half ON readings (at, device) WHERE at > 0")
    assert ask(f"{KEYED}\n{COLUMNS}").problems == said.problems, "not on a part of the rows"
    database.execute(said.problems[0].split("; run ")[1])
    assert ask(f"{KEYED}\n{COLUMNS}") == (0, ask(f"{KEYED}\n{COLUMNS}").out, [])
    assert ask(f'{KEYED}\n{COLUMNS}\nreturning = ["idd"]').problems == [
        "routes.r.returning: column 'idd' does not exist in \"readings\"; did you mean 'id'?"
    ]


def test_grants(ask: Ask, database: Database) -> None:
    """What a conflict needs beyond INSERT is named, and what is told to run is enough."""
    database.execute("CREATE UNIQUE INDEX ON readings (device, at)")
    database.execute(
        "CREATE ROLE a_reader LOGIN; GRANT USAGE ON SCHEMA gateway TO a_reader;"
        "GRANT ALL ON ALL TABLES IN SCHEMA gateway TO a_reader;"
        "GRANT INSERT ON readings TO a_reader"
    )
    try:
        route = f'{KEYED}\n{COLUMNS}\nreturning = ["id"]'
        said = ask(route, role="a_reader")
        assert said.status == 1
        assert {problem.split(":")[0] for problem in said.problems} == {
            *("routes.r.key", "routes.r.conflict", "routes.r.returning")
        }
        for problem in said.problems:
            grant = problem.split("; run ")[1]
            database.execute(grant.replace("...", "a_reader"))
        assert ask(route, role="a_reader").problems == []
    finally:
        database.execute("DROP OWNED BY a_reader; DROP ROLE a_reader")


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        (
            'table = "both_of_them"\ncolumns = { device = "@frame" }',
            'routes.r.table: cannot insert into view "both_of_them"',
        ),
        (
            'sql = "SELECT save(%(a)s, %(b)s, 1)"\nformat = "json"',
            "routes.r.sql: its sql: function save(unknown, unknown, integer) does not exist",
        ),
        (
            'sql = "SELEC %(a)s"',
            'routes.r.sql: its sql: syntax error at or near "SELEC"',
        ),
        (
            'sql = "SELECT save(%(a)s, %(b)s)"\nformat = "json"\ncolumns = { b = { value = "x" } }',
            "routes.r.columns: column 'b': configured value 'x' is not an integer",
        ),
        ('sql = "SELECT 100 % 3"', "routes.r.sql: '% 3': a parameter is %(name)s, and any"),
        ('sql = "SELECT 1"', "routes.r.sql: has no parameter; write %(name)s"),
        (
            'sql = "SELECT save(%(a)s, %(b)s)"',
            "routes.r.columns: names no source for 'a'; \"@frame\" is one",
        ),
        (
            'sql = "SELECT save(%(aa)s, 1)"\nformat = "json"\ncolumns = { a = "x" }',
            "routes.r.columns.a: is no parameter of sql; did you mean 'aa'?",
        ),
        (
            'sql = "SELECT %(a)s"\ntable = "t"\nkey = ["a"]\nconflict = "ignore"',
            "routes.r.table: is for a table; leave it out beside sql",
        ),
        ("dead_letter = true", "routes.r.table: is missing; name a table, or give sql"),
        (
            f'table = "readings"\nformat = "json"\nconflict = "ignore"\n{COLUMNS}',
            'routes.r.key: is missing: conflict = "ignore" needs its columns',
        ),
        (
            f'table = "readings"\nformat = "json"\nkey = ["at"]\n{COLUMNS}',
            'routes.r.key: is for conflict = "ignore" or "update"',
        ),
        (
            f'{KEYED.replace("device", "divice")}\n{COLUMNS}\nreturning = ["id", "id"]',
            "routes.r.key: 'divice' is not in [routes.r.columns]; did you mean 'device'?",
        ),
        (
            'table = "new"\ncreate = true\nreturning = ["idd"]',
            "routes.r.returning: 'idd' is not in the default table; did you mean 'id'?",
        ),
    ],
)
def test_problems(ask: Ask, route: str, problem: str) -> None:
    """Each problem is told with its key and what to do, in one line."""
    said = ask(route)
    assert said.status == 1
    assert any(line.startswith(problem) for line in said.problems), said.problems


@pytest.mark.parametrize(
    "route",
    [
        'table = "readings"\ncolumns = { device = "@frame" }',
        f'{KEYED.replace("update", "ignore")}\n{COLUMNS}\nreturning = ["id"]',
        'sql = "SELECT save(%(a)s, %(b)s % 3)"\nformat = "json"'.replace(" % ", " %% "),
    ],
)
def test_show(ask: Ask, database: Database, route: str) -> None:
    """The SQL that is printed is what PostgreSQL takes, as it is."""
    database.execute("CREATE UNIQUE INDEX ON readings (device, at)")
    said = ask(route, "routes", "--config", "CONFIG", "show", "r")
    assert (said.status, said.problems) == (0, [])
    assert "%%" not in said.out and "%(" not in said.out
    blocks = re.compile(r"DO \$gateway\$.*?\$gateway\$", re.S)  # in which a line may end like this
    for text in blocks.sub("", said.out).split(";\n"):
        sql = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        if sql.strip().startswith(("INSERT", "WITH")):
            database.execute("PREPARE shown AS " + sql.replace("%", "%%"))
    if "sql" not in route:
        assert "INSERT INTO" in said.out
    else:
        assert "save(" in said.out and " % 3" in said.out


def test_show_what_is_not_there(ask: Ask) -> None:
    """A route that is not there, or cannot take messages, is told with what was meant."""
    said = ask(
        'table = "readings"\ncolumns = { device = "@frame" }',
        "routes",
        "-c",
        "CONFIG",
        "show",
        "rr",
    )
    assert (said.status, said.problems) == (1, ["there is no route 'rr'; did you mean 'r'?"])
    said = ask(
        'table = "none"\ncolumns = { device = "@frame" }', "routes", "-c", "CONFIG", "show", "r"
    )
    assert (said.status, said.problems) == (1, ['routes.r.table: table "none" does not exist'])


JSON = 'table = "readings"\nformat = "json"\ncolumns = { device = "device", temp = "temp" }\n'
TRY = ("routes", "--config", "CONFIG", "try", "r")


def test_samples(ask: Ask, database: Database) -> None:
    """Each sample is stored alone and taken back; one that is refused is a problem."""
    database.execute("CREATE UNIQUE INDEX ON readings (device)")
    good = """'{"device": "a", "temp": 1.005}'"""
    said = ask(f"{JSON}samples = [{good}, {good}]")
    assert (said.status, said.problems) == (0, [])
    assert "routes.r: PostgreSQL takes 2 samples\n" in said.out
    said = ask(f"""{JSON}samples = [{good}, '[1]', '{{"temp": "x"}}', '{{"temp": 1e9}}']""")
    assert (said.status, said.problems) == (
        1,
        [
            "routes.r.samples[1]: is refused: -REJ FORMAT :the message is not a JSON object but an"
            " array",
            "routes.r.samples[2]: is refused: -REJ DATA :column 'temp': 'x' is not a number",
            "routes.r.samples[3]: is refused: -REJ DATA sqlstate=22003 :column 'temp': numeric"
            " field overflow",
        ],
    )
    assert "routes.r: PostgreSQL takes 1 sample\n" in said.out
    assert database.column("SELECT count(*) FROM readings") == [0]


def test_samples_of_other_routes(ask: Ask) -> None:
    """SQL of one's own, text, and a table that is still to be created are tried as well."""
    said = ask(
        'sql = "SELECT save(%(a)s, %(b)s)"\nformat = "json"\n'
        """samples = ['{"a": "x", "b": 1}', '{"b": "y"}']"""
    )
    assert said.problems == [
        "routes.r.samples[1]: is refused: -REJ DATA :column 'b': 'y' is not an integer"
    ]
    said = ask(
        'table = "readings"\ncolumns = { at = { value = 1 }, device = "@frame" }\nsamples = ["x"]'
    )
    assert (said.status, said.problems) == (0, [])
    said = ask('table = "new"\ncreate = true\nsamples = ["x", "\\u0000"]')
    assert said.problems == [
        "routes.r.samples[1]: is refused: -REJ DATA :text cannot hold the character NUL (byte 0)"
    ]
    assert "routes.r: the table is missing; the gateway will create it" in said.out


def test_samples_without_a_database(tmp_path: Path) -> None:
    """What is no message of its route's format is found without one."""
    config = tmp_path / "g.toml"
    sections = (
        '[listeners.a]\nendpoint = "tcp:0"\nroute = "r"\n[routes.r]\n'
        f"""{JSON}samples = ['{{}}', '[]', '{{"temp": "x"}}']\n"""
    )
    problem = "routes.r.samples[1]: is refused: -REJ FORMAT :the message is not a JSON object"
    for dsn in ("embedded", "host=127.0.0.1 port=1 dbname=x"):
        config.write_text(f"[database]\ndsn = '{dsn}'\n{sections}")
        done = tool("check", str(config), cwd=tmp_path)
        assert done.returncode == 1 and problem in done.stderr, done
        assert "samples[2]" not in done.stderr


def test_messages_are_tried_out(ask: Ask, database: Database) -> None:
    """Each message of a file, with what the table would have and what PostgreSQL says of it."""
    database.execute("CREATE UNIQUE INDEX ON readings (device)")
    given = b'{"device": " a\\u0007", "temp": 1.005}\n{"device": " a\\u0007"}\n{"temp": 1e9}\nno'
    said = ask(JSON, *TRY, given=given)
    assert (said.status, said.problems) == (1, [])
    assert said.out.splitlines() == [
        "message 1: +OK",
        '  device  " a\\u0007"',
        "  temp    1.01",
        "message 2: -REJ CONSTRAINT sqlstate=23505 :duplicate key value violates unique constraint"
        ' "readings_device_idx"',
        '  device  " a\\u0007"',
        "  temp    NULL",
        "message 3: -REJ DATA sqlstate=22003 :column 'temp': numeric field overflow",
        "  device  NULL",
        "  temp    1e9",
        "message 4: -REJ FORMAT :not JSON: it ends too early",
    ]
    assert database.column("SELECT count(*) FROM readings") == [0]
    said = ask(JSON, *TRY, "--json", given=given.splitlines()[0])
    assert said.status == 0
    assert json.loads(said.out) == {
        "message": 1,
        "answer": "+OK",
        "columns": {"device": " a\u0007", "temp": "1.01"},
    }
    assert ask(JSON, *TRY, "--framing", "netstring", given=b"2:{},").out.startswith(
        "message 1: +OK"
    )
    said = ask(JSON, *TRY, "--framing", "netstring", given=b"2:{},3:{")
    assert (said.status, said.problems) == (1, ["standard input: it ends within a message"])


def test_duplicates_and_what_may_not_be_read(ask: Ask, database: Database) -> None:
    """A message that is there already is +DUP; without SELECT what PostgreSQL is given is shown."""
    database.execute("CREATE UNIQUE INDEX ON readings (device)")
    keyed = f'{JSON}conflict = "ignore"\nkey = ["device"]'
    said = ask(keyed, *TRY, given=b'{"device": "a"}\n{"device": "a", "temp": 2}\n')
    assert said.status == 0
    assert [line for line in said.out.splitlines() if "message" in line] == [
        *("message 1: +OK", "message 2: +DUP")
    ]
    database.execute(
        "CREATE ROLE a_writer LOGIN; GRANT USAGE ON SCHEMA gateway TO a_writer;"
        "GRANT ALL ON ALL TABLES IN SCHEMA gateway TO a_writer;"
        "GRANT INSERT ON readings TO a_writer"
    )
    try:
        said = ask(JSON, *TRY, role="a_writer", given=b'{"device": "a", "temp": 1.005}')
        assert (said.status, said.out.split()[-1]) == (0, "1.005")
    finally:
        database.execute("DROP OWNED BY a_writer; DROP ROLE a_writer")
