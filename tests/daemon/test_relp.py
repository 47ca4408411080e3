"""
rsyslog sends by RELP: what it has when a message is stored, refused, or cannot be stored now.

The real one, with Debian's omrelp and librelp. What a case costs, in messages lost and doubled, is
what docs/relp.md says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg2
import pytest

from tests.faults.look import assert_quiet, wait_locked_out
from tests.installing import Installer
from tests.issuer import Issuer
from tests.rsyslog import Rsyslog, relp_action
from tests.support import PATIENCE, Database, Gateway, tool, wait_until

Start = Callable[..., Gateway]
StartRsyslog = Callable[..., Rsyslog]

SECTIONS: Final = """
[listeners.relp]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "relp"
route = "messages"
{listener}
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
table = "messages"
columns = {{ body = "@frame", who = "@identity" }}
{route}
{more}
"""

TABLE: Final = """
    CREATE TABLE messages (
        id bigserial PRIMARY KEY, body text CHECK (body NOT LIKE '%refuse me%'), who text
    )
"""

WINDOW: Final = 128
"""Messages without an answer that librelp has under way at most."""

BATCH: Final = 128
"""Messages that an action's queue hands on together, C{queue.dequeueBatchSize}."""


@pytest.fixture
def start_rsyslog(installer: Installer, tmp_path: Path) -> Iterator[StartRsyslog]:
    """Starts rsyslogs that send by RELP, and ends them."""
    running: list[Rsyslog] = []

    def start(
        gateway: Gateway, keys: str = "", max_message: str = "64k", shutdown: int = 30_000
    ) -> Rsyslog:
        action = relp_action(gateway.port("relp"), keys, shutdown)
        running.append(
            Rsyslog(installer, tmp_path, action, plugins=["omrelp"], max_message=max_message)
        )
        return running[-1]

    yield start
    for one in running:
        one.end()


@pytest.fixture
def start(start_with: Start, database: Database) -> Start:
    """Starts a gateway with a listener for RELP."""
    database.execute(TABLE)

    def start(listener: str = "", route: str = "", more: str = "") -> Gateway:
        return start_with(SECTIONS.format(listener=listener, route=route, more=more))

    return start


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"<13>message %d" % number for number in range(first, first + count)]


def stored(database: Database, count: int) -> list[bytes]:
    """All messages, when there are so many."""
    wait_until(
        lambda: database.column("SELECT count(*) FROM messages")[0] >= count, f"{count} are stored"
    )
    return [body.encode() for body in database.bodies()]


def test_stored(start: Start, start_rsyslog: StartRsyslog, database: Database) -> None:
    """Each message is stored once, as it was sent, in order; rsyslog stops without waiting long."""
    gateway = start()
    rsyslog = start_rsyslog(gateway)
    sent = [*numbered(5000), "<13>käse, 奶酪".encode(), b"<13>" + b"x" * 60_000]
    rsyslog.send(sent)
    assert stored(database, len(sent)) == sent
    rsyslog.stop()
    assert database.bodies() == [message.decode() for message in sent]
    assert "suspended" not in rsyslog.log and "omrelp" not in rsyslog.log
    assert_quiet(gateway)


def test_close_waits_for_what_came_before(
    start: Start, start_rsyslog: StartRsyslog, database: Database
) -> None:
    """Stopped while messages are not stored yet, rsyslog waits until they are: none is lost."""
    gateway = start()
    rsyslog = start_rsyslog(gateway)
    rsyslog.send([b"<13>before"])
    assert stored(database, 1)
    with locked(database):
        rsyslog.send(numbered(100))
        wait_locked_out(database)
        stopping = threading.Thread(target=rsyslog.stop)
        stopping.start()
        stopping.join(2)
        assert stopping.is_alive()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert database.bodies() == [m.decode() for m in [b"<13>before", *numbered(100)]]
    assert "suspended" not in rsyslog.log
    assert_quiet(gateway)


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """A database whose table cannot be written meanwhile."""
    locker = psycopg2.connect(database.dsn)
    try:
        locker.cursor().execute("LOCK TABLE messages")
        yield
    finally:
        locker.close()


