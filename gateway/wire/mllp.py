"""
MLLP: blocks of one HL7 message each, VT before it, FS and CR behind it.

Strategy: sans I/O, as L{gateway.wire.framing}. No byte of a message is VT or FS in any character
set that HL7 v2 may be sent in here, so a message ends where the first FS is, found by one search
in C. Nothing else is between messages but CR and LF, which some senders add.

Whatever breaks this rule ends the stream: a sender that lost its place in a message would have
the rest of it, or two messages, taken for one.

@see: HL7 v2.5, appendix C, section C.4.3 "Minimal Lower Layer Protocol"; HL7 v3, "Transport
    Specification: MLLP", release 1.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from gateway.model.errors import FramingError
from gateway.wire.http import NO_TLS

START: Final = b"\x0b"
END: Final = b"\x1c"
RETURN: Final = b"\r"

_RETURN_BYTE: Final = RETURN[0]
_START_BYTE: Final = START[0]

_BETWEEN: Final = re.compile(rb"[\r\n]*+")


class MllpFraming:
    """
    Messages of one peer, without the bytes around them.
    """

    __slots__ = ("_begun", "_kept", "_max_frame", "_searched", "more")

    # A message that is too long ends the stream: its sender could not be answered.
    oversize = False
    has_nul = False
    kind = START

    def __init__(self, max_frame: int, max_chunk: int = sys.maxsize) -> None:
        """
        @param max_frame: largest message accepted, in bytes.
        @param max_chunk: nothing; each message stands for itself.
        """
        self._max_frame = max_frame
        self._kept = bytearray()
        # So many bytes of what is kept hold no end of a message.
        self._searched = 0
        # Whether the stream has had a message.
        self._begun = False
        self.more = False

    @property
    def pending(self) -> int:
        return len(self._kept)

    @property
    def unfinished(self) -> bool:
        return bool(self._kept) and not self.more

    def forget(self) -> None:
        self._kept = bytearray()
        self._searched = 0
        self.more = False

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        kept = self._kept
        kept += data
        size = len(kept)
        frames: list[bytes] = []
        self.more = False
        start = 0
        while True:
            match = _BETWEEN.match(kept, start)
            assert match is not None
            start = match.end()
            if start == size:
                break
            if kept[start] != _START_BYTE:
                if kept[start] == 0x16 and not self._begun:
                    raise self._error(NO_TLS, frames)
                found = bytes(kept[start : start + 1])
                raise self._error(f"{found!r} where a message should begin with VT (0x0B)", frames)
            if len(frames) >= most:
                self.more = True
                break
            end = kept.find(END, max(self._searched, start + 1))
            self._searched = 0
            if (size if end < 0 else end) - start - 1 > self._max_frame:
                raise self._error(f"a message over the limit of {self._max_frame} bytes", frames)
            if end < 0:
                self._searched = size
                break
            if kept.find(START, start + 1, end) >= 0:
                raise self._error("VT (0x0B) within a message: the one before has no end", frames)
            if end + 1 == size:
                self._searched = end
                break
            if kept[end + 1] != _RETURN_BYTE:
                found = bytes(kept[end + 1 : end + 2])
                raise self._error(f"{found!r} where CR should be behind FS (0x1C)", frames)
            frames.append(bytes(kept[start + 1 : end]))
            self._begun = True
            start = end + 2
        del kept[:start]
        self._searched = max(0, self._searched - start)
        return frames

    def frame(self, payload: bytes) -> bytes:
        """Return the payload: answers are written by L{block}."""
        return payload

    push = frame

    def _error(self, text: str, frames: list[bytes]) -> FramingError:
        # Bytes behind a fault are never read.
        self.forget()
        return FramingError(f"MLLP: {text}", frames)


def block(message: bytes) -> bytes:
    """Write a message as a block."""
    return b"%b%b%b%b" % (START, message, END, RETURN)
