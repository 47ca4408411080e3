"""
Following names with real files, by a clock that the test turns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway.commands.send.follow import QUIET, Tail
from gateway.commands.send.inputs import Block, InputFiles, LineCutter
from gateway.commands.send.rotation import FilePosition


class Follower:
    """A tail and everything it gave, and said."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.lines: list[bytes] = []
        self.blocks: list[tuple[int, int]] = []
        self.tail = Tail(path, LineCutter, self.clock.seconds, self.told.append)

    def more(self, seconds: float = 0.0) -> list[bytes]:
        """Look, let time pass, and read all there is."""
        found: list[bytes] = []
        self.tail.check_name()
        for step in (0.0, seconds):
            self.clock.advance(step)
            while (block := self.tail.next_messages()) is not None:
                found += block.messages
                self.blocks.append((block.line, block.offset))
        self.lines += found
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


@pytest.fixture
def follower(path: Path) -> Iterator[Follower]:
    follower = Follower(path)
    yield follower
    follower.tail.close()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_file_that_grows(path: Path, follower: Follower) -> None:
    """Whole lines come out as they are written; a line without its LF waits for it."""
    append(path, "one\ntwo\nthr")
    assert follower.more() == [b"one", b"two"]
    assert follower.more(10 * QUIET) == []
    append(path, "ee\n")
    assert follower.more() == [b"three"]
    assert follower.blocks == [(1, 8), (3, 14)]


def test_a_file_that_is_not_there_yet(path: Path, follower: Follower) -> None:
    """It is waited for, and that is said once."""
    assert follower.more() == follower.more() == []
    assert follower.told == [f"{path}: is not there (yet); waiting for it"]
    append(path, "one\n")
    assert follower.more() == [b"one"]


def test_a_file_that_is_renamed(path: Path, follower: Follower) -> None:
    """The old file is read to its end, what its writer still adds too, then the new one."""
    append(path, "one\ntwo\n")
    assert follower.more() == [b"one", b"two"]
    old = path.rename(path.with_name("app.log.1"))
    append(old, "three\n")
    assert follower.more(10 * QUIET) == [b"three"]
    append(path, "five\n")
    append(old, "fo")
    assert follower.more() == []
    append(old, "ur\nunfinished")
    assert follower.more(QUIET / 2) == [b"four"]
    assert follower.more(QUIET) == [b"unfinished", b"five"]
    append(path, "six\n")
    assert follower.more() == [b"six"]


def test_many_rotations_while_nobody_reads(path: Path, follower: Follower) -> None:
    """A sender that is held up, as by a gateway that is away, misses no file."""
    expected = []
    for turn in range(5):
        for other in range(turn, 0, -1):
            older = path.with_name(f"app.log.{other}")
            if older.exists():
                older.rename(path.with_name(f"app.log.{other + 1}"))
        if path.exists():
            path.rename(path.with_name("app.log.1"))
        append(path, f"{turn} a\n{turn} b\n")
        expected += [b"%d a" % turn, b"%d b" % turn]
        follower.tail.check_name()
    for _ in range(6):
        follower.more(QUIET)
    assert follower.lines == expected


@pytest.mark.parametrize("after", ["x\n", "a longer line than before\nand another\n"])
def test_a_file_that_is_truncated(path: Path, follower: Follower, after: str) -> None:
    """It is read from its beginning, also where it has grown beyond its old size."""
    append(path, "one\ntwo\n")
    assert follower.more() == [b"one", b"two"]
    path.write_text(after)
    assert follower.more() == after.encode().splitlines()
    (told,) = follower.told
    assert told.startswith(
        f"{path}: was truncated; reading it from its beginning; what was written"
    )
    append(path, "more\n")
    assert follower.more() == [b"more"]


def test_what_truncation_took_away_is_said(path: Path, follower: Follower) -> None:
    """Bytes seen and not read are counted; a line begun before is not joined to new ones."""
    append(path, "one\nbegun")
    assert follower.more() == [b"one"]
    append(path, " and never read\n")
    follower.tail.check_name()
    os.truncate(path, 0)
    append(path, "new\n")
    assert follower.more() == [b"begun", b"new"]
    assert follower.tail.lost == 16
    assert follower.told[-1].endswith("; 16 bytes had not been read and are lost")


def test_a_file_that_is_removed(path: Path, follower: Follower) -> None:
    """What it had is read; the next one of its name is found."""
    append(path, "one\n")
    follower.tail.check_name()
    path.unlink()
    assert follower.more() == [b"one"]
    append(path, "two\n")
    assert follower.more(QUIET) == [b"two"]


def test_what_is_no_file(path: Path, follower: Follower) -> None:
    """A directory of this name is said, and not read."""
    path.mkdir()
    assert follower.more() == []
    assert follower.told == [f"{path}: is no regular file, and cannot be followed"]


