"""
Forward protocol: whole values whatever the cuts, one form of chunk for all modes, and limits.
"""

from __future__ import annotations

import gzip
import sys
import tracemalloc
import zlib
from typing import Any, Final

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import FramingError
from gateway.wire.forward import Chunk, ForwardFraming, gunzip, parse_chunk

LIMIT: Final = 1 << 20

RECORD: Final = {"log": "a", "n": 1}
ENTRIES: Final = msgpack.packb([1, RECORD]) + msgpack.packb([2, {}])

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
arrays = st.lists(values, max_size=4)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)
wanted = st.integers(1, 5)


def feed(
    stream: bytes, steps: list[int], max_chunk: int = LIMIT, most: int = sys.maxsize
) -> tuple[list[bytes], bool, bool]:
    """
    @return: all frames, whether the stream could not be split any further, and whether a value
        was not finished.
    """
    framing = ForwardFraming(50, max_chunk)
    frames: list[bytes] = []
    position = turn = 0
    try:
        while position < len(stream):
            step = steps[turn % len(steps)]
            found = framing.receive(stream[position : position + step], most)
            while framing.more:
                assert len(found) <= most
                frames += found
                found = framing.receive(b"", most)
            frames += found
            assert framing.pending <= 2 * max_chunk
            assert framing.unfinished == (framing.pending > 0)
            position += step
            turn += 1
    except FramingError as error:
        assert framing.pending == 0
        return frames + error.frames, True, False
    return frames, False, framing.unfinished


packed = st.tuples(
    st.text(max_size=40) | st.binary(max_size=40),
    st.binary(max_size=300) | st.text(max_size=300),
).map(list)
chunks = packed | st.tuples(packed, st.dictionaries(st.text(max_size=5), scalars, max_size=3)).map(
    lambda parts: [*parts[0], parts[1]]
)


@given(st.lists(arrays | chunks | st.none(), max_size=8), cuts, wanted)
def test_values_survive_any_cut(messages: list[Any], steps: list[int], most: int) -> None:
    """However TCP cuts the stream, the same values come out byte for byte, and no heartbeat."""
    sent = [msgpack.packb(message) for message in messages]
    expected = [one for one in sent if one != b"\xc0"]
    assert feed(b"".join(sent), steps, most=most) == (expected, False, False)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"\x93".__add__), cuts, wanted)
def test_garbage_is_cut_alike(stream: bytes, steps: list[int], most: int) -> None:
    """Any bytes at all give the same frames, fault or not, and the same rest."""
    assert feed(stream, steps, 40, most) == feed(stream, [len(stream) + 1], 40)


@pytest.mark.parametrize("step", [1, 100, 10**6])
def test_a_value_over_the_limit_ends_the_stream(step: int) -> None:
    """What is as long as the limit is taken, one byte more is not, and what was before it is."""
    good = msgpack.packb(["t", b"x" * 90])
    assert feed(good * 2, [step], len(good)) == ([good] * 2, False, False)
    assert feed(good * 2, [step], len(good) - 1) == ([], True, False)
    short = msgpack.packb(["t", 1])
    assert feed(short + good, [step], len(good) - 1) == ([short], True, False)


def test_packed_entries_are_kept_once() -> None:
    """Packed entries that are still coming are not copied, alone or behind another value."""
    chunk = msgpack.packb(["tag", b"x" * 10_000, {"chunk": "c"}])
    message = msgpack.packb(["tag", 1, {"a": 1}])
    for before in (b"", message):
        framing = ForwardFraming(50, LIMIT)
        assert framing.receive(before + chunk[:5000]) == [before] * bool(before)
        assert framing.pending == 5000
        assert framing.receive(chunk[5000:-1]) == []
        assert framing.pending == len(chunk) - 1
        assert framing.receive(chunk[-1:] + message) == [chunk, message]
        assert framing.pending == 0


