"""
C{gateway call}, C{gateway listen} and C{gateway completion}, as processes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests import forking
from tests.forking import BIN
from tests.support import PATIENCE, Database, Gateway, lasting_port, tool

Start = Callable[..., Gateway]

_CONFIG = """
[listeners.commands]
endpoint = "tcp:{port}:interface=127.0.0.1"
dialect = "command"
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
dialect = "command"
[routes.messages]
table = "messages"
create = true
[channels]
allow = ["orders", "stock"]
[queries.last]
sql = "select id, body from messages order by id desc limit %(n)s"
max_rows = 3
[queries.last.params.n]
type = "integer"
default = 1
[queries.echo]
sql = "select %(a)s as a, %(b)s as b"
[queries.echo.params.a]
type = "text"
[queries.echo.params.b]
type = "boolean"
required = false
[queries.divide]
sql = "select 1 / %(by)s as result"
[queries.divide.params.by]
type = "integer"
"""


@pytest.fixture
def gateway(database: Database, start_with: Start) -> Gateway:
    """With three queries, two channels, and four messages."""
    gateway = start_with(_CONFIG.format(port=lasting_port()))
    rows = "INSERT INTO messages (body) VALUES ('a'), ('b'), (E'c \\u001b[31m'), ('d')"
    database.execute(rows)
    return gateway


def where(gateway: Gateway, listener: str = "commands") -> tuple[str, str]:
    """As the commands want it."""
    return "--endpoint", f"tcp:127.0.0.1:{gateway.port(listener)}"


def call(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    done = tool("call", *where(gateway), *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_rows(gateway: Gateway) -> None:
    """One JSON object a line, and nothing else; arguments as words or as JSON."""
    for arguments in (["n=2"], ['{"n": 2}'], ["[2]"]):
        done = call(gateway, "last", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["body"] for row in rows] == ["d", "c \x1b[31m"]
    assert call(gateway, "last", "n=0").stdout == ""
    done = tool("call", *where(gateway, "netstrings"), "--framing", "netstring", "last")
    assert json.loads(done.stdout)["body"] == "d"


@pytest.mark.parametrize(
    ("words", "a", "b"),
    [
        (["a=007", "b=true"], "007", True),
        (['a="5"', "b=false"], "5", False),
        (["a=x=y z"], "x=y z", None),
        (["a=", "b=null"], "", None),
        (['a={"no": "object"}'], '{"no": "object"}', None),
    ],
)
def test_arguments(gateway: Gateway, words: list[str], a: str, b: bool | None) -> None:
    """A word that is JSON counts as that, any other as text."""
    done = call(gateway, "echo", *words)
    assert json.loads(done.stdout) == {"a": a, "b": b}, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "-REJ QUERY"),
        (["last", "n=many"], "-REJ QUERY"),
        (["last", "m=1"], "-REJ QUERY"),
        (["last", "n=4"], "-REJ TOOBIG"),
        (["divide", "by=0"], "sqlstate=22012"),
    ],
)
def test_what_is_refused(gateway: Gateway, arguments: list[str], said: str) -> None:
    """Status 1, the gateway's words on standard error, and no row."""
    done = call(gateway, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"gateway call: {arguments[0]}: -REJ ")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["last", "n"], 2, "'n' is not NAME=VALUE"),
        (["last", "n=1", "n=2"], 2, "n is there twice"),
        (["last", "{n: 1}"], 2, "no JSON"),
        (["--endpoint", "nonsense", "last"], 2, "--endpoint nonsense: "),
        (["--endpoint", "unix:/nonexistent", "--timeout", "1", "last"], 3, "cannot connect: "),
    ],
)
def test_what_is_not_asked(arguments: list[str], status: int, said: str) -> None:
    """Wrong usage has status 2, a gateway that is not there 3."""
    done = tool("call", *arguments)
    assert done.returncode == status and said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_endpoint_of_the_environment(gateway: Gateway, database: Database) -> None:
    """It is where every command connects that is not told otherwise, and --help says so."""
    there = {"GATEWAY_ENDPOINT": where(gateway)[1]}
    done = tool("call", "last", environment=there)
    assert done.returncode == 0 and json.loads(done.stdout)["body"] == "d"
    done = tool("send", "--route", "messages", __file__, environment=there)
    assert done.returncode == 0, done.stderr
    done = tool("listen", "secrets", environment=there)
    assert "-REJ DENIED" in done.stderr
    done = tool("bench", "--route", "messages", "--count", "7", environment=there)
    assert done.returncode == 0 and "7 sent" in done.stdout
    nowhere = {"GATEWAY_ENDPOINT": "unix:/nonexistent"}
    done = tool("call", "--timeout", "1", "last", environment=nowhere)
    assert done.returncode == 3 and "unix:/nonexistent" in done.stderr
    assert tool("call", *where(gateway), "last", environment=nowhere).returncode == 0
    for words in (("call", "last"), ("send", __file__)):
        done = tool(*words, environment={"GATEWAY_ENDPOINT": "carrier:pigeon"})
        assert done.returncode == 2 and "GATEWAY_ENDPOINT carrier:pigeon: " in done.stderr
    for name in ("call", "listen", "send", "bench"):
        assert "GATEWAY_ENDPOINT" in tool(name, "--help").stdout


