"""
Conflicts and returned values: what is answered where a row is there already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.errors import OutcomeUnknown
from gateway.model.route import Reading, Route, Value
from gateway.postgres.connect.connection import Connection
from tests.faults.load import responsive
from tests.in_memory import said
from tests.postgres.store.test_store import new_lane, postgres
from tests.support import Database, Gateway, Peer

StartWith = Callable[[str], Gateway]

TABLE = """
    CREATE TABLE readings (
        id bigint GENERATED ALWAYS AS IDENTITY, device text, at integer,
        temp double precision CHECK (temp < 100), UNIQUE (device, at)
    )
"""

SECTIONS = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "readings"
window = 100_000
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.readings]
table = "readings"
format = "json"
{keys}
[routes.readings.columns]
device = "device"
at = "at"
temp = "temp"
"""

KEY = 'key = ["device", "at"]'

Message = tuple[str | None, int | None, float]


def encoded(messages: Sequence[Message]) -> bytes:
    return b"".join(
        b"%s\n" % json.dumps({"device": device, "at": at, "temp": temp}).encode()
        for device, at, temp in messages
    )


ASKED: list[Message] = [
    ("a", 1, 1.0),
    ("b", 1, 2.0),
    ("a", 1, 3.0),  # again in the same batch
    ("a", 2, 200.0),  # refused
    (None, 1, 4.0),  # NULL is never the same
    (None, 1, 5.0),
    ("a", 2, 6.0),
    ("z", 0, 7.0),  # there before
]


