"""
The spool's file: what was put is there in order, and damage is never silent.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid5
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.batch import MAX_BATCH_ROWS, Batch, Chunk, Origin
from gateway.model.errors import EmbeddedError, SpoolError, SpoolGone
from gateway.model.outcome import Code, Outcome, refused
from gateway.model.stream import Stream
from gateway.spool.backlog import SpoolBacklog
from gateway.spool.disk_space import PAGE, Room
from gateway.spool.file import SpoolFile
from gateway.spool.record import PARTS, Record, pack, rows_of, unpack

MEBIBYTE = 1024 * 1024
LANE = "6c0a3a3e-3b5c-4f6e-9d5f-0d3b8f6f5f10"


def batch(*messages: bytes, peer: str = "1.2.3.4:5", route: str = "messages") -> Batch:
    chunk = Chunk(route, list(messages), Origin(peer, "lines"), 1.5, lambda chunk, runs: None)
    return Batch.of([chunk])


def earlier(path: Path, *parts: tuple[str, str | None, int, list[bytes]]) -> None:
    """
    A spool as the version before made it: without epochs, and with a table of lanes.

    @param parts: (route, stream, number of the first message, messages) of each record.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size = {PAGE}")
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(
            """
            CREATE TABLE record (place INTEGER PRIMARY KEY, route TEXT NOT NULL,
                lane TEXT NOT NULL, number INTEGER NOT NULL, rows INTEGER NOT NULL,
                checksum INTEGER NOT NULL, payload BLOB NOT NULL);
            CREATE TABLE damaged AS SELECT * FROM record WHERE false;
            CREATE TABLE lane (id TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE counter (next INTEGER NOT NULL);
            """
        )
        database.execute("INSERT INTO lane VALUES (?)", (LANE,))
        database.execute("INSERT INTO counter VALUES (?)", (1 + len(parts),))
        for number, (route, stream, first, frames) in enumerate(parts, 1):
            packed = [["1.2.3.4:5", "lines", None, 1.5, frames, stream, first]]
            payload = msgspec.msgpack.encode(packed if stream else [packed[0][:5]])
            lane = str(uuid5(UUID(LANE), route))
            head = f"{number << PARTS} {route} {lane} {number} {len(frames)}"
            checksum = crc32(payload, crc32(head.encode()))
            database.execute(
                "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number << PARTS, route, lane, number, len(frames), checksum, payload),
            )
    messages = sum(len(frames) for *_, frames in parts)
    line = f"next {1 + len(parts)} messages {messages}"
    Path(f"{path}.mark").write_text(f"{line:<63}\n", "ascii")


@contextmanager
def opened(path: Path, max_bytes: int = 64 * MEBIBYTE) -> Iterator[SpoolFile]:
    file = SpoolFile(path, max_bytes)
    file.open()
    with closing(file):
        yield file


def put(file: SpoolFile, *messages: bytes, route: str = "messages", lane: str = LANE) -> None:
    payload = pack(batch(*messages, route=route))
    file.make_room(len(payload))
    file.begin()
    file.append(route, (lane, None), len(messages), payload)
    file.commit()


def messages(file: SpoolFile) -> list[bytes]:
    """Everything in the spool, in order, taken out."""
    found: list[bytes] = []
    while (parcel := file.next(0, ())) is not None:
        found += [frame for part in parcel.batch.slices for frame in part.frames]
        file.begin()
        file.remove(parcel.records)
        file.commit()
    return found


