"""
Admissions in the log: who was let in, by what and from where.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent

from gateway.logs.repeat_log import EVERY
from tests.access.test_authenticator import GRANTED, ROUTES
from tests.in_memory import Bench, saying


def lines(events: Any) -> list[str]:
    return [formatEvent(event) for event in events if " let in as " in formatEvent(event)]


def arrive(found: Bench, host: str, identity: str) -> None:
    peer = found.factory.buildProtocol(IPv4Address("TCP", host, 4000))
    peer.makeConnection(StringTransport())  # type: ignore[no-untyped-call]
    peer.dataReceived(b"AUTH " + saying(identity) + b"\n")


def test_each_identity_has_a_line() -> None:
    """With its proof and its address, and never its secret; coming again is counted."""
    found = Bench(routes=ROUTES, held=False, auth=True, access=GRANTED)
    with capturedLogs() as events:
        for _ in range(1000):
            arrive(found, "192.0.2.1", "till-1")
        arrive(found, "192.0.2.1", "till-2")
        arrive(found, "192.0.2.9", "till-1")
        found.wait(EVERY)
        found.factory.end_log()
    assert lines(events) == [
        "listener lines: 1 connection let in as till-1 by token ID-of-till-1 (from 192.0.2.1:4000)",
        "listener lines: 1 connection let in as till-2 by token ID-of-till-2 (from 192.0.2.1:4000)",
        "listener lines: 1 connection let in as till-1 by token ID-of-till-1 (from 192.0.2.9:4000)",
        "listener lines: 999 connections let in as till-1 by token ID-of-till-1 (more within 60 s)",
    ]
    assert all("secret" not in formatEvent(event) for event in events)


def test_who_is_not_let_in_has_none() -> None:
    """Nor who proved nothing, where nobody asks."""
    with capturedLogs() as events:
        found = Bench(routes=ROUTES, held=False, auth=True, access=GRANTED)
        arrive(found, "192.0.2.1", "nobody")
        found.peer.dataReceived(b"AUTH ID-of-till-1.x\n")
        Bench(held=False).peer.dataReceived(b"x\n")
    assert lines(events) == []
