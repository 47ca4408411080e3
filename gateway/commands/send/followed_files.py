"""
Followed files as a source of messages, with a stream's place in them.

Strategy: a timer checks the names, however long the reader is blocked, so that no rotation is
missed; reading takes each of them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.task import LoopingCall, deferLater

from gateway.commands.send.bookmark import Bookmark, Place
from gateway.commands.send.follow import Tail
from gateway.commands.send.inputs import BLOCK, Block, NewCutter
from gateway.commands.send.rotation import HEAD, FilePosition, FoundFile, compressed
from gateway.model.errors import InputError

LOOK: Final = 0.1
"""Seconds between two looks: what a person takes for at once, and nothing for a machine."""

SAVE: Final = 1.0
"""Seconds between two savings of the place: what a restart has to read again."""


class Followed:
    """
    Source that follows several names at once.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        cutter: NewCutter,
        reactor: Any,
        tell: Callable[[str], None],
    ) -> None:
        self.tails = [Tail(path, cutter, reactor.seconds, tell) for path in paths]
        self._reactor = reactor
        self._turn = 0
        self._fault: InputError | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def start(self) -> None:
        """Start to check the names."""
        self._loop.start(LOOK)

    async def next_messages(self) -> Block:
        while True:
            if self._fault is not None:
                raise self._fault
            block = self.read_now()
            if block is not None:
                return block
            await deferLater(self._reactor, LOOK)

    def read_now(self) -> Block | None:
        """Return the next block without waiting; C{None} where there is none."""
        for _ in self.tails:
            tail = self.tails[self._turn]
            self._turn = (self._turn + 1) % len(self.tails)
            block = tail.next_messages()
            if block is not None:
                return block
        return None

    def total(self, done: int) -> int:
        """Return the bytes of input known so far."""
        return done + sum(tail.unread for tail in self.tails)

    def close(self) -> None:
        if self._loop.running:
            self._loop.stop()
        for tail in self.tails:
            tail.close()

    def _look(self) -> None:
        for tail in self.tails:
            try:
                tail.check_name()
            except InputError as error:
                self._fault = error  # raised by read(); it ends the run


