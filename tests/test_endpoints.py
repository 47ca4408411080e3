"""
Endpoint strings: what is wrong with them in plain words, and what is probably meant.
"""

from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.dial import client_endpoint_fault
from gateway.config import load_config
from gateway.endpoints import endpoint_hint
from gateway.errors import ConfigError
from gateway.loading import endpoint_fault
from tests.support import tool

SERVERS = {
    "tcp:localhost:8002": "tcp:8002:interface=127.0.0.1",
    "tcp:10.0.0.1:8002": "tcp:8002:interface=10.0.0.1",
    "tcp:db.example:8002": "tcp:8002:interface=db.example",
    "tcp:host=localhost:port=8002": "tcp:8002:interface=127.0.0.1",
    "tcp:8000:interfaces=127.0.0.1": "tcp:8000:interface=127.0.0.1",
    "tcp:8000:interface=127.0.0.1:backlg=9": "tcp:8000:interface=127.0.0.1:backlog=9",
    "tcp:8000:interface=::1": r"tcp:8000:interface=\:\:1",
    "tcp:[::1]:8000": r"tcp:8000:interface=\:\:1",
    "tcp:::1:8000": r"tcp:8000:interface=\:\:1",
    "tcp://localhost:8002": "tcp:8002:interface=127.0.0.1",
    "tcp://0.0.0.0:8002": "tcp:8002",
    "tcp:*:8002": "tcp:8002",
    "http://localhost:8002/": "tcp:8002:interface=127.0.0.1",
    "8002": "tcp:8002:interface=127.0.0.1",
    ":8002": "tcp:8002:interface=127.0.0.1",
    "localhost:8002": "tcp:8002:interface=127.0.0.1",
    "127.0.0.1:8002": "tcp:8002:interface=127.0.0.1",
    "[::1]:8002": r"tcp:8002:interface=\:\:1",
    "tcp 8002": "tcp:8002:interface=127.0.0.1",
    "tpc:8002": "tcp:8002",
    "TCP:8002": "tcp:8002",
    "unix//run/g.sock": "unix:/run/g.sock",
    "unix /run/g.sock": "unix:/run/g.sock",
    "unx:/run/g.sock": "unix:/run/g.sock",
    "/run/g.sock": "unix:/run/g.sock",
    "./g.sock": "unix:./g.sock",
    "UNIX:g.sock:mod=600": "unix:g.sock:mode=600",
}

CLIENTS = {
    "tcp:8002": "tcp:127.0.0.1:8002",
    "8002": "tcp:127.0.0.1:8002",
    ":8002": "tcp:127.0.0.1:8002",
    "localhost:8002": "tcp:127.0.0.1:8002",
    "db.example:8002": "tcp:db.example:8002",
    "tcp:8002:interface=127.0.0.1": "tcp:127.0.0.1:8002",
    "tcp:8002:interface=10.0.0.1": "tcp:10.0.0.1:8002",
    "tcp://db:8002": "tcp:db:8002",
    "http://db:8002": "tcp:db:8002",
    "tcp:[::1]:8002": r"tcp:\:\:1:8002",
    "tcp:::1:8002": r"tcp:\:\:1:8002",
    "[::1]:8002": r"tcp:\:\:1:8002",
    "tpc:db:8002": "tcp:db:8002",
    "tcp db 8002": "tcp:db:8002",
    "tcp:db:8002:timeot=3": "tcp:db:8002:timeout=3",
    "unix//run/g.sock": "unix:/run/g.sock",
    "/run/g.sock": "unix:/run/g.sock",
}

HINTED = [
    *((True, text, meant) for text, meant in SERVERS.items()),
    *((False, text, meant) for text, meant in CLIENTS.items()),
]


@pytest.mark.parametrize(("listening", "text", "meant"), HINTED)
def test_what_is_meant(listening: bool, text: str, meant: str) -> None:
    """What is written for the other side, as a URL or by a slip is told as it is right."""
    fault = endpoint_fault if listening else client_endpoint_fault
    assert fault(text) is not None and fault(meant) is None
    assert endpoint_hint(text, fault, listening) == f'; did you mean "{meant}"?'


@pytest.mark.parametrize(
    ("listening", "text", "meant"),
    [
        (True, "https://[::1]:8443/", r'"tcp:8443:interface=\:\:1" with [listeners.NAME.tls]'),
        (True, "ssl:8443", '"tcp:8443:interface=127.0.0.1" with [listeners.NAME.tls]'),
        (False, "https://db:8443", '"tcp:db:8443" with --tls'),
    ],
)
def test_tls_has_keys_of_its_own(listening: bool, text: str, meant: str) -> None:
    """Where TLS is meant, the hint says how it is had."""
    fault = endpoint_fault if listening else client_endpoint_fault
    assert endpoint_hint(text, fault, listening) == f"; did you mean {meant}?"


