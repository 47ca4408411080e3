"""
Times of the entries of a forward chunk.

A time is an EventTime (extension type 0: seconds and nanoseconds of 32 bits), a MessagePack
timestamp, or a number of seconds. Fluent Bit from 2.1 on can put C{[time, metadata]} in its place.

Strategy: the times of many entries usually have one layout, so they are joined and taken apart by
one call, and a second is written once.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Raw

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_GROUPS: Final = frozenset((b"\xff\xff\xff\xff\0\0\0\0", b"\xff\xff\xff\xfe\0\0\0\0"))
"""EventTimes of entries that only begin and end a group of others (Fluent Bit 3.2)."""

_LAYOUTS: Final = (
    (b"\xd7\0", b""),
    (b"\x92\xd7\0", b"\x80"),
    (b"\xc7\x08\0", b""),
    (b"\x92\xc7\x08\0", b"\x80"),
)
"""What stands before and behind the eight bytes of an EventTime, without and with metadata."""

_integers = msgspec.msgpack.Decoder(list[int]).decode
_items = msgspec.msgpack.Decoder(list[Raw]).decode


class NoEntryError(Exception):
    """A value that is no entry of a chunk."""


class Times:
    """
    Reader of the times of one chunk.
    """

    def __init__(self, now: int) -> None:
        """
        @param now: nanoseconds since 1970, for entries without a time.
        """
        self._now = in_words(*divmod(now, 10**9), 9)
        # Second -> its text, up to where a fraction begins.
        self._seconds: dict[int, bytes] = {}

    def put_before(
        self, heads: Sequence[Raw], begin: bytes, lines: Sequence[bytes]
    ) -> list[bytes] | None:
        """
        Put the times of many entries before the rest of their messages.

        @param heads: times, as they came.
        @param begin: of each message, up to the first digit of its time.
        @param lines: what comes behind the time, its quote, and a comma.
        @return: messages; C{None} where one of the entries has metadata, or a time that is not of
            the same layout as that of the first one.
        """
        count = len(heads)
        joined = b"".join(heads)
        size = len(joined) // count
        for marks, behind in _LAYOUTS:
            if (
                size == len(marks) + 8 + len(behind)
                and size * count == len(joined)
                and _column(joined, size, marks, behind)
            ):
                break
        else:
            return self._put_integers(joined, begin, lines)
        layout = struct.Struct(f">{len(marks)}xII{len(behind)}x")
        times = list(layout.iter_unpack(joined))
        texts = self._texts({second for second, _ in times})
        if texts is None or max([nano for _, nano in times]) >= 10**9:
            return None
        begins = {second: b"%b%b." % (begin, text) for second, text in texts.items()}
        return [
            b'%b%09dZ",%b' % (begins[second], nano, line)
            for (second, nano), line in zip(times, lines, strict=True)
        ]

    def _put_integers(
        self, joined: bytes, begin: bytes, lines: Sequence[bytes]
    ) -> list[bytes] | None:
        try:
            seconds = _integers(array_of(len(lines), joined))
        except msgspec.DecodeError:
            return None
        texts = self._texts(set(seconds))
        if texts is None:
            return None
        begins = {second: b'%b%bZ",' % (begin, text) for second, text in texts.items()}
        return [begins[second] + line for second, line in zip(seconds, lines, strict=True)]

    def _texts(self, seconds: set[int]) -> dict[int, bytes] | None:
        """
        @return: second -> its text; C{None} where one of them is no time.
        """
        known = self._seconds
        for second in seconds - known.keys():
            # Some may be markers of a group, and have no message at all.
            if not 0 < second < 0xFFFFFFFE:
                return None
            known[second] = in_words(second, 0, 0).encode()
        return {second: known[second] for second in seconds}

    def one(self, head: Raw) -> tuple[str | None, bytes]:
        """
        Read the time of one entry.

        @return: a JSON token, C{None} where the entry has no record of its own; and its metadata,
            a map, or C{b""}.
        """
        import msgpack

        metadata = b""
        try:
            if bytes(head).startswith(b"\x92"):
                head, inner = _items(head)
                metadata = bytes(inner)
                if not is_map(metadata):
                    raise NoEntryError
                metadata = b"" if metadata == b"\x80" else metadata
            time = msgpack.unpackb(bytes(head), timestamp=0)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise NoEntryError from None
        if isinstance(time, msgpack.ExtType):
            if bytes(time.data) in _GROUPS:
                return None, b""
            return self._quoted(*event_time(time)), metadata
        if isinstance(time, msgpack.Timestamp):
            return self._quoted(time.seconds, time.nanoseconds or None), metadata
        if time is None:
            return self._quoted(0, 0), metadata
        if isinstance(time, float) and math.isfinite(time):
            second = math.floor(time)
            nano = round((time - second) * 10**6) * 1000
            return self._quoted(second, nano, repr(time)), metadata
        if isinstance(time, int) and not isinstance(time, bool):
            return self._quoted(time, None), metadata
        raise NoEntryError

    def _quoted(self, second: int, nano: int | None, number: str = "") -> str:
        """
        @param nano: C{None}: the time is in whole seconds.
        @param number: how it is written where no calendar has it, so that a column of a time
            refuses it; without: C{second}.
        """
        if second == 0:
            return f'"{self._now}Z"'
        try:
            return f'"{in_words(second, nano or 0, 0 if nano is None else 9)}Z"'
        except OverflowError:
            return number or str(second)


def event_time(time: Any) -> tuple[int, int]:
    """
    Return seconds and nanoseconds of an EventTime.

    @param time: an extension value, of msgpack.
    @raise NoEntryError: it is of another kind.
    """
    if time.code != 0 or len(time.data) != 8:
        raise NoEntryError
    second, nano = struct.unpack(">II", time.data)
    return second, nano


def _column(joined: bytes, size: int, marks: bytes, behind: bytes) -> bool:
    """
    Say whether records of one size all begin and end with the same bytes.
    """
    count = len(joined) // size
    return all(
        joined[position::size] == bytes((byte,)) * count
        for position, byte in (*enumerate(marks), *enumerate(behind, size - len(behind)))
    )


def in_words(second: int, nano: int, digits: int) -> str:
    """
    Write a time as RFC 3339 does, without the zone.

    @param digits: of its fraction.
    @raise OverflowError: no calendar has it.
    """
    second += nano // 10**9
    text = (_EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{text}.{nano % 10**9:09}" if digits else text


def array_of(count: int, content: bytes) -> bytes:
    """Write a MessagePack array of values that are joined."""
    return b"\xdd" + count.to_bytes(4) + content


def is_map(value: bytes) -> bool:
    return 0x80 <= value[0] <= 0x8F or value[0] in (0xDE, 0xDF)
