"""
C{gateway send} as a process, against a gateway on a real database.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import psycopg2
import pytest

from tests.client.model import Model
from tests.client.server import ModelServer
from tests.sending import StartSend, command, endpoint, hold_all, send
from tests.support import LISTEN, PATIENCE, Database, Gateway, lasting_port, wait_until

Start = Callable[..., Gateway]


@pytest.fixture
def gateway(database: Database, start_gateway: Start) -> Gateway:
    """A gateway on a database of its own."""
    return start_gateway("--database", database.dsn, *LISTEN)


def test_files_and_standard_input(gateway: Gateway, database: Database, tmp_path: Path) -> None:
    """Files in turn and - for standard input; a line is what it is in the protocol."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"first\n\ncr\r\nno end")
    two.write_bytes(b"last\n")
    done = send(gateway, str(one), "-", str(two), given=b"piped\n")
    assert (done.returncode, done.stdout) == (0, b"")
    assert database.bodies() == ["first", "", "cr", "no end", "piped", "last"]
    assert done.stderr.decode().startswith("6 stored; ")


def test_a_byte_order_mark_begins_a_file(
    gateway: Gateway, database: Database, tmp_path: Path
) -> None:
    """Of each input it is dropped, whatever the input is made of; within one it is data."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes("\ufeffname,age\n\ufeffpage\n".encode())
    two.write_bytes("\ufeff".encode())
    done = send(gateway, str(one), "-", str(two), given="\ufeffpiped\n".encode())
    assert done.returncode == 0
    assert database.bodies() == ["name,age", "\ufeffpage", "piped"]
    done = send(gateway, "--input", "netstrings", given=b"\xef\xbb\xbf1:a,4:\xef\xbb\xbfb,")
    assert done.returncode == 0
    assert database.bodies()[3:] == ["a", "\ufeffb"]


def test_many_lines(gateway: Gateway, database: Database, tmp_path: Path) -> None:
    """Many blocks of very short and long lines arrive whole and in order."""
    lines = [str(n) * (1 if n % 100 else 999) for n in range(60_000)]
    path = tmp_path / "many"
    path.write_text("\n".join(lines))
    done = send(gateway, "--json", "--window", "700", str(path))
    report = json.loads(done.stdout)
    assert done.stderr == b""
    assert (report["status"], report["sent"], report["stored"]) == (0, 60_000, 60_000)
    assert database.bodies() == lines


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("netstrings", ["--framing", "netstring"]),
        ("octets", ["--framing", "octet-counted"]),
        ("ints", ["--framing", "int32"]),
        ("ints", ["--framing", "int32", "--route", "messages"]),
        ("records", ["--framing", "delimited", "--delimiter", r"\r\n\x1e"]),
        ("commands", ["--dialect", "command"]),
        ("commands", ["--route", "messages"]),
    ],
)
def test_framings_and_dialects(
    database: Database, start_with: Start, listener: str, options: list[str], tmp_path: Path
) -> None:
    """Whatever the listener speaks; with counted frames a message may hold line feeds."""
    gateway = start_with(
        """
        [listeners.octets]
        endpoint = "tcp:0:interface=127.0.0.1"
        framing = "octet-counted"
        route = "messages"
        [listeners.netstrings]
        endpoint = "tcp:0:interface=127.0.0.1"
        framing = "netstring"
        route = "messages"
        [listeners.ints]
        endpoint = "tcp:0:interface=127.0.0.1"
        framing = "int32"
        PLAIN
        [listeners.records]
        endpoint = "tcp:0:interface=127.0.0.1"
        framing = "delimited"
        delimiter = "\\r\\n\\u001e"
        route = "messages"
        [listeners.commands]
        endpoint = "tcp:0:interface=127.0.0.1"
        dialect = "command"
        [routes.messages]
        table = "messages"
        create = true
        """.replace(
            "PLAIN", 'dialect = "command"' if "--route" in options else 'route = "messages"'
        )
    )
    refused = tmp_path / "refused"
    done = send(
        endpoint(gateway, listener),
        *(*options, "--input", "netstrings", "--refused", str(refused)),
        given=b"3:one,7:two\nand,5:three,",
    )
    if listener == "commands":
        assert done.returncode == 1 and b"1 refused (UNSENDABLE 1)" in done.stderr
        assert database.bodies() == ["one", "three"]
        (line,) = refused.read_text().splitlines()
        entry = json.loads(line)
        assert (entry["line"], entry["message"]) == (2, "two\nand")
        assert "holds a line feed" in entry["answer"]
    else:
        assert done.returncode == 0, done.stderr
        assert database.bodies() == ["one", "two\nand", "three"]


def test_input_that_is_no_netstrings(gateway: Gateway, database: Database) -> None:
    """What came before the fault is stored; the fault is named, with status 2."""
    done = send(gateway, "--input", "netstrings", given=b"3:one,3:two,nonsense")
    assert done.returncode == 2
    assert b"standard input: netstring: bad length" in done.stderr
    assert b"behind message 2" in done.stderr
    assert database.bodies() == ["one", "two"]
    done = send(gateway, "--input", "netstrings", given=b"5:three,9:cut")
    assert done.returncode == 2 and b"ends inside a netstring" in done.stderr
    assert database.bodies() == ["one", "two", "three"]


def test_refused_lines(gateway: Gateway, database: Database, tmp_path: Path) -> None:
    """Each is written with file, line, answer and its very bytes, and can be sent again."""
    database.execute("CREATE UNIQUE INDEX once ON messages (body)")
    path, refused = tmp_path / "lines", tmp_path / "refused"
    lines = [b"%d" % n for n in range(5000)]
    lines[17] = b"\xff\x00 no text"
    lines[3000] = b'4 "quoted" \xc3\xa9 \\'
    lines[4000] = lines[3000]
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = send(gateway, "--refused", str(refused), str(path))
    assert done.returncode == 1
    assert b"4,998 stored, 2 refused (CONSTRAINT 1, DATA 1)" in done.stderr
    entries = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [18, 4001]
    assert {entry["file"] for entry in entries} == {str(path)}
    assert [entry["answer"].split(" :")[0] for entry in entries] == [
        "-REJ DATA",
        "-REJ CONSTRAINT sqlstate=23505",
    ]
    assert entries[1]["message"].encode() == lines[3000]
    database.execute("DROP INDEX once")
    done = send(gateway, "--input", "refused", str(refused))
    assert done.returncode == 1, "one of them is no text and never will be"
    assert sorted(database.bodies()) == sorted(line.decode() for line in [*lines[:17], *lines[18:]])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dialect", "plain", "--route", "x"], "--route and --stream need --dialect command"),
        (["--dialect", "plain", "--stream", "x"], "--route and --stream need --dialect command"),
        (["--stream", "with space"], "without spaces"),
        (["--stream", "x" * 129], "1 to 128 bytes"),
        (["--route", ""], "--route: 1 to 128 bytes"),
        (["--route", "a b"], "--route: 1 to 128 bytes"),
        (["-", "-"], "only once"),
        (["--follow"], "--follow needs a FILE"),
        (["--follow", "--stream", "x", "a", "b"], "takes one FILE"),
        (["--state", "x", "a"], "--state is for"),
        (["--again", "a"], "--again is for"),
        (["/nonexistent/file"], "/nonexistent/file: cannot be read: No such file"),
        (["/"], "/: cannot be read: Is a directory"),
        (["--refused", "/nonexistent/file"], "cannot be written: No such file"),
        (["--endpoint", "carrier:pigeon"], "--endpoint carrier:pigeon: "),
        (["--endpoint", "unix:/x", "--tls"], "--endpoint unix:/x: "),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    """Status 2, and one line that says what is wrong."""
    done = send("tcp:127.0.0.1:1", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.decode()


def test_nobody_there(tmp_path: Path) -> None:
    """Status 3, at once or after a while, and why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        done = send(where, "--no-retry", given=b"one\n")
        assert done.returncode == 3
        assert f"cannot connect to {where}: Connection was refused" in done.stderr.decode()
        done = send(where, "--give-up-after", "1", given=b"one\n")
        assert done.returncode == 3
        assert b"trying again" in done.stderr and b"; for 1 s" in done.stderr


