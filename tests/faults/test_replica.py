"""
A standby that answers queries, as long as it is not too far behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.look import Start
from tests.support import Peer, tool, wait_until

_MORE = """
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[databases.replica]
dsn = "{replica}"
max_lag = 0.5
connect_timeout = 1.0
acquire_timeout = 1.0

[queries.count]
database = "replica"
sql = "select count(*) as n, pg_is_in_recovery() as standby from messages"

[queries.own]
sql = "select pg_is_in_recovery() as standby"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A primary and its standby."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def _call(peer: Peer, query: str) -> dict[str, object]:
    peer.send(f"CALL {query}\n".encode())
    (answer,) = peer.read_lines(1)
    assert answer == b"*1", answer
    row: dict[str, object] = json.loads(peer.read_lines(1)[0])
    return row


def _store(peer: Peer, line: bytes) -> None:
    peer.send(line)
    assert peer.read_lines(1) == [b"+OK"]


def test_a_late_standby_is_passed_over(cluster: Cluster, start_configured: Start) -> None:
    """
    A query goes to its standby while that is at most C{max_lag} behind, also where the primary is
    idle, and else to the primary; it is back when it has caught up or is there again.
    """
    gateway = start_configured(cluster.primary.dsn, more=_MORE.format(replica=cluster.standby.dsn))
    gateway.wait_ready()
    checked = tool("check", "gateway.toml", cwd=gateway.cwd)
    assert checked.returncode == 0, checked.stderr
    assert "databases.replica: a standby" in checked.stdout
    assert "(in databases.replica)" in checked.stdout
    lines, commands = gateway.connect(), gateway.connect("commands")
    _store(lines, b"one\n")

    def is_standby() -> bool:
        return _call(commands, "count")["standby"] is True

    def answers(standby: bool, n: int) -> Callable[[], bool]:
        return lambda: _call(commands, "count") == {"n": n, "standby": standby}

    wait_until(answers(True, 1), "the standby answers")
    assert _call(commands, "own") == {"standby": False}
    age = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp()) > 1"
    wait_until(lambda: cluster.standby.database.column(age) == [True], "the primary is idle")
    assert is_standby()

    cluster.standby.database.execute("SELECT pg_wal_replay_pause()")
    _store(lines, b"two\n")
    wait_until(answers(False, 2), "the primary answers")
    gateway.wait_log(
        r"database replica: passed over, .*: it may be [\d.]+ s behind, max_lag is 0.5 s"
    )
    _, metrics = gateway.get("/metrics")
    assert 'gateway_replica_used{database="replica"} 0.0' in metrics
    cluster.standby.database.execute("SELECT pg_wal_replay_resume()")
    wait_until(answers(True, 2), "the standby answers again")
    gateway.wait_log("database replica: answers queries again")

    cluster.standby.kill()
    assert _call(commands, "count") == {"n": 2, "standby": False}
    cluster.standby.start()
    wait_until(is_standby, "the standby answers after its crash")
    _, status = gateway.get("/status.json")
    (replica,) = json.loads(status)["replicas"]
    assert replica["is_used"]
    assert replica["passed_over"] >= 2

    cluster.standby.pause()
    wait_until(
        lambda: 'gateway_replica_used{database="replica"} 0.0' in gateway.get("/metrics")[1],
        "the frozen standby is passed over",
    )
    assert _call(commands, "count") == {"n": 2, "standby": False}
    cluster.standby.resume()
