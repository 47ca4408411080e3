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

from gateway.bookmark import Bookmark, Place
from gateway.errors import InputError
from gateway.follow import Tail
from gateway.inputs import Block, Cutter

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
        cutter: Callable[[], Cutter],
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

    def resume(self, have: int, tell: Callable[[str], None]) -> int:
        """
        Find where the stream was.

        @param have: the last number of the stream, as the gateway says.
        @return: the number of the message before the first one that will be read.
        @raise InputError: that cannot be said.
        """
        path, places = self._tail.path, self._bookmark.places
        fitting = [place for place in places if place.number <= have]
        if places and not fitting:
            raise InputError(
                f"{self._bookmark.path}: the stream had {places[0].number:,} messages, and the"
                f" gateway has {have:,}: its database was set back; send what is missing by hand,"
                " then begin with a --stream of another name"
            )
        number = 0
        if fitting:
            later = places[len(fitting) :]
            first = fitting[-1]
            number = first.number
            if not self._tail.resume(first.mark, first.line):
                tell(
                    f"{path}: the file that was being sent is gone; what it had behind number"
                    f" {have:,} of the stream cannot be sent"
                )
                number = have
            for place in later:
                if not self._tail.resume(place.mark, place.line):
                    tell(f"{path}: a file that came after it is gone, and was not sent")
            self._tail.catch_up()
        self._tail.look()
        return number

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
