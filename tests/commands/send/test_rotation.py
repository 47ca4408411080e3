"""
Cases of rotation in which other programs that follow files lose lines or send them twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway.commands.send.bookmark import Bookmark, Place
from gateway.commands.send.follow import QUIET
from gateway.commands.send.followed_files import SAVE, Followed, StreamPlace
from gateway.commands.send.inputs import LineCutter
from gateway.commands.send.rotation import FilePosition, digest
from gateway.model.errors import InputError

HEADER = "time;" + ";".join(f"sensor {n}" for n in range(60)) + "\n"
"""What a device writes into each of its files; longer than what once made a file."""


class Log:
    """A followed log of a stream, and the runs that send it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.state = folder / "state" / "s.json"
        self.clock = Clock()
        self.told: list[str] = []
        self.stored: list[str] = []
        self.settles = True
        self._start()

    def _start(self, ask: int = 0, meanwhile: Sequence[Callable[[], None]] = ()) -> None:
        """
        @param meanwhile: what happens before the gateway is there, each followed by a look.
        """
        bookmark = Bookmark(self.state, "s", self.path)
        self._followed = Followed([self.path], LineCutter, self.clock, self.told.append)
        self._place = StreamPlace(bookmark, self._followed, self.clock)
        for step in meanwhile:
            step()
            self._followed._look()
        have = len(self.stored)
        self._place.floor(have)
        self._number = self._place.resume(have - ask, have, self.told.append)

    def again(self, ask: int = 0) -> None:
        """Killed, and started once more; so many of the last messages are asked again."""
        self._followed.close()
        self._start(ask)

    def send(self) -> list[str]:
        """
        @return: what is stored that was not.
        """
        found: list[str] = []
        (tail,) = self._followed.tails
        for _ in range(6):
            self.clock.advance(max(QUIET, SAVE))
            tail.check_name()
            while (block := self._followed.read_now()) is not None:
                self._number = self._place.reading(block, self._number + 1) - 1
                for message in block.messages:
                    self._number += 1
                    if self._number > len(self.stored):
                        self.stored.append(message.decode())
                        found.append(message.decode())
                if self.settles:
                    self._place.note_answered(block, self._number)
        return found

    def append(self, text: str, name: str = "app.log") -> None:
        with self.path.with_name(name).open("a") as file:
            file.write(text)

    def said(self, *texts: str) -> bool:
        """Whether one line has all these in it."""
        return any(all(text in line for text in texts) for line in self.told)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_header_that_each_file_has(log: Log) -> None:
    """Renamed while nobody looked: the old file is gone on with, then the new one that begins
    alike."""
    log.append(HEADER + "1\n")
    assert log.send() == [HEADER[:-1], "1"]
    log.append("2\n")
    log.path.rename(log.path.with_name("app.log.1"))
    log.append(HEADER + "3\n")
    log.again()
    assert log.send() == ["2", HEADER[:-1], "3"]


def test_copied_truncated_and_grown_beyond_the_place(log: Log) -> None:
    """The bytes before the place are others, though file and header are the same: the rest comes
    from the copy, then the file from its beginning; while it is followed, and over a restart."""
    for turn in range(2):
        log.append(HEADER + f"{turn}1\n")
        assert log.send()[-1] == f"{turn}1"
        log.append(f"{turn}2\n")
        if turn:
            log._followed.close()
        shutil.copy(log.path, log.path.with_name(f"app.log.{2 - turn}"))
        log.path.write_text(HEADER + f"{turn}3 and much more than was there before\n")
        if turn:
            log._start()
        expected = [f"{turn}2", HEADER[:-1], f"{turn}3 and much more than was there before"]
        assert log.send() == expected


def test_truncated_and_grown_without_a_copy(log: Log) -> None:
    """Nothing is left of it: that is said, with how much is known, and the file is sent anew."""
    log.append(HEADER + "1\n")
    log.send()
    log.append("2222\n")
    log.again()
    log._followed.tails[0].check_name()
    log.path.write_text(HEADER + "3 and much more than was there before\n")
    log.again()
    assert log.send() == [HEADER[:-1], "3 and much more than was there before"]
    assert log.said("gone, or was truncated", "behind its line 2, message 2 of the stream")


