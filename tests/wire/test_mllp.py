"""
MLLP: the same messages however the stream is cut, and one rule for every fault.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import FramingError
from gateway.wire.mllp import MllpFraming, block

MESSAGES = st.lists(st.binary(max_size=60).map(lambda m: m.translate(None, b"\x0b\x1c")))
BETWEEN = st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\n\n\r"])
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)
WANTED = st.integers(1, 20)
PIECES = st.lists(
    st.sampled_from([b"\x0b", b"\x1c", b"\r", b"\x1c\r", b"\n", b"x" * 30]) | st.binary(max_size=4)
)


def feed(
    stream: bytes, steps: list[int], max_frame: int = 60, most: int = sys.maxsize
) -> tuple[list[bytes], bool, bool]:
    """
    @return: all messages, whether the stream is broken, whether a message is unfinished.
    """
    framing = MllpFraming(max_frame, 1)
    frames: list[bytes] = []
    position = turn = 0
    try:
        while position < len(stream):
            step = steps[turn % len(steps)]
            found = framing.receive(stream[position : position + step], most)
            while framing.more:
                assert len(found) == most and not framing.unfinished
                frames += found
                found = framing.receive(b"", most)
            frames += found
            assert framing.pending <= max_frame + 2
            position += step
            turn += 1
    except FramingError as error:
        assert str(error).startswith("MLLP: ") and framing.pending == 0
        return frames + error.frames, True, False
    return frames, False, framing.unfinished


@given(MESSAGES, BETWEEN, CUTS, WANTED)
def test_messages_survive_any_cut(
    messages: list[bytes], between: bytes, steps: list[int], most: int
) -> None:
    """However TCP cuts the stream, and however many are wanted at a time, the same come out;
    CR and LF between them count for nothing."""
    stream = between.join([b"", *map(block, messages), b""])
    assert feed(stream, steps, most=most) == (messages, False, False)


@given(PIECES.map(b"".join), CUTS, WANTED)
def test_garbage_is_cut_alike(stream: bytes, steps: list[int], most: int) -> None:
    """Any bytes at all give the same messages, broken off or not."""
    assert feed(stream, steps, most=most) == feed(stream, [len(stream) + 1])


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (b"MSH|^~\\&", "b'M' where a message should begin with VT"),
        (b"\x16\x03\x01", "b'\\x16' where a message should begin with VT"),
        (b"\x1c\r", "b'\\x1c' where a message should begin with VT"),
        (b"\0", "b'\\x00' where a message should begin with VT"),
        (b"\x0bab\x1c\x0bcd", "b'\\x0b' where CR should be behind FS"),
        (b"\x0bab\x1c\n", "b'\\n' where CR should be behind FS"),
        (b"\x0bab\x0bcd\x1c\r", "VT (0x0B) within a message"),
        (b"\x0b" + b"x" * 61, "a message over the limit of 60 bytes"),
        (b"\x0b" + b"x" * 61 + b"\x1c\r", "a message over the limit of 60 bytes"),
    ],
)
def test_faults(fault: bytes, said: str, step: int) -> None:
    """What is no block ends the stream and is named; what came before is kept, nothing behind."""
    stream = block(b"ok") + b"\r\n" + block(b"") + fault + block(b"never")
    framing, frames = MllpFraming(60), []
    with pytest.raises(FramingError) as caught:
        for start in range(0, len(stream), step):
            frames += framing.receive(stream[start : start + step])
    assert frames + caught.value.frames == [b"ok", b""] and said in str(caught.value)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_limit(step: int) -> None:
    """A message of max_frame bytes passes; the bytes around it do not count."""
    assert feed(block(b"x" * 60) * 3, [step]) == ([b"x" * 60] * 3, False, False)


def test_what_is_kept() -> None:
    """A message is unfinished from its VT to its CR; nothing is kept of what is between them."""
    framing = MllpFraming(100)
    assert framing.receive(b"\r\n\r") == [] and not framing.unfinished and framing.pending == 0
    assert framing.receive(b"\x0bab\x1c") == [] and framing.unfinished and framing.pending == 4
    assert framing.receive(b"\r\n") == [b"ab"] and not framing.unfinished and not framing.pending
    assert framing.receive(block(b"a") * 3, 2) == [b"a", b"a"] and framing.more
    framing.forget()
    assert framing.receive(b"") == [] and not framing.more


def test_a_large_message_is_searched_once() -> None:
    """However many reads a message comes in, each of its bytes is looked at once."""
    framing = MllpFraming(64 << 20)
    piece = b"x" * 65536
    framing.receive(b"\x0b")
    for _ in range(64):
        framing.receive(piece)
    # What was searched is not searched again: an FS put there is not found.
    framing._kept[10] = 0x1C
    assert framing.receive(b"\x1c\r") == [b"x" * 9 + b"\x1c" + b"x" * (64 * 65536 - 10)]


def test_answers_are_blocks() -> None:
    """The framing leaves answers as they are; a block is written around each of them."""
    framing = MllpFraming(9)
    assert framing.frame(b"x") == framing.push(b"x") == b"x"
    assert block(b"MSH|") == b"\x0bMSH|\x1c\r"