def test_a_connection_that_is_lost_is_not_all_kept(tmp_path: Path) -> None:
    """With --no-retry what was sent and not answered is not known: said so, status 3."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hear_and_go() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)

        thread = threading.Thread(target=hear_and_go)
        thread.start()
        where = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        bad = tmp_path / "bad.jsonl"
        done = send(where, "--no-retry", "--refused", str(bad), given=b"one\ntwo\n")
        thread.join()
    assert done.returncode == 3
    assert b": the connection was lost (" in done.stderr
    assert b"0 stored, 2 without an answer: stored or not" in done.stderr
    assert not bad.exists() or not bad.read_bytes()


def test_no_answer_in_time(gateway: Gateway, database: Database) -> None:
    """What was sent and not answered is said to be unknown; status 3."""
    locker = psycopg2.connect(database.dsn)
    locker.cursor().execute("LOCK TABLE messages")
    done = send(gateway, "--give-up-after", "2", "--quiet", given=b"one\ntwo\n")
    locker.close()
    assert done.returncode == 3
    assert b"nothing was answered for 2 s" in done.stderr
    assert b"2 without an answer: stored or not" in done.stderr


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """A model of a gateway, which can put a stream's HELLO off."""
    server = ModelServer(Model())
    yield server
    server.stop()


