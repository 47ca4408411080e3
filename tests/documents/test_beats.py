"""
What docs/beats.md says of Beats, Logstash and Python's logging.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from tests.faults.look import Start
from tests.lumberjack import ack, announced, compressed, fields, window
from tests.support import Database, Gateway

TEXT: Final = (Path(__file__).parents[2] / "docs" / "beats.md").read_text()

COMMON, LOGSTASH, KEYED = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
"""The listener and its route; a route for Logstash; a route with a key."""

LISTENER: Final = re.sub(
    "(?m)^tls = .*\n", "", COMMON.partition("[routes.events]")[0].replace("5044", "0")
).replace('"tcp:0"', '"tcp:0:interface=127.0.0.1"')

TIME: Final = "2026-11-27T20:34:47.123Z"


def answered(gateway: Gateway, *windows: bytes) -> bytes:
    """What a sender hears."""
    return gateway.connect("beats").ask(b"".join(windows))


def event(**more: object) -> bytes:
    return json.dumps({"@timestamp": TIME, "host": {"name": "web1"}, **more}).encode()


def test_beats_route(start_with: Start, database: Database) -> None:
    """Fields of an event and all of it become columns; one without a time is kept, and both are
    acknowledged."""
    gateway = start_with(LISTENER + COMMON[COMMON.index("[routes.events]") :])
    assert answered(gateway, window([event(message="a"), b'{"message":"b"}'])) == ack(2)
    assert database.execute("SELECT host, message, event->>'@timestamp' FROM events") == [
        ("web1", "a", TIME)
    ]
    frames = database.column("SELECT frame FROM gateway.dead_letter")
    assert [bytes(frame) for frame in frames] == [b'{"message":"b"}']


def test_logstash_route(start_with: Start, database: Database) -> None:
    """What Logstash sends as the text of its codec is taken apart by the statement shown."""
    sections = LISTENER.replace('"events"', '"logstash"') + LOGSTASH
    database.execute("CREATE TABLE events (at timestamptz, message text, event jsonb)")
    gateway = start_with(sections)
    frames = [fields(n, {b"line": event(message=f"m{n}")}, 1) for n in (1, 2)]
    sent = announced(2, 1) + compressed(b"".join(frames), 1)
    assert answered(gateway, sent) == ack(2, version=1)
    assert database.execute("SELECT message, event->'host'->>'name', at::text FROM events") == [
        (f"m{n}", "web1", "2026-11-27 20:34:47.123+00") for n in (1, 2)
    ]


def test_keyed_route(start_with: Start, database: Database) -> None:
    """With a key, an event that is sent again is acknowledged again and stored once."""
    database.execute("CREATE TABLE events (id text PRIMARY KEY, at timestamptz, event jsonb)")
    gateway = start_with(LISTENER + KEYED)
    twice = window([event(**{"@metadata": {"_id": f"id-{n}"}}) for n in range(3)])
    assert answered(gateway, twice, twice) == ack(3) * 2
    assert database.column("SELECT id FROM events ORDER BY id") == ["id-0", "id-1", "id-2"]
