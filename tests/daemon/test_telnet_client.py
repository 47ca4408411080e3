"""
A real telnet at a real gateway: commands come and go, and every line is a message.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable

import pexpect
import pytest

from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway

Start = Callable[..., Gateway]

LISTENERS = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
telnet = {telnet}
{more}
[routes.messages]
table = "messages"
create = true
[routes.messages.columns]
body = "@frame"
[routes.messages.create_columns]
id = "bigint generated always as identity primary key"
body = "{kind} not null"
"""

CTRL_C = b"\xff\xf4\xff\xfd\x06"
"""What telnet(1) sends for it: IAC IP, IAC DO TIMING-MARK."""


@pytest.fixture
def start(start_with: Start) -> Start:
    """Starts a gateway with one listener for lines."""

    def start(telnet: bool, kind: str = "text", more: str = "") -> Gateway:
        return start_with(LISTENERS.format(telnet=str(telnet).lower(), kind=kind, more=more))

    return start


def test_ctrl_c_at_a_telnet(installer: Installer, start: Start, database: Database) -> None:
    """The line at the start says how to call it; after Ctrl-C each line is answered as before."""
    installer.program("telnet")
    gateway = start(True)
    command = gateway.wait_log(r"listener lines: .*; try: (telnet 127\.0\.0\.1 \d+)")[1]
    program, *arguments = shlex.split(command)
    session = pexpect.spawn(program, arguments, timeout=PATIENCE)
    session.expect("Escape character")
    session.expect("\n")
    for word in ("one", "two", "three"):
        session.sendline(word)
        session.expect_exact("+OK\r\n")
        session.sendcontrol("c")
    session.close(force=True)
    assert database.bodies() == ["one", "two", "three"]
    assert_quiet(gateway)


def test_synch_at_a_telnet(installer: Installer, start: Start, database: Database) -> None:
    """Telnet's Synch, whose last byte goes out of band, takes nothing of the lines around it."""
    telnet = installer.program("telnet")
    gateway = start(True)
    session = pexpect.spawn(telnet, ["127.0.0.1", str(gateway.port("lines"))], timeout=PATIENCE)
    session.expect("Escape character")
    session.expect("\n")
    for number, what in enumerate(("synch", "ip", "ayt", "brk", "nop")):
        session.send("\x1d")
        session.expect_exact("telnet> ")
        session.sendline(f"send {what}")
        session.sendline(f"line {number}")
        session.expect_exact("+OK\r\n")
    session.close(force=True)
    assert database.bodies() == [f"line {number}" for number in range(5)]


def ask(gateway: Gateway, *pieces: bytes, urgent: bytes = b"") -> list[bytes]:
    """
    Send pieces with an urgent byte between them, end, and read all answers.
    """
    with socket.create_connection(("127.0.0.1", gateway.port("lines")), PATIENCE) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first, *others = pieces
        peer.sendall(first)
        for piece in others:
            peer.send(urgent, socket.MSG_OOB)
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)
        said = b""
        while more := peer.recv(65536):
            said += more
    return said.splitlines()


def test_urgent_bytes_stay_in_line(start: Start, database: Database) -> None:
    """The byte that goes out of band is the command it is, and not the one behind it."""
    gateway = start(True)
    assert ask(gateway, b"on\xff", b"e\r\ntw\xff", b"o\r\n", urgent=b"\xf2") == [b"+OK"] * 2
    assert database.bodies() == ["one", "two"]


def test_urgent_bytes_without_telnet(start: Start, database: Database) -> None:
    """A byte of a message that was sent as urgent is still a byte of it."""
    assert ask(start(False), b"on", b" two\n", urgent=b"e") == [b"+OK"]
    assert database.bodies() == ["one two"]


def test_commands_are_refused_without_telnet(start: Start, database: Database) -> None:
    """A Ctrl-C makes the line it is in invalid as text; the lines before and after are stored."""
    gateway = start(False)
    answers = ask(
        gateway, b"one\r\n" + CTRL_C + b"two\r\nthree\r\nfo\xff", b"ur\r\nfive\r\n", urgent=b"\xf2"
    )
    assert [answer.split(b" :")[0] for answer in answers] == [
        *(b"+OK", b"-REJ DATA", b"+OK", b"-REJ DATA", b"+OK")
    ]
    assert database.bodies() == ["one", "three", "five"]
    assert_quiet(gateway)


def stored_in(database: Database) -> list[bytes]:
    return [bytes(body) for body in database.column("SELECT body FROM messages ORDER BY id")]


MIXED = b"a\nb\r\nc\rd\ne\r\0f\r\ng\r\r\n\r\n\n"
"""LF, CRLF, bare CR and CR NUL."""


def test_ends_of_lines(start: Start, database: Database) -> None:
    """
    One rule, with Telnet and without: LF ends a message, a CR just before it is dropped, any
    other CR is data. Telnet's CR NUL is such a CR; to everybody else it is two bytes.
    """
    stored = [b"a", b"b", b"c\rd", b"e\r\0f", b"g\r", b"", b""]
    assert ask(start(False, "bytea"), MIXED) == [b"+OK"] * len(stored)
    assert stored_in(database) == stored


def test_ends_of_lines_with_telnet(start: Start, database: Database) -> None:
    """The same messages, byte for byte, but for the NUL that Telnet puts after a CR."""
    stored = [b"a", b"b", b"c\rd", b"e\rf", b"g\r", b"", b""]
    assert ask(start(True, "bytea"), MIXED) == [b"+OK"] * len(stored)
    assert stored_in(database) == stored


def test_telnet_is_for_lines(start_with: Start) -> None:
    """Netstrings have no place for Telnet's commands."""
    with pytest.raises(AssertionError, match=r'listeners\.lines\.telnet: is for framing = "line"'):
        start_with(
            LISTENERS.format(telnet="true", kind="text", more='framing = "netstring"'), dsn="x=y"
        )
