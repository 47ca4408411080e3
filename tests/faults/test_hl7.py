"""
HL7 v2 under load while the gateway is killed and the database taken away: the senders are PyPI's
hl7, which send a message again until it is acknowledged.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from hl7.client import MLLPClient

from tests.faults.look import Start, assert_quiet
from tests.support import PATIENCE, Database, TemporaryServer, lasting_port, wait_until

SECTIONS: Final = """
[database]
dsn = "{dsn}"
acquire_timeout = 0.5
answer_timeout = 1.0
[spool]
on_outage = "{on_outage}"
[listeners.hospital]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "mllp"
route = "results"
{listener}
[routes.results]
table = "results"
format = "hl7"
create = true
{conflict}
[routes.results.columns]
control_id = "MSH-10"
value = "OBX-5"
[routes.results.create_columns]
id = "bigserial primary key"
control_id = "text{unique}"
value = "integer check (value >= 0)"
"""

KEYED: Final = {"conflict": 'conflict = "ignore"\nkey = ["control_id"]', "unique": " unique"}

_ACKNOWLEDGED: Final = re.compile(rb"\rMSA\|(A[AER])\|([^|\r]+)")


def connected(port: int) -> MLLPClient:
    """A client that waits for no answer for ever; its own way to connect leaves sockets open."""
    client: MLLPClient = MLLPClient.__new__(MLLPClient)
    client.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.encoding = "utf-8"
    return client


class Sender(threading.Thread):
    """
    Sends one message after the other, each until it is answered.

    @ivar acknowledged: control ids answered AA.
    @ivar refused: those answered AE.
    @ivar again: how often a message was sent again.
    """

    def __init__(self, number: int, port: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.again = 0
        self._number = number
        self._port = port
        self._stop_asked = threading.Event()

    def run(self) -> None:
        client: MLLPClient | None = None
        count = 0
        while not self._stop_asked.is_set():
            control_id = f"{self._number}-{count}"
            # One in fifty can never be stored.
            value = -1 if count % 50 == 49 else count
            text = (
                f"MSH|^~\\&|S{self._number}||LAB||20261127||ORU^R01|{control_id}|P|2.5\r"
                f"OBX|1|NM|X||{value}\r"
            )
            try:
                client = client or connected(self._port)
                found = _ACKNOWLEDGED.search(client.send_message(text))
            except OSError:
                found = None
            if found is None:
                self.again += 1
                if client is not None:
                    client.close()
                    client = None
                self._stop_asked.wait(0.02)
                continue
            assert found[2].decode() == control_id, (found, control_id)
            (self.acknowledged if found[1] == b"AA" else self.refused).append(control_id)
            count += 1
        if client is not None:
            client.close()

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(2 * PATIENCE)
        assert not self.is_alive(), "still waits for an answer"


class Senders:
    """
    Several of them.
    """

    def __init__(self, port: int, count: int = 8) -> None:
        self.each = [Sender(number, port) for number in range(count)]
        for sender in self.each:
            sender.start()

    @property
    def acknowledged(self) -> list[str]:
        return [control_id for sender in self.each for control_id in sender.acknowledged]

    def wait_progress(self, messages: int = 20) -> None:
        """Each gets some messages acknowledged."""
        for sender in self.each:
            seen = len(sender.acknowledged)
            wait_until(
                lambda sender=sender, seen=seen: len(sender.acknowledged) >= seen + messages,
                f"{sender.name} goes on",
            )

    def finish(self) -> None:
        for sender in self.each:
            sender.finish()


@pytest.fixture
def running() -> Iterator[list[Senders]]:
    """Senders that end with the test, however it does."""
    running: list[Senders] = []
    yield running
    for senders in running:
        for sender in senders.each:
            with suppress(AssertionError):
                sender.finish()


def judge(database: Database, senders: Senders) -> None:
    """
    Hold what was acknowledged against the table, once the spool is stored.

    What came while the database was away, and can never be stored, is a dead letter then.
    """
    acknowledged = set(senders.acknowledged)
    stored: list[str] = []
    dead: set[str] = set()

    def complete() -> bool:
        stored[:] = database.column("SELECT control_id FROM results")
        frames = map(bytes, database.column("SELECT frame FROM gateway.dead_letter"))
        dead.update(frame.split(b"|")[9].decode() for frame in frames if b"||-1\r" in frame)
        return acknowledged <= {*stored, *dead}

    wait_until(complete, "all that was acknowledged is in the table")
    assert len(stored) == len(set(stored)), "a message is there twice"
    refused = {control_id for sender in senders.each for control_id in sender.refused}
    assert refused and not (refused | dead) & set(stored)
    assert len(acknowledged) == len(senders.acknowledged) > 1000


@pytest.mark.long
@pytest.mark.parametrize("on_outage", ["spool", "refuse"])
def test_killed_and_without_database(
    on_outage: str,
    own_server: TemporaryServer,
    start_gateway: Start,
    running: list[Senders],
    tmp_path: Path,
) -> None:
    """With MSH-10 as key nothing acknowledged is missing, and nothing there twice; a message that
    can never be stored costs the others nothing."""
    database = Database(own_server.embedded.dsn)
    port = lasting_port()
    config = tmp_path / "gateway.toml"
    config.write_text(
        SECTIONS.format(dsn=database.dsn, on_outage=on_outage, port=port, listener="", **KEYED)
    )
    gateway = start_gateway("--config", str(config))
    senders = Senders(port)
    running.append(senders)
    senders.wait_progress(60)
    for how in (signal.SIGQUIT, signal.SIGINT):
        gateway.process.kill()
        gateway.process.wait()
        gateway = start_gateway("--config", str(config))
        senders.wait_progress()
        own_server.stop(how)
        if on_outage == "spool":
            senders.wait_progress()
        gateway.process.kill()
        gateway.process.wait()
        gateway = start_gateway("--config", str(config), until="listener hospital")
        own_server.restart()
        senders.wait_progress()
    senders.finish()
    judge(database, senders)
    assert sum(sender.again for sender in senders.each) > 0
    assert_quiet(gateway)


def test_rejected_while_the_database_is_away(
    own_server: TemporaryServer, start_gateway: Start, tmp_path: Path
) -> None:
    """With try = "AR" a sender hears that it is not now, over a connection that stays; without it
    hears nothing, and is disconnected."""
    database = Database(own_server.embedded.dsn)
    answers = {}
    for listener in ('try = "AR"', ""):
        config = tmp_path / "gateway.toml"
        port = lasting_port()
        config.write_text(
            SECTIONS.format(
                **{"dsn": database.dsn, "on_outage": "refuse", "port": port, "unique": ""},
                **{"listener": listener, "conflict": ""},
            )
        )
        gateway = start_gateway("--config", str(config))
        with closing(connected(port)) as client:
            send = partial(send_alone, client)
            found = [send("a")]
            own_server.stop(signal.SIGINT)
            found += [send("b"), send("c")]
            own_server.restart()
            if found[-1]:
                wait_until(lambda send=send: send("d") == b"AA", "it is stored again")
        answers[listener] = found
        assert_quiet(gateway)
        assert gateway.terminate() == 0
    assert answers == {'try = "AR"': [b"AA", b"AR", b"AR"], "": [b"AA", b"", b""]}
    assert database.column("SELECT control_id FROM results ORDER BY id") == ["a", "d", "a"]


def send_alone(client: MLLPClient, control_id: str) -> bytes:
    """MSA-1 of the answer; C{b""} where the connection has ended instead."""
    with suppress(OSError):
        answer = client.send_message(f"MSH|^~\\&|S||L||1||ORU^R01|{control_id}|P|2.5\rOBX|||||1\r")
        found = _ACKNOWLEDGED.search(answer)
        return bytes(found[1]) if found else b""
    return b""
