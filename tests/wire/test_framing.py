"""
Framing: the same frames however the stream is cut, and one rule for every fault.
"""

from __future__ import annotations

import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.wire import WIRES
from gateway.model.errors import FramingError
from gateway.wire.framing import (
    BOM,
    FRAMINGS,
    OVERSIZE,
    FramingName,
    LineFraming,
    NetstringFraming,
    NulFraming,
    OctetCountedFraming,
)

Feed = tuple[list[bytes], str | None, bytes]

payloads = st.lists(st.binary(max_size=60), max_size=30)
wanted = st.integers(1, 20)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def feed(
    name: str, stream: bytes, steps: list[int], max_frame: int = 50, most: int = sys.maxsize
) -> Feed:
    """
    @param most: how many frames are wanted at a time.
    @return: all frames (oversize ones as C{b"<oversize>"}), the error, and an answer framed.
    """
    framing = FRAMINGS[name](max_frame)
    frames: list[bytes] = []
    position = 0
    turn = 0
    try:
        while position < len(stream):
            step = steps[turn % len(steps)]
            found = framing.receive(stream[position : position + step], most)
            while framing.more:
                assert len(found) <= most
                frames += found
                found = framing.receive(b"", most)
            frames += found
            assert framing.pending <= max_frame + 10
            position += step
            turn += 1
    except FramingError as error:
        frames += error.frames
        return _shown(frames), str(error), framing.frame(b"+OK")
    return _shown(frames), None, framing.frame(b"+OK")


def _shown(frames: list[bytes]) -> list[bytes]:
    return [b"<oversize>" if frame is OVERSIZE else frame for frame in frames]


@given(st.sampled_from(sorted(FRAMINGS)), payloads, cuts, wanted)
def test_frames_survive_any_cut(
    name: str, messages: list[bytes], steps: list[int], most: int
) -> None:
    """However TCP cuts the stream, and however many frames are wanted at a time, the same come
    out."""
    if name == "line":
        messages = [m.replace(b"\n", b"").rstrip(b"\r") for m in messages]
    if name == "nul":
        messages = [m.replace(b"\0", b"") for m in messages]
    if name == "octet-counted":
        messages = [m for m in messages if m]
    framing = FRAMINGS[name](100)
    # What is before the first frame is none of it; a message's own stays.
    stream = BOM + b"".join(map(framing.frame, messages))
    assert feed(name, stream, steps, 100, most)[:2] == (messages, None)


@given(
    st.sampled_from(sorted(FRAMINGS)),
    st.binary(max_size=400) | st.binary(max_size=40).map(BOM.__add__),
    cuts,
    wanted,
)
def test_garbage_is_cut_alike(name: str, stream: bytes, steps: list[int], most: int) -> None:
    """Any bytes at all give the same frames, fault or not, and the same line ending."""
    whole = feed(name, stream, [len(stream) + 1])
    cut = feed(name, stream, steps, most=most)
    assert cut[0] == whole[0]
    assert (cut[1] is None) == (whole[1] is None)
    assert cut[2] == whole[2]


