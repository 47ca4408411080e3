"""
Faults of the database, under load: what was acknowledged is there, once, and in order.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import pytest_twisted

from gateway.model.batch import Fence
from gateway.model.errors import TransientError
from tests.faults.cluster import kill_postmaster
from tests.faults.disk import SmallDisk
from tests.faults.load import ACKNOWLEDGED, Load, judge_soon, responsive, rows
from tests.faults.look import BACKENDS, Start, assert_quiet, sample, wait_locked_out
from tests.faults.proxy import FaultProxy
from tests.in_memory import said
from tests.postgres.store.test_store import MESSAGES, PostgresAdapter, batch, new_lane, postgres
from tests.support import LISTEN, Database, TemporaryServer, wait_until

StartProxy = Callable[[str], FaultProxy]

MOST_BACKOFF = 2.0
"""Seconds between two attempts to connect, at most."""


def backends(database: Database, state: str) -> list[int]:
    """Sessions of the gateway that are idle, or active."""
    return [int(pid) for pid in database.column(f"{BACKENDS} AND state = %s", state)]


def terminate(database: Database, pids: list[int]) -> None:
    database.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS u(pid)", pids)


def test_server_killed(own_server: TemporaryServer, start_gateway: Start) -> None:
    """
    Number 19: kill -9 of the server under load; when it is started again the gateway is
    back within its longest back-off, by itself.
    """
    database = Database(own_server.embedded.dsn)
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    with responsive(gateway):
        for _ in range(3):
            load.wait_progress()
            kill_postmaster(own_server.embedded.data)
            own_server.start()
            started = time.monotonic()
            load.wait_progress()
            assert time.monotonic() - started < MOST_BACKOFF + 3
    load.finish()
    judge_soon(database, load)
    assert_quiet(gateway)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_server_restarted(
    own_server: TemporaryServer, start_gateway: Start, how: signal.Signals
) -> None:
    """Number 20: restarted under load again and again; then an orderly restart works as ever."""
    database = Database(own_server.embedded.dsn)
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    with responsive(gateway):
        for _ in range(3):
            load.wait_progress()
            own_server.restart(how)
            load.wait_progress()
    load.finish()
    judge_soon(database, load)
    own_server.restart()
    after = Load(gateway, first=10)
    after.wait_progress()
    after.finish()
    judge_soon(database, load, after)
    assert_quiet(gateway)


def test_backend_killed(own_server: TemporaryServer, start_gateway: Start) -> None:
    """Number 20: kill -9 of a backend makes PostgreSQL restart; the gateway goes on."""
    database = Database(own_server.embedded.dsn)
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    with responsive(gateway):
        for _ in range(3):
            load.wait_progress()
            os.kill(random.choice(database.column(BACKENDS)), signal.SIGKILL)
            load.wait_progress()
    load.finish()
    judge_soon(database, load)
    assert_quiet(gateway)


def test_embedded_server_killed(tmp_path: Path, start_gateway: Start) -> None:
    """Number 19: kill -9 of the embedded server: the gateway starts it again and goes on."""
    gateway = start_gateway(*LISTEN)
    server = TemporaryServer(tmp_path / "gateway-data")
    load = Load(gateway)
    with responsive(gateway):
        load.wait_progress()
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        gateway.wait_log("embedded PostgreSQL is running again")
        load.wait_progress()
    load.finish()
    judge_soon(Database(server.embedded.dsn), load)


def test_backends_terminated(database: Database, start_configured: Start) -> None:
    """
    Number 21: an idle and a busy backend ended at a time, then all one after the other:
    nobody is refused, nothing is lost.
    """
    gateway = start_configured(database.dsn, "pool_min = 4")
    load = Load(gateway, peers=3)
    with responsive(gateway):
        for _ in range(10):
            load.wait_progress()
            for state in ("idle", "active"):
                terminate(database, backends(database, state)[:1])
        for _ in range(10):
            load.wait_progress()
            for pid in database.column(BACKENDS):
                terminate(database, [pid])
        load.wait_progress()
    load.finish()
    assert not load.refused
    judge_soon(database, load)
    assert_quiet(gateway)


def test_replies_dropped(database: Database, start_proxy: StartProxy, start_gateway: Start) -> None:
    """
    Number 23: the server committed and its answer was lost, again and again: every message
    is stored once, and acknowledged.
    """
    proxy = start_proxy(database.dsn)
    gateway = start_gateway("--database", proxy.dsn(database.dsn), *LISTEN)
    peer = gateway.connect()
    peer.send(b"first\n")
    assert peer.read_lines(1) == [b"+OK"]
    proxy.tell("drop-reply-to EXECUTE")
    peer.send(b"once\n")
    proxy.wait_event("dropped-reply")
    assert peer.read_lines(1) == [b"+OK"]
    peer.close()
    assert database.bodies() == ["first", "once"]
    database.execute("TRUNCATE messages")
    load = Load(gateway)
    for _ in range(5):
        load.wait_progress()
        proxy.tell("drop-reply-to EXECUTE")
        proxy.wait_event("dropped-reply")
    load.wait_progress()
    load.finish()
    assert not load.refused
    judge_soon(database, load)
    assert_quiet(gateway)


_HELD_AT_COMMIT = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(1);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON messages
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
"""


