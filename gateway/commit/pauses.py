"""
Pauses: routes of which nothing is committed until their operator resumes them.

Strategy: what is being committed when a pause begins is finished, and nothing new is begun. With a
spool the batches of a paused route go there. Without one their chunks leave the lane before
anything is begun with them, so that lanes stay free for other routes; whatever a peer sends behind
such a chunk waits behind it, for any route, so that its order is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from twisted.logger import Logger

from gateway.model.batch import Chunk

PAUSED: Final = "paused by the operator"


class Pauses:
    """
    Pauses of routes.

    @ivar on: whether any route is paused, so that batches have to be looked at.
    """

    _log = Logger()

    def __init__(self) -> None:
        self.on = False
        self._all = False
        self._routes: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    def holds(self, route: str) -> bool:
        """Say whether a route is paused."""
        return self._all or route in self._routes

    @property
    def is_total(self) -> bool:
        """Whether all routes are paused, also those that do not exist yet."""
        return self._all

    @property
    def routes(self) -> frozenset[str]:
        """Routes that were paused by name, also those that were removed since."""
        return frozenset(self._routes)

    def on_change(self, call: Callable[[], None]) -> None:
        """Have a function called after each change."""
        self._listeners.append(call)

    def pause(self, route: str | None) -> None:
        """
        Pause a route; C{None}: all of them.
        """
        if route is None:
            self._all = True
        else:
            self._routes.add(route)
        self._log.info(
            "{_what}: paused by the operator", event="paused", route=route, _what=_what(route)
        )
        self._changed()

    def resume(self, route: str | None) -> None:
        """
        Resume a route; C{None}: all of them.

        @precondition: not all of them are paused, where one is named.
        """
        if route is None:
            self._all = False
            self._routes.clear()
        else:
            self._routes.discard(route)
        self._log.info(
            "{_what}: resumed by the operator", event="resumed", route=route, _what=_what(route)
        )
        self._changed()

    def _changed(self) -> None:
        self.on = self._all or bool(self._routes)
        for call in self._listeners:
            call()


class HeldChunks:
    """
    Chunks that wait until their routes are resumed: a lane that commits nothing.
    """

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    @property
    def chunks(self) -> Sequence[Chunk]:
        """The chunks that wait."""
        return self._chunks

    def queue(self, chunk: Chunk) -> None:
        """Append a chunk."""
        self._chunks.append(chunk)

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Append chunks."""
        self._chunks += chunks

    def begin(self) -> None:
        """Do nothing: what waits here is begun by another lane."""

    def take(self) -> list[Chunk]:
        """Take out all chunks, in the order in which they came."""
        chunks, self._chunks = self._chunks, []
        return chunks

    def counts(self) -> Counter[str]:
        """Count the messages that wait, by route."""
        counts: Counter[str] = Counter()
        for chunk in self._chunks:
            counts[chunk.route] += len(chunk.frames)
        return counts


def ends_of_reads(chunks: Sequence[Chunk], holds: Callable[[str], bool]) -> Mapping[int, int]:
    """
    Return, by the C{id} of each read that was cut by routes and has to wait in part, the place from
    which on it waits.

    A chunk waits as a whole, and with it what its peer sent behind its first message: so the place
    is before all chunks that have a message behind it.

    @param holds: says whether a route is paused.
    """
    reads: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.read is not None:
            reads.setdefault(id(chunk.read), []).append(chunk)
    ends: dict[int, int] = {}
    for read, of_read in reads.items():
        held = [chunk.place(0) for chunk in of_read if holds(chunk.route)]
        if not held:
            continue
        end = min(held)
        for chunk in sorted(of_read, key=_last_place, reverse=True):
            if chunk.place(-1) >= end:
                end = min(end, chunk.place(0))
        ends[read] = end
    return ends


def _last_place(chunk: Chunk) -> int:
    return chunk.place(-1)


def _what(route: str | None) -> str:
    return "all routes" if route is None else f"route {route}"
