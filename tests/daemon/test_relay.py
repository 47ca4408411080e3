"""
An edge and its centre: two gateways, of which only the centre has a database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.issuer import Issuer
from tests.support import PATIENCE, Database, Gateway, lasting_port, tool

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


TLS_CENTRE = CENTRE.replace(
    'framing = "netstring"\n',
    'framing = "netstring"\nauth = true\n'
    'tls = {{ certificate = "central.pem", key = "central.key" }}\n',
)

GRANTS = """
[access]
tokens = "tokens"
[access.grants.edge-7]
identities = ["edge-7"]
routes = ["messages", "told"]
streams = ["edge-7/*", "edge-7:*"]
"""


class Pair:
    """
    An edge and a centre, each in a folder of its own.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.port = lasting_port()
        self.folder = folder
        self.gateways: list[Gateway] = []
        self._dsn = database.dsn

    def start_centre(self, more: str = "", text: str = CENTRE) -> Gateway:
        own = f"[database]\ndsn = '''{self._dsn}'''\nanswer_timeout = {PATIENCE}\n"
        return self._start("centre", text, own + more)

    def start_edge(self, text: str = EDGE) -> Gateway:
        return self._start("edge", text, "")

    def _start(self, name: str, text: str, more: str) -> Gateway:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        whole = text.format(port=self.port) + '\n[http]\nendpoint = "off"\n' + more
        (folder / "gateway.toml").write_text(whole)
        gateway = Gateway(("--config", "gateway.toml"), folder)
        self.gateways.append(gateway)
        return gateway


@pytest.fixture
def pair(tmp_path: Path, database: Database) -> Iterator[Pair]:
    """An edge and its centre, not started yet."""
    made = Pair(tmp_path, database)
    yield made
    for gateway in made.gateways:
        gateway.end()


def test_messages_go_on_to_the_centre(pair: Pair, database: Database) -> None:
    """Each message of an edge is stored by its centre, and answered in its words."""
    pair.start_centre().wait_ready()
    edge = pair.start_edge()
    edge.wait_ready()
    assert edge.connect().ask(b"one\ntwo\n") == b"+OK\n+OK\n"
    assert edge.connect("told").ask(b"a\nb\n") == b"+OK id=1\n+OK id=2\n"
    answers = edge.connect("commands").ask(
        b"PUT once x\nPUT once x\nPUT short much too long\nPUT short ok\nPUT unknown y\nCALL q\n"
    )
    first, second, third, fourth, fifth, sixth = answers.splitlines()
    assert (first, second, fourth) == (b"+OK", b"+DUP", b"+OK")
    assert third.startswith(b"-REJ DATA sqlstate=22001 :")
    assert fifth.startswith(b"-TRY ROUTE retry=1 :")
    assert sixth == b"-REJ QUERY :no query 'q'"
    assert database.bodies() == ["one", "two"]


def test_numbered_streams_are_the_centres(pair: Pair, database: Database) -> None:
    """A stream goes on at the centre under the edge's name, what was refused is told again by the
    next edge, and a name that would be too long there is refused here."""
    pair.start_centre().wait_ready()
    edge = pair.start_edge()
    edge.wait_ready()
    longest = "x" * 121
    first = edge.connect("commands").ask(
        b"HELLO s\nPUT told #1 a\nPUT short #2 much too long\nPUT none #3 x\nPUT once #4 b\n"
        + f"HELLO {longest}\nHELLO x{longest}\n".encode()
    )
    hello, *answers, long, longer = first.decode().splitlines()
    epoch = hello.removeprefix("+OK seq=0 epoch=")
    assert answers[0] == "+OK id=1" and answers[3] == "+OK"
    assert answers[1].startswith("-REJ DATA sqlstate=22001")
    assert answers[2] == "-REJ ROUTE :no route none"
    assert long.startswith("+OK seq=0") and "1 to 121 bytes" in longer
    assert edge.terminate() == 0
    edge = pair.start_edge()
    edge.wait_ready()
    again = edge.connect("commands").ask(
        f"HELLO s seen=1 epoch={epoch}\nPUT short #2 much too long\nPUT once #4 b\n"
        f"PUT once #6 d\nHELLO s seen=9 epoch={epoch}\n".encode()
    )
    hello, second, fourth, sixth, behind = again.decode().splitlines()
    assert hello == f"+OK seq=4 epoch={epoch}"
    assert (second, fourth) == (answers[1], "+DUP")
    assert sixth.startswith("-TRY GAP seq=4 :") and behind.startswith("-TRY GAP retry=1 ")
    streams = database.column("SELECT name FROM gateway.stream WHERE name LIKE 'edge-7/%%'")
    assert sorted(streams) == ["edge-7/s", f"edge-7/{longest}"]


