"""
From the spool to the store: one parcel, and what to do with the bad rows in it.

Every step is one that can be repeated: a parcel is stored behind its records'
fence and removed after that, so that dying in between stores nothing twice. A
record with bad rows is split in the spool itself, for good, before its pieces are
stored behind fences of their own. A message that is refused now was promised to be
kept, and nobody waits for an answer any more: it becomes a dead letter, whatever
its route says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import uuid4

from twisted.logger import Logger

from gateway.batch import Batch
from gateway.errors import RowError, StoredPartly
from gateway.faults import Faults, FramesRefused
from gateway.reply import Outcome, Word, refused_rows, row_refused
from gateway.spool.queue import Spool
from gateway.spool.record import Parcel, Record, pack, unpack
from gateway.store import Store, Written


class Drain:
    """
    Stores what is in the spool.

    @ivar buried: messages that became dead letters since L{forget}.
    """

    _log = Logger()

    def __init__(self, spool: Spool, store: Store) -> None:
        self.buried = 0
        self._said: set[tuple[str, str]] = set()
        self._spool = spool
        self._store = store

    async def store(self, parcel: Parcel) -> None:
        """
        Bring every message of a parcel to its end; those that are there leave the spool.

        @raise StoreError: not now; what is left is still in the spool.
        @raise SpoolError: stored, but it could not be removed; store it again.
        """
        try:
            written = await self._written(parcel)
        except (RowError, FramesRefused) as error:
            if len(parcel.records) > 1:
                await self._halve(parcel)
            elif isinstance(error, FramesRefused):
                await self._divide(parcel, error.faults)
            elif parcel.batch.count > 1:
                await self._split(parcel, parcel.batch.halves())
            else:
                await self._bury(parcel, [row_refused(str(error), error.sqlstate)])
        except StoredPartly as partly:
            stored = [r for r in parcel.records if r.number <= partly.number]
            await self.store(unpack(stored))
            await self.store(unpack(parcel.records[len(stored) :]))
        else:
            faults = refused_rows(written.runs)
            if faults:
                await self._keep(parcel, faults)
            else:
                await self._spool.remove(parcel.records)

    async def _written(self, parcel: Parcel) -> Written:
        try:
            return await self._store.write(parcel.batch, parcel.fence)
        except (FramesRefused, RowError):
            # An earlier try may have stored them, when the table or its rules were others.
            written = await self._store.recall(parcel.batch, parcel.fence)
            if written is None:
                raise
            return written

    async def _halve(self, parcel: Parcel) -> None:
        """
        Some of its records hold messages that are refused.
        """
        middle = len(parcel.records) // 2
        await self.store(unpack(parcel.records[:middle]))
        await self.store(unpack(parcel.records[middle:]))

    async def _divide(self, parcel: Parcel, faults: Faults) -> None:
        """
        Split a record of which nothing is stored.
        """
        batch = parcel.batch
        known = {row for row, outcome in faults if outcome.word is Word.DUP}
        if known:
            await self._without(parcel, known)
            return
        if len(faults) == batch.count:
            await self._bury(parcel, [outcome for _, outcome in faults])
            return
        bad = {row for row, _ in faults}
        good = [row for row in range(batch.count) if row not in bad]
        await self._split(parcel, [batch.only(good), batch.only(sorted(bad))])

    async def _without(self, parcel: Parcel, known: Collection[int]) -> None:
        """
        Some of its messages were stored by another gateway, which their stream came to.
        """
        (record,) = parcel.records
        others = [row for row in range(parcel.batch.count) if row not in known]
        if others:
            await self._split(parcel, [parcel.batch.only(others)])
        else:
            await self._spool.remove([record])

    async def _split(self, parcel: Parcel, parts: Sequence[Batch]) -> None:
        (record,) = parcel.records
        pieces = _pieces(record, parts)
        await self._spool.replace(record, pieces)
        for piece in pieces:
            await self.store(unpack([piece]))

    async def _keep(self, parcel: Parcel, faults: Faults) -> None:
        """
        A record is stored, save some rows. What was refused must not be forgotten when we
        die now: it alone stays in the spool until it is a dead letter.
        """
        (record,) = parcel.records
        (piece,) = _pieces(record, [parcel.batch.only([row for row, _ in faults])])
        await self._spool.replace(record, [piece])
        await self._bury(unpack([piece]), [outcome for _, outcome in faults])

    async def _bury(self, parcel: Parcel, outcomes: Sequence[Outcome]) -> None:
        await self._store.bury(parcel.batch, outcomes, parcel.fence)
        await self._spool.remove(parcel.records)
        self.buried += len(outcomes)
        said = (parcel.batch.route, outcomes[0].text)
        if said not in self._said:
            # A new constraint may refuse thousands for the same reason.
            self._said.add(said)
            self._log.warn(
                "spool: route {route}: refused after +QUE, kept as a dead letter, and so are"
                " those that follow for this reason: {text}",
                route=parcel.batch.route,
                text=outcomes[0].text,
            )

    def forget(self) -> int:
        """
        The spool is empty; the next time every reason is told again.

        @return: how many messages became dead letters since the last time.
        """
        buried, self.buried = self.buried, 0
        self._said.clear()
        return buried


def _pieces(record: Record, parts: Sequence[Batch]) -> list[Record]:
    """
    @return: a record for each part, on a lane of their own, in the place of the old one.
    """
    lane = str(uuid4())
    place = record.place
    pieces = []
    for number, part in enumerate(parts, 1):
        pieces.append(Record(place, record.route, lane, number, part.count, pack(part)))
        place += part.count
    return pieces
