"""
Lock file that one process holds at a time, for as long as it lives.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from gateway.system.regular_file import own_file


class LockHeld(Exception):
    """
    The lock is held by another process.

    @ivar owner: its process ID as written in the file, or C{unknown}.
    """

    def __init__(self, owner: str) -> None:
        super().__init__(f"held by process {owner}")
        self.owner = owner


class LockFile:
    """
    Advisory lock, flock(2): it ends with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def hold(self) -> None:
        """
        Take the lock; calling it again is harmless.

        @raise LockHeld: another process has it.
        @raise OSError: the file cannot be made.
        """
        if self._file is not None:
            return
        file = os.fdopen(own_file(self._path), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise LockHeld(owner) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
