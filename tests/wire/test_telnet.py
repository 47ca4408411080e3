"""
Telnet's commands: the data come out whole, each request has its refusal, nothing loops.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import FramingError, TelnetError
from gateway.peers.timeouts import Timeouts
from gateway.wire.framing import LineFraming
from gateway.wire.telnet import MAX_SUBNEGOTIATION, Telnet, TelnetFraming
from tests.in_memory import Bench, HalfClosing

IAC, SE, SB, WILL, WONT, DO, DONT = 255, 240, 250, 251, 252, 253, 254
IP, DM, AO, AYT, NOP = 244, 242, 245, 246, 241
ECHO, BINARY, TIMING_MARK, SUPPRESS = 1, 0, 6, 3

Found = tuple[bytes, bytes, bool]


def model(stream: bytes) -> Found:
    """
    What RFC 854 says, byte by byte, told as plainly as can be.

    @return: the data, the answers, and whether a subnegotiation was too long.
    """
    data = bytearray()
    answers = bytearray()
    asked = set()
    state = "data"
    inside = 0
    for byte in stream:
        if inside > MAX_SUBNEGOTIATION:
            break
        if state == "data":
            if byte == IAC:
                state = "command"
            else:
                data.append(byte)
        elif state == "command":
            state = "data"
            if byte == IAC:
                data.append(IAC)
            elif byte == SB:
                state, inside = "inside", 0
            elif byte in (WILL, WONT, DO, DONT):
                state, verb = "option", byte
        elif state == "option":
            state = "data"
            if verb == DO and (byte == TIMING_MARK or (DO, byte) not in asked):
                answers += bytes([IAC, WONT, byte])
                asked.add((DO, byte))
            elif verb == WILL and (WILL, byte) not in asked:
                answers += bytes([IAC, DONT, byte])
                asked.add((WILL, byte))
            elif verb == DONT:
                asked.discard((DO, byte))
            elif verb == WONT:
                asked.discard((WILL, byte))
        elif state == "inside":
            if byte == IAC:
                state = "perhaps its end"
            else:
                inside += 1
        elif byte == SE:
            state, inside = "data", 0
        else:
            state, inside = "inside", inside + 2
    return bytes(data).replace(b"\r\0", b"\r"), bytes(answers), inside > MAX_SUBNEGOTIATION


def take(stream: bytes, steps: list[int]) -> Found:
    """All that comes of a stream in pieces."""
    telnet = Telnet()
    data, answers, position, turn = b"", b"", 0, 0
    while position < len(stream):
        step = steps[turn % len(steps)]
        try:
            more, answer = telnet.receive(stream[position : position + step])
        except TelnetError as error:
            return data + error.data, answers + error.answer, True
        data += more
        answers += answer
        position += step
        turn += 1
    return data, answers, False


pieces = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"hello\r\n", b"\r", b"\0", b"\r\0", b"\n", b"\xff", b"\xff\xff"]),
    st.builds(
        lambda verb, option: bytes([IAC, verb, option]),
        st.integers(WILL, DONT),
        st.sampled_from([BINARY, ECHO, SUPPRESS, TIMING_MARK, IAC]),
    ),
    st.builds(lambda command: bytes([IAC, command]), st.integers(0, 255)),
    st.builds(
        lambda inside: bytes([IAC, SB]) + inside + bytes([IAC, SE]),
        st.one_of(
            st.binary(max_size=8),
            st.integers(MAX_SUBNEGOTIATION - 2, MAX_SUBNEGOTIATION + 2).map(bytes),
        ),
    ),
)

streams = st.lists(pieces, max_size=30).map(b"".join)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(streams, cuts)
def test_any_cut_gives_the_same(stream: bytes, steps: list[int]) -> None:
    """However TCP cuts it, byte by byte and whole too, a stream gives what the model gives."""
    expected = model(stream)
    for each in (steps, [1], [len(stream) + 1]):
        assert take(stream, each) == expected


def test_data_without_commands_is_not_copied() -> None:
    """What holds no command goes through as it is."""
    data = b"hello\r\nworld\n"
    assert Telnet().receive(data)[0] is data


@pytest.mark.parametrize("command", [IP, DM, AO, AYT, NOP, SE, 236, 239, 249, 7])
def test_commands_are_dropped(command: int) -> None:
    """Whatever a key sends beside text leaves no trace in it, and has no answer."""
    assert take(b"he" + bytes([IAC, command]) + b"llo", [1]) == (b"hello", b"", False)


def test_options_are_refused_once() -> None:
    """DO is told WONT and WILL is told DONT; a second time only after it was withdrawn."""
    do, dont = bytes([IAC, DO, ECHO]), bytes([IAC, DONT, ECHO])
    will, wont = bytes([IAC, WILL, ECHO]), bytes([IAC, WONT, ECHO])
    assert take(do + will + do + will, [2])[1] == wont + dont
    assert take(dont + wont, [2])[1] == b""
    assert take(do + dont + do, [2])[1] == wont + wont
    assert take(will + wont + will, [2])[1] == dont + dont


def test_two_of_a_kind_fall_silent() -> None:
    """Two ends that refuse everything do not keep each other busy, whoever began."""
    one, other = Telnet(), Telnet()
    said = bytes([IAC, DO, ECHO, IAC, WILL, ECHO, IAC, DO, TIMING_MARK])
    rounds = 0
    while said:
        said = (one, other)[rounds % 2].receive(said)[1]
        rounds += 1
    assert rounds == 2


def test_each_timing_mark_is_answered() -> None:
    """After each Ctrl-C telnet(1) shows nothing until its mark comes back."""
    mark = bytes([IAC, IP, IAC, DO, TIMING_MARK, IAC, DM])
    assert take(mark * 3, [4]) == (b"", bytes([IAC, WONT, TIMING_MARK]) * 3, False)


@pytest.mark.parametrize("step", [1, 5, 5000])
def test_a_subnegotiation_ends(step: int) -> None:
    """One that is too long is refused, after everything that came before it; none is stored."""
    begin, end = bytes([IAC, SB, 24]), bytes([IAC, SE])
    longest = b"a" + begin + bytes(MAX_SUBNEGOTIATION - 1) + end + b"b"
    assert take(longest, [step]) == (b"ab", b"", False)
    assert take(b"a" + begin + bytes([IAC, IAC, IAC, DO]) + end + b"b", [step])[0] == b"ab"
    for fault in (begin + bytes(MAX_SUBNEGOTIATION) + end + b"never", begin + b"x" * 5000):
        assert take(b"a" + bytes([IAC, DO, 1]) + fault, [step]) == (
            *(b"a", bytes([IAC, WONT, 1]), True),
        )


def lines(stream: bytes, step: int) -> tuple[list[bytes], bytes]:
    """
    @return: the lines of a stream, and what was said at once.
    """
    said = bytearray()
    framing = TelnetFraming(LineFraming(50), said.extend)
    found: list[bytes] = []
    for start in range(0, len(stream), step):
        found += framing.receive(stream[start : start + step])
    return found, bytes(said)


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_one_rule_for_the_ends_of_lines(step: int) -> None:
    """LF ends a line, a CR just before it is dropped; CR NUL is a CR, which alone is data."""
    stream = b"a\nb\r\nc\rd\r\0e\r\0\nf\r\r\n" + bytes([IAC, IP, IAC, DO, 6]) + b"g\r\xff\xf1\0h\n"
    assert lines(stream, step) == (
        [b"a", b"b", b"c\rd\re", b"f\r", b"g\rh"],
        bytes([IAC, WONT, 6]),
    )


def test_frames_between_commands() -> None:
    """What is unfinished, too long or faulty is told as of lines; the peer gets 255 doubled."""
    framing = TelnetFraming(LineFraming(5), lambda answer: None)
    assert not framing.unfinished
    assert framing.receive(b"ok\r\ntoo long\r\n") and framing.oversize
    assert framing.receive(b"\xff") == [] and framing.unfinished and not framing.oversize
    assert framing.receive(b"\xf1") == [] and not framing.unfinished
    assert framing.receive(b"ab") == [] and framing.unfinished and framing.pending == 2
    assert framing.frame(b"@\xff +OK") == b"@\xff\xff +OK\r\n"
    assert framing.push(b">a \xff\n") == b">a \xff\xff \r\n"
    assert framing.kind != LineFraming(5).kind
    with pytest.raises(FramingError) as caught:
        framing.receive(b"c\nd\xff\xfa" + bytes(600))
    assert caught.value.frames == [b"abc"]


def test_a_peer_with_telnet() -> None:
    """Commands are answered at once, outside of the order of answers, and leave the lines whole."""
    bench = Bench(telnet=True)
    bench.peer.dataReceived(b"one\r\ntw" + bytes([IAC, IP, IAC, DO]))
    assert bench.said == b""
    bench.peer.dataReceived(bytes([TIMING_MARK]) + b"o\r\n")
    assert bench.said == bytes([IAC, WONT, TIMING_MARK])
    bench.commit_all()
    assert bench.said.endswith(b"+OK\r\n+OK\r\n")
    assert [body for _, body in bench.store.rows] == [b"one", b"two"]


def test_a_peer_without_telnet() -> None:
    """Unless a listener says so commands are bytes like any others; here they are no text."""
    bench = Bench(held=False)
    bench.peer.dataReceived(b"a" + bytes([IAC, DO, TIMING_MARK]) + b"\n")
    bench.peer.dataReceived(b"b\n")
    refusal, fine = bench.said.splitlines()
    assert refusal.startswith(b"-REJ DATA :") and fine == b"+OK"


def test_a_subnegotiation_that_does_not_end_is_the_end() -> None:
    """What came before it is answered, then the peer is told."""
    bench = Bench(telnet=True, held=False)
    bench.peer.dataReceived(b"one\n\xff\xfa" + bytes(MAX_SUBNEGOTIATION + 1))
    assert bench.said == b"+OK\n-BYE FORMAT :telnet: a subnegotiation over 512 bytes\n"


def test_a_command_that_does_not_end_has_its_time() -> None:
    """A command begun and not finished is a frame that is not finished."""
    bench = Bench(telnet=True, timeouts=Timeouts(frame=1), transport=HalfClosing())  # type: ignore[no-untyped-call]
    bench.peer.dataReceived(bytes([IAC, SB]))
    bench.wait(2)
    assert bench.said == b"-BYE RATE :frame not finished within 1 s\n"
