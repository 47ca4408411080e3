"""
MessagePack: every message is a map; a field is a key in it, or a path a.b.c.

Strategy: msgspec decodes each message with one call in C, L{gateway.formats.objects} writes the
fields as JSON tokens. msgspec's times have microseconds and are rounded as PostgreSQL does not
round them, so a message that seems to hold one is taken apart in Python, which keeps every digit.

@see: U{https://github.com/msgpack/msgpack/blob/master/spec.md}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.formats.fields import Fields, nested
from gateway.formats.objects import MAX_DEPTH, ObjectReader, Unwritable, moment

_decode: Final = msgspec.msgpack.Decoder().decode
_decode_map: Final = msgspec.msgpack.Decoder(dict[Any, Raw]).decode
_decode_array: Final = msgspec.msgpack.Decoder(list[Raw]).decode

_TIMES: Final = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
"""Heads of an extension of type -1, a time: fixext 4, fixext 8, ext 8 of 12 bytes."""

_ERRORS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""What the decoder raises; TypeError for a key that is a map."""


class MsgpackFormat:
    """
    Reader of the fields of MessagePack maps.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        """
        @param fields: keys or dotted paths.
        """
        self._reader = ObjectReader(fields)

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: dict[int, str] = {}
        rows: list[Any]
        if _may_hold_times(b"\n".join(frames)):
            rows = _one_by_one(frames, faults)
        else:
            try:
                rows = list(map(_decode, frames))
            except _ERRORS:
                rows = _one_by_one(frames, faults)
        return self._reader.read(rows, faults)


def _may_hold_times(data: bytes) -> bool:
    return any(head in data for head in _TIMES)


def _one_by_one(frames: Sequence[bytes], faults: dict[int, str]) -> list[Any]:
    rows = []
    for number, frame in enumerate(frames):
        try:
            rows.append(_exact(frame, 0) if _may_hold_times(frame) else _decode(frame))
        except _ERRORS as error:
            rows.append(None)
            faults[number] = _reason(error, frame)
    return rows


def _exact(data: bytes | Raw, depth: int) -> Any:
    """
    Decode a value whose times keep all their digits.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    head = bytes(data[:1] if isinstance(data, bytes) else memoryview(data)[:1])
    if b"\x80" <= head <= b"\x8f" or head in (b"\xde", b"\xdf"):
        return {key: _exact(value, depth + 1) for key, value in _decode_map(data).items()}
    if b"\x90" <= head <= b"\x9f" or head in (b"\xdc", b"\xdd"):
        return [_exact(value, depth + 1) for value in _decode_array(data)]
    if head not in (b"\xd6", b"\xd7", b"\xc7"):
        return _decode(data)
    value = _decode(data)
    return _time(bytes(data)) if isinstance(value, datetime) else value


def _time(data: bytes) -> str:
    """
    Write a time as ISO 8601.

    @param data: an extension of type -1, which msgspec has found to be a time.
    """
    if data[:1] == b"\xd6":
        return moment(int.from_bytes(data[2:]))
    if data[:1] == b"\xd7":
        both = int.from_bytes(data[2:])
        nanoseconds, seconds = both >> 34, both & ((1 << 34) - 1)
    else:
        nanoseconds = int.from_bytes(data[3:7])
        seconds = int.from_bytes(data[7:], signed=True)
    return moment(seconds, f"{nanoseconds:09}")


def _reason(error: Exception, frame: bytes) -> str:
    if not frame:
        return "not MessagePack: it is empty"
    if isinstance(error, RecursionError):
        return "not MessagePack: nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not MessagePack: a text is not UTF-8: {error.reason}"
    if isinstance(error, (Unwritable, TypeError)):
        return f"not a message: {error}"
    words = str(error).removeprefix("MessagePack data is malformed: ").strip()
    if "truncated" in words:
        return "not MessagePack: it ends too early"
    if words.startswith("trailing characters"):
        return f"not MessagePack: more follows{words.removeprefix('trailing characters')}"
    return f"not MessagePack: {words[:1].lower()}{words[1:]}"


def sample(fields: Mapping[str, object]) -> bytes:
    """
    Write a message that has these fields.
    """
    return msgspec.msgpack.encode(nested(fields.items()))
