"""
Clients of others: each installed where it is missing, each sends, each sees its answers.

The table has one C{bytea} column, so that what arrived is compared byte for byte.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import pexpect
import pynetstring
import pytest
import pytest_twisted
import trustme
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import (
    Int8StringReceiver,
    Int16StringReceiver,
    Int32StringReceiver,
    NetstringReceiver,
)
from twisted.python.failure import Failure

from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway

ROOT: Final = Path(__file__).parents[2]

ALL_BYTES: Final = bytes(range(256))

LINES: Final = [
    b"hello",
    "käse, 奶酪".encode(),
    b"",
    b" blanks \t and tabs ",
    ALL_BYTES.replace(b"\n", b""),
    b"Quit",
    b"x" * 20_000,
]
"""For clients that send what they are given: any byte but LF, and more than a packet holds."""

NETSTRINGS: Final = [*LINES, ALL_BYTES, b"two\nlines\r\n", b"5:hello,"]

WORDS: Final = ["hello", "käse, 奶酪", "", "Quit"]
"""For clients that send what a person types."""

TABLE: Final = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "messages"
[listeners.int8]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "int8"
route = "messages"
ack = "thanks"
nak = "no"
[listeners.int16]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "int16"
route = "messages"
[listeners.int32]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "int32"
dialect = "command"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
create = true
[routes.messages.columns]
body = "@frame"
[routes.messages.create_columns]
id = "bigint generated always as identity primary key"
body = "bytea not null"
"""

Start = Callable[..., Gateway]


@pytest.fixture
def gateway(start_with: Start) -> Gateway:
    """A gateway with a port for each kind of client."""
    return start_with(TABLE)


def stored(database: Database) -> list[bytes]:
    """All messages, in order."""
    return [bytes(body) for body in database.column("SELECT body FROM messages ORDER BY id")]


