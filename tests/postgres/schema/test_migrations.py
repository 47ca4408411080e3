"""
A database whose schema is newer than the gateway: told in one line by everything that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from gateway.postgres.schema.migrations import migrations
from tests.support import LISTEN, PATIENCE, Database, Gateway, tool

Start = Callable[..., Gateway]

NEWER = 9001

LINE = (
    f"the schema gateway has version {NEWER}, and this gateway ({version('txgateway')}) knows"
    f" {migrations()[-1][0]}: start the gateway that brought it there or a newer one"
)


def overtake(database: Database) -> None:
    """A newer gateway has brought the schema up to date."""
    database.execute("INSERT INTO gateway.migration (number, name) VALUES (%s, 'new')", NEWER)


@pytest.fixture
def used(database: Database, start_gateway: Start) -> Database:
    """A database that a gateway has used before."""
    gateway = start_gateway("--database", database.dsn, *LISTEN)
    assert gateway.terminate() == 0
    return database


@pytest.mark.parametrize(
    "section", ["", "[routes]\n[listeners.a]\nendpoint='tcp:0'\ndialect='command'\n"]
)
def test_a_start_is_refused(used: Database, tmp_path: Path, section: str) -> None:
    """One line with both versions and what to do, status 1, and nothing is written."""
    overtake(used)
    config = tmp_path / "g.toml"
    config.write_text(f"[database]\ndsn = '''{used.dsn}'''\n{section}")
    gateway = Gateway(("--config", str(config), *(() if section else LISTEN)), tmp_path)
    try:
        assert gateway.process.wait(PATIENCE) == 1
    finally:
        gateway.end()
    assert gateway.log.count("gateway: not started: ") == gateway.log.count(LINE) == 1
    assert "Traceback" not in gateway.log and "gateway ready" not in gateway.log
    assert used.column("SELECT count(*) FROM gateway.lane") == [0]
    assert not list(tmp_path.glob("*.pid"))


def test_one_that_runs_goes_on(used: Database, start_gateway: Start) -> None:
    """An older gateway stores on beside a newer one, also where it opens a route again."""
    gateway = start_gateway("--database", used.dsn, *LISTEN)
    peer = gateway.connect()
    peer.send(b"one\n")
    assert peer.read_lines(1) == [b"+OK"]
    overtake(used)
    used.execute("DROP TABLE messages")
    peer.send(b"two\n")
    assert peer.read_lines(1) == [b"+OK"]
    peer.close()
    assert gateway.terminate() == 0 and used.bodies() == ["two"]


def test_commands_are_refused(used: Database, tmp_path: Path) -> None:
    """check, dead-letters and routes say so and do nothing."""
    overtake(used)
    config = tmp_path / "g.toml"
    config.write_text(f"[database]\ndsn = '''{used.dsn}'''\n")
    done = tool("check", str(config))
    assert done.returncode == 1 and f"{config}: database: {LINE}" in done.stderr
    for command in (
        ["dead-letters", "-c", str(config), "list"],
        ["dead-letters", "-c", str(config), "purge", "--all", "--yes"],
        ["routes", "-c", str(config), "show", "messages"],
    ):
        done = tool(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"database: {LINE}") and done.stderr.count("\n") == 1


def test_the_spool_stays_as_it_is(used: Database, tmp_path: Path) -> None:
    """What waits is not moved into a database that is not for this gateway."""
    config = tmp_path / "g.toml"
    away = re.sub(r"host='[^']*'", "host=/nowhere", used.dsn)
    text = "[database]\ndsn = '''{}'''\nacquire_timeout = 0.1\n" + (
        '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
    )
    config.write_text(text.format(away))
    arguments = ("--config", str(config), "--data-dir", str(tmp_path / "data"))
    gateway = Gateway(arguments, tmp_path)
    try:
        assert gateway.connect().ask(b"one\n") == b"+QUE\n"
        assert gateway.terminate() == 0
    finally:
        gateway.end()
    overtake(used)
    config.write_text(text.format(used.dsn))
    spool = ("spool", "--config", str(config), "--data-dir", str(tmp_path / "data"))
    done = tool(*spool, "move-to-dead-letters", "--all", "--reason", "gone")
    assert done.returncode == 1 and done.stderr.startswith(f"database: {LINE}")
    assert used.column("SELECT count(*) FROM gateway.dead_letter") == [0]
    assert "1 messages" in tool(*spool, "list").stdout


def test_who_may_only_look_at_dead_letters(used: Database, tmp_path: Path) -> None:
    """A role that may not read the versions lists them all the same."""
    used.execute(
        "CREATE ROLE reader_only LOGIN; GRANT USAGE ON SCHEMA gateway TO reader_only;"
        "GRANT SELECT ON gateway.dead_letter TO reader_only"
    )
    try:
        dsn = used.dsn.replace("user=gateway", "user=reader_only")
        done = tool("dead-letters", "--database", dsn, "list")
        assert (done.returncode, done.stdout) == (0, "0 dead letters\n"), done.stderr
    finally:
        used.execute("DROP OWNED BY reader_only; DROP ROLE reader_only")
