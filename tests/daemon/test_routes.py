"""
Routes, from a socket to typed columns of a table of the user's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.load import responsive
from tests.support import Database, Gateway, wait_until

TABLE = """
    CREATE TABLE readings (
        id bigint GENERATED ALWAYS AS IDENTITY,
        at timestamptz NOT NULL, device varchar(20) NOT NULL, temp double precision,
        count integer, data jsonb, note text DEFAULT 'none', peer text, raw text
    )
"""

CONFIG = """
[database]
dsn = "{dsn}"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "readings"
window = 100_000
max_frame = 1_000_000
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
max_frame = 1_000_000
route = "readings"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.readings]
table = "readings"
format = "json"
{keys}
[routes.readings.columns]
at = "at"
device = {{ field = "device", required = true }}
temp = "data.temp"
count = {{ field = "count", default = 1 }}
data = "data"
peer = "@peer"
raw = "@frame"
"""

Start = Callable[..., Gateway]

AT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.fixture
def start(database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path) -> Start:
    """Starts a gateway with a JSON route into a table of the user's."""
    database.execute(TABLE)

    def start(keys: str = "") -> Gateway:
        config = tmp_path / "routes.toml"
        config.write_text(CONFIG.format(dsn=database.dsn.replace('"', '\\"'), keys=keys))
        return start_gateway("--config", str(config))

    return start


def message(number: int) -> str:
    return json.dumps(
        {"at": 1700000000 + number, "device": f"d{number}", "data": {"temp": number / 4}}
    )


def test_json_into_typed_columns(start: Start, database: Database) -> None:
    """Fields, paths, defaults and metadata are stored as what their columns are."""
    peer = start().connect()
    full = '{"at":"2026-11-21T10:00:00Z","device":"a","data":{"temp":21.5},"count":7}'
    short = '{"device":"b","at":0}'
    peer.send(f"{full}\n{short}\n".encode())
    assert peer.read_lines(2) == [b"+OK"] * 2
    assert database.execute(
        "SELECT at, device, temp, count, data, note, peer, raw FROM readings ORDER BY id"
    ) == [
        (
            datetime(2026, 11, 21, 10, tzinfo=UTC),
            *("a", 21.5, 7, {"temp": 21.5}, "none", peer.name, full),
        ),
        (datetime(1970, 1, 1, tzinfo=UTC), "b", None, 1, None, "none", peer.name, short),
    ]
    peer.close()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("{", "-REJ FORMAT :not JSON: it ends too early"),
        ("[]", "-REJ FORMAT :the message is not a JSON object but an array"),
        ('{"at":0}', "-REJ DATA :column 'device': the message has no 'device'"),
        ('{"device":"a"}', "-REJ DATA :column 'at': the message has no 'at'"),
        (
            '{"at":0,"device":"a","count":"x"}',
            "-REJ DATA :column 'count': 'x' is not an integer",
        ),
        (
            '{"at":0,"device":"a","data":{"temp":1e400}}',
            "-REJ DATA :column 'temp': '1e400' is out of range for double precision",
        ),
        (
            '{"at":0,"device":"%s"}' % ("a" * 21),
            f"-REJ DATA :column 'device': '{'a' * 21}' is longer than 20 characters",
        ),
        # What only the server can judge is refused by the server.
        (
            '{"at":0,"device":"a","data":{"x":1e999999}}',
            "-REJ DATA sqlstate=22003 :column 'data': value overflows numeric format",
        ),
    ],
)
def test_what_is_refused(start: Start, database: Database, sent: str, answer: str) -> None:
    """The bad message alone, by name; what came with it is stored."""
    peer = start().connect()
    peer.send(f"{message(1)}\n{sent}\n{message(2)}\n".encode())
    assert peer.read_lines(3) == [b"+OK", answer.encode(), b"+OK"]
    assert database.column("SELECT device FROM readings ORDER BY id") == ["d1", "d2"]
    peer.close()