def copy(path: Path, to: Path) -> Path:
    """The spool as a crash at this moment would leave it."""
    for suffix in ("", "-wal", ".mark"):
        if Path(f"{path}{suffix}").exists():
            shutil.copy(f"{path}{suffix}", f"{to}{suffix}")
    return to


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=20),
            st.floats(0, 2e9),
            st.lists(st.binary(max_size=50), min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_batch_comes_back_as_it_was(parts: list[tuple[str, float, list[bytes]]]) -> None:
    """Messages, peers, identities and times survive packing, whatever bytes they hold."""
    chunks = [
        Chunk("r", frames, Origin(peer, "lines", peer * 2), at, lambda chunk, runs: None)
        for peer, at, frames in parts
    ]
    whole = Batch.of(chunks)
    again = unpack([Record(1, "r", LANE, 1, whole.count, pack(whole))]).batch
    assert [(s.chunk.origin, s.chunk.received_at, s.frames) for s in again.slices] == [
        (chunk.origin, chunk.received_at, chunk.frames) for chunk in chunks
    ]


def test_order_survives_a_restart(tmp_path: Path) -> None:
    """What was put is there after the process ended, in order, with its counts."""
    with opened(tmp_path / "s.db") as file:
        put(file, b"1", b"2")
        put(file, b"x", route="other")
        put(file, b"3")
        assert file.rows == {"messages": 3, "other": 1}
    with opened(tmp_path / "s.db") as file:
        assert (file.rows, file.remarks) == ({"messages": 3, "other": 1}, [])
        put(file, b"4")
        assert messages(file) == [b"1", b"2", b"x", b"3", b"4"]
        assert file.rows == {}


def test_records_travel_together(tmp_path: Path) -> None:
    """What follows one another on one lane is one parcel, with the fence of all, up to a limit."""
    with opened(tmp_path / "s.db") as file:
        for number in range(3):
            put(file, b"%d" % number)
        put(file, b"other", route="other")
        put(file, *[b"x"] * (MAX_BATCH_ROWS - 1))
        put(file, b"y", b"z")
        parcels = []
        after = 0
        while (parcel := file.next(after, ())) is not None:
            parcels.append(parcel)
            after = parcel.places[-1]
        assert [parcel.batch.count for parcel in parcels] == [3, 1, MAX_BATCH_ROWS - 1, 2]
        assert (parcels[0].fence.first, parcels[0].fence.number) == (1, 3)
        assert (parcels[3].fence.first, parcels[3].fence.number) == (6, 6)
        parked = file.next(0, {"messages"})
        assert parked is not None and parked.batch.route == "other"


def test_a_split_record_keeps_its_place(tmp_path: Path) -> None:
    """Pieces of a record come where it was, before what came after it."""
    with opened(tmp_path / "s.db") as file:
        put(file, b"a", b"b", b"c")
        put(file, b"d")
        whole = file.next(0, ())
        assert whole is not None
        record = whole.records[0]
        rows = [unpack([record]).batch.only(rows) for rows in ([0], [1, 2])]
        first = Record(record.place, record.route, "l", 1, rows[0].count, pack(rows[0]))
        second = Record(record.place + 1, record.route, "l", 2, rows[1].count, pack(rows[1]))
        file.begin()
        file.replace(record, [first, second])
        file.commit()
        assert file.rows == {"messages": 4}
        assert messages(file) == [b"a", b"b", b"c", b"d"]


def test_messages_are_private(tmp_path: Path) -> None:
    """Nobody else may read what is in it, nor its log, from the first moment on."""
    before = os.umask(0o022)
    try:
        with opened(tmp_path / "s.db") as file:
            put(file, b"1")
            for name in ("s.db", "s.db-wal"):
                assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """One gateway at a time: the other is told who has it and what to do."""
    with opened(tmp_path / "s.db"):
        with pytest.raises(EmbeddedError, match=r"in use by another gateway \(process \d+\)"):
            SpoolFile(tmp_path / "s.db", MEBIBYTE).open()
        again = tmp_path / "no" / "s.db"
        (tmp_path / "no").write_text("a file")
        with pytest.raises(EmbeddedError, match="cannot be used"):
            SpoolFile(again, MEBIBYTE).open()


def test_the_limit_holds(tmp_path: Path) -> None:
    """It refuses before it is larger than it may be, and takes again when there is room."""
    limit = 3 * MEBIBYTE
    with opened(tmp_path / "s.db", limit) as file:
        for _ in range(2):
            taken = 0
            with pytest.raises(SpoolError, match="spool is full"):
                while True:
                    put(file, b"x" * 50_000)
                    taken += 1
                    assert file.size <= limit
            assert taken * 50_000 > limit / 3
            assert len(messages(file)) == taken
        file.shrink()
        assert file.size < limit


def test_room_on_the_disk(tmp_path: Path) -> None:
    """What the disk has no room for is refused, and so is what leaves none to split a record."""
    more_than_any_disk = 10**18
    room = Room(tmp_path / "s.db", tmp_path / "s.db-wal", 10 * more_than_any_disk)
    assert room.lacking(1, 0, 0) == ""
    assert room.lacking(more_than_any_disk, 0, 0) == "there is no room for the spool"
    room.largest = more_than_any_disk
    assert room.lacking(1, 0, 0) == "there is no room for the spool"


def test_space_is_given_back(tmp_path: Path) -> None:
    """An empty spool does not keep the disk of its worst day."""
    with opened(tmp_path / "s.db") as file:
        for _ in range(20):
            put(file, b"x" * MEBIBYTE)
        messages(file)
        assert file.size > 10 * MEBIBYTE
        file.shrink()
        assert file.size < MEBIBYTE


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A spool that somebody removed with messages in it is not taken for an empty one."""
    path = tmp_path / "s.db"
    with opened(path) as file:
        put(file, b"1", b"2")
    path.unlink()
    with opened(path) as file:
        (told,) = file.remarks
        assert "is missing: 0 messages are left and will be stored, 2 messages answered" in told
        put(file, b"3")
        assert messages(file) == [b"3"]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool whose process died, half in its log and half in its file."""
    folder = tmp_path_factory.mktemp("crashed")
    with opened(folder / "s.db") as file:
        for number in range(20):
            put(file, *[b"%d %d" % (number, n) for n in range(200)])
        # Only now is anything in the file itself.
        file._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(20, 40):
            put(file, *[b"%d %d" % (number, n) for n in range(200)])
        return copy(folder / "s.db", folder / "copy.db")


WRITTEN = [b"%d %d" % (number, n) for number in range(40) for n in range(200)]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["", "-wal"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_flipped_byte_is_never_silent(
    crashed: Path, suffix: str, where: float, change: int
) -> None:
    """Wherever a byte changes: what comes out is what was put in, and what is missing is told."""
    path = copy(crashed, crashed.with_name("flipped.db"))
    try:
        data = bytearray(Path(f"{path}{suffix}").read_bytes())
        data[int(where * len(data))] ^= change
        Path(f"{path}{suffix}").write_bytes(data)
        with opened(path) as file:
            found = messages(file)
            told = list(file.remarks)
        kept = set(found)
        assert found == [message for message in WRITTEN if message in kept]
        assert told or found == WRITTEN
        # Damage costs what it hits, not everything.
        assert len(found) >= 20 * 200 - 2 * 200 or suffix == ""
    finally:
        for left in path.parent.glob("flipped.db*"):
            left.unlink()


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_torn_tail_is_never_silent(crashed: Path, where: float) -> None:
    """A log cut anywhere: what was whole is there; what was acknowledged and is gone is told."""
    path = copy(crashed, crashed.with_name("torn.db"))
    try:
        data = Path(f"{path}-wal").read_bytes()
        Path(f"{path}-wal").write_bytes(data[: int(where * len(data))])
        with opened(path) as file:
            told = list(file.remarks)
            found = messages(file)
        assert found == WRITTEN[: len(found)]
        assert 20 * 200 <= len(found) < len(WRITTEN)
        assert any(f"{len(WRITTEN) - len(found)} messages" in remark for remark in told)
    finally:
        for left in path.parent.glob("torn.db*"):
            left.unlink()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """It is put aside, not overwritten, and the gateway starts."""
    path = tmp_path / "s.db"
    path.write_bytes(b"something else entirely" * PAGE)
    with opened(path) as file:
        assert "file is not a database" in file.remarks[0]
        put(file, b"1")
        assert messages(file) == [b"1"]
    assert Path(f"{path}.damaged-1").read_bytes().startswith(b"something else")


class FullDisk(SpoolFile):
    """
    A file on a disk with room for three records.
    """

    def _insert(self, record: Record) -> None:
        if record.number > 3:
            raise sqlite3.OperationalError("database or disk is full")
        super()._insert(record)


def test_saving_what_is_readable_may_be_interrupted(tmp_path: Path) -> None:
    """A full disk while a damaged file is made anew: the next start begins with it again."""
    path = tmp_path / "s.db"
    with opened(path) as file:
        for number in range(100):
            put(file, b"%d" % number * 3000)
    data = bytearray(path.read_bytes())
    data[20 * PAGE : 20 * PAGE + 100] = b"\xff" * 100
    path.write_bytes(data)
    full = FullDisk(path, 64 * MEBIBYTE)
    with pytest.raises(EmbeddedError, match="disk is full"):
        full.open()
    full._lock.release()
    with opened(path) as file:
        assert len(messages(file)) > 50
        assert f"a copy is kept as {path}.damaged-1" in file.remarks[0]
    assert not Path(f"{path}.damaged-2").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "payload = x'00'",
        "route = CAST(x'ff' AS TEXT)",
        "lane = CAST(x'80' AS TEXT)",
        "rows = 'x'",
    ],
)
def test_damaged_records_are_set_aside(damage: str, tmp_path: Path) -> None:
    """A record that is not what was written is counted and kept; the others are stored."""
    with opened(tmp_path / "s.db") as file:
        for number in range(3):
            put(file, b"%d" % number)
        file._database.execute(f"UPDATE record SET {damage} WHERE number = 2")
        assert messages(file) == [b"0", b"2"]
        assert file.damaged == 1
        assert "a record of 1 messages" in file.remarks[0]
        assert file.rows == {}
    with opened(tmp_path / "s.db") as file:
        assert file._database.execute("SELECT count(*) FROM damaged").fetchone() == (1,)


