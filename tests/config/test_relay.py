"""
The section [relay], and what cannot stand beside it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePath

import msgspec
import pytest

from gateway.config.load import Config, load_config
from gateway.config.relay import RelaySection
from gateway.daemon.configuration import endpoint_fault
from gateway.model.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "etc" / "relay.toml"

RELAY = '[relay]\nendpoints = ["tcp:centre:8002"]\nstream = "edge-7"\n'


def load(text: str) -> Config:
    return load_config(text, PurePath("/etc/g.toml"), endpoint_fault)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [problem.removeprefix("/etc/g.toml: ") for problem in caught.value.problems]


def test_the_sample_is_accepted_and_complete() -> None:
    """etc/relay.toml is accepted, and names every key of the section."""
    text = SAMPLE.read_text()
    config = load(text)
    assert config.relay is not None and config.relay.token_file == "/etc/edge-7.token"
    assert list(config.routes) == ["readings", "sales"]
    for comment in ("#certificate", "#key", "#ca", "#framing"):
        text = text.replace(comment, comment[1:])
    assert set(tomllib.loads(text)["relay"]) == {
        field.encode_name for field in msgspec.structs.fields(RelaySection)
    }


def test_a_route_is_a_name_and_maybe_a_format() -> None:
    """Tables and what belongs to them are the centre's; a format is for route_by."""
    found = load(f'{RELAY}[routes.messages]\n[routes.a]\n[routes.b]\nformat = "json"\n')
    assert [found.routes[name].reading.format for name in "ab"] == ["text", "json"]
    assert list(load(RELAY).routes) == ["messages"]
    (problem,) = problems(f'{RELAY}[routes.messages]\n[routes.a]\ntable = "t"\n')
    assert problem.startswith("routes.a.table: is for the centre")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'{RELAY}[database]\ndsn = ""\n', "database: cannot stand beside [relay]"),
        (f"{RELAY}[channels]\nallow = []\n", "channels: cannot stand beside [relay]"),
        (f"{RELAY}[queries]\n", "queries: cannot stand beside [relay]"),
        (f"{RELAY}[process]\nworkers = 2\n", "process.workers: is for a gateway with a database"),
        ('[relay]\nstream = "e"\n', "relay.endpoints: is missing"),
        ('[relay]\nendpoints = ["tcp:c:1"]\n', "relay.stream: is missing"),
        (RELAY.replace("edge-7", "a/b"), "relay.stream: 'a/b' must not hold a slash"),
        (RELAY.replace("edge-7", "x" * 64), f"relay.stream: '{'x' * 64}' must have 1 to 63"),
        (RELAY.replace("tcp:centre:8002", "ssl:c:1"), "relay.endpoints[0]: 'ssl:c:1' must be tls:"),
        (RELAY.replace("tcp:centre:8002", "tcp:c"), "relay.endpoints[0]: 'tcp:c' names no port"),
        (f'{RELAY}ca = "ca.pem"\n', "relay.ca: is for an endpoint as"),
        (f'{RELAY}key = "k.pem"\n', "relay.key: is for certificate, which is missing"),
    ],
)
def test_what_an_edge_cannot_have(text: str, problem: str) -> None:
    """Each is an error that says what to do."""
    assert any(found.startswith(problem) for found in problems(text)), problems(text)


def test_protocols_that_acknowledge_units() -> None:
    """What stores messages together cannot be at an edge."""
    text = f'{RELAY}[listeners.l]\nendpoint = "tcp:1"\ndialect = "relp"\nroute = "messages"\n'
    assert any("listeners.l.dialect: relp acknowledges" in problem for problem in problems(text))
