"""
Follow a name in the file system as C{tail -F} does, for C{gateway send --follow}.

Strategy: without a reactor. L{Tail.check_name} checks which file has the name now,
L{Tail.next_messages} returns what is new. A I{generation} is the content of one file from its
beginning, or from when it was truncated, until it is truncated or another file gets the name.
Generations wait in a queue, each with an open descriptor: if L{Tail.check_name} is called often, no
rotation by rename is missed, even while nothing is read (the gateway is away).

A writer may go on with a renamed file until it opens the new one. So a generation ends only when it
was quiet for a while and the next one has content; a last line without its LF is then taken as it
is, since nobody will complete it.

After a truncation a file has other bytes before the current offset than those that were read, or
none. Where it was copied before (logrotate's C{copytruncate}), its rest is read from the copy.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.commands.send.generation import Generation
from gateway.commands.send.inputs import Block, NewCutter
from gateway.commands.send.rotation import (
    FilePosition,
    FoundFile,
    count_lines,
    find,
    has_path,
    inodes_beside,
    keys_of,
    mark_rotated,
    rotated,
)

QUIET: Final = 1.0
"""Seconds without growth after which a file that lost its name is taken as complete."""

SETTLED: Final = 10
"""Looks after which a folder's last change is surely older than them: file systems tell it by
ticks, of 10 ms at most."""

KEPT: Final = 8
"""Files that were read to their end and stay open: a late writer is to be noticed."""


class Tail:
    """
    Reader of everything that is written to a name, in order, whichever file has it.

    @ivar lost: bytes that are known to have existed and could not be read.
    @ivar on_rotation: called when another file gets the name while an older one is still read.
    @ivar on_cut: called with the inode of a truncated file, and the place of its rest, if any.
    @ivar done: ends of files that an earlier run has read completely.
    """

    def __init__(
        self,
        path: Path,
        cutter: NewCutter,
        seconds: Callable[[], float],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        @param seconds: returns the time of a monotonic clock.
        @param tell: called with a line for people when something unusual happens.
        """
        self.path = path
        self.lost = 0
        self.done: Sequence[FilePosition] = ()
        self.on_rotation: Callable[[], None] = lambda: None
        self.on_cut: Callable[[int, FilePosition | None], None] = lambda inode, rest: None
        self._cutter = cutter
        self._seconds = seconds
        self._tell = tell
        self._generations: deque[Generation] = deque()
        self._ended: deque[Generation] = deque()
        # Generations seen before L{begin}; open until L{catch_up}.
        self._early: list[Generation] = []
        self._count = 0
        self._missing = False
        self._folder = 0
        # When the folder was changed last, and how many looks ago that was seen.
        self._unchanged = (0, 0)
        # Files with unknown names that were reported.
        self._unknown: set[tuple[int, int]] = set()
        # The last place in the newest file that is known, which may be gone.
        self._behind: FilePosition | None = None

    def begin(self) -> None:
        """
        Prepare for L{resume}: generations seen so far are kept for L{catch_up}.
        """
        self._early, self._count = list(self._generations), 0
        self._generations.clear()

    def resume(
        self,
        mark: FilePosition,
        line: int = 1,
        followed: bool = False,
        others: Sequence[FilePosition] = (),
        later: Sequence[FilePosition] = (),
        copied: bool = True,
    ) -> FoundFile | None:
        """
        Go on in a file of an earlier run, wherever it is now.

        @param line: line number of the mark in it.
        @param followed: whether a later file was begun; then this one is not read beyond its end
            then.
        @param others: marks of other known files.
        @param later: the files among them that came after this one.
        @param copied: whether a copy may be read instead.
        @return: the file; C{None} where it is gone.
        """
        early = [
            replace(one.once_more(), own=one.key[1] == mark.inode)
            for one in self._early
            if not one.cut
        ]
        found_file = find(self.path, mark, self._tell, early, followed, others, later, copied)
        if found_file is not None:
            self._end_newest()
            self._add(found_file, mark.offset, line)
            # Only in the file itself: a copy may be of another file that begins alike.
            for done in self.done if followed and found_file.own else ():
                if done.inode == mark.inode and done.offset >= mark.offset:
                    self._generations[-1].until = done.offset
        return found_file

    def catch_up(self, mark: FilePosition) -> list[Path]:
        """
        Queue files that were rotated since the newest file was opened, oldest first.

        @param mark: last place in that file, or in one that is gone.
        @return: files that are read from their beginning.
        """
        newest = self._generations[-1] if self._generations else None
        self._behind = mark
        found_files, unknown = rotated(self.path, mark, self._tell, self.done)
        done = self._measure_done((*found_files, *unknown))
        if newest is not None and self._is_last(newest):
            for one in (*found_files, *unknown):
                one.close()
            return self._take_early()
        held = (*self._generations, *self._ended, *self._early)
        # A file that was truncated goes on with another content, under whatever name.
        known = {one.key for one in held if one.file >= 0 and not one.cut}
        # As it was when it was last seen: whoever writes to it late makes it seem younger.
        changed = mark.changed
        own = [
            at for at, one in enumerate(found_files) if newest is not None and one.key == newest.key
        ]
        first = own[0] + 1 if own else 0
        taken: list[FoundFile] = []
        ordered = True
        for at, one in enumerate(found_files):
            behind = bool(own) and at >= first
            if one.key in known | done or not (
                behind
                or (one.changed_at >= changed and not (own and mark.fits(one.file, one.stat)))
            ):
                one.close()
                continue
            # It came after that one, whatever its name says, since all others are known.
            ordered = ordered and (behind or not own)
            taken.append(one)
        if not ordered:
            taken.sort(key=lambda one: (one.changed_at, one.path.name))
        for one in taken:
            self._end_newest()
            self._add(one, 0, 1)
        if newest is not None and newest.key in {one.key for one in unknown}:
            self._tell(
                f"{newest.path}: its name does not say when it was rotated; those that came after"
                " it are taken in the order of their last change"
            )
        for one in unknown:
            if one.changed_at >= changed and one.key not in known | done | self._unknown:
                self._unknown.add(one.key)
                self._tell(
                    f"{one.path}: its name does not say when it was rotated; if it came after the"
                    f" file that was being sent, its {one.stat.st_size:,} bytes are not sent"
                )
            one.close()
        return [*(one.path for one in taken), *self._take_early()]

    def _is_last(self, newest: Generation) -> bool:
        """Say whether no named file came after this one, except those seen directly."""
        if newest.key in {one.key for one in self._early}:
            return True
        return newest.key in keys_of(self.path)

    def _take_early(self) -> list[Path]:
        """
        Queue the generations seen before L{begin} that come after the resumed ones.
        """
        known = {one.key for one in self._generations}
        early, self._early = self._early, []
        after = max((at for at, one in enumerate(early) if one.key in known), default=-1) + 1
        for one in early[:after]:
            self._forget(one)
        for one in early[after:]:
            self._end_newest()
            one.number = self._count
            self._count += 1
            self._generations.append(one)
        return [one.path for one in early[after:] if one.over is not None]

    def skip_rotated(self) -> None:
        """Mark all files rotated before the first run as read."""
        known = {one.key for one in self._generations}
        self.done = [*self.done, *mark_rotated(self.path, known)]

    def _measure_done(self, found_files: Sequence[FoundFile]) -> set[tuple[int, int]]:
        """
        Report late writes to files that were read completely, and forget files that are gone.

        @param found_files: all files there now.
        @return: keys of those among them that were read completely.
        """
        keys = set()
        kept = []
        open_still = {one.key for one in self._ended if one.file >= 0}
        named = keys_of(self.path)
        by_inode = {one.key[1]: one for one in found_files}
        there = inodes_beside(self.path)
        for mark in self.done:
            one = by_inode.get(mark.inode)
            size = max(mark.offset, mark.end)
            if one is not None and (
                # Untouched, it need not be read.
                mark.is_untouched(one.stat) or mark.fits(one.file, one.stat)
            ):
                if one.key not in open_still | named:
                    self._say_late(one.path, one.stat.st_size - size)
                keys.add(one.key)
                size = max(size, one.stat.st_size)
                kept.append(replace(mark, end=size, changed=one.changed_at))
            elif one is None and (there is None or mark.inode in there or has_path(mark)):
                # It may not be readable now, have the name again, or be what a link is pointed to.
                kept.append(mark)
        self.done = kept
        return keys

    def check_name(self) -> None:
        """
        Check which file has the name now; to be called several times a second.
        """
        self._look_back()
        newest = self._generations[-1] if self._generations else None
        cut = newest is not None and newest.is_read and self._was_cut(newest)
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if newest is not None:
                # A file may get the name and lose it again between two looks, however often.
                moved = self._cut(newest, False) if cut else None
                if cut or self._folder_changes():
                    self.catch_up(newest.mark_named())
                self._take_moved(moved)
            self._say_missing(f"{self.path}: is not there (yet); waiting for it")
            return
        except OSError as error:
            self._say_missing(f"{self.path}: {error.strerror}; trying again")
            return
        if not stat.S_ISREG(status.st_mode):
            self._say_missing(f"{self.path}: is no regular file, and cannot be followed")
            return
        named = newest is not None and (status.st_dev, status.st_ino) == newest.key
        if newest is not None and named and newest.is_read and not cut:
            newest.named_until = newest.seen[1]
            return
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._say_missing(f"{self.path}: {error.strerror}; trying again")
            return
        self._missing = False
        real = Path(os.path.realpath(self.path))
        one = FoundFile(file, real, os.fstat(file), named=True)
        if newest is not None and not cut and self._same_again(newest, one):
            return
        place = self._sent_of(one)
        moved = None
        if newest is not None:
            if cut:
                moved = self._cut(newest, named)
            self._behind = newest.mark_named()
        if self._behind is not None:
            self.catch_up(self._behind)  # more than one rotation since the last look
        self._take_moved(moved)
        self._end_newest()
        self._add(one, *place)

    def _folder_changes(self) -> bool:
        """
        Say whether files may have come or gone recently, since listing a large folder is slow.
        """
        changed = 0
        with contextlib.suppress(OSError):
            changed = self.path.parent.stat().st_mtime_ns
        same, looks = self._unchanged
        self._unchanged = (changed, looks + 1 if same == changed else 0)
        return self._unchanged[1] < SETTLED or self.path.is_symlink()

    def _sent_of(self, one: FoundFile) -> tuple[int, int]:
        """
        Return offset and line number up to which a file was sent that has the name once more, after
        a rotation that was undone or a link that was set back.
        """
        for ended in reversed(self._ended):
            if ended.key == one.key and ended.file >= 0 and ended.fits(one.file):
                return self._say_again(one, ended.offset)
        for mark in self.done:
            if mark.inode == one.key[1] and mark.offset and mark.fits(one.file, one.stat):
                return self._say_again(one, mark.offset)
        return 0, 1

    def _say_again(self, one: FoundFile, offset: int) -> tuple[int, int]:
        line = 1 + count_lines(one.file, offset)
        self._tell(
            f"{self.path}: {one.path.name} has the name again, and was sent; going on behind its"
            f" line {line - 1:,}"
        )
        return offset, line

    def _was_cut(self, newest: Generation) -> bool:
        try:
            return self._compare(newest, os.fstat(newest.file))
        except OSError as error:
            newest.trouble = error.strerror or "cannot be read"
            return False

    def _compare(self, newest: Generation, status: os.stat_result) -> bool:
        if (status.st_size, status.st_mtime_ns) == newest.seen:
            return False
        gone = newest.seen[0] - status.st_size
        if newest.truncated(status) or (gone > 0 and not newest.offset):
            return True
        if gone > 0 or self._may_be_copied(newest, status):
            # The bytes that were read are there. But they may be a header that each file has: if a
            # copy continues with other bytes, the file was truncated.
            copy = find(self.path, newest.mark_read(), self._tell, [newest.once_more()])
            if copy is not None:
                os.close(copy.file)
                if not copy.own:
                    return True
        if gone > 0:
            self.lost += gone
            self._tell(f"{self.path}: {gone:,} bytes at its end were taken away before being read")
        newest.looked_at(status)
        return False

    def _may_be_copied(self, newest: Generation, status: os.stat_result) -> bool:
        """
        Say whether a copy may have been made since the last look, since listing a large folder is
        slow.
        """
        changed = newest.path.parent.stat().st_mtime_ns
        if changed == self._folder:
            return False
        if status.st_mtime_ns > changed:
            self._folder = changed  # else another one may come within the same tick
        return True

    def _same_again(self, newest: Generation, one: FoundFile) -> bool:
        """
        Say whether a file is the newest one, on a device with another number, or readable again: a
        network file system was mounted again.
        """
        if newest.cut or one.key[1] != newest.key[1] or not newest.fits(one.file):
            return False
        os.close(newest.file)
        newest.replace_file(one)
        newest.trouble = ""
        return True

    def next_messages(self) -> Block | None:
        """
        Return the next messages.

        @return: C{None} where there is nothing new.
        @raise InputError: the content is not of the expected kind.
        """
        while self._generations:
            oldest = self._generations[0]
            data = b"" if oldest.cut else oldest.next_messages()
            if oldest.trouble and not self._give_up(oldest):
                self._say_missing(f"{oldest.path}: {oldest.trouble}; trying again")
                return None
            if data:
                if oldest.over is not None:
                    oldest.over = self._seconds()
                messages = oldest.cutter.feed(data)
                if messages:
                    return oldest.block(str(self.path), messages)
            elif not self._is_over(oldest):
                return None
            else:
                self._generations.popleft()
                messages = oldest.cutter.end()
                if not oldest.cut and oldest.until > oldest.seen[0] > oldest.offset:
                    self.lost += oldest.seen[0] - oldest.offset
                    self._tell(
                        f"{oldest.path}: was truncated after it was renamed;"
                        f" {oldest.seen[0] - oldest.offset:,} bytes had not been read and are lost"
                    )
                oldest.seen = (oldest.offset, oldest.seen[1])
                if oldest.cut:
                    # Its file may go on with other content, as another generation.
                    self._forget(oldest)
                self._ended.append(oldest)
                if len(self._ended) > KEPT:
                    self._forget_oldest()
                if messages:
                    return oldest.block(str(self.path), messages)
        return None

    def _forget_oldest(self) -> None:
        oldest = self._ended.popleft()
        if not oldest.cut:
            mark = oldest.mark_read()
            self.done = [*(one for one in self.done if one.inode != mark.inode), mark]
        self._forget(oldest)

    def _give_up(self, oldest: Generation) -> bool:
        """
        Give up an unreadable file that lost its name, since nobody will mend it; say whether it is
        given up.
        """
        if oldest.over is None or self._seconds() - oldest.over < QUIET:
            return False
        if not oldest.cut:
            oldest.cut = True
            lost = max(0, oldest.seen[0] - oldest.offset)
            self.lost += lost
            self._tell(f"{oldest.path}: {oldest.trouble}; {lost:,} bytes of it are lost")
        return True

    def _is_over(self, oldest: Generation) -> bool:
        if oldest.cut:
            return True
        if oldest.over is None or self._seconds() - oldest.over < QUIET:
            return False
        # A writer that has not begun the next one may still have this one open.
        after = self._generations[1]
        return after.over is not None or after.cut or os.fstat(after.file).st_size > 0

    def mark(self, number: int, offset: int) -> FilePosition | None:
        """
        Return a place in a generation; C{None} where it is no longer kept.
        """
        for generation in (*self._generations, *self._ended):
            if generation.number == number:
                return generation.mark(offset)
        return None

    @property
    def newest(self) -> FilePosition | None:
        """End of what was read of the newest file."""
        return self._generations[-1].mark_read() if self._generations else None

    def files_not_begun(self) -> list[FilePosition]:
        """Return the files that were seen and not begun."""
        return [one.mark_read() for one in self._generations if not one.offset and not one.cut]

    @property
    def inodes(self) -> set[int]:
        """Inodes of the files still to be read."""
        return {one.key[1] for one in self._generations}

    def known(self, number: int) -> FilePosition | None:
        """Return how far a generation was read; C{None} where it is no longer kept."""
        for generation in (*self._generations, *self._ended):
            if generation.number == number:
                return generation.mark_read()
        return None

    def ended(self) -> list[FilePosition]:
        """Return the ends of files that were read completely, in earlier runs too."""
        marks = [generation.mark_read() for generation in self._ended if not generation.cut]
        known = {mark.inode for mark in marks}
        return [*(mark for mark in self.done if mark.inode not in known), *marks]

    @property
    def unread(self) -> int:
        """Bytes that exist and were not read yet."""
        return sum(generation.unread for generation in self._generations if not generation.cut)

    def close(self) -> None:
        for generation in (*self._generations, *self._ended, *self._early):
            self._forget(generation)
        self._generations.clear()
        self._ended.clear()

    def _end_newest(self) -> None:
        if self._generations and self._generations[-1].over is None:
            self._generations[-1].over = self._seconds()

    def _add(self, found_file: FoundFile, offset: int, line: int) -> None:
        self._generations.append(
            Generation(self._count, found_file, offset, line, self._cutter(offset == 0))
        )
        self._count += 1
        if len(self._generations) > 1:
            self.on_rotation()

    def _forget(self, generation: Generation) -> None:
        if generation.file >= 0:
            os.close(generation.file)
            generation.file = -1

    def _take_moved(self, moved: FoundFile | None) -> None:
        """Queue a file that was truncated and then renamed, if it is not queued yet."""
        if moved is None:
            return
        if moved.key in {one.key for one in self._generations}:
            os.close(moved.file)
            return
        self._end_newest()
        self._add(moved, 0, 1)

    def _cut(self, newest: Generation, named: bool) -> FoundFile | None:
        """
        Handle a truncation: go on in a copy, or report the loss.

        @param named: whether the file still has the name; else it was renamed after that.
        @return: the renamed file, opened again, if a copy is read first.
        """
        mark, size = newest.mark_read(), newest.seen[0]
        copy = find(self.path, mark, self._tell, [newest.once_more()])
        text = f"{self.path}: was truncated; reading it from its beginning"
        moved = None
        if copy is None:
            newest.cut = True
            lost = size - newest.offset
            self.on_cut(mark.inode, None)
            if not named:
                once_more = newest.once_more()
                self._end_newest()
                self._add(once_more, 0, 1)
        else:
            if not named:
                moved = newest.once_more()
            os.close(newest.file)
            newest.replace_file(copy)
            self.on_cut(mark.inode, newest.mark_read())
            lost = size - copy.stat.st_size
            rest = copy.stat.st_size - newest.offset
            text += f", and {rest:,} bytes that had not been read from its copy {copy.path.name}"
        if lost > 0:
            self.lost += lost
            text += f"; {lost:,} bytes had not been read and are lost"
        elif copy is None:
            text += "; what was written to it just before that, if anything, is lost"
        self._tell(text)
        return moved

    def _look_back(self) -> None:
        later, named = {one.key for one in self._generations}, keys_of(self.path)
        for generation in reversed(self._ended):
            if generation.file < 0 or generation.key in named:
                continue  # what has the name again is gone on with
            if generation.key in later:
                self._forget(generation)  # a later generation of the same file measures it
                continue
            later.add(generation.key)
            status = os.fstat(generation.file)
            size = max(generation.offset, generation.seen[0])
            self._say_late(generation.path, status.st_size - size)
            generation.seen = (max(size, status.st_size), status.st_mtime_ns)
            if not status.st_nlink:
                self._forget(generation)  # deleted: release its disk space

    def _say_late(self, path: Path, size: int) -> None:
        if size > 0:
            self.lost += size
            self._tell(
                f"{path}: {size:,} bytes were written to it after the next file was begun and"
                " this one was taken as complete; they are not sent"
            )

    def _say_missing(self, text: str) -> None:
        if not self._missing:
            self._missing = True
            self._tell(text)
