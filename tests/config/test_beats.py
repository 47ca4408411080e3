"""
A listener of Beats: what its keys may be.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.daemon.configuration import operator_warnings_of, read_config
from tests.config.test_load import load, problems

SECTIONS = """
[listeners.beats]
endpoint = "tcp:5044"
dialect = "beats"
{listener}
[routes.events]
table = "events"
format = "json"
{route}
columns = {{ event = "@frame", at = "@timestamp" }}
"""


def test_a_listener_of_beats() -> None:
    """A route that keeps what it refuses is all that it needs."""
    text = SECTIONS.format(listener='route = "events"', route="dead_letter = true")
    listener = load(text).listeners["beats"]
    assert (listener.framing_name, listener.max_chunk) == ("beats", None)


@pytest.mark.parametrize(
    ("listener", "route", "said"),
    [
        ('route = "events"', "", "routes.events.dead_letter: has to be true: listeners.beats"),
        ("", "dead_letter = true", "listeners.beats.route: is missing: a beats listener needs one"),
        (
            'route = "events"\nframing = "line"',
            "dead_letter = true",
            "listeners.beats.framing: is what beats brings itself; leave it out",
        ),
        (
            'route = "events"\nack = "2A"',
            "dead_letter = true",
            "listeners.beats.ack: is what beats brings itself; leave it out",
        ),
        (
            'route = "events"\nremember_chunks = 60',
            "dead_letter = true",
            'listeners.beats.remember_chunks: is for dialect = "forward"; leave it out',
        ),
        (
            'route_by = "@metadata.beat"\nroutes = { filebeat = "events" }',
            "dead_letter = true",
            "listeners.beats.route: is missing: beats cannot refuse a message",
        ),
        (
            'route = "events"\nmax_chunk = "1TB"',
            "dead_letter = true",
            "listeners.beats.max_chunk: ",
        ),
    ],
)
def test_what_is_wrong_with_it(listener: str, route: str, said: str) -> None:
    """Each is one problem, with its key."""
    found = problems(SECTIONS.format(listener=listener, route=route))
    assert len(found) == 1 and said in found[0], found


@pytest.mark.parametrize(
    ("dialect", "form", "refused"),
    [
        ("beats", "hl7", True),
        ("beats", "influx", True),
        ("beats", "json", False),
        ("beats", "text", False),
        ("forward", "cbor", True),
        ("forward", "msgpack", False),
        ("mllp", "json", True),
        ("mllp", "hl7", False),
        ("relp", "hl7", False),
    ],
)
def test_a_format_that_can_only_refuse(
    tmp_path: Path, dialect: str, form: str, refused: bool
) -> None:
    """A route that reads another format than a protocol's senders write is warned of."""
    column = {"hl7": "MSH-10", "influx": "measurement", "text": "@frame"}.get(form, "message")
    path = tmp_path / "gateway.toml"
    path.write_text(
        f'[listeners.one]\nendpoint = "tcp:0"\ndialect = "{dialect}"\nroute = "r"\n[routes.r]\n'
        f'table = "t"\nformat = "{form}"\ndead_letter = true\ncolumns = {{ c = "{column}" }}\n'
    )
    found = operator_warnings_of(read_config(str(path)), str(path))
    begin = f"routes.r.format: {form} refuses what senders of {dialect} write, as "
    assert [line.startswith(begin) for line in found] == [True] * refused, found
