"""
C{gateway reload}: waits for the outcome, prints it, and says by its exit status which it is.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import PATIENCE, Database, Gateway, tool

HEAD = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
"""


@contextmanager
def console(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """A console that answers whatever it is asked, once, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as lines:
            asked.append(lines.readline())
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.settimeout(PATIENCE)
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("answer", "status", "out", "err"),
    [
        (
            b"route a: added\nb: needs a restart\nOK\n",
            0,
            "route a: added\nb: needs a restart\n",
            "",
        ),
        (b"x: wrong\nERROR not reloaded\n", 1, "", "x: wrong\nnot reloaded\n"),
        (b"\x1b[2J\xe2\x80\xae\nOK\n", 0, "\\x1b[2J\\u202e\n", ""),
        (b"route a: added\n", 2, "", "the gateway closed the connection"),
    ],
)
def test_what_a_console_says(
    tmp_path: Path, answer: bytes, status: int, out: str, err: str
) -> None:
    """Lines and last word become output and exit status; nothing of them clears a terminal."""
    with console(tmp_path / "admin.sock", answer) as asked:
        done = tool("reload", "--socket", "admin.sock", cwd=tmp_path)
    assert asked == [b"RELOAD\n"]
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr == err if status < 2 else err in done.stderr


def test_no_gateway(tmp_path: Path) -> None:
    """Where nobody answers it is one line and status 2."""
    done = tool("reload", cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "admin.sock" in done.stderr


def test_a_gateway(
    database: Database, tmp_path: Path, start_gateway: Callable[..., Gateway]
) -> None:
    """The outcome of a real one: what changed, what has to wait, every problem."""
    file = tmp_path / "g.toml"
    head = f"[database]\ndsn = '''{database.dsn}'''\n"
    file.write_text(head + HEAD)
    gateway = start_gateway("--config", "g.toml")
    assert tool("reload", "--config", "g.toml", cwd=tmp_path).stdout == "nothing changed\n"
    route = '[routes.messages]\ntable = "messages"\n[routes.more]\ntable = "more"\n'
    file.write_text(head + "pool_max = 3\n" + route + "create = true\n" + HEAD + "window = 7\n")
    done = tool("reload", "--config", "g.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "route messages: changed: create",
        "route more: added",
        "listener lines: window 1024 -> 7, at once",
        "database.pool_max: not taken over, needs a restart",
    ]
    file.write_text(head + route + HEAD.replace("route", "rout") + "window = 0\n")
    done = tool("reload", "--config", "g.toml", cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert "did you mean 'route'" in done.stderr and "window" in done.stderr
    assert done.stderr.splitlines()[-1] == "not reloaded"
    assert gateway.connect().ask(b"one\n") == b"+OK\n"
