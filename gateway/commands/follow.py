"""
Following a name in the file system as C{tail -F} does, for C{gateway send --follow}.

Strategy: sans reactor. L{Tail.look} asks what has the name now, L{Tail.read} gives what is
new. A I{generation} is the content of one file from its beginning, or from when it was
truncated, until it is truncated or another file gets the name. Generations wait in a
queue, each with an open descriptor: somebody who is looked at often and read seldom (the
gateway is away) misses no rotation by rename, however many there are.

A writer may go on with a file after it was renamed, until it opens the new one. So a
generation is given up only when it was quiet for a while after the next one came; a last
line without its LF is then taken as it is, since nobody will finish it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.commands.inputs import BLOCK, Block, Cutter, NewCutter

QUIET: Final = 1.0
"""Seconds without growth after which a file that lost its name is taken as complete."""

HEAD: Final = 256
"""Bytes from the beginning by which a file is known again: a log's first lines have a time."""

_ROTATED: Final = re.compile(r"[._-][0-9][0-9T:._-]*")
"""What logrotate and its like put behind a name: C{.1}, C{-20260131}; not C{.gz}."""


@dataclass(frozen=True, slots=True)
class Mark:
    """
    A place in a file that can be found again after its name was rotated away.

    @ivar size: how many bytes from the beginning C{digest} is of.
    """

    device: int
    inode: int
    size: int
    digest: str
    offset: int

    def within(self, file: int, found: os.stat_result) -> bool:
        """Whether this open file is the one, wherever it was moved or copied to."""
        same = (found.st_dev, found.st_ino) == (self.device, self.inode)
        if found.st_size < max(self.offset, self.size) or not (same or self.size):
            return False
        return _digest(os.pread(file, self.size, 0)) == self.digest


class _Generation:
    """
    One file's content.

    @ivar offset: of the byte to be read next.
    @ivar given: of the byte behind the last whole message that was given out.
    @ivar over: when something else got the name, or it grew after that.
    @ivar cut: truncated: nothing more can be read of it.
    """

    def __init__(self, number: int, file: int, offset: int, line: int, cutter: Cutter) -> None:
        self.number = number
        self.file = file
        self.offset = self.given = offset
        self.line = line
        self.cutter = cutter
        found = os.fstat(file)
        self.key = (found.st_dev, found.st_ino)
        self.head = os.pread(file, min(HEAD, offset), 0)
        self.seen = (found.st_size, found.st_mtime_ns)
        self.over: float | None = None
        self.cut = False

    def read(self) -> bytes:
        data = os.pread(self.file, BLOCK, self.offset)
        if data and self._changed():
            return b""  # truncated and grown again; the next look sees that too
        if self.offset < HEAD:
            self.head += data[: HEAD - self.offset]
        self.offset += len(data)
        return data

    def truncated(self, found: os.stat_result) -> bool:
        """Whether what was read is not there any more."""
        if found.st_size < self.offset:
            return True
        seen = (found.st_size, found.st_mtime_ns)
        if seen != self.seen:
            # It may have grown beyond what we read since it was truncated.
            if self._changed():
                return True
            self.seen = seen
        return False

    def _changed(self) -> bool:
        return os.pread(self.file, len(self.head), 0) != self.head

    def block(self, name: str, messages: list[bytes]) -> Block:
        given = self.offset - self.cutter.pending
        block = Block(messages, given - self.given, name, self.line, given, self.number)
        self.line += len(messages)
        self.given = given
        return block


