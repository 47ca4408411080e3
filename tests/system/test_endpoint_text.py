"""
Endpoint strings: what is wrong with them in plain words, and what is probably meant.
"""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import _parse

from gateway.commands.connect import client_endpoint_fault
from gateway.config.load import load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.model.errors import ConfigError
from gateway.system.endpoint_arguments import split_endpoint
from gateway.system.endpoint_text import endpoint_hint
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

TOO_MANY = r"it has too many parts; a colon within one is \:"
INTERFACE = "an interface is an address or the name of a host, and"
BACKLOG = "backlog is a number from 0 to 2147483647, and"
TIMEOUT = "timeout is a number from 1 to 86400, and"
UNREADABLE = "its certificate or key cannot be read"

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
    ["", "nonsense", "sctp:8002", "fd:3", "tcp", "http://db", "::1", "a:b:c:1", "tcp:99999:x=y"],
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
        (True, "tcp:1:2:3:4", TOO_MANY),
        (True, "tcp:80:port=90", TOO_MANY),
        (True, "tcp:28400:28401", f"{INTERFACE} '28401' is not"),
        (True, "tcp:1:interface=1.2.3.4.5", f"{INTERFACE} '1.2.3.4.5' is not"),
        (True, "tcp:1:interface=a:interface=b", "it has interface= twice"),
        (True, "tcp:1:backlog=99999999999", f"{BACKLOG} 99999999999 is not"),
        (True, "tcp:1:backlog=-1", f"{BACKLOG} -1 is not"),
        (True, "tcp:1:127.0.0.1:many", "'many' is no number"),
        (True, "tcp:1_0", "'1_0' is no number"),
        (True, "tcp:\N{ARABIC-INDIC DIGIT THREE}", "'\N{ARABIC-INDIC DIGIT THREE}' is no number"),
        (True, "tcp6:1:x", "'x' is no number"),
        (True, "tcp6:1:9:9", f"{INTERFACE} '9' is not"),
        (True, "haproxy:tcp:1:2", f"{INTERFACE} '2' is not"),
        (True, "haproxy:haproxy:tcp:1", "it has haproxy: twice"),
        (True, "unix:a:9", "a mode is three octal digits, such as 660, and '9' is not"),
        (
            True,
            "unix:a:mode=99999",
            "a mode is three octal digits, such as 660, and '99999' is not",
        ),
        (True, "unix:a:lockfile=77", "lockfile is 0 or 1, not '77'"),
        (True, "unix:a:backlog=2147483648", f"{BACKLOG} 2147483648 is not"),
        (True, "unix:a:b=c", "it takes no b="),
        (True, "unix:a:600:1:0:x", TOO_MANY),
        (True, "ssl:1:backlog=-1", f"{BACKLOG} -1 is not"),
        (True, "ssl:1:privateKey=/etc/passwd", f"{UNREADABLE}: unsupported"),
        (True, "ssl:1:sslmethod=foo", "what it names is not there"),
        (True, "tls:/etc:99999", "a port is a number from 0 to 65535, and 99999 is not"),
        (True, "tls:8443", "8443: is no directory of certificates (*.pem)"),
        (True, "systemd:domain=FOO:index=0", "domain is INET, INET6 or UNIX, not 'FOO'"),
        (
            True,
            "systemd:domain=INET:index=-1",
            "index is a number from 0 to 2147483647, and -1 is not",
        ),
        (True, "systemd:domain=INET:inde=0", "it takes no inde="),
        (True, "stdio:", "the gateway's standard input and output are no place for peers"),
        (False, "tcp:db:80:1", TOO_MANY),
        (False, "tcp:80:8002", "'80' is no address and no name of a host"),
        (False, "tcp::80", "it names no host"),
        (False, "tcp:host=a:host=b:port=1", "it has host= twice"),
        (False, "tcp:a:1:port=3", TOO_MANY),
        (False, "TCP:a:0", "a port is a number from 1 to 65535, and 0 is not"),
        (False, "tcp:a:1:timeout=99999999999", f"{TIMEOUT} 99999999999 is not"),
        (False, "tcp:a:1:timeout=0", f"{TIMEOUT} 0 is not"),
        (False, "tcp:a:1:bindAddress=x", "'x' is no address"),
        (False, "unix:a:b", TOO_MANY),
        (False, "unix:a:lockfile=3", "lockfile is 0 or 1, not '3'"),
        (False, "ssl:db:1:foo=2", "it takes no foo="),
        (False, "ssl:db:99999", "a port is a number from 1 to 65535, and 99999 is not"),
        (False, "tls:db:1:trustRoots=/nope", "/nope: No such file or directory"),
        (False, "tls:db:1:x=1", "it takes no x="),
        (False, "tls:db:1:timeout=x", "'x' is no number"),
        (False, "tls:db:1:certificate=/etc/passwd", f"{UNREADABLE}: unsupported"),
        (
            False,
            "tls:db:1:endpoint=tcp\\:db\\:0",
            "a port is a number from 1 to 65535, and 0 is not",
        ),
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
        "unix:a:0660:5:0",
        r"unix:a\:b\=c",
        "haproxy:tcp:80",
        r"haproxy:tcp:80:interface=\:\:1",
        "tcp:80::50",
        "tcp: 80",
        "tcp:80:backlog=0",
        "tcp:80:interface=localhost",
        r"tcp:80:interface=fe80\:\:1%eth0",
        "tcp6:80:interface=127.0.0.1",
        f"tls:{Path(__file__).parents[1] / 'clients'}:443",
    ],
)
def test_what_is_right_stays(text: str) -> None:
    """Strings that Twisted takes have no fault."""
    assert endpoint_fault(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "tcp:host=db:80",
        "tcp:db:port=80",
        "TCP:my_host-1.example:80:timeout=9:bindAddress=10.0.0.1",
        r"tcp:fe80\:\:1%eth0:80",
        "unix:path=a:lockfile=1:timeout=2",
        "tls:db:443:30",
        "ssl:db:443:hostname=db",
    ],
)
def test_what_is_right_stays_for_clients(text: str) -> None:
    """So it is with those of commands."""
    assert client_endpoint_fault(text) is None


