"""
A Store that keeps messages in memory: the fake beside the real one.

For the tests of everything above the Store port. It passes the same suite as
L{gateway.postgres.store.PostgresStore}; on top, a test can hold its commits back
and tell it what to do with the next ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from twisted.internet.defer import Deferred

from gateway.batch import Batch, Fence, Origin
from gateway.errors import OutcomeUnknown, RouteError, RowError, StoredPartly
from gateway.faults import BatchesRefused, Faults, FramesRefused
from gateway.formats.text import TextFormat
from gateway.moves import Mark, moves_of, unmoved_rows
from gateway.reply import STORED, Fate, Outcome, Run, Word, row_refused
from gateway.store import Claim, Written


@dataclass(slots=True)
class _Kept:
    """
    What is kept of a stream.
    """

    claim: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    refusals: dict[int, Outcome] = field(default_factory=dict)


class MemoryStore:
    """
    Text messages in a list.

    @ivar rows: (origin, message) of everything committed, in order of commit.
    @ivar writes: number of rows of every write, in order, failed ones too.
    @ivar poison: messages that hold one of these are refused as by a constraint.
    @ivar held: whether commits wait for L{commit}.
    @ivar failures: errors that the next writes raise instead of storing.
    @ivar closed: routes that are out of service.
    @ivar dead_letters: (message, why it was refused), in order.
    @ivar lost_replies: how many of the next writes commit, but say L{OutcomeUnknown}.
    """

    def __init__(self, held: bool = False) -> None:
        self.rows: list[tuple[Origin, bytes]] = []
        self.writes: list[int] = []
        self.poison: set[bytes] = set()
        self.held = held
        self.failures: deque[Exception] = deque()
        self.closed: set[str] = set()
        self.dead_letters: list[tuple[bytes, Outcome]] = []
        self.lost_replies = 0
        self._fences: dict[str, int] = {}
        self._last: dict[str, list[Run]] = {}
        self._streams: dict[str, _Kept] = {}
        self._waiting: deque[Deferred[None]] = deque()
        self._format = TextFormat()

    @property
    def waiting(self) -> int:
        """How many writes wait for L{commit}."""
        return len(self._waiting)

    def commit(self, which: int = 0) -> None:
        """
        Let a write go on that waits.

        @param which: 0 for the one that has waited longest.
        """
        gate = self._waiting[which]
        del self._waiting[which]
        gate.callback(None)

    async def write(self, batch: Batch, fence: Fence) -> Written:
        self.writes.append(batch.count)
        frames = self._frames(batch)
        await self._begun()
        if batch.route in self.closed:
            raise RouteError("table does not exist", "42P01")
        if (written := self._before(batch, fence)) is not None:
            return written
        self._follow(batch)
        if fence.first < fence.number and any(word in f for f in frames for word in self.poison):
            raise RowError("violates a check constraint", "23514")
        fates: list[Fate] = []
        for part in batch.slices:
            for frame in part.frames:
                if any(word in frame for word in self.poison):
                    fates.append(row_refused("violates a check constraint", "23514"))
                else:
                    fates.append(STORED)
                    self.rows.append((part.chunk.origin, frame))
        runs = [(len([*alike]), fate) for fate, alike in groupby(fates)]
        self._move_streams(batch, fates)
        return self._moved(fence, runs)

    async def write_together(self, batches: Sequence[Batch], fences: Sequence[Fence]) -> bool:
        self.writes.append(sum(batch.count for batch in batches))
        faults: list[Faults] = []
        for batch in batches:
            try:
                self._frames(batch)
            except FramesRefused as refused:
                faults.append(refused.faults)
            else:
                faults.append([])
        if any(faults):
            raise BatchesRefused(faults)
        await self._begun()
        for batch in batches:
            if batch.route in self.closed:
                raise RouteError("table does not exist", "42P01")
        rows = [
            (part.chunk.origin, frame)
            for batch in batches
            for part in batch.slices
            for frame in part.frames
        ]
        if any(word in frame for _, frame in rows for word in self.poison):
            raise RowError("violates a check constraint", "23514")
        for batch, fence in zip(batches, fences, strict=True):
            if self._before(batch, fence) is not None:
                return True
        try:
            for batch in batches:
                self._follow(batch)
        except FramesRefused:
            return False
        for batch in batches:
            self._move_streams(batch, [STORED] * batch.count)
        self.rows += rows
        for batch, fence in zip(batches, fences, strict=True):
            self._fences[fence.lane] = fence.number
            self._last[fence.lane] = [(batch.count, STORED)]
        self._reply()
        return True

    async def claim(self, fence: Fence) -> bool:
        if self.failures:
            raise self.failures.popleft()
        reached = self._fences.get(fence.lane, 0)
        self._fences[fence.lane] = fence.number + 1
        return reached == fence.number

    async def bury(self, batch: Batch, outcomes: Sequence[Outcome], fence: Fence) -> Written:
        if self.failures:
            raise self.failures.popleft()
        if (written := self._before(batch, fence)) is not None:
            return written
        frames = [frame for part in batch.slices for frame in part.frames]
        self.dead_letters += zip(frames, outcomes, strict=True)
        return self._moved(fence, [(batch.count, STORED)])

    async def recall(self, batch: Batch, fence: Fence) -> Written | None:
        return self._before(batch, fence)

    async def claim_stream(self, name: str) -> Claim:
        if self.failures:
            raise self.failures.popleft()
        kept = self._streams.setdefault(name, _Kept())
        kept.claim += 1
        return Claim(kept.claim, dict(kept.marks), dict(kept.refusals))

    async def probe(self, route: str) -> None:
        if route in self.closed:
            raise RouteError("table does not exist", "42P01")

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        if self.failures:
            raise self.failures.popleft()
        for lane in lanes:
            self._fences.pop(lane, None)

    def _frames(self, batch: Batch) -> list[bytes]:
        """
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

    def _follow(self, batch: Batch) -> None:
        """
        @raise FramesRefused: streams are not where they were expected.
        """
        marks = {}
        for move in moves_of(batch):
            kept = self._streams.setdefault(move.stream.name, _Kept())
            mark = kept.marks.get(batch.route, 0)
            claimed = move.stream.claim in (None, kept.claim)
            expected = mark < move.first if move.before is None else mark == move.before
            if not claimed or not expected:
                marks[move.stream.name] = Mark(claimed, mark)
        if marks:
            raise FramesRefused(unmoved_rows(batch, marks))

    def _move_streams(self, batch: Batch, fates: Sequence[Fate]) -> None:
        for move in moves_of(batch):
            kept = self._streams[move.stream.name]
            kept.marks[batch.route] = move.last
            kept.refusals |= move.refused
        row = 0
        for part in batch.slices:
            stream = part.chunk.stream
            for number in range(part.first, part.last + 1):
                fate = fates[row]
                row += 1
                if stream is None or stream.loose or not isinstance(fate, Outcome):
                    continue
                if fate.word is Word.REJ:
                    self._streams[stream.name].refusals[number] = fate

    async def _begun(self) -> None:
        if self.held:
            gate: Deferred[None] = Deferred()
            self._waiting.append(gate)
            await gate
        if self.failures:
            raise self.failures.popleft()

    def _before(self, batch: Batch, fence: Fence) -> Written | None:
        number = self._fences.get(fence.lane, 0)
        if fence.first <= number < fence.number:
            raise StoredPartly(number)
        if number < fence.number:
            return None
        runs = self._last[fence.lane] if number == fence.number else [(batch.count, STORED)]
        return Written(runs, True)

    def _moved(self, fence: Fence, runs: list[Run]) -> Written:
        self._fences[fence.lane] = fence.number
        self._last[fence.lane] = runs
        self._reply()
        return Written(runs, False)

    def _reply(self) -> None:
        if self.lost_replies:
            self.lost_replies -= 1
            raise OutcomeUnknown("the reply was lost")
