"""
Number 32: faults with a pooler in transaction mode between the gateway and PostgreSQL.

Sessions are shared, statement by statement: whatever the gateway does, it does not
depend on what it did in the same session before.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.load import Load, judge_soon
from tests.faults.look import BACKENDS, Start, assert_quiet
from tests.faults.pooler import POOLERS, Pooler, start_pooler
from tests.faults.proxy import FaultProxy
from tests.support import Database, Gateway, TemporaryServer, tool

_CONFIG = """
[database]
dsn = "{dsn}"
acquire_timeout = 0.2
[spool]
on_outage = "refuse"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
table = "messages"
create = true
"""

_IN_STATEMENT_MODE = (
    "the pooler on the way to the database is in statement mode, which takes no transactions:"
    " set its pool_mode to transaction or session"
)

pytestmark = pytest.mark.parametrize("kind", POOLERS)


@pytest.fixture
def database(own_server: TemporaryServer) -> Database:
    """The database of a server that may be killed."""
    return Database(own_server.embedded.dsn)


@pytest.fixture
def pooler(kind: str, database: Database, tmp_path: Path) -> Iterator[Pooler]:
    """A pooler with two sessions."""
    pooler = start_pooler(kind, database.dsn, 2, tmp_path)
    yield pooler
    pooler.end()


@pytest.fixture
def gateway(database: Database, pooler: Pooler, start_configured: Start) -> Gateway:
    """A gateway that has noticed that its sessions are shared."""
    gateway = start_configured(pooler.dsn(database.dsn), "pool_min = 4")
    notice_sharing(gateway)
    return gateway


def notice_sharing(gateway: Gateway) -> None:
    load = Load(gateway, first=90)
    gateway.wait_log("sessions are shared by a pooler")
    load.finish()
    assert not load.refused


def test_backends_terminated(gateway: Gateway, database: Database) -> None:
    """Numbers 21 and 32: sessions ended one after the other cost nobody a message."""
    load = Load(gateway)
    for _ in range(5):
        load.wait_progress()
        for pid in database.column(BACKENDS):
            database.execute("SELECT pg_terminate_backend(%s)", pid)
    load.wait_progress()
    load.finish()
    judge_soon(database, load)
    assert not load.refused
    assert_quiet(gateway)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_server_restarted(
    gateway: Gateway, database: Database, own_server: TemporaryServer, how: signal.Signals
) -> None:
    """Numbers 20 and 32: the server restarted under load, orderly or not."""
    load = Load(gateway)
    for _ in range(2):
        load.wait_progress()
        own_server.restart(how)
        load.wait_progress()
    load.finish()
    judge_soon(database, load)
    assert_quiet(gateway)


def test_reply_dropped(
    pooler: Pooler,
    database: Database,
    start_proxy: Callable[[str], FaultProxy],
    start_configured: Start,
) -> None:
    """Numbers 23 and 32: stored, but the answer was lost: stored once, and answered."""
    proxy = start_proxy(pooler.dsn(database.dsn))
    gateway = start_configured(proxy.dsn(pooler.dsn(database.dsn)), "pool_min = 4")
    notice_sharing(gateway)
    database.execute("TRUNCATE messages")
    proxy.tell("drop-reply-to INSERT")
    peer = gateway.connect()
    peer.send(b"once\n")
    proxy.wait_event("dropped-reply")
    assert peer.read_lines(1) == [b"+OK"]
    peer.close()
    assert database.bodies() == ["once"]
    assert_quiet(gateway)


def test_a_constraint_refuses_one_of_many(gateway: Gateway, database: Database) -> None:
    """Numbers 28 and 32: one of 500 breaks a rule; it alone is refused."""
    database.execute("TRUNCATE messages")
    database.execute("ALTER TABLE messages ADD CHECK (body <> '250')")
    answers = gateway.connect().ask(b"".join(b"%d\n" % n for n in range(500))).splitlines()
    assert [n for n, answer in enumerate(answers) if answer != b"+OK"] == [250]
    assert answers[250].startswith(b"-REJ CONSTRAINT sqlstate=23514")
    assert database.bodies() == [str(n) for n in range(500) if n != 250]


def test_statement_mode(
    kind: str, database: Database, tmp_path: Path, start_gateway: Start
) -> None:
    """A pooler that takes no transactions is named, at the start and by check, never "ready"."""
    pooler = start_pooler(kind, database.dsn, 2, tmp_path, mode="statement")
    try:
        config = tmp_path / "gateway.toml"
        config.write_text(_CONFIG.format(dsn=pooler.dsn(database.dsn)))
        gateway = start_gateway("--config", str(config), until="not ready yet")
        gateway.wait_log(f"not ready yet: .*{_IN_STATEMENT_MODE}")
        assert gateway.connect().ask(b"one\n").startswith(b"-TRY DOWN")
        assert "gateway ready" not in gateway.log
        assert_quiet(gateway)
        done = tool("check", str(config))
        assert done.returncode == 3
        assert done.stderr == f"{config}: database.dsn: {_IN_STATEMENT_MODE}\n"
    finally:
        pooler.end()
