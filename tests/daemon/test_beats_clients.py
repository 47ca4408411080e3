"""
Senders of Lumberjack, installed where they are missing: pylogbeat, python-logstash-async, and
lumberjack-client for Node; plain and with TLS.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.issuer import Issuer
from tests.python_client import CLIENTS, LOGSTASH, PYLOGBEAT, PythonClient
from tests.support import PATIENCE, Database, Gateway, wait_until

Start = Callable[..., Gateway]

LISTENERS: Final = """
[listeners.plain]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "beats"
route = "events"
[listeners.tls]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "beats"
route = "events"
tls = {{ certificate = "{certificate}" }}
[routes.events]
table = "events"
format = "json"
dead_letter = true
create = true
[routes.events.columns]
n = "n"
body = "@frame"
[routes.events.create_columns]
id = "bigint generated always as identity primary key"
n = "integer check (n <> 13)"
body = "text not null"
"""

BOTH: Final = pytest.mark.parametrize("listener", ["plain", "tls"])


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    """An authority that the senders trust."""
    return Issuer(tmp_path)


@pytest.fixture
def gateway(start_with: Start, issuer: Issuer) -> Gateway:
    """A gateway that takes Lumberjack, with TLS and without."""
    return start_with(LISTENERS.format(certificate=issuer.issue("localhost").file))


def authority(listener: str, issuer: Issuer) -> list[str]:
    """What a sender is given to trust, where there is TLS."""
    return [str(issuer.file)] if listener == "tls" else []


def numbers(database: Database) -> list[int]:
    """Events that are stored, in order."""
    return [int(n) for n in database.column("SELECT n FROM events ORDER BY id")]


def refused(database: Database) -> list[int]:
    """Events that are kept as dead letters."""
    frames = database.column("SELECT frame FROM gateway.dead_letter ORDER BY id")
    return [json.loads(bytes(frame))["n"] for frame in frames]


@BOTH
def test_pylogbeat(
    listener: str,
    installer: Installer,
    gateway: Gateway,
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
) -> None:
    """Window after window over one connection, whose numbers count on; an event that the table
    refuses is a dead letter, and the sender goes on."""
    packages = installer.packages(PYLOGBEAT)
    port = gateway.port(listener)
    ca = authority(listener, issuer)
    client = PythonClient(packages, "pylogbeat_sender", tmp_path, port, "one", 7, *ca)
    wait_until(lambda: len(client.said) > 5, "some windows are acknowledged")
    client.end()
    sent = int(client.said[-1])
    assert numbers(database) == [n for n in range(sent) if n != 13]
    assert refused(database) == [13]
    assert_quiet(gateway)


@BOTH
def test_python_logstash_async(
    listener: str,
    installer: Installer,
    gateway: Gateway,
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
) -> None:
    """What a program logs is stored as its handler formats it, once; the handler has an order of
    its own, that of its events' texts."""
    packages = installer.packages(LOGSTASH)
    port = gateway.port(listener)
    ca = authority(listener, issuer)
    client = PythonClient(packages, "logstash_sender", tmp_path, port, "two", 120, *ca)
    client.wait()
    assert client.said == ["done"]
    assert sorted(numbers(database)) == [n for n in range(120) if n != 13]
    events = [json.loads(body) for body in database.column("SELECT body FROM events ORDER BY id")]
    assert {event["message"] for event in events} == {
        f"käse, 奶酪 {event['n']}" for event in events
    }
    assert {event["peer"] for event in events} == {"two"}
    assert_quiet(gateway)


@BOTH
def test_lumberjack_client(
    listener: str, installer: Installer, gateway: Gateway, database: Database, issuer: Issuer
) -> None:
    """It packs what it has kept into one window and sends one for each event from then on; it does
    not read what it is answered."""
    node, folder = installer.node(CLIENTS)
    command = [node, "lumberjack.cjs", str(gateway.port(listener)), "30"]
    with subprocess.Popen(
        [*command, *authority(listener, issuer)], cwd=folder, stdin=subprocess.PIPE
    ) as process:
        wait_until(lambda: len(numbers(database)) == 59, "all is stored")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert numbers(database) == [n for n in range(60) if n != 13]
    assert_quiet(gateway)


def test_tls_where_there_is_none(
    installer: Installer, gateway: Gateway, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """A sender with TLS at a listener without: the log says it, for nothing else does."""
    packages = installer.packages(PYLOGBEAT)
    port = gateway.port("plain")
    client = PythonClient(packages, "pylogbeat_sender", tmp_path, port, "one", 7, issuer.file)
    gateway.wait_log("lumberjack: this listener has no TLS")
    client.kill()
    assert numbers(database) == []