@pytest.mark.long
def test_a_stream_that_is_put_off(start_send: StartSend, model: ModelServer) -> None:
    """A run says seen= on each new connection; a person is told why nothing moves."""
    where = f"tcp:127.0.0.1:{model.port}"
    running = start_send(where, "--stream", "s", "--give-up-after", "6.5")
    running.write(b"one\ntwo\n")
    wait_until(lambda: len(model.model.table) == 2, "two messages")
    model.cut()
    wait_until(lambda: len(model.model.hellos) == 2, "it is there again")
    model.model.put_off = lambda: b"-TRY GAP retry=1 :the stream is at #1"
    model.cut()
    wait_until(lambda: len(model.model.hellos) > 2, "it is put off")
    running.write(b"three\n")
    running.heard("for 5 s (-TRY GAP retry=1 :the stream is at #1); still trying")
    status, said = running.finish()
    assert status == 3 and model.model.table == [b"one", b"two"]
    assert "nothing was answered for 6.5 s (-TRY GAP retry=1 :the stream is at #1)" in said
    assert model.model.hellos[0] == b"s"
    assert set(model.model.hellos[1:]) == {b"s seen=2 epoch=e-1"}


def test_a_gateway_that_comes_back(
    start_send: StartSend, database: Database, start_gateway: Start
) -> None:
    """The rest is sent to the next one; nothing is missed."""
    listen = ("--database", database.dsn, "--line", f"tcp:{lasting_port()}:interface=127.0.0.1")
    gateway = start_gateway(*listen)
    running = start_send(gateway)
    running.write(b"one\n")
    hold_all(database, "one")
    gateway.process.kill()
    gateway.process.wait()
    running.write(b"two\n")
    start_gateway(*listen)
    hold_all(database, "one", "two")
    assert running.finish()[0] == 0


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    start_send: StartSend, gateway: Gateway, database: Database, how: signal.Signals, status: int
) -> None:
    """A summary at the end, and the status of the signal."""
    running = start_send(gateway)
    running.write(b"one\ntwo\nunfinished")
    hold_all(database, "one", "two")
    got, said = running.end(how)
    assert got == status and said.startswith("2 stored; ")


