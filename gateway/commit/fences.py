"""
Fences of a lane: the number of the next batch of each route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.model.batch import Fence


class Fences:
    """
    Fences of a lane, one for each route.

    Each is a row of C{gateway.lane}, so that a route that is out of service does not stop the
    others.
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
        """Return the fence for the next batch of a route."""
        reached = self._reached.get(route)
        if reached is None:
            reached = self._reached[route] = (self._new_id(), 0)
        lane, number = reached
        return Fence(lane, number + 1)

    def moved(self, route: str, number: int) -> None:
        """
        Note that batches of a route are stored.

        @param number: of the last one.
        """
        lane, _ = self._reached[route]
        self._reached[route] = (lane, number)

    def renew(self, route: str) -> None:
        """Use a new row for a route; the old one is somebody else's from now on, as the spool's."""
        self._reached.pop(route, None)
