"""
What tests see of a gateway and a database from outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from tests.support import Database, Gateway, Peer, wait_until

Start = Callable[..., Gateway]

Value = TypeVar("Value")

BACKENDS: Final = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
    " AND datname = current_database() AND pid <> pg_backend_pid()"
)
"""Sessions of others in this database, by process."""

_LOCKED_OUT: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database()"
)


def wait_locked_out(database: Database) -> None:
    """Wait until some statement waits for a lock."""
    wait_until(lambda: database.column(_LOCKED_OUT)[0], "a statement waits for a lock")


def assert_quiet(gateway: Gateway) -> None:
    """Nothing in the log but what an operator can use."""
    log = gateway.log
    assert "Traceback" not in log and "Unhandled" not in log, log


def sample(value: Callable[[], Value], seconds: float) -> Iterator[Value]:
    """What something is, again and again for some time, for what must never happen in it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield value()
        time.sleep(0.01)


def unread(peer: Peer) -> int:
    """
    Bytes that a peer has sent and the gateway has not read: they wait in the kernel.
    """
    ours, theirs = (
        f":{name[1]:04X}" for name in (peer.socket.getsockname(), peer.socket.getpeername())
    )
    waiting = 0
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, local, remote, _, queues, *_ = line.split()
        to_send, to_read = queues.split(":") if ":" in queues else ("0", "0")
        if local.endswith(ours) and remote.endswith(theirs):
            waiting += int(to_send, 16)
        elif local.endswith(theirs) and remote.endswith(ours):
            waiting += int(to_read, 16)
    return waiting
