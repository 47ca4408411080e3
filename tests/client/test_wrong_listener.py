"""
Clients at a wrong port: both of them, and three commands, say what they met and store nothing.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg2.extensions
import pytest
import pytest_twisted
import trustme
from twisted.internet.threads import deferToThread

from gateway.client.answers import WrongListener
from gateway.client.blocking import BlockingClient
from gateway.client.service import GatewayClient
from tests.client.model import Model
from tests.client.server import ModelServer
from tests.support import PATIENCE, Database, Gateway, lasting_port, tool

Start = Callable[..., Gateway]

CONFIG: Final = """
[listeners.lines]
endpoint = "tcp:{port}:interface=127.0.0.1"
{dialect}
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "messages"
[listeners.octets]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "octet-counted"
route = "messages"
[listeners.nuls]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "nul"
route = "messages"
[listeners.mute]
endpoint = "tcp:0:interface=127.0.0.1"
ack = "none"
route = "messages"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
dialect = "command"
[routes.messages]
table = "messages"
create = true
[queries.last]
sql = "select body from messages"
"""

PLAIN: Final = ("lines", "netstrings", "octets", "nuls", "mute")

COMMANDS: Final = {
    "call": ("last", "--timeout", "20"),
    "listen": ("news",),
    "send": ("--route", "messages", __file__),
    "send --stream": ("--stream", "s", __file__),
}

STATUS: Final = {"call": 3, "listen": 1, "send": 3}


def quickly(attempt: int) -> float:
    return 0.01


@pytest.fixture
def gateway(database: Database, start_with: Start) -> Gateway:
    """With plain listeners in each framing, and one for commands in netstrings."""
    return start_with(CONFIG.format(port=0, dialect='route = "messages"'))


def run(command: str, where: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A command that is wrong there, to its end."""
    name = command.split()[0]
    done = tool(name, "--endpoint", where, *more, *COMMANDS[command])
    assert done.returncode == STATUS[name], done.stderr
    assert "Traceback" not in done.stderr and where in done.stderr
    assert done.stdout == "" and 'dialect = "command"' in done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("listener", ["lines", "netstrings"])
def test_commands(gateway: Gateway, database: Database, command: str, listener: str) -> None:
    """The listener is named, the status is that of what cannot be done, and nothing is stored."""
    done = run(command, f"tcp:127.0.0.1:{gateway.port(listener)}")
    assert f"this is listener {listener} (dialect plain, framing " in done.stderr
    if command.startswith("send"):
        assert "0 stored" in done.stderr
    assert database.bodies() == []


@pytest.mark.parametrize("framing", ["line", "nul", "netstring", "octet-counted"])
def test_both_clients(gateway: Gateway, database: Database, framing: str) -> None:
    """Whatever framing they speak, each plain listener is named, and so is one of commands."""
    for listener in (*PLAIN, "commands"):
        if (listener, framing) == ("commands", "netstring"):
            continue
        port = gateway.port(listener)
        client = BlockingClient("127.0.0.1", port, framing=framing, token="secret")
        with pytest.raises(WrongListener, match=f"this is listener {listener} "):
            client.call("last")
        client.close()
    assert database.bodies() == [] and "secret" not in gateway.log


@pytest.mark.parametrize("listener", PLAIN)
@pytest_twisted.ensureDeferred
async def test_the_twisted_client(gateway: Gateway, database: Database, listener: str) -> None:
    """What is asked and what is sent fails with the listener's name, and is stored nowhere."""
    where = f"tcp:127.0.0.1:{gateway.port(listener)}"
    async with GatewayClient(where, stream="s") as client:
        asked, sent = client.call("last"), client.send(b"hello")
        for answer in (asked, sent):
            with pytest.raises(WrongListener, match=f"this is listener {listener} "):
                await answer
    assert await deferToThread(database.bodies) == []


@pytest.mark.long
def test_after_a_reconnect(database: Database, start_with: Start) -> None:
    """A port that is another listener's after a restart gets nothing of what was waiting."""
    port = lasting_port()
    gateway = start_with(CONFIG.format(port=port, dialect='dialect = "command"'))
    with suppress(WrongListener), BlockingClient("127.0.0.1", port, retry=quickly) as client:
        client.send(b"first")
        gateway.process.kill()
        gateway.process.wait()
        start_with(CONFIG.format(port=port, dialect='route = "messages"'))
        with pytest.raises(WrongListener, match="this is listener lines "):
            client.send(b"second")
    assert database.bodies() == ["first"]


