"""
What goes together: chunks of one peer, and batches of one commit.

A L{Chunk} is what one read of one peer brought for one route. A L{Batch} is a
list of slices of chunks that one statement stores. Neither ever holds an object
for each message; what is kept of a message is its C{bytes} in the list of frames
and its place in a run of equal outcomes.

Nothing here waits or talks to anybody: L{gateway.writer} decides when, and a
store decides whether.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.reply import Fate, Outcome, Run, Word, part
from gateway.stream import Stream

MAX_ROWS: Final = 10_000
"""
Most rows of one statement. Larger ones gained nothing (C{docs/performance.md})
and make every peer of the batch wait longer.
"""

MAX_BYTES: Final = 8 * 1024 * 1024
"""
Most payload bytes of one statement, unless a single chunk is larger. PostgreSQL's
own limit of one statement is 1 GiB; escaping can double a payload.
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Where messages came from; one for each peer.

    @ivar peer: the remote address as C{host:port}, C{[v6]:port} or C{unix}.
    @ivar listener: the listener's name in the configuration.
    @ivar identity: who the peer proved to be.
    """

    peer: str
    listener: str
    identity: str | None = None


class Chunk:
    """
    Messages of one peer for one route, submitted and answered together.

    @ivar size: payload bytes.
    @ivar token: what the submitter knows the chunk by.
    @ivar stream: that the messages are numbered in.
    @ivar first: the number of the first of them; those of the others follow.
    """

    __slots__ = (
        *("_answered", "_epoch", "_left", "_runs", "first", "frames"),
        *("origin", "received_at", "route", "size", "stream", "token"),
    )

    def __init__(
        self,
        route: str,
        frames: list[bytes],
        origin: Origin,
        received_at: float,
        answered: Callable[[Chunk, list[Run]], None],
        token: object = None,
        stream: Stream | None = None,
        first: int = 0,
    ) -> None:
        """
        @param route: the route's name.
        @param frames: one or more.
        @param received_at: seconds since the epoch.
        @param answered: called once, when the fate of the last message is known,
            with the fates of all in order.
        """
        self.route = route
        self.frames = frames
        self.origin = origin
        self.received_at = received_at
        self.size = sum(map(len, frames))
        self.token = token
        self.stream = stream
        self.first = first
        if stream is not None:
            self._epoch = stream.epoch
            stream.begin(first, len(frames))
        self._answered = answered
        self._left = len(frames)
        self._runs: list[tuple[int, int, Fate]] = []

    def settle(self, start: int, stop: int, fate: Fate) -> None:
        """
        Say what became of some of the messages; each is settled once.
        """
        self._runs.append((start, stop, fate))
        self._left -= stop - start
        if self.stream is not None:
            self.stream.settle(self.first, self.first + start, stop - start, fate)
        if not self._left:
            runs = self._runs
            if len(runs) > 1:
                runs.sort(key=lambda run: run[0])
            self._answered(self, [(stop - start, fate) for start, stop, fate in runs])

    @property
    def void(self) -> bool:
        """
        Whether it must not be stored any more, since something before it was not.
        """
        return self.stream is not None and self._epoch != self.stream.epoch

    def abandon(self, outcome: Outcome) -> None:
        """
        Settle everything that is not settled yet.
        """
        position = 0
        for start, stop, _ in sorted(self._runs, key=lambda run: run[0]):
            if position < start:
                self.settle(position, start, outcome)
            position = stop
        if position < len(self.frames):
            self.settle(position, len(self.frames), outcome)


class Slice(NamedTuple):
    """
    Messages C{start} to C{stop} of a chunk, the latter not included.
    """

    chunk: Chunk
    start: int
    stop: int

    @property
    def frames(self) -> list[bytes]:
        """The payloads; the chunk's own list where the slice is the whole of it."""
        chunk, start, stop = self
        if stop - start == len(chunk.frames):
            return chunk.frames
        return chunk.frames[start:stop]

    @property
    def first(self) -> int:
        """The number of the first message, where it has one."""
        return self.chunk.first + self.start

    @property
    def last(self) -> int:
        """The number of the last message, where it has one."""
        return self.chunk.first + self.stop - 1


@dataclass(frozen=True, slots=True)
class Fence:
    """
    What makes a batch storable only once: its number on its lane.

    @ivar lane: a UUID, one for each lane of each gateway process.
    @ivar number: the number of the batch, from 1.
    @ivar first: where several batches are stored as one, the number of the first of
        them; C{number} is that of the last.
    """

    lane: str
    number: int
    first: int = 0

    def __post_init__(self) -> None:
        if not self.first:
            object.__setattr__(self, "first", self.number)


