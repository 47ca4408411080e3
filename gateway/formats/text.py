"""
Text: a message is one value, as it came.

Strategy: the frames are joined with a character that none of them holds and
decoded as a whole, which is valid if and only if each frame is; PostgreSQL splits
the string again with C{string_to_array}. So a message costs neither an
object of its own nor escaping, and only a chunk that fails is checked frame by
frame, to name the bad ones.

A PostgreSQL C{text} holds any UTF-8 but the character NUL (documentation,
section 8.3); what it cannot hold is refused for that message alone, never
changed silently. A C{bytea} holds any bytes; those travel as hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, Protocol

from gateway.formats.fields import Fields
from gateway.model.errors import FramesRefused
from gateway.model.outcome import Code, Outcome, refused


class Joined(Protocol):
    """
    Format of whole frames that joins those of a chunk into one string.
    """

    def encode(self, frames: Sequence[bytes]) -> tuple[str, str]:
        """
        Join one or more frames.

        @return: the joined values, and the one character between them.
        @raise FramesRefused: some of the frames hold what the columns cannot.
        """


def _separators() -> Iterator[str]:
    # The control characters that ASCII has for this, then the private use planes.
    return chain("\x1f\x1e\x1d\x1c", map(chr, range(0xF0000, 0xFFFFE)))


class TextFormat:
    """
    Format of messages that are UTF-8 text, stored byte for byte.
    """

    def encode(self, frames: Sequence[bytes]) -> tuple[str, str]:
        try:
            text = b"\n".join(frames).decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise FramesRefused(
                [(i, fault) for i, frame in enumerate(frames) if (fault := _text_fault(frame))]
            )
        # Line framing never lets an LF into a frame, so this is nearly always it.
        if text.count("\n") == len(frames) - 1:
            return text, "\n"
        separator = next((s for s in _separators() if s not in text), None)
        if separator is None:
            # Over 260 KiB of nothing but private use characters: nobody's data.
            raise FramesRefused([(i, _NO_SEPARATOR) for i in range(len(frames))])
        return separator.join([frame.decode() for frame in frames]), separator


_NUL: Final = refused(Code.DATA, "text cannot hold the character NUL (byte 0)")
_NO_SEPARATOR: Final = refused(
    Code.DATA, "the messages read at once hold every character of Unicode's private use plane 15"
)


def _text_fault(frame: bytes) -> Outcome | None:
    try:
        frame.decode()
    except UnicodeDecodeError as error:
        return refused(Code.DATA, f"not UTF-8: {error.reason} at byte {error.start}")
    return _NUL if b"\0" in frame else None


class BytesFormat:
    """
    Format of messages of any bytes, for columns of type C{bytea}.
    """

    def encode(self, frames: Sequence[bytes]) -> tuple[str, str]:
        return "\n".join([frame.hex() for frame in frames]), "\n"


class WholeFormat:
    """
    Format of messages without fields, whose frames are joined by L{Joined}.
    """

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        """Return no fields."""
        return Fields({})
