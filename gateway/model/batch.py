"""
Chunks (messages of one peer) and batches (rows of one commit).

A L{Chunk} holds the messages that one read of one peer brought for one route, a L{Batch} the slices
of chunks that one statement stores. There is no object for a message: only its C{bytes} in the list
of frames, its place in a run of equal outcomes, and where a read was cut by routes
(L{gateway.model.grouping}) its place in that. Strategy: no I/O. L{gateway.commit.writer}
decides when a batch is stored, a store whether.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from math import inf
from operator import itemgetter, not_
from typing import Final, NamedTuple

from gateway.model.grouping import GroupedRead
from gateway.model.outcome import Fate, Outcome, Returned, Run, Word, part
from gateway.model.stream import Stream, digests_of
from gateway.model.unit import UnitPart

MAX_BATCH_ROWS: Final = 10_000
"""
Most rows of one statement. Larger ones gained nothing (C{docs/performance.md})
and make every peer of the batch wait longer.
"""

MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
"""
Most payload bytes of one statement, unless a single chunk is larger. PostgreSQL's
own limit of one statement is 1 GiB; escaping can double a payload.
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Sender of messages; one object for each peer.

    @ivar peer: the remote address as C{host:port}, C{[v6]:port} or C{unix}.
    @ivar listener: the listener's name in the configuration.
    @ivar identity: identity that the peer has proved.
    """

    peer: str
    listener: str
    identity: str | None = None


class Chunk:
    """
    Messages of one peer for one route, submitted and answered together.

    @ivar size: payload bytes.
    @ivar token: object by which the submitter knows the chunk.
    @ivar stream: stream that the messages are numbered in.
    @ivar first: the number of the first of them, or of the first of its read where that was cut by
        routes; those of the others follow.
    @ivar places: places of the messages in their read or unit, where that was cut by routes;
        C{None}: from 0 on.
    @ivar read: the read that was cut by routes; C{None}: none was.
    @ivar refusal: why all of them are refused, where that is known from the start: they only
        use their numbers up.
    @ivar generation: number of the configuration that it was read under; 0: no peer's.
    @ivar part: its place in a unit of chunks that are stored together; mostly C{None}: in none.
    """

    __slots__ = (
        *("_answered", "_left", "_runs", "_series", "first", "frames", "generation"),
        *("origin", "part", "places", "read", "received_at", "refusal", "route", "size", "stream"),
        "token",
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
        refusal: Outcome | None = None,
        generation: int = 0,
        places: Sequence[int] | None = None,
        read: GroupedRead | None = None,
    ) -> None:
        """
        @param route: the route's name.
        @param frames: one or more.
        @param received_at: seconds since the epoch.
        @param read: that was cut by routes: its caller has told the stream of all its numbers.
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
        self.refusal = refusal
        self.generation = generation
        self.places = places
        self.read = read
        self.part: UnitPart | None = None
        if stream is not None:
            # A message of the same read may have failed already, and set the stream back before it.
            valid = self.number(0) < stream.next or stream.loose
            self._series = stream.series if valid else -1
            if read is None:
                stream.note_submitted(first, len(frames))
        self._answered = answered
        self._left = len(frames)
        self._runs: list[tuple[int, int, Fate]] = []

    def settle(self, start: int, stop: int, fate: Fate) -> None:
        """Record the fate of messages C{start} to C{stop} - 1; each is settled once."""
        self._runs.append((start, stop, fate))
        self._left -= stop - start
        if self.stream is not None:
            self.stream.settle(self.first, Slice(self, start, stop).numbers, fate)
        if not self._left:
            runs = self._runs
            if len(runs) == 1:
                self._answered(self, [(stop - start, fate)])
                return
            runs.sort(key=lambda run: run[0])
            self._answered(self, [(stop - start, fate) for start, stop, fate in runs])

    def place(self, row: int) -> int:
        """Return the place of a message in its read."""
        return row if self.places is None else self.places[row]

    def number(self, row: int) -> int:
        """Return the number of a message, where it has one."""
        return self.first + self.place(row)

    @property
    def void(self) -> bool:
        """
        Whether it must not be stored any more, since an earlier message of its stream was not.
        """
        return self.stream is not None and self._series != self.stream.series

    def abandon(self, outcome: Outcome) -> None:
        """Settle all messages that are not settled yet."""
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
        return self.chunk.number(self.start)

    @property
    def last(self) -> int:
        """The number of the last message, where it has one."""
        return self.chunk.number(self.stop - 1)

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the messages, where they have some, ascending; a range in most cases."""
        chunk, start, stop = self
        first, places = chunk.first, chunk.places
        if places is None:
            return range(first + start, first + stop)
        return [first + place for place in places[start:stop]]

    def consecutive(self) -> Sequence[Slice]:
        """Cut into slices whose messages have consecutive numbers; it is one in most cases."""
        chunk, start, stop = self
        if chunk.places is None or chunk.stream is None:
            return (self,)
        numbers = self.numbers
        pieces: list[Slice] = []
        for row in range(start, stop):
            if row + 1 == stop or numbers[row + 1 - start] != numbers[row - start] + 1:
                pieces.append(Slice(chunk, start if not pieces else pieces[-1].stop, row + 1))
        return pieces


@dataclass(frozen=True, slots=True)
class Fence:
    """
    Fence of a batch, which makes it storable only once: its number on its lane.

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

    @property
    def next(self) -> Fence:
        """The fence of the batch behind this one."""
        return Fence(self.lane, self.number + 1)