def test_interrupted_while_connecting(start_send: StartSend) -> None:
    """Somebody who waits for a gateway can stop waiting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        running = start_send(f"tcp:127.0.0.1:{taken.getsockname()[1]}")
        running.heard("trying again")
        assert running.end()[0] == 130


def test_following(
    start_send: StartSend, gateway: Gateway, database: Database, tmp_path: Path
) -> None:
    """Two files that grow and rotate, one of them not there yet, arrive as they are written."""
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    one.write_text("a\nb\nunfin")
    running = start_send(gateway, "--follow", str(one), str(two))
    hold_all(database, "a", "b")
    two.write_text("c\n")
    hold_all(database, "a", "b", "c")
    with one.open("a") as file:
        file.write("ished\n")
        file.flush()
        hold_all(database, "a", "b", "c", "unfinished")
        one.rename(tmp_path / "one.log.1")
        file.write("late\n")
    one.write_text("d\n")
    hold_all(database, "a", "b", "c", "unfinished", "late", "d")
    os.truncate(two, 0)
    wait_until(lambda: two.stat().st_size == 0, "it is truncated")
    with two.open("a") as file:
        file.write("other\n")
    hold_all(database, "a", "b", "c", "unfinished", "late", "d", "other")
    status, said = running.end()
    assert status == 130
    assert f"{two}: is not there (yet); waiting for it" in said
    assert f"{two}: was truncated" in said
    assert "7 stored" in said


class Terminal:
    """It, on a terminal."""

    def __init__(self, *words: str) -> None:
        self.spawned = pexpect.spawn(
            words[0],
            list(words[1:]),
            timeout=PATIENCE,
            dimensions=(24, 160),
            env={**os.environ, "TERM": "xterm"},
        )

    def until(self, *patterns: str) -> None:
        for pattern in patterns:
            self.spawned.expect(pattern)

    def status(self) -> Any:
        self.spawned.expect(pexpect.EOF)
        self.spawned.wait()
        return self.spawned.exitstatus


def test_a_bar_on_a_terminal(gateway: Gateway, database: Database, tmp_path: Path) -> None:
    """It shows the file, the part that is done, rate and refusals; the summary comes below."""
    database.execute("ALTER TABLE messages ADD CHECK (body <> 'bad')")
    path = tmp_path / "lines.txt"
    path.write_text("good\nbad\n" * 20_000)
    terminal = Terminal(*command(gateway, str(path)))
    terminal.until(
        "lines.txt", "100%", "40,000 answered", r"[\d,]+/s", "20,000 refused", "0 in flight"
    )
    terminal.until(r"20,000 stored, 20,000 refused \(CONSTRAINT 20,000\); ")
    assert terminal.status() == 1


def test_no_bar_where_nobody_sees_it(gateway: Gateway, tmp_path: Path) -> None:
    """In a pipe there is the summary alone, with --quiet nothing; a terminal's Ctrl-C ends it."""
    assert send(gateway, given=b"one\n").stderr.count(b"\n") == 1
    assert send(gateway, "--quiet", given=b"one\n").stderr == b""
    terminal = Terminal(*command(gateway))
    terminal.until("0 answered")
    terminal.spawned.sendline("typed")
    terminal.until("1 answered")
    terminal.spawned.sendintr()
    terminal.until("1 stored")
    assert terminal.status() == 130


def test_a_pipe_that_is_slow(
    start_send: StartSend, gateway: Gateway, database: Database, tmp_path: Path
) -> None:
    """Lines are sent as they come, from a named pipe too; nothing waits for a block to fill."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    running = start_send(gateway, str(fifo))
    with fifo.open("wb", buffering=0) as pipe:
        pipe.write(b"one\ntw")
        hold_all(database, "one")
        pipe.write(b"o\n")
        hold_all(database, "one", "two")
    assert running.finish()[0] == 0
