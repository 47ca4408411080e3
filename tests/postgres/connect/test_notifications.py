"""
Notifications from a real PostgreSQL: nothing after +OK is missed, unless >!gap says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError

from gateway.config.load import Database as Settings
from gateway.daemon.options import Options
from gateway.dialects.subscriptions import Subscriptions
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.notifications import Notifications
from gateway.wire.push import Pushes
from tests.faults.pooler import OwnPooler
from tests.faults.proxy import FaultProxy
from tests.support import PATIENCE, Database, TemporaryServer, tool, until

ODD = 'Od"d:%s'
CHANNELS = ("news", "orders", ODD)
SESSIONS = "FROM pg_stat_activity WHERE query LIKE '%LISTEN%' AND datname = current_database()"
SESSIONS += " AND pid <> pg_backend_pid()"
LISTENERS = f"SELECT count(*) {SESSIONS}"
TERMINATE = f"SELECT pg_terminate_backend(pid) {SESSIONS}"


class Ear:
    """
    A subscriber that remembers each push.
    """

    def __init__(self) -> None:
        self.pushes: list[list[bytes]] = []

    def push(self, pushes: Pushes) -> bool:
        self.pushes.append(list(pushes.payloads))
        return True

    @property
    def heard(self) -> list[bytes]:
        return [payload for push in self.pushes for payload in push]


class Town:
    """
    Channels on a server.
    """

    def __init__(self, dsn: str, check_every: float = 30.0, **settings: Any) -> None:
        # Whoever does not let a server be silent gets an answer, however busy the machine is.
        patient = {"connect_timeout": PATIENCE, "acquire_timeout": PATIENCE}
        configured = Settings(**(patient | settings))
        connector = Connector.of_process(configured, reactor)
        clock: Any = reactor
        self.notifications = Notifications(
            configured, clock, lambda attempt: 0.05, connector, check_every
        )
        self.channels = Subscriptions(CHANNELS, self.notifications, clock)
        self.notifications.start(dsn)

    async def subscribe(self, ear: Ear, *channels: str) -> None:
        for channel in channels:
            assert bytes(await self.channels.subscribe(channel, ear)) == b"+OK"


@contextmanager
def town_on(dsn: str, **settings: Any) -> Iterator[Town]:
    town = Town(dsn, **settings)
    try:
        yield town
    finally:
        town.notifications.stop()


@pytest.fixture
def own_proxy(database: Database) -> Iterator[FaultProxy]:
    """A proxy on the way to the server."""
    proxy = FaultProxy.before_database(database.dsn)
    yield proxy
    proxy.end()


@pytest_twisted.ensureDeferred
async def test_notifications_arrive(database: Database) -> None:
    """Whatever is in a name or a payload, it comes as it was said, and only to its channel."""
    with town_on(database.dsn) as town:
        ear, other = Ear(), Ear()
        await town.subscribe(ear, *CHANNELS)
        await town.subscribe(other, "orders")
        for channel, payload in [(ODD, "ü\r\n%s"), ("news", ""), ("other", "x"), ("orders", "1")]:
            database.execute("SELECT pg_notify(%s, %s)", channel, payload)
        await until(lambda: len(ear.heard) == 3 and other.heard, "all are told")
        assert ear.heard == [f">{ODD} ü\r\n%s".encode(), b">news ", b">orders 1"]
        assert other.heard == [b">orders 1"]
        database.execute("SELECT pg_notify('news', repeat('x', 7999))")
        await until(lambda: ear.heard[-1] == b">news " + b"x" * 7999, "the longest there is")


@pytest_twisted.ensureDeferred
async def test_order_and_transactions(database: Database) -> None:
    """The order is that of the commits; a transaction is one push, what it took back is none."""
    first, second = psycopg2.connect(database.dsn), psycopg2.connect(database.dsn)
    with town_on(database.dsn) as town:
        ear = Ear()
        await town.subscribe(ear, "news")
        with first.cursor() as one, second.cursor() as two:
            one.execute("SELECT pg_notify('news', 'a' || n) FROM generate_series(1, 100) n")
            two.execute("NOTIFY news, 'b'")
            second.commit()
            await until(lambda: ear.heard, "the first to commit is the first")
            one.execute("SAVEPOINT s; NOTIFY news, 'never'; ROLLBACK TO s")
            first.commit()
            two.execute("NOTIFY news, 'never'")
            second.rollback()
        await until(lambda: len(ear.heard) == 101, "all are told")
        assert ear.pushes == [[b">news b"], [f">news a{n}".encode() for n in range(1, 101)]]
    first.close()
    second.close()


@pytest_twisted.ensureDeferred
async def test_nothing_is_missed_after_ok(database: Database) -> None:
    """While others notify without a pause, who has its +OK gets every number from then on."""
    with town_on(database.dsn) as town:
        notifying = psycopg2.connect(database.dsn)
        notifying.autocommit = True
        ears: list[tuple[Ear, int]] = []
        with notifying.cursor() as cursor:
            for number in range(300):
                if number % 10 == 0:
                    ear = Ear()
                    await town.subscribe(ear, "news")
                    ears.append((ear, number))
                if number % 50 == 25:
                    # Listened to anew each time somebody comes.
                    for ear, _ in ears:
                        town.channels.end_all(ear)
                    ears.clear()
                cursor.execute("SELECT pg_notify('news', %s)", (str(number),))
        await until(lambda: ears[0][0].heard[-1:] == [b">news 299"], "the last is told")
        for ear, since in ears:
            assert [int(push[6:]) for push in ear.heard if int(push[6:]) >= since] == [
                *range(since, 300)
            ]
        notifying.close()


@pytest_twisted.ensureDeferred
async def test_one_listen_for_a_thousand(database: Database) -> None:
    """A thousand who ask at once share a statement; when the last has left the server is told."""
    with town_on(database.dsn) as town:
        ears = [Ear() for _ in range(1000)]
        asked = [Deferred.fromCoroutine(town.subscribe(ear, "news")) for ear in ears]
        await gatherResults(asked)
        database.execute("NOTIFY news, '1'")
        await until(lambda: all(ear.heard for ear in ears), "all are told")
        assert all(ear.pushes == [[b">news 1"]] for ear in ears)
        assert database.column(LISTENERS) == [1]
        for ear in ears:
            town.channels.end_all(ear)
        unlisten = "SELECT query FROM pg_stat_activity WHERE query LIKE 'UNLISTEN%'"
        await until(lambda: database.column(unlisten) == ['UNLISTEN "news"'], "UNLISTEN")
        assert not town.notifications.listening


@pytest_twisted.ensureDeferred
async def test_a_lost_connection_is_a_gap(database: Database) -> None:
    """After the connection was lost everything is listened to again, and who listened is told."""
    with town_on(database.dsn) as town, capturedLogs() as events:
        ear, other = Ear(), Ear()
        await town.subscribe(ear, "news", "orders")
        await town.subscribe(other, "news")
        for _ in range(2):
            database.execute(TERMINATE)
            await until(lambda: not town.notifications.listening, "the loss is noticed")
            await until(lambda: len(town.notifications.listening) == 2, "it listens again")
            database.execute("NOTIFY news, 'again'")
            await until(lambda: ear.heard[-1:] == [b">news again"], "it comes again")
        assert ear.heard == [b">!gap news", b">!gap orders", b">news again"] * 2
        assert other.heard == [b">!gap news", b">news again"] * 2
        lines = [formatEvent(event) for event in events]
    assert [line.split(":")[1] for line in lines] == [
        " the connection was lost, notifications may be missed",
        " listening again",
    ] * 2


@pytest_twisted.ensureDeferred
async def test_leaving_and_coming_while_it_is_lost(database: Database) -> None:
    """Who comes after the loss waits and has missed nothing; what nobody wants is left alone."""
    with town_on(database.dsn) as town:
        stays, leaves, comes = Ear(), Ear(), Ear()
        await town.subscribe(stays, "news")
        await town.subscribe(leaves, "orders")
        database.execute(TERMINATE)
        await until(lambda: not town.notifications.listening, "the loss is noticed")
        town.channels.end_all(leaves)
        await town.subscribe(comes, "news")
        database.execute("NOTIFY news, '1'; NOTIFY orders, '1'")
        await until(lambda: stays.heard[1:] and comes.heard, "it comes again")
        assert (stays.heard, comes.heard, leaves.heard) == (
            [b">!gap news", b">news 1"],
            [b">news 1"],
            [],
        )
        assert town.notifications.listening == {"news"}


@pytest_twisted.ensureDeferred
async def test_the_server_is_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without the server LISTEN is to be tried later; who listened is told when it is back."""
    server = TemporaryServer(tmp_path_factory.mktemp("away"))
    server.start()
    try:
        with town_on(server.embedded.dsn) as town, capturedLogs() as events:
            ear, late = Ear(), Ear()
            await town.subscribe(ear, "news")
            server.stop()
            await until(lambda: not town.notifications.listening, "the loss is noticed")
            for _ in range(20):
                said = bytes(await town.channels.subscribe("news", late)).decode()
                assert said == "-TRY DOWN retry=1 :the database cannot be reached"
            server.start()
            await until(lambda: ear.heard, "it listens again")
            await town.subscribe(late, "news")
            Database(server.embedded.dsn).execute("NOTIFY news, '1'")
            await until(lambda: late.heard, "it comes again")
            assert (ear.heard, late.heard) == ([b">!gap news", b">news 1"], [b">news 1"])
            lines = [formatEvent(event) for event in events]
        assert lines[-1] == "channels: listening again" and lines.count(lines[-1]) == 1
        # One for the loss, and one for each reason in turn why it could not be opened again.
        assert len(lines) == len(set(lines)) < 8
    finally:
        server.stop()


