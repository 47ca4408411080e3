"""
Followed files as a source of messages, with the place of a stream in one of them.

Strategy: names are looked at by a timer of their own, however long the reader is held up,
so that no rotation is missed; reading asks each of them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.task import LoopingCall, deferLater

from gateway.commands.bookmark import Bookmark, Place
from gateway.commands.follow import Tail
from gateway.commands.inputs import BLOCK, Block, NewCutter
from gateway.errors import InputError

LOOK: Final = 0.1
"""Seconds between two looks: what a person takes for at once, and nothing for a machine."""

SAVE: Final = 1.0
"""Seconds between two savings of the place: what a restart has to read again."""


class Followed:
    """
    Several names, followed at once.
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
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def start(self) -> None:
        """Begin to look."""
        self._loop.start(LOOK)

    async def read(self) -> Block:
        while True:
            block = self.read_now()
            if block is not None:
                return block
            await deferLater(self._reactor, LOOK)

    def read_now(self) -> Block | None:
        """What is there already."""
        for _ in self.tails:
            tail = self.tails[self._turn]
            self._turn = (self._turn + 1) % len(self.tails)
            block = tail.read()
            if block is not None:
                return block
        return None

    def total(self, done: int) -> int:
        """Bytes of input, as far as it is known."""
        return done + sum(tail.unread for tail in self.tails)

    def close(self) -> None:
        if self._loop.running:
            self._loop.stop()
        for tail in self.tails:
            tail.close()

    def _look(self) -> None:
        for tail in self.tails:
            tail.look()


class StreamPlace:
    """
    Keeps a bookmark up to date with what is read and answered.
    """

    def __init__(self, bookmark: Bookmark, followed: Followed, reactor: Any) -> None:
        self._bookmark = bookmark
        (self._tail,) = followed.tails
        self._seconds = reactor.seconds
        self._generation: int | None = None
        self._saved = reactor.seconds()

    def floor(self, have: int) -> int:
        """
        @param have: the last number of the stream, as the gateway says.
        @return: the first number behind which the stream's messages can be found again.
        @raise InputError: there is none.
        """
        if not self._bookmark.places:
            self._check_whole(have)
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

    def resume(self, number: int, tell: Callable[[str], None]) -> int:
        """
        Find where the stream was, or a little before.

        @param number: of the last message that is not to be read.
        @return: the number of the message before the first one that will be read.
        """
        path, places = self._tail.path, self._bookmark.places
        before = [place for place in places if place.number <= number]
        at = 0
        if before:
            place = before[-1]
            at = place.number
            if not self._tail.resume(place.mark, place.line):
                tell(
                    f"{path}: the file that was being sent is gone; what it had behind message"
                    f" {number:,} of the stream cannot be sent"
                )
                at = number
            for place in places[len(before) :]:
                if not self._tail.resume(place.mark, place.line):
                    tell(f"{path}: a file that came after that is gone too, and was not sent")
            self._tail.catch_up()
        self._tail.look()
        return at

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

    def reading(self, block: Block, number: int) -> None:
        """Before a block is sent."""
        if block.generation != self._generation:
            self._generation = block.generation
            mark = self._tail.mark(block.generation, block.offset - block.size)
            if mark is not None:
                self._bookmark.begun(Place(number - 1, block.line, mark))

    def settled(self, block: Block, number: int) -> None:
        """A block and all before are answered."""
        mark = self._tail.mark(block.generation, block.offset)
        if mark is not None:
            line = block.line + len(block.messages)
            self._bookmark.settled(Place(number, line, mark))
        if self._seconds() - self._saved >= SAVE:
            self._saved = self._seconds()
            self._bookmark.save()

    def close(self) -> None:
        if self._generation is not None:
            self._bookmark.save()