def test_a_refused_message_is_lost_alone(
    start: Start, start_rsyslog: StartRsyslog, database: Database
) -> None:
    """Without dead letters rsyslog drops a message that is refused; no other is lost or doubled."""
    gateway = start()
    rsyslog = start_rsyslog(gateway)
    sent = [*numbered(1000), b"<13>refuse me", *numbered(1000, 1000)]
    rsyslog.send(sent)
    assert stored(database, 2000) == numbered(2000)
    rsyslog.stop()
    assert database.column("SELECT count(*) FROM messages") == [2000]
    assert "peer sent error response" in rsyslog.log
    assert "resumed" in rsyslog.log
    assert 'violates check constraint "messages_body_check"' in gateway.log


def test_a_refused_message_is_kept(
    start: Start, start_rsyslog: StartRsyslog, database: Database
) -> None:
    """With dead letters it is kept there, and rsyslog notices nothing."""
    gateway = start(route="dead_letter = true")
    rsyslog = start_rsyslog(gateway)
    sent = [*numbered(1000), b"<13>refuse me", *numbered(1000, 1000)]
    rsyslog.send(sent)
    assert stored(database, 2000) == numbered(2000)
    rsyslog.stop()
    assert dead_letters(database) == [b"<13>refuse me"]
    assert "suspended" not in rsyslog.log


def dead_letters(database: Database) -> list[bytes]:
    return [bytes(one) for one in database.column("SELECT frame FROM gateway.dead_letter")]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_message_over_the_limit(
    start: Start, start_rsyslog: StartRsyslog, database: Database, is_kept: bool
) -> None:
    """It is refused as any other, whatever its size: kept as far as the limit, or lost alone."""
    gateway = start("max_frame = 1000", "dead_letter = true" if is_kept else "")
    rsyslog = start_rsyslog(gateway, max_message="4m")
    large = b"<13>" + b"x" * 3_000_000
    rsyslog.send([*numbered(500), large, *numbered(500, 500)])
    assert stored(database, 1000) == numbered(1000)
    rsyslog.stop()
    assert database.column("SELECT count(*) FROM messages") == [1000]
    if is_kept:
        assert dead_letters(database) == [large[:1000]]
        assert "suspended" not in rsyslog.log
    else:
        assert "peer sent error response" in rsyslog.log


@pytest.mark.long
def test_what_cannot_be_stored_now(
    start: Start, start_rsyslog: StartRsyslog, database: Database
) -> None:
    """
    A route is out of service for a while: rsyslog is told nothing and then to connect anew; nothing
    is lost, nothing is doubled, and the order stays.
    """
    gateway = start()
    rsyslog = start_rsyslog(gateway)
    rsyslog.send(numbered(1000))
    assert stored(database, 1000)
    with out_of_service(gateway, database):
        rsyslog.send(numbered(1000, 1000))
        wait_until(lambda: rsyslog.log.count("suspended") >= 2, "rsyslog was turned away twice")
    rsyslog.send(numbered(1000, 2000))
    assert [body for body in stored(database, 3001) if body != b"probe"] == numbered(3000)
    rsyslog.stop()
    assert database.column("SELECT count(*) FROM messages") == [3001]


