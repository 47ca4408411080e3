"""
Lumberjack: the same windows however the stream is cut, bounded memory, one text for every fault.
"""

from __future__ import annotations

import json
import sys
import zlib
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import ForeignError, FramingError
from gateway.wire.lumberjack import MAX_EVENTS, LumberjackFraming, Window, acknowledgement
from tests.lumberjack import ack, announced, compressed, event, fields, window

MAX_CHUNK = 1000

Seen = tuple[list[bytes], int, bytes]
"""A window: its events, sequence and version."""

payloads = st.binary(max_size=60)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)
wanted = st.integers(1, 4)


def feed(
    stream: bytes, steps: list[int], most: int = sys.maxsize, max_chunk: int = MAX_CHUNK
) -> tuple[list[Seen], str | None, bool]:
    """
    @param most: how many windows are wanted at a time.
    @return: the windows, the fault, and whether something is unfinished.
    """
    framing = LumberjackFraming(50, max_chunk)
    windows: list[bytes] = []
    position = turn = 0
    fault = None
    try:
        while position < len(stream):
            step = steps[turn % len(steps)]
            found = framing.receive(stream[position : position + step], most)
            while framing.more:
                assert len(found) <= most
                windows += found
                found = framing.receive(b"", most)
            windows += found
            assert framing.pending <= max_chunk + step
            assert framing.unfinished or not framing.pending
            position += step
            turn += 1
    except FramingError as error:
        windows += error.frames
        fault = str(error)
        assert framing.pending == 0
    return [seen(window) for window in windows], fault, framing.unfinished


def seen(found: bytes) -> Seen:
    assert isinstance(found, Window)
    assert found == b"\n".join(found.events)
    return list(found.events), found.sequence, found.version


@st.composite
def frame_groups(draw: st.DrawFn) -> tuple[bytes, list[Seen]]:
    """Windows of JSON and keys, in any frames; and what is to come out."""
    stream = b""
    found: list[Seen] = []
    sequence = 0
    for _ in range(draw(st.integers(0, 4))):
        version = draw(st.sampled_from([1, 2]))
        sequence = draw(st.sampled_from([0, sequence, 2**32 - 8]))
        events: list[bytes] = []
        frames: list[bytes] = []
        for _ in range(draw(st.integers(0, 6))):
            sequence = (sequence + 1) % 2**32
            if draw(st.booleans()):
                payload = draw(payloads)
                frames.append(event(sequence, payload, version))
            else:
                pairs = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3))
                payload = json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode()
                bare = {key.encode(): value.encode() for key, value in pairs.items()}
                frames.append(fields(sequence, bare, version))
            events.append(payload)
        stream += announced(len(events), version)
        if not events:
            # The number of an empty window is that of the event before it.
            sequence = found[-1][1] if found else 0
        while frames:
            count = draw(st.integers(1, len(frames)))
            part, frames = b"".join(frames[:count]), frames[count:]
            stream += draw(st.sampled_from([part, compressed(part), compressed(b"") + part]))
        found.append((events, sequence, b"%d" % version))
    return stream, found


@given(frame_groups(), cuts, wanted)
def test_windows_survive_any_cut(
    group: tuple[bytes, list[Seen]], steps: list[int], most: int
) -> None:
    """However TCP cuts the stream and events are put into frames, the same windows come out."""
    stream, windows = group
    assert feed(stream, steps, most, 10_000) == (windows, None, False)


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"2", b"1", b"W", b"J", b"D", b"C", b"\0\0\0", b"\1", b"\2", b"\xff", b"ab"),
                *(announced(1), announced(2), announced(2, 1), announced(0), b"\0\0\0\1"),
                *(event(1, b"{}"), event(2, b"x" * 40), fields(3, {b"k": b"v", b"": b""})),
                *(compressed(event(1, b"{}")), compressed(b""), compressed(announced(1))),
                *(compressed(fields(1, {b"k": b""}) * 2), compressed(event(1, b"x" * 2000))),
            ]
        ),
        max_size=12,
    ).map(b"".join)
    | st.binary(max_size=100),
    cuts,
    wanted,
)
def test_garbage_is_cut_alike(stream: bytes, steps: list[int], most: int) -> None:
    """Any bytes at all give the same windows, and a fault or none."""
    whole = feed(stream, [len(stream) + 1], max_chunk=300)
    cut = feed(stream, steps, most, max_chunk=300)
    assert (whole[0], whole[1] is None, whole[2]) == (cut[0], cut[1] is None, cut[2])


def test_a_window_is_acknowledged_by_its_last_event() -> None:
    """The last event's number as it was sent, in the version of the window; of an empty window
    that of the event before it."""
    framing = LumberjackFraming(50, MAX_CHUNK)
    stream = announced(0) + window([b"a", b"b"], first=7) + announced(0) + window([b"c"], 9, 0, 1)
    acks = [acknowledgement(Window.of(*seen(found))) for found in framing.receive(stream)]
    assert acks == [ack(0), ack(8), ack(8), ack(9, version=1)]


def test_a_window_is_a_setting_in_version_1() -> None:
    """Who speaks version 1 need not announce each window; version 2 has to."""
    events = b"".join(fields(n, {b"a": b"%d" % n}, 1) for n in range(1, 6))
    found, fault, unfinished = feed(announced(2, 1) + events, [3])
    assert [w[0] for w in found] == [[b'{"a":"1"}', b'{"a":"2"}'], [b'{"a":"3"}', b'{"a":"4"}']]
    assert (fault, unfinished) == (None, True)
    assert feed(window([b"a"]) + event(2, b"b"), [3])[1] is not None