def test_a_truncated_file_with_half_a_line_pending(log: Log) -> None:
    """The half is not joined to what comes then."""
    log.append("1\nhalf a li")
    assert log.send() == ["1"]
    os.truncate(log.path, 0)
    log.append("2\n")
    assert log.send() == ["half a li", "2"]


def test_the_inode_of_a_removed_file(log: Log) -> None:
    """Another file may get it, and be longer: the bytes before the place decide."""
    log.append(HEADER + "1\n")
    log.send()
    state = log.state.read_bytes()
    log.path.unlink()
    log.append(HEADER + "2 is a longer line\n")
    _with_inode(log.state, state, log.path.stat().st_ino)
    log.again()
    assert log.send() == [HEADER[:-1], "2 is a longer line"]
    assert log.said("is gone, or was truncated", "0 bytes when it was last looked at")


def _with_inode(path: Path, state: bytes, inode: int) -> None:
    content = msgspec.json.decode(state)
    for place in content["places"]:
        place["mark"]["inode"] = inode
    path.write_bytes(msgspec.json.encode(content))


@pytest.mark.parametrize("change", ["device", "both"])
def test_a_network_file_system_that_was_mounted_anew(log: Log, change: str) -> None:
    """Another device number is no other file, not even with another inode: nothing is lost or sent
    twice, and what is taken for it by its contents alone is said."""
    log.append(HEADER + "1\n")
    log.send()
    content = msgspec.json.decode(log.state.read_bytes())
    for place in content["places"]:
        place["mark"]["device"] += 1
        place["mark"]["inode"] += 100_000 if change == "both" else 0
    log.state.write_bytes(msgspec.json.encode(content))
    log.append("2\n")
    log.again()
    assert log.send() == ["2"]
    assert log.said("a copy of the file that was being sent") == (change == "both")


def test_a_device_that_changes_while_it_is_followed(log: Log) -> None:
    """The same bytes and inode on another device: it is read on where it was."""
    log.append("1\n")
    log.send()
    (tail,) = log._followed.tails
    newest = tail._generations[-1]
    newest.key = (newest.key[0] + 1, newest.key[1])
    log.append("2\n")
    assert log.send() == ["2"]


def test_an_older_file_that_was_written_to_late(log: Log) -> None:
    """It was sent: it is not taken for something that came after, and what is late is counted."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("2\n")
    assert log.send() == ["2"]
    log.append("3\n")
    log.append("late\n", "app.log.1")
    log.again()
    assert log.send() == ["3"]
    log.append("later\n", "app.log.1")
    log.path.rename(log.path.with_name("app.log.2"))
    log.append("4\n")
    log.again()
    assert log.send() == ["4"]
    for late in (5, 6):
        assert log.said("app.log.1", f"{late} bytes were written to it after", "not sent")


def test_a_writer_that_opens_its_new_file_late(log: Log) -> None:
    """As long as the new file is empty the old one is read on, however quiet it is."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.path.touch()
    assert log.send() == []
    log.append("2\n", "app.log.1")
    log.append("3\n")
    assert log.send() == ["2", "3"]


def test_two_rotations_between_two_looks(log: Log) -> None:
    """A file that nobody saw under its name is found beside it."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.2"))
    log.append("2\n")
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("3\n")
    assert log.send() == ["2", "3"]


@pytest.mark.parametrize("name", ["app.log.1.gz", "app.log-20260131.zst"])
def test_a_file_that_was_compressed(log: Log, name: str) -> None:
    """What it had is said to be unsent, and where it may be; what came after it is sent."""
    log.append("1\n")
    log.send()
    log.append("2\n")
    log.again()
    log._followed.tails[0].check_name()
    log.path.with_name(name).write_bytes(b"packed")
    log.path.unlink()
    log.path.with_name("app.log.2").write_text("3\n")
    log.append("4\n")
    log.again()
    assert log.send() == ["3", "4"]
    assert log.said("cannot be sent", f"It may be in {name}: send that by hand, from line 2 on")
    assert log.said("going on with what came after it, from its beginning: app.log.2")


def test_a_link_to_files_with_dates(log: Log) -> None:
    """The file that it was a link to is read to its end, over a restart too; then the new one."""
    first, second = (log.path.with_name(f"day-2026-01-0{n}.txt") for n in (1, 2))
    first.write_text("1\n")
    log.path.symlink_to(first)
    assert log.send() == ["1"]
    with first.open("a") as file:
        file.write("2\n")
    log.path.unlink()
    log.path.symlink_to(second)
    second.write_text("3\n")
    log.again()
    assert log.send() == ["2", "3"]
    assert log.said("is a link to another file than before")


def test_a_rotated_file_behind_a_link(log: Log, tmp_path: Path) -> None:
    """Containers' logs are links into another folder, and rotated there."""
    pods = tmp_path / "pods"
    pods.mkdir()
    (pods / "0.log").write_text("1\n")
    log.path.symlink_to(pods / "0.log")
    assert log.send() == ["1"]
    with (pods / "0.log").open("a") as file:
        file.write("2\n")
    (pods / "0.log").rename(pods / "0.log.20260131-101010")
    (pods / "0.log").write_text("3\n")
    log.again()
    assert log.send() == ["2", "3"]


