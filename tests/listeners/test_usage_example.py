"""
The line that shows how a listener is used.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from gateway.config.listener import Listener
from gateway.formats.registry import format_of
from gateway.listeners.usage_example import example, sample_message
from gateway.model.route import FormatName, Reading, Route, Value
from gateway.wire.framing import FRAMINGS


def route(fields: list[str], reading: Reading) -> Route:
    columns = {f"c{number}": Value(field) for number, field in enumerate(fields)}
    return Route("r", "t", columns, reading=reading)


@pytest.mark.parametrize(
    ("reading", "fields"),
    [
        (Reading("json"), ["a", "b.c", "b.d.e", "it's 100%"]),
        (Reading("csv", ("a", "b", "c"), ";"), ["b"]),
        (Reading("csv", ("a", "b"), "whitespace"), ["a", "b"]),
        (Reading("logfmt"), ["a", "b"]),
        (Reading("influx"), ["measurement", "tag.host", "field.temp", "load"]),
        (Reading("syslog"), ["message", "hostname", "timestamp"]),
        (Reading("hl7"), ["MSH-10", "PID-3(2).1", "OBX(2)-5", "PID-5", "OBX(*)-3.1", "message"]),
        (Reading("gelf"), ["host", "level", "_a.b", "additional"]),
        (Reading("msgpack"), ["a", "b.c", "%"]),
        (Reading("cbor"), ["a", "b.c", "it's"]),
    ],
)
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_what_is_shown_can_be_read(reading: Reading, fields: list[str], framing: str) -> None:
    """What printf prints is one frame, and the route's format finds every field in it."""
    found = route(fields, reading)
    listener = Listener(endpoint="tcp:0", framing=framing, route="r")  # type: ignore[arg-type]
    shell = f"printf {example(listener, {'r': found})}"
    printed = subprocess.run(["bash", "-c", shell], capture_output=True, check=True).stdout
    (frame,) = FRAMINGS[framing](1000).receive(printed)
    assert frame == sample_message(found)
    read = format_of(reading, fields).parse_frames([frame])
    assert not read.faults
    for field in fields:
        (value,) = read.cells[field].values
        assert value is not None and bytes(str(value), "utf-8") != b"null"


def test_commands_and_choices() -> None:
    """A command names the first route; a field that chooses the route has one of its values."""
    json = route(["a"], Reading("json"))
    text = replace(route([], Reading()), name="words")
    routes = {"words": text, "r": json}
    commands = Listener(endpoint="tcp:0", dialect="command", framing="netstring")
    assert example(commands, routes) == "'15:PUT words hello,'"
    assert example(commands, {}) == "'8:PING you,'"
    choosing = Listener(endpoint="tcp:0", route_by="kind.name", routes={"alarm": "r"})
    assert example(choosing, routes) == r"""'{"kind":{"name":"alarm"},"a":1}\n'"""


def test_a_token_first() -> None:
    """Where one is asked for, the line shows its place."""
    routes = {"r": replace(route([], Reading()), name="r")}
    commands = Listener(endpoint="tcp:0", dialect="command", auth=True)
    assert example(commands, routes) == r"'AUTH TOKEN\nPUT r hello\n'"
    plain = Listener(endpoint="tcp:0", route="r", framing="netstring", auth=True)
    assert example(plain, routes) == "'5:TOKEN,5:hello,'"


def test_other_formats() -> None:
    """Where nobody can say what a pattern matches, it is a word."""
    name: FormatName = "regex"
    assert sample_message(route(["x"], Reading(name, pattern="(?P<x>.*)"))) == b"hello"


def test_a_datagram_is_a_message() -> None:
    """It has no framing, and no token before it."""
    routes = {"r": replace(route([], Reading()), name="r")}
    assert example(Listener(endpoint="udp:514", route="r"), routes) == "'hello'"
