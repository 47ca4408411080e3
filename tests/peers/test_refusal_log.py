"""
Refusals in the log: what nobody is told of leaves a trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Final

import pytest
from twisted.internet.error import ConnectionDone
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure

from gateway.config.load import load_config
from gateway.daemon.security_warnings import operator_warnings
from gateway.logs.repeat_log import EVERY
from gateway.model.outcome import Words
from tests.config.test_secrets import around
from tests.in_memory import Bench

SILENT: Final = Words.configured("none", "none")


@contextmanager
def logged(bench: Bench) -> Iterator[list[str]]:
    """The lines about refusals, until the listener is closed."""
    lines: list[str] = []
    events: Sequence[LogEvent]
    with capturedLogs() as events:
        yield lines
        bench.factory.refusal_log.end()
    lines += [formatEvent(e) for e in events if " refused: " in formatEvent(e)]


@pytest.mark.parametrize("words", [None, SILENT], ids=["answers", "silence"])
def test_the_first_is_told_and_the_others_are_counted(words: Words | None) -> None:
    """One line with a reason for each route and code, whether or not the peer hears of it."""
    bench = Bench(held=False, words=words)
    bench.store.poison = {b"bad"}
    with logged(bench) as lines:
        bench.peer.dataReceived(b"bad 1\ngood\n\xff\nbad 2\nbad 3\n" + b"x" * 101 + b"\n")
        bench.wait(1)
        bench.peer.dataReceived(b"bad 4\n" * 7)
    assert lines == [
        "listener lines: 1 message for route messages refused: TOOBIG: longer than max_frame of"
        " this listener (from 127.0.0.1:4000)",
        "listener lines: 1 message for route messages refused: CONSTRAINT: violates a check"
        " constraint (from 127.0.0.1:4000)",
        "listener lines: 1 message for route messages refused: DATA: not UTF-8: invalid start"
        " byte at byte 0 (from 127.0.0.1:4000)",
        "listener lines: 9 messages for route messages refused: CONSTRAINT: more within 60 s",
    ]


def test_a_flood_has_a_line_a_minute() -> None:
    """However many are refused, and for as many reasons; then there is silence again."""
    bench = Bench(held=False)
    bench.store.poison = {b"bad"}
    with logged(bench) as lines:
        for second in range(150):
            bench.peer.dataReceived(b"bad %d\n" % second * 10)
            bench.wait(1)
        bench.wait(3 * EVERY)
        assert not bench.clock.getDelayedCalls() or bench.factory.peers
    assert len(lines) == 4
    assert sum(int(line.split()[2]) for line in lines) == 1500


def test_of_a_peer_that_is_gone() -> None:
    """What is refused after it left is told as well."""
    bench = Bench(words=SILENT)
    bench.store.poison = {b"bad"}
    with logged(bench) as lines:
        bench.peer.dataReceived(b"bad\n")
        bench.peer.connectionLost(Failure(ConnectionDone()))
        bench.commit_all()
    assert len(lines) == 1


def test_what_is_stored_has_no_line() -> None:
    """Nor what is to be sent again."""
    bench = Bench(held=False)
    with logged(bench) as lines:
        bench.peer.dataReceived(b"a\nb\n")
        bench.store.closed = {"messages"}
        bench.peer.dataReceived(b"c\n")
    assert bench.said.count(b"-TRY") == 1 and lines == []


def test_commands_that_are_none() -> None:
    """They have no route; and no byte of theirs is more than a space in the log."""
    bench = Bench(held=False, routes=["messages"])
    with logged(bench) as lines:
        bench.peer.dataReceived(b"PUT \x1b[31mx y\nNOPE\n")
    assert {line.split(" refused: ")[0] for line in lines} == {"listener lines: 1 message"}
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("listener", "route", "warns"),
    [
        ('ack = "none"', "", True),
        ('ack = "none"', "dead_letter = true", False),
        ('ack = "none"\nnak = "NO"', "", False),
        ('ack = "YES"', "", False),
    ],
)
def test_a_configuration_that_tells_nobody(listener: str, route: str, warns: bool) -> None:
    """A listener that says nothing of what is refused, for a route that keeps nothing."""
    text = (
        f'[listeners.a]\nendpoint = "tcp:1"\nroute = "messages"\n{listener}\n'
        f'[routes.messages]\ntable = "messages"\ncolumns = {{ body = "@frame" }}\n{route}\n'
    )
    config = load_config(text, PurePath("/etc/g.toml"), lambda endpoint: None)
    found = operator_warnings(config, around(), lambda path: None)
    assert found == ([] if not warns else found[:1])
    assert not warns or "set dead_letter = true for messages" in found[0]
