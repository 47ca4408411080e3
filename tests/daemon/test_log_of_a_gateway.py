"""
The log of whole gateways: one form from the first line to the last, wherever it goes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.faults.look import Start
from tests.forking import BIN
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway, wait_until

LINES = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[http]
endpoint = "off"
"""

BUGGY = """
import os, signal, sys, warnings
from twisted.internet import reactor
from twisted.internet.task import deferLater
from gateway.daemon.service import GatewayService
from gateway.postgres.connect.connector import ConnectAttempt

async def connect(self):
    await deferLater(reactor, 0)  # twist begins to log when the gateway has started
    print("printed")
    print("to standard error", file=sys.stderr)
    warnings.warn("something is old")
    reactor.callLater(0, os.kill, os.getpid(), signal.SIGTERM)
    raise ZeroDivisionError("a bug")

def start(self):
    raise ZeroDivisionError("a bug at the start")

{patch}
sys.argv[0] = {program!r}
if {program!r} == "twistd":
    from twisted.scripts.twistd import run
else:
    from twisted.application.twist._twist import Twist
    run = Twist.main
run()
"""

TWISTD = ("-n", "--pidfile=", "gateway")


def run(
    folder: Path,
    *words: str,
    patch: str = "ConnectAttempt.connect = connect",
    program: str = "twistd",
    journal: bool = False,
) -> tuple[int, list[str]]:
    """
    A gateway with a bug, until it ends.

    @param journal: whether its output is like the journal's.
    @return: its status, and the lines of standard output and standard error.
    """
    code = BUGGY.format(patch=patch, program=program)
    dsn = "host=127.0.0.1 port=1 password=correct-horse-battery"
    environment = dict(os.environ)
    with (folder / "output").open("wb") as output:
        status = os.fstat(output.fileno())
        if journal:
            environment["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--database", dsn, "--config", "gateway.toml"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
        )
    text = (folder / "output").read_text()
    assert "correct-horse" not in text
    return done.returncode, text.splitlines()


def configure(folder: Path, log: str, lines: str = LINES) -> None:
    """Write the configuration."""
    (folder / "gateway.toml").write_text(f"{lines}[log]\n{log}\n")


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """Each line is an object, none of which has another in it."""
    found = [json.loads(line) for line in lines]
    for one in found:
        assert {"time", "level", "namespace", "event", "text"} <= set(one)
        assert not [value for value in one.values() if isinstance(value, dict | list)]
    return found


@pytest.mark.parametrize("program", ["twistd", "twist"])
def test_json_from_the_first_line_to_the_last(tmp_path: Path, program: str) -> None:
    """What Twisted says before and after, what is printed, warnings and tracebacks: all of it is
    one object a line, and a traceback is in one of them."""
    configure(tmp_path, 'format = "json"')
    words = TWISTD if program == "twistd" else ("gateway",)
    status, lines = run(tmp_path, *words, program=program)
    found = objects(lines)
    texts = [one["text"] for one in found]
    assert status == 0
    if program == "twistd":
        assert re.fullmatch(r"twistd \S+ \(.*\) starting up\.", texts[0])
        assert texts[-1] == "Server Shut Down."
    else:
        assert texts[-1] == "Main loop terminated."
    named = {one["event"]: one for one in found}
    assert named["stdout"]["text"] == "printed"
    assert named["stderr"]["text"] == "to standard error"
    assert "something is old" in named["python-warning"]["text"]
    bug = named["connect-failed"]
    assert (bug["level"], bug["namespace"]) == ("critical", "gateway.postgres.connect")
    assert re.search("Traceback.*in connect\n.*ZeroDivisionError: a bug$", bug["traceback"], re.S)
    assert named["stopped"]["messages"] == 0


def test_text_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    """Each line has its time, a package and a level, or is part of a traceback; in the journal each
    begins with its priority."""
    configure(tmp_path, 'level = "info"')
    for journal in (False, True):
        status, lines = run(tmp_path, *TWISTD, journal=journal)
        priority = "<[2346]>" if journal else ""
        pattern = re.compile(priority + r"(\t|20\S+T\S+[+-]\d{4} \[[a-z_.]+#[a-z]+\] \S)")
        assert status == 0 and [line for line in lines if not pattern.match(line)] == []
        assert any(line.endswith("\tTraceback (most recent call last):") for line in lines)
        if journal:
            assert {line[:3] for line in lines if "#critical" in line} == {"<2>"}


def test_a_crash_is_one_line(tmp_path: Path) -> None:
    """An exception during the start ends the gateway, and is one object."""
    configure(tmp_path, 'format = "json"')
    status, lines = run(tmp_path, *TWISTD, patch="GatewayService._lock = start")
    found = objects(lines)
    assert status == 1 and found[-1]["event"] == "crashed"
    assert found[-1]["traceback"].endswith("ZeroDivisionError: a bug at the start")


def test_a_start_that_fails_is_one_line(tmp_path: Path) -> None:
    """What the operator can put right is one object without a traceback."""
    configure(tmp_path, 'format = "json"', LINES.replace("tcp:0:interface=127.0.0.1", "unix:no/x"))
    status, lines = run(tmp_path, *TWISTD)
    last = objects(lines)[-1]
    assert status == 1 and last["text"].startswith("gateway: listener 'lines' cannot listen on")
    assert "traceback" not in last


def start_json(start_with: Start, log: str = "") -> Gateway:
    """A gateway that logs JSON."""
    return start_with(f'{LINES}[log]\nformat = "json"\n{log}')


