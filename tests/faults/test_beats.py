"""
Beats' senders while the gateway or its database is taken away: what was acknowledged is there, and
only what was under way without an acknowledgement may be there twice.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.cluster import kill_postmaster
from tests.faults.look import Start, assert_quiet
from tests.installing import Installer
from tests.python_client import LOGSTASH, PYLOGBEAT, PythonClient
from tests.support import Database, TemporaryServer, lasting_port, wait_until

SENDERS: Final = 3
WINDOW: Final = 100

LOGGED: Final = 1500
"""Events that python-logstash-async sends, 50 over one connection."""

_CONFIG: Final = """
[database]
dsn = "{dsn}"
acquire_timeout = 0.3
[spool]
on_outage = "{on_outage}"
[http]
endpoint = "off"
[listeners.beats]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "beats"
route = "events"
[routes.events]
table = "events"
format = "json"
dead_letter = true
create = true
[routes.events.columns]
peer = "peer"
n = "n"
[routes.events.create_columns]
peer = "text not null"
n = "integer not null"
"""


class Shipping:
    """
    A gateway, its server, and senders that never stop.

    @ivar deeds: how many times something was taken away.
    """

    def __init__(self, server: TemporaryServer, start_gateway: Start, folder: Path) -> None:
        self.server = server
        self.database = Database(server.embedded.dsn)
        self.port = lasting_port()
        self.senders: list[PythonClient] = []
        self.logger: PythonClient | None = None
        self._start_gateway = start_gateway
        self._config = folder / "gateway.toml"
        self.folder = folder

    def start(self, on_outage: str = "spool") -> None:
        dsn = self.database.dsn.replace("'", "")
        self._config.write_text(_CONFIG.format(dsn=dsn, port=self.port, on_outage=on_outage))
        self.start_gateway()

    def start_gateway(self) -> None:
        self.gateway = self._start_gateway(
            "--config", str(self._config), until="listener beats: .* on"
        )

    def ship(self, pylogbeat: Path, logstash: Path) -> None:
        """Begin to send."""
        for number in range(SENDERS):
            peer = f"pylogbeat-{number}"
            arguments = (self.port, peer, WINDOW)
            self.senders.append(
                PythonClient(pylogbeat, "pylogbeat_sender", self.folder, *arguments)
            )
        arguments = (self.port, "logstash", LOGGED)
        self.logger = PythonClient(logstash, "logstash_sender", self.folder, *arguments)

    def wait_progress(self) -> None:
        """Every sender gets something acknowledged."""
        for sender in self.senders:
            seen = len(sender.said)
            wait_until(lambda s=sender, n=seen: len(s.said) > n, "a sender goes on")
        # The moment is the point of what follows.
        time.sleep(random.random() / 5)

    def finish(self) -> Counter[str]:
        """
        Let the senders end, and hold what they have acknowledgements for against the table.

        @return: for each, how many of its events are there more than once.
        """
        acknowledged = {"logstash": LOGGED}
        for number, sender in enumerate(self.senders):
            sender.end()
            acknowledged[f"pylogbeat-{number}"] = int(sender.said[-1])
        assert self.logger is not None
        self.logger.wait()

        def complete() -> bool:
            there = self.database.execute(
                "SELECT peer, count(DISTINCT n) FROM events GROUP BY peer"
            )
            return dict(there) == acknowledged

        wait_until(complete, f"{acknowledged}, all of it, is in the table")
        doubled = self.database.execute(
            "SELECT peer, count(*) - count(DISTINCT n) FROM events GROUP BY peer"
        )
        return Counter(dict(doubled))

    def end(self) -> None:
        for client in [*self.senders, *filter(None, [self.logger])]:
            client.kill()


@pytest.fixture
def shipping(
    own_server: TemporaryServer, start_gateway: Start, installer: Installer, tmp_path: Path
) -> Iterator[Callable[[str], Shipping]]:
    """Starts all of it."""
    made: list[Shipping] = []

    def start(on_outage: str = "spool") -> Shipping:
        packages = installer.packages(PYLOGBEAT), installer.packages(LOGSTASH)
        one = Shipping(own_server, start_gateway, tmp_path)
        made.append(one)
        one.start(on_outage)
        one.ship(*packages)
        return one

    yield start
    for one in made:
        one.end()


def assert_bounded(doubled: Counter[str], times: int) -> None:
    """Each time a sender sends again what it has no acknowledgement for: one window, or all that
    python-logstash-async sends over one connection."""
    for peer, count in doubled.items():
        assert count <= times * (50 if peer == "logstash" else WINDOW), doubled


def test_gateway_killed(shipping: Callable[..., Shipping]) -> None:
    """kill -9 under load, again and again: nothing acknowledged is missing, and no more is doubled
    than was without an acknowledgement."""
    one = shipping()
    for _ in range(5):
        one.wait_progress()
        one.gateway.process.kill()
        one.gateway.process.wait()
        one.start_gateway()
    one.wait_progress()
    assert_bounded(one.finish(), 5)
    assert_quiet(one.gateway)


def test_gateway_restarted(shipping: Callable[..., Shipping]) -> None:
    """An orderly stop under load: what is under way is acknowledged before, so that none is
    doubled, but for what python-logstash-async sends again although it was acknowledged."""
    one = shipping()
    for _ in range(3):
        one.wait_progress()
        assert one.gateway.terminate() == 0
        assert_quiet(one.gateway)
        one.start_gateway()
    one.wait_progress()
    doubled = one.finish()
    assert doubled.pop("logstash") <= 3 * 25
    assert not +doubled
    assert_quiet(one.gateway)


@pytest.mark.parametrize("on_outage", ["spool", "refuse"])
def test_database_killed(on_outage: str, shipping: Callable[..., Shipping]) -> None:
    """kill -9 of the server under load: with a spool or without, nothing is missing and nothing is
    doubled."""
    one = shipping(on_outage)
    for _ in range(3):
        one.wait_progress()
        kill_postmaster(one.server.embedded.data)
        time.sleep(random.random())
        one.server.start()
    one.wait_progress()
    doubled = one.finish()
    assert doubled.pop("logstash") <= (3 * 25 if on_outage == "refuse" else 0)
    assert not +doubled
    assert_quiet(one.gateway)
