"""
Groups: the messages of one read, or of one unit, cut by their routes.

Messages that come for several routes by turns are one group for each route, and not one for each
turn. Each message keeps its place in the read, by which the fates of the groups are put in order
again. Strategy: places are ranges and lists of integers, and all is done for whole lists; no object
stands for a message.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TypeVar

from gateway.model.outcome import STORED, Fate, Outcome, Returned, Run


class Group(NamedTuple):
    """
    Messages of one read, or of one unit, that have one route.

    @ivar frames: one or more, in the order in which they were sent.
    @ivar refusal: why none of them is to be stored, where that is known from the start.
    @ivar places: the place of each message among all of the read or unit, from 0, ascending; C{()}:
        they come in a row, behind those of the group before.
    """

    route: str
    frames: list[bytes]
    refusal: Outcome | None = None
    places: Sequence[int] = ()


_Key = TypeVar("_Key", bound=Hashable)


def places_by(keys: Sequence[_Key]) -> dict[_Key, list[int]]:
    """
    Group messages by a key of each.

    @return: key -> places of its messages, in the order in which the keys first appear.
    """
    places: dict[_Key, list[int]] = {}
    for place, key in enumerate(keys):
        if key in places:
            places[key].append(place)
        else:
            places[key] = [place]
    return places


def placed(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with places for those that have none; a range where they are in a row."""
    whole = []
    after = 0
    for group in groups:
        places, count = group.places, len(group.frames)
        first = places[0] if places else after
        if not places or places[-1] - first == count - 1:
            group = group._replace(places=range(first, first + count))
        after = group.places[-1] + 1
        whole.append(group)
    return whole


def in_runs(groups: Sequence[Group]) -> list[Group]:
    """
    Cut groups so that the messages of each come in a row, the earlier groups first.

    @param groups: with places, which are all from 0 on.
    """
    if all(isinstance(group.places, range) for group in groups):
        return sorted(groups, key=lambda group: group.places[0])
    owner = [0] * sum([len(group.places) for group in groups])
    for number, group in enumerate(groups):
        for place in group.places:
            owner[place] = number
    waiting = [iter(group.frames) for group in groups]
    runs = []
    begin = 0
    for number, run in groupby(owner):
        end = begin + len(list(run))
        frames = [next(waiting[number]) for _ in range(begin, end)]
        runs.append(groups[number]._replace(frames=frames, places=range(begin, end)))
        begin = end
    return runs


class GroupFates:
    """
    Fates of all groups of a read or a unit.

    @ivar runs: those of each group's messages, as far as they are settled.
    """

    __slots__ = ("_left", "_places", "runs")

    def __init__(self, places: Sequence[Sequence[int]]) -> None:
        """
        @param places: of each group's messages, as L{Group} has them.
        """
        self._places = places
        self._left = len(places)
        self.runs: list[Sequence[Run]] = [()] * len(places)

    def settle(self, group: int, runs: Sequence[Run]) -> list[Run] | None:
        """
        Record the fates of one group's messages; each is settled once.

        @param group: its number, from 0.
        @return: the fates of all messages in order, with those of the last group; else C{None}.
        """
        self.runs[group] = runs
        self._left -= 1
        return None if self._left else merged(self._places, self.runs)


def merged(places: Sequence[Sequence[int]], fates: Sequence[Sequence[Run]]) -> list[Run]:
    """
    Put the fates of groups in the order of their messages.

    @param places: of each group's messages; all together they are all from 0 on.
    @param fates: runs of each group's messages.
    """
    count = sum(map(len, places))
    first = fates[0][0][1]
    if isinstance(first, Outcome) and all(len(runs) == 1 and runs[0][1] is first for runs in fates):
        return [(count, first)]  # nearly always
    each: list[Fate | bytes] = [first] * count
    with_values = False
    for of_group, runs in zip(places, fates, strict=True):
        flat: list[Fate | bytes] = []
        for number, fate in runs:
            if isinstance(fate, Returned):
                flat += fate.answers
                with_values = True
            else:
                flat += [fate] * number
        for place, of_message in zip(of_group, flat, strict=True):
            each[place] = of_message
    if with_values:
        # One run where messages that return values and others come by turns.
        each = [_PLAIN if fate is STORED else fate for fate in each]
    return [_run(kind, [*run]) for kind, run in groupby(each, key=_kind)]


_PLAIN: Final = bytes(STORED)
_VALUES: Final = Returned(())


def _kind(fate: Fate | bytes) -> Fate:
    return _VALUES if isinstance(fate, bytes) else fate


def _run(kind: Fate, run: Sequence[Fate | bytes]) -> Run:
    if kind is _VALUES:
        return len(run), Returned([answer for answer in run if isinstance(answer, bytes)])
    return len(run), kind


class GroupedRead:
    """
    Messages of one read that were submitted as several groups.

    @ivar token: object by which their submitter knows them.
    @ivar fates: of each group.
    """

    __slots__ = ("_routes", "fates", "token")

    def __init__(self, token: object, groups: Sequence[Group]) -> None:
        """
        @param groups: with places.
        """
        self.token = token
        self._routes = [group.route for group in groups]
        self.fates = GroupFates([group.places for group in groups])

    @property
    def by_route(self) -> Iterable[tuple[str, Sequence[Run]]]:
        """The route of each group, and the fates of its messages."""
        return zip(self._routes, self.fates.runs, strict=True)