# Numbered streams.


def numbered(stream: Stream, first: int, *frames: bytes, route: str = "r") -> Batch:
    """A batch of numbers in a row."""
    chunk = Chunk(
        *(route, [*frames], Origin("p", "lines"), 1.5, lambda chunk, runs: None),
        *(None, stream, first),
    )
    return Batch.of([chunk])


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "s", "t"]), st.integers(1, 10**18), st.integers(1, 4)),
        min_size=1,
        max_size=5,
    ),
    st.sets(st.integers(0, 19)),
    st.booleans(),
    st.text(max_size=20),
)
def test_numbers_and_refusals_come_back(
    parts: list[tuple[str, int, int]], bad: set[int], dead_letter: bool, text: str
) -> None:
    """Streams, epochs, numbers, refusals and which of these are dead letters survive packing."""
    streams = {name: Stream(name, f"epoch-{name}") for name in "st"}
    chunks = [
        Chunk(
            *("r", [b"%d" % n for n in range(size)], Origin("p", "l"), 1.5, lambda c, runs: None),
            *(None, streams.get(name), first),
        )
        for name, first, size in parts
    ]
    outcome = refused(Code.DATA, text, "22P02")
    rows = sum(size for _, _, size in parts)
    faults = [(row, outcome) for row in sorted(bad) if row < rows]
    batch = Batch.of(chunks).refuse(faults, dead_letter=dead_letter)
    if batch is None:
        return
    again = unpack([Record(1, "r", LANE, 1, rows_of(batch), pack(batch))]).batch

    def shown(batch: Batch) -> list[object]:
        def place(chunk: Chunk, row: int) -> object:
            stream = chunk.stream
            return None if stream is None else (stream.name, stream.epoch, chunk.first + row)

        stored: list[object] = [
            (place(part.chunk, part.start), part.frames) for part in batch.slices
        ]
        return stored + [
            (
                *(place(r.chunk, r.row), r.chunk.frames[r.row], bytes(r.outcome)),
                *(r.dead_letter, r.stream is not None),
            )
            for r in batch.refusals
        ]

    assert shown(again) == shown(batch)
    assert again.count == batch.count
    assert all(part.chunk.stream is None or part.chunk.stream.loose for part in again.slices)


