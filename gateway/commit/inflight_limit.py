"""
Limit of the memory that peers use in the whole process: backpressure.

A limit for each peer is not enough, since peers are many. Two things count:

 - messages that are not answered yet. They are settled without the peer, so over the limit
   every reader pauses; readers go on when a quarter of it is free again, so that a gateway at
   its limit does not pause and resume ten thousand sockets for each answer. Each peer may
   exceed it by one read.
 - bytes that wait for the peer itself: frames that are not finished, frames
   and requests whose turn has not come, answers and notifications that it does not read. Waiting
   frees nothing of them, so over the limit the peer with most of them is disconnected, while all of
   them together are more than half the limit: messages always have the other half.

@see: C{maxmemory-clients} of Redis, which disconnects its largest clients in the same way.
"""

from __future__ import annotations

from typing import Protocol


class PausableReader(Protocol):
    """
    Peer's connection whose reading can be paused.
    """

    def hold_reading(self, held: bool) -> None:
        """Stop reading, or go on."""

    def disconnect(self) -> None:
        """Disconnect the peer, and keep nothing more for it: the gateway holds too much."""


class InflightLimit:
    """
    Limit of the bytes that the gateway holds for all peers.

    @ivar limit: bytes at which all readers are paused.
    @ivar full: whether they are.
    @ivar used: bytes of messages submitted and not yet answered; L{gateway.commit.writer} adds
        and subtracts them.
    @ivar kept: bytes that wait for the peers themselves.
    @ivar room: bytes that may be used, beside those kept.
    """

    def __init__(self, limit: int) -> None:
        """
        @param limit: bytes in flight over which all readers pause.
        """
        self.full = False
        self.used = 0
        self.kept = 0
        self._set(limit)
        # In the order in which they resume: the last one resumed is last.
        self._readers: dict[PausableReader, None] = {}
        self._keepers: dict[PausableReader, int] = {}

    def _set(self, limit: int) -> None:
        self.limit = limit
        self.room = limit - self.kept
        self._low = limit - limit // 4
        self._most_kept = limit // 2

    def replace_limit(self, limit: int) -> None:
        """
        Replace the limit, and pause or resume all readers as the new one says.
        """
        self._set(limit)
        if self.full:
            self.eased()
        elif self.used > self.room:
            self._relieve()

    def add_reader(self, reader: PausableReader) -> None:
        self._readers[reader] = None

    def remove_reader(self, reader: PausableReader) -> None:
        self._readers.pop(reader, None)
        self.set_kept(reader, 0)

    def exceeded(self) -> None:
        """Pause reading, as more is used than there is room for."""
        if not self.full:
            self._relieve()

    def set_kept(self, reader: PausableReader, size: int) -> None:
        """
        Set the bytes that wait for a reader's peer now, beside its messages in flight.
        """
        before = self._keepers.pop(reader, 0)
        if size:
            self._keepers[reader] = size
        self.kept += size - before
        self.room = self.limit - self.kept
        if size > before:
            if self.full or self.used + self.kept > self.limit:
                self._relieve()
        elif self.full:
            self.eased()

    def _relieve(self) -> None:
        """
        Disconnect the peers with most bytes, then pause the others if it is still too much.
        """
        # Down to the mark where readers resume once the messages in flight are answered.
        while self.kept > self._most_kept and self.used + self.kept > self._low:
            largest = max(self._keepers, key=self._keepers.__getitem__)
            self.set_kept(largest, 0)
            largest.disconnect()
        if not self.full and self.used + self.kept > self.limit:
            self.full = True
            for reader in list(self._readers):
                reader.hold_reading(True)

    def eased(self) -> None:
        """Resume reading if enough is free again, as less is used while all readers are paused."""
        if self.used + self.kept > self._low:
            return
        self.full = False
        # A resumed reader may submit what it held back, and reach the limit again.
        for reader in list(self._readers):
            if self.full:
                break
            if reader in self._readers:
                del self._readers[reader]
                self._readers[reader] = None
                reader.hold_reading(False)
