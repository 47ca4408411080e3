"""
C{gateway send} where every line is refused alike: it stops, says what to do, and loses nothing.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sending import StartSend, endpoint, hold_all, send
from tests.support import Database, Gateway, wait_until

Start = Callable[..., Gateway]

SECTIONS = """
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
create = true
[routes.other]
table = "messages"
[access.grants.all]
networks = ["127.0.0.0/8"]
routes = ["ROUTE"]
streams = ["*"]
"""


class Granting:
    """A gateway that grants one route, by its configuration."""

    def __init__(self, start_with: Start, folder: Path) -> None:
        self._start_with = start_with
        self._config = folder / "gateway.toml"
        self.gateway = start_with(SECTIONS.replace("ROUTE", "messages"))
        self.endpoint = endpoint(self.gateway, "commands")

    def grant(self, route: str) -> None:
        """Another one, from now on."""
        text = self._config.read_text()
        start = text.index("routes = [")
        end = text.index("]", start)
        self._config.write_text(f'{text[:start]}routes = ["{route}"{text[end:]}')
        before = self.gateway.log.count("configuration reloaded")
        self.gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.gateway.log.count("configuration reloaded") > before, "reloaded")


@pytest.fixture
def granting(start_with: Start, tmp_path: Path) -> Granting:
    """It."""
    return Granting(start_with, tmp_path)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States of streams are kept where they do not meet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("options", [[], ["--stream", "s"], ["--stream", "s", "--follow"]])
@pytest.mark.parametrize(("route", "code"), [("mesages", "DENIED"), ("other", "DENIED")])
def test_a_route_that_is_mistyped_uses_no_number_up(
    granting: Granting,
    database: Database,
    tmp_path: Path,
    options: list[str],
    route: str,
    code: str,
) -> None:
    """The run ends with status 2 before a line is sent, naming route and remedy; the next one, with
    the right name, sends all."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    done = send(granting.endpoint, *options, "--route", route, str(path))
    assert done.returncode == 2
    said = done.stderr.decode()
    assert f"route {route}: -REJ {code}" in said and "have it granted" in said, said
    done = send(granting.endpoint, "--stream", "s", "--route", "messages", str(path))
    assert done.returncode == 0 and done.stderr.startswith(b"2 stored"), done.stderr
    assert database.bodies() == ["a", "b"]


def test_a_route_that_is_not_there(start_with: Start, database: Database, tmp_path: Path) -> None:
    """The same where the gateway has no such route: the stream is where it was."""
    gateway = start_with(SECTIONS[: SECTIONS.index("[access")])
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    arguments = (endpoint(gateway, "commands"), "--stream", "s", str(path))
    done = send(*arguments, "--route", "mesages")
    assert done.returncode == 2 and b"route mesages: -REJ ROUTE :no route mesages" in done.stderr
    assert b"with --route" in done.stderr
    peer = gateway.connect("commands")
    peer.send(b"HELLO s\n")
    assert peer.read_lines(1)[0].startswith(b"+OK seq=0 ")
    peer.close()
    assert send(*arguments).returncode == 0
    assert database.bodies() == ["a", "b"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_grant_that_is_taken_away_under_way(
    granting: Granting,
    database: Database,
    start_send: StartSend,
    tmp_path: Path,
    killed: bool,
) -> None:
    """Lines that were refused with a number come again under a new one, each once and before those
    behind them, over any number of runs; also where the run was killed before it knew."""
    path = tmp_path / "log"
    path.write_text("a\n")
    arguments = (granting.endpoint, "--follow", "--stream", "s", str(path))
    running = start_send(*arguments)
    hold_all(database, "a")
    if killed:
        running.process.send_signal(signal.SIGSTOP)
    granting.grant("other")
    with path.open("a") as file:
        file.write("b\nc\n")
    if killed:
        # As if its answers had been lost: another client says what it would have said.
        running.end(signal.SIGKILL)
        peer = granting.gateway.connect("commands")
        peer.send(b"HELLO s\nPUT messages #2 b\n")
        assert peer.read_lines(2)[1].startswith(b"-REJ DENIED")
        peer.close()
    else:
        status, said = running.finish()
        assert status == 2 and "line 2; it and those behind it are sent again" in said, said
    granting.grant("messages")
    running = start_send(*arguments)
    hold_all(database, "a", "b", "c")
    running.end(signal.SIGKILL)
    with path.open("a") as file:
        file.write("d\n")
    running = start_send(*arguments)
    hold_all(database, "a", "b", "c", "d")
    running.end()
    (kept,) = (tmp_path / "home" / "gateway").glob("*.again.json")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_file_whose_lines_were_refused_so(
    granting: Granting, database: Database, tmp_path: Path
) -> None:
    """The numbers of a file are counted with them from then on: each line is stored once, however
    often the command is run."""
    path = tmp_path / "lines"
    path.write_text("a\nb\nc\n")
    granting.grant("other")
    peer = granting.gateway.connect("commands")
    peer.send(b"HELLO s\nPUT messages #1 a\nPUT messages #2 b\n")
    assert [line[:11] for line in peer.read_lines(3)[1:]] == [b"-REJ DENIED"] * 2
    peer.close()
    granting.grant("messages")
    for turn in range(3):
        done = send(granting.endpoint, "--json", "--stream", "s", str(path))
        assert json.loads(done.stdout)["status"] == 0, done.stderr
        assert (b"2 messages of the stream" in done.stderr) == (turn == 0)
        assert database.bodies() == ["a", "b", "c"]
    with path.open("a") as file:
        file.write("d\n")
    found = json.loads(send(granting.endpoint, "--json", "--stream", "s", str(path)).stdout)
    assert (found["stored"], found["skipped"]) == (1, 5)
    assert database.bodies() == ["a", "b", "c", "d"]


def test_the_first_refusal_of_each_kind_is_told_at_once(
    start_with: Start, database: Database, start_send: StartSend
) -> None:
    """While more is to come, without a terminal too; those after it are counted."""
    gateway = start_with(SECTIONS[: SECTIONS.index("[access")])
    database.execute("ALTER TABLE messages ADD CHECK (body <> 'bad')")
    running = start_send(endpoint(gateway, "commands"), "--route", "messages")
    running.write(b"a\nbad\nbad\n")
    running.heard("standard input, line 2: -REJ CONSTRAINT sqlstate=23514")
    running.write(b"bad\n\xff\n")
    running.heard("standard input, line 5: -REJ DATA :not UTF-8")
    running.stdin.close()
    assert running.process.stderr is not None
    assert b"1 stored, 4 refused (CONSTRAINT 3, DATA 1)" in running.process.stderr.read()
    assert running.process.wait() == 1
