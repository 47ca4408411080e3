"""
Store on PostgreSQL: one statement and one round trip a batch.

L{gateway.postgres.store.route_cache} builds the statement of a route,
L{gateway.postgres.store.executor} runs statements.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.config.load import Database
from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import (
    FenceVoid,
    FramesRefused,
    OutcomeUnknown,
    RouteError,
    RowError,
    StoredPartly,
    StoreError,
    StreamsElsewhere,
    TransientError,
)
from gateway.model.outcome import STORED, Run, refused_rows, row_refused
from gateway.model.route import Route
from gateway.model.store import Claim, Seen, Spooled, SpreadPosition, Written
from gateway.model.stream import KEPT_REFUSALS
from gateway.model.unit import is_unit_key
from gateway.postgres.connect.connection import Connection, Rows
from gateway.postgres.connect.driver_errors import SlowRow, StoredBefore, StreamsUnmoved
from gateway.postgres.connect.pool import Pool
from gateway.postgres.store.durability import weaknesses
from gateway.postgres.store.executor import StatementExecutor, WriteOptions, passes, route_fault
from gateway.postgres.store.route_cache import Definition, RouteCache
from gateway.postgres.store.several import BatchBinder, CommitParts
from gateway.postgres.store.together import TogetherCommit
from gateway.postgres.store.whole import WholeCommit
from gateway.sql.block import Blame
from gateway.sql.fates import VOID, runs_of
from gateway.sql.literals import Values
from gateway.sql.sqlstate import CANCELLED, TIMEOUT_MESSAGE
from gateway.sql.statement import Binding, Bound, Insert
from gateway.sql.streams import (
    CLAIM_SPREAD,
    CLAIM_STREAM,
    SPREAD_POSITION,
    refusals_of,
    stream_positions_of,
)

DEADLINE_MARGIN = 5.0
"""
Seconds that a statement may take beyond C{statement_timeout} before its connection
is closed: the server should be the one to give up, that costs no connection.
"""


ABANDONED: Final = 90 * 86400.0
"""
Seconds since it last moved after which a lane is nobody's any more. No batch whose
fate is open is held for so long by a gateway that runs, see L{gateway.commit.attempt.OPEN_FOR}; a
spool is to be emptied before it is that old.
"""

_FORGET: Final = "DELETE FROM gateway.lane WHERE id = ANY(%s::uuid[])"
_FORGET_ABANDONED: Final = (
    "DELETE FROM gateway.lane WHERE moved_at < now() - make_interval(secs => %s)"
)
MOST_UNITS: Final = 1_000_000
"""Units that are remembered at most; each takes about 400 bytes of the database."""

_FORGET_UNITS: Final = """
    DELETE FROM gateway.lane WHERE id IN (
        SELECT id FROM (
            SELECT id, moved_at, row_number() OVER (ORDER BY moved_at DESC) AS place
              FROM gateway.lane WHERE substr(id::text, 15, 1) = '8') AS units
         WHERE moved_at < now() - make_interval(secs => %s) OR place > %s)
    RETURNING id
