"""
C{gateway spool}, as a process against a real spool and a real database.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from gateway.model.batch import Batch, Chunk, Origin
from gateway.model.outcome import Code, refused
from gateway.model.stream import Stream
from gateway.spool.file import SpoolFile
from gateway.spool.inventory import id_of, place_of
from gateway.spool.record import PARTS, pack, rows_of
from tests import forking
from tests.forking import BIN
from tests.support import PATIENCE, Database, Gateway

ARMED = (sys.executable, "-m", "tests.faults.armed")

EPOCH = str(uuid4())

EVIL = b"\x1b]0;owned\x07 \xe2\x80\xae\x9b31m bad"
"""Sets a terminal's title, turns its writing round; and is not UTF-8."""

REASON = "moved by its operator"

HOLE = f"stream till waits in epoch {EPOCH} for what is before #9, which is not in this spool"

_CONFIG = """
[database]
dsn = "{dsn}"
acquire_timeout = 2.0
[spool]
path = "kept/spool.db"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[routes.messages]
table = "messages"
create = true
[routes.other]
table = "other"
create = true
"""

AWAY = "host=/nonexistent"


class Spooling:
    """
    A spool whose gateway is stopped, its configuration, and the command.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.first = self.path = folder / "kept" / "spool.db"
        self.config = folder / "gateway.toml"
        self.configure(database.dsn)

    def of_worker(self, number: int) -> Path:
        """Have what follows put into the spool of a worker; return its path."""
        self.path = self.first.with_name(f"spool-{number}.db" if number > 1 else "spool.db")
        return self.path

    def configure(self, dsn: str) -> None:
        self.config.write_text(_CONFIG.format(dsn=dsn.replace("'", "")))

    def put(
        self,
        *frames: bytes,
        route: str = "messages",
        lane: str | None = None,
        stream: str | None = None,
        first: int = 0,
        aside: bool = False,
    ) -> None:
        """Add a record, as the gateway does."""
        numbered = None if stream is None else Stream(stream, EPOCH, loose=True)
        chunk = Chunk(
            *(route, [*frames], Origin("1.2.3.4:5", "lines"), 1.5, lambda chunk, runs: None),
            *(None, numbered, first),
        )
        self.append(Batch.of([chunk]), lane, stream if aside else None)

    def append(self, batch: Batch, lane: str | None = None, stream: str | None = None) -> None:
        file = SpoolFile(self.path, 2**26)
        file.open()
        with closing(file):
            file.begin()
            fence = (lane or str(uuid4()), None if lane else 1)
            file.append(batch.route, fence, rows_of(batch), pack(batch), stream)
            file.commit()

    def command(self, *arguments: str) -> list[str]:
        return [str(BIN / "gateway"), "spool", "--config", str(self.config), *arguments]

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

    def move(self, *arguments: str) -> str:
        """What is said where it went well."""
        status, out, err = self.run("move-to-dead-letters", *arguments)
        assert (status, err) == (0, ""), err
        return out.rstrip("\n")

    def listed(self, *arguments: str) -> list[dict[str, object]]:
        status, out, err = self.run("list", "--json", *arguments)
        assert (status, err) == (0, ""), err
        return [json.loads(line) for line in out.splitlines()]

    @property
    def waiting(self) -> list[str]:
        """The messages that wait."""
        status, out, err = self.run("show", "--json", "--limit", "100000")
        assert status == 0 or "nothing waits" in err
        return [json.loads(line)["message"] for line in out.splitlines()]

    @property
    def letters(self) -> list[str]:
        """The messages that are dead letters."""
        query = "SELECT convert_from(frame, 'UTF8') FROM gateway.dead_letter ORDER BY id"
        return [str(frame) for frame in self.database.column(query)]

    def store(self, start: Callable[..., Gateway]) -> Gateway:
        """Have a gateway store what it can."""
        return start("--config", str(self.config))


@pytest.fixture
def spool(database: Database, tmp_path: Path) -> Spooling:
    """An empty spool."""
    return Spooling(database, tmp_path)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files."""
    found = {}
    for path in folder.iterdir():
        state = path.stat()
        found[path.name] = (state.st_size, state.st_mtime_ns)
    return found


