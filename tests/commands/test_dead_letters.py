"""
C{gateway dead-letters}, as a process against a real database.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psycopg2
import pytest

from tests import forking
from tests.faults.look import Start
from tests.forking import BIN
from tests.support import PATIENCE, Database, Gateway, tool, wait_until
from tests.terminal import Terminal

_CONFIG = """
[database]
dsn = "{dsn}"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.numbers]
endpoint = "tcp:0:interface=127.0.0.1"
route = "numbers"
[routes.messages]
table = "messages"
create = true
dead_letter = true
[routes.numbers]
table = "numbers"
columns = {{ number = "@frame" }}
dead_letter = true
"""

_NUMBERS = """
    CREATE TABLE numbers (number text);
    CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.number !~ '^[0-9]+$' THEN
            RAISE EXCEPTION 'no number: %', NEW.number;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER judge BEFORE INSERT ON numbers FOR EACH ROW EXECUTE FUNCTION judge();
"""

EVIL = b"\x1b]0;owned\x07 \xe2\x80\xae\x9b31m bad"
"""Sets a terminal's title, turns its writing round; and is not UTF-8."""


class Letters:
    """
    A gateway, its database, and the command.
    """

    def __init__(self, database: Database, config: Path) -> None:
        self.database = database
        self.config = config

    def command(self, *arguments: str) -> list[str]:
        return [str(BIN / "gateway"), "dead-letters", "--config", str(self.config), *arguments]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        status, out, err = self.run_raw(*arguments)
        assert "Traceback" not in err, err
        return status, out.decode(), err

    def run_raw(self, *arguments: str) -> tuple[int, bytes, str]:
        done = forking.run(
            self.command(*arguments), capture_output=True, timeout=PATIENCE, check=False
        )
        return done.returncode, done.stdout, done.stderr.decode()

    @property
    def frames(self) -> list[bytes]:
        """What is kept."""
        return [
            bytes(f)
            for f in self.database.column("SELECT frame FROM gateway.dead_letter ORDER BY id")
        ]


@pytest.fixture
def gateway(database: Database, tmp_path: Path, start_gateway: Start) -> Gateway:
    """A gateway whose routes keep what is refused; nothing that says bad is taken."""
    database.execute(_NUMBERS)
    config = tmp_path / "gateway.toml"
    config.write_text(_CONFIG.format(dsn=database.dsn.replace("'", "")))
    gateway = start_gateway("--config", str(config))
    database.execute("ALTER TABLE messages ADD CONSTRAINT good CHECK (body NOT LIKE '%bad%')")
    return gateway


@pytest.fixture
def letters(gateway: Gateway, database: Database, tmp_path: Path) -> Letters:
    """Two letters of messages: one that broke a rule, one that is no text."""
    peer = gateway.connect()
    for frame, answer in [
        (b"one", b"+OK"),
        (b"bad two", b"-REJ CONSTRAINT sqlstate=23514 :new row for"),
        (EVIL, b"-REJ DATA :not UTF-8: invalid start byte at byte 14"),
        (b"four", b"+OK"),
    ]:
        peer.send(frame + b"\n")
        assert peer.read_lines(1)[0].startswith(answer)
    peer.close()
    assert database.bodies() == ["one", "four"]
    return Letters(database, tmp_path / "gateway.toml")


def test_list_and_show(letters: Letters) -> None:
    """A refused message is kept as it came, listed in one line, and shown with all about it."""
    status, out, err = letters.run("list")
    assert (status, err) == (0, "")
    first, second, total = out.splitlines()
    assert total == "2 dead letters"
    assert re.fullmatch(
        r" +1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  messages  127\.0\.0\.1:\d+  23514  new row for"
        r' relation "messages" violates check constraint "good"  bad two',
        first,
    )
    assert "not UTF-8: invalid start byte" in second
    assert letters.run("list", "--limit", "1")[1].splitlines() == [
        first,
        "2 dead letters, 1 shown",
    ]
    assert letters.run("list", "--route", "numbers")[1] == "0 dead letters\n"
    status, out, err = letters.run("show", "1")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines()[:-1] if " " in line.strip())
    assert (status, err, out.splitlines()[-1]) == (0, "", "bad two")
    assert (shown["route"], shown["listener"], shown["sqlstate"], shown["attempts"]) == (
        "messages",
        "lines",
        "23514",
        "1",
    )
    assert shown["message"] == "7 bytes"
    assert letters.run_raw("show", "2", "--raw") == (0, EVIL, "")


