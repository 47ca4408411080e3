"""
Lumberjack, which Beats, Logstash and C{python-logstash-async} speak: windows of events.

A sender announces how many events follow (C{2W}), sends them, each with a sequence number, as
JSON (C{2J}) or as keys and values (C{2D}), within compressed frames (C{2C}) or not, and waits for
the last one's number (C{2A}). Strategy: sans I/O. L{LumberjackFraming} gives a whole window at a
time, its events decompressed and cut out; L{acknowledgement} makes its answer.

What senders do, and what it means for their answers:

 - libbeat numbers each window from 1, C{pylogbeat} counts on. A number above the window's
   last is fatal to the former, so the last event's own is acknowledged, as it was sent.
 - An acknowledged part of a window is forgotten when the connection ends, so nothing is
   gained by it.
 - C{2A} with 0 says that the gateway has the window and works on it: libbeat waits anew.
 - Senders of version 1 (Logstash's lumberjack output, C{logstash-forwarder}) take any
   acknowledgement for that of the whole window, whatever its number: they must get no other.

Limits: a window has at most L{MAX_EVENTS} events, and its frames at most C{max_chunk} bytes, each
counted as it came or as it is decompressed, whichever is more. So much is kept, and one read.

@see: U{https://github.com/logstash-plugins/logstash-input-beats/blob/main/PROTOCOL.md}
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from json import dumps
from struct import Struct
from typing import Final

from gateway.model.errors import ForeignError, FramingError
from gateway.wire.http import NO_TLS

MAX_EVENTS: Final = 100_000
"""
Most events of a window. Beats send 2,048 unless C{bulk_max_size} says otherwise, Logstash 1,024;
each costs some 50 bytes beside what it says.
"""

KEEPALIVE: Final = b"2A\0\0\0\0"
"""Says that the gateway works on a window of version 2; acknowledges nothing."""

_NUMBER: Final = Struct(">I")
_EVENT: Final = Struct(">HII")
"""Version and type, sequence number, and then the length of JSON or the number of keys."""

_JSON: Final = frozenset(int.from_bytes(text, "big") for text in (b"1J", b"2J"))
_VERSIONS: Final = b"12"
_TYPES: Final = b"WJDC"
_TLS_RECORD: Final = 0x16
"""First byte of a TLS handshake (RFC 8446, section 5.1)."""


class Window(bytes):
    """
    Whole window: a C{bytes} of its events with a newline between.

    @ivar events: the events, in order; maybe none. Each is JSON as it was sent, or an object made
        of keys and values.
    @ivar sequence: number of the last event, as it was sent; of an empty window that of the last
        event before it, or 0.
    @ivar version: of the frame that announced it, C{b"1"} or C{b"2"}.
    """

    events: list[bytes]
    sequence: int
    version: bytes

    @classmethod
    def of(cls, events: list[bytes], sequence: int, version: bytes) -> Window:
        """Make a window of its events."""
        window = cls(b"\n".join(events))
        window.events = events
        window.sequence = sequence
        window.version = version
        return window


def acknowledgement(window: Window) -> bytes:
    """Return the frame that acknowledges a window."""
    return b"%bA%b" % (window.version, _NUMBER.pack(window.sequence))


class _Fault(Exception):
    """
    What is wrong with the stream.

    @ivar foreign: whether it is another protocol's.
    """

    def __init__(self, text: str, foreign: bool = False) -> None:
        super().__init__(text)
        self.foreign = foreign


class LumberjackFraming:
    """
    Split a stream into windows.

    Events are cut out as they come. Bytes are kept only of a frame that is not whole, and are
    looked at again when as many have come as it is known to need.
    """

    __slots__ = (
        *("_announced", "_begun", "_events", "_field_bytes", "_fields", "_kept", "_left"),
        *("_max_chunk", "_sequence", "_size", "_version", "_wanted"),
    )

    oversize = False
    has_nul = False
    kind = b"lumberjack"

    def __init__(self, max_frame: int, max_chunk: int) -> None:
        """
        @param max_frame: nothing here: an event that is too large is refused alone, behind this.
        @param max_chunk: most bytes of a window's frames.
        """
        self._max_chunk = max_chunk
        self._kept = bytearray()
        # Bytes that must be there before it is worth looking again.
        self._wanted = 0
        # The window that is not handed out: whether there is one, its events so far, how many are
        # missing, and bytes of their frames.
        self._begun = False
        self._events: list[bytes] = []
        self._left = 0
        self._size = 0
        # Of the last event and the last announcement.
        self._sequence = 0
        self._version = b"2"
        self._announced = 0
        # Keys and values of an event that is not whole, and the bytes that they take.
        self._fields: list[bytes] = []
        self._field_bytes = 0

    @property
    def more(self) -> bool:
        return self._begun and not self._left

    @property
    def pending(self) -> int:
        return len(self._kept) + self._size

    @property
    def unfinished(self) -> bool:
        return self._left > 0 or (bool(self._kept) and not self.more)

    def forget(self) -> None:
        self._kept = bytearray()
        self._events = []
        self._fields = []
        self._begun = False
        self._left = self._size = self._wanted = self._field_bytes = 0

    def frame(self, payload: bytes) -> bytes:
        return payload

    push = frame

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        self._kept += data
        if len(self._kept) < self._wanted:
            return []
        self._wanted = 0
        data = bytes(self._kept)
        windows: list[bytes] = []
        try:
            start = self._read(data, windows, most)
        except _Fault as fault:
            # Bytes behind a fault are never read.
            self.forget()
            error = ForeignError if fault.foreign else FramingError
            raise error(f"lumberjack: {fault}", windows) from None
        self._kept = bytearray(data[start:])
        return windows

    def _read(self, data: bytes, windows: list[bytes], most: int) -> int:
        """
        Read frames as they came, up to the first window that is whole and not wanted yet.

        @return: where the bytes begin that are to be kept.
        """
        start = 0
        while True:
            begin = start
            start = self._take_events(data, begin)
            self._add_size(start - begin)
            if self._begun and not self._left:
                if len(windows) >= most:
                    return start
                windows.append(self._whole_window())
            beginning = data[start : start + 6]
            kind = _checked_type(beginning)
            if len(beginning) < 6:
                break
            if kind == b"W":
                self._announce(beginning)
                start += 6
            elif kind == b"C":
                stop = start + 6 + _NUMBER.unpack_from(data, start + 2)[0]
                if stop > len(data):
                    self._wanted = stop - start
                    break
                begun = self._repeat_window()
                self._take_compressed(data[start + 6 : stop])
                if not begun:
                    self._size = 0  # it was empty
                start = stop
            elif self._left:
                break
            elif not self._repeat_window():
                raise _Fault("an event that no window announced")
        if self._size + self._wanted > self._max_chunk:
            raise self._too_large()
        return start

    def _announce(self, frame: bytes) -> None:
        count: int = _NUMBER.unpack_from(frame, 2)[0]
        if self._left:
            raise _Fault(f"a window begins before the last {self._left} events of the one before")
        if count > MAX_EVENTS:
            raise _Fault(f"a window of {count} events is over the limit of {MAX_EVENTS}")
        self._version = frame[:1]
        self._announced = self._left = count
        self._begun = True

    def _repeat_window(self) -> bool:
        """
        Begin a window as large as the last one, if a sender of version 1 has not announced one.

        To it the size is a setting that lasts.

        @return: whether a window has begun.
        """
        if not self._begun and self._version == b"1" and self._announced:
            self._left = self._announced
            self._begun = True
        return self._begun

    def _whole_window(self) -> Window:
        window = Window.of(self._events, self._sequence, self._version)
        self._begun = False
        self._events = []
        self._size = 0
        return window

    def _add_size(self, size: int) -> None:
        self._size += size
        if self._size > self._max_chunk:
            raise self._too_large()

    def _too_large(self) -> _Fault:
        return _Fault(
            f"a window is over the limit of {self._max_chunk} bytes; let the sender put fewer"
            " events into one, or set a larger max_chunk"
        )

    def _take_events(self, data: bytes, start: int) -> int:
        """
        Take the window's events that are whole, up to the first that is not, or another frame.

        @return: where they end.
        """
        while True:
            start = self._take_json(data, start)
            if not self._left or data[start + 1 : start + 2] != b"D":
                return start
            stop = self._take_fields(data, start)
            if stop is None:
                return start
            start = stop

    def _take_json(self, data: bytes, start: int) -> int:
        """Take events in JSON; the only work there is for each."""
        unpack, append = _EVENT.unpack_from, self._events.append
        left, sequence = self._left, self._sequence
        size = len(data)
        while left and start + 10 <= size:
            kind, number, length = unpack(data, start)
            if kind not in _JSON:
                break
            begin = start + 10
            stop = begin + length
            if stop > size:
                self._wanted = stop - start
                break
            append(data[begin:stop])
            sequence = number
            start = stop
            left -= 1
        self._left, self._sequence = left, sequence
        return start

    def _take_fields(self, data: bytes, start: int) -> int | None:
        """
        Take an event of keys and values.

        @return: where it ends; C{None}: it is not whole.
        """
        _checked_type(data[start : start + 2])
        if len(data) - start < 10:
            return None
        _, sequence, pairs = _EVENT.unpack_from(data, start)
        if 8 * pairs > self._max_chunk:
            raise self._too_large()
        fields = self._fields
        end = start + 10 + self._field_bytes
        while len(fields) < 2 * pairs:
            begin = stop = end + 4
            if begin <= len(data):
                stop += _NUMBER.unpack_from(data, end)[0]
            if stop > len(data):
                self._field_bytes = end - start - 10
                self._wanted = stop - start
                return None
            fields.append(data[begin:stop])
            end = stop
        event = _json_object(fields)
        self._fields = []
        self._field_bytes = 0
        # What JSON escapes may take six times as much.
        self._add_size(max(0, len(event) - (end - start)))
        self._events.append(event)
        self._sequence = sequence
        self._left -= 1
        return end

    def _take_compressed(self, payload: bytes) -> None:
        """
        Take the events of a compressed frame, which holds nothing else.

        @param payload: of the frame.
        """
        inflater = zlib.decompressobj()
        room = self._max_chunk - self._size
        try:
            # One byte more than there is room for tells that it is too much.
            data = inflater.decompress(payload, room + 1)
        except zlib.error as error:
            raise _Fault(f"a compressed frame is none: {error}") from None
        self._add_size(max(len(data), 6 + len(payload)))
        if not inflater.eof:
            raise _Fault("a compressed frame ends before its data does")
        if inflater.unused_data:
            raise _Fault("a compressed frame goes on behind the end of its data")
        end = self._take_events(data, 0)
        if end == len(data):
            return
        kind = _checked_type(data[end : end + 2])
        if kind in (b"W", b"C"):
            raise _Fault(f"a frame of type {kind!r} in a compressed one")
        if not self._left:
            raise _Fault("a compressed frame with more events than the window announced")
        raise _Fault("a compressed frame ends within an event")


def _checked_type(beginning: bytes) -> bytes:
    """
    Check version and type of a frame.

    @param beginning: its first bytes, maybe none.
    @return: its type; C{b""} where it has not come.
    """
    version, kind = beginning[:1], beginning[1:2]
    if version not in _VERSIONS:
        if version[0] == _TLS_RECORD:
            raise _Fault(NO_TLS, True)
        raise _Fault(f"{version!r} where a frame's version should be, 1 or 2")
    if kind not in _TYPES:
        raise _Fault(f"{kind!r} is no type of a frame that senders send")
    return kind


def _json_object(fields: Sequence[bytes]) -> bytes:
    """
    Return keys and values as a JSON object of strings.

    Bytes that are no UTF-8 stay as they are, so that the route's format refuses them.

    @param fields: keys and values by turns.
    """
    texts = [
        dumps(field.decode("utf-8", "surrogateescape"), ensure_ascii=False) for field in fields
    ]
    pairs = [f"{key}:{value}" for key, value in zip(texts[::2], texts[1::2], strict=True)]
    return b"{%b}" % ",".join(pairs).encode("utf-8", "surrogateescape")