def test_ids() -> None:
    """An ID is short, and leads back to its place; what is none is refused."""
    for place, name in [(1 << PARTS, "1"), ((12 << PARTS) + 3, "12.3")]:
        assert (id_of(place), place_of(name)) == (name, place)
    for name in ("", "x", "1.", ".1", "1.2.3", "-1", "\u0661", "1" * 40):
        with pytest.raises(ValueError, match="no ID"):
            place_of(name)


def test_list(spool: Spooling) -> None:
    """What waits is summed up by route, and by stream where it is put aside, with the reason."""
    spool.put(b"one", b"two")
    spool.put(b"three", route="other", stream="till", first=7)
    spool.put(b"four")
    spool.put(b"five", b"six", stream="till", first=9, aside=True)
    before = files(spool.path.parent)
    status, out, err = spool.run("list")
    assert (status, err) == (0, "")
    head, *lines, total = out.splitlines()
    assert " ".join(head.split()) == (
        "IDs route messages records bytes oldest numbers why it waits"
    )
    assert total == f"6 messages wait in {spool.path}"
    assert [re.sub(r" +", " ", re.sub(r"1970\S+ \S+", "WHEN", line)) for line in lines] == [
        "1-3 messages 3 2 10 WHEN - next to be stored",
        "2 other 1 1 5 WHEN till #7 behind others",
        f"4 messages 2 1 7 WHEN till #9-#10 {HOLE}",
    ]
    waits = {
        "waits_for_stream": "till",
        "streams": [{"stream": "till", "epoch": EPOCH, "numbers": [[9, 10]]}],
    }
    assert spool.listed("--records", "--route", "messages") == [
        entry("1", 2, 6, "next to be stored"),
        entry("3", 1, 4, "behind others"),
        {**entry("4", 2, 7, HOLE), **waits},
    ]
    (till,) = spool.listed("--stream", "till", "--route", "other")
    assert till["streams"] == [{"stream": "till", "epoch": EPOCH, "numbers": [[7, 7]]}]
    # Nothing was made, and nothing changed.
    assert files(spool.path.parent) == before


def entry(name: str, count: int, size: int, reason: str) -> dict[str, object]:
    """A record of C{list --json --records}."""
    return {
        "first_id": name,
        "last_id": name,
        "route": "messages",
        "waits_for_stream": None,
        "messages": count,
        "records": 1,
        "bytes": size,
        "oldest": "1970-01-01T00:00:01.500000+00:00",
        "streams": [],
        "dead_letters": 0,
        "damaged": 0,
        "reason": reason,
    }


def test_spools_of_workers(spool: Spooling) -> None:
    """Those of all workers are listed, shown and moved, each with its path; an ID needs it."""
    spool.put(b"one", b"two")
    second, tenth = spool.of_worker(2), spool.of_worker(10)
    for path in (tenth, second):
        spool.path = path
        spool.put(path.stem.encode(), route="other")
    (spool.first.parent / "spool-x.db").write_bytes(b"")
    status, out, err = spool.run("list")
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if " wait in " in line] == [
        f"2 messages wait in {spool.first}",
        f"1 messages wait in {second}",
        f"1 messages wait in {tenth}",
    ]
    assert [entry["spool"] for entry in spool.listed()] == [*map(str, (spool.first, second, tenth))]
    assert spool.waiting == ["one", "two", "spool-2", "spool-10"]
    status, out, err = spool.run("show", "--skip", "1", "--limit", "2", "--raw")
    assert (status, out, err) == (0, "twospool-2", "")
    status, out, err = spool.run("show", "1")
    assert status == 2 and f"--spool {spool.first} or --spool {second}" in err
    of_second = json.loads(spool.run("show", "--route", "other", "--limit", "1", "--json")[1])
    assert of_second.pop("spool") == str(second)
    alone = forking.run(
        [str(BIN / "gateway"), "spool", "--spool", str(second), "show", "1", "--json"],
        capture_output=True,
        check=True,
    )
    assert json.loads(alone.stdout) == of_second
    assert spool.move("--route", "other").splitlines() == [
        f"{second}: 1 messages are dead letters now",
        f"{tenth}: 1 messages are dead letters now",
    ]
    assert spool.letters == ["spool-2", "spool-10"] and spool.waiting == ["one", "two"]
    status, out, err = spool.run("move-to-dead-letters", "--route", "other")
    assert status == 1 and f"nothing of route 'other' waits in {spool.first} and {second}" in err
    spool.first.unlink()
    assert "spool-2.db" in spool.run("list")[1] and "spool.db" not in spool.run("list")[1]


