"""
Where tests have their files: in memory, if there is room.

Every server, spool and buffer flushes as it does on a disk, only that flushing costs nothing:
most of a run's time went there. What a test breaks (processes, connections, files) breaks the
same way; what a power failure would do is not to be seen on a disk either. C{--basetemp}
names another folder, to see how a run does on a disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")

ROOM: Final = 6 * 2**30
"""Bytes: a whole run leaves some 4 GiB where all its folders are kept."""

_PREFIX: Final = "gw-"

_LOCK: Final = "in-use"


class Scratch:
    """
    A folder that is removed at the end, or by the next run where there was no end.

    @ivar folder: in it; not there yet, pytest makes it.
    """

    def __init__(self, place: Path) -> None:
        self._own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock = _locked(self._own / _LOCK, os.O_CREAT)
        self.folder = self._own / "run"

    def remove(self) -> None:
        """Memory is not to be kept for what nobody may ever look at."""
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._lock)


def in_memory(place: Path = MEMORY, room: int = ROOM) -> Scratch | None:
    """
    @param room: bytes that must be left, in the place and of the memory.
    @return: C{None} where it has to be a disk.
    """
    try:
        bury_the_dead(place)
        space = os.statvfs(place)
        if min(space.f_bavail * space.f_frsize, _memory()) < room or not _runs_programs(place):
            return None
        return Scratch(place)
    except OSError:
        return None


def bury_the_dead(place: Path) -> None:
    """Remove what runs left that were killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = _locked(folder / _LOCK)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(path: Path, flags: int = 0) -> int:
    """
    @raise OSError: somebody has it, or it is not there.
    """
    number = os.open(path, os.O_RDWR | flags)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise
    return number


def _memory() -> int:
    """
    @return: bytes that the system could still give away.
    """
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 0


def _runs_programs(place: Path) -> bool:
    """Some systems let no program run from there, and tests make environments of Python."""
    number, name = tempfile.mkstemp(dir=place)
    try:
        os.write(number, b"#!/bin/sh\nexit 0\n")
        os.fchmod(number, 0o700)
        os.close(number)
        return subprocess.run([name], check=False).returncode == 0
    finally:
        Path(name).unlink()
