"""
Work by route: messages of one read, cut by their routes into as few pieces as possible.

Strategy: where each route has its messages in a row, each row is a piece of work with answers of
its own. Where routes come by turns they are one piece, with a group for each route: its messages
are submitted together, and are answered when the last of them is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from operator import ne

from gateway.dialects.base import Work
from gateway.model.grouping import Group, places_by
from gateway.model.outcome import Outcome
from gateway.model.stream import Stream

Way = str | Outcome
"""Route of a message, or the answer to it where it has none."""


def works_by_route(
    frames: list[bytes], ways: Sequence[Way], stream: Stream | None = None, first: int = 0
) -> list[Work]:
    """
    Cut frames by their routes.

    @param frames: one or more.
    @param ways: of each of them.
    @param stream: that all of them are numbered in, from C{first} on; then each has a route.
    """
    gaps: list[tuple[int, Outcome]] = []
    if set(map(type, ways)) == {str}:
        routes, messages = [way for way in ways if isinstance(way, str)], frames
    else:
        gaps = [(place, way) for place, way in enumerate(ways) if isinstance(way, Outcome)]
        routes = [way for way in ways if isinstance(way, str)]
        messages = [frame for frame, way in zip(frames, ways, strict=True) if isinstance(way, str)]
    turns = sum(map(ne, routes, islice(routes, 1, None))) + 1
    if turns <= len(set(routes)) or not routes:
        return _runs(frames, ways, stream, first)
    groups = [
        Group(route, [messages[place] for place in places], None, places)
        for route, places in places_by(routes).items()
    ]
    return [Work("", gaps=gaps, stream=stream, first=first, groups=groups)]


def _runs(
    frames: list[bytes], ways: Sequence[Way], stream: Stream | None, first: int
) -> list[Work]:
    """Cut frames into consecutive messages of one route each."""
    works: list[Work] = []
    work = Work("", stream=stream, first=first)
    begin = position = 0
    for way, run in groupby(ways):
        end = position + len(list(run))
        if isinstance(way, str):
            if work.messages and work.route != way:
                works.append(work)
                work = Work("", stream=stream, first=first + position)
                begin = position
            work.route = way
            work.messages += frames[position:end]
        else:
            work.gaps += [(place - begin, way) for place in range(position, end)]
        position = end
    works.append(work)
    return works


def joined(works: Sequence[Work]) -> Sequence[Work]:
    """
    Join work whose routes come by turns into one piece.

    @param works: of one read, in order; only the last one may be a request. Each has its tags.
    """
    kinds = [(work.route, work.refusal) for work in works if work.messages]
    if len(set(kinds)) == len(kinds):
        return works
    requests = [work for work in works if work.request is not None]
    whole = Work("", tags=[])
    of_kind: dict[tuple[str, Outcome | None], tuple[list[bytes], list[int]]] = {}
    place = position = 0
    for work in works[: len(works) - len(requests)]:
        assert whole.tags is not None and work.tags is not None
        whole.gaps += [(position + at, answer) for at, answer in work.gaps]
        whole.tags += work.tags
        whole.closes = whole.closes or work.closes
        position += work.count
        if work.messages:
            if not place:
                whole.stream, whole.first = work.stream, work.first
            frames, places = of_kind.setdefault((work.route, work.refusal), ([], []))
            frames += work.messages
            places += range(place, place + len(work.messages))
            place += len(work.messages)
    whole.groups = [
        Group(route, frames, refusal, places)
        for (route, refusal), (frames, places) in of_kind.items()
    ]
    return [whole, *requests]