class Batch:
    """
    Rows of one route that one statement stores, in order.

    @ivar count: number of rows, at least one.
    """

    __slots__ = ("count", "route", "slices")

    def __init__(self, route: str, slices: list[Slice]) -> None:
        self.route = route
        self.slices = slices
        self.count = sum([stop - start for _, start, stop in slices])

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Batch:
        """
        Whole chunks, all of one route.
        """
        return cls(chunks[0].route, [Slice(chunk, 0, len(chunk.frames)) for chunk in chunks])

    @classmethod
    def by_route(cls, chunks: Sequence[Chunk]) -> list[Batch]:
        """
        Whole chunks, a batch for each route, in the order in which they first appear.
        """
        routes: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            routes.setdefault(chunk.route, []).append(chunk)
        return [cls.of(found) for found in routes.values()]

    @classmethod
    def in_order(cls, batches: Sequence[Batch], chunks: Sequence[Chunk]) -> list[Batch]:
        """
        The rows of some batches again, in batches that keep each peer's order across routes.

        @param chunks: that the rows are of, in the order in which they came.
        """
        places = {id(chunk): place for place, chunk in enumerate(chunks)}
        slices = [piece for batch in batches for piece in batch.slices]
        slices.sort(key=lambda piece: (places[id(piece.chunk)], piece.start))
        found: list[tuple[str, list[Slice]]] = []
        # The batch that a peer has come to: what it sent later goes there or behind.
        reached: dict[int, int] = {}
        for piece in slices:
            route, origin = piece.chunk.route, id(piece.chunk.origin)
            place = reached.get(origin, 0)
            while place < len(found) and found[place][0] != route:
                place += 1
            if place == len(found):
                found.append((route, []))
            found[place][1].append(piece)
            reached[origin] = place
        return [cls(route, parts) for route, parts in found]

    def settle(self, runs: Sequence[Run]) -> None:
        """
        Say what became of the rows.

        @param runs: of all of them, in order.
        """
        waiting = iter(runs)
        count, fate = next(waiting)
        done = 0
        for chunk, start, stop in self.slices:
            while start < stop:
                if done == count:
                    count, fate = next(waiting)
                    done = 0
                take = min(count - done, stop - start)
                chunk.settle(start, start + take, part(fate, done, done + take))
                start += take
                done += take

    def halves(self) -> tuple[Batch, Batch]:
        """
        Two batches of about the same number of rows, the earlier rows first.

        @precondition: more than one row.
        """
        middle = self.count // 2
        first: list[Slice] = []
        second: list[Slice] = []
        for piece in self.slices:
            chunk, start, stop = piece
            rows = stop - start
            if middle >= rows:
                first.append(piece)
            elif middle > 0:
                first.append(Slice(chunk, start, start + middle))
                second.append(Slice(chunk, start + middle, stop))
            else:
                second.append(piece)
            middle -= rows
        return Batch(self.route, first), Batch(self.route, second)

    def only(self, rows: Sequence[int]) -> Batch:
        """
        A batch of some of the rows.

        @param rows: ascending, one or more.
        """
        found: list[Slice] = []
        base = 0
        wanted = iter(rows)
        row = next(wanted, None)
        for chunk, start, stop in self.slices:
            while row is not None and row < base + stop - start:
                place = start + row - base
                found.append(Slice(chunk, place, place + 1))
                row = next(wanted, None)
            base += stop - start
        return Batch(self.route, found)

    def refuse(self, faults: Sequence[tuple[int, Outcome]]) -> Batch | None:
        """
        Settle the rows at fault.

        @param faults: (row of the batch, its outcome), ascending.
        @return: the batch without them; C{None} where nothing is left.
        """
        left: list[Slice] = []
        base = 0
        at = 0
        for chunk, start, stop in self.slices:
            rows = stop - start
            begin = start
            while at < len(faults) and faults[at][0] < base + rows:
                row = start + faults[at][0] - base
                outcome = faults[at][1]
                if row > begin:
                    left.append(Slice(chunk, begin, row))
                if chunk.stream is not None and outcome.word is Word.REJ:
                    chunk.stream.refused_here(chunk.first + row, outcome)
                chunk.settle(row, row + 1, outcome)
                begin = row + 1
                at += 1
            if begin < stop:
                left.append(Slice(chunk, begin, stop))
            base += rows
        return Batch(self.route, left) if left else None
