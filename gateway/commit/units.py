"""
Commit of units: messages that are stored together or not at all, over all their routes.

Strategy: all units that a lane has gathered go in one transaction, each row stored or, where its
route keeps dead letters, kept as one in the same transaction. A try commits everything that it
holds or nothing, so whatever is known of an earlier try, writing again behind the same fences is
right, also with rows refused in between.

A unit with a key has a lane of its own, which is the key: whoever stores it again, at once or from
a spool, finds it moved, whatever routes its messages have by then. All other units share the fences
of the lane that commits them. A unit without an answer may be sent again, so one that is not stored
needs no reason: its sender hears nothing.

A spool keeps the messages of each route by themselves, so only units of one route go there: of the
others it could keep a half.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Final

from twisted.internet.task import deferLater

from gateway.commit.attempt import Attempt, Known, NextStep, retry_delay
from gateway.commit.lane_context import LaneContext
from gateway.metrics.counters import SPOOLED
from gateway.model import wording
from gateway.model.arrival import in_order
from gateway.model.batch import Batch, Chunk, Fence, Refusal, Slice
from gateway.model.errors import (
    BatchesRefused,
    BatchesStored,
    Faults,
    OrderMatters,
    RouteError,
    RowError,
    SpoolError,
    SpoolUnknown,
    StoreError,
    TransientError,
)
from gateway.model.outcome import (
    QUEUED,
    RETRY_AFTER,
    STORED,
    Code,
    Outcome,
    try_later,
)
from gateway.model.unit import Unit

_WAIT_FOR: Final = 60.0
"""
Seconds after which a unit of which it is not known whether it is stored is given up, where no spool
takes it: it is not acknowledged.
"""


class UnitCommit:
    """
    Commit of the units of one lane.
    """

    def __init__(
        self,
        context: LaneContext,
        fences: MutableMapping[str, Fence],
        troubled: Callable[[], None],
    ) -> None:
        """
        @param fences: route -> the fence of the lane's next batch; makes up those that are missing.
        @param troubled: called when a commit fails for the first time.
        """
        self._context = context
        self._fences = fences
        self._troubled = troubled

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """
        Commit all chunks of one or more units, and settle them.
        """
        for alike in _different(chunks):
            group = _Group(alike, self._fences)
            if not await self._commit(group):
                # A route of one unit must not stop the others.
                for part in group.apart():
                    await self._commit(part)

    async def _commit(self, group: _Group) -> bool:
        """
        Commit a group of units.

        @return: C{False} where its units have to be committed one by one; nothing is stored.
        """
        context = self._context
        breakers, spooler, clock = context.breakers, context.spooler, context.clock
        started = clock.seconds()
        alone = len(group.units) == 1
        attempt: Attempt | None = None
        dead_letters = group.dead_letters
        group.refuse_known(dead_letters)
        while group.batches:
            sure = attempt is None or attempt.known is Known.NOT_STORED
            if sure:
                routes = {batch.route for batch in group.batches}
                closed = next((breakers.answers[r] for r in routes if r in breakers.answers), None)
                if closed is not None:
                    if not alone:
                        return False
                    group.fail(closed)
                    return True
            if spooler is not None and spooler.may_lead and any(map(spooler.leads, group.batches)):
                if not alone and sure:
                    return False
                if group.is_spoolable:
                    if await self._spool(
                        group, attempt or context.attempt(started, numbered=False), ""
                    ):
                        return True
                elif sure:
                    group.fail(wording.UNIT_NOT_SPOOLED)
                    return True
            blame = attempt is not None and attempt.blames(clock.seconds())
            try:
                await context.store.write_whole(
                    *(group.batches, group.fences, group.chunks),
                    patient=spooler is None,
                    blame=blame,
                )
            except OrderMatters:
                if not alone and sure:
                    return False
                group.put_in_order()
                continue
            except BatchesRefused as refused:
                if refused.by_database and group.put_in_order():
                    continue
                group.refuse(refused.faults, dead_letters)
                continue
            except BatchesStored as before:
                self._stored(group, before.places, started, attempt, by_earlier_try=True)
                continue
            except StoreError as error:
                trouble = error
            else:
                places = range(len(group.batches))
                self._stored(group, places, started, attempt, by_earlier_try=False)
                return True
            bound = spooler is not None and not group.is_spoolable
            if not alone and sure and (bound or isinstance(trouble, (RouteError, RowError))):
                return False
            attempt = attempt or context.attempt(started, numbered=False)
            outcome = await self._next(group, attempt, trouble)
            if outcome is not None:
                group.fail(outcome)
                return True
        return True

    async def _next(self, group: _Group, attempt: Attempt, trouble: StoreError) -> Outcome | None:
        """
        Take the next step after a failed try, up to the point where the unit may be written again.

        @return: the outcome of all that is left where it is not written again.
        """
        context = self._context
        routes = [batch.route for batch in group.batches]
        route = trouble.route or routes[0]
        others = [other for other in dict.fromkeys(routes) if other != route]
        step = context.note_failure(attempt, route, trouble, others)
        if attempt.failures == 1:
            self._troubled()
        if step is NextStep.CLOSE_ROUTE:
            assert isinstance(trouble, RouteError)
            context.breakers.trip(route, trouble)
            return None
        if step is NextStep.RENUMBER:
            group.renumber()
            return None
        if step is NextStep.GIVE_BACK:
            return (
                wording.database_busy(trouble.sqlstate)
                if isinstance(trouble, TransientError)
                else wording.DATABASE_AWAY
            )
        spools = context.spooler is not None and group.is_spoolable
        if step is NextStep.SPOOL and spools:
            if await self._spool(group, attempt, str(trouble)):
                return None
        elif step is NextStep.SPOOL and attempt.known is Known.NOT_STORED:
            return wording.UNIT_NOT_SPOOLED
        elif not spools and context.clock.seconds() - attempt.started > _WAIT_FOR:
            # Its fences are spoilt: nobody else may be stored behind them.
            group.forget_fences()
            return wording.NOT_KNOWN_STORED
        await deferLater(context.clock, retry_delay(attempt.failures))
        return None

    def _stored(
        self,
        group: _Group,
        places: Sequence[int],
        started: float,
        attempt: Attempt | None,
        *,
        by_earlier_try: bool,
    ) -> None:
        """Settle batches that are stored, and take them out of the group."""
        for batch in group.take(places):
            runs = [(batch.count, STORED)]
            self._context.committed(batch, runs, started, attempt, by_earlier_try=by_earlier_try)
            batch.settle(runs)

    async def _spool(self, group: _Group, attempt: Attempt, reason: str) -> bool:
        """
        Put all that is left of a group into the spool.

        @return: whether it is settled; else it has to be written after all.
        """
        spooler = self._context.spooler
        assert spooler is not None
        sure = attempt.known is Known.NOT_STORED
        while group.batches:
            batch, fence = group.batches[0], group.fences[0]
            # A key's fence goes with it: it is how the unit is known when it is sent again.
            keyed = group.is_keyed(0)
            outcome = QUEUED
            try:
                if not await spooler.keep(batch, fence if keyed or not sure else None, reason):
                    return False
            except SpoolUnknown:
                outcome = wording.NOT_KNOWN_STORED
            except SpoolError as error:
                if not sure:
                    return False
                group.fail(try_later(Code.DOWN, str(error), RETRY_AFTER))
                return True
            if not sure:
                self._context.counters[batch.route].resolved[SPOOLED] += 1
            group.take([0], forget=not sure)
            if outcome is QUEUED:
                batch.settle([(batch.count, QUEUED)])
            else:
                batch.fail(outcome)
        return True


class _Group:
    """
    Units that are committed together, as batches behind fences.

    @ivar units: the chunks of each unit.
    @ivar batches: what is left to be stored.
    @ivar fences: of each batch.
    """

    def __init__(self, chunks: Sequence[Chunk], lane: MutableMapping[str, Fence]) -> None:
        """
        @param chunks: all chunks of one or more units, in order.
        @param lane: route -> the fence of the lane's next batch.
        """
        units: dict[Unit, list[Chunk]] = {}
        for chunk in chunks:
            assert chunk.part is not None
            units.setdefault(chunk.part.unit, []).append(chunk)
        self.units: Sequence[Sequence[Chunk]] = list(units.values())
        self._lane = lane
        self._keys: list[Unit | None] = []
        self.batches: list[Batch] = []
        self.fences: list[Fence] = []
        shared = [chunk for unit, own in units.items() if unit.key is None for chunk in own]
        if shared:
            self._add(None, Batch.by_route(shared))
        # In one order for all gateways: else two could wait for each other.
        for unit in sorted((u for u in units if u.key is not None), key=lambda u: u.key or ""):
            self._add(unit, Batch.by_route(units[unit]))
        self._number()
        self._ordered = False

    @property
    def dead_letters(self) -> frozenset[str]:
        """Routes whose refused messages are kept, as it was when the messages were read."""
        part = self.units[0][0].part
        assert part is not None
        return part.unit.dead_letters

    @property
    def chunks(self) -> Sequence[Chunk]:
        """All chunks in the order in which they were received; none: the batches are in it."""
        if self._ordered or len(self.batches) < 2:
            return ()
        return [chunk for unit in self.units for chunk in unit]

    @property
    def is_spoolable(self) -> bool:
        """Whether each unit has one route."""
        return all(len({chunk.route for chunk in unit}) == 1 for unit in self.units)

    def is_keyed(self, place: int) -> bool:
        """Say whether a batch is of a unit with a key."""
        return self._keys[place] is not None

    def apart(self) -> Sequence[_Group]:
        """Part what is left into groups of one unit each, in the order of the units."""
        groups = []
        for chunks in self.units:
            group = _Group(chunks, self._lane)
            assert chunks[0].part is not None
            unit = chunks[0].part.unit
            group.batches, group._keys = [], []
            parts = [_of_unit(batch, unit) for batch in self.batches]
            left = [part for part in parts if part.count or part.refusals]
            group._add(unit if unit.key is not None else None, left)
            group._ordered = self._ordered
            group._number()
            groups.append(group)
        return groups

    def _add(self, unit: Unit | None, batches: Sequence[Batch]) -> None:
        self.batches += batches
        self._keys += [unit] * len(batches)

    def _number(self) -> None:
        """Give each batch its fence: of its unit's key, or the lane's next one."""
        self.fences = []
        counts: dict[str, int] = {}
        for unit, batch in zip(self._keys, self.batches, strict=True):
            if unit is not None and unit.key is not None:
                fence = Fence(unit.key, 1)
            else:
                fence = self._lane[batch.route]
            number = counts[fence.lane] = counts.get(fence.lane, -1) + 1
            self.fences.append(Fence(fence.lane, fence.number + number))

    def put_in_order(self) -> bool:
        """
        Cut into batches that keep the order of each peer's messages over its routes.

        For rows that may have been refused only because they came too early. That an earlier try
        may still store another cut is no matter: of these fences the first to move stops the other.

        @return: C{False} where that changes nothing.
        """
        if self._ordered:
            return False
        self._ordered = True
        if len({batch.route for batch in self.batches}) < 2:
            return False
        chunks = [chunk for unit in self.units for chunk in unit]
        before, keys = self.batches, self._keys
        self.batches, self._keys = [], []
        for unit in dict.fromkeys(keys):
            own = [batch for batch, key in zip(before, keys, strict=True) if key is unit]
            self._add(unit, in_order(own, chunks))
        self._number()
        return True

    def take(self, places: Sequence[int], *, forget: bool = False) -> Sequence[Batch]:
        """
        Take batches out whose fences have moved.

        @param forget: whether the lane's fences are not used again.
        """
        taken = [self.batches[place] for place in places]
        for place in places:
            if self._keys[place] is not None:
                continue
            route, fence = self.batches[place].route, self.fences[place]
            if forget:
                self._lane.pop(route, None)
            elif self._lane[route].lane == fence.lane:
                self._lane[route] = fence.next
        self._leave([n for n in range(len(self.batches)) if n not in set(places)])
        return taken

    def renumber(self) -> None:
        """Use the lane's next fences: one of these is void."""
        for unit, batch, fence in zip(self._keys, self.batches, self.fences, strict=True):
            if unit is None and self._lane[batch.route].lane == fence.lane:
                self._lane[batch.route] = fence.next
        self._number()

    def forget_fences(self) -> None:
        """Use the lane's fences of these batches never again."""
        for unit, batch in zip(self._keys, self.batches, strict=True):
            if unit is None:
                self._lane.pop(batch.route, None)

    def fail(self, outcome: Outcome) -> None:
        """Give all that is left one outcome: it is not acknowledged."""
        batches = self.batches
        self.batches, self.fences, self._keys = [], [], []
        for batch in batches:
            batch.fail(outcome)

    def refuse_known(self, dead_letters: frozenset[str]) -> None:
        """
        Handle the messages that are not to be stored from the start.

        @param dead_letters: routes whose refused messages are kept.
        """
        cuts: list[tuple[Chunk, int, Outcome]] = []
        for place, batch in enumerate(self.batches):
            if not batch.refusals:
                continue
            if batch.route in dead_letters:
                self.batches[place] = Batch(
                    batch.route, batch.slices, [_kept(refusal) for refusal in batch.refusals]
                )
            else:
                cuts += [
                    (refusal.chunk, refusal.row, refusal.outcome) for refusal in batch.refusals
                ]
        self._cut_units(cuts)
        self._drop_empty()

    def refuse(self, faults: Sequence[Faults], dead_letters: frozenset[str]) -> None:
        """
        Take rows at fault out: as dead letters, or with all that comes behind them in their unit.

        @param faults: of each batch.
        @param dead_letters: routes whose refused messages are kept.
        """
        cuts = []
        for place, (batch, of_batch) in enumerate(zip(self.batches, faults, strict=True)):
            if not of_batch:
                continue
            if batch.route in dead_letters:
                kept = [(row, replace(outcome, dead_letter=True)) for row, outcome in of_batch]
                left = batch.refuse(kept, dead_letter=True)
                assert left is not None
                self.batches[place] = left
                continue
            for row, outcome in of_batch:
                (piece,) = batch.only([row]).slices
                cuts.append((piece.chunk, piece.start, outcome))
        self._cut_units(cuts)
        self._drop_empty()

    def _cut_units(self, cuts: Sequence[tuple[Chunk, int, Outcome]]) -> None:
        """
        Take messages out of their units, with all that comes behind them; of a unit with a key
        everything.

        @param cuts: messages that are refused and not kept.
        """
        first: dict[Unit, tuple[int, Outcome]] = {}
        for chunk, row, outcome in cuts:
            assert chunk.part is not None
            unit, place = chunk.part.unit, chunk.place(row)
            if unit not in first or place < first[unit][0]:
                first[unit] = place, outcome
        if not first:
            return
        for place, batch in enumerate(self.batches):
            slices: list[Slice] = []
            refusals: list[Refusal] = []
            for piece in batch.slices:
                slices += _before(piece, first)
            for refusal in batch.refusals:
                if _before(Slice(refusal.chunk, refusal.row, refusal.row + 1), first):
                    refusals.append(refusal)
            self.batches[place] = Batch(batch.route, slices, refusals)

    def _drop_empty(self) -> None:
        self._leave([n for n, batch in enumerate(self.batches) if batch.count or batch.refusals])

    def _leave(self, places: Sequence[int]) -> None:
        self.batches = [self.batches[place] for place in places]
        self.fences = [self.fences[place] for place in places]
        self._keys = [self._keys[place] for place in places]


