"""
Framings: how a stream of bytes is cut into frames, and answers into bytes.

Strategy: sans I/O. A framing is fed what the transport brought and gives back
the list of frames that are complete now; it never sees a transport, and it works
on the whole chunk at C speed (C{split}, C{find}) instead of byte by byte. However
the stream was cut by TCP, the same frames come out.

Limits: a frame's payload is at most C{max_frame} bytes; what is kept between two
calls is at most one incomplete frame, so memory is bounded by C{max_frame} plus
one read. Precedents for a limit of this size: RFC 5424 section 6.1 (receivers
must take 480 octets, should take 2048), NetstringReceiver.MAX_LENGTH (99999).
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.errors import FramingError


class Oversize(bytes):
    """
    Stands in the list of frames for a line that was over the limit and is skipped.

    A C{bytes} (and empty), so that a list of frames stays one of C{bytes}.
    """

    __slots__ = ()


OVERSIZE: Final = Oversize()

_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")

_RUN: Final = 8
"""Frames of one length in a row from which looking for more of them pays."""


class Framing(Protocol):
    """
    One peer's framing: it holds the incomplete frame between two reads.
    """

    @property
    def oversize(self) -> bool:
        """Whether the last L{receive} gave back an L{OVERSIZE} among its frames."""

    @property
    def pending(self) -> int:
        """How many bytes of an incomplete frame are kept, at most about C{max_frame}."""

    @property
    def unfinished(self) -> bool:
        """Whether a frame is begun and not finished, one that is skipped included."""

    def receive(self, data: bytes) -> list[bytes]:
        """
        Take in what the transport brought.

        @return: the payloads now complete, in order; maybe none.
        @raise FramingError: the stream cannot be split further; its C{frames}
            are the good payloads before the fault, still to be answered.
        """

    @property
    def kind(self) -> bytes:
        """The same for all framings that make the same bytes of a payload."""

    def frame(self, payload: bytes) -> bytes:
        """
        One answer as bytes for the wire.
        """

    def push(self, payload: bytes) -> bytes:
        """
        What may hold any bytes as one frame for the wire: where that has no room for
        all of them, in lines, each CR and LF becomes a space.
        """


class LineFraming:
    """
    Frames as lines: LF ends a frame, one CR just before it is dropped, a bare CR is data.

    The first complete line decides which ending the answers get: telnet sends
    CRLF and is answered with CRLF, C{nc} sends LF and is answered with LF.
    """

    __slots__ = ("_ending", "_kept", "_max_frame", "_skipping", "oversize")

    def __init__(self, max_frame: int) -> None:
        """
        @param max_frame: largest payload accepted, in bytes, the line's ending not counted.
        """
        self._max_frame = max_frame
        self._kept = bytearray()
        self._skipping = False
        self._ending: bytes | None = None
        self.oversize = False

    @property
    def pending(self) -> int:
        return len(self._kept)

    @property
    def unfinished(self) -> bool:
        return self._skipping or bool(self._kept)

    def receive(self, data: bytes) -> list[bytes]:
        self.oversize = False
        if self._skipping:
            _, end, data = data.partition(b"\n")
            if not end:
                return []
            self._skipping = False
        frames: list[bytes] = []
        if b"\n" in data:
            if self._kept:
                data = bytes(self._kept) + data
            frames = data.split(b"\n")
            self._kept = bytearray(frames.pop())
            # One search of the whole chunk saves one of each line where no CR is.
            if b"\r" in data:
                frames = [f[:-1] if f.endswith(b"\r") else f for f in frames]
            # Only a chunk longer than the limit can hold a line longer than the limit.
            if len(data) > self._max_frame and max(map(len, frames)) > self._max_frame:
                frames = [OVERSIZE if len(f) > self._max_frame else f for f in frames]
                self.oversize = True
            if self._ending is None:
                self._ending = self._first_ending(data)
        else:
            self._kept += data
        # One byte more may be the CR of a line that is just within the limit.
        if len(self._kept) > self._max_frame and (
            len(self._kept) > self._max_frame + 1 or not self._kept.endswith(b"\r")
        ):
            frames.append(OVERSIZE)
            self.oversize = True
            self._skipping = True
            self._kept = bytearray()
        return frames

    @property
    def kind(self) -> bytes:
        return self._ending or b"\n"

    def frame(self, payload: bytes) -> bytes:
        return payload + (self._ending or b"\n")

    def push(self, payload: bytes) -> bytes:
        return payload.translate(_ONE_LINE) + (self._ending or b"\n")

    def _first_ending(self, data: bytes) -> bytes | None:
        # A skipped line decides nothing: whether its end was seen depends on how
        # TCP cut the stream, and answers must not.
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            is_crlf = data[start:end].endswith(b"\r")
            if end - start - is_crlf <= self._max_frame:
                return b"\r\n" if is_crlf else b"\n"
            start = end + 1
        return None


class _CountedFraming:
    """
    What netstrings and RFC 6587 octet counting share: a decimal length, a mark, the payload.
    """

    __slots__ = ("_kept", "_max_digits", "_max_frame", "_wanted")

    _name: str
    _mark: bytes
    _trailer: bytes
    _zero: bool
    # Line framing alone skips what is too long; here it is a framing error.
    oversize = False

    def __init__(self, max_frame: int) -> None:
        """
        @param max_frame: largest payload accepted, in bytes.
        """
        self._max_frame = max_frame
        self._max_digits = len(str(max_frame))
        self._kept = bytearray()
        # Bytes that must be there before another look can find a frame.
        self._wanted = 0

    @property
    def pending(self) -> int:
        return len(self._kept)

    @property
    def unfinished(self) -> bool:
        return bool(self._kept)

    @property
    def kind(self) -> bytes:
        return self._mark

    def receive(self, data: bytes) -> list[bytes]:
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
        frames: list[bytes] = []
        self._wanted = 0
        append, find = frames.append, data.find
        mark, trailer = self._mark, self._trailer
        tail = len(trailer)
        size = len(data)
        digits_most = self._max_digits
        known, length = mark, 0  # no length looks like the mark
        start = 0
        while start < size:
            colon = find(mark, start, start + digits_most + 1)
            if colon < 0:
                self._check_digits(data[start : start + digits_most + 1], frames)
                break
            digits = data[start:colon]
            if digits != known:
                length = self._length(digits, frames)
                known = digits
            elif size - start > _RUN * (length + 8):
                # The second of its length: often there are many, as devices send them.
                run = self._run(data, start, colon + 1 - start, length)
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

    def _run(self, data: bytes, start: int, header: int, length: int) -> int:
        """
        How many frames of one length follow each other, found at C speed: the
        bytes that must be equal in all of them are looked at as columns.

        @param header: bytes of the length and its mark.
        @return: 0 where it is not worth it.
        """
        stride = header + length + len(self._trailer)
        head = data[start : start + header]
        if not data.startswith(head, start + stride) or not data.startswith(
            head, start + _RUN * stride
        ):
            return 0
        run = (len(data) - start) // stride
        end = start + run * stride
        columns = [(start + i, head[i : i + 1]) for i in range(header)]
        if self._trailer:
            columns.append((start + header + length, self._trailer))
        for first, byte in columns:
            column = data[first:end:stride]
            run = min(run, len(column) - len(column.lstrip(byte)))
        return run

    def _length(self, digits: bytes, frames: list[bytes]) -> int:
        # bytes.isdigit() knows ASCII digits only: no sign, no space, no other script.
        if not digits.isdigit() or (digits[0] == 48 and not (self._zero and digits == b"0")):
            raise self._error(f"bad length {digits!r}", frames)
        length = int(digits)
        if length > self._max_frame:
            raise self._error(f"length {length} is over the limit of {self._max_frame}", frames)
        return length

    def _check_digits(self, digits: bytes, frames: list[bytes]) -> None:
        """
        No mark was found: is this still the beginning of a length?
        """
        self._length(digits, frames)
        if len(digits) > self._max_digits:
            raise self._error(f"length over the limit of {self._max_frame}", frames)

    def _error(self, text: str, frames: list[bytes]) -> FramingError:
        # What follows a fault is never looked at again.
        self._kept = bytearray()
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


FRAMINGS: Final[
    dict[str, type[LineFraming] | type[NetstringFraming] | type[OctetCountedFraming]]
] = {
    "line": LineFraming,
    "netstring": NetstringFraming,
    "octet-counted": OctetCountedFraming,
}
