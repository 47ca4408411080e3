"""
Limits of the spool's size: its configured limit, and the free space of the disk.

Taking a record out of SQLite's file, or splitting it, needs space as well: that is
written to the log, and the log to the file. A spool that took the last byte of a
disk could never be emptied again, so each commit that adds something leaves space
to copy the log to the file and to split a record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.spool.record import Record

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

_HEAD: Final = 128
"""Bytes of a record beside its payload and a long route's name."""


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Room:
    """
    Space that a spool may still take.

    @ivar log_pages: pages in the log after which they are to be copied to the file.
    @ivar largest: bytes of the largest payload there.
    """

    def __init__(self, path: Path, log: Path, max_bytes: int) -> None:
        """
        @param log: SQLite's write-ahead log.
        @param max_bytes: bytes that file and log may take together.
        """
        self.log_pages = min(CHECKPOINT, max_bytes // 16 // PAGE)
        self.largest = 0
        self._path = path
        self._log = log
        self._max_bytes = max_bytes

    def replace_limit(self, max_bytes: int) -> None:
        """Replace the limit of the space that file and log may take together."""
        self._max_bytes = max_bytes

    @property
    def log_bytes(self) -> int:
        """Bytes of the log when it is copied, and most bytes to remove at once."""
        return self.log_pages * PAGE

    def lacking(self, size: int, pages: int, free: int) -> str:
        """
        Return the reason why a payload does not fit; C{""} where it does.

        @param size: bytes of payload to be added.
        @param pages: pages that the file has, or will have when the log is copied to it.
        @param free: how many of these are free.
        """
        # It is written to the log first, then to free pages of the file or to its end.
        spare = _commit_bytes(max(self.largest, size))
        size = _commit_bytes(size)
        # The log, and the space that a removal takes in it.
        log = max(size_of(self._log) + size, 2 * self.log_bytes + _OVERHEAD)
        grown = pages * PAGE + max(0, size - free * PAGE)
        if log + grown > self._max_bytes:
            return "the spool is full"
        disk = os.statvfs(self._path.parent)
        due = grown - size_of(self._path)
        if size + due + spare > disk.f_bavail * disk.f_frsize:
            return "there is no room for the spool"
        return ""


def portions(records: Sequence[Record], size: int) -> Iterator[list[Record]]:
    """
    Split records into portions, so that removing one writes no more than some bytes.

    SQLite writes each page that it empties.
    """
    portion: list[Record] = []
    taken = 0
    for record in records:
        written = len(record.payload) + _HEAD
        if portion and taken + written > size:
            yield portion
            portion, taken = [], 0
        portion.append(record)
        taken += written
    yield portion


def _commit_bytes(size: int) -> int:
    """Return the bytes that a commit of so much payload writes, with the headers of its pages."""
    return size + size // 256 + _OVERHEAD