"""
_VOID: Final = "SELECT gateway.void(%s::uuid, %s::bigint, %s::bigint)"
_TOUCH: Final = (
    "UPDATE gateway.lane SET moved_at = now() WHERE id = %s::uuid RETURNING number, fates"
)


_LOCKED: Final = 0.4
"""
Part of C{statement_timeout} to wait for others' locks: a row that takes half of it counts as slow.
"""

_TRIED_OUT: Final = 5
"""Rows of a batch that are tried out, at most."""


class PostgresStore:
    """
    Store that writes batches through a pool.

    @ivar executor: executor of its statements.
    @ivar pool: its connections.
    """

    _log = Logger()

    def __init__(self, pool: Pool, routes: Mapping[str, Route], settings: Database) -> None:
        self.pool = self._pool = pool
        self._clock: IReactorTime = pool.reactor
        self._deadline = settings.statement_timeout + DEADLINE_MARGIN
        self._route_cache = RouteCache(routes, pool.reactor, self._deadline)
        self._answer_timeout = settings.answer_timeout
        lock_timeout = min(self._answer_timeout, _LOCKED * settings.statement_timeout)
        self.executor = StatementExecutor(
            pool.reactor, self._deadline, self._answer_timeout, lock_timeout, pool.name
        )
        self._turns: dict[str, DeferredLock] = {}
        # Lanes on which a statement was lost. A server that hung may run it when another try has
        # stored the batch, and must then find the lane's row.
        self._doubtful: set[str] = set()
        binder = BatchBinder(pool, self._route_cache, self._turn)
        parts = CommitParts(
            binder,
            self.executor,
            self._is_sound,
            self._doubtful,
            self._deadline,
            self._answer_timeout,
        )
        self._whole = WholeCommit(parts)
        self._together = TogetherCommit(parts)

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        if not batch.count:
            async with self._pool.checkout() as connection:
                work = self.executor.run_empty(connection, fence, batch)
                return await self._behind(fence, connection, batch, work)
        # No coroutine or context manager that could be spared: the latency of a small batch.
        definition = self._definition(batch)
        insert = self._fresh(definition)
        bound = None
        if insert is not None:
            # Values first: a refusal by type needs no connection.
            try:
                binding = insert.bind(batch.slices)
                bound = (
                    binding
                    if isinstance(binding, tuple)
                    else await self._in_turns(binding, batch.route)
                )
            except FramesRefused as refused:
                if not (refused.by_type and await self._looked_again(definition)):
                    raise
                insert = definition.insert
                assert insert is not None
                bound = await self._in_turns(insert.bind(batch.slices), batch.route)
        options = WriteOptions(blame=Blame.PASSING if blame else Blame.MOST, patient=patient)
        turn = self._turn(definition)
        if turn is not None:
            await turn.acquire()
        try:
            connection = self._pool.take() or await self._pool.acquire()
            try:
                if insert is not None and bound is not None:
                    try:
                        return await self._judged(
                            connection, definition, insert, batch, bound, fence, options
                        )
                    except RouteError:
                        # The table may have changed under us: look again, then say so.
                        definition.close()
                insert = await self._route_cache.open(connection, definition)
                bound = await self._in_turns(insert.bind(batch.slices), batch.route)
                return await self._judged(
                    connection, definition, insert, batch, bound, fence, options
                )
            finally:
                self._pool.give_back(connection)
        finally:
            if turn is not None:
                turn.release()

    def _definition(self, batch: Batch) -> Definition:
        """
        Return the definition under which the messages of a batch were read.
        """
        cache = self._route_cache
        # Found here, at a call for each batch less.
        current = None if cache.replaced else cache.current.get(batch.route)
        return cache.definition_of(batch) if current is None else current

    def _fresh(self, definition: Definition) -> Insert | None:
        """
        Return the statement of a route, if its table was examined recently; else C{None}.
        """
        return None if self._clock.seconds() >= definition.until else definition.insert

    async def _judged(
        self,
        connection: Connection,
        definition: Definition,
        insert: Insert,
        batch: Batch,
        bound: Bound,
        fence: Fence,
        options: WriteOptions,
    ) -> Written:
        """
        Store a batch; if none of its rows can be stored, try a row that was stored before, to tell
        whether the rows are at fault or their route.
        """
        try:
            written = await self._store(connection, batch, bound, fence, options)
        except SlowRow as slow:
            # Those before it have passed.
            if not slow.row and not await self._is_sound(connection, insert, definition):
                raise TransientError(TIMEOUT_MESSAGE, CANCELLED) from None
            raise FramesRefused([(slow.row, row_refused(TIMEOUT_MESSAGE, CANCELLED))]) from None
        except (RowError, RouteError, TransientError) as error:
            if fence.first != fence.number or not connection.usable:
                raise
            if passes(error) and options.blame is Blame.MOST:
                raise
            sound = await self._is_sound(connection, insert, definition)
            fault = route_fault(error, sound=sound, passed=definition.passed is not None)
            if fault is not None:
                raise fault from (None if fault is error else error)
            options = options._replace(blame=Blame.ALL)
            written = await self._store(connection, batch, bound, fence, options)
        if len(written.runs) == 1 and written.runs[0][1] is STORED:
            definition.passed = batch.slices[-1]  # nearly always
        else:
            definition.note_stored(batch, written.runs)
        return written

    async def _is_sound(
        self, connection: Connection, insert: Insert, definition: Definition
    ) -> bool:
        """
        Say whether a row that was stored before could be stored again, apart from conflicts with
        itself.
        """
        part = definition.passed
        if part is None:
            return False
        row = part._replace(start=part.stop - 1)
        try:
            bound = await self._in_turns(insert.bind([row]), definition.route.name)
            await self.executor.try_out(connection, bound)
        except (StoreError, FramesRefused):
            return False
        return True

    async def try_out(self, batch: Batch) -> bool:
        async with self._pool.checkout() as connection:
            definition = self._route_cache.definition_of(batch)
            insert = await self._route_cache.open(connection, definition)
            for part in batch.slices[:_TRIED_OUT]:
                row = part._replace(stop=part.start + 1)
                try:
                    bound = await self._in_turns(insert.bind([row]), batch.route)
                    fates = await self.executor.try_out(connection, bound)
                except (FramesRefused, RowError, RouteError, TransientError):
                    continue
                if not refused_rows(self._runs(batch.only([0]), fates)):
                    definition.passed = row
                    return True
        return False

    def _turn(self, definition: Definition) -> DeferredLock | None:
        """
        Return the lock of a route whose rows may conflict: two transactions that touch the same
        rows in different orders deadlock, until PostgreSQL ends one of them a second later. C{None}
        for a route whose rows only come together.
        """
        route = definition.route
        adds = not route.sql or definition.relation is not None
        if route.conflict == "error" and adds:
            return None
        return self._turns.setdefault(route.name, DeferredLock())

    async def _looked_again(self, definition: Definition) -> bool:
        """
        Examine a route again, if that is due before messages are refused for their types; return
        whether it was examined.
        """
        if not self._route_cache.may_be_old(definition):
            return False
        try:
            async with self._pool.checkout() as connection:
                await self._route_cache.open(connection, definition)
        except StoreError:
            return False
        return True

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        if afresh:
            return await self._together.write_afresh(batches, fences)
        return await self._together.write(batches, fences, chunks, patient)

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        await self._whole.write(batches, fences, chunks, patient=patient, blame=blame)

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        async with self._pool.checkout() as connection:
            values = (fence.lane, fence.first, fence.number)
            try:
                await self._query(connection, _VOID, values)
            except StoredBefore as before:
                try:
                    return await self._recalled(connection, batch, fence, before.number)
                except FenceVoid as void:
                    if void.number != fence.number:
                        raise
            except OutcomeUnknown:
                self._doubtful.add(fence.lane)
                raise
        return None

    async def open_all(self) -> None:
        """
        Open every route, so that a bad one is known before its first message.

        @raise StoreError: for the first that cannot be opened.
        """
        async with self._pool.checkout() as connection:
            await self._route_cache.open_all(connection)

    async def check_routes(self, routes: Iterable[Route]) -> list[str]:
        """
        Return the problems that would keep routes from being opened, one line each. Nothing is
        created: what the routes would create is undone.

        @raise StoreError: the database could not tell.
        """
        problems: list[str] = []
        async with self._pool.checkout() as connection:
            for route in routes:
                problems += [
                    f"routes.{route.name}.{problem.key}: {problem.text}"
                    for problem in await self._route_cache.check(connection, route)
                ]
        return problems

    def replace_routes(
        self, routes: Mapping[str, Route], changed: Collection[str], generation: int, oldest: int
    ) -> None:
        """
        Replace the definitions of routes, see L{RouteCache.replace}.
        """
        for definition in self._route_cache.replace(routes, changed, generation, oldest):
            if definition.insert is not None:
                self.executor.forget(definition.insert.statements)

    async def probe(self, route: str) -> None:
        async with self._pool.checkout() as connection:
            await self._route_cache.open(connection, self._route_cache.definition(route))

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        number, epoch = (None, None) if seen is None else (seen.number, seen.epoch or None)
        values = (name, number, epoch, json.dumps(spooled), KEPT_REFUSALS)
        async with self._pool.checkout() as connection:
            ((claim, now_epoch, mark, refusals),) = await self._query(
                connection, CLAIM_STREAM, values
            )
        return Claim(claim, now_epoch, mark, refusals_of(refusals))

    async def spread_position(self, stream: str) -> SpreadPosition:
        async with self._pool.checkout() as connection:
            rows = await self._query(connection, SPREAD_POSITION, (stream,))
        if not rows or rows[0][2] is None:
            return SpreadPosition("", "", 0, {}, {})
        claim, epoch, mark, marks = rows[0]
        return SpreadPosition(claim, epoch, mark, marks, {})

    async def claim_spread(
        self, stream: str, claim: str, before: str, epoch: str | None
    ) -> SpreadPosition:
        async with self._pool.checkout() as connection:
            values = (stream, claim, before or None, epoch, KEPT_REFUSALS)
            ((now_epoch, mark, marks, refusals),) = await self._query(
                connection, CLAIM_SPREAD, values
            )
        return SpreadPosition(claim, now_epoch, mark, marks, refusals_of(refusals))

    async def durability(self) -> list[str]:
        """
        Return the server's settings that make C{+OK} less durable, one line each.

        @raise StoreError: the query failed.
        """
        async with self._pool.checkout() as connection:
            return await weaknesses(partial(connection.query, timeout=self._deadline))

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """
        Delete lanes that will never be used again. Those on which a statement was lost stay, until
        they are abandoned, and those of units, by which they are known.

        @precondition: nothing is in flight on them.
        """
        sure = [lane for lane in lanes if lane not in self._doubtful and not is_unit_key(lane)]
        if sure:
            async with self._pool.checkout() as connection:
                await self._query(connection, _FORGET, (sure,))

    async def close_abandoned_lanes(self) -> None:
        """
        Delete the lanes of gateways that ended without a clean stop, unused for L{ABANDONED}
        seconds.
        """
        async with self._pool.checkout() as connection:
            await self._query(connection, _FORGET_ABANDONED, (ABANDONED,))

    async def forget_units(self, seconds: float) -> int:
        """
        Forget units that were stored longer ago than that, and the oldest beyond L{MOST_UNITS}.

        @return: how many were forgotten.
        """
        async with self._pool.checkout() as connection:
            rows = await self._query(connection, _FORGET_UNITS, (seconds, MOST_UNITS))
        return len(rows)

    def _in_turns(self, binding: Bound | Binding, route: str) -> Awaitable[Bound]:
        return self._route_cache.in_turns(binding, route)

    def _store(
        self,
        connection: Connection,
        batch: Batch,
        bound: Bound,
        fence: Fence,
        options: WriteOptions,
    ) -> Awaitable[Written]:
        # Not a coroutine: one for each layer would add to a small batch's latency.
        work = self.executor.store(connection, bound, fence, batch, options)
        return self._behind(fence, connection, batch, work)

    async def _behind(
        self,
        fence: Fence,
        connection: Connection,
        batch: Batch,
        work: Awaitable[Rows],
    ) -> Written:
        """
        Run a statement that moves a fence, and make sure of its result.

        @param work: returns one row with the fates of the rows; none where all were stored.
        @raise StoredPartly: some of the batches are stored for certain.
        """
        try:
            rows = await work
        except StoredBefore as before:
            return await self._recalled(connection, batch, fence, before.number)
        except StreamsUnmoved as unmoved:
            raise StreamsElsewhere(stream_positions_of(unmoved.detail)) from None
        except OutcomeUnknown:
            self._doubtful.add(fence.lane)
            raise
        if connection.warned:
            await self._confirm(connection, fence)
        if not rows:
            return Written([(batch.count, STORED)], False)
        return Written(self._runs(batch, rows[0][0]), False)

    async def _recalled(
        self, connection: Connection, batch: Batch, fence: Fence, reached: int
    ) -> Written:
        """
        Return the result of an earlier try. Its connection was lost, so its commit is confirmed
        first: it may not be replicated.
        """
        number, fates = await self._confirm(connection, fence)
        if fates == VOID and fence.first <= number <= fence.number:
            raise FenceVoid(number)
        if fence.first <= reached < fence.number:
            raise StoredPartly(reached)
        # Batches stored as one are stored whole.
        return Written(self._runs(batch, fates if number == fence.number else None), True)

    def _runs(self, batch: Batch, fates: str | None) -> list[Run]:
        if fates is None:
            return [(batch.count, STORED)]
        return runs_of(fates, batch.count, self._route_cache.definition_of(batch).route.returning)

    async def _confirm(self, connection: Connection, fence: Fence) -> Sequence[Any]:
        """
        Make sure that a commit is as durable as it promises to be.

        A wait for a synchronous standby that is cancelled ends with success and a warning; what is
        then found committed was never replicated (PostgreSQL documentation, section 27.2.8.3). A
        standby takes the log in order, so a later commit that was waited for covers all before it.

        @return: number and fates of the lane's last batch.
        @raise OutcomeUnknown: that is not certain yet; write again.
        """
        rows = await self._query(connection, _TOUCH, (fence.lane,))
        if not rows:
            raise OutcomeUnknown("the lane vanished while its commit was confirmed")
        if connection.warned:
            raise OutcomeUnknown("committed, but not known to be on the synchronous standby")
        return rows[0]

    async def _query(self, connection: Connection, sql: str, values: Values) -> Rows:
        return await connection.query(sql, values, self._deadline, self._answer_timeout)
