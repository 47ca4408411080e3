"""
Outputs of the log: files that are renamed, truncated and begun anew, and the journal.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from gateway.logs import output
from gateway.logs.output import FileOutput, StreamOutput, is_journal


def test_a_stream_has_lines_as_they_are(tmp_path: Path) -> None:
    """Standard output that is no journal has no priorities."""
    stream = io.StringIO()
    StreamOutput(stream, is_journal=False).write("warn", ["one", "\ttwo"])
    assert stream.getvalue() == "one\n\ttwo\n"


def test_the_journal_has_priorities() -> None:
    """Each line begins with the priority of its event, those of a traceback too."""
    stream = io.StringIO()
    journal = StreamOutput(stream, is_journal=True)
    for level in ("debug", "info", "warn", "error", "critical"):
        journal.write(level, [level, "\tmore"])
    assert stream.getvalue().splitlines()[::2] == [
        *("<7>debug", "<6>info", "<4>warn", "<3>error", "<2>critical"),
    ]
    assert stream.getvalue().splitlines()[1] == "<7>\tmore" and not journal.reopen()


def test_the_journal_is_known_by_its_socket(tmp_path: Path) -> None:
    """JOURNAL_STREAM counts only where it names the very file that the stream leads to."""
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        right = f"{status.st_dev}:{status.st_ino}"
        assert is_journal(stream, {"JOURNAL_STREAM": right})
        for wrong in (f"{status.st_dev}:1", "nonsense", "", f"{right}0"):
            assert not is_journal(stream, {"JOURNAL_STREAM": wrong})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": right})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.log"


def test_a_file_is_begun_anew(path: Path) -> None:
    """The one before becomes .1, that before it .2; the new one has the same permissions."""
    file = FileOutput(path)
    path.chmod(0o640)
    for text in ("one", "two", "three"):
        file.write("info", [text])
        assert file.reopen()
    assert path.read_text() == ""
    kept = [path.with_name(f"gateway.log.{n}").read_text() for n in (3, 2, 1)]
    assert kept == ["one\n", "two\n", "three\n"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_was_renamed(path: Path, create: bool) -> None:
    """What logrotate has renamed is left to it, whether or not it has made the new file."""
    file = FileOutput(path)
    file.write("info", ["one"])
    path.rename(path.with_name("gateway.log-20261127"))
    if create:
        path.touch(0o600)
    file.write("info", ["two"])
    assert file.reopen()
    file.write("info", ["three"])
    assert path.read_text() == "three\n"
    assert path.with_name("gateway.log-20261127").read_text() == "one\ntwo\n"
    assert len(list(path.parent.iterdir())) == 2


def test_a_file_that_was_truncated(path: Path) -> None:
    """What follows copytruncate begins at its beginning, without a hole before it."""
    file = FileOutput(path)
    file.write("info", ["one"])
    os.truncate(path, 0)
    file.write("info", ["two"])
    assert path.read_bytes() == b"two\n"


def test_a_file_of_a_megabyte(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one begins by itself, before it would be larger; one that was truncated is not."""
    monkeypatch.setattr(output, "ROTATE_SIZE", 100)
    file = FileOutput(path)
    for number in range(10):
        file.write("info", [f"{number}" * 29])
    assert path.read_text() == "9" * 29 + "\n"
    assert len(list(path.parent.iterdir())) == 4
    for _ in range(10):
        file.write("info", ["x" * 29])
        os.truncate(path, 0)
    assert len(list(path.parent.iterdir())) <= 5


def test_a_folder_that_is_gone(path: Path) -> None:
    """Where no new file can be opened, the old one is used on."""
    path.parent.joinpath("logs").mkdir()
    inner = path.parent / "logs" / "gateway.log"
    file = FileOutput(inner)
    (path.parent / "logs").rename(path.parent / "moved")
    with pytest.raises(OSError, match="No such file"):
        file.reopen()
    file.write("info", ["two"])
    assert (path.parent / "moved" / "gateway.log").read_text() == "two\n"