def test_a_date_before_the_extension(log: Log) -> None:
    """logrotate's C{extension} and others put it there."""
    log.append("1\n")
    log.send()
    log.append("2\n")
    log.path.rename(log.path.with_name("app-20260131.log"))
    log.path.with_name("app-20260201.log").write_text("3\n")
    log.path.with_name("app-2.log").write_text("another program's\n")
    log.append("4\n")
    log.again()
    assert log.send() == ["2", "3", "4"]


def test_a_writer_that_goes_on_at_its_old_place(log: Log) -> None:
    """Without O_APPEND a truncated file begins with a hole: its NUL bytes are no line."""
    with log.path.open("w") as file:
        file.write("1\n" * 1000)
        file.flush()
        assert len(log.send()) == 1000
        os.truncate(log.path, 0)
        log._followed.tails[0].check_name()
        file.write("2\n")
    assert log.send() == ["2"]


def test_copies_of_one_content(log: Log) -> None:
    """Of several files with the same bytes the inode decides; nothing is taken twice."""
    log.append(HEADER)
    log.send()
    shutil.copy(log.path, log.path.with_name("app.log.1"))
    shutil.copy(log.path, log.path.with_name("app.log.2"))
    log.append("1\n")
    log.again()
    assert log.send() == ["1"]


def test_a_state_file_of_an_earlier_version(log: Log) -> None:
    """It is read as it was meant, and brought up to date before anything is sent."""
    log.append("1\n2\n")
    there = log.path.stat()
    head = log.path.read_bytes()
    mark = {"device": there.st_dev, "inode": there.st_ino, "size": 4, "digest": digest(head)}
    place = {"number": 1, "line": 2, "mark": {**mark, "offset": 2}}
    content = {"stream": "s", "file": str(log.path), "places": [place]}
    log.state.parent.mkdir()
    log.state.write_bytes(msgspec.json.encode(content))
    log.stored = ["1"]
    log.again()
    (fresh,) = Bookmark(log.state, "s", log.path).places
    assert (fresh.number, fresh.mark.offset, fresh.mark.trail) == (1, 2, digest(b"1\n"))
    assert log.send() == ["2"]
    assert log.said("was written by an earlier version")


def test_an_earlier_state_never_takes_a_new_file_for_the_old_one(tmp_path: Path) -> None:
    """By first bytes alone, without the inode, a file under the name itself is another one."""
    path = tmp_path / "app.log"
    path.write_text(HEADER + "new\n")
    there = path.stat()
    head = path.read_bytes()[:256]
    early = FilePosition(there.st_dev, there.st_ino + 1, 256, digest(head), 300)
    with path.open("rb") as file:
        assert early.fits(file.fileno(), there)
        assert not replace(early, trail=digest(b"other"), before=5).fits(file.fileno(), there)
    log = Log(tmp_path)
    assert log._followed.tails[0].resume(early) is None


def test_messages_that_are_not_in_the_file(log: Log) -> None:
    """A stream that has more than the file had was sent to from elsewhere: no line is left out."""
    log.append("1\n")
    log.send()
    log.stored.append("by hand")
    log.again()
    log.append("2\n")
    assert log.send() == ["2"]
    assert log.said("the stream has 1 messages more than are behind its place")


