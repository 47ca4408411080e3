"""
Counters: what is counted as what.
"""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics.counters import (
    SECONDS,
    SPOOLED,
    STORED,
    Histogram,
    ListenerCounters,
    QueryCounters,
    RouteCounters,
)
from gateway.model import outcome
from gateway.model.outcome import DUPLICATE, SILENT, Code, Listing, Returned, Word, refused


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 1000))))
def test_a_histogram_has_each_value_once(values: list[tuple[float, int]]) -> None:
    """Each value is in the bucket of the first bound that it does not exceed, with its weight."""
    histogram = Histogram(SECONDS)
    for value, weight in values:
        histogram.add(value, weight)
    lower = -math.inf
    for bound, count in zip((*SECONDS, math.inf), histogram.counts, strict=True):
        assert count == sum(weight for value, weight in values if lower < value <= bound)
        lower = bound
    assert histogram.count == sum(weight for _, weight in values)
    assert math.isclose(histogram.total, sum(value * weight for value, weight in values))


def test_answers_are_counted_by_their_first_words() -> None:
    """The text does not matter, and values that are told are C{+OK}; one value an answer."""
    counters = ListenerCounters()
    counters.answered(999, outcome.STORED, 0.003)
    counters.stored += 1
    counters.answer_seconds.add(0.003)
    counters.answered(1, SILENT, 0.003)
    counters.answered(2, Returned([b"+OK id=1", b"+OK id=2"]), 0.003)
    counters.answered(5, DUPLICATE, 0.004)
    counters.answered(2, refused(Code.DATA, "no number"), 100.0)
    counters.answered(1, refused(Code.DATA, "too long", "22001"), 0.1)
    assert counters.answers == {
        (Word.OK, None): 1003,
        (Word.DUP, None): 5,
        (Word.REJ, Code.DATA): 3,
    }
    assert counters.answer_seconds.count == counters.answers.total()


def test_a_batch_is_in_doubt_until_it_is_resolved() -> None:
    """However many replies were lost, it is one batch."""
    counters = RouteCounters()
    counters.unknown, counters.doubtful = 5, 2
    counters.resolved[STORED] += 1
    assert counters.unresolved == 1
    counters.resolved[SPOOLED] += 1
    assert counters.unresolved == 0


def test_an_answer_of_several_rows_is_one() -> None:
    """A call is answered once, however many rows it has."""
    counters = QueryCounters()
    counters.answered(Listing([b"1", b"2"]), 0.1)
    assert (counters.answers, counters.seconds.count) == ({(Word.OK, None): 1}, 1)