def run(*command: str, said: bytes = b"") -> bytes:
    """
    @param said: its standard input.
    @return: what it printed.
    """
    done = subprocess.run(command, input=said, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def lines(messages: list[bytes]) -> bytes:
    return b"".join(message + b"\n" for message in messages)


def test_nc(installer: Installer, gateway: Gateway, database: Database) -> None:
    """nc -N sends its input, prints every answer, and ends by itself."""
    nc = installer.program("nc")
    port = str(gateway.port("lines"))
    assert run(nc, "-N", "127.0.0.1", port, said=lines(LINES)) == b"+OK\n" * len(LINES)
    assert stored(database) == LINES


def test_socat(installer: Installer, gateway: Gateway, database: Database) -> None:
    """socat too, if it is told to wait longer than half a second for the last answers."""
    socat = installer.program("socat")
    port = gateway.port("lines")
    said = run(socat, "-t", "60", "-", f"TCP:127.0.0.1:{port}", said=lines(LINES))
    assert said == b"+OK\n" * len(LINES)
    port = gateway.port("netstrings")
    said = run(socat, "-t", "60", "-", f"TCP:127.0.0.1:{port}", said=b"5:hello,9:two\nlines,")
    assert said == b"3:+OK,3:+OK,"
    assert stored(database) == [*LINES, b"hello", b"two\nlines"]


def test_telnet(installer: Installer, gateway: Gateway, database: Database) -> None:
    """A person at a telnet: CRLF in, CRLF out, an answer for each line as it is typed."""
    telnet = installer.program("telnet")
    session = pexpect.spawn(telnet, ["127.0.0.1", str(gateway.port("lines"))], timeout=PATIENCE)
    session.expect("Escape character")
    session.expect("\n")
    # It takes bytes such as 85, which Chinese is full of, for keys of its own.
    words = [word.partition(" 奶")[0] for word in WORDS]
    for word in words:
        session.sendline(word)
        session.expect_exact("+OK\r\n")
    session.close(force=True)
    assert stored(database) == [word.encode() for word in words]


def test_bash(installer: Installer, gateway: Gateway, database: Database) -> None:
    """A shell alone is enough: bash opens the connection, printf sends, read hears."""
    script = """
        exec 3<>/dev/tcp/127.0.0.1/$1
        shift
        for word; do
            printf '%s\\n' "$word" >&3
            IFS= read -r answer <&3
            printf '%s\\n' "$answer"
        done
    """
    bash = installer.program("bash")
    said = run(bash, "-ec", script, "bash", str(gateway.port("lines")), *WORDS)
    assert said == b"+OK\n" * len(WORDS)
    assert stored(database) == [word.encode() for word in WORDS]


@pytest.mark.parametrize("name", ["nc", "socat", "bash"])
def test_lines_of_the_documentation(
    name: str, installer: Installer, gateway: Gateway, database: Database
) -> None:
    """What docs/other-clients.md says for a shell works as it stands."""
    installer.program(name)
    text = (ROOT / "docs" / "other-clients.md").read_text()
    (command,) = re.findall(rf"^\| {name}[^|]* \| `([^`]+)` \|", text, re.MULTILINE)
    command = command.replace("\\|", "|").replace("localhost", "127.0.0.1")
    command = command.replace("8000", str(gateway.port("lines")))
    said = run("bash", "-ec", f'{command}\necho "${{answer-}}"').split()
    assert set(said) == {b"+OK"} and len(said) == len(stored(database))
    assert stored(database)[0] == b"hello"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Whom clients trust, and a certificate of theirs for C{localhost}."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = authority.issue_cert("localhost")
    ours.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(ours.cert_chain_pems):
        pem.write_to_path(tmp_path / f"cert{number}.pem")
    return authority


def test_openssl_s_client(
    installer: Installer,
    authority: trustme.CA,
    start_with: Start,
    database: Database,
    tmp_path: Path,
) -> None:
    """
    openssl s_client proves who the gateway is, sends and hears over TLS; with a command
    listener QUIT ends it once everything is answered.
    """
    openssl = installer.program("openssl")
    keys = f"privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert0.pem"
    # Two listeners on one endpoint would be refused, though the system chooses their ports.
    number = count(100)
    gateway = start_with(re.sub("tcp:0", lambda _: f"ssl:0:{keys}:backlog={next(number)}", TABLE))

    def s_client(listener: str) -> tuple[str, ...]:
        where = f"localhost:{gateway.port(listener)}"
        trust = ("-CAfile", str(tmp_path / "ca.pem"), "-verify_return_error")
        name = ("-verify_hostname", "localhost", "-servername", "localhost")
        return (openssl, "s_client", "-4", "-connect", where, *trust, *name)

    asked = b"PUT messages hello\n@1 PUT messages Quit\nPING you\nQUIT\n"
    done = subprocess.run(
        [*s_client("commands"), "-quiet"],
        input=asked,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"+OK\n@1 +OK\n+OK you\n+OK\n"), done
    with subprocess.Popen(
        [*s_client("lines"), "-quiet", "-no_ign_eof", "-crlf"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as session:
        assert session.stdin is not None and session.stdout is not None
        session.stdin.write(lines([word.encode() for word in WORDS]))
        session.stdin.flush()
        assert [session.stdout.readline() for _ in WORDS] == [b"+OK\r\n"] * len(WORDS)
        session.stdin.close()
        assert session.wait(PATIENCE) == 0
    assert stored(database) == [b"hello", b"Quit", *(word.encode() for word in WORDS)]
    assert_quiet(gateway)


def test_pynetstring(gateway: Gateway, database: Database) -> None:
    """pynetstring encodes what is sent, and decodes the answers."""
    decoder = pynetstring.Decoder()
    answers: list[bytes] = []
    with socket.create_connection(("127.0.0.1", gateway.port("netstrings")), PATIENCE) as peer:
        peer.sendall(b"".join(pynetstring.encode(NETSTRINGS)))
        peer.shutdown(socket.SHUT_WR)
        while data := peer.recv(5):
            answers += decoder.feed(data)
    assert answers == [b"+OK"] * len(NETSTRINGS)
    assert stored(database) == NETSTRINGS


class _Sender:
    """
    Sends strings, and ends when all of them are answered.
    """

    transport: Any
    sendString: Callable[[bytes], None]

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self._answers: list[bytes] = []
        self.answered: Deferred[list[bytes]] = Deferred()

    def connectionMade(self) -> None:
        for message in self._messages:
            self.sendString(message)

    def stringReceived(self, string: bytes) -> None:
        self._answers.append(string)
        if len(self._answers) == len(self._messages):
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answered.callback(self._answers)


class _Netstrings(_Sender, NetstringReceiver):
    """
    Sends netstrings.
    """


class _Int8s(_Sender, Int8StringReceiver):
    """
    Sends strings with a length of one byte.
    """


class _Int16s(_Sender, Int16StringReceiver):
    """
    Sends strings with a length of two bytes.
    """


class _Int32s(_Sender, Int32StringReceiver):
    """
    Sends strings with a length of four bytes.
    """


@pytest_twisted.ensureDeferred
async def test_netstring_receiver(gateway: Gateway, database: Database) -> None:
    """Twisted's NetstringReceiver at the other end."""
    from twisted.internet import reactor  # the one that pytest-twisted has installed

    there = TCP4ClientEndpoint(reactor, "127.0.0.1", gateway.port("netstrings"))
    peer = await connectProtocol(there, _Netstrings(NETSTRINGS))
    assert await peer.answered == [b"+OK"] * len(NETSTRINGS)
    assert stored(database) == NETSTRINGS


@pytest.mark.parametrize(
    ("listener", "sender", "head", "answer"),
    [
        ("int8", _Int8s, b"", b"thanks"),
        ("int16", _Int16s, b"", b"+OK"),
        ("int32", _Int32s, b"PUT messages ", b"+OK"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_int_receivers(
    gateway: Gateway,
    database: Database,
    listener: str,
    sender: type[_Sender],
    head: bytes,
    answer: bytes,
) -> None:
    """Twisted's IntNStringReceiver at the other end; with four bytes at a listener of commands."""
    from twisted.internet import reactor  # the one that pytest-twisted has installed

    most = 255 if listener == "int8" else 65535
    messages = [message[:most] for message in NETSTRINGS]
    there = TCP4ClientEndpoint(reactor, "127.0.0.1", gateway.port(listener))
    protocol: Any = sender([head + message for message in messages])
    peer: Any = await connectProtocol(there, protocol)
    assert await peer.answered == [answer] * len(messages)
    assert stored(database) == messages


@pytest.mark.parametrize("script", ["netstring.cjs", "endo.mjs"])
def test_node(script: str, installer: Installer, gateway: Gateway, database: Database) -> None:
    """The packages netstring and @endo/netstring of npm, each in a client of a few lines."""
    node, folder = installer.node(ROOT / "tests" / "clients")
    port = str(gateway.port("netstrings"))
    said = run(node, str(folder / script), port, *(m.hex() for m in NETSTRINGS))
    assert said == b"+OK\n" * len(NETSTRINGS)
    assert stored(database) == NETSTRINGS