@pytest_twisted.ensureDeferred
async def test_nobody_there() -> None:
    """Without a server each LISTEN gets its answer, and the log one line."""
    with town_on("host=/nonexistent") as town, capturedLogs() as events:
        for _ in range(50):
            said = bytes(await town.channels.subscribe("news", Ear())).decode()
            assert said == "-TRY DOWN retry=1 :the database cannot be reached"
        assert len(events) == 1
        assert formatEvent(events[0]).startswith("channels: cannot listen, peers are told to try")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that is there and says nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest_twisted.ensureDeferred
async def test_a_silent_death_is_noticed(database: Database) -> None:
    """A session that says nothing any more is replaced, and who listened is told."""
    with town_on(database.dsn, check_every=0.1, connect_timeout=0.3) as town:
        ear = Ear()
        await town.subscribe(ear, "news")
        (pid,) = database.column(f"SELECT pid {SESSIONS}")
        with frozen(pid):
            await until(lambda: ear.heard == [b">!gap news"], "the death is noticed")
            database.execute("NOTIFY news, '1'")
            await until(lambda: ear.heard[1:] == [b">news 1"], "it comes again")


@pytest_twisted.ensureDeferred
async def test_a_session_that_is_not_ours(database: Database) -> None:
    """Where the session stops listening, as behind a pooler that shares it, the log says why."""
    with town_on(database.dsn, check_every=0.1) as town, capturedLogs() as events:
        ear = Ear()
        await town.subscribe(ear, "news")
        connection = town.notifications._connection
        assert connection is not None
        await connection.query("UNLISTEN *", None, 5.0)
        await until(lambda: ear.heard == [b">!gap news"], "it is noticed")
        assert "channels.dsn must lead around it" in formatEvent(events[0])