def events(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """The last event of each name."""
    return {one["event"]: one for one in objects(gateway.log.splitlines())}


def test_the_summary_at_the_end(start_with: Start) -> None:
    """How many messages, refusals and peers there were."""
    gateway = start_json(start_with)
    stays = gateway.connect()
    gateway.connect().ask(b"one\n\xff\nthree\n")
    stays.send(b"four\n")
    assert stays.read_lines(1) == [b"+OK"]
    assert gateway.terminate() == 0
    found = events(gateway)
    stopped = found["stopped"]
    assert (stopped["messages"], stopped["refused"], stopped["spooled"]) == (4, 1, 0)
    assert (stopped["peers"], stopped["left"]) == (1, 0) and 0 < stopped["seconds"] < PATIENCE
    refused = found["refused"]
    assert (refused["route"], refused["code"], refused["count"]) == ("messages", "DATA", 1)
    assert "_route" not in refused


def test_slow_commits_are_told(start_with: Start, database: Database) -> None:
    """A commit that takes longer than slow_commit is a warning."""
    gateway = start_json(start_with, "slow_commit = 0.2")
    peer = gateway.connect()
    connection = psycopg2.connect(database.dsn)
    try:
        connection.cursor().execute("LOCK TABLE messages")
        peer.send(b"one\n")
        peer.readable(0.3)
    finally:
        connection.close()
    assert peer.read_lines(1) == [b"+OK"]
    gateway.wait_log('"slow-commit"')
    slow = events(gateway)["slow-commit"]
    assert (slow["route"], slow["count"]) == ("messages", 1) and slow["seconds"] > 0.2


def test_a_reload_takes_the_log_over(start_with: Start, tmp_path: Path) -> None:
    """Form and levels change while the gateway runs."""
    gateway = start_json(start_with)
    config = tmp_path / "gateway.toml"
    config.write_text(
        config.read_text().replace('format = "json"', 'format = "text"\nlevel = "warn"')
    )
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in gateway.log or _is_quiet(gateway), "the reload")
    gateway.connect().ask(b"\xff\n")
    gateway.wait_log(r"\[gateway\.peers#warn\] listener lines: 1 message for route messages")
    assert "configuration reloaded" not in gateway.log


def _is_quiet(gateway: Gateway) -> bool:
    """Whether a refusal is logged as text."""
    gateway.connect().ask(b"\xfe\n")
    return "#warn" in gateway.log


class InBackground:
    """
    A gateway in the background with a log file.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.log, self.pid_file = folder / "gateway.log", folder / "gateway.pid"
        (folder / "gateway.toml").write_text(f'{LINES}[log]\nformat = "json"\n')
        subprocess.run(
            [
                *(BIN / "twistd", f"--logfile={self.log}", f"--pidfile={self.pid_file}"),
                *("gateway", "--database", database.dsn, "--data-dir", folder / "data"),
                *("--config", folder / "gateway.toml"),
            ],
            cwd=folder,
            check=True,
            timeout=PATIENCE,
        )
        wait_until(lambda: '"ready"' in self.log.read_text(), "gateway ready")
        self.pid = int(self.pid_file.read_text())

    def end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), "its end")


def logrotate_of(page: str, gateway: InBackground) -> str:
    """The documentation's file for logrotate, with the paths of a gateway."""
    found = re.search(r"(?m)^    /var/log/gateway/gateway\.log \{\n(.*\n)+?    \}\n", page)
    assert found is not None
    text = found[0].replace("/var/log/gateway/gateway.log", str(gateway.log))
    return text.replace("/run/gateway/gateway.pid", str(gateway.pid_file))


def test_logrotate_rotates_it(database: Database, tmp_path: Path, installer: Installer) -> None:
    """As docs/logs.md has it, and with copytruncate and no signal: the log goes on in its file,
    nothing of it is lost, and each line is an object."""
    page = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
    gateway = InBackground(tmp_path, database)
    program = installer.program("logrotate")
    config, state = tmp_path / "logrotate.conf", tmp_path / "logrotate.state"
    own = logrotate_of(page, gateway)
    copying = re.sub(r"create\n(.*\n)+?.*endscript", "copytruncate\n dateformat -copy", own)
    assert "copytruncate" in copying and "kill" not in copying
    try:
        for number, text in enumerate((own, copying), 1):
            config.write_text(text)
            config.chmod(0o600)
            subprocess.run([program, "-f", "-s", state, config], check=True, timeout=PATIENCE)
            wait_until(lambda: _holds(gateway, gateway.log), "it writes to the new file")
            assert '"ready"' not in gateway.log.read_text()
            os.kill(gateway.pid, signal.SIGHUP)
            wait_until(lambda: "reloaded" in gateway.log.read_text(), "it goes on there")
            assert len(list(tmp_path.glob("gateway.log-*"))) == number
    finally:
        gateway.end()
    texts = [path.read_text() for path in tmp_path.glob("gateway.log*")]
    counted = [one["event"] for one in objects("".join(texts).splitlines())]
    assert [counted.count(name) for name in ("ready", "reloaded", "stopped")] == [1, 2, 1]
    assert len(texts) == 3


def _holds(gateway: InBackground, path: Path) -> bool:
    """Whether a gateway has a file open."""
    files = Path(f"/proc/{gateway.pid}/fd").iterdir()
    return path in [file.resolve() for file in files if file.exists()]
