"""
Hostile peers of every kind at once: what the gateway holds for them has a bound.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

import psutil
import pytest

from tests.faults.hostile import CONFIG, KINDS, hostile_peers
from tests.faults.look import Start, assert_quiet, sample
from tests.support import Database, Gateway, Peer

MIB: Final = 2**20

CAP: Final = 16 * MIB

BOUND: Final = 128 * MIB + 2 * CAP + 2 * 4 * 4_000_000
"""What docs/security.md says."""

EACH: Final = 15


def most_held(
    gateway: Gateway, seconds: float, *kinds: str, each: int = EACH, until: str = ""
) -> int:
    """
    Let peers be at it; whoever comes then is answered.

    @param until: what the log has to say while they are at it.
    @return: the most bytes that the gateway had meanwhile.
    """
    ports = {name: gateway.port(name) for name in ("lines", "netstrings", "commands")}
    process = psutil.Process(gateway.process.pid)
    with hostile_peers(ports, each, *kinds):
        most = max(sample(lambda: int(process.memory_info().rss), seconds))
        gateway.wait_log(until)
    with closing(Peer(ports["lines"])) as good:
        good.send(b"hello\n")
        assert good.read_lines(1)[0] in (b"+OK", b"+QUE")
    return most


@pytest.mark.long
def test_hostile_peers_of_every_kind(database: Database, start_with: Start) -> None:
    """Whatever two hundred peers of fourteen kinds leave unfinished, untaken or waiting, the
    process stays under what the docs say, and answers who comes then."""
    assert len(KINDS) * EACH >= 200
    gateway = start_with(f"{CONFIG}[limits]\nbytes_in_flight = {CAP}\n", dsn=database.dsn)
    assert most_held(gateway, 8.0) < BOUND
    assert_quiet(gateway)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["large answers", "large answers, by the byte"])
def test_answers_that_are_not_taken_count(database: Database, start_with: Start, kind: str) -> None:
    """Large answers that nobody takes, or a byte at a time, are not kept beyond the cap: whoever
    has most of them is disconnected, and the log says so."""
    gateway = start_with(f"{CONFIG}[limits]\nbytes_in_flight = {CAP}\n", dsn=database.dsn)
    told = "disconnected: the gateway holds too much for its peers"
    assert most_held(gateway, 3.0, kind, each=60, until=told) < BOUND
    assert_quiet(gateway)