class Tail:
    """
    Everything that is written to whatever file has a name, in order.

    @ivar lost: bytes that a truncation took away before they were read.
    """

    def __init__(
        self,
        path: Path,
        cutter: NewCutter,
        seconds: Callable[[], float],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        @param seconds: the clock.
        @param tell: gets a line for people whenever something unusual happens.
        """
        self.path = path
        self.lost = 0
        self._cutter = cutter
        self._seconds = seconds
        self._tell = tell
        self._generations: deque[_Generation] = deque()
        self._count = 0
        self._missing = False

    def resume(self, mark: Mark, line: int = 1) -> bool:
        """
        Before the first look: begin with a file of before, wherever it is now.

        @param line: the number, within it, of the line at the mark.
        @return: whether it was found.
        """
        for path in _candidates(self.path):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            if mark.within(file, os.fstat(file)):
                self._end_newest()
                self._add(file, mark.offset, line)
                return True
            os.close(file)
        return False

    def catch_up(self) -> None:
        """
        After L{resume}: take what was rotated away since then, oldest first.
        """
        if not self._generations:
            return
        known = {generation.key for generation in self._generations}
        since = self._generations[-1].seen[1]
        found = []
        for path in _candidates(self.path)[1:]:
            there = path.stat()
            if (
                _ROTATED.fullmatch(path.name.removeprefix(self.path.name))
                and there.st_mtime_ns > since
                and (there.st_dev, there.st_ino) not in known
            ):
                found.append((there.st_mtime_ns, path))
        for _, path in sorted(found):
            self._end_newest()
            self._add(os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0, 1)

    def look(self) -> None:
        """
        See what has the name now. To be called several times a second.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._say_missing(f"{self.path}: is not there (yet); waiting for it")
            return
        except OSError as error:
            self._say_missing(f"{self.path}: {error.strerror}; trying again")
            return
        if not stat.S_ISREG(found.st_mode):
            self._say_missing(f"{self.path}: is no regular file, and cannot be followed")
            return
        newest = self._generations[-1] if self._generations else None
        if newest is not None and (found.st_dev, found.st_ino) == newest.key and not newest.cut:
            if not newest.truncated(found):
                return
            self._cut(newest)
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._say_missing(f"{self.path}: {error.strerror}; trying again")
            return
        self._missing = False
        self._end_newest()
        self._add(file, 0, 1)

    def read(self) -> Block | None:
        """
        @return: what is new, C{None} where nothing is.
        @raise InputError: it is not what it should be.
        """
        while self._generations:
            oldest = self._generations[0]
            data = b"" if oldest.cut else oldest.read()
            if data:
                if oldest.over is not None:
                    oldest.over = self._seconds()
                messages = oldest.cutter.feed(data)
                if messages:
                    return oldest.block(str(self.path), messages)
            elif oldest.over is None or not (oldest.cut or self._seconds() - oldest.over >= QUIET):
                return None
            else:
                self._generations.popleft()
                messages = oldest.cutter.end()
                os.close(oldest.file)
                if messages:
                    return oldest.block(str(self.path), messages)
        return None

    def mark(self, number: int, offset: int) -> Mark | None:
        """
        A place in a generation; C{None} where that is read and done with.
        """
        for generation in self._generations:
            if generation.number == number:
                device, inode = generation.key
                head = generation.head
                return Mark(device, inode, len(head), _digest(head), offset)
        return None

    @property
    def unread(self) -> int:
        """Bytes that are there and were not read."""
        return sum(
            max(0, os.fstat(generation.file).st_size - generation.offset)
            for generation in self._generations
            if not generation.cut
        )

    def close(self) -> None:
        while self._generations:
            os.close(self._generations.pop().file)

    def _end_newest(self) -> None:
        if self._generations:
            self._generations[-1].over = self._seconds()

    def _add(self, file: int, offset: int, line: int) -> None:
        self._generations.append(
            _Generation(self._count, file, offset, line, self._cutter(offset == 0))
        )
        self._count += 1

    def _cut(self, newest: _Generation) -> None:
        newest.cut = True
        lost = newest.seen[0] - newest.offset
        text = f"{self.path}: was truncated; reading it from its beginning"
        if lost > 0:
            self.lost += lost
            text += f"; {lost:,} bytes had not been read"
        self._tell(text)

    def _say_missing(self, text: str) -> None:
        if not self._missing:
            self._missing = True
            self._tell(text)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _candidates(path: Path) -> list[Path]:
    """
    Where a file of this name may be after rotation, the name itself first.
    """
    try:
        others = [entry for entry in path.parent.iterdir() if entry.name.startswith(path.name)]
    except OSError:
        return [path]
    return [path, *sorted(entry for entry in others if entry != path and entry.is_file())]