def test_what_a_stream_has_passed_moves_nothing_from_the_spool() -> None:
    """A dead letter whose stream has gone on comes back without its number."""
    batch = numbered(Stream("s", "e"), 7, b"x").refuse(
        [(0, refused(Code.DATA, "no"))], dead_letter=True
    )
    assert batch is not None
    passed = Batch("r", [], [batch.refusals[0]._replace(counts=False)])
    again = unpack([Record(1, "r", LANE, 1, 1, pack(passed))]).batch
    assert not again.moves and not again.streams and len(again.dead_letters) == 1


def test_records_put_aside(tmp_path: Path) -> None:
    """What waits for a stream is counted by itself, over a restart too, and passed where that is
    asked for; what is put aside later goes behind it on the same lane."""
    stream = Stream("s", "e")
    with opened(tmp_path / "s.db") as file:
        put(file, b"1")
        for first in (1, 2):
            payload = pack(numbered(stream, first, b"%d" % first, route="messages"))
            file.begin()
            file.append("messages", (LANE + "s", None), 1, payload, "s")
            file.commit()
        put(file, b"2")
        assert (file.rows, file.aside, file.messages) == ({"messages": 2}, {"s": 2}, 4)
    with opened(tmp_path / "s.db") as file:
        assert (file.rows, file.aside, file.messages) == ({"messages": 2}, {"s": 2}, 4)
        assert file.lanes() == {LANE, LANE + "s"}
        assert [batch.streams for batch in file.batches()] == [set(), {"s"}, {"s"}, set()]
        plain = file.next(0, ())
        assert plain is not None and len(plain.records) == 1
        aside = file.next(plain.places[-1], ())
        assert aside is not None and [record.stream for record in aside.records] == ["s"] * 2
        assert aside.batch.moves[0].last == 2 and aside.batch.moves[0].whole
        assert aside.fence.first < aside.fence.number
        assert messages(file) == [b"1", b"1", b"2", b"2"]
        assert (file.rows, file.aside) == ({}, {})