@given(
    st.lists(st.sampled_from([b"", b"a", b"1:a,", b"x" * 10, b"9" * 11]), min_size=1, max_size=12),
    st.lists(st.integers(1, 40), min_size=12, max_size=12),
    cuts,
    wanted,
)
def test_runs_of_equal_lengths(
    messages: list[bytes], repeats: list[int], steps: list[int], most: int
) -> None:
    """Frames of one length in a row, which are cut by columns, come out like any others."""
    sent = [m for m, n in zip(messages, repeats, strict=False) for _ in range(n)]
    stream = b"".join(map(NetstringFraming(50).frame, sent))
    assert feed("netstring", stream, [len(stream)])[:2] == (sent, None)
    assert feed("netstring", stream, steps, most=most)[:2] == (sent, None)


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"x" * 49 + b"\n", [b"x" * 49]),
        (b"x" * 50 + b"\n", [b"x" * 50]),
        (b"x" * 51 + b"\na\n", [b"<oversize>", b"a"]),
        (b"a\n" + b"x" * 5000 + b"\nb\n", [b"a", b"<oversize>", b"b"]),
        (b"x" * 5000, [b"<oversize>"]),
    ],
)
@pytest.mark.parametrize("name", ["line", "nul"])
def test_limit(name: str, stream: bytes, frames: list[bytes], step: int) -> None:
    """A frame of max_frame bytes passes, one byte more is refused once and skipped."""
    stream = stream.replace(b"\n", b"\0") if name == "nul" else stream
    assert feed(name, stream, [step])[:2] == (frames, None)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_limit_does_not_count_the_ending(step: int) -> None:
    """The CR before an LF is no part of a line; where NUL ends a frame it is."""
    stream = b"x" * 50 + b"\r\n" + b"x" * 51 + b"\r\na\n"
    assert feed("line", stream, [step])[:2] == ([b"x" * 50, b"<oversize>", b"a"], None)
    stream = b"x" * 50 + b"\r\0" + b"x" * 49 + b"\r\0"
    assert feed("nul", stream, [step])[:2] == ([b"<oversize>", b"x" * 49 + b"\r"], None)


def test_nul_endings() -> None:
    """NUL ends a frame, all else is data; an answer ends so too, and no push is two frames."""
    framing = NulFraming(50)
    assert framing.receive(b"a\0b\r\nc\n\0\0d") == [b"a", b"b\r\nc\n", b""]
    assert (framing.pending, framing.unfinished) == (1, True)
    assert framing.frame(b"+OK") == b"+OK\0"
    assert framing.push(b">news a\0b\nc") == b">news a b\nc\0"


@pytest.mark.parametrize("name", sorted(FRAMINGS))
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_byte_order_mark(name: str, step: int) -> None:
    """One before the first frame is dropped, any other is left as it is."""
    frame = FRAMINGS[name](50).frame
    stream = frame(BOM + b"a") + frame(BOM)
    assert feed(name, BOM + stream, [step])[:2] == ([BOM + b"a", BOM], None)
    framing = FRAMINGS[name](50, at_start=False)
    assert framing.receive(stream) == [BOM + b"a", BOM]


@pytest.mark.parametrize("name", ["line", "nul"])
def test_a_byte_order_mark_is_no_frame(name: str) -> None:
    """Of a mark alone nothing is left; of what only begins as one everything is."""
    framing = FRAMINGS[name](1)
    assert framing.receive(BOM[:2]) == [] and framing.unfinished and framing.pending == 2
    assert framing.receive(BOM[2:]) == [] and not framing.unfinished
    framing = FRAMINGS[name](10)
    assert framing.receive(BOM[:1]) == []
    assert framing.receive(framing.frame(b"a")) == [BOM[:1] + b"a"]


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    ("name", "stream", "found"),
    [
        ("line", b"a\nb\n" + b"x" * 200 + b"\nc", False),
        ("line", b"a\nb\0", True),
        ("line", b"x" * 40 + b"\0" + b"x" * 40 + b"\na\n", True),
        ("line", b"x" * 40 + b"\0" + b"x" * 40, True),
        ("line", b"a\0b\n", False),
        ("nul", b"a\0b\0" + b"x" * 200 + b"\0c\0", False),
        ("netstring", b"3:a\0b,3:a\0", False),
    ],
)
def test_nul_where_lines_are_read(name: str, stream: bytes, found: bool, step: int) -> None:
    """A NUL is noted in a line that is too long or not finished, and nowhere else."""
    framing = FRAMINGS[name](50)
    for start in range(0, len(stream), step):
        framing.receive(stream[start : start + step])
    assert framing.has_nul is found


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


def test_names_are_those_of_the_configuration_and_the_client() -> None:
    """A framing that is registered can be configured, and the client speaks it."""
    assert set(get_args(FramingName)) == set(FRAMINGS) == set(WIRES)
