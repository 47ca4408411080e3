"""
Content of a followed file, from its beginning until it is truncated or finished.

Strategy: an open descriptor, with the first bytes and the last ones that were read. By these the
file is recognized later, and a truncation is noticed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace

from gateway.commands.send.inputs import BLOCK, Block, Cutter
from gateway.commands.send.rotation import HEAD, TRAIL, FilePosition, FoundFile, digest, hole


class Generation:
    """
    Content of one file, from its beginning or a truncation on.

    @ivar offset: offset of the next byte to read.
    @ivar given: offset behind the last whole message that was returned.
    @ivar until: nothing from this byte on is read: it came when the next file was begun.
    @ivar over: when something else got the name, or it grew after that.
    @ivar named_until: its last change, in nanoseconds, when it was last seen under the name.
    @ivar cut: truncated: nothing more can be read of it.
    @ivar trouble: why it cannot be read just now.
    """

    def __init__(
        self, number: int, found_file: FoundFile, offset: int, line: int, cutter: Cutter
    ) -> None:
        self.number = number
        self.offset = self.given = offset
        self.line = line
        self.cutter = cutter
        self.head = b""
        # What was read last, and before that all of a message that is not finished.
        self._recent = bytearray(
            os.pread(found_file.file, min(TRAIL, offset), max(0, offset - TRAIL))
        )
        self._trails: dict[int, tuple[int, str]] = {}
        self._remember()
        self.until = sys.maxsize
        # What was there when it was opened is given by itself: it may have been sent before.
        self._was = found_file.stat.st_size
        self.over: float | None = None
        self.cut = False
        self.trouble = ""
        self.replace_file(found_file)

    def replace_file(self, found_file: FoundFile) -> None:
        """Use an open file, or replace the current one by it."""
        self.file = found_file.file
        self.key = found_file.key
        self.path = found_file.path
        self.seen = (found_file.stat.st_size, found_file.stat.st_mtime_ns)
        self.named_until = found_file.stat.st_mtime_ns
        self._grow_head()

    def once_more(self) -> FoundFile:
        """Return the file, opened again."""
        file = os.dup(self.file)
        return FoundFile(file, self.path, os.fstat(file), own=True)

    def next_messages(self) -> bytes:
        most = min(BLOCK, self.until - self.offset)
        if self.offset < self._was:
            most = min(most, self._was - self.offset)
        try:
            if not self.offset:
                self.offset = hole(self.file)
            data = os.pread(self.file, most, self.offset)
            if data and self._changed():
                return b""  # truncated and grown again; the next look sees that too
        except OSError as error:
            self.trouble = error.strerror or "cannot be read"
            return b""
        self._grow_head()
        self._recent += data
        self.offset += len(data)
        return data

    @property
    def is_read(self) -> bool:
        """True if more of it can be read, as far as is known."""
        return not self.cut and not self.trouble

    @property
    def unread(self) -> int:
        """Bytes that exist and were not read yet."""
        with contextlib.suppress(OSError):
            return max(0, os.fstat(self.file).st_size - self.offset)
        return 0

    def truncated(self, status: os.stat_result) -> bool:
        """Say whether bytes that were read are gone; it may have grown beyond them again."""
        return status.st_size < self.offset or self._changed()

    def looked_at(self, status: os.stat_result) -> None:
        """Note the state of the file after a check."""
        self.seen = (status.st_size, status.st_mtime_ns)
        self._grow_head()

    def fits(self, file: int) -> bool:
        """Say whether a file has the bytes that were read of this one."""
        return self.mark_read().fits(file, os.fstat(file))

    def _grow_head(self) -> None:
        if len(self.head) < HEAD:
            self.head = os.pread(self.file, HEAD, 0)

    def _changed(self) -> bool:
        # The first bytes may be a header that every file has, and those before the place the
        # same in each: both are looked at.
        trail = self._recent[-TRAIL:]
        return (
            os.pread(self.file, len(trail), self.offset - len(trail)) != trail
            or os.pread(self.file, len(self.head), 0) != self.head
        )

    def block(self, name: str, messages: list[bytes]) -> Block:
        given = self.offset - self.cutter.pending
        block = Block(messages, given - self.given, name, self.line, given, self.number)
        self.line += len(messages)
        self.given = given
        self._remember()
        return block

    def _remember(self) -> None:
        """
        Keep the bytes before this place: they are needed when it is answered, and the file may have
        changed by then.
        """
        end = len(self._recent) - (self.offset - self.given)
        start = max(0, end - TRAIL)
        self._trails[self.given] = (end - start, digest(bytes(self._recent[start:end])))
        del self._recent[:start]

    def mark(self, offset: int) -> FilePosition:
        """
        Return the place at which a block begins or ends; smaller ones are forgotten.
        """
        while (first := next(iter(self._trails))) < offset:
            del self._trails[first]
        return self._mark(offset, *self._trails[offset])

    def mark_named(self) -> FilePosition:
        """Position up to which it was read, with its last change of when it still had the name."""
        return replace(self.mark_read(), changed=self.named_until)

    def mark_read(self) -> FilePosition:
        """Return how far it was read, maybe within a message."""
        trail = bytes(self._recent[-TRAIL:])
        return self._mark(self.offset, len(trail), digest(trail))

    def _mark(self, offset: int, before: int, trail: str) -> FilePosition:
        return FilePosition(
            *self.key,
            size=len(self.head),
            digest=digest(self.head),
            offset=offset,
            before=before,
            trail=trail,
            end=max(self.seen[0], self.offset),
            changed=self.seen[1],
            path=str(self.path),
            dead=self.cut,
        )