class Refusal(NamedTuple):
    """
    A row that is not stored; its answer is given when its batch is committed.

    @ivar row: index of the message in the chunk.
    @ivar dead_letter: whether it is kept as a dead letter, in the same commit.
    @ivar counts: whether its stream moves past it with the batch; else it has, or never will.
    """

    chunk: Chunk
    row: int
    outcome: Outcome
    dead_letter: bool = False
    counts: bool = True

    @property
    def number(self) -> int:
        """The message's number in its stream, where it has one."""
        return self.chunk.number(self.row)

    @property
    def stream(self) -> Stream | None:
        """The stream whose mark moves past this row with the batch; C{None} for none."""
        return self.chunk.stream if self.counts else None


class Batch:
    """
    Rows of one route that one statement stores, in order.

    @ivar slices: the rows to be stored.
    @ivar count: number of these.
    @ivar refusals: rows that are refused by the commit that stores the others.
    @ivar numbered: whether some of the rows have numbers in a stream.
    """

    __slots__ = ("_moves", "count", "numbered", "refusals", "route", "slices")

    def __init__(self, route: str, slices: list[Slice], refusals: Sequence[Refusal] = ()) -> None:
        self.route = route
        self.slices = slices
        self.refusals = refusals
        count, numbered = 0, False
        for chunk, start, stop in slices:
            count += stop - start
            if chunk.stream is not None:
                numbered = True
        self.count = count
        if refusals and not numbered:
            numbered = any(refusal.chunk.stream is not None for refusal in refusals)
        self.numbered = numbered
        self._moves: list[StreamMark] | None = None

    @property
    def streams(self) -> frozenset[str]:
        """Names of the streams that have messages in the batch; mostly none."""
        if not self.numbered:
            return frozenset()
        names = [chunk.stream.name for chunk, _, _ in self.slices if chunk.stream is not None]
        if self.refusals:
            names += [r.stream.name for r in self.refusals if r.stream is not None]
        return frozenset(names)

    @property
    def moves(self) -> Sequence[StreamMark]:
        """The new mark of each stream that has messages in the batch; mostly none."""
        if self._moves is None:
            self._moves = stream_marks([self]) if self.numbered else []
        return self._moves

    @property
    def void(self) -> bool:
        """Whether some rows must not be stored any more, see L{Chunk.void}."""
        return self.numbered and (
            any(chunk.void for chunk, _, _ in self.slices)
            or any(refusal.chunk.void for refusal in self.refusals)
        )

    @property
    def dead_letters(self) -> Sequence[Refusal]:
        """The refused rows that become dead letters."""
        return [refusal for refusal in self.refusals if refusal.dead_letter]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Batch:
        """Make a batch of whole chunks that are all of one route."""
        slices = [Slice(chunk, 0, len(chunk.frames)) for chunk in chunks if chunk.refusal is None]
        refusals: list[Refusal] = []
        if len(slices) < len(chunks):
            refusals += [
                Refusal(chunk, row, chunk.refusal)
                for chunk in chunks
                if chunk.refusal is not None
                for row in range(len(chunk.frames))
            ]
        return cls(chunks[0].route, slices, refusals)

    @classmethod
    def by_route(cls, chunks: Sequence[Chunk]) -> list[Batch]:
        """
        Make a batch of whole chunks for each route, in the order in which the routes first appear.
        """
        if len(chunks) == 1:
            return [cls.of(chunks)]
        routes: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            routes.setdefault(chunk.route, []).append(chunk)
        return [cls.of(of_route) for of_route in routes.values()]

    def settle(self, runs: Sequence[Run]) -> None:
        """
        Record the fate of all rows, and of the refused ones.

        @param runs: of all rows to be stored, in order.
        """
        self._settle_rows(runs)
        for refusal in self.refusals:
            refusal.chunk.settle(refusal.row, refusal.row + 1, refusal.outcome)

    def fail(self, outcome: Outcome) -> None:
        """Give all rows, refused ones too, one outcome: they were not stored."""
        if self.count:
            self._settle_rows([(self.count, outcome)])
        for refusal in self.refusals:
            refusal.chunk.settle(refusal.row, refusal.row + 1, outcome)

    def _settle_rows(self, runs: Sequence[Run]) -> None:
        if len(runs) == 1 and not isinstance(runs[0][1], Returned):
            # The fate of nearly every batch.
            whole = runs[0][1]
            for chunk, start, stop in self.slices:
                chunk.settle(start, stop, whole)
            return
        waiting = iter(runs)
        count, fate = next(waiting, (0, None))
        done = 0
        for chunk, start, stop in self.slices:
            while start < stop:
                if done == count:
                    count, fate = next(waiting)
                    done = 0
                assert fate is not None
                take = min(count - done, stop - start)
                chunk.settle(start, start + take, part(fate, done, done + take))
                start += take
                done += take

    def halves(self) -> tuple[Batch, Batch]:
        """Split two or more rows into batches of about the same number, the earlier rows first."""
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
        # A refused row goes to the half where its stream's numbers stay consecutive.
        starts: dict[str, int] = {}
        for piece in second:
            if piece.chunk.stream is not None:
                name = piece.chunk.stream.name
                starts[name] = min(starts.get(name, piece.first), piece.first)
        later = [
            refusal.stream is not None and refusal.number > starts.get(refusal.stream.name, inf)
            for refusal in self.refusals
        ]
        return (
            Batch(self.route, first, [*compress(self.refusals, map(not_, later))]),
            Batch(self.route, second, [*compress(self.refusals, later)]),
        )

    def only(self, rows: Sequence[int]) -> Batch:
        """
        Make a batch of some of the rows.

        @param rows: ascending, one or more.
        """
        slices: list[Slice] = []
        base = 0
        wanted = iter(rows)
        row = next(wanted, None)
        for chunk, start, stop in self.slices:
            while row is not None and row < base + stop - start:
                place = start + row - base
                slices.append(Slice(chunk, place, place + 1))
                row = next(wanted, None)
            base += stop - start
        return Batch(self.route, slices)

    def refuse(
        self, faults: Sequence[tuple[int, Outcome]], dead_letter: bool = False
    ) -> Batch | None:
        """
        Take the rows at fault out of the batch.

        A row that has a number and is refused for good uses its number up: it is answered when the
        commit that records this is done. Every other row at fault is answered at once.

        @param faults: (row of the batch, its outcome), ascending.
        @param dead_letter: whether refused rows become dead letters in that commit, with a number
            or without.
        @return: the batch without them; C{None} where nothing is left.
        """
        left: list[Slice] = []
        refusals = [*self.refusals]
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
                if outcome.word is Word.REJ and (chunk.stream is not None or dead_letter):
                    refusals.append(Refusal(chunk, row, outcome, dead_letter))
                else:
                    chunk.settle(row, row + 1, outcome)
                begin = row + 1
                at += 1
            if begin < stop:
                left.append(Slice(chunk, begin, stop))
            base += rows
        return Batch(self.route, left, refusals) if left or refusals else None

    def stream_of(self, row: int) -> Stream | None:
        """
        Return the stream in which a row has its number; C{None}: it has no number.

        @param row: index among the rows to be stored.
        @raise IndexError: there is no such row.
        """
        for chunk, start, stop in self.slices:
            row -= stop - start
            if row < 0:
                return chunk.stream
        raise IndexError("the batch has no such row")

    def parted(self, streams: Collection[str]) -> tuple[Batch | None, Batch | None]:
        """Split into the rows of some streams and all others; C{None} where there are none."""
        slices: tuple[list[Slice], list[Slice]] = ([], [])
        refusals: tuple[list[Refusal], list[Refusal]] = ([], [])
        for piece in self.slices:
            stream = piece.chunk.stream
            slices[stream is None or stream.name not in streams].append(piece)
        for refusal in self.refusals:
            stream = refusal.stream
            refusals[stream is None or stream.name not in streams].append(refusal)
        theirs, others = (
            Batch(self.route, some, refused) if some or refused else None
            for some, refused in zip(slices, refusals, strict=True)
        )
        return theirs, others

    def settle_streams(self, streams: Collection[str], outcome: Outcome) -> Batch | None:
        """
        Settle all rows of some streams, refused ones too, and take them out.

        @return: the batch without them; C{None} where nothing is left.
        """
        theirs, others = self.parted(streams)
        if theirs is not None:
            theirs.fail(outcome)
        return others

    def without_void(self) -> Batch | None:
        """
        Settle the rows that must not be stored any more (see L{Chunk.void}) and take them out.

        @return: the batch without them; C{None} where nothing is left.
        """
        if not self.void:
            return self
        left, refusals = [], []
        for piece in self.slices:
            if piece.chunk.void and piece.chunk.stream is not None:
                piece.chunk.stream.back_to(piece.first)
                piece.chunk.settle(piece.start, piece.stop, piece.chunk.stream.gap())
            else:
                left.append(piece)
        for refusal in self.refusals:
            if refusal.chunk.void and refusal.chunk.stream is not None:
                refusal.chunk.stream.back_to(refusal.number)
                gap = refusal.chunk.stream.gap()
                refusal.chunk.settle(refusal.row, refusal.row + 1, gap)
            else:
                refusals.append(refusal)
        return Batch(self.route, left, refusals) if left or refusals else None


