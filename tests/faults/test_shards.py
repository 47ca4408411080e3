"""
Messages spread over two servers, each of which is killed under load.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.shards import Shards, Verdict
from tests.support import tool


def test_each_shard_is_killed_under_load(tmp_path: Path, template: Path) -> None:
    """
    While one server is away messages for the other are stored; of those that were answered none is
    lost or stored twice, numbered ones too, and a stream keeps its order in each database.
    """
    shards = Shards(tmp_path, 1, 4, template)
    try:
        shards.database("two").execute("ALTER TABLE messages ADD more int")
        checked = tool("check", "gateway.toml", cwd=shards.gateways[0].cwd)
        assert checked.returncode == 1
        assert "routes.messages.shards: table messages: column more is missing in database" in (
            checked.stderr
        )
        shards.database("two").execute("ALTER TABLE messages DROP more")
        shards.begin()
        for load in shards.loads:
            load.wait_progress()
        shards.kill_server("two", 0.3)
        shards.kill_server("home", 0.3)
        for load in shards.loads:
            load.wait_progress()
        shards.settle()
        verdict = shards.judge(Verdict())
    finally:
        shards.end()
    assert verdict.kept, verdict
    assert all(verdict.stored.values())
