"""
Batches: every message is settled exactly once, in its place, whatever is cut from what.
"""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.model.arrival import in_order
from gateway.model.batch import Batch, Chunk, Fence, Origin
from gateway.model.outcome import (
    STORED,
    Code,
    Outcome,
    Returned,
    Run,
    goodbye,
    merge,
    refused,
    try_later,
)
from gateway.model.stream import Stream

ORIGIN = Origin("peer:1", "lines")
BAD = refused(Code.DATA, "bad")
LATER = try_later(Code.DOWN, "away")


def chunks_of(sizes: list[int]) -> tuple[list[Chunk], list[list[Run]]]:
    answers: list[list[Run]] = []
    chunks = [
        Chunk(
            "r",
            [b"%d.%d" % (n, i) for i in range(size)],
            ORIGIN,
            0.0,
            lambda _, runs: answers.append(runs),
        )
        for n, size in enumerate(sizes)
    ]
    return chunks, answers


def rows_of(batch: Batch) -> list[bytes]:
    return [frame for part in batch.slices for frame in part.frames]


sizes = st.lists(st.integers(1, 20), min_size=1, max_size=8)


@given(sizes, st.data())
def test_each_row_gets_its_own_fate(sizes: list[int], data: st.DataObject) -> None:
    """Runs of a whole batch reach the chunks they belong to, values of their own cut with them."""
    chunks, answers = chunks_of(sizes)
    left = sum(sizes)
    runs: list[Run] = []
    expected: list[object] = []
    while left:
        count = data.draw(st.integers(1, left))
        if data.draw(st.booleans()):
            runs.append((count, BAD))
            expected += [BAD] * count
        else:
            values = [b"+OK id=%d" % (left - n) for n in range(count)]
            runs.append((count, Returned(values)))
            expected += values
        left -= count
    Batch.of(chunks).settle(runs)
    assert [len(flat(found)) for found in answers] == sizes
    assert [fate for found in answers for fate in flat(found)] == expected


def flat(runs: list[Run]) -> list[object]:
    """One fate for each message."""
    return [
        fate
        for count, run in runs
        for fate in (run.answers if isinstance(run, Returned) else [run] * count)
    ]


@given(sizes, st.data())
def test_refused_rows_are_cut_out(sizes: list[int], data: st.DataObject) -> None:
    """Rows at fault are refused in their place, and the rest stays in order."""
    chunks, answers = chunks_of(sizes)
    batch = Batch.of(chunks)
    rows = rows_of(batch)
    bad = sorted(data.draw(st.sets(st.integers(0, len(rows) - 1))))
    left = batch.refuse([(row, BAD) for row in bad])
    if left is not None:
        assert rows_of(left) == [row for i, row in enumerate(rows) if i not in bad]
        left.settle([(left.count, STORED)])
    else:
        assert len(bad) == len(rows)
    assert len(answers) == len(sizes)
    assert sum(n for runs in answers for n, outcome in runs if outcome is BAD) == len(bad)


@given(st.integers(1, 30), st.data())
def test_abandoned_rows_are_settled_once(size: int, data: st.DataObject) -> None:
    """After a failure in the middle, what was not settled gets the same last word."""
    (chunk,), answers = chunks_of([size])
    done = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size - 1))
    for row in done:
        chunk.settle(row, row + 1, STORED)
    chunk.abandon(BAD)
    outcomes = [outcome for n, outcome in answers[0] for _ in range(n)]
    assert outcomes == [STORED if row in done else BAD for row in range(size)]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.lists(st.integers(1, 5), min_size=40))
def test_merge_puts_answers_in_place(is_gap: list[bool], cuts: list[int]) -> None:
    """Answers known at once and answers of the store come out in the order of the frames."""
    gap = Outcome(STORED.word, text="gap")
    stored = is_gap.count(False)
    runs: list[Run] = []
    for cut in cuts:
        if stored:
            runs.append((min(cut, stored), STORED))
            stored -= min(cut, stored)
    merged = merge(runs, [(i, gap) for i, here in enumerate(is_gap) if here])
    flat = [outcome for n, outcome in merged for _ in range(n)]
    assert flat == [gap if here else STORED for here in is_gap]


# Refusals that are part of a batch.


