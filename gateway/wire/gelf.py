"""
GELF over UDP: messages in several datagrams, and compressed ones.

A message of more than a datagram comes in up to 128 chunks, each with the magic bytes C{1e 0f},
the message's ID of 8 bytes, its number and the count of all. A message of which chunks are missing
after five seconds is lost. A whole message is plain, or compressed by zlib or gzip, which its first
bytes tell.

Strategy: sans I/O; the caller tells the time. Memory is bounded: of what waits for missing chunks
there are limits for each source and for all together, and the oldest goes where there is no room;
what a compressed message becomes is cut off at C{max_frame}.

@see: U{https://go2docs.graylog.org/current/getting_in_log_data/gelf.html}, "GELF via UDP".
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from gateway.model.outcome import Code, Outcome, refused
from gateway.wire.framing import OVERSIZE

CHUNK: Final = b"\x1e\x0f"
"""First bytes of a chunk."""

MAX_CHUNKS: Final = 128
"""Chunks of a message, at most."""

CHUNK_SECONDS: Final = 5.0
"""Seconds that a message's chunks have to come, from the first of them on."""

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all incomplete messages, at most."""

MAX_SOURCE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one source's incomplete messages, at most."""

MAX_SOURCE_MESSAGES: Final = 256
"""Incomplete messages of one source, at most."""

_HEADER: Final = 12
_GZIP: Final = b"\x1f\x8b"
_ZLIB: Final = 0x78
_ANY_WINDOW: Final = 47
"""For zlib: the header says whether it is zlib or gzip, and how large the window is."""

_OWN: Final = 200
"""Bytes of a chunk in memory beside its data, about."""

_HELD: Final = 1000
"""Bytes of an incomplete message in memory beside its chunks, about."""


class GelfMessages(NamedTuple):
    """
    Messages of some datagrams.

    @ivar frames: whole messages, decompressed; L{OVERSIZE} for one that is too long.
    @ivar faults: answers to datagrams that are no part of a message.
    """

    frames: list[bytes]
    faults: list[Outcome]


class _Parts:
    """
    Chunks of one message.

    @ivar size: bytes in memory, about.
    @ivar skips: whether the message is answered already, and the rest of it is dropped.
    """

    __slots__ = ("began", "chunks", "count", "payload", "size", "skips")

    def __init__(self, began: float, count: int) -> None:
        self.began = began
        self.count = count
        self.chunks: dict[int, bytes] = {}
        self.payload = 0
        self.size = _HELD
        self.skips = False


_Key = tuple[Hashable, bytes]


