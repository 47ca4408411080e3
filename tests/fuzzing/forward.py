"""
Forward protocol: the same chunks however TCP cuts them, and one message for each record.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import msgpack

from gateway.model.errors import FramingError
from gateway.wire.event_stream import EventStream
from gateway.wire.forward import Chunk, ForwardFraming, parse_chunk
from gateway.wire.forward_handshake import Handshake, HandshakeSecrets
from tests.fuzzing.streams import cuts
from tests.fuzzing.taking import take


def chunks(data: bytes) -> None:
    """The same values and fault however they are cut; each is a chunk within limits, or none."""
    limit, how, stream = data[:1], data[1:2], data[2:]
    max_chunk = 8 * (1 + (limit[0] if limit else 9))
    whole = _values(max_chunk, [stream])
    for cut in cuts(stream, how):
        found = _values(max_chunk, cut)
        assert whole == found, (whole, found)
    for value in whole[0]:
        assert len(value) <= max_chunk
        assert _is_one(value)
        _chunk(value, max_chunk)


def _values(max_chunk: int, stream: Sequence[bytes]) -> tuple[list[bytes], str]:
    """
    @return: the values, and how they ended.
    """
    framing = ForwardFraming(9, max_chunk)
    values: list[bytes] = []
    for piece in stream:
        try:
            most = len(piece) % 4 + 1
            take(framing, piece, most, values)
        except FramingError as error:
            return values + error.frames, "broken"
        assert framing.pending <= 2 * max_chunk
    return values, "unfinished" if framing.unfinished else "whole"


def _chunk(value: bytes, max_chunk: int) -> None:
    try:
        chunk = parse_chunk(value, max_chunk)
    except FramingError as error:
        assert str(error).startswith("forward: ") and "\n" not in str(error)
        return
    assert isinstance(chunk, Chunk)
    assert len(chunk.entries) <= max_chunk + 2
    if chunk.ack:
        # As it came, whatever its bytes are.
        assert chunk.ack == b"\x81\xa3ack" + chunk.id and chunk.id in value
        assert [*msgpack.unpackb(chunk.ack, raw=True)] == [b"ack"]


def records(data: bytes) -> None:
    """As many messages as there are records, the same for each whatever is beside it."""
    limit, entries = data[:1], data[1:]
    max_frame = 4 * (1 + (limit[0] if limit else 60))
    for packed in (False, True):
        try:
            together = _messages(entries, max_frame, packed)
        except FramingError as error:
            assert str(error).startswith("forward: ") and "\n" not in str(error)
            continue
        alone = [
            message
            for entry in _entries(entries)
            for message in _messages(entry, max_frame, packed)
        ]
        assert together == alone, (together, alone)
        for message in together:
            _check_message(message, packed)


def _messages(entries: bytes, max_frame: int, packed: bool) -> list[bytes]:
    stream = EventStream(b'a"\xff', entries, max_frame, 10**18, packed)
    messages = [message for portion in stream.portions() for message in portion]
    assert len(stream.oversize) <= len(messages) <= stream.count
    return messages


def _entries(entries: bytes) -> list[bytes]:
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(entries)
    found = []
    start = 0
    while start < len(entries):
        unpacker.skip()
        found.append(entries[start : unpacker.tell()])
        start = unpacker.tell()
    return found


def _check_message(message: bytes, packed: bool) -> None:
    if message.startswith(b'{"@tag":"a\\"\xff","@time":') and not packed:
        text = message.decode("utf-8", "surrogateescape")
        names = json.loads(text, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
        assert names[:2] == ["@tag", "@time"]
        assert not {"@tag", "@time"} & set(names[2:])
        return
    # Else it is one value of MessagePack: a record, or what is none as it came.
    assert _is_one(message)


def _is_one(value: bytes) -> bool:
    return _entries(value) == [value]


def ping(data: bytes) -> None:
    """Whatever comes in place of a PING, nobody is let in who does not know the key."""
    handshake = Handshake(HandshakeSecrets(b"key", {"ann": b"p"}), b"n" * 16, b"s" * 16)
    try:
        values = ForwardFraming(9, sys.maxsize).receive(data)
    except FramingError as error:
        values = error.frames
    for value in values:
        try:
            result = handshake.check_ping(value)
        except FramingError:
            continue
        assert result.fault and not result.user
        assert msgpack.unpackb(result.pong)[:2] == ["PONG", False]
