"""
Numbers 29 and 30: no C{+OK} before the synchronous standby has it, however the wait for it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.faults.cluster import Cluster
from tests.faults.look import Start, assert_quiet
from tests.support import LISTEN, Database, Gateway, Peer, wait_until

IN_WAIT = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

QUIET = 0.7
"""Seconds for which nothing may be said; an answer takes a thousandth of that."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A primary and its standby."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


Connect = Callable[[Gateway], Peer]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects peers, and closes them."""
    peers: list[Peer] = []

    def connect(gateway: Gateway) -> Peer:
        peers.append(gateway.connect())
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()


def waiting(database: Database) -> list[int]:
    """The backends that wait for the standby, once there are some."""
    found: list[int] = wait_until(lambda: database.column(IN_WAIT), "a commit waits")
    return found


def cancelled(cluster: Cluster) -> None:
    """The operator cancels the statement: PostgreSQL says success, and warns."""
    primary = cluster.primary.database
    for pid in waiting(primary):
        primary.execute("SELECT pg_cancel_backend(%s)", pid)


def terminated(cluster: Cluster) -> None:
    """The session ends; whoever asks again finds the row there."""
    primary = cluster.primary.database
    for pid in waiting(primary):
        primary.execute("SELECT pg_terminate_backend(%s)", pid)


def crashed(cluster: Cluster) -> None:
    """The server crashes; after recovery the row is there, and nobody waits for the standby."""
    waiting(cluster.primary.database)
    cluster.primary.kill()
    cluster.primary.start()


@pytest.mark.parametrize("end_wait", [cancelled, terminated, crashed])
def test_a_wait_that_ends_early(
    cluster: Cluster,
    start_gateway: Start,
    connect: Connect,
    end_wait: Callable[[Cluster], None],
) -> None:
    """Number 30: committed here and not there is not +OK; when the standby is back it is, once."""
    cluster.make_synchronous()
    gateway = start_gateway("--database", cluster.primary.dsn, *LISTEN)
    peer = connect(gateway)
    peer.send(b"first\n")
    assert peer.read_lines(1) == [b"+OK"]
    cluster.standby.pause()
    peer.send(b"second\n")
    end_wait(cluster)
    # It is committed, for all to see, and still not acknowledged.
    wait_until(lambda: "second" in seen(cluster.primary.database), "the row is there")
    assert not peer.readable(QUIET)
    assert waiting(cluster.primary.database), "the gateway waits for a commit after it"
    cluster.standby.resume()
    assert peer.read_lines(1) == [b"+OK"]
    assert cluster.standby.database.bodies() == ["first", "second"]
    assert cluster.primary.database.bodies() == ["first", "second"]
    assert_quiet(gateway)


def seen(database: Database) -> list[str]:
    """What is in the table, if there is one and the server is up."""
    try:
        return database.bodies()
    except (psycopg2.OperationalError, psycopg2.errors.UndefinedTable):
        return []


@pytest.mark.long
def test_a_standby_that_stays_away(
    cluster: Cluster, start_gateway: Start, connect: Connect
) -> None:
    """
    Number 30: what nobody can resolve goes into the spool with its fence, is answered +QUE,
    and stays there until the standby has it.
    """
    cluster.make_synchronous()
    gateway = start_gateway("--database", cluster.primary.dsn, *LISTEN)
    peer = connect(gateway)
    peer.send(b"first\n")
    assert peer.read_lines(1) == [b"+OK"]
    cluster.standby.pause()
    peer.send(b"second\n")
    terminated(cluster)
    # Each time the gateway asks again it is thrown out again, until it gives up.
    while not peer.readable(QUIET):
        for pid in cluster.primary.database.column(IN_WAIT):
            cluster.primary.database.execute("SELECT pg_terminate_backend(%s)", pid)
    assert peer.read_lines(1) == [b"+QUE"]
    peer.send(b"third\n")
    assert peer.read_lines(1) == [b"+QUE"]
    assert "spool: empty" not in gateway.log
    cluster.standby.resume()
    gateway.wait_log("spool: empty")
    assert cluster.standby.database.bodies() == ["first", "second", "third"]


def warnings(gateway: Gateway) -> list[str]:
    return [line for line in gateway.log.splitlines() if "[gateway.daemon#warn]" in line]


def test_what_an_asynchronous_standby_gives_up(
    cluster: Cluster, start_gateway: Start, connect: Connect
) -> None:
    """
    Number 29: told once at the start, and true: a failover loses what only the primary had.
    Nothing is doubled, and the gateway goes on with the new primary.
    """
    gateway = start_gateway("--database", cluster.dsn, *LISTEN)
    gateway.wait_log("the standby is asynchronous: a failover can lose messages")
    assert len(warnings(gateway)) == 1
    peer = connect(gateway)
    peer.send(b"first\n")
    assert peer.read_lines(1) == [b"+OK"]
    standby = cluster.standby.database
    wait_until(lambda: seen(standby) == ["first"], "the standby has it")
    cluster.standby.set("primary_conninfo", "")
    receiving = "SELECT count(*) FROM pg_stat_wal_receiver"
    wait_until(lambda: standby.column(receiving) == [0], "the standby is cut off")
    peer.send(b"second\n")
    assert peer.read_lines(1) == [b"+OK"]
    cluster.primary.kill()
    cluster.promote()
    peer.send(b"third\n")
    assert peer.read_lines(1)[0] in (b"+OK", b"+QUE")
    wait_until(
        lambda: cluster.primary.database.bodies() == ["first", "third"], "it went on without"
    )


def test_commits_that_wait_for_nobody(cluster: Cluster, start_gateway: Start) -> None:
    """synchronous_commit = local, with a synchronous standby: told once at the start."""
    cluster.make_synchronous()
    cluster.primary.database.execute("ALTER DATABASE gateway SET synchronous_commit = local")
    gateway = start_gateway("--database", cluster.primary.dsn, *LISTEN)
    gateway.wait_log("synchronous_commit = local: .OK does not wait for a standby")
    assert len(warnings(gateway)) == 1
