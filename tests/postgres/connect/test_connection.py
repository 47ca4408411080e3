"""
Connections to PostgreSQL and the reactor's events.

The reactor takes many events at a time. What is closed for the first of them may have been
opened anew, under the same number, before the last one's turn: a connection may be told what
was true of a socket before it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.model.errors import Unavailable
from gateway.postgres.connect.connection import Connection
from tests.support import Database

reactor: Any = _reactor

EVENTS: list[Callable[[Any], None]] = [
    lambda watched: watched.doRead(),
    lambda watched: watched.doWrite(),
    lambda watched: _lost(watched),
]


def _lost(watched: Any) -> None:
    """As the reactor does where a socket has ended."""
    reactor.removeReader(watched)
    reactor.removeWriter(watched)
    watched.connectionLost(Failure(ConnectionLost()))


def watched_of(connection: Connection) -> Any:
    """What the reactor has of a connection."""
    return connection._watch or connection


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor go round until something is so."""
    for _ in range(2000):
        if condition():
            return
        await deferLater(reactor, 0.005)
    raise AssertionError("it does not come to that")


def sound() -> bool:
    """Whether the reactor knows who has each number that it waits for."""
    with suppress(KeyError):
        return bool(reactor.getReaders()) and reactor.getWriters() is not None
    return False


@pytest.mark.parametrize("told", EVENTS, ids=["read", "write", "lost"])
@pytest.mark.parametrize("tells", [b"", b"N"], ids=["silent", "refuses TLS"])
@pytest_twisted.ensureDeferred
async def test_events_of_another_socket_while_connecting(
    silent: socket.socket, told: Callable[[Any], None], tells: bytes
) -> None:
    """A connection that is being made is told what was true of another socket, and then its server
    goes: it ends with the reason, and the reactor is left as it was."""
    connection = Connection(reactor)
    port = silent.getsockname()[1]
    dsn = f"host=127.0.0.1 port={port} sslmode=prefer gssencmode=disable dbname=d user=u"
    outcome: list[object] = []
    opening = Deferred.fromCoroutine(connection.open(dsn, 10))
    opening.addBoth(outcome.append)
    told(watched_of(connection))
    peer, _ = silent.accept()
    with closing(peer):
        if tells:
            peer.setblocking(False)
            await until(lambda: _received(peer))
            peer.send(tells)
            await until(lambda: _received(peer))
        told(watched_of(connection))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await until(lambda: outcome)
    (failure,) = outcome
    assert isinstance(failure, Failure) and isinstance(failure.value, Unavailable)
    assert sound() and not connection.usable
    connection.discard()


def _received(peer: socket.socket) -> bytes:
    with suppress(BlockingIOError):
        return peer.recv(4096)
    return b""


@pytest.mark.parametrize("told", EVENTS, ids=["read", "write", "lost"])
@pytest_twisted.ensureDeferred
async def test_events_of_another_socket(database: Database, told: Callable[[Any], None]) -> None:
    """A connection is made, and answers, whatever it is told of other sockets meanwhile."""
    connection = Connection(reactor)
    opening = Deferred.fromCoroutine(connection.open(database.dsn, 10))
    for _ in range(3):
        told(watched_of(connection))
    await opening
    assert connection.usable
    told(watched_of(connection))
    answer: Awaitable[Any] = Deferred.fromCoroutine(
        connection.query("SELECT pg_sleep(0.05), repeat('x', %s)", (100_000,), 10)
    )
    told(watched_of(connection))
    assert len((await answer)[0][1]) == 100_000
    assert sound()
    connection.discard()
    assert sound()