def marked(follower: Follower, block: int) -> tuple[FilePosition, int]:
    """The place after a block, and its line."""
    line, offset = follower.blocks[block]
    mark = follower.tail.mark(0, offset)
    assert mark is not None
    return mark, line


@pytest.mark.parametrize("rotation", ["none", "rename", "twice", "copy", "dates"])
def test_going_on_after_a_restart(path: Path, follower: Follower, rotation: str) -> None:
    """A place is found again wherever its file went meanwhile; all that came later follows."""
    append(path, "one\ntwo\n")
    follower.more()
    mark, _ = marked(follower, 0)
    append(path, "three\n")
    expected = [b"three"]
    first = path.with_name("app.log-20260101" if rotation == "dates" else "app.log.1")
    if rotation == "copy":
        shutil.copy(path, first)
        path.write_text("new file, larger than what was before\n")
        expected.append(b"new file, larger than what was before")
    elif rotation != "none":
        path.rename(first)
        append(path, "four\n")
        expected.append(b"four")
    if rotation in ("twice", "dates"):
        second = path.with_name("app.log-20260102")
        if rotation == "twice":
            first = first.rename(path.with_name("app.log.2"))
            second = path.with_name("app.log.1")
        path.rename(second)
        os.utime(first, ns=(1, 1))
        append(path, "five\n")
        path.with_name("app.log.bak").write_text("no rotated file\n")
        path.with_name("app.log.3.gz").write_text("nor this\n")
        expected.append(b"five")
    again = Follower(path)
    assert again.tail.resume(mark, 3)
    again.tail.catch_up(mark)
    for _ in range(3):
        again.more(QUIET)
    assert again.lines == expected
    assert again.blocks[0][0] == 3
    again.tail.close()


def test_a_file_that_is_gone_for_good(path: Path, follower: Follower) -> None:
    """A place in a file that is not there any more is not found in another one."""
    append(path, "one\ntwo\n")
    follower.more()
    mark, _ = marked(follower, 0)
    path.unlink()
    append(path, "other\nlines\nthan before\n")
    again = Follower(path)
    assert not again.tail.resume(mark)
    assert again.more() == [b"other", b"lines", b"than before"]
    again.tail.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.just("rename"), st.just("look"), st.just("read"), st.sampled_from(["a", "b\n", "\n"])
        ),
        max_size=40,
    )
)
def test_every_byte_once_and_in_order(tmp_path: Path, steps: list[str]) -> None:
    """However writing, rotating, looking and reading alternate, the lines are those written."""
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    path = folder / "app.log"
    follower = Follower(path)
    files = [""]
    path.touch()
    follower.tail.check_name()
    for number, step in enumerate(steps):
        if step == "rename":
            path.rename(folder / f"app.log.{number}")
            path.touch()
            files.append("")
            follower.tail.check_name()
        elif step == "look":
            follower.tail.check_name()
        elif step == "read":
            follower.more(QUIET / 3)
        else:
            append(path, step)
            files[-1] += step
    append(path, "end\n")
    files[-1] += "end\n"
    for _ in range(len(files) + 1):
        follower.more(QUIET)
    assert follower.lines == [line.encode() for text in files for line in text.splitlines()]
    follower.tail.close()


def test_a_byte_order_mark_begins_a_file(follower: Follower, path: Path) -> None:
    """At the start of each file it is dropped; where a file is read from within it is data."""
    append(path, "\ufeffone\n\ufefftwo\n")
    assert follower.more() == [b"one", "\ufefftwo".encode()]
    assert follower.blocks[-1] == (1, len("\ufeffone\n\ufefftwo\n".encode()))
    path.rename(path.with_suffix(".1"))
    append(path, "\ufeffthree\n")
    assert follower.more(QUIET) + follower.more(QUIET) == [b"three"]


def test_a_byte_order_mark_where_reading_is_resumed(path: Path) -> None:
    """A file that is read on from a place within it has no start to drop anything at."""
    append(path, "one\n")
    follower = Follower(path)
    follower.more()
    mark = follower.tail.mark(0, 4)
    follower.tail.close()
    append(path, "\ufefftwo\n")
    again = Follower(path)
    assert mark is not None and again.tail.resume(mark, 2)
    assert again.more() == ["\ufefftwo".encode()]
    again.tail.close()


def test_the_last_line_of_a_file_that_is_not_followed(path: Path) -> None:
    """Nobody waits for its LF: it is taken as it is, and that is said."""
    told: list[str] = []
    for text in ("one\ntwo\n", "one\ntwo"):
        path.write_text(text)
        files = InputFiles([str(path)], LineCutter, None, told.append)
        blocks: list[Block | None] = []
        while not blocks or blocks[-1] is not None:
            Deferred.fromCoroutine(files.next_messages()).addCallback(blocks.append)
        lines = [line for block in blocks if block is not None for line in block.messages]
        assert lines == [b"one", b"two"]
    (text,) = told
    assert text.startswith(f"{path}: its last line, 2, has no line feed and is taken as it is")