def test_a_file_that_cannot_be_read_any_more(log: Log) -> None:
    """As of a network file system that is gone: it is opened once more while it has its name; when
    it has lost that, what is unread is counted, and the next file begun."""
    log.append("1\n")
    log.send()
    (tail,) = log._followed.tails
    for line, sent in (("2", ["2"]), ("33", [])):
        log.append(f"{line}\n")
        tail.check_name()
        with log.path.open("ab") as only_written:
            os.dup2(only_written.fileno(), tail._generations[0].file)
        if not sent:
            log.path.rename(log.path.with_name("elsewhere"))
        assert log.send() == sent
    log.append("4\n")
    assert log.send() == ["4"]
    assert log.said("Bad file descriptor", "3 bytes of it are lost")


def test_a_state_file_that_cannot_be_written(log: Log) -> None:
    """A rotation is noted while nobody reads; where that fails the run ends with the reason."""
    log.append("1\n")
    log.send()
    shutil.rmtree(log.state.parent)
    log.state.parent.write_text("no folder")
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("2\n")
    log._followed._look()
    failures: list[Failure] = []
    Deferred.fromCoroutine(log._followed.next_messages()).addErrback(failures.append)
    assert failures[0].check(InputError) and "cannot be written" in str(failures[0].value)


def test_an_older_file_that_begins_alike(log: Log) -> None:
    """It was not changed since, so that it is no copy of the one that is gone."""
    older = log.path.with_name("app.log.1")
    older.write_text(HEADER + "0\n")
    os.utime(older, ns=(1, 1))
    log.append(HEADER)
    log.send()
    log.path.unlink()
    log.append("1\n")
    log.again()
    assert log.send() == ["1"]


def test_a_file_that_waited_and_is_gone(log: Log) -> None:
    """Seen while another one was read, and removed before its turn, over a restart: it is said."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("222\n")
    log._followed._look()
    log.path.unlink()
    log.append("3\n")
    log.again()
    assert log.send() == ["3"]
    assert log.said("gone before it was begun; its 4 bytes, or more, are lost")


def test_a_file_ends_where_the_next_one_was_begun(log: Log) -> None:
    """What is written to it after that has no number between those that the stream has."""
    log.settles = False
    log.append("1\n2\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("3\n")
    assert log.send() == ["3"]
    log.append("late\n", "app.log.1")
    log.append("4\n")
    log.again(3)
    assert log.send() == ["4"]


def test_the_next_file_is_begun_before_the_last_answers(log: Log) -> None:
    """Its place has the number of the last message before it, and stays when that is answered."""
    log.append("1\n")
    log.settles = False
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("2\n")
    log.send()
    bookmark = Bookmark(log.state, "s", log.path)
    first, second = bookmark.places
    bookmark.remove_before(Place(1, 2, replace(first.mark, offset=2)))
    assert [place.mark.inode for place in bookmark.places] == [first.mark.inode, second.mark.inode]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("way", ["removed", "copied", "renamed"])
def test_files_that_come_and_go_before_the_gateway_is_there(
    log: Log, begun: bool, way: str
) -> None:
    """They wait open for their turn from the very start, and go on where the stream was."""
    log.append("1\n")
    if begun:
        log.send()
    log._followed.close()

    count = iter(range(99, 0, -1))

    def nothing() -> None:
        pass

    def rotate() -> None:
        number = next(count)
        older = log.path.with_name(f"app.log.{number}")
        if way == "copied":
            shutil.copy(log.path, older)
            os.truncate(log.path, 0)
            log._followed._look()
        else:
            log.path.rename(older)
        if way == "removed":
            older.unlink()
        log.append(f"{100 - number}\n")

    log.append("more\n")
    log._start(meanwhile=[nothing, rotate, rotate, rotate])
    assert log.send() == ([] if begun else ["1"]) + ["more", "1", "2", "3"]
    log.append("4\n")
    log.again()
    assert log.send() == ["4"]


def test_a_file_that_grows_after_it_was_truncated(log: Log) -> None:
    """It is the same file: nothing of what is sent is said to be late."""
    log.append("1\n")
    log.send()
    os.truncate(log.path, 0)
    log.send()
    log.told.clear()
    for line in ("2", "3 longer"):
        log.append(f"{line}\n")
        assert log.send() == [line]
    assert not log.told and log._followed.tails[0].lost == 0