def _others(database: Database, ended: int) -> bool:
    """Whether the one that was ended is gone, and another one is active."""
    active = backends(database, "active")
    return len(active) == 1 and ended not in active


@pytest.mark.parametrize(
    "hold", ["LOCK TABLE messages", "SELECT pg_advisory_lock(1)"], ids=["insert", "commit"]
)
def test_backend_ended_within_a_statement(
    database: Database, start_gateway: Start, hold: str
) -> None:
    """Number 23: a backend ended while it stores, or while it commits: exactly one row."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    database.execute(_HELD_AT_COMMIT)
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute(hold)
    peer = gateway.connect()
    peer.send(b"once\n")
    for _ in range(3):
        wait_locked_out(database)
        (busy,) = backends(database, "active")
        terminate(database, [busy])
        wait_until(lambda busy=busy: _others(database, busy), "it is tried again")
    locker.close()
    assert peer.read_lines(1) == [b"+OK"]
    peer.close()
    assert database.bodies() == ["once"]
    assert_quiet(gateway)


@pytest.mark.long
def test_frozen_backends(database: Database, start_configured: Start) -> None:
    """
    Number 24: backends that do not answer are given up at the deadline and their batches
    stored through others, while everybody else goes on; when they wake and find their
    statements, the fence keeps them from storing again.
    """
    settings = "statement_timeout = 0.5\nanswer_timeout = 30.0\npool_min = 4\npool_max = 4"
    gateway = start_configured(database.dsn, settings)
    before = Load(gateway, first=10)
    # Sessions that have stored something know the statement; all they need is its values.
    stored = f"{BACKENDS} AND query LIKE 'EXECUTE%'"
    wait_until(lambda: len(database.column(stored)) == 4, "all four connections are used")
    before.finish()
    idle = database.column(stored)[:2]
    assert len(idle) == 2
    for pid in idle:
        os.kill(pid, signal.SIGSTOP)
    try:
        loads: list[Load] = []
        with responsive(gateway):
            # Whoever has a message in a batch that is held up waits with it; that may be all of a
            # load, and of another one where the second backend is found only by that.
            for first in (20, 30, 40):
                loads.append(load := Load(gateway, first=first))
                wait_until(lambda load=load: goes_on(load) or is_held_up(load), "it is tried")
            wait_until(lambda: any(map(goes_on, loads)), "those not concerned go on")
            assert "no answer from the server" not in gateway.log
            for load in loads:
                load.wait_progress()
            assert "no answer from the server within 5.5 s" in gateway.log
    finally:
        for pid in idle:
            os.kill(pid, signal.SIGCONT)
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY(%s)"
    wait_until(lambda: database.column(gone, idle)[0], "the frozen backends end")
    for load in loads:
        load.finish()
        assert not load.refused
    judge_soon(database, before, *loads)
    assert_quiet(gateway)


def goes_on(load: Load) -> bool:
    """More is acknowledged than was under way at any time."""
    return load.acknowledged > 4000


def is_held_up(load: Load) -> bool:
    """Nothing is acknowledged for a moment."""
    return len(set(sample(lambda: load.acknowledged, 0.3))) == 1


@pytest.mark.long
def test_silent_wire(database: Database, start_proxy: StartProxy, start_configured: Start) -> None:
    """
    Number 24: nothing comes through to the server or back, and nobody says so: the deadline
    notices, the reactor goes on, and so does everybody once the wire is mended.
    """
    proxy = start_proxy(database.dsn)
    gateway = start_configured(
        proxy.dsn(database.dsn), "statement_timeout = 0.2\nconnect_timeout = 1\npool_min = 4"
    )
    load = Load(gateway)
    load.wait_progress()
    with responsive(gateway):
        proxy.tell("both drop")
        gateway.wait_log("no answer from the server within 5.2 s")
        gateway.wait_log("cannot connect, trying again: no answer from the server within 1 s")
        proxy.tell("both pass")
        load.wait_progress()
    load.finish()
    judge_soon(database, load)
    assert_quiet(gateway)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A server whose disk can be filled up."""
    disk = SmallDisk(tmp_path)
    yield disk
    disk.end()


