"""
What gateway check says of several workers.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.process import share_of, spool_number, spool_path_of, sum_of_shares
from gateway.daemon.configuration import read_config
from gateway.daemon.worker_advice import connections_line, worker_warnings

SECTIONS = """
[process]
workers = 3
[database]
dsn = "dbname=x"
pool_max = 8
[listeners.lines]
endpoint = "tcp:0"
route = "state"
[routes.state]
table = "state"
columns = { k = "@peer", v = "@frame" }
key = ["k"]
conflict = "update"
"""


@given(st.integers(1, 10**9), st.integers(1, 256))
def test_shares_add_up(total: int, workers: int) -> None:
    """Shares differ by one at most, and add up to the whole where each can have one."""
    shares = [share_of(total, number, workers) for number in range(1, workers + 1)]
    assert max(shares) - min(shares) <= 1
    assert sum(shares) == sum_of_shares(total, workers) == max(total, workers)


@given(st.integers(2, 256), st.sampled_from(["spool.db", "a-2.db", "s"]))
def test_a_spools_name_tells_its_worker(number: int, name: str) -> None:
    """The number comes back from the path; other files are nobody's."""
    first = PurePath("/x") / name
    assert spool_number(first, spool_path_of(first, number)) == number
    for other in ("spool-2.db.lock", "spool-02.db", "spool-1.db", "spool-x.db", name):
        assert other == "a-2.db" or spool_number(first, PurePath("/x") / other) is None


def test_what_is_warned_of(tmp_path: Path) -> None:
    """The sum of connections is named, and an order that may not be kept."""
    file = tmp_path / "gateway.toml"
    file.write_text(SECTIONS)
    config = read_config(str(file))
    assert connections_line(config, 3) == (
        "3 workers; database: at most 8 connections for messages (3 a worker at most) and 3 for"
        " queries; 3 that listen"
    )
    order, more = worker_warnings(config)
    assert order.startswith('routes.state.conflict: "update" with several workers and a spool')
    assert more.startswith("database.query_connections: each of 3 workers has one at least")
    file.write_text(SECTIONS.replace("workers = 3", "workers = 1"))
    assert not list(worker_warnings(read_config(str(file))))