class GelfDatagrams:
    """
    Assembly of the messages of one listener's datagrams.

    @ivar waiting: bytes in memory of incomplete messages, about.
    @ivar incomplete: messages given up so far, since chunks of them did not come in time or there
        was no room for them.
    """

    __slots__ = ("_messages", "_parts", "_sources", "incomplete", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.incomplete = 0
        # In the order in which they began.
        self._parts: dict[_Key, _Parts] = {}
        self._sources: dict[Hashable, int] = {}
        self._messages: dict[Hashable, int] = {}

    @property
    def expires(self) -> float | None:
        """Time at which the oldest incomplete message is given up; C{None}: there is none."""
        oldest = next(iter(self._parts.values()), None)
        return None if oldest is None else oldest.began + CHUNK_SECONDS

    def receive(
        self, source: Hashable, datagrams: Sequence[bytes], max_frame: int, now: float
    ) -> GelfMessages:
        """
        Take datagrams of one source.

        @param source: its address; a message's chunks come from one.
        @param max_frame: largest message accepted, decompressed, in bytes.
        @param now: seconds of any clock that does not go back.
        """
        self.expire(now)
        frames: list[bytes] = []
        faults: list[Outcome] = []
        for datagram in datagrams:
            whole: bytes | Outcome | None = datagram
            if datagram.startswith(CHUNK):
                whole = self._chunk(source, datagram, max_frame, now)
            if whole is not None and not isinstance(whole, Outcome):
                whole = _decompressed(whole, max_frame)
            if isinstance(whole, Outcome):
                faults.append(whole)
            elif whole is not None:
                frames.append(whole)
        return GelfMessages(frames, faults)

    def expire(self, now: float) -> None:
        """Give up the messages whose chunks did not come in time."""
        while self._parts:
            key, oldest = next(iter(self._parts.items()))
            if oldest.began + CHUNK_SECONDS > now:
                return
            self._give_up(key)

    def clear(self) -> None:
        """Give up all incomplete messages."""
        while self._parts:
            self._give_up(next(iter(self._parts)))

    def _chunk(
        self, source: Hashable, datagram: bytes, max_frame: int, now: float
    ) -> bytes | Outcome | None:
        """
        Take a chunk; return the whole message where it is complete now.
        """
        if len(datagram) < _HEADER:
            return refused(Code.FORMAT, "GELF: a chunk without its 12 bytes of header")
        number, count = datagram[10], datagram[11]
        if not 0 < count <= MAX_CHUNKS or number >= count:
            return refused(Code.FORMAT, f"GELF: chunk {number} of {count}")
        data = datagram[_HEADER:]
        if count == 1:
            return data
        key = (source, datagram[2:10])
        parts = self._parts.get(key)
        if parts is None:
            self._make_room(source)
            parts = self._parts[key] = _Parts(now, count)
            self._messages[source] = self._messages.get(source, 0) + 1
            self._add(source, _HELD)
        if parts.skips or number in parts.chunks:
            return None  # of a message that is answered, or the network doubled it
        if parts.count != count:
            self._skip(key, parts)
            return refused(Code.FORMAT, f"GELF: a chunk of {count} and one of {parts.count}")
        if parts.payload + len(data) > max_frame + _HEADER:
            # Compression makes nothing longer but by its header.
            self._skip(key, parts)
            return OVERSIZE
        parts.chunks[number] = data
        parts.payload += len(data)
        size = len(data) + _OWN
        parts.size += size
        self._add(source, size)
        if len(parts.chunks) == count:
            self._forget(key)
            return b"".join([parts.chunks[place] for place in range(count)])
        if self.waiting > MAX_WAITING_BYTES or self._sources[source] > MAX_SOURCE_BYTES:
            self._make_room(source)
        return None

    def _make_room(self, source: Hashable) -> None:
        """Give up the oldest messages until there is room for a chunk of a source."""
        while (
            self._messages.get(source, 0) >= MAX_SOURCE_MESSAGES
            or self._sources.get(source, 0) > MAX_SOURCE_BYTES
        ):
            self._give_up(next(key for key in self._parts if key[0] == source))
        while self.waiting > MAX_WAITING_BYTES:
            self._give_up(next(iter(self._parts)))

    def _skip(self, key: _Key, parts: _Parts) -> None:
        """Drop the chunks of a message that is answered, and those to come."""
        size = parts.size - _HELD
        parts.chunks.clear()
        parts.size = _HELD
        parts.skips = True
        self._add(key[0], -size)

    def _give_up(self, key: _Key) -> None:
        if not self._forget(key).skips:
            self.incomplete += 1

    def _forget(self, key: _Key) -> _Parts:
        parts = self._parts.pop(key)
        source = key[0]
        self._add(source, -parts.size)
        self._messages[source] -= 1
        if not self._messages[source]:
            del self._messages[source], self._sources[source]
        return parts

    def _add(self, source: Hashable, size: int) -> None:
        self.waiting += size
        self._sources[source] = self._sources.get(source, 0) + size


def _decompressed(data: bytes, max_frame: int) -> bytes | Outcome:
    """
    Return a message as it was before compression; the refusal of one that is damaged.
    """
    if not (
        data.startswith(_GZIP)
        or (len(data) > 1 and data[0] == _ZLIB and (data[0] << 8 | data[1]) % 31 == 0)
    ):
        return OVERSIZE if len(data) > max_frame else data
    stream = zlib.decompressobj(_ANY_WINDOW)
    try:
        whole = stream.decompress(data, max_frame + 1)
    except zlib.error as error:
        return refused(Code.FORMAT, f"GELF: cannot be decompressed: {error}")
    if len(whole) > max_frame:
        return OVERSIZE
    if not stream.eof or stream.unused_data:
        return refused(Code.FORMAT, "GELF: cannot be decompressed: it ends too early or too late")
    return whole
