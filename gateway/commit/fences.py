"""
The fences of a lane: who may store which batch of a route next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.model.batch import Fence


class Fences:
    """
    A row of C{gateway.lane} for each route, so that a route which is out of service keeps
    no other from going on.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        """
        @param new_id: makes up a UUID.
        """
        self._new_id = new_id
        self._reached: dict[str, tuple[str, int]] = {}

    @property
    def lanes(self) -> Sequence[str]:
        """The rows' UUIDs."""
        return [lane for lane, _ in self._reached.values()]

    def next(self, route: str) -> Fence:
        """
        What the next batch of a route is stored behind.
        """
        reached = self._reached.get(route)
        if reached is None:
            reached = self._reached[route] = (self._new_id(), 0)
        lane, number = reached
        return Fence(lane, number + 1)

    def moved(self, route: str, number: int) -> None:
        """
        @param number: of the last batch of the route that is stored.
        """
        lane, _ = self._reached[route]
        self._reached[route] = (lane, number)

    def renew(self, route: str) -> None:
        """
        The row is somebody else's from now on.
        """
        self._reached.pop(route, None)