def test_a_terminal_is_not_told_what_to_do(letters: Letters, gateway: Gateway) -> None:
    """Neither a message nor an error that repeats it reaches a terminal with control characters."""
    answer = gateway.connect("numbers").ask(b"7\n\x1b[31m\xc2\x9b8\n")
    assert answer.startswith(b"+OK\n-REJ CONSTRAINT sqlstate=P0001 :no number: ")
    for arguments in (["list"], ["show", "2"], ["show", "3"], ["replay", "3"]):
        # On a terminal, where click leaves escape sequences in.
        command = letters.command(*arguments)
        text = _on_a_terminal(command)
        assert "dead letter" in text or "message" in text or "refused again" in text
        assert all(c.isprintable() for line in text.split("\r\n") for c in line), text
    assert "\\x1b[31m" in letters.run("show", "3")[1]


def _on_a_terminal(command: list[str]) -> str:
    return Terminal(command).finish()[1]


def test_replay(letters: Letters) -> None:
    """What is still refused stays, with the reason; what is taken now is stored and removed."""
    status, out, err = letters.run("replay", "--all")
    assert (status, out) == (1, "0 stored, 2 refused again\n")
    assert err.splitlines() == [
        '1: new row for relation "messages" violates check constraint "good"',
        "2: not UTF-8: invalid start byte at byte 14",
    ]
    attempts = "SELECT attempts FROM gateway.dead_letter ORDER BY id"
    assert letters.database.column(attempts) == [2, 2]
    letters.database.execute("ALTER TABLE messages DROP CONSTRAINT good")
    status, out, err = letters.run("replay", "--route", "messages")
    assert (status, out) == (1, "1 stored, 1 refused again\n")
    assert letters.frames == [EVIL]
    assert letters.database.bodies() == ["one", "four", "bad two"]
    assert letters.database.column(attempts) == [3]
    # As it came: from whom, and no lane is left behind.
    assert letters.database.column("SELECT count(DISTINCT peer) FROM messages") == [1]
    assert letters.run("replay", "1") == (1, "", "there is no dead letter 1\n")


