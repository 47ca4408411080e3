"""
RELP's frames: the same however the stream is cut, numbered as librelp numbers them.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import FramingError
from gateway.wire.framing import Framing
from gateway.wire.relp import (
    MAX_NUMBER,
    Command,
    Oversized,
    RelpFraming,
    agreed,
    closed,
    following,
    offers,
    opened,
    refused,
    stored,
)

OPEN = b"relp_version=0\nrelp_software=librelp,1.11.0,http://librelp.adiscon.com\ncommands=syslog"
"""What rsyslog 8.2302 offers."""

Found = tuple[list[tuple[type, bytes]], str | None]

cuts = st.lists(st.integers(1, 60), min_size=1, max_size=20)
wanted = st.integers(1, 10)
# Texts as rsyslog sends them, and others that make a frame look like two, or like a header.
texts = st.lists(
    st.binary(max_size=30)
    | st.binary(min_size=1, max_size=20).map(lambda text: text.replace(b"\n", b" "))
    | st.sampled_from([b"<13>a b c", b"x" * 50, b"x" * 51, b"a\n2 syslog 1 b", b"\n", b" ", b""]),
    max_size=30,
)


def frame(number: int, command: bytes, data: bytes = b"") -> bytes:
    """A frame as librelp writes it."""
    return b"%d %b %d%b\n" % (number, command, len(data), b" " + data if data else b"")


def session(messages: list[bytes]) -> bytes:
    """All that a sender says: open, messages, close."""
    frames = [(b"open", OPEN), *((b"syslog", message) for message in messages), (b"close", b"")]
    return b"".join(frame(number, *said) for number, said in enumerate(frames, 1))


def feed(
    stream: bytes, steps: list[int], most: int = sys.maxsize, max_frame: int = len(OPEN)
) -> Found:
    """
    @param most: how many frames are wanted at a time.
    @return: all frames with their classes, and the error.
    """
    framing = RelpFraming(max_frame)
    frames: list[bytes] = []
    position = turn = 0
    error = None
    try:
        while position < len(stream):
            step = steps[turn % len(steps)]
            found = framing.receive(stream[position : position + step], most)
            while framing.more:
                assert len(found) <= most
                frames += found
                found = framing.receive(b"", most)
            frames += found
            assert framing.pending <= max_frame + 60
            position += step
            turn += 1
    except FramingError as fault:
        frames += fault.frames
        error = str(fault)
        assert not framing.pending and not framing.unfinished
    return [(type(one), bytes(one)) for one in frames], error


@given(texts, cuts, wanted)
def test_frames_survive_any_cut(messages: list[bytes], steps: list[int], most: int) -> None:
    """However TCP cuts a session, its messages come out as they are, between open and close."""
    frames, error = feed(session(messages), steps, most)
    assert error is None
    assert frames[0] == (Command, b"1 open " + OPEN)
    assert frames[1:-1] == [(bytes, message) for message in messages]
    assert frames[-1] == (Command, b"%d close " % (len(messages) + 2))


@given(texts, st.binary(max_size=60), st.integers(0, 400), cuts, wanted)
def test_garbage_is_cut_alike(
    messages: list[bytes], garbage: bytes, place: int, steps: list[int], most: int
) -> None:
    """Any bytes at all, in any place, give the same frames, fault or not."""
    stream = session(messages)
    stream = stream[:place] + garbage + stream[place:]
    whole = feed(stream, [len(stream) + 1])
    cut = feed(stream, steps, most)
    assert cut[0] == whole[0]
    assert (cut[1] is None) == (whole[1] is None)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_message_over_the_limit(step: int) -> None:
    """It is skipped to its end, comes out cut off, and no more of it is ever kept."""
    stream = (
        frame(1, b"open", b"x" * 50)
        + frame(2, b"syslog", b"x" * 50)
        + frame(3, b"syslog", b"y" * 51)
        + frame(4, b"syslog", b"3 syslog 1\n" * 500)
        + frame(5, b"syslog", b"behind")
    )
    frames, error = feed(stream, [step], max_frame=50)
    assert error is None
    assert [kind for kind, _ in frames] == [Command, bytes, Oversized, Oversized, bytes]
    assert frames[2:] == [
        (Oversized, b"y" * 50),
        (Oversized, (b"3 syslog 1\n" * 5)[:50]),
        (bytes, b"behind"),
    ]


def test_an_oversized_message_is_not_kept() -> None:
    """Of a hundred megabytes no more than the limit is kept; it comes out when it is over."""
    framing = RelpFraming(100)
    assert framing.receive(b"1 syslog 100000000 ") == [] and framing.unfinished
    for _ in range(100):
        assert framing.receive(b"\n" * 1_000_000) == []
        assert framing.pending == 100 and framing.unfinished
    assert framing.receive(b"\n2 syslog 1 a\n") == [b"\n" * 100, b"a"]
    assert framing.pending == 0 and not framing.unfinished


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "fault",
    [
        # Numbers that librelp takes for broken too.
        *(b"2 syslog 1 a\n", b"4 syslog 1 a\n", b"0 syslog 1 a\n", b"1 open 1 a\n", b"4 close 0\n"),
        *(
            b" syslog 1 a\n",
            b"0000000003 syslog 1 a\n",
            b"-3 syslog 1 a\n",
            b"+3 syslog 1 a\n",
            b" 3 syslog 1 a\n",
        ),
        *(b"3_0 syslog 1 a\n", b"x", b"\xb3 syslog 1 a\n", b"\n", b"GET / HTTP/1.1\r\n"),
        # Commands.
        *(b"3  1 a\n", b"3 sys-log 1 a\n", b"3 " + b"x" * 33 + b" 1 a\n", b"3\n"),
        # Lengths.
        *(
            b"3 syslog x a\n",
            b"3 syslog -1 a\n",
            b"3 syslog  a\n",
            b"3 syslog 1\n",
            b"3 syslog 0 \n",
            b"3 syslog \n",
        ),
        *(b"3 syslog 0000000001 a\n", b"3 syslog 1_0 a\n", b"3 syslog 1  a\n", b"3 close 0 \n"),
        # Ends.
        *(b"3 syslog 1 ab\n", b"3 syslog 3 abX", b"3 syslog 999 " + b"a" * 999 + b"X"),
        # Another command over the limit.
        b"3 other 101 " + b"a" * 101 + b"\n",
    ],
)
def test_faults(fault: bytes, step: int) -> None:
    """What is no frame, or not the next one, ends the stream; what came before it is kept."""
    good = frame(1, b"open", OPEN) + frame(2, b"syslog", b"good")
    frames, error = feed(good + fault + frame(3, b"syslog", b"never") * 3, [step], max_frame=100)
    assert frames == [(Command, b"1 open " + OPEN), (bytes, b"good")]
    assert error is not None and error.startswith("RELP: ") and len(error) < 120


def test_numbers_begin_again() -> None:
    """After 999,999,999 comes 1; leading zeros are no fault, and hints use no number up."""
    framing = RelpFraming(100)
    framing._number = MAX_NUMBER - 1
    stream = b"".join(
        frame(number, b"syslog", b"%d" % number) for number in (MAX_NUMBER - 1, MAX_NUMBER, 1, 2)
    )
    assert framing.receive(stream) == [b"999999998", b"999999999", b"1", b"2"]
    assert framing.receive(b"0 serverclose 0\n003 syslog 01 a\n000 hint 1 x\n4 syslog 1 b\n") == [
        *(b"0 serverclose ", b"a", b"0 hint x", b"b")
    ]
    assert following(MAX_NUMBER) == 1 and following(MAX_NUMBER - 1, 3) == 2
    answers = stored(MAX_NUMBER - 1, 3)
    assert answers.splitlines() == [
        *(b"999999998 rsp 6 200 OK", b"999999999 rsp 6 200 OK", b"1 rsp 6 200 OK")
    ]


def test_a_command_is_split_up() -> None:
    """Its number, its name and its data, which may have anything in it."""
    assert Command(b"7 open a b\nc d").split_up() == (7, b"open", b"a b\nc d")
    assert Command(b"7 close ").split_up() == (7, b"close", b"")


def test_answers_are_frames() -> None:
    """Each answer is a frame with the number of what it answers, its text within the limits."""
    assert stored(2, 2) == b"2 rsp 6 200 OK\n3 rsp 6 200 OK\n"
    assert closed(9) == b"9 rsp 0\n0 serverclose 0\n"
    assert refused(3, "no: käse\n") == b"3 rsp 13 500 no: k?se?\n"
    assert refused(3, "x" * 200) == b"3 rsp 84 500 " + b"x" * 80 + b"\n"
    data = b"200 OK\nrelp_version=0\nrelp_software=gateway\ncommands=syslog"
    assert opened(1, 0) == frame(1, b"rsp", data)
    assert offers(data) == {
        b"200 OK": [],
        b"relp_version": [b"0"],
        b"relp_software": [b"gateway"],
        b"commands": [b"syslog"],
    }


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (OPEN, 0),
        (OPEN.replace(b"version=0", b"version=1"), 1),
        (OPEN.replace(b"version=0", b"version=2"), 1),
        (b"\n" + OPEN + b"\n", 0),
        (b"commands=eventlog,syslog", 0),
        (b"relp_version=0\ncommands=eventlog", "the sender does not offer the command syslog"),
        (b"", "the sender does not offer the command syslog"),
        (b"relp_version=x\ncommands=syslog", "relp_version is no number"),
        (b"relp_version\ncommands=syslog", "relp_version is no number"),
        (b"relp_version=\xb2\ncommands=syslog", "relp_version is no number"),
    ],
)
def test_offers(data: bytes, answer: int | str) -> None:
    """A session needs the command syslog, and has the sender's version where that is 0 or 1."""
    assert agreed(data) == answer


