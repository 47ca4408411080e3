"""
Which of the rotated files beside a followed one came after it, and which were sent.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import msgspec
import pytest

from gateway.commands.send.rotation import rotated
from tests.commands.send.test_rotation import HEADER, Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["app.log.12", "app.log.9", "app.log.2", "app.log.1"],
        ["app.log-20260131", "app.log-20260201", "app.log-20260201-1", "app.log-20260202"],
        ["app-2026-01-31.log", "app-2026-02-01.9.log", "app-2026-02-01.10.log"],
    ],
)
def test_names_tell_the_order(tmp_path: Path, names: list[str]) -> None:
    """Whatever was written to last: numbers count down, dates up."""
    random = Random(1)
    for name in random.sample(names, len(names)):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(1, random.randrange(1000)))
    found, _ = rotated(tmp_path / "app.log", None, print)
    for one in found:
        os.close(one.file)
    assert [one.path.name for one in found] == names


def test_between_two_kinds_of_names_the_last_change_tells(tmp_path: Path) -> None:
    """A late line in one of them moves none behind those that its own kind has after it."""
    changes = {"app.log.3": 10, "app.log.2": 90, "app.log.1": 30, "app.log-20260131": 20}
    for name, change in changes.items():
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(1, change))
    found, _ = rotated(tmp_path / "app.log", None, print)
    for one in found:
        os.close(one.file)
    assert [one.path.name for one in found] == [
        "app.log.3",
        "app.log-20260131",
        "app.log.2",
        "app.log.1",
    ]


def test_a_late_line_in_the_file_that_is_sent(log: Log) -> None:
    """It was changed last after the one behind it, which is sent all the same."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.2"))
    log.append("2\n")
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("3\n")
    log.append("late\n", "app.log.2")
    log.again()
    assert log.send() == ["late", "2", "3"]


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ["app.log-30-01-2026", "app.log-31-01-2026", "app.log-01-02-2026"],
        ["app.log-1", "app.log-2", "app.log-3"],
        ["app.log.1", "app.log.2", "app.log.3"],
        ["app.log-20260130", "app.log.2", "app.log.1"],
    ],
)
def test_names_that_do_not_tell_the_order(log: Log, names: list[str], restarted: bool) -> None:
    """Days first, numbers that count upwards, two kinds: whatever came after the file that was sent
    is sent, in the order of last changes, though that one was written to last of all."""
    log.append("1\n")
    log.send()
    for turn, name in enumerate(names):
        log.path.rename(log.path.with_name(name))
        log.append(f"{turn + 2}\n")
        os.utime(log.path, ns=(turn, log.path.stat().st_mtime_ns + 1_000_000 * turn))
    log.append("late\n", names[0])
    if restarted:
        log.again()
    assert log.send() == ["late", "2", "3", "4"]


def test_files_that_were_rotated_before(log: Log) -> None:
    """Those that were there before a stream began are not sent, however late they are touched or
    written to; that is counted, once."""
    for number in range(1, 13):
        log.append(f"old {number}\n", f"app.log.{number}")
    log._followed.close()
    log._start()
    log.append("1\n")
    log.send()
    os.utime(log.path.with_name("app.log.3"))
    log.append("late\n", "app.log.4")
    log.path.unlink()
    log.append("2\n")
    for _ in range(2):
        log.again()
        assert log.send() in (["2"], [])
    assert log.stored == ["1", "2"]
    assert sum("app.log.4: 5 bytes were written to it after" in line for line in log.told) == 1


def test_no_more_is_kept_of_files_that_are_gone(log: Log) -> None:
    """The state knows all that is beside, be it a hundred files, and forgets those removed."""
    for number in range(100):
        log.append(f"old {number}\n", f"app.log.{number + 1}")
    log.append("1\n")
    log._followed.close()
    log._start()
    log.send()
    assert len(log._followed.tails[0].ended()) == 100
    found, _ = rotated(log.path, None, print, log._followed.tails[0].ended())
    assert [one.file for one in found] == [-1] * 100  # none is held open
    for number in range(50):
        log.path.with_name(f"app.log.{number + 1}").unlink()
    log.again()
    assert len(log._followed.tails[0].ended()) == 50


