"""
Faults under load from the real rsyslog over RELP: nothing is lost; what doubles is counted.

rsyslog keeps a message until it is acknowledged, and sends it again over its next connection: so
all that it was given has to be in the table, and each message that was stored without an answer
there twice.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.cluster import kill_postmaster
from tests.faults.look import Start, assert_quiet
from tests.installing import Installer
from tests.rsyslog import Feeder, Rsyslog, relp_action
from tests.support import Database, Gateway, TemporaryServer, lasting_port, wait_until

pytestmark = pytest.mark.long

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
[spool]
on_outage = "{on_outage}"
[http]
endpoint = "off"
[listeners.relp]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "relp"
route = "messages"
"""

WINDOW: Final = 128
"""Messages without an answer that rsyslog has under way at most."""


class Sending:
    """
    rsyslog under load, and the gateway that it sends to, on a port that stays.
    """

    def __init__(
        self,
        installer: Installer,
        folder: Path,
        start_gateway: Start,
        database: Database,
        on_outage: str = "spool",
    ) -> None:
        self.database = database
        port = lasting_port()
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=database.dsn, on_outage=on_outage, port=port))
        self._start_gateway, self._config = start_gateway, config
        self.restart()
        self.rsyslog = Rsyslog(installer, folder, relp_action(port), plugins=["omrelp"])
        self.feeder = Feeder(self.rsyslog)

    def restart(self) -> None:
        """Start the gateway, again where it has ended."""
        self.gateway: Gateway = self._start_gateway("--config", str(self._config))

    def wait_progress(self) -> None:
        """Messages are stored that were not given yet."""
        given = self.feeder.given
        last = "SELECT coalesce(max(substr(body, 13)::int), 0) FROM messages"
        wait_until(lambda: self.database.column(last)[0] > given, "messages are stored")

    def doubled(self) -> int:
        """
        Have everything sent and stored; none may be missing.

        @return: how many messages are there once more than they were given.
        """
        self.feeder.finish()
        given = self.feeder.given
        distinct = "SELECT count(DISTINCT body) FROM messages"
        wait_until(lambda: self.database.column(distinct)[0] >= given, "everything is stored")
        self.rsyslog.stop()
        bodies = self.database.bodies()
        assert set(bodies) == {f"<13>message {number}" for number in range(given)}
        return len(bodies) - given


@pytest.fixture
def start_sending(
    installer: Installer, tmp_path: Path, start_gateway: Start
) -> Iterator[Callable[..., Sending]]:
    """Starts a gateway and an rsyslog under load, which ends with the test."""
    running: list[Sending] = []

    def start(database: Database, on_outage: str = "spool") -> Sending:
        running.append(Sending(installer, tmp_path, start_gateway, database, on_outage))
        return running[-1]

    yield start
    for one in running:
        one.feeder.finish()
        one.rsyslog.end()


def test_gateway_killed(start_sending: Callable[..., Sending], database: Database) -> None:
    """
    kill -9 of the gateway: nothing is missing, and of each time at most a window is doubled.
    """
    sending = start_sending(database)
    kills = 5
    for _ in range(kills):
        sending.wait_progress()
        sending.gateway.process.kill()
        sending.gateway.process.wait()
        sending.restart()
    sending.wait_progress()
    assert sending.doubled() <= kills * WINDOW


def test_gateway_stopped(start_sending: Callable[..., Sending], database: Database) -> None:
    """SIGTERM of the gateway, again and again: nothing is missing, nothing is doubled."""
    sending = start_sending(database)
    for _ in range(3):
        sending.wait_progress()
        assert sending.gateway.terminate() == 0
        assert_quiet(sending.gateway)
        sending.restart()
    sending.wait_progress()
    assert sending.doubled() == 0


@pytest.mark.parametrize("on_outage", ["spool", "refuse"])
def test_database_away(
    start_sending: Callable[..., Sending], own_server: TemporaryServer, on_outage: str
) -> None:
    """
    kill -9 of the server, and an immediate stop: nothing is missing, nothing is doubled, whether
    messages wait in the spool meanwhile or in rsyslog.
    """
    database = Database(own_server.embedded.dsn)
    sending = start_sending(database, on_outage)
    for how in (signal.SIGKILL, signal.SIGQUIT):
        sending.wait_progress()
        if how is signal.SIGKILL:
            kill_postmaster(own_server.embedded.data)
        else:
            own_server.stop(how)
        time.sleep(2)  # an outage is the test's point
        own_server.start()
        sending.wait_progress()
    assert sending.doubled() == 0
    assert_quiet(sending.gateway)
