"""
Framing: the same frames however the stream is cut, and one rule for every fault.
"""

from __future__ import annotations

import sys
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import (
    Int8StringReceiver,
    Int16StringReceiver,
    Int32StringReceiver,
)

from gateway.client.wire import WIRES
from gateway.model.errors import ForeignError, FramingError
from gateway.wire.framing import (
    BOM,
    FRAMINGS,
    OVERSIZE,
    AnyFraming,
    DelimitedFraming,
    FramingName,
    LineFraming,
    NetstringFraming,
    NulFraming,
    OctetCountedFraming,
)
from gateway.wire.int_framing import Int8Framing, Int16Framing, Int32Framing

Feed = tuple[list[bytes], str | None, bytes]

payloads = st.lists(st.binary(max_size=60), max_size=30)
wanted = st.integers(1, 20)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


DELIMITERS: Final = {"delimited": b"\r\n\r", "delimited-letters": b"ab", "delimited-double": b"aba"}
"""A name for tests -> a delimiter; the last one begins as it ends."""

EVERY: Final = sorted({*FRAMINGS, *DELIMITERS})

INTS: Final = {"int8": Int8Framing, "int16": Int16Framing, "int32": Int32Framing}


def made(name: str, max_frame: int, *, at_start: bool = True) -> AnyFraming:
    """A framing by its name in these tests."""
    if name in DELIMITERS:
        return DelimitedFraming(max_frame, at_start, delimiter=DELIMITERS[name])
    return FRAMINGS[name](max_frame, at_start)


def feed(
    name: str, stream: bytes, steps: list[int], max_frame: int = 50, most: int = sys.maxsize
) -> Feed:
    """
    @param most: how many frames are wanted at a time.
    @return: all frames (oversize ones as C{b"<oversize>"}), the error, and an answer framed.
    """
    framing = made(name, max_frame)
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
            assert framing.pending == 0 or framing.unfinished
            position += step
            turn += 1
    except FramingError as error:
        frames += error.frames
        return _shown(frames), str(error), framing.frame(b"+OK")
    return _shown(frames), None, framing.frame(b"+OK")


def _shown(frames: list[bytes]) -> list[bytes]:
    return [b"<oversize>" if frame is OVERSIZE else frame for frame in frames]


@given(st.sampled_from(EVERY), payloads, cuts, wanted)
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
    if name in DELIMITERS:
        end = DELIMITERS[name]
        messages = [m for m in messages if (m + end).find(end) == len(m)]
    framing = made(name, 100)
    # What is before the first frame is none of it; a message's own stays.
    stream = (b"" if name in INTS else BOM) + b"".join(map(framing.frame, messages))
    assert feed(name, stream, steps, 100, most)[:2] == (messages, None)


@given(
    st.sampled_from(EVERY),
    st.binary(max_size=400)
    | st.text("ab\r\nx\0", max_size=300).map(str.encode)
    | st.binary(max_size=40).map(BOM.__add__),
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
    st.sampled_from(["netstring", *INTS]),
    st.lists(st.sampled_from([b"", b"a", b"1:a,", b"x" * 10, b"9" * 11]), min_size=1, max_size=12),
    st.lists(st.integers(1, 40), min_size=12, max_size=12),
    cuts,
    wanted,
)
def test_runs_of_equal_lengths(
    name: str, messages: list[bytes], repeats: list[int], steps: list[int], most: int
) -> None:
    """Frames of one length in a row, which are cut by columns, come out like any others."""
    sent = [m for m, n in zip(messages, repeats, strict=False) for _ in range(n)]
    stream = b"".join(map(made(name, 50).frame, sent))
    assert feed(name, stream, [len(stream)])[:2] == (sent, None)
    assert feed(name, stream, steps, most=most)[:2] == (sent, None)


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
@pytest.mark.parametrize("name", ["line", "nul", *DELIMITERS])
def test_limit(name: str, stream: bytes, frames: list[bytes], step: int) -> None:
    """A frame of max_frame bytes passes, one byte more is refused once and skipped."""
    ending = b"\0" if name == "nul" else DELIMITERS.get(name, b"\n")
    frames = [b"c" if frame == b"a" else frame for frame in frames]
    stream = stream.replace(b"a", b"c").replace(b"\n", ending)
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


