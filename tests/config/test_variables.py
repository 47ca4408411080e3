"""
Variables of the environment in a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import Draft, draft
from gateway.config.reader import SectionReader
from gateway.config.toml import tables_of
from gateway.config.variables import Variables
from gateway.daemon.configuration import endpoint_fault, load
from gateway.model.errors import ConfigError

FILE = PurePath("/etc/g.toml")
NAMES = {"PORT": "8123", "EMPTY": "", "SECRET": "pass'wörd\n"}


def drafted(text: str, environment: Mapping[str, str] = NAMES) -> Draft:
    return draft(tables_of(text, str(FILE)), FILE, endpoint_fault, None, environment)


def replaced(text: str, environment: Mapping[str, str] = NAMES) -> str:
    reader = SectionReader("g")
    value = Variables(environment, reader).replaced("a.b", text)
    assert reader.problems == []
    return str(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tcp:${PORT}:interface=${HOST:-127.0.0.1}", "tcp:8123:interface=127.0.0.1"),
        ("${EMPTY}", ""),
        # As in a shell, and in a compose file.
        ("${EMPTY:-x}", "x"),
        ("${PORT:-x}", "8123"),
        ("${NONE:-}", ""),
        ("${NONE:-${PORT}", "${PORT"),
        ("$${PORT} $$${PORT}", "${PORT} $${PORT}"),
        # Regular expressions, SQL and passwords as they are.
        (r"^(?P<a>\d+)$", r"^(?P<a>\d+)$"),
        ("SELECT $$text$$, $1, $PORT", "SELECT $$text$$, $1, $PORT"),
        ("""SELECT $${"a": 1}$$""", """SELECT $${"a": 1}$$"""),
    ],
)
def test_values(text: str, value: str) -> None:
    """References are replaced by variables or their defaults; all other dollars stay."""
    assert replaced(text) == value


@given(st.text())
def test_a_value_is_not_read_again(value: str) -> None:
    """Whatever a variable holds is taken as it is, references in it too."""
    assert replaced("${A}-${B:-b}", {"A": value, "B": "${A}"}) == f"{value}-${{A}}"


def test_everywhere() -> None:
    """Strings in tables and lists are replaced, keys are not; then the types are judged."""
    text = """
    [limits]
    drain_timeout = "${DRAIN:-3s}"
    [listeners."a${PORT}"]
    endpoint = "tcp:${PORT}"
    route = "r"
    allow = ["${NET:-10.0.0.0/8}"]
    [routes.r]
    table = "t"
    """
    config, problems = drafted(text)
    assert problems == []
    assert config.limits.drain_timeout == 3.0
    listener = config.listeners["a${PORT}"]
    assert (listener.endpoint, listener.allow) == ("tcp:8123", ("10.0.0.0/8",))


def test_problems_have_their_key() -> None:
    """A variable that is not set, or not written as one, is one problem with its key."""
    text = """
    [database]
    dsn = "postgresql://${USER_NAME}@db"
    [limits]
    drain_timeout = "${}"
    bytes_in_flight = "${OH NO}"
    [spool]
    path = "${PORT"
    """
    form = (
        "'${' without a name: between the braces is a variable's name, or NAME:-DEFAULT;"
        " for a dollar and a brace write $${"
    )
    assert drafted(text).problems == [
        "/etc/g.toml: database.dsn: ${USER_NAME}: the environment has no USER_NAME; set it,"
        " or write ${USER_NAME:-DEFAULT}",
        f"/etc/g.toml: limits.drain_timeout: {form}",
        f"/etc/g.toml: limits.bytes_in_flight: {form}",
        f"/etc/g.toml: spool.path: {form}",
    ]


def test_values_are_not_shown() -> None:
    """A problem with a value names the variable that it came from, for it may be a secret."""
    text = """
    [limits]
    drain_timeout = "${SECRET}"
    [listeners.a]
    endpoint = "tcp:${SECRET}"
    framing = "${SECRET}"
    route = "${SECRET}"
    """
    problems = drafted(text).problems
    assert len(problems) >= 4
    assert not any("pass" in problem for problem in problems)
    assert any("${SECRET}" in problem for problem in problems)


def test_the_environment_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file names variables of the process that reads it."""
    file = tmp_path / "g.toml"
    file.write_text('[database]\ndsn = "${GATEWAY_TEST_DSN}"\n')
    with pytest.raises(ConfigError, match=r"database\.dsn: .*the environment has no"):
        load(str(file))
    monkeypatch.setenv("GATEWAY_TEST_DSN", "host=db password=x")
    assert load(str(file)).config.database.dsn == "host=db password=x"