@pytest_twisted.ensureDeferred
async def test_a_connection_is_kept_while_it_is_needed(database: Database) -> None:
    """It is opened for the first LISTEN, checked but kept while somebody listens, then closed."""
    everybody = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gateway'"
    with town_on(database.dsn, check_every=0.1) as town, capturedLogs() as events:
        ear = Ear()
        assert database.column(everybody) == [0]
        await town.subscribe(ear, "news")
        asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%listening_channels%'"
        await until(lambda: database.column(f"{asked} AND pid <> pg_backend_pid()") == [1], "asked")
        assert ear.heard == []
        town.channels.end_all(ear)
        await until(lambda: database.column(everybody) == [0], "it is closed")
        await town.subscribe(ear, "orders")
        assert not events


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_answer(database: Database, own_proxy: FaultProxy) -> None:
    """LISTEN has its answer in time, whoever does not answer us; nothing is left behind."""
    dsn = own_proxy.dsn(database.dsn)
    with town_on(dsn, acquire_timeout=0.3, connect_timeout=1.0) as town:
        own_proxy.tell("both drop")
        ear = Ear()
        said = bytes(await town.channels.subscribe("news", ear)).decode()
        assert said == "-TRY DOWN retry=1 :the database does not answer"
        own_proxy.tell("both pass")
        while bytes(await town.channels.subscribe("news", ear)) != b"+OK":
            await deferLater(reactor, 0.05)
        database.execute("NOTIFY news, '1'")
        await until(lambda: ear.heard == [b">news 1"], "it comes")


