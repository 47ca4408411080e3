"""
Batches: every message is settled exactly once, in its place, whatever is cut from what.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch, Chunk, Origin
from gateway.reply import STORED, Code, Outcome, Returned, Run, merge, refused

ORIGIN = Origin("peer:1", "lines")
BAD = refused(Code.DATA, "bad")


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