def test_two_replays(letters: Letters) -> None:
    """Two processes that replay the same letter store it once."""
    database = letters.database
    database.execute("ALTER TABLE messages DROP CONSTRAINT good")
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("SELECT 1 FROM gateway.dead_letter WHERE id = 1 FOR UPDATE")
    both = [
        subprocess.Popen(
            letters.command("replay", "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        wait_until(
            lambda: (
                database.column(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database()"
                )
                == [2]
            ),
            "both want it",
        )
        locker.close()
        said = sorted(process.communicate(timeout=PATIENCE) for process in both)
    finally:
        locker.close()
        for process in both:
            process.kill()
            process.wait()
    assert said == [
        ("0 stored, 0 refused again\n", "1: another replay has taken it\n"),
        ("1 stored, 0 refused again\n", ""),
    ]
    assert [process.returncode for process in both] == [0, 0]
    assert database.bodies() == ["one", "four", "bad two"]
    assert letters.frames == [EVIL]


def test_replay_goes_on(letters: Letters, gateway: Gateway) -> None:
    """A letter whose table or route is gone says so and stays; the others are stored."""
    database = letters.database
    gateway.connect("numbers").ask(b"x\n")
    database.execute("DROP TABLE numbers")
    database.execute("UPDATE gateway.dead_letter SET route = 'old' WHERE id = 2")
    database.execute("ALTER TABLE messages DROP CONSTRAINT good")
    database.execute("UPDATE gateway.dead_letter SET id = DEFAULT WHERE id = 1")
    status, out, err = letters.run("replay", "--all")
    assert (status, out) == (1, "1 stored, 2 refused again\n")
    assert err.splitlines() == [
        "2: there is no route 'old' in the configuration",
        '3: table "numbers" does not exist',
    ]
    assert database.bodies() == ["one", "four", "bad two"]
    assert len(letters.frames) == 2


def test_purge(letters: Letters) -> None:
    """It asks, removes what was chosen, and only that."""
    child = Terminal(letters.command("purge", "--all"))
    child.expect_exact("Remove 2 dead letters for good?")
    child.sendline("n")
    assert child.finish()[0] == 1
    assert len(letters.frames) == 2
    assert letters.run("purge", "--yes", "--days", "1") == (0, "0 removed\n", "")
    assert letters.run("purge", "--yes", "1") == (0, "1 removed\n", "")
    assert letters.frames == [EVIL]
    assert letters.run("purge", "--yes", "--route", "messages", "--days", "0") == (
        0,
        "1 removed\n",
        "",
    )
    assert letters.run("list") == (0, "0 dead letters\n", "")


def test_what_people_get_wrong(letters: Letters, tmp_path: Path) -> None:
    """One clear line for each: what is not there, not said, not known, not running."""
    assert letters.run("show", "99") == (1, "", "there is no dead letter 99\n")
    for verb in ("replay", "purge"):
        status, out, err = letters.run(verb)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1] == "Error: say which ones: their IDs, --route or --all"
    for arguments in (["list"], ["replay"], ["purge", "--yes"]):
        status, out, err = letters.run(*arguments, "--route", "mesages")
        assert (status, out) == (1, "")
        assert err == (
            "there is no route 'mesages' in the configuration, and no dead letter of one\n"
        )
    status, out, err = letters.run("show", "one")
    assert status == 2 and "'one' is not a valid integer" in err
    at = ("dead-letters", "--database")
    wrong: list[tuple[tuple[str, ...], str]] = [
        ((*at, "host=/nonexistent", "list"), "database: .*No such file"),
        ((*at, "host=", "list", "--limit", "0"), "Invalid value for '--limit'"),
        ((*at, "nonsense", "list"), "database.dsn: "),
        (
            ("dead-letters", "--data-dir", str(tmp_path / "none"), "list"),
            "the embedded server in .*/none is not running; start the gateway, or name",
        ),
        (("dead-letters", "--config", str(tmp_path / "no.toml"), "list"), "cannot be read"),
    ]
    for words, told in wrong:
        done = forking.run(
            [str(BIN / "gateway"), *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=tmp_path,
        )
        usage = "--limit" in words
        assert (done.returncode, done.stdout) == (2 if usage else 1, ""), done.stderr
        assert re.search(told, done.stderr) and "Traceback" not in done.stderr
        assert usage or len(done.stderr.splitlines()) == 1, done.stderr


def test_no_schema_yet(database: Database, tmp_path: Path) -> None:
    """A database that no gateway has seen is told in one line."""
    config = tmp_path / "gateway.toml"
    config.write_text(_CONFIG.format(dsn=database.dsn.replace("'", "")))
    status, out, err = Letters(database, config).run("list")
    assert (status, out) == (1, "")
    assert err == 'database: relation "gateway.dead_letter" does not exist\n'


@pytest.mark.parametrize(
    "words",
    [
        ("show", str(2**63)),
        ("show", "0"),
        ("replay", str(10**30)),
        ("purge", "--days", "1e300"),
        ("list", "--limit", str(10**30)),
    ],
)
def test_numbers_that_the_database_cannot_have(tmp_path: Path, words: tuple[str, ...]) -> None:
    """They are wrong usage, told with their limits before the database is asked."""
    (tmp_path / "g.toml").touch()
    done = tool("dead-letters", "--config", str(tmp_path / "g.toml"), *words, cwd=tmp_path)
    assert done.returncode == 2 and "is not in the range" in done.stderr