def test_a_spool_of_the_version_before(tmp_path: Path) -> None:
    """It is opened, what is in it is read, and it is of this version from then on; what is damaged
    in it is put aside as well."""
    path = tmp_path / "s.db"
    earlier(path, ("r", "s", 7, [b"7", b"8"]), ("r", None, 0, [b"p"]), ("r", "s", 9, [b"9"]))
    with opened(path) as file:
        assert (file.remarks, file.rows, file.aside) == ([], {"r": 4}, {})
        parcel = file.next(0, ())
        assert parcel is not None and len(parcel.records) == 3
        (move,) = parcel.batch.moves
        assert (move.stream.name, move.stream.epoch) == ("s", "")
        assert (move.first, move.last, move.whole) == (7, 9, True)
        put(file, b"new", route="r")
        file._database.execute("UPDATE record SET payload = x'00' WHERE number = 2")
        tables = file._database.execute("SELECT name FROM sqlite_master WHERE name = 'lane'")
        assert tables.fetchall() == []
    with opened(path) as file:
        assert messages(file) == [b"7", b"8", b"9", b"new"]
        assert file.damaged == 1


def test_what_is_readable_of_a_spool_of_the_version_before(tmp_path: Path) -> None:
    """One that is damaged, and was never opened by this version, is read as far as it goes."""
    path = tmp_path / "s.db"
    earlier(path, *[("r", "s", n, [b"%d" % n * 3000]) for n in range(1, 101)])
    data = bytearray(path.read_bytes())
    data[20 * PAGE : 20 * PAGE + 100] = b"\xff" * 100
    path.write_bytes(data)
    with opened(path) as file:
        assert f"a copy is kept as {path}.damaged-1" in file.remarks[0]
        found = messages(file)
        assert 50 < len(found) < 100 and all(frame[:1].isdigit() for frame in found)


# Which numbers wait.

RECORDS = st.lists(
    st.tuples(
        *(st.booleans(), st.sampled_from("st"), st.sampled_from(["", "e", "f"])),
        *(st.integers(1, 30), st.integers(1, 6), st.sets(st.integers(0, 5), max_size=2)),
    ),
    max_size=25,
)


def refused_in(batches: list[Batch], name: str, epoch: str) -> dict[int, Outcome]:
    """What is said of numbers of a stream."""
    return {
        number: outcome
        for batch in batches
        for move in batch.moves
        if (move.stream.name, move.stream.epoch) == (name, epoch)
        for number, outcome in move.refused.items()
    }


@given(RECORDS, st.integers(0, 40))
def test_the_spool_knows_which_numbers_wait(
    steps: list[tuple[bool, str, str, int, int, set[int]]], asked: int
) -> None:
    """Whatever is put and taken out, in whatever order: exactly the numbers that are there are
    told, by stream and epoch, with what was said of those refused; after a restart too."""
    backlog = SpoolBacklog()
    there: list[Batch] = []
    taken: dict[tuple[str, str], set[int]] = {}
    for puts, name, epoch, first, size, bad in steps:
        if not puts:
            if there:
                batch = there.pop(first % len(there))
                backlog.remove(batch)
                for move in batch.moves:
                    taken[move.stream.name, move.stream.epoch] -= set(
                        range(move.first, move.last + 1)
                    )
            continue
        numbers = taken.setdefault((name, epoch), set())
        wanted = set(range(first, first + size))
        if numbers & wanted:
            continue  # no number is there twice
        outcome = refused(Code.DATA, f"{first}")
        batch_ = numbered(Stream(name, epoch), first, *[b"m"] * size).refuse(
            [(row, outcome) for row in sorted(bad) if row < size]
        )
        assert batch_ is not None
        there.append(batch_)
        backlog.put(batch_)
        numbers |= wanted
    again = SpoolBacklog()
    again.reset(there)
    for found in (backlog, again):
        for name in "st":
            expected = {e: numbers for (n, e), numbers in taken.items() if n == name and numbers}
            waiting = found.numbers_of(name)
            assert (name in found) is bool(expected)
            if waiting is None:
                assert not expected
                continue
            assert {
                epoch: {number for first, last in runs for number in range(first, last + 1)}
                for epoch, runs in waiting.numbers.items()
            } == expected
            for runs in waiting.numbers.values():
                assert all(one[1] + 1 < other[0] for one, other in pairwise(runs))
            for epoch in ("", "e", "f"):
                assert found.has_number(name, epoch, asked) is (asked in expected.get(epoch, ()))
            assert waiting.refusals == {epoch: refused_in(there, name, epoch) for epoch in expected}
    assert bool(backlog) is any(taken.values())


