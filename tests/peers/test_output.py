"""
Answers: in the order of the frames, each once, whatever the store settles first.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import Work
from gateway.metrics.counters import ListenerCounters
from gateway.model.outcome import STORED, Code, Outcome, Word, Words, goodbye, refused
from gateway.peers.output import AnswerQueue
from gateway.wire.framing import LineFraming, NetstringFraming

BAD = refused(Code.DATA, "no")
BYE = goodbye(Code.INTERNAL, "a bug")


def answers(words: Words | None = None) -> AnswerQueue:
    return AnswerQueue(LineFraming(100), words or Words(), ListenerCounters(), lambda: 0.0)


@given(st.permutations(range(8)), st.lists(st.integers(0, 4), min_size=8, max_size=8))
def test_order_is_that_of_the_frames(order: list[int], sizes: list[int]) -> None:
    """However the store's answers come in, what is said is the longest settled beginning."""
    queue = answers()
    slots, expected = [], []
    for number, size in enumerate(sizes):
        known = Outcome(Word.OK, text=f"known {number}")
        slots.append(queue.add_slot(Work("r", [b"x"] * size, gaps=[(size, known)])))
        stored = b"-REJ DATA :no\n" if number % 2 else b"+OK\n"
        expected.append(stored * size + b"+OK known %d\n" % number)
    said = queue.take_due()
    for number in order:
        slots[number].runs = [(sizes[number], BAD if number % 2 else STORED)]
        said += queue.take_due()
        settled = [slot.runs is not None for slot in slots]
        first = [*settled, False].index(False)
        assert said == b"".join(expected[:first])
        assert queue.unanswered == sum(sizes[first:]) + len(sizes) - first
        assert queue.owes_answers is (first < len(sizes))


def test_nothing_is_due_before_what_was_asked_first() -> None:
    """A later answer waits for an earlier one; then both are one string of bytes."""
    queue = answers()
    first, second = queue.add_slot(Work("r", [b"a"])), queue.add_slot(Work("r", [b"b"]))
    second.runs = [(1, STORED)]
    assert queue.take_due() == b"" and queue.unanswered == 2
    first.runs = [(1, BAD)]
    assert queue.take_due() == b"-REJ DATA :no\n+OK\n" and queue.unanswered == 0


def test_tags_go_with_their_answers() -> None:
    """Each tag heads the answer of its own frame, also where some answers were known at once."""
    queue = AnswerQueue(NetstringFraming(100), Words(), ListenerCounters(), lambda: 0.0)
    slot = queue.add_slot(Work("r", [b"a", b"b", b"c"], [(1, BAD)], [b"@1", b"@2", b"", b"@4"]))
    slot.runs = [(2, STORED), (1, BAD)]
    assert queue.take_due() == b"6:@1 +OK,16:@2 -REJ DATA :no,3:+OK,16:@4 -REJ DATA :no,"


def test_the_last_word_is_the_last() -> None:
    """-BYE is said once for all it concerns, without their tags, and nothing after it."""
    queue = answers()
    for size in (1, 3, 2):
        work = Work("r", [b"x"] * size, tags=[b"@1"] * size)
        queue.add_slot(work).runs = [(size, BYE if size == 3 else STORED)]
    assert queue.take_due() == b"@1 +OK\n-BYE INTERNAL :a bug\n"
    assert queue.ended and not queue.owes_answers
    queue.add_slot(Work("r", gaps=[(0, STORED)]))
    assert queue.take_due() == b"" and not queue.owes_answers


def test_a_silent_listener_ends_too() -> None:
    """Where nothing is ever said, -BYE is the end all the same."""
    queue = answers(Words.configured("none", None))
    queue.add_slot(Work("r", [b"x"])).runs = [(1, STORED)]
    assert queue.take_due() == b"" and not queue.ended
    queue.add_slot(Work("r", [b"x"])).runs = [(1, BYE)]
    assert queue.take_due() == b"" and queue.ended
