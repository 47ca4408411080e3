"""
Room for the spool: below its limit, and on the disk.

Taking a record out of SQLite's file, or splitting it, needs room as well: that is
written to the log, and the log to the file. A spool that took the last byte of a
disk could never be emptied again, so each commit that adds something leaves room
for the log's way to the file and for a record to be split.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PAGE: Final = 16384
"""
Bytes of a page: a record is mostly much larger, and each page of it costs a step;
but the least commit writes a page or two.
"""

CHECKPOINT: Final = 512
"""Pages in the log after which SQLite copies them to the file: 8 MiB, less in a small spool."""

_OVERHEAD: Final = 5 * PAGE
"""
Bytes that a commit may take beside its payload: pages begun, the counter, the tree,
the list of free pages.
"""


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Room:
    """
    What a spool may still take.

    @ivar log_pages: pages in the log after which they are to be copied to the file.
    @ivar largest: bytes of the largest payload there.
    """

    def __init__(self, path: Path, log: Path, max_bytes: int) -> None:
        """
        @param log: SQLite's write-ahead log.
        @param max_bytes: that both may take together.
        """
        self.log_pages = min(CHECKPOINT, max_bytes // 16 // PAGE)
        self.largest = 0
        self._path = path
        self._log = log
        self._max_bytes = max_bytes

    def lacking(self, size: int, pages: int, free: int) -> str:
        """
        @param size: bytes of payload to be added.
        @param pages: that the file has, or will have when the log is copied to it.
        @param free: how many of these are free.
        @return: what is lacking; C{""} where they fit.
        """
        # It is written to the log first, then to free pages of the file or to its end.
        spare = _written(max(self.largest, size))
        size = _written(size)
        grown = pages * PAGE + max(0, size - free * PAGE)
        if max(size_of(self._log) + size, self.log_pages * PAGE) + grown > self._max_bytes:
            return "the spool is full"
        disk = os.statvfs(self._path.parent)
        due = grown - size_of(self._path)
        if size + due + spare > disk.f_bavail * disk.f_frsize:
            return "there is no room for the spool"
        return ""


def _written(size: int) -> int:
    """Bytes that a commit of so much payload writes, with the headers of its pages."""
    return size + size // 256 + _OVERHEAD