def test_bare_messages_for_commands(gateway: Gateway, database: Database, tmp_path: Path) -> None:
    """gateway send says that they would be commands there; and names another framing."""
    port = gateway.port("commands")
    done = tool("send", "-e", f"tcp:127.0.0.1:{port}", "--framing", "netstring", __file__)
    assert done.returncode == 3 and "this is a listener of commands" in done.stderr
    port = gateway.port("netstrings")
    done = tool("send", "-e", f"tcp:127.0.0.1:{port}", __file__)
    assert done.returncode == 3 and "framing netstring, not line" in done.stderr
    assert database.bodies() == []


def test_bench(gateway: Gateway, database: Database) -> None:
    """With a route it needs commands, and puts no load on a plain listener."""
    where = f"tcp:127.0.0.1:{gateway.port('lines')}"
    done = tool("bench", where, "--route", "messages", "--count", "10")
    assert done.returncode == 1 and "this is listener lines " in done.stderr
    assert "Traceback" not in done.stderr and database.bodies() == []


class Stranger:
    """
    Says the same to everybody who has said something, then closes.

    @ivar port: on 127.0.0.1.
    """

    def __init__(self, says: bytes | None, closes: bool = True) -> None:
        """
        @param says: C{None}: it says so before it is asked.
        """
        self._says = says
        self._closes = closes
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                if not self._closes:
                    self._connections.append(connection)
                    continue
                with connection, suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(self._says or b"")

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._socket.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def stranger() -> Iterator[Callable[..., Stranger]]:
    """Starts what is no gateway."""
    running: list[Stranger] = []

    def start(says: bytes, closes: bool = True) -> Stranger:
        running.append(Stranger(says, closes))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.mark.parametrize(
    ("says", "what"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "an HTTP server"),
        (b"-ERR unknown command 'PING'\r\n", "a Redis server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (b"hello\n", "no answer of a gateway"),
    ],
)
def test_what_is_no_gateway(stranger: Callable[..., Stranger], says: bytes, what: str) -> None:
    """It is named as far as it can be, at once."""
    assert what in run("call", f"tcp:127.0.0.1:{stranger(says).port}").stderr


@pytest.mark.parametrize("closes", [True, False])
def test_who_says_nothing(stranger: Callable[..., Stranger], closes: bool) -> None:
    """Closed at once or never answered: the time is over, and the error says what that means."""
    where = f"tcp:127.0.0.1:{stranger(b'', closes).port}"
    done = tool("call", "--endpoint", where, "--timeout", "1", "last")
    assert done.returncode == 3 and "nothing answers the client's PING" in done.stderr
    done = tool("send", "--endpoint", where, "--route", "r", "--give-up-after", "1", __file__)
    assert done.returncode == 3 and "nothing answers the client's PING" in done.stderr
    client = BlockingClient("127.0.0.1", stranger(b"", closes).port, timeout=1.0)
    with pytest.raises(TimeoutError, match="nothing answers the client's PING"):
        client.call("last")
    client.close()


def test_a_listener_with_tls() -> None:
    """It hangs up on who speaks in the clear: the error says that it may be that."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    server = ModelServer(Model(), context)
    try:
        where = f"tcp:127.0.0.1:{server.port}"
        done = tool("call", "--endpoint", where, "--timeout", "1", "last")
        assert done.returncode == 3 and "with TLS" in done.stderr
    finally:
        server.stop()


def test_postgresql_itself(database: Database) -> None:
    """Its socket in place of the gateway's: it takes the PING for nonsense, and hangs up."""
    parts = psycopg2.extensions.parse_dsn(database.dsn)
    path = f"{parts['host']}/.s.PGSQL.{parts.get('port', '5432')}"
    done = tool("call", "--endpoint", f"unix:{path}", "--timeout", "1", "last")
    assert done.returncode == 3
    assert "PING" in done.stderr or "a PostgreSQL server" in done.stderr