@pytest.mark.parametrize("bad", [1, 10, 500])
def test_bad_ones_among_ten_thousand(start: Start, database: Database, bad: int) -> None:
    """Exactly the bad messages are refused, each with its own reason; the rest is in order."""
    database.execute("ALTER TABLE readings ADD CONSTRAINT odd CHECK (count <> 13)")
    kinds = [
        ('{{"n":{0}', "FORMAT", "not JSON"),
        ('{{"at":0,"device":"d{0}","count":"n{0}"}}', "DATA", "column 'count': 'n{0}'"),
        ('{{"at":"{0}-","device":"d{0}"}}', "DATA", "column 'at': '{0}-'"),
        ('{{"at":0,"device":"d{0}","count":13}}', "CONSTRAINT", 'check constraint "odd"'),
    ]
    step = 10_000 // bad
    wrong = {step // 2 + number * step: kinds[number % 4] for number in range(bad)}
    sent = [
        wrong[number][0].format(number) if number in wrong else message(number)
        for number in range(10_000)
    ]
    peer = start().connect()
    peer.send("".join(f"{text}\n" for text in sent).encode())
    answers = [line.decode() for line in peer.read_lines(10_000)]
    for number, answer in enumerate(answers):
        if number in wrong:
            _, code, why = wrong[number]
            assert answer.startswith(f"-REJ {code} ") and why.format(number) in answer, answer
        else:
            assert answer == "+OK"
    assert database.column("SELECT device FROM readings ORDER BY id") == [
        f"d{number}" for number in range(10_000) if number not in wrong
    ]
    peer.close()


HOSTILE = [
    *(b"[" * 60_000, b'{"at":' * 9_000, b'{"device":"' + b"\\" * 50_000),
    b"{" + b",".join(b'"f%d":%d' % (n, n) for n in range(10_000)) + b"}",
    b'{"at":0,"device":"a","data":' + b'{"x":' * 500 + b"1" + b"}" * 500 + b"}",
    b'{"at":' + b"9" * 60_000 + b',"device":"a"}',
    b'{"at":0,"device":"a","count":' + b"1" * 60_000 + b"}",
    b'{"at":0,"device":"a","data":' + b"[1," * 20_000 + b"}",
    b'{"at":NaN,"device":"a"}',
    b'{"at":0,"device":"\\ud800"}',
    b'{"at":0,"device":"\\udc00\\ud800"}',
    b'{"at":0,"at":1,"device":"a","device":"b"}',
    b'{"at":0,"device":"a","data":{"temp":1e400}}',
    b'{"at":-1e99,"device":"a"}',
    b'{"at":0,"device":"a\\u0000b"}',
    b'{"at":0,"device":"a","data":"\\u0000"}',
    b'{"at":0,"device":"\xff"}',
    b"\x00",
]


def test_hostile_messages(start: Start, database: Database) -> None:
    """Every one gets its answer, none a goodbye, and the reactor is never held up by them."""
    gateway = start()
    with responsive(gateway):
        peer = gateway.connect()
        for _ in range(3):
            peer.send(b"".join(b"%s\n" % sent for sent in HOSTILE))
            assert all(map(is_answer, peer.read_lines(len(HOSTILE))))
        # Many at once: each column of every one is looked at by itself.
        many = [b'{"at":"x%d","device":5.%d,"count":"%d "}' % (n, n, n) for n in range(9_000)]
        peer.send(b"".join(b"%s\n" % one for one in many))
        assert all(b"column 'at': 'x" in answer for answer in peer.read_lines(9_000))
        peer.close()
        for sent in HOSTILE:
            answer = gateway.connect("netstrings").ask(b"%d:%s," % (len(sent), sent))
            assert is_answer(answer.partition(b":")[2]), answer
    assert "Traceback" not in gateway.log


def is_answer(answer: bytes) -> bool:
    return answer.startswith((b"-REJ FORMAT :", b"-REJ DATA", b"+OK"))


def test_dead_letters_are_raw(start: Start, database: Database) -> None:
    """What a format refuses is kept as it came, with the reason."""
    peer = start("dead_letter = true").connect()
    peer.send(b'{"at":\n')
    assert peer.read_lines(1)[0].startswith(b"-REJ FORMAT")
    assert [
        (bytes(frame), error)
        for frame, error in database.execute("SELECT frame, error FROM gateway.dead_letter")
    ] == [(b'{"at":', "not JSON: it ends too early")]
    peer.close()


EVERY = """
[database]
dsn = '''{dsn}'''
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "r"
[routes.r]
table = "t"
format = "{format}"
{keys}
[routes.r.columns]
{columns}
"""


@pytest.mark.parametrize(
    ("form", "keys", "columns", "sent", "stored", "bad", "why"),
    [
        (
            *("csv", 'fields = ["n", "x", "s"]', 's = "s"\nn = "n"\nx = "x"'),
            *('1,2.5,"a ""b"", c"', (1, 2.5, 'a "b", c'), "1,2", "2 values where 3 are expected"),
        ),
        (
            *("csv", 'fields = ["s", "x", "at"]\ndelimiter = "whitespace"'),
            *('s = "s"\nx = "x"\nat = "at"', "cpu.load 0.5 1700000000"),
            *((None, 0.5, "cpu.load", AT), "cpu.load 0.5 never", "column 'at': 'never' is no time"),
        ),
        (
            *("logfmt", "", 'n = "n"\ns = "msg"', 'level=info msg="all is well" n=7'),
            *((7, None, "all is well"), "n=x", "column 'n': 'x' is not an integer"),
        ),
        (
            *("regex", r"pattern = '(?P<who>\w+) sent (?P<n>\d+)'", 'n = "n"\ns = "who"'),
            *("anna sent 5", (5, None, "anna"), "anna", "does not match the route's pattern"),
        ),
        (
            *("syslog", "", 'n = "severity"\ns = "message"\nat = "timestamp"'),
            "<165>1 2023-11-14T22:13:20Z host app 1 ID47 - it works",
            *((5, None, "it works", AT), "<165>1 x", "TIMESTAMP"),
        ),
        (
            *("influx", "", 'n = "field.n"\nx = "x"\ns = "tag.host"\nat = "timestamp"'),
            "cpu,host=a n=3i,x=0.25 1700000000000000000",
            *((3, 0.25, "a", AT), "cpu,host=a", "field"),
        ),
        (
            *("hl7", "", 'n = "OBX(2)-5"\nx = "OBX-5"\ns = "PID-5.1"\nat = "MSH-7"'),
            "MSH|^~\\&|A||||20231115001320+0200\rPID|1||||O\\F\\K^x\rOBX|1||||0.25\rOBX|2||||3",
            *((3, 0.25, "O|K", AT), "PID|1", "it begins with b'PID|1', not with MSH"),
        ),
    ],
)
def test_every_format(
    database: Database,
    start_gateway: Callable[..., Gateway],
    tmp_path: Path,
    form: str,
    keys: str,
    columns: str,
    sent: str,
    stored: tuple[object, ...],
    bad: str,
    why: str,
) -> None:
    """From a socket into typed columns; what is not of the format is refused alone."""
    database.execute("CREATE TABLE t (n integer, x double precision, s text, at timestamptz)")
    config = tmp_path / "every.toml"
    config.write_text(EVERY.format(dsn=database.dsn, format=form, keys=keys, columns=columns))
    peer = start_gateway("--config", str(config)).connect()
    peer.send(f"{sent}\n{bad}\n{sent}\n".encode())
    first, refused, last = peer.read_lines(3)
    assert (first, last) == (b"+OK", b"+OK")
    assert refused.startswith(b"-REJ ") and why in refused.decode()
    assert database.execute("SELECT n, x, s, at FROM t") == [(*stored, None)[:4]] * 2
    peer.close()


IN_BERLIN = 'timezone = "Europe/Berlin"'

ZONED = [
    # How messages are read, where the time is, a message, and the hour that it means in UTC.
    ('format = "json"', "t", '{"t":"2026-07-01T10:00:00"}', 10),
    (f'format = "json"\n{IN_BERLIN}', "t", '{"t":"2026-07-01T10:00:00"}', 8),
    (f'format = "json"\n{IN_BERLIN}', "t", '{"t":"2026-07-01T10:00:00Z"}', 10),
    ('format = "logfmt"\ntimezone = "Asia/Kolkata"', "t", 't="2026-07-01 13:30:00"', 8),
    (f'format = "csv"\nfields = ["t"]\n{IN_BERLIN}', "t", "2026-07-01T10:00", 8),
    (f"format = 'regex'\npattern = '(?P<t>.*)'\n{IN_BERLIN}", "t", "2026-07-01 10:00", 8),
    ('format = "text"', "@frame", "2026-07-01T10:00:00", 10),
    (f'format = "text"\n{IN_BERLIN}', "@frame", "2026-07-01T10:00:00", 8),
    (f'format = "syslog"\n{IN_BERLIN}', "timestamp", "<13>Jul  1 2026 10:00:00 h a: x", 8),
    (f'format = "syslog"\n{IN_BERLIN}', "timestamp", "<13>Jul  1 2026 10:00:00 UTC: x", 10),
    # The machine of the gateway is where its environment says that it is.
    ('format = "syslog"', "timestamp", "<13>Jul  1 2026 10:00:00 h a: x", 1),
    ('format = "json"\ntimezone = "local"', "t", '{"t":"2026-07-01T10:00:00"}', 1),
]


def test_timezone(
    database: Database, start_gateway: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A time that names no zone is of the route's; of syslog local without one, else UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    database.execute("CREATE TABLE t (name text, at timestamptz)")
    # What the session of PostgreSQL has for a zone does not count.
    database.execute(
        "DO $$BEGIN EXECUTE format($q$ALTER DATABASE %I SET timezone = 'America/New_York'$q$,"
        " current_database()); END$$"
    )
    config = (
        f'[database]\ndsn = "{database.dsn}"\n[listeners.lines]\ndialect = "command"\n'
        'endpoint = "tcp:0:interface=127.0.0.1"\n'
    )
    commands = []
    stored = []
    own = 'sql = "INSERT INTO t VALUES (%(name)s, %(at)s)"'
    for number, (keys, source, message, hour) in enumerate(ZONED):
        for kind, target in (("table", 'table = "t"'), ("own", own)):
            if (kind, source) == ("table", "@frame"):
                continue  # a column of a text route holds text
            name = f"{kind}{number}"
            config += (
                f"[routes.{name}]\n{target}\n{keys}\n"
                f'[routes.{name}.columns]\nname = {{ value = "{name}" }}\nat = "{source}"\n'
            )
            commands.append(f"PUT {name} {message}\n")
            stored.append((name, datetime(2026, 7, 1, hour, tzinfo=UTC)))
    path = tmp_path / "zoned.toml"
    path.write_text(config)
    peer = start_gateway("--config", str(path)).connect()
    peer.send("".join(commands).encode())
    assert peer.read_lines(len(commands)) == [b"+OK"] * len(commands)
    assert sorted(database.execute("SELECT name, at FROM t")) == sorted(stored)
    peer.close()


KINDS_OF_TABLES = {
    "partitioned": """
        CREATE TABLE t (n integer, s text) PARTITION BY RANGE (n);
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF t FOR VALUES FROM (10) TO (20)
    """,
    "trigger": """
        CREATE TABLE t (n integer, s text);
        CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN
                IF NEW.n > 19 THEN RAISE EXCEPTION 'too much: %', NEW.n; END IF;
                NEW.s := upper(NEW.s);
                RETURN NEW;
            END$$;
        CREATE TRIGGER judge BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION judge()
    """,
    "foreign key": """
        CREATE TABLE known (n integer PRIMARY KEY);
        INSERT INTO known SELECT generate_series(0, 19);
        CREATE TABLE t (n integer REFERENCES known, s text)
    """,
    "deferred foreign key": """
        CREATE TABLE known (n integer PRIMARY KEY);
        INSERT INTO known SELECT generate_series(0, 19);
        CREATE TABLE t (n integer REFERENCES known DEFERRABLE INITIALLY DEFERRED, s text)
    """,
    "generated": """
        CREATE TABLE t (
            n integer CHECK (n < 20), s text, twice integer GENERATED ALWAYS AS (n * 2) STORED
        )
    """,
    "view with INSTEAD OF": """
        CREATE TABLE real (n integer CHECK (n < 20), s text);
        CREATE VIEW t AS SELECT n, s FROM real;
        CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN INSERT INTO real VALUES (NEW.n, NEW.s || '!'); RETURN NEW; END$$;
        CREATE TRIGGER instead INSTEAD OF INSERT ON t FOR EACH ROW EXECUTE FUNCTION instead()
    """,
    "domain and enum": """
        CREATE TYPE mood AS ENUM ('s', 'glad');
        CREATE DOMAIN small AS integer CHECK (VALUE < 20);
        CREATE TABLE t (n small, s mood)
    """,
}


@pytest.mark.parametrize("kind", KINDS_OF_TABLES)
def test_kinds_of_tables(
    database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path, kind: str
) -> None:
    """Whatever the table is, what it refuses is refused alone, and all else is in it."""
    database.execute(KINDS_OF_TABLES[kind])
    config = tmp_path / "kinds.toml"
    columns = 'n = "n"\ns = "s"'
    config.write_text(EVERY.format(dsn=database.dsn, format="json", keys="", columns=columns))
    peer = start_gateway("--config", str(config)).connect()
    peer.send(b"".join(b'{"n":%d,"s":"s"}\n' % n for n in (1, 50, 12, 99, 3)))
    answers = peer.read_lines(5)
    assert [answer[:4] for answer in answers] == [b"+OK", b"-REJ", b"+OK", b"-REJ", b"+OK"]
    assert database.column("SELECT n FROM t ORDER BY n") == [1, 3, 12]
    stored = {"trigger": "S", "view with INSTEAD OF": "s!"}.get(kind, "s")
    assert set(database.column("SELECT s::text FROM t")) == {stored}
    peer.close()


def test_a_table_changed_under_us(
    database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """A column of another type, dropped or added again is noticed without a restart."""
    database.execute("CREATE TABLE t (n integer, s text)")
    config = tmp_path / "changed.toml"
    columns = 'n = "n"\ns = "s"'
    config.write_text(EVERY.format(dsn=database.dsn, format="json", keys="", columns=columns))
    gateway = start_gateway("--config", str(config))
    peer = gateway.connect()

    def ask(number: str) -> bytes:
        peer.send(b'{"n":%s,"s":"x"}\n' % number.encode())
        return peer.read_lines(1)[0]

    assert ask("1") == b"+OK"
    database.execute("ALTER TABLE t ALTER n TYPE text")
    assert ask("2") == b"+OK"
    database.execute("ALTER TABLE t ADD more integer DEFAULT 7")
    # The table is not looked at for each bad message, but soon.
    wait_until(lambda: ask('"three"') == b"+OK", "the type is noticed")
    database.execute("ALTER TABLE t DROP n")
    assert ask("4").startswith(b"-TRY ROUTE ")
    assert "column 'n' does not exist" in gateway.log
    database.execute("ALTER TABLE t ADD n bigint")
    wait_until(lambda: ask("5") == b"+OK", "the route heals")
    assert database.execute("SELECT n, more FROM t ORDER BY n DESC LIMIT 1")[0][0] is None
    peer.close()