@pytest.mark.parametrize("before", [b"", msgpack.packb(["t", 1, {}])], ids=["first", "second"])
@pytest.mark.parametrize("step", [1000, 10**6])
def test_options_have_a_limit(before: bytes, step: int) -> None:
    """Options behind packed entries may have 64 KiB, and no more."""
    for size, is_good in ((65_536, True), (65_537, False)):
        options = {"a": "x" * (size - 6)}
        stream = msgpack.packb(["t", b"abc", options])
        assert len(msgpack.packb(options)) == size
        frames, is_broken, unfinished = feed(before + stream, [step])
        assert frames == [one for one in (before, stream if is_good else b"") if one]
        assert (is_broken, unfinished) == (not is_good, False)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b'["tag",1,{}]', "JSON text"),
        (b"GET / HTTP/1.1\r\n", "where a MessagePack array should begin"),
        (b"\x16\x03\x01\x02\x00\x01", "TLS handshake"),
        (b"\x92\xc1\xc1", "not MessagePack"),
        (b"\x91" * 2000, "nested too deeply"),
        (b"\x81\xa1a\x01", "where a MessagePack array should begin"),
    ],
)
def test_a_fault_says_what_came(stream: bytes, words: str) -> None:
    """A stream that is no forward protocol ends with a text that says what it looks like."""
    with pytest.raises(FramingError, match=words):
        ForwardFraming(50, LIMIT).receive(stream)


def test_a_claim_of_length_takes_no_memory() -> None:
    """Headers that promise gigabytes allocate nothing before the bytes are there."""
    tracemalloc.start()
    try:
        for header in (b"\xdd\xff\xff\xff\xff", b"\x92\xa1t\xdd\xff\xff\xff\xff"):
            ForwardFraming(50, LIMIT).receive(header + b"\x01" * 1000)
        with pytest.raises(FramingError, match="over max_chunk"):
            ForwardFraming(50, LIMIT).receive(b"\x92\xa1t\xc6\xff\xff\xff\xff" + b"\x01" * 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tag", ["app", b"app"])
@pytest.mark.parametrize(
    "second",
    [
        [[1, RECORD], [2, {}]],
        ENTRIES,
        b"\xdb" + len(ENTRIES).to_bytes(4) + ENTRIES,
        gzip.compress(ENTRIES),
        gzip.compress(ENTRIES[:7]) + gzip.compress(ENTRIES[7:]),
    ],
    ids=["forward", "packed", "packed as a string", "compressed", "two members"],
)
def test_modes_become_one(tag: str | bytes, second: Any) -> None:
    """Forward, PackedForward and its compressed form have the same entries."""
    options: dict[str, Any] = {"chunk": "id", "size": 2, "fluent_signal": 0, "strange": [1]}
    if isinstance(second, bytes) and second.startswith(b"\x1f\x8b"):
        options["compressed"] = "gzip"
    packed = msgpack.packb(second)
    if isinstance(second, bytes) and second.startswith(b"\xdb"):
        packed = second
    frame = b"\x93" + msgpack.packb(tag) + packed + msgpack.packb(options)
    assert parse_chunk(frame, LIMIT) == Chunk(b"app", ENTRIES, b"\xa2id")


@pytest.mark.parametrize(
    "time", [1, -1, 2**63, 1.5, None, msgpack.ExtType(0, b"\0\0\0\1\0\0\0\2")], ids=repr
)
def test_a_message_is_a_chunk_of_one(time: Any) -> None:
    """Message mode is an entry of its own, with a time of any kind, and what Docker 18 sends."""
    entry = msgpack.packb([time, RECORD])
    plain = Chunk(b"t", entry, is_message=True)
    assert parse_chunk(msgpack.packb(["t", time, RECORD]), 9) == plain
    assert parse_chunk(msgpack.packb(["t", time, RECORD, None]), 9) == plain
    chunk = parse_chunk(msgpack.packb(["t", time, RECORD, {"chunk": b"\xff\0"}]), 9)
    assert chunk == Chunk(b"t", entry, b"\xc4\x02\xff\0", is_message=True)
    with_metadata = msgpack.packb(["t", time, RECORD, {"metadata": {"a": 1}}])
    assert parse_chunk(with_metadata, 9).entries == msgpack.packb([[time, {"a": 1}], RECORD])


@given(st.binary(max_size=70_000) | st.text(max_size=300))
def test_an_id_is_acknowledged_as_it_came(name: bytes | str) -> None:
    """The acknowledgement has the id byte for byte, also bytes that are no text."""
    chunk = parse_chunk(msgpack.packb(["t", [], {"chunk": name}]), LIMIT)
    assert msgpack.unpackb(chunk.ack) == {"ack": name}


def test_an_id_that_is_no_utf8_is_acknowledged_as_a_string() -> None:
    """A string of any bytes, as Ruby sends it, stays a string."""
    odd = b"\xd9\x03\xff\xfe\x80"
    frame = b"\x93\xa1t\x90\x81\xa5chunk" + odd
    assert parse_chunk(frame, LIMIT).ack == b"\x81\xa3ack" + odd


@pytest.mark.parametrize("options", [{}, None, {"size": 1}, {"chunk": None}])
def test_without_an_id_nothing_is_acknowledged(options: Any) -> None:
    """A chunk that asks for no acknowledgement gets none."""
    assert parse_chunk(msgpack.packb(["t", [], options]), LIMIT).ack == b""
    assert parse_chunk(msgpack.packb(["t", []]), LIMIT).ack == b""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "an array of 0"),
        (["t"], "an array of 1"),
        ([1, []], "the tag is no string"),
        (["t", {}], "neither entries nor a time"),
        (["t", True], "neither entries nor a time"),
        (["t", [], {}, 1], "4 elements in a chunk"),
        (["t", 1], "2 elements in a message"),
        (["t", 1, {}, {}, 1], "5 elements in a message"),
        (["t", [], 7], "no map"),
        (["t", [], {1: 1}], "no map"),
        (["t", [], {"chunk": 7}], "chunk is no string"),
        (["t", b"", {"fluent_signal": 1}], "metrics .*only logs are taken"),
        (["t", b"", {"fluent_signal": 2}], "traces .*only logs are taken"),
        (["t", b"", {"fluent_signal": "x"}], "no logs .*only logs are taken"),
        (["t", b"", {"compressed": "zstd"}], "'zstd'; only gzip"),
        (["t", b"abc", {"compressed": "gzip"}], "not gzip"),
        (["t", gzip.compress(b"abc")[:-1], {"compressed": "gzip"}], "ends too early"),
        (["t", gzip.compress(b"abc") + b"\0", {"compressed": "gzip"}], "ends too early"),
    ],
)
def test_what_is_no_chunk_is_said(value: list[Any], words: str) -> None:
    """Each frame that is no chunk of logs has a text that says why."""
    with pytest.raises(FramingError, match=words):
        parse_chunk(msgpack.packb(value), LIMIT)


