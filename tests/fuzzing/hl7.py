"""
HL7 over MLLP: the same messages however they are cut, and an answer to whatever has a header.

A target is as in L{tests.fuzzing.streams}.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.errors import FramingError
from gateway.wire.hl7 import (
    ALL_OF_TWO,
    NO_HEADER,
    AckLetter,
    Condition,
    Fault,
    NotHl7,
    acknowledgement,
    acknowledgement_word,
    read_header,
    without_margin,
)
from gateway.wire.mllp import MllpFraming, block
from tests.fuzzing.streams import cuts
from tests.fuzzing.taking import take

# MLLP: the same messages, or the stream is broken; nothing of what is around them.


def mllp(data: bytes) -> None:
    most, how, stream = data[:1], data[1:2], data[2:]
    max_frame = 1 + (most[0] if most else 9)
    whole = _messages(MllpFraming(max_frame), [stream], max_frame)
    for cut in cuts(stream, how):
        found = _messages(MllpFraming(max_frame), cut, max_frame)
        assert whole == found, (whole, found)
    messages = whole[0]
    assert all(len(message) <= max_frame for message in messages)
    assert MllpFraming(max_frame).receive(b"".join(map(block, messages))) == messages


def _messages(
    parser: MllpFraming, stream: Sequence[bytes], max_frame: int
) -> tuple[list[bytes], str]:
    """
    @return: the messages, and how they ended.
    """
    messages: list[bytes] = []
    for piece in stream:
        try:
            most = len(piece) % 4 + 1
            take(parser, piece, most, messages)
        except FramingError as error:
            return messages + error.frames, "broken"
        assert parser.pending <= max_frame + 2 and (not parser.pending or parser.unfinished)
    return messages, "unfinished" if parser.unfinished else "whole"


# Acknowledgements: whatever has a header is answered by segments that say its own MSH-10.


def acknowledged(data: bytes) -> None:
    message = without_margin(data)
    try:
        header = read_header(message)
    except NotHl7 as error:
        assert error.header is None or message.startswith(b"MSH")
        header = error.header or NO_HEADER
    letters: tuple[AckLetter, ...] = ("A", "E", "R")
    for letter in letters:
        word = acknowledgement_word(header, letter)
        assert word in (b"", b"A" + letter.encode(), b"C" + letter.encode())
    fault = ALL_OF_TWO.fault(header) or Fault(Condition.INTERNAL, "a|b\r\x1c", 9, "X", "d")
    answer = acknowledgement(header, b"AE", b"20261127203447+0000", b"1", fault)
    head, answered, *errors = answer.split(b"\r")[:3]
    bar = header.separators[:1]
    assert head.startswith(b"MSH" + bar) and answered.startswith(b"MSA" + bar + b"AE" + bar)
    if b"\x1c" not in message:
        assert b"\x1c" not in answer
    if not set(message) & set(b"\n\x1b"):
        assert answered.split(bar)[2] == header.field(10)
        assert errors[0].split(bar)[4] == b"E"
