"""
Datagrams while the database is away: kept where there is a spool, else lost, counted and said.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.daemon.test_datagrams import SYSLOG, Start, lost, send, stored
from tests.faults.proxy import FaultProxy
from tests.support import Database, wait_until

StartProxy = Callable[[str], FaultProxy]


@pytest.mark.parametrize("spool", [True, False])
def test_the_database_is_away(
    spool: bool, start_with: Start, start_proxy: StartProxy, database: Database
) -> None:
    """No sender hears of it, so what is not spooled is counted and logged; the rest goes on."""
    proxy = start_proxy(database.dsn)
    refuse = "" if spool else '[spool]\non_outage = "refuse"\n'
    gateway = start_with(SYSLOG + refuse, dsn=proxy.dsn(database.dsn))
    port = gateway.port("udp")
    send(port, b"first")
    stored(database, 1)
    proxy.tell("refuse")
    proxy.tell("reset")
    send(port, b"second", b"third")
    if spool:
        wait_until(lambda: '"+QUE":2' in gateway.get("/status.json")[1], "both are kept")
    else:
        wait_until(lambda: lost(gateway, "down") == 2, "both are counted")
        gateway.wait_log(r"listener udp: \d datagrams? lost: down: the database cannot be reached")
    proxy.tell("accept")
    if spool:
        assert stored(database, 3) == ["first", "second", "third"]
        return

    def stores() -> bool:
        send(port, b"again")
        return "again" in database.bodies()

    wait_until(stores, "messages are stored again")
    assert set(database.bodies()) == {"first", "again"}
