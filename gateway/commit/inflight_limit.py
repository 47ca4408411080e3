"""
Backpressure for the whole process: a cap on what peers make it hold.

A limit for each peer is not enough, since peers are many. Two things count:

 - messages that are not answered yet. They come to their end by themselves, so over the cap
   every reader pauses; readers go on when a quarter of it is free again, so that a gateway at
   its limit does not pause and resume ten thousand sockets for each answer. Each peer may
   overshoot by one read.
 - what is kept for a peer and waits for that peer itself: frames that are not finished, frames
   and requests whose turn has not come, answers and notifications that are not taken. Waiting
   frees nothing of it, so over the cap whoever has most of it is let go, while all of it
   together is more than half the cap: whatever is kept, messages have the other half.

@see: C{maxmemory-clients} of Redis, which lets its largest clients go in the same way.
"""

from __future__ import annotations

from typing import Protocol


class PausableReader(Protocol):
    """
    Reader that can pause.
    """

    def hold_reading(self, held: bool) -> None:
        """Stop reading, or go on."""

    def give_up(self) -> None:
        """Let the peer go, and keep nothing more for it: the gateway holds too much."""


class InflightLimit:
    """
    Limit of the bytes that the gateway holds for all peers.

    @ivar full: whether all readers are paused.
    @ivar used: of messages submitted and not yet answered.
    @ivar kept: of all else.
    """

    def __init__(self, limit: int) -> None:
        """
        @param limit: bytes in flight over which all readers pause.
        """
        self.full = False
        self.used = 0
        self.kept = 0
        self._limit = limit
        self._low = limit - limit // 4
        self._most_kept = limit // 2
        # In the order in which they go on: who went on last is last.
        self._readers: dict[PausableReader, None] = {}
        self._keepers: dict[PausableReader, int] = {}

    def add_reader(self, reader: PausableReader) -> None:
        self._readers[reader] = None

    def remove_reader(self, reader: PausableReader) -> None:
        self._readers.pop(reader, None)
        self.keep(reader, 0)

    def take(self, size: int) -> None:
        self.used += size
        if not self.full and self.used + self.kept > self._limit:
            self._relieve()

    def give(self, size: int) -> None:
        self.used -= size
        if self.full:
            self._go_on()

    def keep(self, reader: PausableReader, size: int) -> None:
        """
        So much is kept for a reader's peer now.

        @param size: in bytes, beside its messages in flight.
        """
        before = self._keepers.pop(reader, 0)
        if size:
            self._keepers[reader] = size
        self.kept += size - before
        if size > before:
            if self.full or self.used + self.kept > self._limit:
                self._relieve()
        elif self.full:
            self._go_on()

    def _relieve(self) -> None:
        """
        It is too much: let go who has most, and have the others wait.
        """
        # So far that readers go on when what is in flight has come to its end.
        while self.kept > self._most_kept and self.used + self.kept > self._low:
            largest = max(self._keepers, key=self._keepers.__getitem__)
            self.keep(largest, 0)
            largest.give_up()
        if not self.full and self.used + self.kept > self._limit:
            self.full = True
            for reader in list(self._readers):
                reader.hold_reading(True)

    def _go_on(self) -> None:
        if self.used + self.kept > self._low:
            return
        self.full = False
        # A reader that goes on may submit what it held back and fill us up again.
        for reader in list(self._readers):
            if self.full:
                break
            if reader in self._readers:
                del self._readers[reader]
                self._readers[reader] = None
                reader.hold_reading(False)