class Peer:
    """
    Chunks, and what was told of them.
    """

    def __init__(self) -> None:
        self.told: dict[Chunk, list[str]] = {}

    def chunk(
        self,
        frames: list[bytes],
        stream: Stream | None = None,
        route: str = "r",
        refusal: Outcome | None = None,
        origin: Origin = ORIGIN,
    ) -> Chunk:
        first = 0
        if stream is not None:
            first = stream.next
            stream.take_all(first, len(frames))
        return Chunk(route, frames, origin, 0.0, self._answered, None, stream, first, refusal)

    def _answered(self, chunk: Chunk, runs: list[Run]) -> None:
        self.told[chunk] = [fate.word.value for count, fate in runs for _ in range(count)]


def numbers_of(batch: Batch) -> dict[str, list[int]]:
    """The numbers of each stream that a batch takes along, in order."""
    found: dict[str, list[int]] = {}
    for part in batch.slices:
        if part.chunk.stream is not None:
            numbers = range(part.first, part.last + 1)
            found.setdefault(part.chunk.stream.name, []).extend(numbers)
    for refusal in batch.refusals:
        if refusal.stream is not None:
            found.setdefault(refusal.stream.name, []).append(refusal.number)
    return {name: sorted(numbers) for name, numbers in found.items()}


def test_a_number_is_refused_with_the_commit() -> None:
    """A row with a number is told only with the others of its batch; one without at once."""
    peer, stream = Peer(), Stream("s", "e", "c")
    numbered, plain = peer.chunk([b"1", b"2", b"3"], stream), peer.chunk([b"p"])
    left = Batch.of([numbered, plain]).refuse([(1, BAD), (3, BAD)])
    assert left is not None and peer.told == {plain: ["-REJ"]}
    assert rows_of(left) == [b"1", b"3"] and left.count == 2
    (refusal,) = left.refusals
    assert (refusal.number, refusal.outcome, refusal.dead_letter) == (2, BAD, False)
    assert not left.dead_letters and left.streams == {"s"}
    left.settle([(2, STORED)])
    assert peer.told[numbered] == ["+OK", "-REJ", "+OK"] and stream.refusals == {2: BAD}


def test_what_is_to_be_sent_again_is_told_at_once() -> None:
    """Only what is refused for good uses its number up; everything else is no part of a commit."""
    peer, stream = Peer(), Stream("s", "e", "c")
    numbered = peer.chunk([b"1", b"2"], stream)
    left = Batch.of([numbered]).refuse([(0, LATER), (1, goodbye(Code.INTERNAL, "a bug"))])
    assert left is None and peer.told[numbered] == ["-TRY", "-BYE"]


def test_dead_letters_are_part_of_the_batch() -> None:
    """Where refused rows are kept, those without a number too are told with the commit."""
    peer, stream = Peer(), Stream("s", "e", "c")
    numbered, plain = peer.chunk([b"1"], stream), peer.chunk([b"p", b"q"])
    left = Batch.of([numbered, plain]).refuse([(0, BAD), (1, BAD)], dead_letter=True)
    assert left is not None and not peer.told
    assert [refusal.stream for refusal in left.dead_letters] == [stream, None]
    left.settle([(1, STORED)])
    assert peer.told == {numbered: ["-REJ"], plain: ["-REJ", "+OK"]}


def test_a_batch_of_refusals_alone() -> None:
    """What is refused from the start is a batch without a row, which moves its stream."""
    peer, stream = Peer(), Stream("s", "e", "c")
    chunk = peer.chunk([b"1", b"2"], stream, route="", refusal=BAD)
    batch = Batch.of([chunk])
    assert (batch.count, batch.route, batch.slices) == (0, "", [])
    (move,) = batch.moves
    assert (move.first, move.last, move.refused) == (1, 2, {1: BAD, 2: BAD})
    batch.settle([(0, STORED)])
    assert peer.told[chunk] == ["-REJ"] * 2


def test_a_batch_that_fails_takes_its_refusals_along() -> None:
    """What was not brought to its end is to be sent again, refused rows too."""
    peer, stream = Peer(), Stream("s", "e", "c")
    chunk = peer.chunk([b"1", b"2", b"3"], stream)
    left = Batch.of([chunk]).refuse([(1, BAD)])
    assert left is not None
    left.fail(LATER)
    assert peer.told[chunk] == ["-TRY"] * 3
    assert stream.next == 1 and not stream.refusals
    alone = peer.chunk([b"1"], stream, refusal=BAD)
    Batch.of([alone]).fail(LATER)
    assert peer.told[alone] == ["-TRY"]


def test_what_does_not_count_moves_nothing() -> None:
    """A refusal that its stream has passed already is kept, but is no part of its move."""
    peer, stream = Peer(), Stream("s", "e", "c")
    left = Batch.of([peer.chunk([b"1"], stream)]).refuse([(0, BAD)], dead_letter=True)
    assert left is not None and left.moves
    (refusal,) = left.refusals
    passed = Batch("r", [], [refusal._replace(counts=False)])
    assert not passed.moves and not passed.streams and len(passed.dead_letters) == 1


