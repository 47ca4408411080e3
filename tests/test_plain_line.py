"""
The way of a plain line: the modules between its bytes and its answer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport

import gateway
from gateway.access.rights import Access
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.writer import Writer
from gateway.dialects.plain import PlainDialect
from gateway.model.outcome import Words
from gateway.peers.factory import ListenerSettings, PeerFactory, PeerServices
from gateway.peers.protocol import PeerProtocol
from gateway.spool.file import SpoolFile
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import OwnThread, Spool
from tests.postgres.store.test_store import PostgresAdapter, postgres
from tests.support import PATIENCE, Database

MOST = 12
"""Modules that a plain line may enter."""

PACKAGE = Path(gateway.__file__).parent


class Modules:
    """
    Modules of the gateway with a function that was called.
    """

    def __init__(self) -> None:
        self.entered: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if PACKAGE in path.parents:
                self.entered.add(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def connected(adapter: PostgresAdapter, spool: Spool) -> tuple[PeerProtocol, StringTransport]:
    """A peer of a plain listener, in a gateway with all its parts."""
    clock: Any = reactor
    store, limit = adapter.store, InflightLimit(1 << 26)
    breakers = CircuitBreakers(store, clock, lambda attempt: 0.1)
    spooler = OutageSpool(spool, store, breakers, clock, lambda attempt: 0.1, lambda *lost: None)
    writer = Writer(store, clock, 2, limit, lambda: 0.0, breakers, spooler)
    factory = PeerFactory(
        ListenerSettings("lines", "line", Words(), 1000, 1000),
        PeerServices(writer, limit, clock, lambda: 0.0),
        PlainDialect("messages"),
        Access(None, ["messages"]),
    )
    transport = StringTransport()
    peer = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 4000))
    peer.makeConnection(transport)  # type: ignore[no-untyped-call]
    return peer, transport


async def answered(peer: PeerProtocol, transport: StringTransport) -> None:
    """Send a line, and wait for its answer."""
    transport.clear()
    peer.dataReceived(b"line\n")
    until = reactor.seconds() + PATIENCE
    while transport.value() != b"+OK\n":
        assert reactor.seconds() < until
        await deferLater(reactor, 0.001)


@pytest_twisted.ensureDeferred
async def test_few_modules_are_entered(database: Database, tmp_path: Path) -> None:
    """A line of a plain listener enters no module that has nothing to do for it."""
    spool = Spool(SpoolFile(tmp_path / "spool.db", 1 << 26), OwnThread(reactor))
    spool.open()
    spool.start()
    with postgres(database) as adapter:
        peer, transport = connected(adapter, spool)
        for _ in range(8):
            await answered(peer, transport)  # routes are open, and statements prepared
        found = []
        for _ in range(3):
            modules = Modules()
            sys.setprofile(modules)
            try:
                await answered(peer, transport)
            finally:
                sys.setprofile(None)
            found.append(modules.entered)
    await spool.close()
    # A timer of another part may have come between, once.
    entered = min(found, key=len)
    assert {"peers.protocol", "postgres.connect.connection"} < entered
    assert len(entered) <= MOST, sorted(entered)
