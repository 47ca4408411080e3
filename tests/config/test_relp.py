"""
Listeners of RELP: what their sections may say, and what is warned of.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.daemon.configuration import operator_warnings_of, read_config
from gateway.model.errors import ConfigError

LISTENER = """
[database]
dsn = "embedded"
[listeners.relp]
endpoint = "tcp:0"
dialect = "relp"
route = "messages"
{listener}
[routes.messages]
table = "messages"
columns = {{ body = "@frame" }}
{route}
"""


def written(folder: Path, listener: str = "", route: str = "") -> str:
    path = folder / "gateway.toml"
    path.write_text(LISTENER.format(listener=listener, route=route))
    return str(path)


def test_a_route_without_dead_letters(tmp_path: Path) -> None:
    """Whoever has no dead letters is warned: what is refused is nowhere, since rsyslog drops it."""
    path = written(tmp_path)
    assert operator_warnings_of(read_config(path), path) == [
        "listeners.relp.dialect: rsyslog drops what is refused, so that it is nowhere, but for a"
        " line a minute in the log; set dead_letter = true for messages"
    ]
    path = written(tmp_path, route="dead_letter = true")
    assert operator_warnings_of(read_config(path), path) == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('framing = "line"', "listeners.relp.framing: is what relp brings itself; leave it out"),
        ('ack = "yes"', "listeners.relp.ack: is what relp brings itself; leave it out"),
        (
            "auth = true",
            "listeners.relp.auth: is not for relp, whose peers cannot give a token; have them show"
            " certificates (tls.client_ca)",
        ),
        (
            "remember_chunks = 1",
            'listeners.relp.remember_chunks: is for dialect = "forward"; leave it out',
        ),
    ],
)
def test_keys_that_are_not_for_relp(tmp_path: Path, keys: str, problem: str) -> None:
    """Framing and answers are the protocol's, and it has no place for a token."""
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, keys))
    assert [line.partition(": ")[2] for line in caught.value.problems] == [problem]
