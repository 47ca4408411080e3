"""
Streams: however TCP cuts them, the same comes out.

A target is a function of some bytes that returns where the invariant held and raises where
it did not. The first bytes choose what is free (limits, where the stream is cut), the rest is
what a peer would have sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from gateway.client.answers import Garbled, parse
from gateway.client.probe import (
    BEGINNING,
    MARK,
    NONCE,
    check_probe,
    is_probe,
    probe,
    sent_away,
    stranger,
    takes_commands,
)
from gateway.client.wire import WIRES
from gateway.model.errors import FramingError, HeaderError, TelnetError
from gateway.wire.framing import FRAMINGS, OVERSIZE, DelimitedFraming, Framing, make_framing
from gateway.wire.gelf import CHUNK_SECONDS, GelfDatagrams
from gateway.wire.lumberjack import LumberjackFraming, Window
from gateway.wire.probe import MAX_PROBE_BYTES, probe_framing
from gateway.wire.proxy_header import MOST_V2, Header, HeaderReader
from gateway.wire.telnet import MAX_SUBNEGOTIATION, Telnet, TelnetFraming
from tests import lumberjack
from tests.fuzzing.taking import take
from tests.in_memory import Bench


def cuts(stream: bytes, how: bytes) -> list[list[bytes]]:
    """
    A stream as TCP may cut it: byte by byte, and in some other way.

    @param how: a seed.
    """
    chance = Random(how)
    found = []
    rest = stream
    while rest:
        size = chance.choice((1, 2, 7, 50))
        found.append(rest[:size])
        rest = rest[size:]
    return [[stream[n : n + 1] for n in range(len(stream))], found]


# Framings: however the bytes are cut, the same frames come out; only FramingError is raised.


def framing(kind: str, delimiter: bytes | None = None) -> Callable[[bytes], None]:
    def made(max_frame: int) -> Framing:
        return make_framing(kind, max_frame, delimiter)

    def check(data: bytes) -> None:
        most, how, stream = data[:1], data[1:2], data[2:]
        max_frame = 1 + (most[0] if most else 9)
        whole = _frames(made(max_frame), [stream], max_frame)
        for cut in cuts(stream, how):
            frames = _frames(made(max_frame), cut, max_frame)
            assert whole == frames, (whole, frames)
        assert all(len(frame) <= max_frame for frame in whole[0])
        again = (
            DelimitedFraming(max_frame, at_start=False, delimiter=delimiter)
            if delimiter is not None
            else FRAMINGS[kind](max_frame, at_start=False)
        )
        good = [frame for frame in whole[0] if frame is not OVERSIZE]
        if kind == "line":
            good = [frame for frame in good if not frame.endswith(b"\r")]
        if delimiter is not None:
            # What begins as a delimiter at its end would make an earlier one.
            good = [f for f in good if (f + delimiter).find(delimiter) == len(f)]
        assert again.receive(b"".join(map(again.frame, good))) == good

    return check


def _frames(
    parser: Framing, stream: Sequence[bytes], max_frame: int
) -> tuple[list[bytes], list[bool], bytes]:
    """
    @return: the frames, which of them stand for one too long, and how they ended.
    """
    frames: list[bytes] = []
    end = b""
    for piece in stream:
        try:
            # However many are wanted at a time.
            most = len(piece) % 4 + 1
            take(parser, piece, most, frames)
        except FramingError as error:
            frames += error.frames
            end = b"broken"
            break
        # A length and its mark, or a CR that may be part of the ending.
        assert parser.pending <= max_frame + len(str(max_frame)) + 4, parser.pending
        assert parser.pending == 0 or parser.unfinished
    else:
        end = b"unfinished" if parser.unfinished else b"whole"
    known = (b"\n", b"\r\n", b"\0", b":", b" ", b"aba", b"int8", b"int16", b"int32")
    if parser.kind not in known:
        raise AssertionError(parser.kind)
    return frames, [frame is OVERSIZE for frame in frames], end + parser.kind


# Windows of Lumberjack: the same however they are cut, none too large, and each the same
# when it is written again.


def windows(data: bytes) -> None:
    limit, how, stream = data[:1], data[1:2], data[2:]
    max_chunk = 40 + 8 * (limit[0] if limit else 9)
    whole, end = _windows(max_chunk, [stream])
    for cut in cuts(stream, how):
        found = _windows(max_chunk, cut)
        assert (whole, end) == found, (whole, end, found)
    for window in whole:
        assert len(window) <= max_chunk
        # JSON is counted with ten bytes more, keys and values with at least as many.
        first = window.sequence + 1 - len(window.events)
        if window.events and first >= 0:
            again = lumberjack.window(window.events, first, version=int(window.version))
            [back] = LumberjackFraming(9, 100 + 20 * max_chunk).receive(again)
            assert isinstance(back, Window)
            assert vars(back) == vars(window)


def _windows(max_chunk: int, stream: Sequence[bytes]) -> tuple[list[Window], str]:
    """
    @return: the windows, and how they ended.
    """
    parser = LumberjackFraming(9, max_chunk)
    windows: list[bytes] = []
    end = ""
    for piece in stream:
        try:
            most = len(piece) % 4 + 1
            take(parser, piece, most, windows)
        except FramingError as error:
            windows += error.frames
            end = "broken"
            break
        assert parser.pending <= max_chunk + len(piece), parser.pending
    else:
        end = "unfinished" if parser.unfinished else "whole"
    return [window for window in windows if isinstance(window, Window)], end


# GELF's datagrams: one at a time or all at once, the same messages and faults; memory is bounded,
# and nothing is left when the time is over.


def gelf(data: bytes) -> None:
    max_frame = 1 + (data[0] if data else 9)
    datagrams = data[1:].split(b"\xff\n")
    whole, single = GelfDatagrams(), GelfDatagrams()
    found = whole.receive("a", datagrams, max_frame, 0.0)
    apart = [single.receive("a", [datagram], max_frame, 0.0) for datagram in datagrams]
    assert found.frames == [frame for one in apart for frame in one.frames]
    assert found.faults == [fault for one in apart for fault in one.faults]
    assert all(len(frame) <= max_frame for frame in found.frames)
    assert len(found.frames) + len(found.faults) <= len(datagrams)
    assert whole.waiting == single.waiting <= len(data) + 1200 * len(datagrams)
    whole.expire(CHUNK_SECONDS)
    assert whole.waiting == 0 and whole.expires is None


# A client's framings: the same of what a gateway, or somebody in its place, answers.


def wire(data: bytes) -> None:
    for kind in WIRES.values():
        found = []
        for stream in ([data[1:]], *cuts(data[1:], data[:1])):
            receiver, frames, broken = kind(), [], False
            try:
                for piece in stream:
                    frames += receiver.receive(piece)
            except Garbled:
                broken = True
            found.append((frames, broken))
        whole = found[0]
        # What came before garbage in the same read is of no use to a client.
        assert all(cut[1] == whole[1] and (whole == cut or whole[1]) for cut in found), found


# What a connection begins with: a client's PING and its framing, or none, however it is cut and
# whatever comes behind it. What a client is answered: only its own nonce is an answer.


def opening(data: bytes) -> None:
    how, stream = data[:1], data[1:]
    whole = probe_framing(stream)
    assert whole is not None or len(stream) < MAX_PROBE_BYTES
    said = {framing: probe(framing, "n" * NONCE) for framing in WIRES}
    firsts = {framing: WIRES[framing]().frame(said[framing]) for framing in WIRES}
    known = {
        framing: first[: first.index(MARK) + len(MARK) + 2] for framing, first in firsts.items()
    }
    found = [framing for framing, first in known.items() if stream.startswith(first)]
    assert found == ([whole] if whole else []), (found, whole)
    for cut in cuts(stream, how):
        came, judged = b"", probe_framing(b"")
        for piece in cut:
            came += piece
            assert judged in (None, probe_framing(came)), (judged, came)
            judged = probe_framing(came)
        assert judged == whole
    for framing, first in firsts.items():
        assert probe_framing(first + stream) == framing
        assert is_probe(said[framing]) and probe_framing(first[:-1]) == framing
        _answered(stream, said[framing])
        for plain in (False, True):
            text, kind = stranger(stream[:BEGINNING], framing, plain)
            assert text and kind in ("gateway", "other", "")


def _answered(frame: bytes, ping: bytes) -> None:
    try:
        answer = parse(frame)
    except Garbled:
        return
    if check_probe(ping, answer) is None:
        assert re.sub(rb"[\0-\x20]", b"", frame) == b"+OK" + MARK + b"n" * NONCE, frame
    assert check_probe(ping, parse(b"+OK " + ping.removeprefix(b"PING "))) is None
    assert str(sent_away(answer))
    unknown = takes_commands(answer)
    assert unknown is None or answer.text not in str(unknown)


# A proxy's header: the same source and the same bytes behind it, or HeaderError; never much kept.


def proxy(data: bytes) -> None:
    how, stream = data[:1], data[1:]
    whole = _headed([stream])
    assert all(whole == _headed(cut) for cut in cuts(stream, how))
    if isinstance(whole, Header):
        assert stream.endswith(whole.rest)


def _headed(stream: Sequence[bytes]) -> Header | str | None:
    """
    @return: a header with all that follows it; why there is none; C{None} where it may come yet.
    """
    reader = HeaderReader()
    for number, piece in enumerate(stream):
        try:
            header = reader.receive(piece)
        except HeaderError as error:
            assert "\n" not in str(error)
            return "refused"
        if header is not None:
            return Header(header.source, header.rest + b"".join(stream[number + 1 :]))
    # What is longer than the longest header is one, or is refused.
    assert sum(map(len, stream)) < MOST_V2
    return None


# Telnet's commands: the same data and answers; only what does not end is refused.


def telnet(data: bytes) -> None:
    how, stream = data[:1], data[1:]
    whole, lines = _without_commands([stream]), _lines([stream])
    for cut in cuts(stream, how):
        assert whole == _without_commands(cut)
        assert lines == _lines(cut)
    clean, said, _ = whole
    assert len(clean) + len(said) <= len(stream)


def _without_commands(stream: Sequence[bytes]) -> tuple[bytes, bytes, bool]:
    reader, clean, said = Telnet(), b"", b""
    for piece in stream:
        try:
            more, answer = reader.receive(piece)
        except TelnetError as error:
            return clean + error.data, said + error.answer, True
        clean, said = clean + more, said + answer
    return clean, said, False


def _lines(stream: Sequence[bytes]) -> tuple[list[bytes], bytes, bool]:
    said: list[bytes] = []
    framing = TelnetFraming(FRAMINGS["line"](MAX_SUBNEGOTIATION // 4), said.append)
    frames: list[bytes] = []
    for piece in stream:
        try:
            frames += framing.receive(piece)
        except FramingError as error:
            return frames + error.frames, b"".join(said), True
    return frames, b"".join(said), False


# The command grammar: one answer for each frame, in order, however the bytes are cut.

_QUIT: Final = re.compile(rb"(?i)(?:@[\x21-\xff]{1,63} )?quit")
_ANSWER: Final = re.compile(rb"(?s)(?:@[\x21-\xff]{1,63} )?(?:[+-][A-Z]{2,3}(?: .*)?|\*([0-9]+))")


def commands(data: bytes) -> None:
    how, stream = data[:1], data[1:].replace(b"\r", b"") + b"\nPING end\nQUIT\n"
    whole = _said([stream])
    assert all(whole == _said(cut) for cut in cuts(stream, how))
    lines = iter(whole)
    answers = []
    for line in lines:
        found = _ANSWER.fullmatch(line)
        assert found, line
        answers.append(line)
        rows = [next(lines) for _ in range(int(found[1] or 0))]
        assert all(row is not None for row in rows)
    frames = stream.split(b"\n")[:-1]
    asked = next(n for n, frame in enumerate(frames, 1) if _QUIT.fullmatch(frame))
    quiet = b"QUIET" in stream.upper() or any(b"-BYE" in answer for answer in answers)
    assert len(answers) <= asked if quiet else len(answers) == asked, (frames, answers)
    for frame, answer in zip(frames, answers, strict=False):
        if not quiet and answer.startswith(b"@"):
            assert answer.split(b" ")[0] == frame.split(b" ")[0]
    assert not any(b" INTERNAL " in answer for answer in answers), answers


def _said(stream: Sequence[bytes]) -> list[bytes]:
    bench = Bench(held=False, routes=["messages", "numbers"], window=1000)
    for piece in stream:
        bench.peer.dataReceived(piece)
        bench.commit_all()
    bench.wait(1)
    assert bench.transport.disconnecting
    assert bench.inflight_limit.used == 0
    *answers, rest = bench.said.split(b"\n")
    assert not rest
    return answers
