"""
Which database a route stores in, and which shard a message.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePath

from hypothesis import given
from hypothesis import strategies as st

from gateway.commit.places import Places, ShardChooser, shard_of
from gateway.config.load import Config, load_config

DOCS = Path(__file__).parents[2] / "docs" / "databases.md"

CONFIG = """
[databases.one]
dsn = "host=a"
[databases.two]
dsn = "host=b"
[routes.spread]
table = "t"
format = "json"
shard_by = "device.name"
shards = ["one", "two", "database"]
columns = { a = "device.name" }
[routes.other]
table = "t"
database = "two"
[routes.messages]
table = "t"
"""


def load(text: str = CONFIG) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), lambda endpoint: None)


def test_the_documented_values() -> None:
    """The test vectors of docs/databases.md are what is computed."""
    text = DOCS.read_text().partition("| value | shard |")[2].partition("\n\n")[0]
    vectors = re.findall(r"\| (`.+?`|\(none\)) \| `(one|two)` ", text)
    assert len(vectors) == 10
    for value, shard in vectors:
        assert shard_of(["two", "one"], "" if value == "(none)" else value.strip("`")) == shard


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_another_shard_only_takes(values: list[str]) -> None:
    """With one more shard a value stays where it was, or goes to the new one."""
    for value in values:
        before = shard_of(["a", "b"], value)
        assert shard_of(["c", "b", "a"], value) in (before, "c")


def test_shards_have_equal_parts() -> None:
    """Of many values each shard gets about as many as the others."""
    counts = Counter(shard_of(["a", "b", "c"], str(n)) for n in range(3000))
    assert min(counts.values()) > 900


def test_the_field_chooses() -> None:
    """Equal texts go to one shard, however a message writes them; without one, the empty text."""
    config = load()
    chooser = ShardChooser(config.routes["spread"])
    same = [b'{"device": {"name": "x\\u0041"}}', b'{"n": 1, "device": {"name": "xA"}}']
    without = [b"{}", b'{"device": {"name": null}}', b"no json", b'{"device": {"name": ""}}']
    inner = chooser.inner_routes([*same, *without])
    place = shard_of(["one", "two", "database"], "xA")
    assert inner[:2] == [f"spread@{place}"] * 2
    assert len(set(inner[2:])) == 1


def test_places() -> None:
    """Each route, and each inner route of a sharded one, has its database, also when it is gone."""
    config = load()
    places = Places(config.routes, {})
    wanted = {"spread@one": "one", "spread@two": "two", "spread@database": "database"}
    wanted |= {"other": "two", "messages": "database", "unknown": "database"}
    assert {name: places.database_of(name) for name in wanted} == wanted
    places.replace({})
    assert places.database_of("other") == "two"
    assert not places.shards