def _of_unit(batch: Batch, unit: Unit) -> Batch:
    """Return the rows of a batch that are of a unit."""

    def is_of_unit(piece: Slice | Refusal) -> bool:
        part = piece.chunk.part
        return part is not None and part.unit is unit

    return Batch(
        batch.route,
        [piece for piece in batch.slices if is_of_unit(piece)],
        [refusal for refusal in batch.refusals if is_of_unit(refusal)],
    )


def _different(chunks: Sequence[Chunk]) -> Sequence[Sequence[Chunk]]:
    """
    Part chunks so that units with the same key come one after the other: a sender that connects
    anew sends again what is still waiting.
    """
    parts: list[list[Chunk]] = []
    seen: dict[str, int] = {}
    places: dict[Unit, int] = {}
    for chunk in chunks:
        assert chunk.part is not None
        unit = chunk.part.unit
        if unit not in places:
            place = 0
            if unit.key is not None:
                place = seen.get(unit.key, -1) + 1
                seen[unit.key] = place
            places[unit] = place
        while len(parts) <= places[unit]:
            parts.append([])
        parts[places[unit]].append(chunk)
    return parts


def _before(piece: Slice, cuts: dict[Unit, tuple[int, Outcome]]) -> Sequence[Slice]:
    """
    Return what of a slice comes before the cut of its unit; settle the rest.

    @param cuts: unit -> place of the message that is refused, and why.
    """
    chunk, start, stop = piece
    assert chunk.part is not None and chunk.places is not None
    cut = cuts.get(chunk.part.unit)
    if cut is None:
        return [piece]
    place, outcome = cut
    row = bisect_left(chunk.places, place)
    end = start if chunk.part.unit.key is not None else min(max(row, start), stop)
    if end <= row < stop and chunk.places[row] == place:
        if end < row:
            chunk.settle(end, row, wording.BEHIND_REFUSED)
        chunk.settle(row, row + 1, outcome)
        if row + 1 < stop:
            chunk.settle(row + 1, stop, wording.BEHIND_REFUSED)
    elif end < stop:
        chunk.settle(end, stop, wording.BEHIND_REFUSED)
    return [Slice(chunk, start, end)] if start < end else []


def _kept(refusal: Refusal) -> Refusal:
    """Make a refusal one that is kept as a dead letter."""
    return refusal._replace(outcome=replace(refusal.outcome, dead_letter=True), dead_letter=True)
