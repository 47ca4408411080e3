"""
Framings: split a byte stream into frames, and write answers as frames.

Strategy: sans I/O. A framing is fed what the transport received and returns
the list of frames that are complete now; it never sees a transport, and it works
on the whole chunk at C speed (C{split}, C{find}) instead of byte by byte. However
the stream was cut by TCP, the same frames come out.

A byte order mark before the first frame is dropped, but where a frame begins with a binary length.

Limits: a frame's payload is at most C{max_frame} bytes; what is kept between two
calls is at most one incomplete frame and what a read brought beyond the frames that
were wanted, as it came, so memory is bounded by C{max_frame} plus one read. Precedents
for a limit of this size: RFC 5424 section 6.1 (receivers must take 480 octets, should
take 2048), NetstringReceiver.MAX_LENGTH (99999).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final, Literal, Protocol

from gateway.model.errors import ForeignError, FramingError
from gateway.wire.http import FirstLine
from gateway.wire.int_framing import Int8Framing, Int16Framing, Int32Framing
from gateway.wire.runs import RUN, run_of


class Oversize(bytes):
    """
    Placeholder in a list of frames for one that was over the limit and is skipped.

    A C{bytes} (and empty), so that a list of frames stays one of C{bytes}.
    """

    __slots__ = ()


OVERSIZE: Final = Oversize()

BOM: Final = b"\xef\xbb\xbf"
"""
UTF-8's byte order mark. Windows' tools put it before a file or a stream, where it is no part of
any message; anywhere else it is a character like others (RFC 3629, section 6).
"""

MAX_DELIMITER: Final = 16
"""Most bytes of a delimiter that a listener may have of its own."""


def without_bom(data: bytes) -> tuple[bytes, bool]:
    """
    Drop a byte order mark from the beginning of a stream.

    @param data: a stream from its first byte on.
    @return: the data that is left, and whether it may be the beginning of a mark, so that more
        bytes are needed to decide.
    """
    if len(data) < len(BOM) and BOM.startswith(data):
        return data, True
    return data.removeprefix(BOM), False


class Framing(Protocol):
    """
    Framing of one peer: it keeps the incomplete frame between two reads.
    """

    @property
    def oversize(self) -> bool:
        """Whether the last L{receive} returned an L{OVERSIZE} among its frames."""

    @property
    def more(self) -> bool:
        """
        Whether kept bytes may hold whole frames, since more came than L{receive} was asked for.
        """

    @property
    def pending(self) -> int:
        """
        Number of bytes that are kept.

        Of an incomplete frame at most about C{max_frame}, and the frames beyond those asked for.
        """

    @property
    def unfinished(self) -> bool:
        """Whether an incomplete frame is kept, or one over the limit is being skipped."""

    @property
    def has_nul(self) -> bool:
        """
        Whether a NUL is in a frame that was too long, or in one that is not finished.

        It then is likely that the peer ends its messages with NUL while they are read as lines.
        """

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        """
        Take the bytes that the transport received.

        @param most: how many payloads are wanted. What comes behind them is kept as it came,
            without an object for each, until this is called again, maybe with nothing new.
        @return: the payloads now complete, in order; maybe none.
        @raise FramingError: the stream cannot be split further; its C{frames}
            are the good payloads before the fault, still to be answered.
        """

    def forget(self) -> None:
        """Drop what is kept; nothing more will come."""

    @property
    def kind(self) -> bytes:
        """Key that is equal for all framings that write the same bytes for a payload."""

    def frame(self, payload: bytes) -> bytes:
        """Write one answer as a frame."""

    def push(self, payload: bytes) -> bytes:
        """
        Write a payload of any bytes as one frame.

        Where the framing cannot carry all bytes, each that would end a frame (in lines CR and LF)
        becomes a space.
        """


class _DelimitedFraming:
    """
    Base of framings where a delimiter ends a frame; a frame that is too long is skipped up to it.
    """

    __slots__ = (
        *("_at_start", "_ending", "_first_line", "_has_nul", "_kept", "_max_frame", "_skipping"),
        *("more", "oversize"),
    )

    _delimiter: bytes
    _optional = b""
    """Bytes that are dropped where they stand just before the delimiter."""
    _straddle = 0
    """Bytes at the end of a read that may be the beginning of a delimiter."""
    _flat: bytes
    """A table that makes a space of each byte that no frame can hold."""

    def __init__(self, max_frame: int, at_start: bool = True, refuses_http: bool = False) -> None:
        """
        @param max_frame: largest payload accepted, in bytes, its ending not counted.
        @param at_start: whether the first bytes may be a byte order mark.
        @param refuses_http: whether a stream that begins as HTTP does is cut off.
        """
        self._max_frame = max_frame
        self._at_start = at_start
        self._first_line = FirstLine() if refuses_http else None
        self._kept = bytearray()
        self._skipping = False
        self._has_nul = False
        # The bytes that end an answer; with lines the first one received decides.
        self._ending: bytes | None = None if self._optional else self._delimiter
        self.oversize = False
        self.more = False

    @property
    def pending(self) -> int:
        return len(self._kept)

    @property
    def unfinished(self) -> bool:
        return self._skipping or (bool(self._kept) and not self.more)

    @property
    def has_nul(self) -> bool:
        return self._has_nul or (b"\0" in self._kept and not self.more)

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        self.oversize = False
        if self._at_start:
            data, self._at_start = without_bom(bytes(self._kept) + data)
            self._kept = bytearray()
            if self._at_start:
                self._kept += data
                return []
        if self._first_line is not None:
            waited = self._first_line.waits
            foreign = self._first_line.foreign(data)
            if foreign:
                self.forget()
                raise ForeignError(foreign, [])
            if waited:
                data = bytes(self._kept) + data
                self._kept = bytearray()
            if self._first_line.waits:
                self._kept += data
                return []
            if foreign is not None:
                self._first_line = None
        delimiter, optional = self._delimiter, self._optional
        if self.more:
            data = bytes(self._kept) + data
            self._kept = bytearray()
            self.more = False
        if self._skipping:
            skipped = bytes(self._kept) + data
            _, end, data = skipped.partition(delimiter)
            if not end:
                self._kept = bytearray(skipped[max(0, len(skipped) - self._straddle) :])
                return []
            self._kept = bytearray()
            self._skipping = False
        frames: list[bytes] = []
        straddle = self._straddle
        if delimiter in data or (
            straddle and delimiter in bytes(self._kept[-straddle:]) + data[:straddle]
        ):
            if self._kept:
                data = bytes(self._kept) + data
            frames = data.split(delimiter, most)
            rest = frames.pop()
            self._kept = bytearray(rest)
            self.more = len(frames) == most and delimiter in rest
            # One search of the whole chunk saves one of each line where no CR is.
            if optional and optional in data:
                frames = [f[:-1] if f.endswith(optional) else f for f in frames]
            # Only a chunk longer than the limit can hold a frame longer than the limit.
            if len(data) > self._max_frame and max(map(len, frames), default=0) > self._max_frame:
                self._has_nul = self._has_nul or any(b"\0" in frame for frame in frames)
                frames = [OVERSIZE if len(f) > self._max_frame else f for f in frames]
                self.oversize = True
            if self._ending is None:
                self._ending = self._first_ending(data)
        else:
            self._kept += data
        kept = 0 if self.more else len(self._kept)
        # One byte more may be the CR of a line that is just within the limit.
        if kept > self._max_frame + straddle and not (
            optional and kept == self._max_frame + 1 and self._kept.endswith(optional)
        ):
            self._has_nul = self.has_nul
            frames.append(OVERSIZE)
            self.oversize = True
            self._skipping = True
            self._kept = self._kept[len(self._kept) - straddle :]
        return frames

    def forget(self) -> None:
        self._kept = bytearray()
        self.more = False

    @property
    def kind(self) -> bytes:
        return self._ending or self._delimiter

    def frame(self, payload: bytes) -> bytes:
        return payload + (self._ending or self._delimiter)

    def push(self, payload: bytes) -> bytes:
        return payload.translate(self._flat) + (self._ending or self._delimiter)

    def _first_ending(self, data: bytes) -> bytes | None:
        # A skipped line decides nothing: whether its end was seen depends on how
        # TCP cut the stream, and answers must not.
        delimiter, optional = self._delimiter, self._optional
        start = 0
        while (end := data.find(delimiter, start)) >= 0:
            has_optional = data[start:end].endswith(optional)
            if end - start - has_optional <= self._max_frame:
                return optional + delimiter if has_optional else delimiter
            start = end + 1
        return None


class LineFraming(_DelimitedFraming):
    """
    Frames as lines: LF ends a frame, one CR just before it is dropped, a bare CR is data.

    The first complete line decides which ending the answers get: telnet sends
    CRLF and is answered with CRLF, C{nc} sends LF and is answered with LF.
    """

    __slots__ = ()

    _delimiter = b"\n"
    _optional = b"\r"
    _flat = bytes.maketrans(b"\r\n", b"  ")


class NulFraming(_DelimitedFraming):
    """
    Frames that end with NUL; answers end with it too.

    GELF over TCP and Python's C{SysLogHandler} use it.
    """

    __slots__ = ()

    _delimiter = b"\0"
    _flat = bytes.maketrans(b"\0", b" ")


class DelimitedFraming(_DelimitedFraming):
    """
    Frames that end with a delimiter of the listener's own; answers end with it too.

    Where a delimiter is in an answer (it may be printable), spaces take its place.
    """

    __slots__ = ("_delimiter", "_filler", "_straddle")

    def __init__(
        self,
        max_frame: int,
        at_start: bool = True,
        refuses_http: bool = False,
        delimiter: bytes = b"\n",
    ) -> None:
        """
        @param delimiter: 1 to L{MAX_DELIMITER} bytes.
        """
        self._delimiter = delimiter
        self._straddle = len(delimiter) - 1
        self._filler = b"_" if b" " in delimiter else b" "
        super().__init__(max_frame, at_start and not BOM.startswith(delimiter[:1]), refuses_http)

    def frame(self, payload: bytes) -> bytes:
        delimiter = self._delimiter
        if delimiter in payload:
            payload = payload.replace(delimiter, self._filler * len(delimiter))
        framed = payload + delimiter
        # One that begins as it ends may begin within the payload.
        while (found := framed.find(delimiter)) < len(payload):
            framed = framed[:found] + self._filler + framed[found + 1 :]
        return framed

    push = frame


class _CountedFraming:
    """
    Base of netstrings and RFC 6587 octet counting: a decimal length, a mark, the payload.
    """

    __slots__ = ("_at_start", "_kept", "_max_digits", "_max_frame", "_wanted", "more")

    _name: str
    _mark: bytes
    _trailer: bytes
    _zero: bool
    # A frame that is too long is an error here; only delimited framings can skip one.
    oversize = False
    has_nul = False

    def __init__(self, max_frame: int, at_start: bool = True, refuses_http: bool = False) -> None:
        """
        @param max_frame: largest payload accepted, in bytes.
        @param at_start: whether the first bytes may be a byte order mark.
        @param refuses_http: nothing; no HTTP begins with a length.
        """
        self._max_frame = max_frame
        self._at_start = at_start
        self._max_digits = len(str(max_frame))
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
        return self._mark

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
        if self._at_start:
            data, self._at_start = without_bom(data)
            if self._at_start:
                self._kept = bytearray(data)
                return []
        frames: list[bytes] = []
        self._wanted = 0
        self.more = False
        append, find = frames.append, data.find
        mark, trailer = self._mark, self._trailer
        tail = len(trailer)
        size = len(data)
        digits_most = self._max_digits
        known, length = mark, 0  # no length looks like the mark
        start = 0
        while start < size:
            if len(frames) >= most:
                self.more = True
                break
            colon = find(mark, start, start + digits_most + 1)
            if colon < 0:
                self._check_digits(data[start : start + digits_most + 1], frames)
                break
            digits = data[start:colon]
            if digits != known:
                length = self._length(digits, frames)
                known = digits
            elif size - start > RUN * (length + 8):
                # The second frame of this length: often many follow, as devices send them.
                run = run_of(data, start, colon + 1 - start, length, trailer)
                run = min(run, most - len(frames))
                if run:
                    stride = colon + 1 - start + length + tail
                    end = start + run * stride
                    begins = range(colon + 1, end, stride)
                    frames += [data[begin : begin + length] for begin in begins]
                    start = end
                    continue
            begin = colon + 1
            end = begin + length
            if end + tail > size:
                self._wanted = end + tail - start
                break
            if tail and data[end] != trailer[0]:
                raise self._error(
                    f"{data[end : end + 1]!r} where {trailer!r} should end the frame", frames
                )
            append(data[begin:end])
            start = end + tail
        self._kept = bytearray(data[start:])
        return frames

    def _length(self, digits: bytes, frames: list[bytes]) -> int:
        # bytes.isdigit() knows ASCII digits only: no sign, no space, no other script.
        if not digits.isdigit() or (digits[0] == 48 and not (self._zero and digits == b"0")):
            raise self._error(f"bad length {digits!r}", frames)
        length = int(digits)
        if length > self._max_frame:
            raise self._error(f"length {length} is over the limit of {self._max_frame}", frames)
        return length

    def _check_digits(self, digits: bytes, frames: list[bytes]) -> None:
        """Raise unless bytes without a mark can still be the beginning of a length."""
        self._length(digits, frames)
        if len(digits) > self._max_digits:
            raise self._error(f"length over the limit of {self._max_frame}", frames)

    def _error(self, text: str, frames: list[bytes]) -> FramingError:
        # Bytes behind a fault are never read.
        self.forget()
        return FramingError(f"{self._name}: {text}", frames)


class NetstringFraming(_CountedFraming):
    """
    Frames as netstrings, C{b"5:hello,"}; answers are netstrings too.

    @see: U{https://cr.yp.to/proto/netstrings.txt}
    """

    __slots__ = ()

    _name = "netstring"
    _mark = b":"
    _trailer = b","
    _zero = True

    def frame(self, payload: bytes) -> bytes:
        return b"%d:%s," % (len(payload), payload)

    push = frame


class OctetCountedFraming(_CountedFraming):
    """
    Frames as RFC 6587 octet counting, C{b"5 hello"}; answers are framed the same way.

    @see: U{https://www.rfc-editor.org/rfc/rfc6587#section-3.4.1}: MSG-LEN is
        NONZERO-DIGIT *DIGIT, so an empty frame cannot be said.
    """

    __slots__ = ()

    _name = "octet count"
    _mark = b" "
    _trailer = b""
    _zero = False

    def frame(self, payload: bytes) -> bytes:
        return b"%d %s" % (len(payload), payload)

    push = frame


FramingName = Literal[
    "line", "nul", "delimited", "netstring", "octet-counted", "int8", "int16", "int32"
]

AnyFraming = (
    _DelimitedFraming
    | NetstringFraming
    | OctetCountedFraming
    | Int8Framing
    | Int16Framing
    | Int32Framing
)

FRAMINGS: Final[Mapping[FramingName | str, type[AnyFraming]]] = {
    "line": LineFraming,
    "nul": NulFraming,
    "delimited": DelimitedFraming,
    "netstring": NetstringFraming,
    "octet-counted": OctetCountedFraming,
    "int8": Int8Framing,
    "int16": Int16Framing,
    "int32": Int32Framing,
}
"""Every framing there is: a new one is a class above, its name, and a line here."""


def make_framing(
    name: str, max_frame: int, delimiter: bytes | None = None, *, refuses_http: bool = False
) -> AnyFraming:
    """
    Make a framing by its name.

    @param name: a key of L{FRAMINGS}.
    @param delimiter: of C{delimited}; the others have none.
    """
    if delimiter is not None and name == "delimited":
        return DelimitedFraming(max_frame, refuses_http=refuses_http, delimiter=delimiter)
    return FRAMINGS[name](max_frame, refuses_http=refuses_http)