class StreamPlace:
    """
    Updates of a bookmark from what is read and answered.
    """

    def __init__(self, bookmark: Bookmark, followed: Followed, reactor: Any) -> None:
        self._bookmark = bookmark
        (self._tail,) = followed.tails
        self._seconds = reactor.seconds
        self._generation: int | None = None
        self._saved = reactor.seconds()
        self._have = 0
        self._tell: Callable[[str], None] = lambda text: None
        # For each file found again: offset and number of its place, and its size then.
        self._found_places: list[tuple[int, int, int]] = []
        self._head = 0
        self._tail.on_cut = bookmark.cut
        self._tail.done = bookmark.done

    def floor(self, have: int, twice: int = 0) -> int:
        """
        Return the smallest number from which the stream's messages can be found again.

        @param twice: number of its messages that are sent again under new numbers.
        @param have: last number of the stream, from the gateway.
        @raise InputError: the bookmark and the gateway do not agree.
        """
        if not self._bookmark.places:
            self._check_whole(have - twice)
            return 0
        first = self._bookmark.places[0].number
        if first > have:
            raise InputError(
                f"{self._bookmark.path}: the stream had {first:,} messages, and the gateway has"
                f" {have:,}: its database was set back, or another gateway had the rest in its"
                " spool; look into the table and gateway.dead_letter, send what is missing by hand,"
                " then begin with a --stream of another name"
            )
        return first

    def resume(self, number: int, have: int, tell: Callable[[str], None]) -> int:
        """
        Find the place of the stream, or one shortly before.

        @param number: number of the last message that need not be read.
        @param have: last number of the stream.
        @return: number of the message before the first one that will be read.
        """
        places = self._bookmark.places
        self._have, self._tell = have, tell
        self._tail.on_cut = self._cut
        before = [place for place in places if place.number <= number]
        if not before:
            self._tail.on_rotation = self._save
            self._tail.check_name()
            if not places:
                self._tail.skip_rotated()
            return 0
        wanted = places[len(before) - 1 :]
        self._tail.begin()
        at: int | None = None
        gone: list[Place] = []
        for place, after in zip(wanted, [*wanted[1:], None], strict=True):
            found_file = self._find(place, None if after is None else after.number)
            if found_file is None:
                self._tell_gone(place, have, None if after is None else after.number)
                if at is None:
                    gone.append(place)
                continue
            self._tell_of(place, found_file)
            if at is None:
                at = min(place.number, have)
        for place in gone:
            # Messages of the next file get the numbers that its messages had.
            number = min(place.number, have if at is None else at)
            self._bookmark.replace_place(place, Place(number, place.line, place.mark))
        self._bookmark.save()
        taken = self._tail.catch_up(wanted[-1].mark)
        if at is None and taken:
            names = ", ".join(path.name for path in taken)
            tell(
                f"{self._tail.path}: going on with what came after it, from its beginning: {names}"
            )
        self._tail.check_name()
        self._tell_never_begun(wanted)
        self._tail.on_rotation = self._save
        self._save()
        return have if at is None else at

    def _cut(self, inode: int, rest: FilePosition | None) -> None:
        self._bookmark.cut(inode, rest)
        self._bookmark.save()

    def _tell_never_begun(self, wanted: Sequence[Place]) -> None:
        known = self._tail.inodes | {place.mark.inode for place in wanted}
        for mark in self._bookmark.waiting:
            if mark.inode not in known:
                had = f"its {mark.end:,} bytes, or more, are lost"
                if not mark.end:
                    had = "it was empty when it was noted; what it got after that, if any, is lost"
                self._tell(
                    f"{self._tail.path}: a file that came after the one that was being sent is gone"
                    f" before it was begun; {had}"
                )

    def _find(self, place: Place, following: int | None) -> FoundFile | None:
        """
        Find the file of a place, and update the place.

        @param following: number before the next file's first message, if that was begun.
        """
        book = self._bookmark
        known = (*(other.mark for other in book.places), *book.done, *book.waiting)
        others = [mark for mark in known if mark.inode != place.mark.inode]
        followed = following is not None or any(
            mark.inode != place.mark.inode for mark in book.waiting
        )
        after = [other.mark for other in book.places[book.places.index(place) + 1 :]]
        # A file that is stored completely needs no copy, nor a file that only begins alike.
        needed = following is None or following > self._have
        later = [one for one in (*after, *book.waiting) if one.inode != place.mark.inode]
        found_file = self._tail.resume(place.mark, place.line, followed, others, later, needed)
        if found_file is not None:
            generation, offset = len(self._found_places), place.mark.offset
            self._found_places.append((offset, place.number, found_file.stat.st_size))
            mark = self._tail.mark(generation, offset)
            assert mark is not None
            # In today's form, also if an earlier version wrote the state file.
            self._bookmark.replace_place(place, Place(place.number, place.line, mark))
        return found_file

    def _tell_gone(self, place: Place, have: int, following: int | None) -> None:
        """
        Report a file that is gone, and what is lost with it.

        @param following: number before the next file's first message, if that was begun.
        """
        path, mark = self._tail.path, place.mark
        if following is not None and following <= have:
            return  # all of it is stored
        stored = max(0, have - place.number)
        line = place.line + stored
        if following is not None:
            lost = f"{following - max(have, place.number):,} messages"
        elif mark.early:
            lost = "how much, is not known"
        else:
            lost = f"{max(0, mark.end - mark.offset):,} bytes when it was last looked at"
            if stored:
                lost += f", less {stored:,} messages that are stored"
            lost += ", and whatever was written to it after that"
        text = (
            f"{path}: the file that was being sent is gone, or was truncated; what it had behind"
            f" its line {line - 1:,}, message {place.number + stored:,} of the stream, cannot be"
            f" sent: {lost}"
        )
        if names := compressed(path, mark):
            text += f". It may be in {', '.join(names)}: send that by hand, from line {line:,} on"
        self._tell(text)

    def _tell_of(self, place: Place, file: FoundFile) -> None:
        mark, path = place.mark, self._tail.path
        if mark.early:
            self._tell(
                f"{self._bookmark.path}: was written by an earlier version, which knows a file by"
                f" its first {mark.size:,} bytes; {file.path} has them, and is gone on with behind"
                f" its byte {mark.offset:,}"
            )
        elif not file.own:
            self._tell(
                f"{path}: going on in {file.path.name}, a copy of the file that was being sent:"
                f" the first {mark.size:,} bytes are the same, and those before byte"
                f" {mark.offset:,}. If it only begins alike, that is not sent once more, and what"
                " the other one had behind it is lost"
            )
        gone = mark.end - file.stat.st_size
        if gone > 0:
            self._tell(
                f"{file.path}: has {gone:,} bytes less than when it was last looked at, which are"
                " lost: its end was taken away, or it is another file that has the inode of the"
                " one that was being sent, and begins alike"
            )
        if path.is_symlink() and not file.named and str(file.path) == mark.path:
            self._tell(
                f"{path}: is a link to another file than before; those that it was a link to in"
                " between, if any, are not known and not sent"
            )

    def _check_whole(self, have: int) -> None:
        # Without a place there can only be one file, sent from its first line.
        if not have:
            return
        path = self._tail.path
        count = 0
        try:
            with path.open("rb") as file:
                while count < have and (data := file.read(BLOCK)):
                    count += data.count(b"\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        if count < have:
            raise InputError(
                f"{path}: the stream has {have:,} messages, and here are only {count:,} lines; give"
                " the --state file of the run that sent them, or a --stream of another name"
            )

    def reading(self, block: Block, number: int) -> int:
        """
        Prepare the bookmark for a block that will be sent.

        @param number: expected number of its first message.
        @return: actual number of its first message.
        """
        start = block.offset - block.size
        expected = self._expected(block, start, number)
        if expected > number:
            self._tell(
                f"{self._tail.path}: the stream has {expected - number:,} messages more than are"
                f" behind its place, before line {block.line:,}: they were sent from elsewhere, or"
                " taken out of the file; nothing is left out for them"
            )
            number = expected
        if block.generation != self._generation:
            self._generation = block.generation
            mark = self._tail.mark(block.generation, start)
            if mark is not None:
                self._note()
                self._bookmark.add_place(Place(number - 1, block.line, mark))
                self._head = mark.size
        elif self._head < HEAD:
            # The first bytes are recorded before they are sent, or a file that begins alike could
            # pass for this one, and its lines would be skipped.
            mark = self._tail.known(block.generation)
            if mark is not None and mark.size > self._head:
                self._bookmark.grown(mark)
                self._head = mark.size
        return number

    def _expected(self, block: Block, start: int, number: int) -> int:
        """
        Return the number of a block's first message, which is larger than expected if files of the
        stream are missing.
        """
        if number > self._have or not self._found_places:
            return number
        if block.generation < len(self._found_places):
            begin, before, end = self._found_places[block.generation]
            if block.offset <= end:
                return max(number, before + 1) if start == begin else number
        # All messages that the stream has were in the files found at the start.
        return self._have + 1

    def note_answered(self, block: Block, number: int) -> None:
        """Note that a block and all before it are answered."""
        mark = self._tail.mark(block.generation, block.offset)
        if mark is not None:
            line = block.line + len(block.messages)
            self._bookmark.remove_before(Place(number, line, mark))
        if self._seconds() - self._saved >= SAVE:
            self._saved = self._seconds()
            self._save()

    def close(self) -> None:
        if self._generation is not None:
            self._save()

    def _save(self) -> None:
        self._note()
        self._bookmark.save()

    def _note(self) -> None:
        self._bookmark.done = self._tail.ended()
        self._bookmark.waiting = self._tail.files_not_begun()
