"""
C{gateway call}, C{listen} and C{send} against a gateway that lies: no trace, no escapes, no end.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Final

import pytest

from tests import forking
from tests.client.hostile import LIES, HostileServer, Says, once
from tests.forking import BIN
from tests.support import PATIENCE
from tests.terminal import Terminal

Lie = Callable[[Says], HostileServer]

MOST_MEMORY: Final = 3 << 29
"""Bytes of address space: a command that gathers what it is sent dies of it."""

CONTROL: Final = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)

NASTY: Final = "a\x1b[2Jb\x9bc\u202ed\x07e\x7ff\u2066g"


@pytest.fixture
def lie() -> Iterator[Lie]:
    """Starts servers that lie, and ends them."""
    running: list[HostileServer] = []

    def start(says: Says) -> HostileServer:
        running.append(HostileServer(says))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def run(name: str, server: HostileServer, *words: str) -> subprocess.CompletedProcess[bytes]:
    """A command, in little memory, to its end; what it says is for people."""
    done = forking.run(
        [str(BIN / "gateway"), name, "--endpoint", f"tcp:127.0.0.1:{server.port}", *words],
        input=b"hello\n",
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        limits={resource.RLIMIT_AS: (MOST_MEMORY, MOST_MEMORY)},
    )
    said = done.stderr.decode()
    assert "Traceback" not in said and not CONTROL.search(said), said[:5000]
    assert len(said) < 5000
    return done


@pytest.mark.parametrize("name", LIES)
def test_call(lie: Lie, name: str) -> None:
    """Status 3, no row, and what is wrong in one line."""
    says, words = LIES[name]
    done = run("call", lie(says), "last")
    assert (done.returncode, done.stdout) == (3, b"")
    assert re.search(words, done.stderr.decode()) and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["digits", "no line end", "no word", "no code"])
def test_listen(lie: Lie, name: str) -> None:
    """Status 1, and what is wrong in one line."""
    done = run("listen", lie(LIES[name][0]), "news")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["digits", "no line end", "pushes", "no word", "no code"])
def test_send(lie: Lie, name: str) -> None:
    """Status 3 after some tries, and a summary that counts nothing as stored."""
    done = run("send", lie(LIES[name][0]), "--dialect", "command", "--give-up-after", "30")
    assert done.returncode == 3 and b"0 stored" in done.stderr
    assert b"30 s" not in done.stderr


def test_send_a_stream(lie: Lie) -> None:
    """A number of thousands of digits is no place to go on from."""
    server = lie(once(b"+OK seq=" + b"9" * 5000 + b" epoch=e\n"))
    done = run("send", server, "--stream", "s")
    assert done.returncode == 3 and b"0 stored" in done.stderr


def test_rows_that_never_come(lie: Lie) -> None:
    """Until --timeout, and no longer."""
    done = run("call", lie(once(b'*5\n{"a":1}\n')), "--timeout", "1", "last")
    assert done.returncode == 3 and b"no answer within 1 s" in done.stderr


def test_a_wait_without_end(lie: Lie) -> None:
    """That the gateway wants to be asked again in a thousand years ends no timeout."""
    server = lie(once(b"-TRY DOWN retry=99999999999999 :later\n"))
    assert run("call", server, "--timeout", "1", "last").returncode == 3


@pytest.mark.parametrize("word", ["-REJ QUERY", "-BYE DENIED"])
@pytest.mark.parametrize("command", [["call", "last"], ["listen", "news"]])
def test_words_in_refusals(lie: Lie, word: str, command: list[str]) -> None:
    """What a refusal holds for a terminal is shown, and does nothing."""
    name, *words = command
    done = run(name, lie(once(f"{word} :{NASTY}\n".encode())), *words)
    assert done.returncode == 1
    assert b"a\\x1b[2Jb\\x9bc\\u202ed" in done.stderr


def test_words_in_refused_messages(lie: Lie) -> None:
    """gateway send says why it ended, and its report is JSON."""
    server = lie(once(f"-BYE AUTH :{NASTY}\n".encode()))
    done = run("send", server, "--dialect", "command", "--json")
    assert done.returncode == 3 and b"a\\x1b[2Jb\\x9bc\\u202ed" in done.stderr
    assert json.loads(done.stdout)["stored"] == 0


ROW: Final = json.dumps({"b": NASTY}, ensure_ascii=False).encode()


def test_rows_are_exact_in_a_pipe(lie: Lie) -> None:
    """A program gets each row byte for byte."""
    done = run("call", lie(once(b"*1\n" + ROW + b"\n")), "last")
    assert (done.returncode, done.stdout) == (0, ROW + b"\n")


def test_a_table_of_what_is_hardly_text(lie: Lie) -> None:
    """Half a character in JSON's escapes is shown as it was said."""
    row = b'{"a":"\\ud800","b":1}'
    done = run("call", lie(once(b"*1\n" + row + b"\n")), "--table", "last")
    assert done.returncode == 0 and b"ud800" in done.stdout


def test_pushes_are_exact_in_a_pipe(lie: Lie) -> None:
    """A program gets each payload as it is, or as JSON whose escapes are its own."""
    says = once(f"+OK\n>news {NASTY}\n".encode())
    done = run("listen", lie(says), "--count", "1", "news")
    assert done.stdout.decode() == f"news {NASTY}\n"
    done = run("listen", lie(says), "--count", "1", "--json", "news")
    assert done.stdout.isascii() and not CONTROL.search(done.stdout.decode())
    assert json.loads(done.stdout) == {"channel": "news", "payload": NASTY}


def test_pushes_without_end(lie: Lie) -> None:
    """They are printed as they come, and never gathered."""

    def says(request: bytes) -> Iterator[bytes]:
        yield b"+OK\n"
        yield from repeat(b">news %b\n" % (b"x" * 60_000))

    done = run("listen", lie(says), "--count", "5000", "news")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 5000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["call", "last"], b"*1\n" + ROW + b"\n"),
        (["call", "--table", "last"], b"*1\n" + ROW + b"\n"),
        (["listen", "--count", "1", "news"], f"+OK\n>news {NASTY}\n".encode()),
        (["listen", "--count", "1", "--json", "news"], f"+OK\n>news {NASTY}\n".encode()),
        (["send", "--dialect", "command", __file__], f"-BYE AUTH :{NASTY}\n".encode()),
    ],
)
def test_on_a_terminal(lie: Lie, words: list[str], says: bytes, tmp_path: Path) -> None:
    """A real one gets no control character of the gateway's, whatever is shown."""
    name, *rest = words
    endpoint = f"tcp:127.0.0.1:{lie(once(says)).port}"
    command = [str(BIN / "gateway"), name, "--endpoint", endpoint, *rest]
    _, shown = Terminal(command, (24, 200), tmp_path).finish()
    assert re.search(r"a\\(x1b|u001b)\[2Jb\\(x9b|u009b)c\\u202ed", shown), shown
    # A bar moves the cursor by itself, and nothing else does.
    assert not CONTROL.search(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown))
    assert "\x1b[2J" not in shown
