"""
Store over several databases: each batch goes to the database of its route.

One commit is in one database; batches that come together for several are the caller's to write one
by one. A database that is known to be away fails at once, so that what waits for it holds up
nothing else.

A numbered stream is over all of them (C{gateway/postgres/schema/0007_spread.sql}). A number is
given to a store only when all before it are settled (L{gateway.commit.writer}), so that the stream
is as far as the database that is furthest. It is claimed at home first, whose claim decides: a
claim is good if it is still the one at home after every other database has it. A later one then
comes to all of them later, and a statement of the earlier one is refused wherever it is late. So is
a claim that is late itself: each replaces the one that was there when it was begun, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from gateway.commit.places import Places
from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import StoreError, StreamBehind, TransientError, Unavailable
from gateway.model.outcome import Outcome
from gateway.model.route import HOME
from gateway.model.store import Claim, Seen, Spooled, SpreadPosition, Store, Written


class SpreadStore(Store, Protocol):
    """
    Store that is one of several.
    """

    async def spread_position(self, stream: str) -> SpreadPosition:
        """
        Tell how far a stream is in this database; nothing is changed.

        @raise StoreError: that cannot be told now.
        """

    async def claim_spread(
        self, stream: str, claim: str, before: str, epoch: str | None
    ) -> SpreadPosition:
        """
        Make a stream the caller's in this database; whatever others want to store for it here is
        refused from now on.

        @param claim: a word made up for the claim.
        @param before: the claim that it replaces; C{""}: none.
        @param epoch: C{None}: the one that it has, or a new one.
        @raise StoreError: that cannot be done now, or another claim is there; nothing is changed.
        """


class PlacedStore:
    """
    Store of batches in the databases of their routes.
    """

    def __init__(
        self,
        stores: Mapping[str, SpreadStore],
        places: Places,
        is_away: Callable[[str], bool],
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        """
        @param stores: name of each database -> the store of what is there, L{HOME} among them.
        @param is_away: says of a database whether it is known to be out of reach.
        @param new_id: makes up UUIDs of claims and epochs.
        """
        self._stores = stores
        self._places = places
        self._is_away = is_away
        self._new_id = new_id

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        written = await self._store(batch.route).write(batch, fence, patient=patient, blame=blame)
        self._note_marks([batch])
        return written

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        if self._is_mixed(batches):
            return None
        written = await self._store(batches[0].route).write_together(
            batches, fences, chunks, patient=patient, afresh=afresh
        )
        if written is not None:
            self._note_marks(batches)
        return written

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        if self._is_mixed(batches):
            raise TransientError("a unit's messages are of several databases", "")
        await self._store(batches[0].route).write_whole(
            batches, fences, chunks, patient=patient, blame=blame
        )

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        written = await self._store(batch.route).resolve(batch, fence)
        if written is not None:
            self._note_marks([batch])
        return written

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        """
        Claim a stream in all databases.

        @raise Unavailable: some database is out of reach, or another claim came first.
        """
        if spooled:
            raise Unavailable("some of its messages are in the spool, and are stored first")
        for database in self._stores:
            self._check_reached(database)
        positions = await self._of_all(lambda _, store: store.spread_position(name))
        _check_seen(positions, seen)
        word = self._new_id()
        epoch = self._new_id() if seen is None else None
        before = {database: position.claim for database, position in positions.items()}
        home = await self._stores[HOME].claim_spread(name, word, before[HOME], epoch)
        claimed = await self._of_all(
            lambda database, store: store.claim_spread(name, word, before[database], home.epoch),
            but=HOME,
        )
        now = await self._stores[HOME].spread_position(name)
        if now.claim != word:
            raise Unavailable("another connection has opened the stream")
        claimed = {HOME: home, **claimed}
        _check_seen(claimed, seen)
        refusals: dict[int, Outcome] = {}
        for position in claimed.values():
            refusals |= position.refusals
        marks = {database: position.mark for database, position in claimed.items()}
        ascending = dict(sorted(refusals.items()))
        return Claim(word, home.epoch, max(marks.values()), ascending, marks)

    async def probe(self, route: str) -> None:
        await self._store(route).probe(route)

    async def try_out(self, batch: Batch) -> bool:
        return await self._store(batch.route).try_out(batch)

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        await self._of_all(lambda _, store: store.close_lanes(lanes))

    def _store(self, route: str) -> SpreadStore:
        database = self._places.database_of(route)
        self._check_reached(database)
        return self._stores[database]

    def _check_reached(self, database: str) -> None:
        """
        @raise Unavailable: the database is known to be away.
        """
        if self._is_away(database):
            raise Unavailable(f"database {database} cannot be reached")

    def _is_mixed(self, batches: Sequence[Batch]) -> bool:
        return len({self._places.database_of(batch.route) for batch in batches}) > 1

    def _note_marks(self, batches: Sequence[Batch]) -> None:
        """Note how far streams are in the database in which batches of theirs are stored."""
        for batch in batches:
            if batch.numbered:
                database = self._places.database_of(batch.route)
                for move in batch.moves:
                    if (marks := move.stream.marks) is not None:
                        marks[database] = max(marks.get(database, 0), move.last)

    async def _of_all(
        self, ask: Callable[[str, SpreadStore], Any], but: str | None = None
    ) -> dict[str, Any]:
        """
        Ask all databases side by side.

        @param ask: (name of the database, its store) -> what to wait for.
        @param but: one that is left out.
        @raise StoreError: of the first that failed, when all have answered.
        """
        asked = {name: ask(name, store) for name, store in self._stores.items() if name != but}
        results = await side_by_side(asked)
        raise_first(results)
        return results


async def side_by_side(work: Mapping[str, Coroutine[Any, Any, Any]]) -> dict[str, Any]:
    """
    Run a coroutine for each of several databases; in place of a result there may be a
    L{StoreError}.
    """
    running = [Deferred.fromCoroutine(_outcome_of(one)) for one in work.values()]
    results = {}
    # Not gatherResults, which hides that it was cancelled, as at a stop.
    for name, (good, result) in zip(
        work, await DeferredList(running, consumeErrors=True), strict=True
    ):
        if isinstance(result, Failure) and not good:
            result.raiseException()
        results[name] = result
    return results


async def _outcome_of(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns, or the L{StoreError} that it raises."""
    try:
        return await work
    except StoreError as error:
        return error


def raise_first(results: Mapping[str, Any]) -> None:
    """
    @raise StoreError: the first among results of L{side_by_side}.
    """
    for result in results.values():
        if isinstance(result, StoreError):
            raise result


def _check_seen(positions: Mapping[str, SpreadPosition], seen: Seen | None) -> None:
    """
    @param positions: of a stream, by database.
    @raise StreamBehind: the stream is not what its peer knows, or a database has lost some of it.
    """
    if seen is None:
        return
    reached = max(position.mark for position in positions.values())
    lost = [
        f"database {database} was at #{mark} and is at #{positions[database].mark}"
        for position in positions.values()
        for database, mark in position.marks.items()
        if database in positions and positions[database].mark < mark
    ]
    if reached < seen.number or lost or seen.epoch not in ("", positions[HOME].epoch):
        raise StreamBehind(str(reached), lost[0] if lost else "")
