"""
Numbered streams, by themselves.
"""

from __future__ import annotations

from gateway.batch import Batch, Chunk, Origin
from gateway.moves import (
    Mark,
    have_moved,
    moves_of,
    unmoved_rows,
    void_rows,
    without_number,
)
from gateway.reply import (
    DUPLICATE,
    STORED,
    Code,
    Outcome,
    Run,
    refused,
    try_later,
)
from gateway.stream import BEHIND, KEPT_REFUSALS, TAKEN, Stream

BAD = refused(Code.DATA, "bad")
LATER = try_later(Code.DOWN, "away")
ORIGIN = Origin("peer", "listener")


def submit(stream: Stream, count: int, route: str = "r") -> Chunk:
    """Messages with the numbers that come next."""
    first = stream.next
    stream.take_all(first, count)
    frames = [b"m"] * count
    return Chunk(route, frames, ORIGIN, 0.0, lambda chunk, runs: None, None, stream, first)


def words(runs: list[Run]) -> list[str]:
    return [fate.word.value for count, fate in runs for _ in range(count)]


def test_numbers_are_taken_in_order() -> None:
    """The next number is taken, a later one is told which comes next, an earlier one is known."""
    stream = Stream("s", 1, 4)
    assert stream.take(5) is None
    assert bytes(stream.take(7) or STORED) == b"-TRY GAP seq=5 :send #6 next"
    assert stream.take(4) == DUPLICATE
    stream.end()
    assert stream.take(6) is TAKEN


def test_what_is_on_its_way_is_in_doubt() -> None:
    """A number that is sent again while it is in flight is no duplicate before it is stored."""
    stream = Stream("s", 1, 4)
    assert not stream.is_in_doubt(4) and not stream.is_in_doubt(5)
    for fate, answer in ((LATER, b"-TRY GAP seq=4 :send #5 next"), (BAD, b"-REJ DATA :bad")):
        assert stream.take(5) is None
        # What is read at once is taken before it is submitted.
        assert stream.is_in_doubt(5) and not stream.is_in_doubt(6)
        chunk = Chunk("r", [b"m"], ORIGIN, 0.0, lambda chunk, runs: None, None, stream, 5)
        assert stream.is_in_doubt(5) and not stream.is_in_doubt(4)
        chunk.settle(0, 1, fate)
        assert not stream.is_in_doubt(5)
        assert bytes(stream.take_in_turn(5)) == answer
    submit(stream, 1).settle(0, 1, STORED)
    assert stream.take_in_turn(6) == DUPLICATE
    stream.end()
    assert stream.take_in_turn(6) is TAKEN and not stream.is_in_doubt(6)


def test_a_refusal_is_told_again() -> None:
    """Who did not hear of a refusal hears of it when the message is sent again."""
    stream = Stream("s", 1, 0)
    chunk = submit(stream, 3)
    chunk.settle(1, 2, BAD)
    chunk.settle(0, 1, STORED)
    chunk.settle(2, 3, STORED)
    assert [stream.take(n) for n in (1, 2, 3)] == [DUPLICATE, BAD, DUPLICATE]
    assert stream.take(4) is None


def test_what_is_behind_a_failure_is_void() -> None:
    """After a message that has to be sent again nothing behind it is stored or refused."""
    stream = Stream("s", 1, 0)
    first, second = submit(stream, 2), submit(stream, 2)
    batch = Batch.of([second])
    first.settle(0, 1, STORED)
    first.settle(1, 2, LATER)
    assert [(row, bytes(told)) for row, told in void_rows(batch)] == [
        (0, b"-TRY GAP seq=1 :send #2 next"),
        (1, b"-TRY GAP seq=1 :send #2 next"),
    ]
    assert stream.next == 2 and stream.take(3) == stream.gap()
    again = submit(stream, 2)
    assert not void_rows(Batch.of([again]))


