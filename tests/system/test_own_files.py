"""
The gateway's own files and folders: nothing is believed because it is there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from gateway.daemon.embedded import DataDirectory
from gateway.model.errors import EmbeddedError
from gateway.spool.database import open_database
from gateway.spool.disk_space import Room
from gateway.spool.mark import MarkFile
from gateway.system.lock import LockFile
from gateway.system.regular_file import own_file, own_folder

PRECIOUS: Final = "not the gateway's"


def room(path: Path) -> Room:
    return Room(path, path.with_name("wal"), 1 << 20)


OPENERS: Final[dict[str, Callable[[Path], object]]] = {
    "own_file": own_file,
    "lock": lambda path: LockFile(path).hold(),
    "mark": lambda path: MarkFile(path).open(),
    "spool": lambda path: open_database(path, room(path)),
}


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of somebody else's, which is not to be touched."""
    path = tmp_path / "precious"
    path.write_text(PRECIOUS)
    return path


@pytest.mark.parametrize("what", OPENERS)
@pytest.mark.parametrize("link", ["symbolic", "hard", "dangling"])
def test_a_link_is_not_followed(tmp_path: Path, precious: Path, what: str, link: str) -> None:
    """What it leads to is neither changed nor made, as root neither."""
    path = tmp_path / "file"
    if link == "hard":
        path.hardlink_to(precious)
    else:
        path.symlink_to(precious if link == "symbolic" else tmp_path / "new")
    with pytest.raises(OSError, match="link"):
        OPENERS[what](path)
    assert precious.read_text() == PRECIOUS and not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_links_beside_the_spool(tmp_path: Path, precious: Path, suffix: str) -> None:
    """The same of what SQLite would open beside it."""
    (tmp_path / f"spool.db{suffix}").symlink_to(precious)
    with pytest.raises(OSError, match="link"):
        open_database(tmp_path / "spool.db", room(tmp_path))
    assert precious.read_text() == PRECIOUS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    """It is named, with whose it is."""
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 1234, 1234)
    with pytest.raises(OSError, match="belongs to user 1234"):
        own_file(path)
    folder = tmp_path / "folder"
    folder.mkdir(0o700)
    os.chown(folder, 1234, 1234)
    with pytest.raises(OSError, match="belongs to user 1234"):
        own_folder(folder)


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """Nobody waits for it."""
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"is no plain file|directory"):
        own_file(path)


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o770, 0o701])
def test_a_folder_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    """It is refused with what to type; what is in it is left as it is."""
    folder = tmp_path / "gateway-data"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(EmbeddedError, match=f"mode {mode:04o}.* run: chmod 700 {folder}"):
        DataDirectory(folder).lock()
    assert list(folder.iterdir()) == []
    folder.chmod(0o700)
    directory = DataDirectory(folder)
    directory.lock()
    directory.unlock()


def test_a_new_folder_is_ours_alone(tmp_path: Path) -> None:
    """Whatever the mask is."""
    directory = DataDirectory(tmp_path / "new")
    before = os.umask(0)
    try:
        directory.lock()
    finally:
        os.umask(before)
    directory.unlock()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "gateway.lock").stat().st_mode) == 0o600
