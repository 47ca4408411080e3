"""
Framing: the same frames however the stream is cut, and one rule for every fault.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FramingError
from gateway.framing import (
    FRAMINGS,
    OVERSIZE,
    LineFraming,
    NetstringFraming,
    OctetCountedFraming,
)

Feed = tuple[list[bytes], str | None, bytes]

payloads = st.lists(st.binary(max_size=60), max_size=30)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def feed(name: str, stream: bytes, steps: list[int], max_frame: int = 50) -> Feed:
    """
    @return: all frames (oversize ones as C{b"<oversize>"}), the error, and an answer framed.
    """
    framing = FRAMINGS[name](max_frame)
    frames: list[bytes] = []
    position = 0
    turn = 0
    try:
        while position < len(stream):
            step = steps[turn % len(steps)]
            frames += framing.receive(stream[position : position + step])
            assert framing.pending <= max_frame + 10
            position += step
            turn += 1
    except FramingError as error:
        frames += error.frames
        return _shown(frames), str(error), framing.frame(b"+OK")
    return _shown(frames), None, framing.frame(b"+OK")


def _shown(frames: list[bytes]) -> list[bytes]:
    return [b"<oversize>" if frame is OVERSIZE else frame for frame in frames]


@given(st.sampled_from(sorted(FRAMINGS)), payloads, cuts)
def test_frames_survive_any_cut(name: str, messages: list[bytes], steps: list[int]) -> None:
    """However TCP cuts the stream, the same frames come out."""
    if name == "line":
        messages = [m.replace(b"\n", b"").rstrip(b"\r") for m in messages]
    if name == "octet-counted":
        messages = [m for m in messages if m]
    framing = FRAMINGS[name](100)
    stream = b"".join(map(framing.frame, messages))
    assert feed(name, stream, steps, 100)[:2] == (messages, None)


@given(st.sampled_from(sorted(FRAMINGS)), st.binary(max_size=400), cuts)
def test_garbage_is_cut_alike(name: str, stream: bytes, steps: list[int]) -> None:
    """Any bytes at all give the same frames, fault or not, and the same line ending."""
    whole = feed(name, stream, [len(stream) + 1])
    cut = feed(name, stream, steps)
    assert cut[0] == whole[0]
    assert (cut[1] is None) == (whole[1] is None)
    assert cut[2] == whole[2]


@given(
    st.lists(st.sampled_from([b"", b"a", b"1:a,", b"x" * 10, b"9" * 11]), min_size=1, max_size=12),
    st.lists(st.integers(1, 40), min_size=12, max_size=12),
    cuts,
)
def test_runs_of_equal_lengths(messages: list[bytes], repeats: list[int], steps: list[int]) -> None:
    """Frames of one length in a row, which are cut by columns, come out like any others."""
    sent = [m for m, n in zip(messages, repeats, strict=False) for _ in range(n)]
    stream = b"".join(map(NetstringFraming(50).frame, sent))
    assert feed("netstring", stream, [len(stream)])[:2] == (sent, None)
    assert feed("netstring", stream, steps)[:2] == (sent, None)


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"x" * 49 + b"\n", [b"x" * 49]),
        (b"x" * 50 + b"\n", [b"x" * 50]),
        (b"x" * 50 + b"\r\n", [b"x" * 50]),
        (b"x" * 51 + b"\na\n", [b"<oversize>", b"a"]),
        (b"x" * 51 + b"\r\na\n", [b"<oversize>", b"a"]),
        (b"a\n" + b"x" * 5000 + b"\nb\n", [b"a", b"<oversize>", b"b"]),
        (b"x" * 5000, [b"<oversize>"]),
    ],
)
def test_line_limit(stream: bytes, frames: list[bytes], step: int) -> None:
    """A line of max_frame bytes passes, one byte more is refused once and skipped."""
    assert feed("line", stream, [step])[:2] == (frames, None)


def test_line_endings() -> None:
    """LF ends a line, one CR before it is dropped, any other CR is data."""
    assert LineFraming(50).receive(b"a\r\nb\nc\rd\ne\r\r\n\r\n\n") == [
        *(b"a", b"b", b"c\rd", b"e\r", b"", b"")
    ]


@pytest.mark.parametrize(
    ("first", "ending"), [(b"a\n", b"\n"), (b"a\r\n", b"\r\n"), (b"\r\n", b"\r\n"), (b"", b"\n")]
)
def test_ending_is_mirrored(first: bytes, ending: bytes) -> None:
    """Answers end as the first line did, whatever came later."""
    framing = LineFraming(50)
    framing.receive(first)
    if first:
        framing.receive(b"b\nc\r\n")
    assert framing.frame(b"+OK") == b"+OK" + ending


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "fault",
    [
        *(b"99999999999999:", b"0003:abc,", b"00:,", b"-1:,", b"+1:a,", b" 1:a,", b"1 :a,"),
        *(b":,", b"1:ab", b"3:abcX", b"51:", b"x", b"\xb2:ab,", b"1\n:a,"),
    ],
)
def test_netstring_faults(fault: bytes, step: int) -> None:
    """What D. J. Bernstein's format does not allow ends the stream; what came before is kept."""
    frames, error, _ = feed("netstring", b"2:ok,0:," + fault + b"5:never,", [step])
    assert frames == [b"ok", b""]
    assert error is not None and "netstring" in error


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("fault", [b"0 ", b"01 a", b"-1 a", b"51 ", b"<13>hello ", b"\n3 abc"])
def test_octet_count_faults(fault: bytes, step: int) -> None:
    """RFC 6587: MSG-LEN is a number without leading zeros, then one space."""
    frames, error, _ = feed("octet-counted", b"2 ok" + fault + b"5 never", [step])
    assert frames == [b"ok"]
    assert error is not None


def test_answers_are_framed_alike() -> None:
    """A peer gets its answers in its own framing."""
    assert NetstringFraming(9).frame(b"+OK") == b"3:+OK,"
    assert OctetCountedFraming(9).frame(b"+OK") == b"3 +OK"