def test_it_is_a_framing() -> None:
    """Answers are written as they are, whatever bytes they have."""
    framing: Framing = RelpFraming(10, 10)
    assert (framing.kind, framing.oversize, framing.has_nul) == (b"relp", False, False)
    assert framing.frame(b"a\nb") == framing.push(b"a\nb") == b"a\nb"
    framing.receive(b"1 sys")
    assert framing.pending == 5 and framing.unfinished
    framing.forget()
    assert framing.pending == 0 and not framing.unfinished


def test_a_message_over_the_limit_while_none_is_wanted() -> None:
    """What ends meanwhile is kept as it came, like all behind it, and comes when it is wanted."""
    framing = RelpFraming(3)
    assert framing.receive(b"1 syslog 2 ok\n2 syslog 9 123", 5) == [b"ok"]
    for piece in (b"45678", b"9\n3 syslog 1 x\n4 sys"):
        assert framing.receive(piece, 0) == []
    assert framing.more and not framing.unfinished
    assert framing.receive(b"log 1 y\n", 0) == []
    assert framing.receive(b"", 1) == [Oversized(b"123")]
    assert framing.more
    assert framing.receive(b"", 9) == [b"x", b"y"]
    assert not (framing.more or framing.pending)


def test_tls_is_named() -> None:
    """A sender with TLS on a listener without is told from garbage."""
    with pytest.raises(FramingError, match="this listener has no TLS"):
        RelpFraming(9).receive(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
