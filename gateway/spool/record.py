"""
Records: a batch as one value on disk, and back.

A record is what one lane handed over at once, never cut into rows; it is packed
as MessagePack, at C speed, and carries a checksum over all it says, because SQLite
itself has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from gateway.batch import Batch, Chunk, Fence, Origin
from gateway.reply import Run
from gateway.stream import Stream


class _Packed(msgspec.Struct, array_like=True):
    """
    Messages of a chunk.

    @ivar received_at: seconds since the epoch.
    @ivar stream: that they are numbered in, from C{first} on.
    """

    peer: str
    listener: str
    identity: str | None
    received_at: float
    frames: list[bytes]
    stream: str | None = None
    first: int = 0


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[_Packed])

PARTS: Final = 24
"""
Bits of a record's place that say which row of the original batch it begins with: a
record that has to be split stays where it was. A batch has at most as many rows as
one peer's window, which is less than 2**24.
"""


class Record(NamedTuple):
    """
    A batch in the spool.

    @ivar place: where it comes in the order; unique.
    @ivar lane: the fence it is stored behind, a UUID.
    @ivar number: its number on that lane.
    @ivar rows: how many messages.
    """

    place: int
    route: str
    lane: str
    number: int
    rows: int
    payload: bytes

    @property
    def checksum(self) -> int:
        """Of all that it says."""
        head = f"{self.place} {self.route} {self.lane} {self.number} {self.rows}"
        return crc32(self.payload, crc32(head.encode()))


class Parcel(NamedTuple):
    """
    Records that follow one another, stored by one statement.
    """

    records: Sequence[Record]
    batch: Batch

    @property
    def fence(self) -> Fence:
        """From the first record's number to the last one's."""
        first, last = self.records[0], self.records[-1]
        return Fence(last.lane, last.number, first.number)

    @property
    def places(self) -> list[int]:
        """Those of its records."""
        return [record.place for record in self.records]

    @property
    def end(self) -> int:
        """The last place that its records, or pieces of them, can have."""
        last = self.records[-1]
        return last.place + last.rows - 1


def pack(batch: Batch) -> bytes:
    """
    The rows of a batch as one value.
    """
    return _ENCODER.encode(
        [
            _Packed(
                *(part.chunk.origin.peer, part.chunk.origin.listener, part.chunk.origin.identity),
                *(part.chunk.received_at, part.frames),
                *(() if part.chunk.stream is None else (part.chunk.stream.name, part.first)),
            )
            for part in batch.slices
        ]
    )


def unpack(records: Sequence[Record]) -> Parcel:
    """
    @param records: one or more of one route.
    @raise ValueError: a payload is not one of L{pack}'s.
    """
    streams: dict[str, Stream] = {}
    chunks = []
    for record in records:
        for part in _unpacked(record):
            stream = None
            if part.stream is not None:
                stream = streams.setdefault(part.stream, Stream(part.stream, loose=True))
            origin = Origin(part.peer, part.listener, part.identity)
            chunks.append(
                Chunk(
                    *(record.route, part.frames, origin, part.received_at, _ignore),
                    *(None, stream, part.first),
                )
            )
    return Parcel(records, Batch.of(chunks))


def streams_of(record: Record) -> dict[str, int]:
    """
    @return: the highest number of each stream in a record.
    @raise ValueError: as for L{unpack}.
    """
    found: dict[str, int] = {}
    for part in _unpacked(record):
        if part.stream is not None:
            found[part.stream] = max(found.get(part.stream, 0), part.first + len(part.frames) - 1)
    return found


def _unpacked(record: Record) -> list[_Packed]:
    try:
        found = _DECODER.decode(record.payload)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if sum(len(part.frames) for part in found) != record.rows or not record.rows:
        raise ValueError("another number of messages than the record says")
    return found


def _ignore(chunk: Chunk, runs: list[Run]) -> None:
    """Nobody waits for an answer: it was given when the record was made."""
