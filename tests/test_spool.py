"""
The spool's file: what was put is there in order, and damage is never silent.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.batch import MAX_ROWS, Batch, Chunk, Origin
from gateway.errors import EmbeddedError, SpoolError
from gateway.spool.file import SpoolFile
from gateway.spool.record import Record, pack, unpack
from gateway.spool.room import PAGE, Room

MEBIBYTE = 1024 * 1024
LANE = "6c0a3a3e-3b5c-4f6e-9d5f-0d3b8f6f5f10"


def batch(*messages: bytes, peer: str = "1.2.3.4:5", route: str = "messages") -> Batch:
    chunk = Chunk(route, list(messages), Origin(peer, "lines"), 1.5, lambda chunk, runs: None)
    return Batch.of([chunk])


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
        put(file, *[b"x"] * (MAX_ROWS - 1))
        put(file, b"y", b"z")
        parcels = []
        after = 0
        while (parcel := file.next(after, ())) is not None:
            parcels.append(parcel)
            after = parcel.places[-1]
        assert [parcel.batch.count for parcel in parcels] == [3, 1, MAX_ROWS - 1, 2]
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
