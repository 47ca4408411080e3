"""
Groups: whatever a read is cut into, its messages and their fates keep their places.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.grouping import Group, GroupFates, in_runs, placed, places_by
from gateway.model.outcome import DUPLICATE, STORED, Code, Fate, Returned, Run, refused

BAD = refused(Code.DATA, "bad")

KINDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=30)
FATES: st.SearchStrategy[Fate | bytes] = st.sampled_from(
    [STORED, DUPLICATE, BAD, b"+OK id=1", b"+OK id=2"]
)


def cut(kinds: list[str]) -> list[Group]:
    """Groups of a read of numbered messages, with a route for each kind."""
    return [
        Group(kind, [b"%d" % place for place in places], None, places)
        for kind, places in places_by(kinds).items()
    ]


def runs_of(fates: list[Fate | bytes]) -> list[Run]:
    """One run for each fate."""
    return [(1, Returned([fate]) if isinstance(fate, bytes) else fate) for fate in fates]


def answers(runs: list[Run]) -> list[bytes]:
    """What each message is answered."""
    found: list[bytes] = []
    for count, fate in runs:
        if isinstance(fate, Returned):
            assert len(fate.answers) == count
            found += fate.answers
        else:
            found += [bytes(fate)] * count  # type: ignore[arg-type]
    return found


@given(KINDS, st.data())
def test_fates_come_in_the_order_of_the_messages(kinds: list[str], data: st.DataObject) -> None:
    """However a read is cut, and whichever group is settled first, each message has its own fate,
    known with the last group's."""
    fates: list[Fate | bytes] = [data.draw(FATES) for _ in kinds]
    groups = cut(kinds)
    whole = GroupFates([group.places for group in groups])
    order = data.draw(st.permutations(range(len(groups))))
    for number in order:
        runs = whole.settle(number, runs_of([fates[place] for place in groups[number].places]))
        assert (runs is None) is (number != order[-1])
    assert runs is not None
    assert answers(runs) == answers(runs_of(fates))


def test_one_fate_is_one_run() -> None:
    """What is stored whole is answered by one run; so are values and plain answers by turns."""
    groups = cut(["a", "b"] * 3)
    whole = GroupFates([group.places for group in groups])
    assert whole.settle(0, [(3, STORED)]) is None
    assert whole.settle(1, [(3, STORED)]) == [(6, STORED)]
    whole = GroupFates([group.places for group in groups])
    whole.settle(0, [(3, Returned([b"+OK id=1", b"+OK id=2", b"+OK id=3"]))])
    ((count, fate),) = whole.settle(1, [(3, STORED)]) or []
    assert count == 6 and isinstance(fate, Returned)
    assert [*fate.answers][:3] == [b"+OK id=1", b"+OK", b"+OK id=2"]


@given(KINDS)
def test_runs_are_in_order(kinds: list[str]) -> None:
    """Groups are cut into as many runs as there are turns, with all messages in their places."""
    runs = in_runs(placed(cut(kinds)))
    assert [frame for run in runs for frame in run.frames] == [
        b"%d" % place for place in range(len(kinds))
    ]
    assert [place for run in runs for place in run.places] == [*range(len(kinds))]
    assert [run.route for run in runs for _ in run.frames] == kinds
    assert all(one.route != other.route for one, other in pairwise(runs))


def test_groups_without_places_follow_each_other() -> None:
    """Where no places are said each group comes behind the one before."""
    groups = placed([Group("a", [b"1", b"2"]), Group("b", [b"3"]), Group("a", [b"4", b"5"])])
    assert [group.places for group in groups] == [range(2), range(2, 3), range(3, 5)]
    assert placed([Group("a", [b"1", b"2"], None, [3, 4])])[0].places == range(3, 5)
