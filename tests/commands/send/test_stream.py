"""
C{gateway send --stream}: nothing twice, nothing missing, whatever dies; also while following.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sending import Running, StartSend, endpoint, hold_all, send
from tests.support import PATIENCE, Database, Gateway, lasting_port, wait_until

Start = Callable[..., Gateway]


@pytest.fixture
def gateway(start_with: Start) -> Gateway:
    """With commands, and a rule that makes it refuse C{bad}."""
    return start_with(
        """
        [listeners.commands]
        endpoint = "tcp:0:interface=127.0.0.1"
        dialect = "command"
        max_frame = 2000
        [listeners.netstrings]
        endpoint = "tcp:0:interface=127.0.0.1"
        dialect = "command"
        framing = "netstring"
        [routes.messages]
        table = "messages"
        create = true
        [spool]
        path = "spool.db"
        """
    )


@pytest.fixture
def commands(gateway: Gateway, database: Database) -> str:
    """Where it takes commands."""
    database.execute("ALTER TABLE messages ADD CHECK (body NOT LIKE 'bad%')")
    return endpoint(gateway, "commands")


def report(where: str, *arguments: str, given: bytes = b"") -> dict[str, Any]:
    """What C{--json} says."""
    found: dict[str, Any] = json.loads(send(where, "--json", *arguments, given=given).stdout)
    return found


def killed(
    start_send: StartSend, database: Database, rows: int, where: str, *arguments: str
) -> None:
    """Run it and kill it as soon as so many rows are there."""
    running = start_send(where, *arguments)
    count = "SELECT count(*) FROM messages"
    wait_until(
        lambda: running.process.poll() is not None or database.column(count)[0] >= rows,
        f"{rows} rows",
    )
    running.end(signal.SIGKILL)


def test_the_same_command_again(commands: str, database: Database, tmp_path: Path) -> None:
    """The numbers are the lines': a second run stores nothing, what was appended is stored."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a\nb\n")
    two.write_text("c\n")
    found = report(commands, "--stream", "s", str(one), str(two))
    assert (found["stored"], found["skipped"]) == (3, 0)
    with two.open("a") as file:
        file.write("d\ne")
    found = report(commands, "--stream", "s", str(one), str(two))
    assert (found["stored"], found["skipped"], found["status"]) == (2, 3, 0)
    assert database.bodies() == ["a", "b", "c", "d", "e"]


