"""
What tests see of a gateway and a database from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.support import Database, Gateway, wait_until

Start = Callable[..., Gateway]

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
