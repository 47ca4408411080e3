"""
Fault 25: a host that is silent, closed, nameless or read-only; the next one is used.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_twisted
from psycopg2.extensions import parse_dsn
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.protocols import portforward

from gateway.config.load import Database as Settings
from gateway.model.batch import Fence
from gateway.model.errors import OutcomeUnknown, Unavailable
from gateway.postgres.connect.connection import Connection
from gateway.postgres.connect.connector import Connector, outside_of_process
from gateway.postgres.connect.pool import Pool
from gateway.postgres.connect.resolver import ThreadedResolver
from gateway.postgres.store.store import PostgresStore
from tests import forking
from tests.forking import BIN
from tests.postgres.store.test_store import MESSAGES, batch, new_lane
from tests.support import LISTEN, PATIENCE, Database, Gateway, TemporaryServer

TIMEOUT = 1.0
"""Seconds that a host has in these tests."""

SLACK = 1.0
"""Seconds more that a loaded machine may take."""


class _ToSocket(portforward.ProxyServer):
    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        client = self.clientProtocolFactory()
        client.setServer(self)
        factory: Any = self.factory
        any_reactor: Any = reactor
        any_reactor.connectUNIX(factory.path, client)


@contextmanager
def tcp_port(database: Database) -> Iterator[int]:
    """A port on 127.0.0.1 that leads to a server which has only a Unix socket."""
    parts = parse_dsn(database.dsn)
    factory: Any = Factory.forProtocol(_ToSocket)
    factory.noisy = False
    factory.path = f"{parts['host']}/.s.PGSQL.{parts['port']}"
    any_reactor: Any = reactor
    port = any_reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        yield port.getHost().port
    finally:
        port.stopListening()


@contextmanager
def silent() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


@contextmanager
def closed() -> Iterator[int]:
    """A port where nobody listens, kept from others."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class Lag:
    """
    How late the reactor was at worst, and a thread of its own beside it, in seconds.
    """

    def __init__(self) -> None:
        self.reactor = self.machine = 0.0
        self._seen = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._call = LoopingCall(self._tick)

    def __enter__(self) -> Lag:
        self._thread.start()
        self._call.start(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        self._tick()
        self._call.stop()
        self._stop.set()
        self._thread.join()

    def _tick(self) -> None:
        now = time.monotonic()
        self.reactor = max(self.reactor, now - self._seen)
        self._seen = now

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(0.01):
            now = time.monotonic()
            self.machine = max(self.machine, now - before)
            before = now


@contextmanager
def pool(
    dsn: str, lookup: Callable[[str], list[str]] | None = None, **keywords: Any
) -> Iterator[Pool]:
    values: dict[str, Any] = {"pool_min": 1, "pool_max": 3, "connect_timeout": TIMEOUT}
    configured = Settings(**(values | keywords))
    names = ThreadedResolver(reactor, lookup) if lookup else ThreadedResolver(reactor)
    connector = Connector(configured, reactor, outside_of_process(), names)
    pool = Pool(configured, reactor, lambda attempt: 0.05, connector)
    pool.start(dsn)
    try:
        yield pool
    finally:
        pool.close()


async def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    """Look from time to time, while the reactor runs."""
    any_reactor: Any = reactor
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, what
        await deferLater(any_reactor, 0.01)


def no_opening(pool: Pool) -> Callable[[], bool]:
    return lambda: pool.figures.opening == 0


def rest(database: Database) -> str:
    parts = parse_dsn(database.dsn)
    return f"user={parts['user']} dbname={parts['dbname']}"


@pytest.mark.parametrize("first", ["silent", "closed", "endless name", "unknown name"])
@pytest_twisted.ensureDeferred
async def test_the_second_host_is_used(database: Database, first: str) -> None:
    """
    A first host that is silent, closed, or whose name leads nowhere: its deadline holds, the
    second host is used, the next connection does not wait again, the reactor never does.
    """
    release = threading.Event()

    def lookup(name: str) -> list[str]:
        if name == "endless":
            release.wait(PATIENCE)
        if name != "db2":
            raise OSError(-2, "Name or service not known")
        return ["127.0.0.1"]

    with ExitStack() as stack:
        good = stack.enter_context(tcp_port(database))
        port = stack.enter_context(silent() if first == "silent" else closed())
        host = {"endless name": "endless", "unknown name": "unknown"}.get(first, "127.0.0.1")
        dsn = f"host={host},db2 port={port},{good} {rest(database)}"
        stack.callback(release.set)
        lag = stack.enter_context(Lag())
        waits = first in ("silent", "endless name")
        begun = time.monotonic()
        with pool(dsn, lookup, acquire_timeout=PATIENCE) as two:
            async with two.checkout() as one:
                took = time.monotonic() - begun
                assert took < (TIMEOUT if waits else 0) + SLACK
                assert not waits or took >= TIMEOUT
                assert one.server == f"db2 (127.0.0.1:{good})"
                begun = time.monotonic()
                async with two.checkout() as other:
                    assert other.server == one.server
                    # One that stood in the queue behind the silent host would need TIMEOUT.
                    assert time.monotonic() - begun < TIMEOUT
        # What the machine itself lacks, the reactor lacks too.
        assert lag.reactor < lag.machine + 0.3, (lag.reactor, lag.machine)


@pytest_twisted.ensureDeferred
async def test_every_reason_is_told(database: Database) -> None:
    """Where no host will do, the one line has the reason of each; with one host, its own words."""
    with (
        silent() as mute,
        closed() as dead,
        pool(
            f"host=127.0.0.1,db1,/nonexistent port={mute},{dead},5432 {rest(database)}",
            lambda name: ["127.0.0.1", "127.0.0.2"],
            acquire_timeout=TIMEOUT + SLACK,
        ) as two,
        pytest.raises(Unavailable) as caught,
    ):
        await two.acquire()
    text = str(caught.value)
    assert f": 127.0.0.1:{mute}: no answer from the server within 1 s; " in text
    assert f"; db1 (127.0.0.1:{dead}): Connection refused; " in text
    assert f"; db1 (127.0.0.2:{dead}): Connection refused; " in text
    assert text.endswith("; /nonexistent:5432: No such file or directory")
    with (
        closed() as dead,
        pool(f"host=127.0.0.1 port={dead}", acquire_timeout=0.3) as two,
        pytest.raises(Unavailable) as caught,
    ):
        await two.acquire()
    assert str(caught.value) == "no connection within 0.3 s: Connection refused"


@pytest_twisted.ensureDeferred
async def test_closing_in_the_middle_of_a_walk() -> None:
    """A pool closed while a name or a host is waited for ends at once, and tries no further."""
    release = threading.Event()

    def lookup(name: str) -> list[str]:
        release.wait(PATIENCE)
        return ["127.0.0.1"]

    with silent() as mute:
        for host in ("endless", "127.0.0.1"):
            # The second host would take as long as the first.
            dsn = f"host={host},127.0.0.1 port={mute}"
            with pool(dsn, lookup, connect_timeout=2 * PATIENCE) as halted:
                assert halted.figures.opening == 1
            await until(no_opening(halted), "the walk ends", TIMEOUT)
            assert (halted.figures.size, halted.figures.opened) == (0, 0)
    release.set()


@pytest_twisted.ensureDeferred
async def test_a_failure_nobody_foresaw(database: Database) -> None:
    """A bug met while connecting is logged, and connecting is tried again."""
    calls = []

    def lookup(name: str) -> list[str]:
        calls.append(name)
        if len(calls) == 1:
            raise ZeroDivisionError
        return ["127.0.0.1"]

    with (
        tcp_port(database) as good,
        pool(f"host=db1 port={good} {rest(database)}", lookup, pool_max=1) as one,
    ):
        async with one.checkout() as connection:
            assert connection.server == "" and len(calls) == 2


@pytest_twisted.ensureDeferred
async def test_a_connection_has_our_defaults(database: Database) -> None:
    """Keepalives and user timeout are set on the socket; pg_stat_activity shows our name."""
    with (
        tcp_port(database) as good,
        pool(f"host=127.0.0.1 port={good} {rest(database)}") as one,
    ):
        async with one.checkout() as connection:
            with closing(socket.fromfd(connection.fileno(), socket.AF_INET, 1)) as tcp:
                kept = [
                    tcp.getsockopt(socket.IPPROTO_TCP, option)
                    for option in (
                        *(socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT),
                        socket.TCP_USER_TIMEOUT,
                    )
                ]
            assert kept == [30, 10, 3, 30000]
            name = await connection.query("SHOW application_name", None, PATIENCE)
            assert name == [("gateway",)]


# Read-only.


@pytest.fixture
def other(tmp_path: Path, database: Database) -> Iterator[Database]:
    """Another server, with a database of the same name."""
    server = TemporaryServer(tmp_path)
    server.start()
    try:
        name = parse_dsn(database.dsn)["dbname"]
        Database(server.embedded.dsn).execute(f'CREATE DATABASE "{name}"')
        yield Database(server.embedded.dsn.replace("dbname=gateway", f"dbname={name}"))
    finally:
        server.stop()


def both(first: Database, second: Database) -> str:
    a, b = parse_dsn(first.dsn), parse_dsn(second.dsn)
    return f"host={a['host']},{b['host']} port={a['port']},{b['port']} {rest(second)}"


OURS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gateway'"


def make_read_only(database: Database) -> None:
    """As a primary that was demoted: sessions that are open are concerned too."""
    database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    database.execute("SELECT pg_reload_conf()")
    # A new session that sees it is younger than the signal to the old ones.
    while database.column("SHOW default_transaction_read_only") != ["on"]:
        time.sleep(0.01)


@pytest_twisted.ensureDeferred
async def test_a_server_becomes_read_only(database: Database, other: Database) -> None:
    """
    A batch refused because the server is read-only moves the pool to the next host; neither
    idle connections nor those in use cost another batch; the figures tell the story.
    """
    with pool(both(other, database), pool_min=3) as two:
        store = PostgresStore(two, {"messages": MESSAGES}, Settings())
        lane = new_lane()
        await store.write(batch(b"there"), Fence(lane, 1))
        await until(lambda: two.figures.idle == 3, "three connections")
        make_read_only(other)
        held = await two.acquire()
        with pytest.raises(OutcomeUnknown, match="read-only transaction"):
            await store.write(batch(b"here"), Fence(lane, 2))
        two.give_back(held)
        assert await store.write(batch(b"here"), Fence(lane, 2))
        assert (database.bodies(), other.bodies()) == (["here"], ["there"])
        await until(lambda: two.figures.idle == 3, "three connections again")
        assert not other.column(OURS) and len(database.column(OURS)) == 3
        figures = two.figures
        assert (figures.lost, figures.opened, figures.generation) == (1, 6, 1)
        assert (figures.size, figures.in_use, figures.waiting) == (3, 0, 0)


@contextmanager
def frozen(database: Database) -> Iterator[None]:
    """All processes of a server are stopped: it takes connections and says nothing."""
    (data,) = database.column("SHOW data_directory")
    postmaster = psutil.Process(int((Path(data) / "postmaster.pid").read_text().split()[0]))
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest_twisted.ensureDeferred
async def test_a_server_hangs(database: Database, other: Database) -> None:
    """
    Where every connection waits for a server that says nothing any more, one more is tried;
    it leads to the next host, and the statements that hang end with an unknown outcome long
    before their own time is over.
    """
    with pool(both(other, database), pool_max=2, acquire_timeout=PATIENCE) as two:
        held = [await two.acquire() for _ in range(2)]
        assert {connection.server for connection in held} == {held[0].server}
        with frozen(other):
            hanging = [
                Deferred.fromCoroutine(connection.query("SELECT 1", None, PATIENCE))
                for connection in held
            ]
            began = time.monotonic()
            third = await two.acquire()
            assert third.server != held[0].server
            assert time.monotonic() - began < 4 * TIMEOUT
            for result in hanging:
                with pytest.raises(OutcomeUnknown):
                    await result
        for connection in (*held, third):
            two.give_back(connection)
        assert (two.figures.size, two.figures.lost, two.figures.idle) == (1, 2, 1)


@pytest_twisted.ensureDeferred
async def test_a_server_is_slow(database: Database, other: Database) -> None:
    """
    Where every connection waits for a server that lives, the one that is tried beside them is
    closed again: there are no more than C{pool_max} for longer than that takes, and none is lost.
    """
    with pool(both(database, other), pool_max=2, acquire_timeout=1.5 * TIMEOUT) as two:
        held = [await two.acquire() for _ in range(2)]
        slow = [
            Deferred.fromCoroutine(connection.query("SELECT pg_sleep(2)", None, PATIENCE))
            for connection in held
        ]
        with pytest.raises(Unavailable, match="every connection of the pool is in use"):
            await two.acquire()
        figures = two.figures
        assert (figures.size, figures.lost, figures.opened) == (2, 0, 2)
        for result in slow:
            await result
        for connection in held:
            two.give_back(connection)
        assert two.figures.idle == 2 and not other.column(OURS)


@pytest_twisted.ensureDeferred
async def test_an_opening_that_was_overtaken(database: Database) -> None:
    """A connection whose server was put in doubt while it was being opened is not used."""
    held = threading.Event()
    held.set()

    def lookup(name: str) -> list[str]:
        assert held.wait(PATIENCE)
        return ["127.0.0.1"]

    with ExitStack() as stack:
        stack.callback(held.set)
        dsn = f"host=db port={stack.enter_context(tcp_port(database))} {rest(database)}"
        one = stack.enter_context(pool(dsn, lookup, pool_max=2, connect_timeout=PATIENCE))
        first = await one.acquire()
        held.clear()
        waiting: Deferred[Connection] = Deferred.fromCoroutine(one.acquire())
        assert one.figures.opening == 1
        database.execute("SELECT pg_terminate_backend(%s)", first.info.backend_pid)
        with pytest.raises(OutcomeUnknown):
            await first.query("SELECT 1", None, PATIENCE)
        one.give_back(first)
        # The first attempt is still under way, or it proves nothing.
        assert (one.figures.opened, one.figures.opening) == (1, 1)
        held.set()
        second = await waiting
        assert second.generation == one.figures.generation == 1
        one.give_back(second)
        await until(no_opening(one), "what was overtaken ends")
        assert (one.figures.reconnects, one.figures.opened) == (1, 2)


# The whole thing.


def test_the_daemon_and_check_walk_alike(
    database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """A silent first host: the daemon stores through the second, and check names it."""
    parts = parse_dsn(database.dsn)
    with silent() as mute:
        dsn = f"host=127.0.0.1,{parts['host']} port={mute},{parts['port']} {rest(database)}"
        config = tmp_path / "g.toml"
        config.write_text(f'[database]\ndsn = "{dsn}"\nconnect_timeout = 1.0\n')
        gateway = start_gateway("--config", str(config), *LISTEN)
        assert gateway.connect().ask(b"hello\n") == b"+OK\n"
        assert database.bodies() == ["hello"]
        place = f"{parts['host']}:{parts['port']}"
        gateway.wait_log(f"database: connected to {place}")
        done = forking.run(
            [BIN / "gateway", "check", config], capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"as gateway on {place}, PostgreSQL" in done.stdout
        config.write_text(f'[database]\ndsn = "{dsn} target_session_attrs=standby"\n')
        done = forking.run(
            [BIN / "gateway", "check", config], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 1
        assert "database.dsn: target_session_attrs=standby asks for a server" in done.stderr