@pytest_twisted.ensureDeferred
async def test_a_standby(database: Database) -> None:
    """Where the server is read-only nobody can listen, and the log has one line."""
    name = psycopg2.extensions.parse_dsn(database.dsn)["dbname"]
    database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with town_on(database.dsn) as town, capturedLogs() as events:
        for _ in range(10):
            said = bytes(await town.channels.subscribe("news", Ear())).decode()
            assert said == "-TRY DOWN retry=1 :the database cannot be reached"
            await deferLater(reactor, 0.02)
        assert [formatEvent(event) for event in events] == [
            "channels: cannot listen, peers are told to try later:"
            " the server is read-only (a standby?)"
        ]


# What the operator is told.


def check(tmp_path: Path, dsn: str, channels: str) -> tuple[int, str, str]:
    """@return: exit status, notes and problems of C{gateway check}."""
    config = tmp_path / "gateway.toml"
    section = f"[channels]\nallow = ['news', 'orders']\n{channels}\n"
    config.write_text(f"[database]\ndsn = '''{dsn}'''\n{section}")
    done = tool("check", str(config))
    return done.returncode, done.stdout, done.stderr


def test_check_notes_the_channels(database: Database, tmp_path: Path) -> None:
    """gateway check says what peers may listen to, and has nothing against a direct connection."""
    for more in ("", f"dsn = '''{database.dsn}'''"):
        status, notes, problems = check(tmp_path, database.dsn, more)
        assert (status, problems) == (0, "")
        assert "channels: peers may listen to news, orders\n" in notes and "pooler" not in notes


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        ("nonsense", "channels.dsn: is neither a libpq URI"),
        ("host=/nonexistent", "channels.dsn: connection to server on socket"),
        ("{other}", "channels.dsn: leads to database 'postgres', and database.dsn to '{name}';"),
    ],
)
def test_check_finds_a_wrong_dsn(
    database: Database, tmp_path: Path, dsn: str, problem: str
) -> None:
    """gateway check tries channels.dsn, and says where it leads if that is the wrong place."""
    name = psycopg2.extensions.parse_dsn(database.dsn)["dbname"]
    given = dsn.format(other=psycopg2.extensions.make_dsn(database.dsn, dbname="postgres"))
    status, _, problems = check(tmp_path, database.dsn, f"dsn = '''{given}'''")
    assert status == (3 if "connection to" in problem else 1)
    assert problem.format(name=name) in problems


def test_check_sees_a_pooler(database: Database, tmp_path: Path) -> None:
    """A pooler on the way is a note, since it may share no sessions; around it is no pooler."""
    pooler = OwnPooler(database.dsn, 1)
    try:
        through = pooler.dsn(database.dsn)
        status, notes, _ = check(tmp_path, through, "")
        assert status == 0 and "channels.dsn must lead around it" in notes
        status, _, problems = check(tmp_path, database.dsn, f"dsn = '''{through}'''")
        assert status == 1
        assert "channels.dsn: leads to a pooler; it must lead to the server" in problems
    finally:
        pooler.end()


def test_a_faulty_dsn_is_told_at_the_start(tmp_path: Path) -> None:
    """A channels.dsn that cannot be read ends the gateway's start with one line."""
    config = tmp_path / "gateway.toml"
    config.write_text('[channels]\ndsn = "nonsense"\n')
    options: Any = Options()
    with pytest.raises(UsageError, match=r"channels\.dsn: is neither a libpq URI"):
        options.parseOptions(["--config", str(config)])
