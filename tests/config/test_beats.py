"""
A listener of Beats: what its keys may be.
"""

from __future__ import annotations

import pytest

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