pieces = st.lists(
    st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 4)), min_size=1, max_size=8
)


@given(pieces, st.data())
def test_halves_keep_each_streams_numbers_in_a_row(
    sent: list[tuple[str, int]], data: st.DataObject
) -> None:
    """However a batch is cut in two, each half moves its streams over numbers without a gap, the
    first half first; nothing is lost."""
    peer = Peer()
    streams = {name: Stream(name, "e", "c") for name in "ab"}
    whole = Batch.of([peer.chunk([b"m"] * size, streams.get(name)) for name, size in sent])
    assume(whole.count > 1)
    most = whole.count - 2
    bad = sorted(data.draw(st.sets(st.integers(0, whole.count - 1), max_size=most)))
    batch = whole.refuse([(row, BAD) for row in bad])
    assert batch is not None
    first, second = batch.halves()
    assert rows_of(first) + rows_of(second) == rows_of(batch)
    assert first.count and second.count
    assert {*first.refusals, *second.refusals} == {*batch.refusals}
    assert len(first.refusals) + len(second.refusals) == len(batch.refusals)
    for name, numbers in numbers_of(batch).items():
        cut = numbers_of(first).get(name, []) + numbers_of(second).get(name, [])
        assert cut == numbers, "the numbers of the first half come before those of the second"
    assert all(move.whole for half in (first, second) for move in half.moves)


@given(pieces, st.data())
def test_streams_are_parted_from_others(sent: list[tuple[str, int]], data: st.DataObject) -> None:
    """Rows and refusals of some streams are put by themselves, or settled; nothing is lost."""
    peer = Peer()
    streams = {name: Stream(name, "e", "c") for name in "ab"}
    chunks = [
        peer.chunk([b"%d" % n] * size, streams.get(name)) for n, (name, size) in enumerate(sent)
    ]
    batch: Batch | None = Batch.of(chunks)
    assert batch is not None
    bad = sorted(data.draw(st.sets(st.integers(0, batch.count - 1))))
    batch = batch.refuse([(row, BAD) for row in bad])
    if batch is None:
        return
    rows, refusals = batch.count, len(batch.refusals)
    theirs, others = batch.parted({"a"})
    assert theirs is None or theirs.streams == {"a"}
    assert others is None or "a" not in others.streams
    parts = [part for part in (theirs, others) if part is not None]
    assert sum(part.count for part in parts) == rows
    assert sum(len(part.refusals) for part in parts) == refusals
    left = batch.settle_streams({"a"}, LATER)
    assert (left is None) is (others is None)
    for chunk in chunks:
        if chunk.stream is streams["a"]:
            assert peer.told[chunk] == ["-TRY"] * len(chunk.frames)


def test_refused_rows_keep_their_place_among_routes() -> None:
    """What goes to several routes by turns is put in order again with its refusals."""
    peer, stream = Peer(), Stream("s", "e", "c")
    chunks = [
        peer.chunk([b"1"], stream, "a"),
        peer.chunk([b"2"], stream, "", BAD),
        peer.chunk([b"3"], stream, "b"),
        peer.chunk([b"4", b"5"], stream, "a"),
        peer.chunk([b"6"], stream, "", BAD),
    ]
    by_route = Batch.by_route(chunks)
    assert [batch.route for batch in by_route] == ["a", "", "b"]
    again = [batch.refuse([(1, BAD)]) if batch.route == "a" else batch for batch in by_route]
    ordered = in_order([batch for batch in again if batch is not None], chunks)
    assert [batch.route for batch in ordered] == ["a", "", "b", "a", ""]
    assert [(move.first, move.last) for batch in ordered for move in batch.moves] == [
        *((1, 1), (2, 2), (3, 3), (4, 5), (6, 6))
    ]
    assert not peer.told


def test_stream_of_a_row() -> None:
    """Each row to be stored knows whether it has a number, and in which stream."""
    peer, stream = Peer(), Stream("s", "e", "c")
    batch = Batch.of([peer.chunk([b"p"]), peer.chunk([b"1", b"2"], stream)])
    assert [batch.stream_of(row) for row in range(3)] == [None, stream, stream]


def test_a_fence_of_one_batch_is_its_own_first() -> None:
    """A range of batches names its first one; a single batch need not."""
    assert (Fence("l", 7).first, Fence("l", 7, 3).first) == (7, 3)