def test_a_length_that_msgpack_takes_for_another() -> None:
    """An extension that claims 4 GiB, which msgpack skips as an empty one, is a fault."""
    frame = b"\x92\xa1t\xc9\xff\xff\xff\xff\x01"
    with pytest.raises(FramingError, match="not MessagePack"):
        parse_chunk(frame, LIMIT)


@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=20),
    st.integers(0, 9),
)
def test_members_are_joined(members: list[bytes], level: int) -> None:
    """However many members the compressed data has, the same comes out, or too much is said."""
    whole = b"".join(members)
    packed = b"".join(gzip.compress(member, level) for member in members)
    assert gunzip(packed, len(whole)) == whole
    if whole:
        with pytest.raises(FramingError, match="over max_chunk"):
            gunzip(packed, len(whole) - 1)


def test_a_bomb_is_refused_early() -> None:
    """Data that inflates a thousandfold is given up at the limit, and takes no more memory."""
    deflate = zlib.compressobj(wbits=31)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(64)) + deflate.flush()
    tracemalloc.start()
    try:
        with pytest.raises(FramingError, match="over max_chunk, 1048576 bytes, decompressed"):
            gunzip(bomb, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()
    with pytest.raises(FramingError, match="members"):
        gunzip(gzip.compress(b"") * 70_000, LIMIT)