def test_list_of_nothing(spool: Spooling) -> None:
    """An empty spool says so; a route that nobody knows is a mistake."""
    spool.put(b"one", route="old")
    assert spool.run("list", "--route", "other") == (
        *(0, f"0 messages wait in {spool.path}\n"),
        "",
    )
    assert spool.run("list", "--route", "old")[0] == 0
    status, out, err = spool.run("list", "--route", "othr")
    assert (status, out) == (1, "")
    assert err == (
        "Error: there is no route 'othr' in the configuration, and nothing of one waits\n"
    )


def test_show(spool: Spooling) -> None:
    """Messages are shown with all about them, safely; raw is byte for byte."""
    spool.put(EVIL, b"two")
    spool.put(b"three", route="other", stream="till", first=7)
    status, out, err = spool.run("show", "1", "--limit", "1")
    assert (status, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert "\\x1b]0;owned\\x07 \\u202e\\x9b31m bad" in out
    assert f"message     {len(EVIL)} bytes" in out
    assert spool.run_raw("show", "1", "--limit", "1", "--raw") == (0, EVIL, "")
    assert spool.run_raw("show", "--route", "messages", "--skip", "1", "--raw") == (0, b"two", "")
    status, out, err = spool.run("show", "--stream", "till", "--json")
    assert json.loads(out) == {
        "id": "2",
        "route": "other",
        "peer": "1.2.3.4:5",
        "listener": "lines",
        "identity": None,
        "received_at": "1970-01-01T00:00:01.500000+00:00",
        "stream": "till",
        "epoch": EPOCH,
        "number": 7,
        "refused": None,
        "message": "three",
    }
    assert json.loads(spool.run("show", "1", "--json", "--limit", "1")[1])["base64"]


def test_what_people_get_wrong(spool: Spooling, tmp_path: Path) -> None:
    """One clear line for each: what is not there, not said, not known."""
    missing = f"there is no spool {spool.path}; --config, --data-dir or --spool says where it is"
    for verb in (["list"], ["show"], ["move-to-dead-letters", "--all"]):
        assert spool.run(*verb) == (1, "", f"Error: {missing}\n")
    spool.put(b"one")
    move = "move-to-dead-letters"
    for words, status, told in [
        (["show", "x"], 2, "'x' is no ID of a record, such as 12 or 12.3"),
        (["show", "9"], 1, f"there is no such record 9 in {spool.path}"),
        (["show", "--raw", "--json"], 2, "--raw and --json are two ways to show them"),
        ([move], 2, "say which ones: their IDs, --route, --stream or --all"),
        ([move, "1", "1.5"], 1, f"there is no such record 1.5 in {spool.path}"),
        ([move, "--stream", "s"], 1, f"nothing of stream 's' waits in {spool.path}"),
        ([move, "--route", "other"], 1, f"nothing of route 'other' waits in {spool.path}"),
        ([move, "--all", "--reason", " "], 2, "say why, in some words"),
    ]:
        got, out, err = spool.run(*words)
        assert (got, out) == (status, ""), err
        assert err.splitlines()[-1].endswith(told), err
    other = tmp_path / "other.db"
    other.write_bytes(b"something else entirely" * 100)
    status, out, err = spool.run("--spool", str(other), "list")
    assert (status, out) == (1, "")
    assert err == f"Error: the spool {other} cannot be read: file is not a database\n"
    spool.configure(AWAY)
    status, out, err = spool.run(move, "--all")
    assert (status, out) == (1, "") and len(err.splitlines()) == 1
    assert err.startswith("database: ")
    assert err.endswith("what is not moved yet is still in the spool\n")
    assert spool.waiting == ["one"]


def test_a_running_gateway(
    spool: Spooling, start_gateway: Callable[..., Gateway], database: Database
) -> None:
    """Beside it the spool is read, and nothing of its files changes; it has to end for a move."""
    spool.configure(AWAY)
    gateway = start_gateway("--config", str(spool.config), until="not ready yet")
    peer = gateway.connect()
    peer.send(b"one\n")
    assert peer.read_lines(1) == [b"+QUE"]
    before = files(spool.path.parent)
    assert spool.run("list")[1].splitlines()[-1] == f"1 messages wait in {spool.path}"
    assert spool.waiting == ["one"]
    assert files(spool.path.parent) == before
    status, out, err = spool.run("move-to-dead-letters", "--all")
    assert (status, out) == (1, "")
    assert err == (
        f"Error: the spool {spool.path} is in use: the gateway (process {gateway.process.pid})"
        " must be stopped first\n"
    )
    # It goes on, and what it holds after it was killed is read without it.
    peer.send(b"two\n")
    assert peer.read_lines(1) == [b"+QUE"]
    gateway.process.kill()
    gateway.process.wait()
    peer.close()
    before = files(spool.path.parent)
    assert spool.waiting == ["one", "two"]
    assert files(spool.path.parent) == before
    spool.configure(database.dsn)
    assert spool.move("--all") == "2 messages are dead letters now"
    assert spool.letters == ["one", "two"]


def test_move(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """What is chosen becomes dead letters with the reason, the rest is stored, in order."""
    lane = str(uuid4())
    for number in range(5):
        spool.put(b"%d" % number, lane=lane)
    spool.put(b"x", route="other", lane=str(uuid4()))
    assert spool.move("3", "--reason", "it's broken") == "1 messages are dead letters now"
    assert spool.waiting == ["0", "1", "3", "4", "x"]
    assert spool.move("--route", "other") == "1 messages are dead letters now"
    assert spool.database.execute(
        "SELECT route, peer, listener, extract(epoch FROM received_at)::float8, sqlstate, error,"
        " convert_from(frame, 'UTF8') FROM gateway.dead_letter ORDER BY id"
    ) == [
        ("messages", "1.2.3.4:5", "lines", 1.5, None, "it's broken", "2"),
        ("other", "1.2.3.4:5", "lines", 1.5, None, REASON, "x"),
    ]
    gateway = spool.store(start_gateway)
    gateway.wait_log("spool: empty")
    assert spool.database.bodies() == ["0", "1", "3", "4"]


def test_a_late_statement_stores_nothing(spool: Spooling) -> None:
    """The record's own fence is taken: whatever was tried with it before never happens."""
    lane = str(uuid4())
    spool.put(b"one", lane=lane)
    spool.put(b"two", lane=lane)
    assert spool.move("2") == "1 messages are dead letters now"
    for number in (1, 2):
        with pytest.raises(Exception, match="is at batch 2"):
            spool.database.execute(
                "SELECT gateway.advance(%s::uuid, %s::bigint, %s::bigint)", lane, number, number
            )


def test_what_was_stored_before(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """A record whose fence shows that it was stored is only removed; what was refused in it is
    kept."""
    assert spool.store(start_gateway).terminate() == 0
    spool.put(b"stored", b"refused", lane=str(uuid4()))
    file = SpoolFile(spool.path, 2**26)
    file.open()
    with closing(file):
        ((record,), _) = file.at(1 << PARTS)
    fates = json.dumps({"refused": [[2, "23514", None, "it breaks a rule"]]})
    spool.database.execute(
        "INSERT INTO gateway.lane (id, number, fates) VALUES (%s, %s, %s)",
        *(record.lane, record.number, fates),
    )
    assert spool.move("--all") == (
        "1 messages are dead letters now, 1 were stored or moved before, and are removed"
    )
    assert spool.waiting == []
    assert spool.database.execute(
        "SELECT sqlstate, error, convert_from(frame, 'UTF8') FROM gateway.dead_letter"
    ) == [("23514", "it breaks a rule", "refused")]


def test_a_stream_goes_on(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """Dead letters use the numbers of their stream up, so that what is behind them is stored."""
    spool.put(b"1", b"2", stream="till", first=1)
    spool.put(b"plain")
    spool.put(b"3", stream="till", first=3)
    assert spool.move("1") == "2 messages are dead letters now"
    assert spool.database.column("SELECT error FROM gateway.dead_letter ORDER BY id") == [
        f"{REASON} (#1 of stream till)",
        f"{REASON} (#2 of stream till)",
    ]
    spool.store(start_gateway).wait_log("spool: empty")
    assert sorted(spool.database.bodies()) == ["3", "plain"]
    assert spool.database.column("SELECT mark FROM gateway.stream") == [3]


def test_behind_what_stays(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """Of a stream, what stands behind messages that stay becomes dead letters in its turn."""
    spool.put(b"1", b"2", stream="till", first=1)
    spool.put(b"3", b"4", stream="till", first=3, route="other")
    spool.put(b"5", stream="till", first=5)
    assert spool.move("--route", "other", "--reason", "no table") == (
        "0 messages are dead letters now,"
        " 2 will be when what is before them in their stream is stored"
    )
    (other,) = spool.listed("--route", "other")
    assert (other["messages"], other["dead_letters"]) == (2, 2)
    assert other["reason"] == "becomes a dead letter when it is its turn"
    spool.store(start_gateway).wait_log("spool: empty")
    assert spool.database.bodies() == ["1", "2", "5"]
    assert spool.letters == ["3", "4"]
    assert spool.database.column("SELECT mark FROM gateway.stream") == [5]


def test_one_stream_of_several(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """Of a record with messages of others only those of the stream are moved."""
    origin = Origin("1.2.3.4:5", "lines")
    chunks = [
        Chunk("messages", [frame], origin, 1.5, lambda chunk, runs: None, None, stream, first)
        for frame, stream, first in [
            (b"plain", None, 0),
            (b"a1", Stream("a", EPOCH, loose=True), 1),
            (b"b1", Stream("b", EPOCH, loose=True), 1),
        ]
    ]
    spool.append(Batch.of(chunks))
    assert spool.move("--stream", "a") == "1 messages are dead letters now"
    assert spool.letters == ["a1"]
    assert spool.waiting == ["plain", "b1"]
    spool.store(start_gateway).wait_log("spool: empty")
    assert sorted(spool.database.bodies()) == ["b1", "plain"]


def test_behind_a_hole(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """What waits for a message that is gone becomes a dead letter, and its stream stays."""
    assert spool.store(start_gateway).terminate() == 0
    spool.database.execute(
        "INSERT INTO gateway.stream (name, mark, epoch) VALUES ('till', 3, %s)", EPOCH
    )
    spool.put(b"5", b"6", stream="till", first=5, aside=True)
    assert spool.move("--stream", "till") == "2 messages are dead letters now"
    assert (spool.letters, spool.waiting) == (["5", "6"], [])
    assert spool.database.column("SELECT mark FROM gateway.stream") == [3]


def test_an_epoch_that_is_over(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """Messages of an epoch before become dead letters, and move nothing."""
    assert spool.store(start_gateway).terminate() == 0
    spool.database.execute(
        "INSERT INTO gateway.stream (name, mark, epoch) VALUES ('till', 0, %s)", str(uuid4())
    )
    spool.put(b"1", stream="till", first=1)
    assert spool.move("--all") == "1 messages are dead letters now"
    assert spool.letters == ["1"]
    assert spool.database.column("SELECT mark FROM gateway.stream") == [0]


def test_what_its_peer_was_refused(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """A number that was refused before it was spooled uses its number up, and is no dead letter."""
    chunk = Chunk(
        *("messages", [b"1", b"bad", b"3"], Origin("1.2.3.4:5", "lines"), 1.5),
        *(lambda chunk, runs: None, None, Stream("till", EPOCH, loose=True), 1),
    )
    batch = Batch.of([chunk]).refuse([(1, refused(Code.DATA, "no number"))])
    assert batch is not None
    spool.append(batch)
    assert spool.move("--all").startswith("2 messages are dead letters now")
    assert (spool.letters, spool.waiting) == (["1", "3"], [])
    assert spool.database.column("SELECT mark FROM gateway.stream") == [3]


KILLS = [
    *(("stored from the spool, before it is removed", count) for count in range(1, 8)),
    *(("removed from the spool, before that is flushed", count) for count in range(1, 8)),
    *(("before commit", count) for count in range(2, 16, 2)),
]
"""Around each change of the file, and at statements."""


@pytest.mark.parametrize(("point", "count"), KILLS)
def test_killed(point: str, count: int, spool: Spooling) -> None:
    """Killed anywhere and run again: each message is a dead letter once, or is stored once."""
    lane = str(uuid4())
    spool.put(b"plain", lane=lane)
    spool.put(b"1", b"2", stream="till", first=1, lane=lane)
    spool.put(b"stays", lane=lane)
    spool.put(b"3", stream="till", first=3, lane=lane)
    choice = ("move-to-dead-letters", "--stream", "till")
    process = forking.run(
        [*ARMED, point, str(count), *spool.command(*choice)],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode in (0, -signal.SIGKILL), process.stderr
    status, _, err = spool.run(*choice)
    assert status == 0 or "nothing of stream 'till' waits" in err, err
    assert spool.letters == ["1", "2", "3"]
    assert spool.waiting == ["plain", "stays"]
    assert spool.database.column("SELECT mark FROM gateway.stream") == [3]


def test_killed_and_not_run_again(spool: Spooling, start_gateway: Callable[..., Gateway]) -> None:
    """A gateway that is started between finds what was moved, and stores the rest."""
    spool.put(b"1", stream="till", first=1)
    spool.put(b"2")
    point = "stored from the spool, before it is removed"
    command = spool.command("move-to-dead-letters", "--all")
    # Each record is replaced once; then the first one is removed.
    done = forking.run([*ARMED, point, "3", *command], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(spool.letters) == 1
    spool.store(start_gateway).wait_log("spool: empty")
    assert sorted(spool.letters) == ["1", "2"]


def test_the_embedded_server(tmp_path: Path, start_gateway: Callable[..., Gateway]) -> None:
    """Where the server ends with its gateway, the command starts it and ends it again."""
    gateway = start_gateway("--line", "tcp:0:interface=127.0.0.1", cwd=tmp_path)
    assert gateway.terminate() == 0
    data_dir = tmp_path / "gateway-data"
    chunk = Chunk("messages", [b"one"], Origin("p", "l"), 1.5, lambda chunk, runs: None)
    file = SpoolFile(data_dir / "spool.db", 2**26)
    file.open()
    with closing(file):
        file.begin()
        file.append("messages", (str(uuid4()), 1), 1, pack(Batch.of([chunk])))
        file.commit()
    command = [str(BIN / "gateway"), "spool", "--data-dir", str(data_dir)]
    for words, told in [
        (["list"], f"1 messages wait in {data_dir / 'spool.db'}"),
        (["move-to-dead-letters", "--all"], "1 messages are dead letters now"),
        (["list"], f"0 messages wait in {data_dir / 'spool.db'}"),
    ]:
        done = forking.run(
            [*command, *words], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, [told]), done.stderr
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_a_log_without_an_index(spool: Spooling) -> None:
    """What a gateway of an earlier version left when it was killed is read as well."""
    child = os.fork()
    if not child:
        spool.put(b"one")
        file = SpoolFile(spool.path, 2**26)
        file.open()
        file.begin()
        chunk = Chunk("messages", [b"two"], Origin("p", "l"), 1.5, lambda chunk, runs: None)
        file.append("messages", (str(uuid4()), 1), 1, pack(Batch.of([chunk])))
        file.commit()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    Path(f"{spool.path}-shm").unlink()
    assert spool.waiting == ["one", "two"]