def test_killed_again_and_again(
    start_send: StartSend, commands: str, database: Database, tmp_path: Path
) -> None:
    """Killed ten times in the middle: each line once and in order, each refusal written once."""
    path, refused = tmp_path / "lines", tmp_path / "refused"
    count = 60_000
    lines = [f"bad {n}" if n % 97 == 0 else f"good {n}" for n in range(count)]
    path.write_text("\n".join(lines) + "\n")
    arguments = ("--stream", "s", "--refused", str(refused), str(path))
    for turn in range(1, 11):
        killed(start_send, database, turn * count // 12, commands, *arguments)
    found = report(commands, *arguments)
    assert found["unanswered"] == 0 and found["skipped"] > 0
    assert database.bodies() == [line for line in lines if line.startswith("good")]
    entries = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == list(range(1, count + 1, 97))
    assert [entry["number"] for entry in entries] == [entry["line"] for entry in entries]
    assert [entry["message"] for entry in entries] == lines[::97]
    assert {entry["stream"] for entry in entries} == {"s"}


def test_a_gateway_that_is_killed(
    start_send: StartSend, start_gateway: Start, database: Database, tmp_path: Path
) -> None:
    """The same over three deaths of the gateway, by one run."""
    listen = "tcp:{}:interface=127.0.0.1"
    gateway = start_gateway("--database", database.dsn, "--command", listen.format(lasting_port()))
    port = gateway.port("commands")
    path = tmp_path / "lines"
    count = 60_000
    path.write_text("".join(f"{n}\n" for n in range(count)))
    running = start_send(endpoint(gateway, "commands"), "--stream", "s", str(path))
    stored = "SELECT count(*) FROM messages"
    for turn in range(1, 4):
        wait_until(
            lambda turn=turn: database.column(stored)[0] >= turn * count // 5, "some are stored"
        )
        gateway.process.kill()
        gateway.process.wait()
        gateway = start_gateway("--database", database.dsn, "--command", listen.format(port))
    status, said = running.finish()
    assert status == 0, said
    assert database.bodies() == [str(n) for n in range(count)]


def test_standard_input(commands: str, database: Database) -> None:
    """A new run goes on with the numbers; with --again it skips what the stream has."""
    assert report(commands, "--stream", "s", given=b"a\nb\n")["stored"] == 2
    assert report(commands, "--stream", "s", given=b"c\n")["stored"] == 1
    found = report(commands, "--stream", "s", "--again", given=b"a\nb\nc\nd\n")
    assert (found["stored"], found["skipped"]) == (1, 3)
    assert database.bodies() == ["a", "b", "c", "d"]


def test_another_file(commands: str, database: Database, tmp_path: Path) -> None:
    """A file with fewer lines than the stream has messages is not the one that was sent."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    assert send(commands, "--stream", "s", str(path)).returncode == 0
    path.write_text("other\n")
    for follow in ([], ["--follow", "--state", str(tmp_path / "state")]):
        done = send(commands, "--stream", "s", *follow, str(path))
        assert done.returncode == 2
        assert b"the stream has 2 messages, and here are only 1" in done.stderr
    assert database.bodies() == ["a", "b"]


def test_what_cannot_be_sent_has_no_number(
    commands: str, database: Database, tmp_path: Path
) -> None:
    """Lines over --max-frame are refused here and not counted, in each run alike."""
    path, refused = tmp_path / "lines", tmp_path / "refused"
    lines = ["a", "x" * 2000, "b", "bad", "y" * 1999, "c"]
    path.write_text("\n".join(lines) + "\n")
    arguments = ("--stream", "s", "--refused", str(refused), str(path))
    done = send(commands, *arguments)
    assert done.returncode == 3
    assert b"run this again with --max-frame as the listener has it" in done.stderr
    fitting = ("--max-frame", "2000", *arguments)
    for _ in range(2):
        report(commands, *fitting)
        assert database.bodies() == ["a", "b", "c"]
    with path.open("a") as file:
        file.write("d\n")
    assert report(commands, *fitting)["stored"] == 1
    assert database.bodies() == ["a", "b", "c", "d"]
    entries = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [e["line"] for e in entries if "number" not in e] == [2, 5]
    assert [e["number"] for e in entries if "number" in e] == [3]


def test_two_runs_of_one_stream(start_send: StartSend, commands: str, database: Database) -> None:
    """The newer one has the stream; the older one ends with status 3 and says why."""
    older = start_send(commands, "--stream", "s")
    older.write(b"a\n")
    hold_all(database, "a")
    assert report(commands, "--stream", "s", given=b"b\n")["stored"] == 1
    assert older.process.wait(PATIENCE) == 3
    _, said = older.finish()
    assert "another client has taken it" in said
    assert database.bodies() == ["a", "b"]


class Following:
    """A log that is followed, by one run after the other."""

    def __init__(
        self, start_send: StartSend, commands: str, database: Database, folder: Path
    ) -> None:
        self._start_send = start_send
        self.log = folder / "app.log"
        self.state = folder / "state" / "s.json"
        self.expected: list[str] = []
        self._commands = commands
        self._database = database
        self._options = ("--follow", "--stream", "s", "--state", str(self.state), str(self.log))

    def start(self) -> Running:
        return self._start_send(self._commands, *self._options)

    def write(self, *lines: str) -> None:
        with self.log.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self.expected += lines

    def rotate(self, name: str) -> None:
        self.log.rename(self.log.with_name(name))

    def arrived(self) -> None:
        hold_all(self._database, *self.expected)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_following_over_restarts(
    start_send: StartSend, commands: str, database: Database, tmp_path: Path, how: signal.Signals
) -> None:
    """Ended or killed, each line arrives once: those of rotated files and of a truncated one."""
    following = Following(start_send, commands, database, tmp_path)
    following.write("a", "b")
    running = following.start()
    following.arrived()
    running.end(how)
    # While nobody looks: more lines, then a new file.
    following.write("c", "d")
    following.rotate("app.log.1")
    following.write("e", "f")
    running = following.start()
    following.arrived()
    # While it runs; and killed at once, before anybody settles down.
    following.rotate("app.log.2")
    following.write("g")
    following.arrived()
    following.write("h")
    running.end(how)
    # Twice while nobody looks.
    following.rotate("app.log.3")
    following.write("i")
    following.rotate("app.log.4")
    following.write("j")
    running = following.start()
    following.arrived()
    os.truncate(following.log, 0)
    following.write("k, longer than what was there before")
    following.arrived()
    running.end(how)
    running = following.start()
    following.write("l")
    following.arrived()
    status, said = running.end()
    assert status == 130 and "1 stored" in said
    following.arrived()


def test_following_a_stream_without_its_state(
    start_send: StartSend, commands: str, database: Database, tmp_path: Path
) -> None:
    """What was sent as a whole file can be followed; a file that is gone is said to be gone."""
    following = Following(start_send, commands, database, tmp_path)
    following.write("a", "b")
    assert report(commands, "--stream", "s", str(following.log))["stored"] == 2
    running = following.start()
    following.write("c")
    following.arrived()
    running.end()
    following.log.unlink()
    following.write("only this")
    running = following.start()
    running.heard("the file that was being sent is gone")
    following.arrived()
    running.end()


def test_a_state_file_of_something_else(
    start_send: StartSend, commands: str, database: Database, tmp_path: Path
) -> None:
    """It is not used, and not written over."""
    following = Following(start_send, commands, database, tmp_path)
    following.write("a")
    running = following.start()
    following.arrived()
    running.end()
    kept = following.state.read_bytes()
    options = ("--follow", "--state", str(following.state), str(following.log))
    done = send(commands, "--stream", "other", *options)
    assert done.returncode == 2 and b"is of stream s and" in done.stderr
    assert following.state.read_bytes() == kept


def test_the_state_is_kept_in_its_place(
    start_send: StartSend,
    commands: str,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By default it is where such things belong, whatever the stream is called."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    log = tmp_path / "log"
    log.write_text("a\n")
    running = start_send(commands, "--follow", "--stream", "../web/1", str(log))
    hold_all(database, "a")
    running.end()
    assert [p.name for p in (tmp_path / "home" / "gateway").iterdir()] == ["..%2Fweb%2F1.json"]


def test_netstrings_in_a_stream(gateway: Gateway, database: Database) -> None:
    """Messages with line feeds have numbers like all others where the framing can say them."""
    where = endpoint(gateway, "netstrings")
    options = ("--framing", "netstring", "--input", "netstrings", "--stream", "s", "--again")
    assert report(where, *options, given=b"3:a\nb,1:c,")["stored"] == 2
    found = report(where, *options, given=b"3:a\nb,1:c,1:d,")
    assert (found["stored"], found["skipped"]) == (1, 2)
    assert database.bodies() == ["a\nb", "c", "d"]


def test_a_file_that_is_removed_before_there_is_a_gateway(
    start_send: StartSend, start_gateway: Start, database: Database, tmp_path: Path
) -> None:
    """Followed from the very start, it is open already, and sent when the gateway comes."""
    to = f"tcp:{lasting_port()}:interface=127.0.0.1"
    log = tmp_path / "app.log"
    log.write_text("one\n")
    options = ("--follow", "--stream", "s", "--state", str(tmp_path / "state"), str(log))
    running = start_send(f"tcp:127.0.0.1:{to.split(':')[1]}", *options)
    running.heard("trying again")
    log.unlink()
    log.write_text("two\n")
    start_gateway("--database", database.dsn, "--command", to)
    hold_all(database, "one", "two")
    assert running.end()[0] == 130
