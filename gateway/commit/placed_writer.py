"""
Writer over several databases: a writer with lanes of its own for each of them.

What a peer sends for one database does not wait for another one: its order is kept within each.
Only numbered messages are given to the next database when all before them are settled, so that a
stream is as far as the database that is furthest (L{gateway.commit.placed_store}); those that are
for one database and come one after the other go together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from gateway.commit.pauses import HeldChunks
from gateway.commit.places import Places
from gateway.commit.slow_commit_log import SlowCommitLog
from gateway.commit.writer import OnSettled, PeerSource, Writer
from gateway.metrics.counters import RouteCounters
from gateway.model.batch import Origin
from gateway.model.grouping import Group, GroupedRead, GroupFates, in_runs, placed, places_by
from gateway.model.outcome import Outcome, Run
from gateway.model.stream import Stream
from gateway.model.unit import OnUnitSettled


class _Turn(NamedTuple):
    """
    Numbered messages of one peer for one database, all after those of the turn before.

    @ivar held: until it is their turn.
    """

    database: str
    held: HeldChunks


class _Numbered(NamedTuple):
    """
    Token of numbered messages.
    """

    token: object


class _Part(NamedTuple):
    """
    Token of one of the groups of a submission.

    @ivar token: of the whole submission.
    """

    token: object
    fates: GroupFates
    number: int


class PlacedSource:
    """
    Source of one peer's messages, with a source for each database that it stores in.
    """

    __slots__ = ("_answered", "_in_turn", "_origin", "_sources", "_turn", "_waiting", "_writer")

    def __init__(self, writer: PlacedWriter, origin: Origin, answered: OnSettled) -> None:
        self._writer = writer
        self._origin = origin
        self._answered = answered
        self._sources: dict[str, PeerSource] = {}
        # The database that numbered chunks in flight are for, how many they are, and those that
        # come after them.
        self._turn: str | None = None
        self._in_turn = 0
        self._waiting: deque[_Turn] = deque()

    def submit(
        self,
        route: str,
        frames: list[bytes],
        token: object,
        stream: Stream | None = None,
        first: int = 0,
        refusal: Outcome | None = None,
    ) -> None:
        """
        Submit messages to be stored, see L{PeerSource.submit}.
        """
        if route not in self._writer.places.shards:
            self._submit(route, frames, token, stream, first, refusal)
            return
        groups = self._by_shards([Group(route, frames, refusal, range(len(frames)))])
        if len(groups) == 1:
            self._submit(groups[0].route, frames, token, stream, first, refusal)
            return
        groups = groups if stream is None else in_runs(groups)
        fates = GroupFates([group.places for group in groups])
        self._submit_each(groups, token, fates, stream, first)

    def submit_groups(
        self,
        groups: Sequence[Group],
        token: object,
        stream: Stream | None = None,
        first: int = 0,
    ) -> None:
        """
        Submit messages of one read that was cut by routes, see L{PeerSource.submit_groups}.
        """
        groups = self._by_shards(placed(groups))
        by_database: dict[str, list[Group]] = {}
        for group in groups:
            database = self._writer.places.database_of(group.route)
            by_database.setdefault(database, []).append(group)
        if stream is not None:
            groups = in_runs(groups)
        elif len(by_database) == 1:
            (database,) = by_database
            self._source(database).submit_groups(groups, token)
            return
        else:
            groups = [part for theirs in by_database.values() for part in _in_order(theirs)]
        read = GroupedRead(token, groups)
        self._submit_each(groups, read, read.fates, stream, first)

    def _submit_each(
        self,
        groups: Sequence[Group],
        token: object,
        fates: GroupFates,
        stream: Stream | None,
        first: int,
    ) -> None:
        for number, (route, frames, refusal, places) in enumerate(groups):
            one = _Part(token, fates, number)
            self._submit(route, frames, one, stream, first + places[0], refusal)

    def _by_shards(self, groups: Sequence[Group]) -> list[Group]:
        """Cut groups of sharded routes into groups of their inner routes."""
        found: list[Group] = []
        for group in groups:
            chooser = self._writer.places.shards.get(group.route)
            if chooser is None:
                found.append(group)
                continue
            for name, rows in places_by(chooser.inner_routes(group.frames)).items():
                frames = [group.frames[row] for row in rows]
                places = [group.places[row] for row in rows]
                found.append(Group(name, frames, group.refusal, places))
        return placed(found)

    def submit_unit(
        self, groups: Sequence[Group], settled: OnUnitSettled, key: str | None = None
    ) -> None:
        """
        Submit messages that are stored together or not at all; they are for one database.
        """
        database = self._writer.places.database_of(groups[0].route)
        self._source(database).submit_unit(groups, settled, key)

    def _submit(
        self,
        route: str,
        frames: list[bytes],
        token: object,
        stream: Stream | None,
        first: int,
        refusal: Outcome | None,
    ) -> None:
        database = self._writer.places.database_of(route)
        source = self._source(database)
        if stream is not None:
            waiting = self._waiting
            if not waiting and self._turn in (None, database):
                self._turn = database
                self._in_turn += 1
            else:
                if not waiting or waiting[-1].database != database:
                    waiting.append(_Turn(database, HeldChunks()))
                source.wait(waiting[-1].held)
            token = _Numbered(token)
        source.submit(route, frames, token, stream, first, refusal)

    def _source(self, database: str) -> PeerSource:
        source = self._sources.get(database)
        if source is None:
            writer = self._writer.writers[database]
            # An origin of its own: lanes know by its identity what belongs together.
            source = self._sources[database] = PeerSource(
                writer, replace(self._origin), self._settled
            )
        return source

    def _settled(self, token: object, runs: list[Run]) -> None:
        numbered = isinstance(token, _Numbered)
        if isinstance(token, _Numbered):
            token = token.token
        if not isinstance(token, _Part):
            self._answered(token, runs)
        elif (fates := token.fates.settle(token.number, runs)) is not None:
            self._answered(token.token, fates)
        if numbered:
            self._in_turn -= 1
            if not self._in_turn:
                self._next_turn()

    def _next_turn(self) -> None:
        """Give the next numbered messages to their database."""
        self._turn = None
        if self._waiting:
            turn = self._waiting.popleft()
            self._turn = turn.database
            chunks = turn.held.take()
            self._in_turn = len(chunks)
            self._writer.writers[turn.database].send_on(chunks)


class PlacedWriter:
    """
    Writer of all messages, with a L{Writer} for each database.

    @ivar writers: name of each database -> its writer.
    @ivar places: which route is where.
    @ivar counters: route, an inner one in place of a sharded one -> counters of its batches.
    @ivar slow_commits: log of commits that take long.
    """

    def __init__(
        self,
        writers: Mapping[str, Writer],
        places: Places,
        counters: Mapping[str, RouteCounters],
        slow_commits: SlowCommitLog,
    ) -> None:
        """
        @param counters: those of all the writers.
        @param slow_commits: that of all the writers.
        """
        self.writers = writers
        self.places = places
        self.counters = counters
        self.slow_commits = slow_commits

    def source(self, origin: Origin, answered: OnSettled) -> PlacedSource:
        """
        Make the source of a new peer.
        """
        return PlacedSource(self, origin, answered)

    @property
    def in_flight(self) -> int:
        """Chunks that are submitted and not yet answered."""
        return sum(writer.in_flight for writer in self.writers.values())

    @property
    def generation(self) -> int:
        """Number of the configuration in force, the same for all."""
        return max(writer.generation for writer in self.writers.values())

    @property
    def lanes(self) -> Sequence[str]:
        """The lanes' UUIDs."""
        return [lane for writer in self.writers.values() for lane in writer.lanes]

    def loads(self) -> list[tuple[int, float]]:
        """Return the load of each lane, see L{Writer.loads}."""
        return [load for writer in self.writers.values() for load in writer.loads()]

    def held(self) -> Mapping[str, int]:
        """Return how many messages wait since routes are paused, by route."""
        held: dict[str, int] = {}
        for writer in self.writers.values():
            held |= writer.held()
        return held

    def under_way(self, route: str | None) -> Callable[[], bool]:
        """Return what L{Writer.under_way} does."""
        looks = [writer.under_way(route) for writer in self.writers.values()]
        return lambda: any(look() for look in looks)

    def give_back_held(self) -> None:
        """Tell the peers of all messages that wait for a paused route to send them again."""
        for writer in self.writers.values():
            writer.give_back_held()

    def begin_generation(self, routes: Collection[str], dead_letters: frozenset[str]) -> int:
        """Note that messages read from now on are for other definitions of routes."""
        return min(w.begin_generation(routes, dead_letters) for w in self.writers.values())


def _in_order(groups: Sequence[Group]) -> Sequence[Group]:
    """Cut groups so that those of each come in a row, the earlier first; one stays as it is."""
    if len(groups) == 1:
        return groups
    each = sorted(
        (place, number, row)
        for number, group in enumerate(groups)
        for row, place in enumerate(group.places)
    )
    found = []
    for number, run in groupby(each, key=itemgetter(1)):
        rows = [*run]
        frames = [groups[number].frames[row] for _, _, row in rows]
        found.append(groups[number]._replace(frames=frames, places=[place for place, _, _ in rows]))
    return found