@pytest.mark.long
def test_disk_full(small_disk: SmallDisk, start_gateway: Start) -> None:
    """
    Number 26: with no room left nothing is acknowledged that is not stored; storing goes on
    by itself when there is room again.
    """
    database = small_disk.database
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway)
    for _ in range(2):
        load.wait_progress()
        small_disk.tell("fill")
        # There is some room in the table itself.
        wait_until(lambda: len(set(sample(lambda: rows(database), 0.5))) == 1, "nothing is stored")
        with pytest.raises(psycopg2.errors.DiskFull):
            database.execute("CREATE TABLE more AS SELECT generate_series(1, 100000)")
        small_disk.tell("free")
        load.wait_progress()
    load.finish()
    assert {answer.split()[0] for answer in load.refused} <= {b"-TRY"}
    judge_soon(database, load)
    assert_quiet(gateway)


@pytest_twisted.ensureDeferred
async def test_what_fits_on_a_full_disk(small_disk: SmallDisk) -> None:
    """
    Rows that need no new page pass where a large one does not: that one is not at fault.
    """
    database = small_disk.database
    large = os.urandom(200_000).hex().encode()
    with postgres(database, MESSAGES) as adapter:
        await adapter.store.probe("messages")
        assert await said_of(adapter, b"small", large) == ["+OK", "+OK"]
        small_disk.tell("fill")
        for messages in ([large], [b"small", large], [large, b"small"]):
            with pytest.raises(TransientError) as caught:
                await said_of(adapter, *messages)
            assert caught.value.sqlstate == "53100"
        assert await said_of(adapter, b"small") == ["+OK"]
        small_disk.tell("free")
        assert await said_of(adapter, large) == ["+OK"]
    assert database.column("SELECT count(*) FROM messages WHERE length(body) > 9") == [2]


async def said_of(adapter: PostgresAdapter, *messages: bytes) -> list[str]:
    written = await adapter.store.write(batch(*messages), Fence(new_lane(), 1), blame=True)
    return [answer.split()[0] for answer in said([*written.runs])]


def canceled(server: TemporaryServer) -> int:
    """How often the server gave up on a statement, for its time or a lock."""
    log = server.embedded.log_file.read_text()
    return len(re.findall("canceling statement due to (?:statement|lock) timeout", log))