def test_what_is_not_wanted_yet_is_read_ahead() -> None:
    """While one window is worked on the next one is read, up to its end and no further."""
    framing = LumberjackFraming(50, MAX_CHUNK)
    assert framing.receive(window([b"a", b"b"], level=0)[:-3], 0) == []
    assert (framing.more, framing.unfinished) == (False, True)
    assert framing.receive(window([b"a", b"b"], level=0)[-3:] + window([b"c"]), 0) == []
    assert (framing.more, framing.unfinished) == (True, False)
    assert framing.receive(b"", 1) == [b"a\nb"]
    assert framing.more
    assert framing.receive(b"", 9) == [b"c"]
    assert (framing.more, framing.unfinished, framing.pending) == (False, False, 0)


def test_compressed_frames_of_nothing() -> None:
    """They may be anywhere, as pylogbeat sends one behind an empty window, and leave nothing."""
    framing = LumberjackFraming(50, MAX_CHUNK)
    assert framing.receive(compressed(b"") * 200 + announced(0) + compressed(b"")) == [b""]
    assert (framing.more, framing.unfinished, framing.pending) == (False, False, 0)


def test_keys_and_values_become_json() -> None:
    """They are strings; what JSON must escape is escaped, and what is no UTF-8 stays, for the
    route's format to refuse."""
    pairs = {b'"q"': b"back\\slash\n\0", "käse".encode(): "奶酪".encode(), b"bad": b"\xff\xfe"}
    [found] = LumberjackFraming(50, MAX_CHUNK).receive(announced(1) + fields(1, pairs))
    assert found == '{"\\"q\\"":"back\\\\slash\\n\\u0000","käse":"奶酪","bad":"'.encode() + (
        b'\xff\xfe"}'
    )


def test_an_event_of_many_keys_is_read_once() -> None:
    """An event that comes in small pieces costs as much as one in a piece."""
    pairs = {b"%d" % n: b"" for n in range(20_000)}
    framing = LumberjackFraming(50, 10_000_000)
    stream = announced(1) + fields(1, pairs)
    found = []
    for start in range(0, len(stream), 100):
        found += framing.receive(stream[start : start + 100])
    assert json.loads(found[0]) == {str(n): "" for n in range(20_000)}


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_limit_of_a_window(level: int, step: int) -> None:
    """A window of max_chunk bytes passes and one byte more is a fault, compressed or not; the
    windows before it are given out."""
    assert feed(window([b"x" * 490] * 2, level=level), [step])[1] is None
    stream = window([b"a"], level=level) + window([b"x" * 490, b"x" * 491], level=level)
    found, fault, _ = feed(stream, [step])
    assert [w[0] for w in found] == [[b"a"]]
    assert fault == (
        "lumberjack: a window is over the limit of 1000 bytes; let the sender put fewer events"
        " into one, or set a larger max_chunk"
    )


def test_a_bomb_is_not_decompressed() -> None:
    """A compressed frame is never let write more than there is room for."""
    bomb = zlib.compress(event(1, b"x" * 100_000_000), 9)
    stream = announced(1) + b"2C" + pack(">I", len(bomb)) + bomb
    _, fault, _ = feed(stream, [len(stream)], max_chunk=200_000)
    assert fault is not None
    assert "over the limit of 200000 bytes" in fault


def test_what_cannot_fit_is_not_waited_for() -> None:
    """A length or a number over the limit is a fault at once, not when so much has come."""
    for frame in (
        b"2J\0\0\0\1\0\0\4\0",
        b"2C\0\0\4\0",
        b"2D\0\0\0\1\0\1\0\0",
        b"2D\0\0\0\1\0\0\0\1\0\0\4\0",
    ):
        assert "over the limit" in str(feed(announced(1) + frame, [100])[1]), frame
    assert "100001 events" in str(feed(announced(MAX_EVENTS + 1), [6])[1])


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"GET / HTTP/1.1\r\n", "b'G' where a frame's version should be, 1 or 2"),
        (b"2A\0\0\0\0", "b'A' is no type of a frame that senders send"),
        (event(1, b"{}"), "an event that no window announced"),
        (
            announced(2) + window([b"a"]),
            "a window begins before the last 2 events of the one before",
        ),
        (announced(1) + compressed(b"")[:-1] + b"x", "a compressed frame is none: Error -3"),
        (announced(1) + b"2C\0\0\0\3abc", "a compressed frame is none: Error -3"),
        (announced(1) + b"2C\0\0\0\2x\x9c", "a compressed frame ends before its data does"),
        (
            announced(1) + b"2C\0\0\0\x09" + zlib.compress(b"") + b"x",
            "a compressed frame goes on behind the end of its data",
        ),
        (announced(1) + compressed(compressed(b"")), "a frame of type b'C' in a compressed one"),
        (announced(1) + compressed(announced(1)), "a frame of type b'W' in a compressed one"),
        (announced(1) + compressed(b"3J"), "b'3' where a frame's version should be, 1 or 2"),
        (
            announced(1) + compressed(event(1, b"a") * 2),
            "a compressed frame with more events than the window announced",
        ),
        (
            announced(2) + compressed(event(1, b"ab")[:-1]),
            "a compressed frame ends within an event",
        ),
        (announced(2) + compressed(b"2"), "a compressed frame ends within an event"),
    ],
)
def test_faults(stream: bytes, fault: str) -> None:
    """A fault is named for people."""
    assert str(feed(stream, [len(stream)])[1]).startswith(f"lumberjack: {fault}")


def test_tls_is_named() -> None:
    """A sender that begins TLS where there is none is told apart from a broken one."""
    with pytest.raises(ForeignError, match="this listener has no TLS"):
        LumberjackFraming(50, MAX_CHUNK).receive(b"\x16\x03\x01\x02\0\x01")