def test_a_folder_that_is_away_for_a_while(tmp_path: Path) -> None:
    """As of a network file system: nothing that was sent is forgotten."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = Log(folder)
    for number in range(3):
        log.append(f"old {number}\n", f"app.log.{number + 1}")
    log.append("1\n")
    log._followed.close()
    log._start()
    log.send()
    (tail,) = log._followed.tails
    folder.rename(tmp_path / "away")
    tail.check_name()
    assert len(tail.ended()) == 3
    (tmp_path / "away").rename(folder)
    log.append("2\n")
    assert log.send() == ["2"]


def test_more_rotations_than_files_stay_open(log: Log) -> None:
    """Those that were sent in one run are known in the next, though they are touched."""
    for turn in range(12):
        log.append(f"{turn}\n")
        log.send()
        log.path.rename(log.path.with_name(f"app.log-{20260101 + turn}"))
    log.append("last\n")
    log.send()
    for turn in range(12):
        os.utime(log.path.with_name(f"app.log-{20260101 + turn}"))
    log.path.unlink()
    log.append("new\n")
    log.again()
    assert log.send() == ["new"]


def test_a_late_line_while_the_file_still_has_its_name(log: Log) -> None:
    """What was written to an older one while nobody ran is counted also where nothing was
    rotated."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.append("2\n")
    log.send()
    log.again()
    log.append("late\n", "app.log.1")
    log.again()
    assert log.send() == []
    assert log.said("app.log.1", "5 bytes were written to it after", "not sent")


def test_a_name_that_does_not_tell_the_order(log: Log) -> None:
    """As of the file that was being sent, and of one that may have come after: both are said."""
    log.append("1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1.bak"))
    log.append("2\n")
    log.path.rename(log.path.with_name("app.log.old"))
    log.append("3\n")
    log.again()
    assert log.send() == ["3"]
    assert log.said("app.log.1.bak: its name does not say when it was rotated")
    assert log.said("app.log.old: its name does not say", "its 2 bytes are not sent")


def test_a_file_that_has_become_shorter(log: Log) -> None:
    """While nobody ran: whether its end was taken away or it is another one, that is said."""
    log.append("1\n")
    log.send()
    content = msgspec.json.decode(log.state.read_bytes())
    content["places"][-1]["mark"]["end"] += 5
    log.state.write_bytes(msgspec.json.encode(content))
    log.again()
    assert log.said("app.log: has 5 bytes less than when it was last looked at")
    log.append("2\n")
    assert log.send() == ["2"]


@pytest.mark.parametrize("again", [False, True])
def test_a_rotation_that_is_undone(log: Log, again: bool) -> None:
    """The file was sent, and goes on at its place: in one run, and over a restart."""
    log.append(HEADER + "1\n")
    log.send()
    log.path.rename(log.path.with_name("app.log.1"))
    log.append(HEADER + "2\n")
    assert log.send() == [HEADER[:-1], "2"]
    if again:
        log.again()
        log.send()
    log.path.rename(log.path.with_name("app.log.2"))
    log.path.with_name("app.log.1").rename(log.path)
    log.append("3\n")
    assert log.send() == ["3"]
    log.again()
    log.append("4\n")
    assert log.send() == ["4"]
    assert log.said("has the name again", "behind its line 2")
    assert not log.said("are not sent"), "they are"


def test_a_link_that_is_pointed_back(log: Log) -> None:
    """Of two files in turn each is gone on with."""
    files = [log.path.with_name(name) for name in ("a.txt", "b.txt")]
    for turn in range(6):
        with files[turn % 2].open("a") as file:
            file.write(f"{turn}\n")
        log.path.unlink(missing_ok=True)
        log.path.symlink_to(files[turn % 2])
        if turn == 3:
            log.again()
        assert log.send() == [f"{turn}"]


@pytest.mark.parametrize("comes", [True, False])
def test_copied_truncated_and_moved_elsewhere(log: Log, tmp_path: Path, comes: bool) -> None:
    """Between two looks: what it has by then is read, though no name leads to it."""
    (tmp_path / "elsewhere").mkdir()
    log.append("1\n")
    log.send()
    log.append("2\n")
    shutil.copy(log.path, log.path.with_name("app.log.1"))
    log.path.write_text("3, and more than was there\n")
    log.path.rename(tmp_path / "elsewhere" / "app.log")
    if comes:
        log.append("4\n")
    else:
        log._followed._look()
        log.append("4\n")
    assert log.send() == ["2", "3, and more than was there", "4"]