@pytest.mark.parametrize("name", sorted({*FRAMINGS} - {*INTS}))
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_byte_order_mark(name: str, step: int) -> None:
    """One before the first frame is dropped, any other is left as it is."""
    frame = made(name, 50).frame
    stream = frame(BOM + b"a") + frame(BOM)
    assert feed(name, BOM + stream, [step])[:2] == ([BOM + b"a", BOM], None)
    framing = made(name, 50, at_start=False)
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


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("name", ["int8", "int16", "int32"])
def test_binary_length_over_the_limit(name: str, step: int) -> None:
    """A length over the limit ends the stream; what came before it is kept."""
    framing = INTS[name](50)
    stream = framing.frame(b"ok") + framing.frame(b"") + framing.frame(b"x" * 51) + b"\0\0\0\1a"
    frames, error, _ = feed(name, stream, [step])
    assert frames == [b"ok", b""]
    assert error == f"{name}: length 51 is over the limit of 50"


def test_binary_lengths_are_those_of_twisted() -> None:
    """One, two and four bytes in network byte order; Twisted's own receivers read the answers."""
    for framing, receiver in (
        (Int8Framing(9), Int8StringReceiver),
        (Int16Framing(9), Int16StringReceiver),
        (Int32Framing(9), Int32StringReceiver),
    ):
        found: list[bytes] = []
        transport = StringTransport()
        peer: Any = receiver()
        peer.stringReceived = found.append
        peer.makeConnection(transport)
        peer.dataReceived(framing.frame(b"+OK") + framing.frame(b""))
        assert found == [b"+OK", b""]
        peer.sendString(b"hello")
        assert framing.receive(transport.value()) == [b"hello"]


@given(st.text(min_size=60, max_size=120))
def test_an_answer_that_does_not_fit_is_cut(text: str) -> None:
    """It keeps its first words and stays text; only int8 and int16 can come to that."""
    answer = b"-REJ DATA :" + (text * 6).encode()
    (said,) = Int8Framing(999).receive(Int8Framing(999).frame(answer))
    assert len(said) <= 255 and said.startswith(b"-REJ DATA :") and len(said) > 248
    assert said == answer or answer.startswith(said.removesuffix(b"..."))
    said.decode()
    assert Int16Framing(9).frame(answer)[2:] == answer
    (long,) = Int16Framing(70000).receive(Int16Framing(9).frame(b"x" * 70000))
    assert long == b"x" * 65532 + b"..."


@pytest.mark.parametrize("step", [1, 5, 70, 1000])
@pytest.mark.parametrize("name", ["int8", "int16"])
def test_http_where_its_letters_are_a_length(name: str, step: int) -> None:
    """A web page's request is no frame, however long its first line and however it is cut."""
    stream = b"POST /" + b"a" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 50000
    framing = FRAMINGS[name](65536, refuses_http=True)
    with pytest.raises(ForeignError):
        for start in range(0, len(stream), step):
            assert framing.receive(stream[start : start + step]) == []
    assert FRAMINGS[name](65536).receive(stream)


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize("message", [b"ET /index", b"hello\n", b"", b"\x03\x01" + b"x" * 20])
@pytest.mark.parametrize("name", INTS)
def test_what_is_no_http(name: str, message: bytes, step: int) -> None:
    """Messages come out where HTTP is refused too."""
    framing = FRAMINGS[name](200, refuses_http=True)
    stream = framing.frame(message) * 5
    found = []
    for start in range(0, len(stream), step):
        found += framing.receive(stream[start : start + step])
    assert found == [message] * 5


@given(st.sampled_from([b";", b"aba", b"--", b" x", b"\r\n", b"OK"]), st.binary(max_size=40))
def test_an_answer_never_holds_the_delimiter(delimiter: bytes, text: bytes) -> None:
    """Each answer and push is one frame, whatever is in it."""
    framing = DelimitedFraming(99, delimiter=delimiter)
    (said,) = DelimitedFraming(99, False, delimiter=delimiter).receive(framing.frame(text))
    assert len(said) == len(text)


def test_answers_are_framed_alike() -> None:
    """A peer gets its answers in its own framing."""
    assert NetstringFraming(9).frame(b"+OK") == b"3:+OK,"
    assert OctetCountedFraming(9).frame(b"+OK") == b"3 +OK"


def test_names_are_those_of_the_configuration_and_the_client() -> None:
    """A framing that is registered can be configured, and the client speaks it."""
    assert set(get_args(FramingName)) == set(FRAMINGS) == set(WIRES)
