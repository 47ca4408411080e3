"""
An edge and its centre: two gateways, of which only the centre has a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import Database, Gateway

Start = Callable[..., Gateway]

CENTRE = """
[listeners.commands]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "command"
framing = "netstring"

[routes.messages]
table = "messages"
create = true

[routes.once]
table = "once"
create = true
create_columns = {{ id = "bigint generated always as identity", body = "text primary key" }}
columns = {{ body = "@frame" }}
conflict = "ignore"
key = ["body"]

[routes.told]
table = "told"
create = true
create_columns = {{ id = "bigint generated always as identity primary key", body = "text" }}
columns = {{ body = "@frame" }}
returning = ["id"]

[routes.short]
table = "short"
create = true
create_columns = {{ body = "varchar(5)" }}
columns = {{ body = "@frame" }}
"""

EDGE = """
[relay]
endpoints = ["tcp:127.0.0.1:{port}"]
stream = "edge-7"

[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"

[listeners.told]
endpoint = "tcp:0:interface=127.0.0.1"
route = "told"

[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"

[routes.messages]
[routes.once]
[routes.told]
[routes.short]
[routes.unknown]
"""


class Relayed:
    """
    An edge and a centre, each in a folder of its own.
    """

    def __init__(self, folder: Path, database: Database, port: int) -> None:
        self.port = port
        self.folder = folder
        self.database = database
        self.gateways: list[Gateway] = []
        self.centre = self.start_centre()
        self.edge = self.start_edge()

    def start_centre(self) -> Gateway:
        return self._start("centre", CENTRE, f'\n[database]\ndsn = "{self.database.dsn}"\n')

    def start_edge(self, more: str = "") -> Gateway:
        return self._start("edge", EDGE, more)

    def _start(self, name: str, text: str, more: str) -> Gateway:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        file = folder / "gateway.toml"
        file.write_text(text.format(port=self.port) + '\n[http]\nendpoint = "off"\n' + more)
        gateway = Gateway(("--config", str(file), "--data-dir", str(folder / "data")), folder)
        self.gateways.append(gateway)
        return gateway

    def end(self) -> None:
        for gateway in self.gateways:
            gateway.end()


@pytest.fixture
def relayed(tmp_path: Path, database: Database) -> Iterator[Relayed]:
    """An edge and its centre."""
    from tests.support import lasting_port

    pair = Relayed(tmp_path, database, lasting_port())
    yield pair
    pair.end()


def test_messages_go_on_to_the_centre(relayed: Relayed, database: Database) -> None:
    """Each message of an edge is stored by its centre, and answered in its words."""
    relayed.centre.wait_ready()
    relayed.edge.wait_ready()
    assert relayed.edge.connect().ask(b"one\ntwo\n") == b"+OK\n+OK\n"
    assert relayed.edge.connect("told").ask(b"a\nb\n") == b"+OK id=1\n+OK id=2\n"
    answers = relayed.edge.connect("commands").ask(
        b"PUT once x\nPUT once x\nPUT short much too long\nPUT short ok\nPUT unknown y\n"
    )
    first, second, third, fourth, fifth = answers.splitlines()
    assert (first, second, fourth) == (b"+OK", b"+DUP", b"+OK")
    assert third.startswith(b"-REJ DATA sqlstate=22001 :")
    assert fifth.startswith(b"-TRY ROUTE retry=1 :")
    assert database.bodies() == ["one", "two"]
