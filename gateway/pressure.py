"""
Backpressure for the whole process: a cap on payload bytes in flight.

A limit for each peer is not enough, since peers are many. Over the cap every
reader pauses; readers go on when a quarter of it is free again, so that a
gateway at its limit does not pause and resume ten thousand sockets for each
answer. Each peer may overshoot by one read.
"""

from __future__ import annotations

from typing import Protocol


class Reader(Protocol):
    """
    Whatever can stop taking in bytes.
    """

    def hold_reading(self, held: bool) -> None:
        """Stop reading, or go on."""


class Pressure:
    """
    Bytes in flight of all peers.

    @ivar full: whether all readers are paused.
    @ivar used: payload bytes submitted and not yet answered.
    """

    def __init__(self, limit: int) -> None:
        """
        @param limit: bytes in flight over which all readers pause.
        """
        self.full = False
        self.used = 0
        self._limit = limit
        self._low = limit - limit // 4
        # In the order in which they go on: who went on last is last.
        self._readers: dict[Reader, None] = {}

    def add_reader(self, reader: Reader) -> None:
        self._readers[reader] = None

    def remove_reader(self, reader: Reader) -> None:
        self._readers.pop(reader, None)

    def take(self, size: int) -> None:
        self.used += size
        if not self.full and self.used > self._limit:
            self.full = True
            for reader in self._readers:
                reader.hold_reading(True)

    def give(self, size: int) -> None:
        self.used -= size
        if self.full and self.used <= self._low:
            self.full = False
            # A reader that goes on may submit what it held back and fill us up again.
            for reader in list(self._readers):
                if self.full:
                    break
                if reader in self._readers:
                    del self._readers[reader]
                    self._readers[reader] = None
                reader.hold_reading(False)
