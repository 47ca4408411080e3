"""
The cluster itself, and a gateway that follows it when it fails over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.faults.cluster import Cluster
from tests.faults.load import Load, judge_soon, responsive
from tests.faults.look import Start, assert_quiet
from tests.support import LISTEN, Database, wait_until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A primary and its standby."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def test_cluster(cluster: Cluster) -> None:
    """A synchronous commit waits for a frozen standby; both fail over and back, losing nothing."""
    both = Database(cluster.dsn)
    both.execute("CREATE TABLE t (n int)")
    cluster.make_synchronous()
    both.execute("INSERT INTO t VALUES (1)")
    assert cluster.standby.database.column("SELECT n FROM t") == [1]
    cluster.standby.pause()
    insert = threading.Thread(target=both.execute, args=("INSERT INTO t VALUES (2)",))
    insert.start()
    in_wait = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    wait_until(lambda: cluster.primary.database.column(in_wait) == [1], "the commit waits")
    assert both.column("SELECT n FROM t") == [1]
    cluster.standby.resume()
    insert.join()
    old = cluster.primary
    old.kill()
    cluster.promote()
    both.execute("INSERT INTO t VALUES (3)")
    cluster.demote()
    assert cluster.standby is old
    wait_until(lambda: old.database.column("SELECT n FROM t") == [1, 2, 3], "it has followed")
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        old.database.execute("INSERT INTO t VALUES (4)")
    cluster.primary.stop()
    cluster.promote()
    assert cluster.primary is old
    both.execute("INSERT INTO t VALUES (4)")
    assert both.column("SELECT n FROM t") == [1, 2, 3, 4]
    cluster.primary.make_read_only()
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        cluster.primary.database.execute("INSERT INTO t VALUES (4)")


@pytest.mark.parametrize("old_primary", ["dead", "read-only"])
def test_failover(cluster: Cluster, start_gateway: Start, old_primary: str) -> None:
    """
    Number 29: the standby of a synchronous pair takes over under load: the gateway moves by
    itself, and everything acknowledged is there.
    """
    cluster.make_synchronous()
    gateway = start_gateway("--database", cluster.dsn, *LISTEN)
    load = Load(gateway)
    with responsive(gateway):
        load.wait_progress()
        if old_primary == "dead":
            cluster.primary.kill()
            cluster.promote()
        else:
            cluster.primary.make_read_only()
            cluster.promote()
        load.wait_progress()
    load.finish()
    judge_soon(cluster.primary.database, load)
    assert_quiet(gateway)
