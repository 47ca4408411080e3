"""
GELF's datagrams: chunks in any order, compressed or not, within limits of memory and time.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.outcome import Code
from gateway.wire.framing import OVERSIZE
from gateway.wire.gelf import (
    CHUNK,
    CHUNK_SECONDS,
    MAX_CHUNKS,
    MAX_SOURCE_BYTES,
    MAX_SOURCE_MESSAGES,
    MAX_WAITING_BYTES,
    GelfDatagrams,
)

MAX: Final = 1_000

PACKINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "plain": bytes,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
}


def chunks(message: bytes, size: int, number: int = 0) -> list[bytes]:
    """The datagrams of one message."""
    parts = [message[place : place + size] for place in range(0, len(message), size)] or [b""]
    head = CHUNK + number.to_bytes(8, "big")
    return [head + bytes([place, len(parts)]) + part for place, part in enumerate(parts)]


@given(
    st.lists(
        st.tuples(st.text(max_size=300), st.sampled_from(sorted(PACKINGS)), st.integers(0, 2)),
        max_size=6,
    ),
    st.integers(7, 100),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_chunks_come_in_any_order(
    messages: list[tuple[str, str, int]], size: int, chance: object, at_once: bool
) -> None:
    """However the network mixes the chunks of some sources, each message comes out once."""
    sent: list[tuple[int, bytes]] = []
    whole: list[bytes] = []
    for number, (text, packing, source) in enumerate(messages):
        message = b"{" + text.encode()
        whole.append(message)
        sent += [(source, c) for c in chunks(PACKINGS[packing](message), size, number)]
    chance.shuffle(sent)  # type: ignore[attr-defined]
    gelf = GelfDatagrams()
    found: list[bytes] = []
    if at_once:
        for source in range(3):
            mine = [datagram for origin, datagram in sent if origin == source]
            found += gelf.receive(source, mine, 10_000, 0.0).frames
    else:
        for source, datagram in sent:
            frames, faults = gelf.receive(source, [datagram], 10_000, 0.0)
            assert not faults
            found += frames
    assert sorted(found) == sorted(whole)
    assert (gelf.waiting, gelf.incomplete) == (0, 0) and gelf.expires is None


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_message_in_one_datagram(packing: str) -> None:
    """It needs no chunks, whatever it is packed with."""
    gelf = GelfDatagrams()
    frames, faults = gelf.receive("a", [PACKINGS[packing](b"{}"), b"", b"xy"], MAX, 0.0)
    assert (frames, faults) == ([b"{}", b"", b"xy"], [])


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_limit_is_of_what_it_becomes(packing: str) -> None:
    """A message of max_frame bytes passes, one byte more does not, and no bomb takes memory."""
    pack = PACKINGS[packing]
    gelf = GelfDatagrams()
    assert gelf.receive("a", [pack(b"{" * MAX)], MAX, 0.0).frames == [b"{" * MAX]
    assert gelf.receive("a", [pack(b"{" * (MAX + 1))], MAX, 0.0).frames[0] is OVERSIZE
    assert gelf.receive("a", [pack(b"{" * 10_000_000)], MAX, 0.0).frames[0] is OVERSIZE
    found = gelf.receive("a", chunks(pack(b"{" * 9_000), 1_000), MAX, 0.0)
    assert [frame is OVERSIZE for frame in found.frames] == [True]
    assert found.faults == []


@pytest.mark.parametrize(
    ("datagram", "said"),
    [
        (CHUNK, "header"),
        (CHUNK + b"12345678\0", "header"),
        (CHUNK + b"12345678\0\0", "chunk 0 of 0"),
        (CHUNK + b"12345678\2\2x", "chunk 2 of 2"),
        (CHUNK + b"12345678\0\x81x", "chunk 0 of 129"),
        (gzip.compress(b"{}", mtime=0)[:-1], "ends too early"),
        (gzip.compress(b"{}", mtime=0) + b"x", "too late"),
        (b"\x1f\x8b\x08xxxxxxxxxx", "cannot be decompressed"),
        (zlib.compress(b"{}")[:-1] + b"\0", "cannot be decompressed"),
    ],
)
def test_faults(datagram: bytes, said: str) -> None:
    """What is no part of a message is refused, and nothing of it is kept."""
    gelf = GelfDatagrams()
    frames, (fault,) = gelf.receive("a", [datagram], MAX, 0.0)
    assert frames == [] and fault.code is Code.FORMAT and said in fault.text
    assert gelf.waiting == 0


def test_counts_that_differ() -> None:
    """A message whose chunks say different counts is refused once, and the rest of it dropped."""
    gelf = GelfDatagrams()
    one, other = chunks(b"x" * 30, 10), chunks(b"x" * 40, 10)
    found = gelf.receive("a", [one[0], other[1], *one, *other], MAX, 0.0)
    assert found.frames == [] and len(found.faults) == 1
    gelf.expire(CHUNK_SECONDS)
    assert (gelf.waiting, gelf.incomplete) == (0, 0)


def test_chunks_that_are_doubled() -> None:
    """The network may do that: the message comes once."""
    gelf = GelfDatagrams()
    one, two, three = chunks(b"abc", 1)
    assert gelf.receive("a", [one, one, two, two, three], MAX, 0.0).frames == [b"abc"]


def test_chunks_of_others() -> None:
    """A message's chunks come from one source: the same ID of another is another message."""
    gelf = GelfDatagrams()
    one, two = chunks(b"ab", 1)
    assert gelf.receive("a", [one], MAX, 0.0).frames == []
    assert gelf.receive("b", [two], MAX, 0.0).frames == []
    assert gelf.receive("a", [two], MAX, 0.0).frames == [b"ab"]