def test_an_outage_of_the_centre(pair: Pair, database: Database) -> None:
    """While the centre is away messages wait in the edge's spool, over a kill too; what the centre
    refuses after +QUE is kept by the edge."""
    centre = pair.start_centre()
    centre.wait_ready()
    edge = pair.start_edge()
    edge.wait_ready()
    assert edge.connect("commands").ask(b"PUT short one\n") == b"+OK\n"
    centre.process.kill()
    centre.process.wait()
    edge.wait_log("the centre cannot be reached")
    told = edge.connect("commands").ask(b"PUT short two\nPUT short much too long\nPUT short 3\n")
    assert told == b"+QUE\n+QUE\n+QUE\n"
    edge.process.kill()
    edge.process.wait()
    for command in (
        ("dead-letters", "--config", "gateway.toml", "list"),
        ("routes", "--config", "gateway.toml", "show", "short"),
        ("spool", "--config", "gateway.toml", "move-to-dead-letters", "--all"),
    ):
        outcome = tool(*command, cwd=edge.cwd)
        assert outcome.returncode == 1
        assert "is the configuration of an edge ([relay]), which has no database" in outcome.stderr
    edge = pair.start_edge()
    pair.start_centre()
    edge.wait_log("spool: empty")
    assert sorted(database.column("SELECT body FROM short")) == ["3", "one", "two"]
    with closing(sqlite3.connect(edge.cwd / "gateway-data" / "relay.db")) as ledger:
        letters = ledger.execute("SELECT route, payload, sqlstate FROM dead_letter").fetchall()
    assert letters == [("short", b"much too long", "22001")]


def test_tls_and_tokens(pair: Pair) -> None:
    """The centre proves itself by its certificate and the edge by its token; a route that is not
    granted is out of service, and the check names it."""
    issuer = Issuer(pair.folder)
    centre, edge_folder = pair.folder / "centre", pair.folder / "edge"
    centre.mkdir()
    edge_folder.mkdir()
    issued = issuer.issue("localhost")
    (centre / "central.pem").write_bytes(issued.certificate_file.read_bytes())
    (centre / "central.key").write_bytes(issued.key_file.read_bytes())
    (centre / "central.key").chmod(0o600)
    secret = tool("token", "add", "edge-7", "--file", "tokens", cwd=centre).stdout
    (edge_folder / "edge-7.token").touch(0o600)
    (edge_folder / "edge-7.token").write_text(secret)
    (edge_folder / "ca.pem").write_bytes(issuer.pem)
    first = pair.start_centre(GRANTS, TLS_CENTRE)
    first.wait_ready()
    text = EDGE.replace('"tcp:127.0.0.1:{port}"', '"tls:localhost:{port}"')
    text = text.replace('"edge-7"', '"edge-7"\ntoken_file = "edge-7.token"\nca = "ca.pem"')
    edge = pair.start_edge(text)
    edge.wait_ready()
    assert edge.connect().ask(b"one\n") == b"+OK\n"
    said = edge.connect("commands").ask(b"HELLO s\nPUT told #1 a\nPUT once #2 x\n").splitlines()
    assert said[1] == b"+OK id=1" and said[2].startswith(b"-TRY ROUTE")
    checked = tool("check", "gateway.toml", cwd=edge_folder)
    assert checked.returncode == 1, checked
    assert f"connected to the centre at tls:localhost:{pair.port}" in checked.stdout
    assert "routes.once: " in checked.stderr and "-REJ DENIED" in checked.stderr
    (edge_folder / "edge-7.token").write_text("wrong.token")
    checked = tool("check", "gateway.toml", cwd=edge_folder)
    assert checked.returncode == 3 and "-BYE AUTH" in checked.stderr, checked
    # What is wrong with a file is told, and what is mended is used.
    (edge_folder / "edge-7.token").write_text(secret)
    empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (edge_folder / "ca.pem").write_bytes(empty)
    first.terminate()
    edge.wait_log("ca.pem: a certificate in it is damaged")
    (edge_folder / "ca.pem").write_bytes(issuer.pem)
    pair.start_centre(GRANTS, TLS_CENTRE).wait_ready()
    edge.wait_log("cannot be reached(.|\n)*connected to the centre")
    assert edge.connect().ask(b"two\n") in (b"+OK\n", b"+QUE\n")


def test_endpoints_in_order(pair: Pair, database: Database) -> None:
    """The first endpoint that works is used."""
    pair.start_centre().wait_ready()
    first = f'"tcp:127.0.0.1:{lasting_port()}", "tcp:127.0.0.1:{{port}}"'
    edge = pair.start_edge(EDGE.replace('"tcp:127.0.0.1:{port}"', first))
    edge.wait_ready()
    edge.wait_log(f"connected to the centre tcp:127.0.0.1:{pair.port}")
    assert edge.connect().ask(b"one\n") == b"+OK\n"
    assert database.bodies() == ["one"]


def test_a_circle_is_refused(pair: Pair) -> None:
    """An edge whose centre is itself says so, and messages wait in its spool."""
    own = 'endpoint = "tcp:{port}:interface=127.0.0.1"\ndialect = "command"\nframing = "netstring"'
    text = EDGE.replace('endpoint = "tcp:0:interface=127.0.0.1"\ndialect = "command"', own)
    edge = pair.start_edge(text)
    edge.wait_log("must not lead in a circle")
    assert edge.connect().ask(b"one\n") == b"+QUE\n"