@pytest.mark.parametrize("listening", [True, False])
@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "udp:8002", "fd:3", "tcp", "http://db", "::1", "a:b:c:1", "tcp:99999:x=y"],
)
def test_what_nobody_knows(listening: bool, text: str) -> None:
    """No guess is made up."""
    fault = endpoint_fault if listening else client_endpoint_fault
    assert fault(text) is not None
    assert endpoint_hint(text, fault, listening) == ""


@pytest.mark.parametrize(
    ("listening", "text", "said"),
    [
        (True, "tcp:localhost:8002", "'localhost' is no number"),
        (True, "tcp:8000:interfaces=x", "it takes no interfaces="),
        (True, "tcp", "it has no port"),
        (True, "tcp:", "a number is missing"),
        (True, "tcp:99999", "a port is a number from 0 to 65535, and 99999 is not"),
        (True, "tcp:-1", "a port is a number from 0 to 65535, and -1 is not"),
        (True, "haproxy:tcp:99999", "a port is a number from 0 to 65535, and 99999 is not"),
        (True, "tcp:8000:interface=::1", r"it has too many parts; a colon within one is \:"),
        (True, "ssl:1:privateKey=/no.pem", "/no.pem: No such file or directory"),
        (True, "systemd:domain=INET:index=0", "what it names is not there"),
        (True, "tcp:8000\\", "it ends with a backslash"),
        (True, "tpc:1", "there is no kind 'tpc' of endpoints"),
        (False, "tcp:db", "it has no port"),
        (False, "tcp:db:x", "'x' is no number"),
        (False, "tcp:db:0", "a port is a number from 1 to 65535, and 0 is not"),
        (False, "tcp://db:1", "it is no URL"),
        (False, "unix:", "it names no file for its Unix socket"),
        (False, "tcp:db:1:timeot=3", "it takes no timeot="),
    ],
)
def test_plain_words(listening: bool, text: str, said: str) -> None:
    """Nothing of Python's own words, and nothing that is found out only when it is used."""
    fault = endpoint_fault if listening else client_endpoint_fault
    assert fault(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "tcp:0",
        "tcp:8000:127.0.0.1",
        "tcp:port=80",
        "tcp6:80",
        r"tcp:80:interface=\:\:1",
        "unix:///a",
        "unix:a:mode=600",
        "haproxy:tcp:80",
    ],
)
def test_what_is_right_stays(text: str) -> None:
    """Strings that Twisted takes have no fault."""
    assert endpoint_fault(text) is None


@given(st.text(alphabet="tcpunixs:/=.[]8019a-\\* \0", max_size=25), st.booleans())
def test_any_text(text: str, listening: bool) -> None:
    """Whatever it is, a hint is right, or there is none."""
    fault = endpoint_fault if listening else client_endpoint_fault
    hint = endpoint_hint(text, fault, listening)
    if hint:
        assert fault(hint.split('"')[1]) is None


def test_a_listener_is_told() -> None:
    """The configuration's problem has the hint in place of the general advice."""
    text = '[listeners.a]\nendpoint = "{}"\nroute = "messages"\n'
    for endpoint, told in (
        ("tcp:localhost:8002", """'localhost' is no number); did you mean "tcp:8002:interface="""),
        ("nonsense", "there is no kind 'nonsense' of endpoints); try \"tcp:8000:interface="),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(text.format(endpoint), PurePath("/g.toml"), endpoint_fault)
        (line,) = caught.value.problems
        assert f"/g.toml: listeners.a.endpoint: {endpoint!r} is no Twisted server endpoint" in line
        assert told in line


@pytest.mark.parametrize(
    "command", [["call", "-e", "tcp:8002", "q"], ["send", "-e", "tcp:8002"], ["bench", "tcp:8002"]]
)
def test_commands_are_told(command: list[str]) -> None:
    """Each command that connects ends with the hint, status 2 and no traceback."""
    done = tool(*command)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert 'tcp:8002: it has no port; did you mean "tcp:127.0.0.1:8002"?' in done.stderr


@pytest.mark.parametrize("command", [["call", "q"], ["listen", "c"], ["send"], ["bench"]])
def test_the_variable_is_named(command: list[str]) -> None:
    """Where a bad endpoint comes from the environment, the error says which variable has it."""
    done = tool(*command, environment={"GATEWAY_ENDPOINT": "tcp:8002"})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Error: GATEWAY_ENDPOINT tcp:8002: it has no port; did you mean" in done.stderr


def test_an_argument_is_named() -> None:
    """The endpoint of bench is an argument, and is called by its name in the usage."""
    for more in ([], ["--route", "r"]):
        done = tool("bench", "tcp:8002", *more)
        assert "Error: ENDPOINT tcp:8002: it has no port" in done.stderr
