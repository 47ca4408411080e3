"""
Lines to requests.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.grammar import (
    HELP,
    SUBJECTS,
    CommandError,
    Request,
    candidates,
    parse,
)


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("SHOW POOL", Request("SHOW", "POOL", {}, False)),
        ("  show  pool ; ", Request("SHOW", "POOL", {}, False)),
        ("show pool --json", Request("SHOW", "POOL", {}, True)),
        ("help", Request("SHOW", "HELP", {}, False)),
        (
            "SHOW PEERS sort=-bytes LIMIT=3 identity=Till-1",
            Request("SHOW", "PEERS", {"sort": "-bytes", "limit": "3", "identity": "Till-1"}, False),
        ),
        ("pause Orders", Request("PAUSE", "Orders", {}, False)),
        ("RESUME", Request("RESUME", "", {}, False)),
        ("kill 12", Request("KILL", "12", {}, False)),
        ("SET log DEBUG", Request("SET", "debug", {}, False)),
        ("RELOAD --JSON", Request("RELOAD", "", {}, True)),
    ],
)
def test_commands(line: str, request_: Request) -> None:
    """Commands are taken in any case; routes and identities as they are written."""
    assert parse(line) == request_


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("SHO POOL", "no command SHO; did you mean SHOW?"),
        ("VACUUM", "no command VACUUM; try SHOW HELP"),
        ("SHOW PEER", "nothing called PEER to show; did you mean PEERS?"),
        ("SHOW", f"SHOW takes one of {', '.join(SUBJECTS)}"),
        ("SHOW POOL limit=3", "SHOW POOL takes nothing behind it"),
        (
            "SHOW PEERS size=3",
            "SHOW PEERS takes listener= identity= address= sort= limit=, not size=3",
        ),
        ("SHOW PEERS limit=1 limit=2", "limit= is there twice"),
        ("KILL", "KILL takes the ID of a peer, as SHOW PEERS has it"),
        ("KILL -1", "KILL takes the ID of a peer, as SHOW PEERS has it"),
        ("PAUSE a b", "PAUSE takes one route, or nothing for all of them"),
        ("RELOAD now", "RELOAD takes nothing behind it"),
        ("SET LOG loud", "it is SET LOG and one of debug, info, warn, error"),
        ("--json", "a command is missing; try SHOW HELP"),
        ("\x1b[2J", "no command \\x1b[2J; try SHOW HELP"),
    ],
)
def test_what_is_no_command(line: str, text: str) -> None:
    """What is wrong is said in one line, with what was meant where that is near."""
    with pytest.raises(CommandError) as caught:
        parse(line)
    assert str(caught.value) == text


def test_help_has_all_that_there_is() -> None:
    """Each command of the help is one, with something in place of what it takes."""
    examples = {"[ROUTE]": "messages", "ID": "7", "LEVEL": "info"}
    for command in HELP:
        parse(" ".join(examples.get(word, word) for word in command.split()))


def test_candidates_lead_to_commands() -> None:
    """What completion offers is taken."""
    assert "SHOW" in candidates([]) and candidates(["show"]) == list(SUBJECTS)
    assert "sort=" in candidates(["SHOW", "peers", "limit=3"])
    assert candidates(["SET", "LOG"]) == ["debug", "info", "warn", "error"]
    assert candidates(["PAUSE"]) == []


@given(st.text(max_size=200))
def test_any_line_is_a_command_or_a_fault(line: str) -> None:
    """Whatever a line holds, it is a request or one line of text without control characters."""
    try:
        parse(line)
    except CommandError as error:
        assert str(error).isprintable()