@given(st.lists(st.text(alphabet="ab:=\\01", max_size=6), min_size=1, max_size=4))
def test_taken_apart_as_twisted_does(parts: list[str]) -> None:
    """Values and names are those that Twisted finds, whatever is escaped."""
    text = ":".join(parts)
    try:
        values, named = _parse(text)
    except RuntimeError:
        assert split_endpoint(text) is None
        return
    found = split_endpoint(text)
    assert found is not None
    assert [found.kind, *found.values] == (values or [""]) and dict(found.named) == named


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


def test_what_no_socket_can_have() -> None:
    """Numbers that the kernel's types cannot hold are told with their limits."""
    text = '[listeners.a]\nendpoint = "tcp:1"\nroute = "messages"\n{}\n'
    for key, number, most in (
        ("backlog", 2**31, 2**31 - 1),
        ("send_buffer", 2**31, 2**31 - 1),
        ("receive_buffer", '"2GB"', 2**31 - 1),
        ("user_timeout", '"4w"', 2147483),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(text.format(f"{key} = {number}"), PurePath("/g.toml"), endpoint_fault)
        (line,) = caught.value.problems
        assert f"/g.toml: listeners.a.{key}: " in line and str(most) in line, line


def test_the_folder_of_a_configuration_may_have_any_name() -> None:
    """A socket beside it is there, also where the folder's name has what divides endpoints."""
    for endpoint in ("unix:g.sock:mode=600", "unix:address=g.sock"):
        text = f'[listeners.a]\nendpoint = "{endpoint}"\nroute = "messages"\n'
        config = load_config(text, PurePath("/a:b=c\\d/g.toml"), endpoint_fault)
        found = split_endpoint(config.listeners["a"].endpoint)
        assert found is not None
        path = found.values[0] if found.values else dict(found.named)["address"]
        assert path == "/a:b=c\\d/g.sock"