@pytest.mark.parametrize(
    ("keys", "answers", "temps"),
    [
        (
            f'conflict = "ignore"\n{KEY}',
            ["+OK", "+OK", "+DUP", "-REJ", "+OK", "+OK", "+OK", "+DUP"],
            [0.0, 1.0, 2.0, 4.0, 5.0, 6.0],
        ),
        (
            f'conflict = "update"\n{KEY}',
            ["+OK", "+OK", "+OK", "-REJ", "+OK", "+OK", "+OK", "+OK"],
            [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        ),
        (
            "",
            ["+OK", "+OK", "-REJ", "-REJ", "+OK", "+OK", "+OK", "-REJ"],
            [0.0, 1.0, 2.0, 4.0, 5.0, 6.0],
        ),
    ],
)
@pytest.mark.parametrize("returning", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_rows_of_a_key(
    start_with: StartWith,
    database: Database,
    keys: str,
    answers: list[str],
    temps: list[float],
    returning: bool,
    bad: bool,
) -> None:
    """Each message has its own answer, its own values with it, be there bad ones or not."""
    database.execute(TABLE + "; INSERT INTO readings (device, at, temp) VALUES ('z', 0, 0)")
    keys += '\nreturning = ["id", "device"]' if returning else ""
    peer = start_with(SECTIONS.format(keys=keys)).connect()
    asked = [m for m in ASKED if bad or m[2] < 100]
    expected = [a for m, a in zip(ASKED, answers, strict=True) if bad or m[2] < 100]
    peer.send(encoded(asked))
    got = [line.decode() for line in peer.read_lines(len(asked))]
    assert [line.split(" ")[0] for line in got] == expected
    assert sorted(database.column("SELECT temp FROM readings")) == temps
    rows = database.execute("SELECT device, at, id FROM readings ORDER BY id")
    for (device, at, _), answer in zip(asked, got, strict=True):
        if answer.startswith("+OK") and returning:
            known = [f"+OK id={id} device={device or 'null'}" for d, a, id in rows if d == device]
            assert answer in known
            if device is not None:
                ids = [id for d, a, id in rows if (d, a) == (device, at)]
                assert answer == f"+OK id={ids[0]} device={device}"
    peer.close()


def test_ten_thousand_with_duplicates(start_with: StartWith, database: Database) -> None:
    """Half of a large batch is there already: +DUP for these, values for the others, no stall."""
    database.execute(TABLE)
    database.execute(
        "INSERT INTO readings (device, at, temp)"
        " SELECT 'd', n, 0 FROM generate_series(0, 9998, 2) AS n"
    )
    keys = f'conflict = "ignore"\n{KEY}\nreturning = ["id", "at"]'
    gateway = start_with(SECTIONS.format(keys=keys))
    peer = gateway.connect()
    with responsive(gateway):
        peer.send(encoded([("d", n, 1.0) for n in range(10_000)]))
        answers = peer.read_lines(10_000)
    stored = dict(database.execute("SELECT at, id FROM readings WHERE temp = 1"))
    assert len(stored) == 5000
    assert answers == [
        b"+OK id=%d at=%d" % (stored[n], n) if n % 2 else b"+DUP" for n in range(10_000)
    ]
    peer.close()


def test_values_as_they_are_told(start_with: StartWith, database: Database) -> None:
    """A returned value is one word, or a JSON string; an answer stays one line."""
    database.execute("CREATE TABLE t (body text, number numeric, at timestamptz, nothing text)")
    gateway = start_with(
        """
        [listeners.netstrings]
        endpoint = "tcp:0:interface=127.0.0.1"
        framing = "netstring"
        route = "r"
        [listeners.commands]
        endpoint = "tcp:0:interface=127.0.0.1"
        dialect = "command"
        [listeners.devices]
        endpoint = "tcp:0:interface=127.0.0.1"
        route = "r"
        ack = "fine"
        [routes.r]
        table = "t"
        returning = ["body", "nothing", "number"]
        [routes.r.columns]
        body = "@frame"
        number = { value = 1.50 }
        """
    )
    peer = gateway.connect("netstrings")
    words = {
        "word": "word",
        "two words": '"two words"',
        "": '""',
        "null": '"null"',
        'q"': '"q\\""',
        "é\n": '"\\u00e9\\n"',
        "é": "é",
    }
    for body, told in words.items():
        peer.send(b"%d:%s," % (len(body.encode()), body.encode()))
        answer = f"+OK body={told} nothing=null number=1.5".encode()
        wanted = b"%d:%s," % (len(answer), answer)
        assert read_exactly(peer, len(wanted)) == wanted
    commands = gateway.connect("commands")
    commands.send(b"@1 PUT r a\nPUT r b\n@3 PING\n")
    assert commands.read_lines(3) == [
        b"@1 +OK body=a nothing=null number=1.5",
        b"+OK body=b nothing=null number=1.5",
        b"@3 +OK",
    ]
    device = gateway.connect("devices")
    device.send(b"a\nb\n")
    assert device.read_lines(2) == [b"fine"] * 2
    for one in (peer, commands, device):
        one.close()


@pytest.mark.parametrize("name", ["given", "taken", "fates", "fence", "u", "n", "v0", "gw 1%s"])
@pytest_twisted.ensureDeferred
async def test_any_name(database: Database, name: str) -> None:
    """A table and its columns may be called what the statements themselves call something."""
    database.execute(f'CREATE TABLE "{name}" ("{name}" int PRIMARY KEY, n2 int)')
    for conflict in ("error", "ignore", "update"):
        key = () if conflict == "error" else (name,)
        columns = {name: Value("a"), "n2": Value("b")}
        route = Route(
            "r",
            name,
            columns,
            reading=Reading("json"),
            conflict=conflict,
            key=key,
            returning=(name,),
        )
        with postgres(database, route) as adapter:
            frames = [b'{"a":%d,"b":%d}' % (n, b) for n, b in ((1, 1), (2, 2), (1, 3))]
            rows = Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)
            written = await adapter.store.write(Batch.of([rows]), Fence(new_lane(), 1))
        found = [answer.split(" :")[0] for answer in said([*written.runs])]
        again = {"error": "-REJ CONSTRAINT sqlstate=23505", "ignore": "+DUP"}.get(conflict)
        if conflict == "error":
            assert found == [f"+OK {name}=1", f"+OK {name}=2", again]
        elif conflict == "ignore":
            assert found == [again] * 3
        else:
            assert found == [f"+OK {name}=1", f"+OK {name}=2", f"+OK {name}=1"]


def read_exactly(peer: Peer, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += peer.socket.recv(count - len(found))
    return found


ROUTE = Route(
    "r",
    "readings",
    {"device": Value("device"), "at": Value("at"), "temp": Value("temp")},
    reading=Reading("json"),
    conflict="ignore",
    key=("device", "at"),
    returning=("id",),
)


def chunk(messages: Sequence[Message]) -> Batch:
    frames = encoded(messages).splitlines()
    return Batch.of([Chunk("r", frames, Origin("p", "l"), 0.0, lambda chunk, runs: None)])


@pytest_twisted.ensureDeferred
async def test_a_lost_reply_is_told_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the same fence the same answers are given: duplicates, values and refusals."""
    database.execute(TABLE)
    with postgres(database, ROUTE) as adapter:
        lane = new_lane()
        for number, messages in enumerate([ASKED[:3], ASKED], 1):
            first = await adapter.store.write(chunk(messages), Fence(lane, number))
            again = await adapter.store.write(chunk(messages), Fence(lane, number))
            assert (first.before, again.before) == (False, True)
            assert said([*first.runs]) == said([*again.runs])
        assert [a.split()[0] for a in said([*again.runs])] == [
            *("+DUP", "+DUP", "+DUP", "-REJ", "+OK", "+OK", "+OK", "+OK")
        ]
        # The reply to a code block is lost after its commit.
        whole = Connection.block

        async def lost(self: Connection, *arguments: Any) -> Any:
            await whole(self, *arguments)
            raise OutcomeUnknown("connection lost")

        monkeypatch.setattr(Connection, "block", lost)
        bad = chunk([("n", 1, 1.0), ("n", 2, 100.0)])
        with pytest.raises(OutcomeUnknown):
            await adapter.store.write(bad, Fence(lane, 3))
        monkeypatch.undo()
        told = said([*(await adapter.store.write(bad, Fence(lane, 3))).runs])
        assert told[0].startswith("+OK id=") and told[1].startswith("-REJ CONSTRAINT")


@pytest_twisted.ensureDeferred
async def test_a_trigger_that_drops_rows(database: Database) -> None:
    """Where rows vanish on the way, values still go to the messages they belong to."""
    database.execute(
        TABLE + ";CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.at % 2 = 1 THEN RETURN NULL; END IF; RETURN NEW; END$$;"
        "CREATE TRIGGER odd BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION odd()"
    )
    route = Route("r", "readings", ROUTE.columns, reading=ROUTE.reading, returning=("at",))
    with postgres(database, route) as adapter:
        rows: list[Message] = [("d", n, 1.0) for n in range(40)]
        written = await adapter.store.write(chunk(rows), Fence(new_lane(), 1))
    assert said([*written.runs]) == ["+OK" if n % 2 else f"+OK at={n}" for n in range(40)]


messages = st.tuples(
    st.sampled_from(["a", "b", None]), st.integers(1, 3), st.sampled_from([1.0, 2.0, 100.0])
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["error", "ignore", "update"]),
    st.booleans(),
    st.lists(st.lists(messages, min_size=1, max_size=12), min_size=1, max_size=3),
)
@pytest_twisted.ensureDeferred
async def test_as_if_one_by_one(
    database: Database, conflict: Any, returning: bool, batches: list[list[Message]]
) -> None:
    """Whatever comes together, table and answers are those of single messages in their order."""
    database.execute("DROP TABLE IF EXISTS readings;" + TABLE)
    key = () if conflict == "error" else ("device", "at")
    told = ("temp",) if returning else ()
    route = Route(
        "r",
        "readings",
        ROUTE.columns,
        reading=ROUTE.reading,
        conflict=conflict,
        key=key,
        returning=told,
    )
    table: dict[Any, float] = {}
    with postgres(database, route) as adapter:
        for number, batch in enumerate(batches, 1):
            words = []
            for place, (device, at, temp) in enumerate(batch):
                same = (number, place) if device is None else (device, at)
                if temp >= 100:
                    # A rule of the table comes before its keys.
                    words.append("-REJ")
                elif same not in table or conflict == "update":
                    table[same] = temp
                    words.append("+OK")
                else:
                    words.append("+DUP" if conflict == "ignore" else "-REJ")
            written = await adapter.store.write(chunk(batch), Fence(new_lane(), 1))
            answers = said([*written.runs])
            assert [answer.split(" ")[0] for answer in answers] == words
            for (_, _, temp), answer in zip(batch, answers, strict=True):
                if answer.startswith("+OK") and returning:
                    assert answer == f"+OK temp={temp:g}"
    stored = database.execute("SELECT device, at, temp FROM readings WHERE device IS NOT NULL")
    assert {(device, at): temp for device, at, temp in stored} == {
        same: temp for same, temp in table.items() if isinstance(same[0], str)
    }
    assert database.column("SELECT count(*) FROM readings") == [len(table)]


def test_opposite_orders(start_with: StartWith, database: Database) -> None:
    """Peers that update the same keys in opposite orders do not lock each other out."""
    database.execute(TABLE)
    gateway = start_with(SECTIONS.format(keys=f'conflict = "update"\n{KEY}'))
    peers = [gateway.connect() for _ in range(4)]
    for turn in range(10):
        for number, peer in enumerate(peers):
            rows: list[Message] = [("d", n, float(turn)) for n in range(300)]
            peer.send(encoded(rows[:: -1 if number % 2 else 1]))
        for peer in peers:
            assert set(peer.read_lines(300)) == {b"+OK"}
    assert database.execute("SELECT count(*), min(temp), max(temp) FROM readings") == [(300, 9, 9)]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert database.column(deadlocks) == [0]
    for peer in peers:
        peer.close()
