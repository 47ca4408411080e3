"""
Store that keeps messages in memory: the fake beside the real one.

For the tests of everything above the Store port. It passes the same suite as
L{gateway.postgres.store.store.PostgresStore}; on top, a test can hold its commits back
and choose the fate of the next ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress, groupby
from operator import itemgetter
from uuid import uuid4

from twisted.internet.defer import Deferred

from gateway.model.arrival import arrival
from gateway.model.batch import Batch, Chunk, Fence, Origin, StreamMark, stream_marks
from gateway.model.errors import (
    BatchesRefused,
    BatchesStored,
    Faults,
    FenceVoid,
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    RowError,
    StoredPartly,
    StreamBehind,
    StreamsElsewhere,
    TransientError,
)
from gateway.model.outcome import STORED, Fate, Outcome, Run, Word, refused_rows, row_refused
from gateway.model.route import HOME
from gateway.model.store import Claim, Seen, Spooled, SpreadPosition, Written, first_of, reached
from gateway.model.stream import DIGEST
from gateway.model.stream_marks import StreamPosition
from gateway.model.unit import is_unit_key
from gateway.sql.joined import TextFormat


@dataclass(slots=True)
class KeptStream:
    """
    State of a stream.

    @ivar digests: number -> checksum of the message.
    @ivar marks: for a stream over several databases, what their marks were at the last write;
        C{None}: this one has all.
    """

    claim: str = ""
    epoch: str = ""
    mark: int = 0
    refusals: dict[int, Outcome] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    marks: dict[str, int] | None = None


class MemoryStore:
    """
    Store that keeps text messages in a list.

    @ivar rows: (origin, message) of everything committed, in order of commit.
    @ivar writes: number of rows of every write, in order, failed ones too.
    @ivar poison: messages that hold one of these are refused as by a constraint.
    @ivar odd: messages that hold one of these fail for a reason that names no row.
    @ivar held: whether commits wait for L{commit}.
    @ivar failures: errors that the next writes raise instead of storing.
    @ivar dead_letter_failures: errors that the next writes raise that keep dead letters.
    @ivar streams: state of each stream.
    @ivar closed: routes that are out of service.
    @ivar dead_letters: (message, why it was refused), in order.
    @ivar lost_replies: how many of the next writes commit, but raise L{OutcomeUnknown}.
    """

    def __init__(
        self,
        held: bool = False,
        word: Callable[[], str] = lambda: str(uuid4()),
        database: str = HOME,
    ) -> None:
        """
        @param word: makes up epochs and claims.
        @param database: name of the database, where there are several.
        """
        self._word = word
        self._database = database
        self.rows: list[tuple[Origin, bytes]] = []
        self.writes: list[int] = []
        self.poison: set[bytes] = set()
        self.odd: set[bytes] = set()
        self.held = held
        self.failures: deque[Exception] = deque()
        self.dead_letter_failures: deque[Exception] = deque()
        self.closed: set[str] = set()
        self.dead_letters: list[tuple[bytes, Outcome]] = []
        self.lost_replies = 0
        self._passed: set[str] = set()
        self._fences: dict[str, int] = {}
        self._last: dict[str, list[Run] | None] = {}  # None: void
        self.streams: dict[str, KeptStream] = {}
        self._waiting: deque[Deferred[None]] = deque()
        self._format = TextFormat()

    @property
    def waiting_writes(self) -> int:
        """Number of writes that wait for L{commit}."""
        return len(self._waiting)

    def commit(self, which: int = 0) -> None:
        """
        Let a waiting write go on.

        @param which: 0 for the one that has waited longest.
        """
        gate = self._waiting[which]
        del self._waiting[which]
        gate.callback(None)

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        self.writes.append(batch.count)
        self._frames(batch)
        await self._begun()
        if batch.dead_letters and self.dead_letter_failures:
            raise self.dead_letter_failures.popleft()
        if batch.count and batch.route in self.closed:
            raise RouteError("table does not exist", "42P01")
        if (written := self._before(batch, fence)) is not None:
            return written
        self._follow(batch.moves)
        fates = self._fates_of(batch)
        if fence.first < fence.number and (refused := refused_rows(_runs_of(fates))):
            raise RowError(refused[0][1].text, refused[0][1].sqlstate)
        self._store([batch], [fates], arrival([batch], ()))
        self._keep_dead_letters(batch)
        runs = _runs_of(fates)
        self._move_streams(batch.moves)
        self._remember(batch, fates)
        return self._moved(fence, runs)

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        self.writes.append(sum(batch.count for batch in batches))
        faults = [self._faults(batch) for batch in batches]
        if any(faults):
            raise BatchesRefused(faults)
        await self._begun()
        for batch in batches:
            if batch.count and batch.route in self.closed:
                raise RouteError("table does not exist", "42P01")
            if batch.dead_letters and self.dead_letter_failures:
                raise self.dead_letter_failures.popleft()
        try:
            before = [self._before(*both) for both in zip(batches, fences, strict=True)]
        except (FenceVoid, StoredPartly):
            if afresh:
                return None
            raise
        known = [written for written in before if written is not None]
        if known:
            return known if len(known) == len(batches) and not afresh else None
        fates = [self._fates_of(batch) for batch in batches]
        if afresh and any(fate is not STORED for of_batch in fates for fate in of_batch):
            raise RowError("violates a check constraint", "23514")
        moves = stream_marks(batches)
        try:
            self._follow(moves)
        except StreamsElsewhere:
            return None
        self._move_streams(moves)
        self._store(batches, fates, arrival(batches, chunks))
        everything = []
        for batch, fence, of_batch in zip(batches, fences, fates, strict=True):
            self._keep_dead_letters(batch)
            self._remember(batch, of_batch)
            runs = _runs_of(of_batch)
            self._fences[fence.lane] = fence.number
            self._last[fence.lane] = runs
            everything.append(Written(runs, False))
        self._reply()
        return everything

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        self.writes.append(sum(batch.count for batch in batches))
        faults = [self._faults(batch) for batch in batches]
        if any(faults):
            raise BatchesRefused(faults)
        await self._begun()
        for batch in batches:
            if batch.count and batch.route in self.closed:
                error = RouteError("table does not exist", "42P01")
                error.route = batch.route
                raise error
            if batch.dead_letters and self.dead_letter_failures:
                raise self.dead_letter_failures.popleft()
        before = [
            place
            for place, fence in enumerate(fences)
            if self._fences.get(fence.lane, 0) >= first_of(fence, fences)
        ]
        if before:
            for place in before:
                fence = fences[place]
                if self._last[fence.lane] is None and not is_unit_key(fence.lane):
                    raise FenceVoid(fence.number)
            raise BatchesStored(before)
        faults = [self._refused(batch) for batch in batches]
        if any(faults):
            raise BatchesRefused(faults, by_database=True)
        for batch, fence in zip(batches, fences, strict=True):
            for part in batch.slices:
                self._passed.add(batch.route)
                self.rows += [(part.chunk.origin, frame) for frame in part.frames]
            self._keep_dead_letters(batch)
            self._fences[fence.lane] = fence.number
            self._last[fence.lane] = [(batch.count, STORED)]
        self._reply()

    def _fates_of(self, batch: Batch) -> list[Fate]:
        """
        Judge each row.

        @raise TransientError: all of them fail, for a reason that names none.
        """
        frames = [frame for part in batch.slices for frame in part.frames]
        odd = [any(word in frame for word in self.odd) for frame in frames]
        if odd and all(odd) and batch.route not in self._passed:
            raise TransientError("internal error", "XX000")
        fates: list[Fate] = []
        for frame, is_odd in zip(frames, odd, strict=True):
            if any(word in frame for word in self.poison):
                fates.append(row_refused("violates a check constraint", "23514"))
            elif is_odd:
                fates.append(row_refused("internal error", "XX000"))
            else:
                fates.append(STORED)
        return fates

    def _store(
        self,
        batches: Sequence[Batch],
        fates: Sequence[Sequence[Fate]],
        places: Sequence[Sequence[int]],
    ) -> None:
        """
        Keep the rows that are not refused.

        @param places: of each batch's rows, in the order in which all are kept.
        """
        stored: list[tuple[int, tuple[Origin, bytes]]] = []
        for batch, of_batch, where in zip(batches, fates, places, strict=True):
            rows = [(part.chunk.origin, frame) for part in batch.slices for frame in part.frames]
            good = [fate is STORED for fate in of_batch]
            stored += compress(zip(where, rows, strict=True), good)
            if any(good):
                self._passed.add(batch.route)
        self.rows += [row for _, row in sorted(stored, key=itemgetter(0))]

    def _refused(self, batch: Batch) -> Faults:
        """Return the rows that the database would refuse."""
        frames = [frame for part in batch.slices for frame in part.frames]
        return [
            (row, row_refused("violates a check constraint", "23514"))
            for row, frame in enumerate(frames)
            if any(word in frame for word in self.poison)
        ]

    def _faults(self, batch: Batch) -> Faults:
        """Return the messages that are no text."""
        try:
            self._frames(batch)
        except FramesRefused as refused:
            return refused.faults
        return []

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        if self.failures:
            raise self.failures.popleft()
        try:
            written = self._before(batch, fence)
        except FenceVoid as void:
            if void.number != fence.number:
                raise
            return None
        if written is None:
            self._fences[fence.lane] = fence.number
            self._last[fence.lane] = None
        return written

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        if self.failures:
            raise self.failures.popleft()
        kept = self.streams.get(name) or KeptStream()
        if kept.marks is not None:
            raise TransientError("the stream is spread over several databases", "55006")
        epoch = kept.epoch
        begun = [key for key, waiting in spooled.items() if waiting and waiting[0][0] == 1]
        if not epoch and not kept.mark and len(begun) == 1:
            epoch = begun[0]
        waiting = sorted([*spooled.get(epoch, ()), *spooled.get("", ())])
        end = reached(kept.mark, waiting)
        if seen is None:
            if end == kept.mark or any(last > end for _, last in waiting):
                epoch = ""
        elif end < seen.number or (seen.epoch and seen.epoch != epoch):
            raise StreamBehind(str(end))
        self.streams[name] = kept
        kept.epoch = epoch or self._word()
        kept.claim = self._word()
        return Claim(kept.claim, kept.epoch, kept.mark, dict(kept.refusals))

    async def spread_position(self, stream: str) -> SpreadPosition:
        if self.failures:
            raise self.failures.popleft()
        kept = self.streams.get(stream) or KeptStream()
        return SpreadPosition(kept.claim, kept.epoch, kept.mark, dict(kept.marks or {}), {})

    async def claim_spread(
        self, stream: str, claim: str, before: str, epoch: str | None
    ) -> SpreadPosition:
        if self.failures:
            raise self.failures.popleft()
        if stream in self.streams and self.streams[stream].claim != before:
            raise TransientError("another connection has opened the stream", "40001")
        kept = self.streams.setdefault(stream, KeptStream())
        if kept.marks is None or (epoch is not None and epoch != kept.epoch):
            kept.marks = {}
        kept.claim = claim
        kept.epoch = epoch or kept.epoch or self._word()
        return SpreadPosition(claim, kept.epoch, kept.mark, dict(kept.marks), dict(kept.refusals))

    async def try_out(self, batch: Batch) -> bool:
        bad = self.poison | self.odd
        frames = [frame for part in batch.slices for frame in part.frames]
        if batch.route in self.closed or all(any(w in f for w in bad) for f in frames):
            return False
        self._passed.add(batch.route)
        return True

    async def probe(self, route: str) -> None:
        if route in self.closed:
            raise RouteError("table does not exist", "42P01")

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        if self.failures:
            raise self.failures.popleft()
        for lane in lanes:
            if not is_unit_key(lane):
                self._fences.pop(lane, None)

    def _frames(self, batch: Batch) -> list[bytes]:
        """
        Return the messages of a batch.

        @raise FramesRefused: some are not text.
        """
        frames: list[bytes] = []
        faults: Faults = []
        for part in batch.slices:
            try:
                self._format.encode(part.frames)
            except FramesRefused as refused:
                faults += [(len(frames) + i, outcome) for i, outcome in refused.faults]
            frames += part.frames
        if faults:
            raise FramesRefused(faults)
        return frames

    def _follow(self, moves: Sequence[StreamMark]) -> None:
        """
        Check that each stream's mark is just before its messages.

        @raise StreamsElsewhere: some are elsewhere.
        """
        stream_positions = {}
        for move in moves:
            name, claim, epoch = move.stream.name, move.stream.claim, move.stream.epoch
            kept = self.streams.get(name)
            if kept is None and claim is None and move.first == 1:
                kept = KeptStream()
            claimed = claim is None or (kept is not None and claim == kept.claim)
            current = kept is None or epoch == "" or kept.epoch in ("", epoch)
            mark = 0 if kept is None else kept.mark
            is_next = mark == move.first - 1
            if (marks := move.stream.marks) is not None:
                is_next = mark == marks.get(self._database, 0) and mark < move.first
            elif claim is None and kept is not None and kept.marks is not None:
                current = False
            if kept is None or not (claimed and current and is_next):
                known = {} if kept is None or claim is not None else kept.digests
                digests = b"".join(
                    known.get(n, bytes(DIGEST)) for n in range(move.first, move.last + 1)
                )
                stream_positions[name] = StreamPosition(claimed, current, mark, move.first, digests)
        if stream_positions:
            raise StreamsElsewhere(stream_positions)

    def _move_streams(self, moves: Sequence[StreamMark]) -> None:
        for move in moves:
            kept = self.streams.setdefault(move.stream.name, KeptStream())
            kept.epoch = kept.epoch or move.stream.epoch
            kept.mark = move.last
            if move.stream.marks is not None:
                kept.marks = {**move.stream.marks, self._database: move.last}
            kept.refusals |= move.refused
            for place, number in enumerate(range(move.first, move.last + 1)):
                kept.digests[number] = move.digests[place * DIGEST : (place + 1) * DIGEST]

    def _keep_dead_letters(self, batch: Batch) -> None:
        for refusal in batch.dead_letters:
            frame = refusal.chunk.frames[refusal.row]
            self.dead_letters.append((frame, refusal.outcome))

    def _remember(self, batch: Batch, fates: Sequence[Fate]) -> None:
        row = 0
        for part in batch.slices:
            stream = part.chunk.stream
            for number in part.numbers:
                fate = fates[row]
                row += 1
                if stream is None or stream.loose or not isinstance(fate, Outcome):
                    continue
                if fate.word is Word.REJ:
                    self.streams[stream.name].refusals[number] = fate

    async def _begun(self) -> None:
        if self.held:
            gate: Deferred[None] = Deferred()
            self._waiting.append(gate)
            await gate
        if self.failures:
            raise self.failures.popleft()

    def _before(self, batch: Batch, fence: Fence) -> Written | None:
        number = self._fences.get(fence.lane, 0)
        if fence.first <= number <= fence.number and self._last[fence.lane] is None:
            raise FenceVoid(number)
        if fence.first <= number < fence.number:
            raise StoredPartly(number)
        if number < fence.number:
            return None
        runs = self._last[fence.lane] if number == fence.number else None
        return Written(runs or [(batch.count, STORED)], True)

    def _moved(self, fence: Fence, runs: list[Run]) -> Written:
        self._fences[fence.lane] = fence.number
        self._last[fence.lane] = runs
        self._reply()
        return Written(runs, False)

    def _reply(self) -> None:
        if self.lost_replies:
            self.lost_replies -= 1
            raise OutcomeUnknown("the reply was lost")


def _runs_of(fates: Sequence[Fate]) -> list[Run]:
    return [(len([*alike]), fate) for fate, alike in groupby(fates)] or [(0, STORED)]