def test_refusals_behind_a_failure_are_told_as_gaps() -> None:
    """What was refused behind a message that has to be sent again is sent again as well."""
    stream = Stream("s", 1, 0)
    epoch = stream.epoch
    first, second = submit(stream, 2), submit(stream, 1)
    second.settle(0, 1, BAD)
    first.settle(1, 2, BAD)
    first.settle(0, 1, LATER)
    assert words([*stream.told(epoch, [(1, LATER), (1, BAD)])]) == ["-TRY", "-TRY"]
    assert words([*stream.told(epoch, [(1, BAD)])]) == ["-TRY"]
    epoch = stream.epoch
    submit(stream, 1).settle(0, 1, BAD)
    assert words([*stream.told(epoch, [(1, BAD)])]) == ["-REJ"]
    assert stream.next == 2 and not stream.refusals.keys() - {1}


def test_moves() -> None:
    """A batch moves each of its streams by its route's mark, and takes refusals along."""
    one, other = Stream("b", 7, 10, {"r": 8, "q": 10}), Stream("a", 1, 0)
    chunks = [submit(one, 2), submit(other, 1), submit(one, 2)]
    batch = Batch.of(chunks).refuse([(0, BAD)])
    assert batch is not None
    first, second = moves_of(batch)
    assert (first.stream, first.before, first.first, first.last) == (other, 0, 1, 1)
    assert (second.stream, second.before, second.first, second.last) == (one, 8, 12, 14)
    assert second.refused == {11: BAD}
    have_moved(batch)
    assert one.marks == {"r": 14, "q": 10} and not one.unsaved
    assert one.refusals == {11: BAD}


def test_streams_that_are_elsewhere() -> None:
    """Messages that somebody else stored are duplicates; a lost claim, or mark, ends it."""
    stream = Stream("s", 1, 2, {"r": 2})
    batch = Batch.of([submit(stream, 4)])
    faults = unmoved_rows(batch, {"s": Mark(True, 4)})
    assert faults == [(0, DUPLICATE), (1, DUPLICATE)] and stream.marks == {"r": 4}
    assert {told for _, told in unmoved_rows(batch, {"s": Mark(False, 4)})} == {TAKEN}
    assert {told for _, told in unmoved_rows(batch, {"s": Mark(True, 1)})} == {BEHIND}
    assert not unmoved_rows(batch, {"t": Mark(True, 4)})


def test_left_in_a_spool() -> None:
    """What waited in a spool moves whatever is behind it, and goes on where others came to."""
    stream = Stream("s", loose=True)
    chunk = Chunk("r", [b"m"] * 3, ORIGIN, 0.0, lambda chunk, runs: None, None, stream, 5)
    batch = Batch.of([chunk])
    ((_, before, first, last, _),) = moves_of(batch)
    assert (before, first, last) == (None, 5, 7)
    assert unmoved_rows(batch, {"s": Mark(True, 6)}) == [(0, DUPLICATE), (1, DUPLICATE)]


def test_idle_is_told() -> None:
    """Whoever waits for the last message in flight is told."""
    stream = Stream("s", 1, 0)
    told: list[bool] = []
    chunk, other = submit(stream, 1), submit(stream, 2)
    stream.idle = lambda: told.append(stream.busy)
    chunk.settle(0, 1, STORED)
    other.settle(0, 1, STORED)
    assert not told and stream.busy
    other.settle(1, 2, STORED)
    assert told == [False]


def test_refusals_are_not_kept_for_ever() -> None:
    """However many messages are refused, memory is bounded."""
    stream = Stream("s", 1, 0)
    chunk = submit(stream, KEPT_REFUSALS + 1000)
    chunk.settle(0, KEPT_REFUSALS + 1000, BAD)
    assert len(stream.refusals) <= KEPT_REFUSALS
    assert isinstance(stream.refusals[stream.last], Outcome)


def test_a_stream_at_rest_is_small() -> None:
    """A stream that is closed keeps the last refusals, and all that the database has not."""
    stream = Stream("s", 1, 0)
    for number in range(1, 1001):
        stream.refusals[number] = BAD
    stream.unsaved = {7: BAD}
    stream.rest()
    assert stream.refusals.keys() == {7, *range(901, 1001)}


def test_rows_without_a_number() -> None:
    """Rows of streams are told from others."""
    stream = Stream("s", 1, 0)
    plain = Chunk("r", [b"p", b"q"], ORIGIN, 0.0, lambda chunk, runs: None)
    batch = Batch.of([submit(stream, 2), plain])
    assert without_number(batch, [(0, BAD), (2, LATER), (3, BAD)]) == [(2, LATER), (3, BAD)]