def test_a_table(gateway: Gateway) -> None:
    """For people: named columns, and no message tells the terminal what to do."""
    done = call(gateway, "--table", "last", "n=2")
    assert done.returncode == 0 and done.stderr == "2 rows\n"
    first, *_ = done.stdout.splitlines()[1:]
    assert "id" in first and "body" in first
    assert "c \\x1b[31m" in done.stdout and "\x1b[31m" not in done.stdout


@pytest.fixture
def listen(gateway: Gateway) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts C{gateway listen}, waits until it listens, and ends it."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = forking.Popen(
            [str(BIN / "gateway"), "listen", *where(gateway), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        heard(process, "listening to ")
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str], text: str) -> None:
    """Wait for a line on standard error that has this in it."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, f"never said {text!r}"


def notify(database: Database, channel: str, payload: str) -> None:
    database.execute("SELECT pg_notify(%s, %s)", channel, payload)


def test_notifications(database: Database, listen: Callable[..., subprocess.Popen[str]]) -> None:
    """Each is printed as it comes, from all channels in order; --count ends it."""
    process = listen("--count", "4", "orders", "stock")
    assert process.stdout is not None
    notify(database, "orders", "1 a")
    assert process.stdout.readline() == "orders 1 a\n"
    notify(database, "stock", "")
    notify(database, "elsewhere", "not this")
    notify(database, "orders", "2")
    notify(database, "orders", "3")
    rest, _ = process.communicate(timeout=PATIENCE)
    assert rest == "stock \norders 2\norders 3\n"
    assert process.returncode == 0


def test_notifications_as_json(
    database: Database, listen: Callable[..., subprocess.Popen[str]]
) -> None:
    """For programs, payload and channel apart."""
    process = listen("--json", "--count", "1", "orders")
    notify(database, "orders", 'a "b" \u00e9')
    out, _ = process.communicate(timeout=PATIENCE)
    assert json.loads(out) == {"channel": "orders", "payload": 'a "b" \u00e9'}


def test_a_gateway_that_comes_back(
    gateway: Gateway,
    database: Database,
    start_with: Start,
    listen: Callable[..., subprocess.Popen[str]],
) -> None:
    """It listens again, and says that something may be missing."""
    process = listen("--count", "1", "orders")
    port = gateway.port("commands")
    gateway.process.kill()
    gateway.process.wait()
    start_with(_CONFIG.format(port=port))
    heard(process, "orders: some may be missing")
    notify(database, "orders", "after")
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == "orders after\n"


def test_a_channel_that_is_not_allowed(gateway: Gateway) -> None:
    """Status 1, and the gateway's words."""
    done = tool("listen", *where(gateway), "orders", "secrets")
    assert done.returncode == 1
    assert "gateway listen: -REJ DENIED" in done.stderr


def test_an_output_that_nobody_reads(
    database: Database, listen: Callable[..., subprocess.Popen[str]]
) -> None:
    """head may go when it has seen enough: that is an end and no error."""
    process = listen("orders")
    assert process.stdout is not None
    process.stdout.close()
    notify(database, "orders", "1")
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def completed(*words: str) -> set[str]:
    """What a bash offers for the last of these words."""
    done = subprocess.run(
        [str(BIN / "gateway")],
        env={
            **os.environ,
            "_GATEWAY_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("gateway", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return set(done.stdout.splitlines())


def test_what_is_completed() -> None:
    """Commands, options, choices and files."""
    assert completed("se") == {"plain,send"}
    assert completed("send", "--fr") == {"plain,--framing"}
    assert completed("send", "--framing", "n") == {"plain,netstring", "plain,nul"}
    assert completed("send", "x") == {"file,x"}
    assert completed("completion", "") == {"plain,bash", "plain,zsh", "plain,fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    """It is for the command by its own name."""
    done = tool("completion", shell)
    assert done.returncode == 0 and f"_GATEWAY_COMPLETE={shell}_complete" in done.stdout


def test_completion_in_a_bash(tmp_path: Path) -> None:
    """A real one: TAB completes an option's choice and a file's name."""
    (tmp_path / "unmistakable.log").touch()
    path = f"{BIN}:{os.environ['PATH']}"
    bash = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        cwd=str(tmp_path),
        env={**os.environ, "PATH": path, "PS1": "ready> ", "TERM": "dumb"},
        timeout=PATIENCE,
        encoding="utf-8",
    )
    bash.sendline('eval "$(gateway completion bash)"; echo load"ed"')
    bash.expect("loaded")
    bash.send("gateway send --framing octet\t")
    bash.expect("octet-counted")
    bash.send("unmis\t")
    bash.expect("unmistakable.log")
    bash.close(force=True)