def test_five_seconds() -> None:
    """What is missing then is given up, counted once, and needs no memory any more."""
    gelf = GelfDatagrams()
    one, two = chunks(b"ab", 1)
    gelf.receive("a", [one], MAX, 10.0)
    times = [gelf.expires]
    assert gelf.waiting > 0
    gelf.expire(14.9)
    assert gelf.incomplete == 0
    gelf.expire(15.0)
    times.append(gelf.expires)
    assert (gelf.incomplete, gelf.waiting) == (1, 0)
    assert times == [10.0 + CHUNK_SECONDS, None]
    assert gelf.receive("a", [two], MAX, 15.0).frames == []
    gelf.clear()
    assert (gelf.incomplete, gelf.waiting) == (2, 0)


def test_one_source_takes_no_room_from_others() -> None:
    """The oldest of a source's own messages go where it has too many or too large ones."""
    gelf = GelfDatagrams()
    one, two = chunks(b"ab", 1)
    gelf.receive("a", [one], MAX, 0.0)
    for number in range(MAX_SOURCE_MESSAGES + 10):
        gelf.receive("b", chunks(b"xy", 1, number)[:1], MAX, 0.0)
    assert gelf.incomplete == 10
    large = b"x" * 60_000
    for number in range(100):
        gelf.receive("b", chunks(large * 2, len(large), 1000 + number)[:1], 1_000_000, 0.0)
        assert gelf.waiting <= MAX_SOURCE_BYTES + 10_000
    assert gelf.receive("a", [two], MAX, 0.0).frames == [b"ab"]


def test_memory_is_bounded() -> None:
    """Whatever some sources leave unfinished."""
    gelf = GelfDatagrams()
    large = b"x" * 60_000
    for number in range(600):
        gelf.receive(number % 20, chunks(large * 2, len(large), number)[:1], 1_000_000, 0.0)
        assert gelf.waiting <= MAX_WAITING_BYTES
    assert gelf.incomplete > 0


def test_the_longest_message() -> None:
    """It has 128 chunks, and every one of them matters."""
    gelf = GelfDatagrams()
    sent = chunks(bytes(range(MAX_CHUNKS)), 1)
    assert len(sent) == MAX_CHUNKS
    assert gelf.receive("a", sent[1:], MAX, 0.0).frames == []
    assert gelf.receive("a", sent[:1], MAX, 0.0).frames == [bytes(range(MAX_CHUNKS))]
