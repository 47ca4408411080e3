"""
What an operator writes: problems in one line each, and no other exception.

A target is as in L{tests.fuzzing.streams}.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import PurePath

from gateway.access.patterns import Pattern
from gateway.access.tokens import read_tokens
from gateway.config.load import load_config
from gateway.model.errors import ConfigError
from gateway.postgres.connect.conninfo import Environment
from gateway.postgres.connect.dsn import dsn_fault, has_password, public_dsn
from gateway.system.addresses import Networks, network_fault


def configuration(data: bytes) -> None:
    try:
        load_config(data.decode("utf-8", "replace"), PurePath("/g.toml"), lambda endpoint: None)
    except ConfigError as error:
        assert error.problems
        assert all(problem.startswith("/g.toml: ") for problem in error.problems), error.problems


def connection_string(data: bytes) -> None:
    dsn, _, service = data.decode("utf-8", "replace").partition("\x1e")
    outside = Environment({"PGSERVICEFILE": "/s"}, "/home", {"/s": service}.get)
    fault = dsn_fault(dsn, outside)
    has_password(dsn)
    if fault is None:
        # What is shown can be read again, and has no password.
        assert not has_password(public_dsn(dsn))
    else:
        assert fault and "\n" not in fault


def networks(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    fault = network_fault(text)
    if fault is None:
        found = Networks([text])
        assert found
        for address in ("127.0.0.1", "::1", "10.1.2.3", "2001:db8::1"):
            assert (ip_address(address) in found) in (True, False)
        assert (None in found) == (text == "unix")
    else:
        assert fault and "\n" not in fault


def tokens(data: bytes) -> None:
    """The file of tokens: what is read can be written and read again; faults show nothing of it."""
    try:
        found = read_tokens(data.decode("utf-8", "replace"), "/t")
    except ConfigError as error:
        assert error.problems
        assert all(re.fullmatch(r"/t:[0-9]+: [ -~]+", problem) for problem in error.problems)
        assert not any("argon2id$" in problem for problem in error.problems)
        return
    again = read_tokens("\n".join(map(str, found.values())), "/t")
    assert [(token.id, token.identity, token.hash) for token in found.values()] == [
        (token.id, token.identity, token.hash) for token in again.values()
    ]
    for token in found.values():
        assert token.is_good(0.0) in (True, False)
        assert token.hash not in repr(token)


def patterns(data: bytes) -> None:
    """A pattern and a name, with a character between: as the shell would say, and soon."""
    text, _, name = data.decode("utf-8", "replace").partition("\x1e")
    of_shell = text.replace("[", "[[]").replace("?", "[?]")
    assert Pattern.of(text).matches(name) == fnmatchcase(name, of_shell)
    mine = Pattern.personal(f"{text}{{identity}}", "*")
    assert mine is not None and (not mine.matches(f"{text}x") or "*" in text)
