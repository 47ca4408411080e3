"""
Mark file: how many messages the spool must hold, to detect lost ones.

SQLite drops the end of its log where a checksum does not fit, and does not report it: it
cannot tell a torn tail (never acknowledged) from a flipped byte in the middle
(acknowledged, and lost). After each commit the mark beside the spool says how far
it is; a spool that is behind its mark, or gone, has lost something.

The mark is not flushed to disk: after a power failure it may be old, which is
harmless, never ahead of what was committed.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gateway.system.regular_file import own_file


class SpoolMark(NamedTuple):
    """
    Content of the mark file.

    @ivar next: the number that the next record will get.
    @ivar rows: messages in the spool.
    """

    next: int
    rows: int


class MarkFile:
    """
    Mark file, of one line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = -1

    def load(self) -> SpoolMark:
        """Return the mark; zeros where there is none."""
        try:
            match = re.fullmatch(r"next (\d+) messages (\d+) *\n", self._path.read_text("ascii"))
        except (OSError, UnicodeDecodeError):
            match = None
        return SpoolMark(int(match[1]), int(match[2])) if match else SpoolMark(0, 0)

    def open(self) -> None:
        self._number = own_file(self._path)

    def save(self, mark: SpoolMark) -> None:
        # Always as long as before, so that it is whole whenever it is read.
        line = f"next {mark.next} messages {mark.rows}"
        # A mark that cannot be written is an old one, and what it marks is committed.
        with suppress(OSError):
            os.pwrite(self._number, f"{line:<63}\n".encode("ascii"), 0)

    def close(self) -> None:
        if self._number >= 0:
            os.close(self._number)
            self._number = -1