@pytest.mark.parametrize("which", ["statement", "lock"])
def test_locked_out(
    server: TemporaryServer, database: Database, start_configured: Start, which: str
) -> None:
    """
    Number 27: a lock held beyond statement_timeout or lock_timeout: tried again over the
    same connections until it is free, and stored once.
    """
    if which == "lock":
        database.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = ''200ms''',"
            " current_database()); END $$"
        )
    timeout = 0.3 if which == "statement" else 30
    gateway = start_configured(database.dsn, f"statement_timeout = {timeout}\npool_max = 2")
    pids = wait_until(
        lambda: pids if len(pids := set(database.column(BACKENDS))) == 2 else None, "both are open"
    )
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    before = canceled(server)
    peer = gateway.connect()
    peer.send(b"".join(b"%d\n" % n for n in range(100)))
    wait_until(lambda: canceled(server) >= before + 4, "it is tried again")
    locker.close()
    assert peer.read_lines(100) == [b"+OK"] * 100
    peer.close()
    assert database.bodies() == [str(n) for n in range(100)]
    # There may be one more: the test's own last session, which ends by itself.
    assert set(database.column(BACKENDS)) >= pids, "connections were replaced"
    assert_quiet(gateway)


_FAILING = """
    CREATE SEQUENCE attempts;
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('attempts') <= {times} THEN
            RAISE 'try again' USING ERRCODE = '{sqlstate}';
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER fail AFTER INSERT ON messages EXECUTE FUNCTION fail();
"""


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_conflicts(database: Database, start_configured: Start, sqlstate: str) -> None:
    """
    Number 27: a statement that lost to others is tried again over the same connections, and
    stored once.
    """
    gateway = start_configured(database.dsn, "pool_max = 2")
    pids = wait_until(
        lambda: pids if len(pids := set(database.column(BACKENDS))) == 2 else None, "both are open"
    )
    database.execute(_FAILING.format(times=4, sqlstate=sqlstate))
    assert gateway.connect().ask(b"one\ntwo\n") == b"+OK\n+OK\n"
    assert database.bodies() == ["one", "two"]
    assert database.column("SELECT last_value FROM attempts") == [5]
    # There may be one more: the test's own last session, which ends by itself.
    assert set(database.column(BACKENDS)) >= pids, "connections were replaced"
    assert_quiet(gateway)


@pytest.mark.long
def test_conflicts_without_end(database: Database, start_gateway: Start) -> None:
    """Number 27: what never passes is tried for ten seconds, with pauses, then given back."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    database.execute(_FAILING.format(times=1_000_000, sqlstate="40001"))
    peer = gateway.connect()
    peer.send(b"never\n")
    answer = peer.read_lines(1)[0]
    assert answer.startswith(b"-TRY BUSY sqlstate=40001") or answer == b"+QUE"
    assert 5 < database.column("SELECT last_value FROM attempts")[0] < 60
    assert gateway.log.count("try again") <= 2
    database.execute("DROP TRIGGER fail ON messages")
    peer.send(b"now\n")
    assert peer.read_lines(1)[0] in ACKNOWLEDGED
    peer.close()
    wait_until(lambda: "now" in database.bodies(), "it is stored")
    assert database.bodies().count("never") == (answer == b"+QUE")


def test_one_of_many_breaks_a_rule(
    server: TemporaryServer, database: Database, start_gateway: Start
) -> None:
    """
    Number 28: of 500 messages one breaks a rule: it is refused, once and for all, the others
    are stored, and peers beside it notice nothing.
    """
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    load = Load(gateway, peers=3)
    load.wait_progress()
    database.execute("ALTER TABLE messages ADD CONSTRAINT mild CHECK (body <> '9 250') NOT VALID")
    failed = server.embedded.log_file.read_text().count('"mild"')
    answers = gateway.connect().ask(b"".join(b"9 %d\n" % n for n in range(500))).splitlines()
    assert [n for n, answer in enumerate(answers) if answer != b"+OK"] == [250]
    assert answers[250].startswith(b"-REJ CONSTRAINT sqlstate=23514 ")
    load.wait_progress()
    load.finish()
    assert not load.refused
    judge_soon(database, load)
    assert database.column(
        "SELECT split_part(body, ' ', 2)::int FROM messages WHERE body LIKE '9 %' ORDER BY id"
    ) == [n for n in range(500) if n != 250]
    # Halving, in whatever batches it arrived: log2(10,000) = 13.3.
    assert server.embedded.log_file.read_text().count('"mild"') - failed <= 2 * 15
    assert_quiet(gateway)


OPERATORS = {
    "password": ("ALTER ROLE writer PASSWORD 'two'", "ALTER ROLE writer PASSWORD 'one'"),
    "53300": ("ALTER ROLE writer CONNECTION LIMIT 0", "ALTER ROLE writer CONNECTION LIMIT -1"),
    "42501": ("REVOKE INSERT ON messages FROM writer", "GRANT INSERT ON messages TO writer"),
    "42P01": ("ALTER TABLE messages RENAME TO gone", "ALTER TABLE gone RENAME TO messages"),
}
"""What operators do, and how they mend it."""


@pytest.fixture
def as_writer(own_server: TemporaryServer) -> str:
    """A connection string for a role that needs its password and owns nothing."""
    database = Database(own_server.embedded.dsn)
    database.execute("CREATE ROLE writer LOGIN PASSWORD 'one'")
    database.execute("GRANT CREATE ON DATABASE gateway TO writer")
    database.execute(
        "CREATE TABLE public.messages"
        " (id bigint GENERATED ALWAYS AS IDENTITY, peer text, body text NOT NULL)"
    )
    database.execute("GRANT INSERT ON messages TO writer")
    hba = own_server.embedded.data / "pg_hba.conf"
    hba.write_text(f"local all writer scram-sha-256\n{hba.read_text()}")
    database.execute("SELECT pg_reload_conf()")
    return str(psycopg2.extensions.make_dsn(database.dsn, user="writer", password="one"))


@pytest.mark.parametrize("fault", OPERATORS)
def test_operator(
    own_server: TemporaryServer, as_writer: str, start_configured: Start, fault: str
) -> None:
    """
    Number 31: password rotated, no more connections allowed, grant revoked, table gone: peers
    are told to try later, the log says it once, and all goes on when the operator mends it.
    """
    database = Database(own_server.embedded.dsn)
    gateway = start_configured(
        as_writer, "acquire_timeout = 0.5", more='[routes.messages]\ntable = "messages"\n'
    )
    harm, mend = OPERATORS[fault]
    before = Load(gateway, peers=3)
    before.wait_progress()
    # What is in flight when its connection ends is not answered before its fate is known.
    before.finish()
    lines = len(gateway.log.splitlines())
    database.execute(harm)
    if fault in ("password", "53300"):
        # Sessions that are open do not notice.
        terminate(database, database.column(BACKENDS))
        wait_until(lambda: not database.column(BACKENDS), "they are closed")
    load = Load(gateway, peers=3, first=10, window=10)

    def troubled() -> list[str]:
        """What the log says of it, beside one line for each connection that was ended."""
        said = gateway.log.splitlines()[lines:]
        return [line for line in said if "a connection was lost" not in line]

    wait_until(lambda: len(load.refused) + load.acknowledged > 100 and troubled(), "they are told")
    assert {answer.split()[0] for answer in load.refused} <= {b"-TRY"}
    assert len(troubled()) <= 3, gateway.log
    attempts = own_server.embedded.log_file.read_text().count('role "writer"')
    attempts += own_server.embedded.log_file.read_text().count('failed for user "writer"')
    assert attempts < 40, "a storm"
    database.execute(mend)
    load.wait_progress()
    load.finish()
    judge_soon(database, before, load)
    assert_quiet(gateway)