class StreamMark(NamedTuple):
    """
    Move of a stream's mark from just before C{first} to C{last}.

    @ivar digests: of all messages, L{gateway.model.stream.DIGEST} bytes for each.
    @ivar refused: number -> outcome, of the messages that are not stored.
    @ivar unbroken: whether the numbers are in a row, each of them once.
    @ivar whole: whether the rows to be stored are in the order of their numbers, too, over all the
        batches.
    """

    stream: Stream
    first: int
    last: int
    digests: bytes
    refused: Mapping[int, Outcome]
    unbroken: bool
    whole: bool


def stream_marks(batches: Sequence[Batch]) -> list[StreamMark]:
    """
    Return the mark moves of batches that share a commit, one for each stream and epoch.

    They are sorted in one order for all commits: else two commits could wait for each other.
    """
    pieces: dict[tuple[str, str], list[tuple[int, Sequence[bytes], Outcome | None, Stream]]] = {}
    for batch in batches:
        for piece in batch.slices:
            stream = piece.chunk.stream
            if stream is not None:
                parts = pieces.setdefault((stream.name, stream.epoch), [])
                parts += [(run.first, run.frames, None, stream) for run in piece.consecutive()]
        for refusal in batch.refusals:
            stream = refusal.stream
            if stream is not None:
                refused_one = [refusal.chunk.frames[refusal.row]]
                pieces.setdefault((stream.name, stream.epoch), []).append(
                    (refusal.number, refused_one, refusal.outcome, stream)
                )
    moves = []
    for key in sorted(pieces):
        parts = sorted(pieces[key], key=itemgetter(0))
        after = first = parts[0][0]
        rows = [part[0] for part in pieces[key] if part[2] is None]
        unbroken = True
        refused: dict[int, Outcome] = {}
        frames: list[bytes] = []
        for number, some, outcome, _ in parts:
            unbroken = unbroken and number == after
            after = max(after, number + len(some))
            frames += some
            if outcome is not None:
                refused[number] = outcome
        whole = unbroken and rows == sorted(rows)
        stream, digests = parts[0][3], digests_of(frames)
        move = StreamMark(stream, first, after - 1, digests, refused, unbroken, whole)
        moves.append(move)
    return moves