@pytest.mark.long
def test_what_rsyslog_loses_at_a_stop(
    start: Start, start_rsyslog: StartRsyslog, database: Database
) -> None:
    """
    Stopped while its messages cannot be stored, rsyslog loses those without an answer, as many as
    its window, and the batch that it has in hand, though its queue is one that is saved.
    """
    gateway = start()
    saved = 'queue.filename="out" queue.saveOnShutdown="on"'
    rsyslog = start_rsyslog(gateway, saved, shutdown=1000)
    rsyslog.send(numbered(100))
    assert stored(database, 100)
    with out_of_service(gateway, database):
        rsyslog.send(numbered(1000, 100))
        wait_until(lambda: "suspended" in rsyslog.log, "rsyslog was turned away")
        rsyslog.stop()
    again = start_rsyslog(gateway, saved)
    again.send([b"<13>last"])
    found = stored(database, 1102 - WINDOW - BATCH)
    again.stop()
    found = [body.encode() for body in database.bodies()]
    assert len(found) == len(set(found)) and b"<13>last" in found
    lost = set(numbered(1100)) - set(found)
    assert 0 < len(lost) <= WINDOW + BATCH
    assert lost <= set(numbered(1000, 100))


@pytest.mark.long
def test_an_idle_rsyslog(start: Start, start_rsyslog: StartRsyslog, database: Database) -> None:
    """
    rsyslog reads answers only when it sends: with nothing more to send, it keeps what could not be
    stored, and sends it again before the next message.
    """
    gateway = start()
    rsyslog = start_rsyslog(gateway)
    rsyslog.send(numbered(10))
    assert stored(database, 10) and len(peers(gateway)) == 1
    with out_of_service(gateway, database):
        rsyslog.send(numbered(10, 10))
        wait_until(lambda: peers(gateway) == [], "its connection was held and closed")
    rsyslog.send(numbered(10, 20))
    assert [body for body in stored(database, 31) if body != b"probe"] == numbered(30)
    rsyslog.stop()
    assert database.column("SELECT count(*) FROM messages") == [31]


def peers(gateway: Gateway) -> list[str]:
    """Peers of the listener for RELP."""
    said = tool("admin", "--json", "SHOW", "PEERS", cwd=gateway.cwd)
    assert said.returncode == 0, said.stderr
    return [line for line in said.stdout.splitlines() if '"relp"' in line]


@contextmanager
def out_of_service(gateway: Gateway, database: Database) -> Iterator[None]:
    """A gateway whose route is out of service; it is in service again behind it."""
    database.execute("ALTER TABLE messages RENAME TO elsewhere")
    yield
    database.execute("ALTER TABLE elsewhere RENAME TO messages")
    lines = gateway.connect("lines")

    def probe() -> bool:
        lines.send(b"probe\n")
        return lines.read_lines(1) == [b"+OK"]

    wait_until(probe, "the route is in service again")


# TLS.

ACTION_TLS: Final = (
    'tls="on" tls.caCert="{folder}/authority.pem" tls.authMode="name"'
    ' tls.permittedPeer=["localhost"] {own}'
)


def test_client_certificates(
    start: Start, start_rsyslog: StartRsyslog, database: Database, tmp_path: Path
) -> None:
    """
    omrelp's TLS: the name of a sender's certificate is in each row; one without a certificate gets
    nothing stored, and keeps its messages.
    """
    issuer = Issuer(tmp_path)
    (tmp_path / "authority.pem").write_bytes(issuer.pem)
    (tmp_path / "gateway.pem").write_bytes(issuer.issue("localhost").file.read_bytes())
    gateway = start('tls = { certificate = "gateway.pem", client_ca = "authority.pem" }')
    nobody = start_rsyslog(gateway, ACTION_TLS.format(folder=tmp_path, own=""))
    nobody.send(numbered(10))
    wait_until(lambda: "suspended" in nobody.log, "rsyslog without a certificate is turned away")
    nobody.end()
    assert database.bodies() == []
    mine = issuer.issue("web1.example", common_names=["web1.example"])
    own = f'tls.myCert="{mine.certificate_file}" tls.myPrivKey="{mine.key_file}"'
    (tmp_path / "own.log").unlink()
    rsyslog = start_rsyslog(gateway, ACTION_TLS.format(folder=tmp_path, own=own))
    rsyslog.send(numbered(1000))
    assert stored(database, 1000) == numbered(1000)
    rsyslog.stop()
    assert database.column("SELECT DISTINCT who FROM messages") == ["web1.example"]
    assert "suspended" not in rsyslog.log
