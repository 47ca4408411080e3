"""
Records of the spool: conversion of a batch to one value on disk, and back.

A record is what one lane handed over at once, never cut into rows; it is packed
as MessagePack, at C speed, and carries a checksum over all its fields, because SQLite
itself has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from gateway.model.batch import Batch, Chunk, Fence, Origin, Refusal, Slice
from gateway.model.outcome import Outcome, Run
from gateway.model.stream import Stream
from gateway.sql.streams import answer_of, outcome_of


class _Packed(msgspec.Struct, array_like=True):
    """
    Messages of one chunk, as the payload of a record has them.

    @ivar received_at: seconds since 1970.
    @ivar stream: stream that the messages are numbered in, from C{first} on.
    @ivar epoch: of the stream; C{""} was written by a version that knew of none.
    @ivar refusal: refusal of a message that is not to be stored, see
        L{gateway.sql.streams.answer_of}.
    @ivar dead_letter: whether such a message becomes a dead letter.
    """

    peer: str
    listener: str
    identity: str | None
    received_at: float
    frames: list[bytes]
    stream: str | None = None
    first: int = 0
    epoch: str = ""
    refusal: list[str | None] | None = None
    dead_letter: bool = False


_ENCODER: Final = msgspec.msgpack.Encoder()
_RECORD_DECODER: Final = msgspec.msgpack.Decoder(list[_Packed])

PARTS: Final = 24
"""
Bits of a record's place that say which row of the original batch it begins with: a
record that has to be split stays where it was. A batch has at most as many rows as
one peer's window, which is less than 2**24.
"""


class Record(NamedTuple):
    """
    A batch in the spool.

    @ivar place: its position in the order; unique.
    @ivar lane: lane of the fence it is stored behind, a UUID.
    @ivar number: its number on that lane.
    @ivar rows: how many messages.
    @ivar stream: stream of all its messages, which it waits for, while others pass it; C{None}: it
        waits for none.
    """

    place: int
    route: str
    lane: str
    number: int
    rows: int
    payload: bytes
    stream: str | None = None

    def follows(self, other: Record) -> bool:
        """
        Say whether it may be stored by one statement with another one before it.

        Not where both have the same number: then they hold the same, a unit that was sent again.
        """
        return (self.route, self.lane) == (other.route, other.lane) and self.number > other.number

    @property
    def checksum(self) -> int:
        """CRC-32 of all fields."""
        head = f"{self.place} {self.route} {self.lane} {self.number} {self.rows}"
        if self.stream is not None:
            head += f" {self.stream}"
        return crc32(self.payload, crc32(head.encode()))


class RecordGroup(NamedTuple):
    """
    Parcel: records that follow one another and are stored by one statement.
    """

    records: Sequence[Record]
    batch: Batch

    @property
    def fence(self) -> Fence:
        """Fence from the first record's number to the last one's."""
        first, last = self.records[0], self.records[-1]
        return Fence(last.lane, last.number, first.number)

    @property
    def places(self) -> list[int]:
        """Places of its records."""
        return [record.place for record in self.records]

    @property
    def end(self) -> int:
        """Last place that its records, or pieces of them, can have."""
        last = self.records[-1]
        return last.place + last.rows - 1


def pack(batch: Batch) -> bytes:
    """Pack the rows of a batch, refused ones too, as one value."""
    parts = [
        _pack_chunk(part.chunk, part.frames, part.first)
        for piece in batch.slices
        for part in piece.consecutive()
    ]
    for refusal in batch.refusals:
        chunk = refusal.chunk
        part = _pack_chunk(chunk, [chunk.frames[refusal.row]], refusal.number)
        if refusal.stream is None:
            part.stream = None
        part.refusal = answer_of(refusal.outcome)
        part.dead_letter = refusal.dead_letter
        parts.append(part)
    return _ENCODER.encode(parts)


def _pack_chunk(chunk: Chunk, frames: list[bytes], first: int) -> _Packed:
    origin, stream = chunk.origin, chunk.stream
    packed = _Packed(origin.peer, origin.listener, origin.identity, chunk.received_at, frames)
    if stream is not None:
        packed.stream, packed.first, packed.epoch = stream.name, first, stream.epoch
    return packed


def rows_of(batch: Batch) -> int:
    """Return how many messages a record of a batch holds, refused ones too."""
    return batch.count + len(batch.refusals)


def unpack(records: Sequence[Record]) -> RecordGroup:
    """
    Unpack one or more records of one route.

    @raise ValueError: a payload is not one of L{pack}'s.
    """
    streams: dict[tuple[str, str], Stream] = {}
    slices: list[Slice] = []
    refusals: list[Refusal] = []
    for record in records:
        for part in _unpack_record(record):
            stream = None
            if part.stream is not None:
                stream = streams.setdefault(
                    (part.stream, part.epoch), Stream(part.stream, part.epoch, loose=True)
                )
            origin = Origin(part.peer, part.listener, part.identity)
            chunk = Chunk(
                *(record.route, part.frames, origin, part.received_at, _ignore),
                *(None, stream, part.first),
            )
            if part.refusal is None:
                slices.append(Slice(chunk, 0, len(part.frames)))
            else:
                outcome = _outcome(part.refusal)
                refusals.append(Refusal(chunk, 0, outcome, part.dead_letter, stream is not None))
    return RecordGroup(records, Batch(records[0].route, slices, refusals))


def _outcome(answer: Sequence[str | None]) -> Outcome:
    try:
        code, sqlstate, column, text = answer
        return outcome_of(code or "", sqlstate or "", column, text or "")
    except (TypeError, ValueError) as error:
        raise ValueError(f"a refusal that is none: {error}") from None


def _unpack_record(record: Record) -> list[_Packed]:
    try:
        parts = _RECORD_DECODER.decode(record.payload)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if sum(len(part.frames) for part in parts) != record.rows or not record.rows:
        raise ValueError("another number of messages than the record says")
    return parts


def _ignore(chunk: Chunk, runs: list[Run]) -> None:
    """Drop the fates: the answer was given when the record was made."""