def test_what_was_put_last() -> None:
    """While the database is away the stream goes on from the number that was put last, in the epoch
    in which that was; what is put in the place of a record changes nothing of that."""
    backlog, e, f = SpoolBacklog(), Stream("s", "e"), Stream("s", "f")
    for stream, first, last, expected in (
        (e, 3, True, ("e", 4)),
        (e, 5, True, ("e", 6)),
        (e, 1, True, ("e", 6)),
        (f, 2, True, ("f", 3)),
        (e, 7, False, ("f", 3)),
        (f, 4, False, ("f", 3)),
    ):
        backlog.put(numbered(stream, first, b"a", b"b"), last)
        found = backlog.numbers_of("s")
        assert found is not None and found.last == expected
    assert backlog.numbers_of("t") is None


def test_a_stream_whose_disk_failed() -> None:
    """What a failing disk may have kept leaves open which numbers are there: HELLO is not answered
    by them any more, and what follows still goes behind them, until the file is opened again."""
    backlog, stream = SpoolBacklog(), Stream("s", "e")
    kept = numbered(stream, 1, b"a")
    backlog.put(kept, True)
    backlog.mark_doubtful(numbered(stream, 2, b"b"))
    assert backlog.numbers_of("s") is None and "s" in backlog
    again = SpoolBacklog()
    again.reset([kept])
    found = again.numbers_of("s")
    assert found is not None and found.numbers == {"e": ((1, 1),)}


def test_refusals_go_with_their_numbers() -> None:
    """What was said of a refused number is told in its epoch, as long as that is there, and no
    longer: the same number may be another message's then."""
    backlog, e, f = SpoolBacklog(), Stream("s", "e"), Stream("s", "f")
    no = refused(Code.DATA, "no")
    bad = numbered(e, 5, b"bad").refuse([(0, no)])
    assert bad is not None
    for batch_ in (numbered(e, 4, b"a"), bad, numbered(f, 5, b"good")):
        backlog.put(batch_)
    found = backlog.numbers_of("s")
    assert found is not None and found.refusals == {"e": {5: no}, "f": {}}
    backlog.remove(bad)
    found = backlog.numbers_of("s")
    assert found is not None and found.refusals == {"e": {}, "f": {}}


def test_a_file_that_is_removed_while_it_is_open(tmp_path: Path) -> None:
    """Nothing is put into it; it is made again as soon as that can be, with what it held."""
    folder = tmp_path / "data"
    path = folder / "spool.db"
    file = SpoolFile(path, MEBIBYTE)
    file.open()
    for number in (1, 2):
        file.make_room(1)
        file.begin()
        file.append("messages", (LANE, number), 1, pack(batch(b"%d" % number)))
        file.commit()
        shutil.rmtree(folder)
        for _ in range(2):
            with pytest.raises(SpoolGone) as raised:
                file.make_room(1)
            assert raised.value.reason == "No such file or directory"
        folder.mkdir()
        path.write_bytes(b"another's")
        with pytest.raises(SpoolGone, match="is gone") as raised:
            file.make_room(1)
        assert raised.value.reason == "another file is in its place"
        path.unlink()
        file.make_room(1)
        assert f"made again, with the {number} messages" in file.remarks.pop()
    file.close()
    again = SpoolFile(path, MEBIBYTE)
    again.open()
    assert [parcel.batch.count for parcel in again.each()] == [1, 1] and not again.remarks
    again.close()
