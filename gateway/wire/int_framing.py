"""
Framings with a binary length: 1, 2 or 4 bytes in network byte order, then the payload.

They are those of Twisted's C{Int8StringReceiver}, C{Int16StringReceiver} and
C{Int32StringReceiver}. A frame may be empty. No byte order mark is dropped: its bytes may be a
length.

An answer has to fit too. One that does not is cut, and ends with C{...}: its first words, by which
programs go, are there. Only C{int8} and the values of a query by C{int16} can come to that.

Strategy: as the framings by decimal lengths (L{gateway.wire.framing}). HTTP's letters are lengths
for one and two bytes, so a beginning that looks like a request is kept until its first line is
there; for four bytes they are over every limit.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from gateway.model.errors import ForeignError, FramingError
from gateway.wire.http import FirstLine
from gateway.wire.runs import RUN, run_of

_REQUEST: Final = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS|TRACE|CONNECT) (?:/|\*|[A-Za-z])"
)
_REQUEST_BYTES: Final = len(b"OPTIONS /")

_CUT: Final = b"..."


class _IntFraming:
    """
    Base of the framings with a binary length.
    """

    __slots__ = ("_first_line", "_kept", "_max_frame", "_wanted", "more")

    _name: str
    _header: int
    """Bytes of the length."""

    # A frame that is too long is an error here; only delimited framings can skip one.
    oversize = False
    has_nul = False

    def __init__(self, max_frame: int, at_start: bool = True, refuses_http: bool = False) -> None:
        """
        @param max_frame: largest payload accepted, in bytes.
        @param at_start: nothing; a byte order mark may be a length.
        @param refuses_http: whether a stream that begins as HTTP does is cut off.
        """
        self._max_frame = max_frame
        self._first_line = FirstLine() if refuses_http and self._header < 4 else None
        self._kept = bytearray()
        # Bytes that must be there before it is worth searching for a frame again.
        self._wanted = 0
        self.more = False

    @property
    def pending(self) -> int:
        return len(self._kept)

    @property
    def unfinished(self) -> bool:
        return bool(self._kept) and not self.more

    def forget(self) -> None:
        self._kept = bytearray()
        self.more = False

    @property
    def kind(self) -> bytes:
        return self._name.encode()

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        waits = self._first_line is not None and self._is_undecided(data)
        if self._kept:
            self._kept += data
            if waits or len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
        elif waits:
            self._kept += data
            return []
        frames: list[bytes] = []
        self._wanted = 0
        self.more = False
        append, header = frames.append, self._header
        size = len(data)
        known, length = b"", 0
        start = 0
        while start < size:
            if len(frames) >= most:
                self.more = True
                break
            begin = start + header
            head = data[start:begin]
            if len(head) < header:
                break
            if head != known:
                length = int.from_bytes(head, "big")
                if length > self._max_frame:
                    # Bytes behind a fault are never read.
                    self.forget()
                    raise FramingError(
                        f"{self._name}: length {length} is over the limit of {self._max_frame}",
                        frames,
                    )
                known = head
            elif size - start > RUN * (length + header):
                # The second frame of this length: often many follow, as devices send them.
                run = min(run_of(data, start, header, length, b""), most - len(frames))
                if run:
                    stride = header + length
                    begins = range(begin, begin + run * stride, stride)
                    frames += [data[i : i + length] for i in begins]
                    start += run * stride
                    continue
            end = begin + length
            if end > size:
                self._wanted = end - start
                break
            append(data[begin:end])
            start = end
        self._kept = bytearray(data[start:])
        if frames:
            # A frame of that many bytes would have shown what it is.
            self._first_line = None
        return frames

    def _is_undecided(self, data: bytes) -> bool:
        """
        Check the beginning of a stream for other protocols.

        @return: whether nothing is to be cut before more of it has come.
        """
        first_line = self._first_line
        assert first_line is not None
        foreign = first_line.foreign(data)
        if foreign:
            self.forget()
            raise ForeignError(foreign, [])
        seen = bytes(self._kept[:_REQUEST_BYTES]) + data[:_REQUEST_BYTES]
        looks_foreign = first_line.waits or _REQUEST.match(seen) is not None
        if foreign is not None or (not looks_foreign and len(seen) >= _REQUEST_BYTES):
            self._first_line = None
            return False
        return looks_foreign

    def frame(self, payload: bytes) -> bytes:
        header = self._header
        most = (1 << 8 * header) - 1
        if len(payload) > most:
            begin = payload[: most - len(_CUT)].decode("utf-8", "ignore").encode()
            payload = begin + _CUT
        return len(payload).to_bytes(header, "big") + payload

    push = frame


class Int8Framing(_IntFraming):
    """
    Frames with a length of one byte: at most 255 bytes.
    """

    __slots__ = ()

    _name = "int8"
    _header = 1


class Int16Framing(_IntFraming):
    """
    Frames with a length of two bytes: at most 65,535 bytes.
    """

    __slots__ = ()

    _name = "int16"
    _header = 2


class Int32Framing(_IntFraming):
    """
    Frames with a length of four bytes.
    """

    __slots__ = ()

    _name = "int32"
    _header = 4
