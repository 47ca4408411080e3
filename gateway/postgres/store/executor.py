"""
Run bound statements: one by one, as code blocks where rows are at fault, several together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from uuid import uuid4

from twisted.internet.interfaces import IReactorTime

from gateway.model.arrival import arrival
from gateway.model.batch import Batch, Chunk, Fence, StreamMark, stream_marks
from gateway.model.errors import Faults, RouteError, RowError, StoreError, TransientError
from gateway.model.outcome import refused_rows
from gateway.model.route import HOME
from gateway.postgres.connect.connection import Connection, Rows, RunQuery
from gateway.postgres.connect.driver_errors import PreparedStatementLost, SlowRow, StoredBefore
from gateway.postgres.store.dead_letter import KEEP_DEAD_LETTERS, dead_letter_values
from gateway.sql.block import Blame, every_setting, merged_body, settings
from gateway.sql.fates import FATES_OF, runs_of
from gateway.sql.literals import filled
from gateway.sql.sqlstate import CANCELLED, MISSING, PASSING_PATTERN
from gateway.sql.statement import Bound, Statement, named
from gateway.sql.streams import (
    FOLLOW,
    FOLLOW_SPREAD,
    REMEMBER,
    follow_spread_values,
    follow_values,
    parts_json,
)

_ADVANCE: Final = "SELECT gateway.advance(%s::uuid, %s::bigint, %s::bigint)"

_FATES_OF_ALL: Final = (
    "SELECT id::text, fates FROM gateway.lane WHERE id = ANY(%s::uuid[]) AND fates IS NOT NULL"
)

_MOST_BODIES: Final = 64
"""Code blocks for rows of several routes that are kept, each about 10 kB."""

_Rows = tuple[Bound, Fence, Sequence[int]]
"""Rows of one batch: statement and parameters, their fence, and their places in arrival."""

_PASSING: Final = re.compile(PASSING_PATTERN)

SUSPECTED_FOR: Final = 1.0
"""
Seconds for which a route's batches are stored by a code block at once, after one that
could not be stored without: where one message is bad, others mostly are.
"""


class WriteOptions(NamedTuple):
    """
    Options for storing a batch.

    @ivar blame: kinds of failing rows that count as rows at fault.
    @ivar patient: whether to wait as long as the server needs, but with a limit for the locks of
        others.
    """

    blame: Blame = Blame.MOST
    patient: bool = False


class StatementExecutor:
    """
    Executor of statements behind fences.
    """

    def __init__(
        self,
        clock: IReactorTime,
        deadline: float,
        answer_timeout: float,
        lock_timeout: float,
        database: str = HOME,
    ) -> None:
        """
        @param deadline: timeout of each statement in seconds, after which its connection is closed.
        @param answer_timeout: seconds after which the caller stops waiting for it.
        @param lock_timeout: seconds to wait for others' locks, so that such a wait does not count
            as a slow row.
        @param database: name of the database.
        """
        self._database = database
        self._answer_timeout = answer_timeout
        self._within = f"SELECT set_config('lock_timeout', '{int(lock_timeout * 1000)}ms', true); "
        self._clock = clock
        self._deadline = deadline
        self._suspected: dict[Statement, float] = {}
        self._bodies: dict[tuple[tuple[Statement, ...], bool, bool], str] = {}

    async def store(
        self,
        connection: Connection,
        bound: Bound,
        fence: Fence,
        batch: Batch,
        options: WriteOptions,
    ) -> Rows:
        """
        Store a batch; rows at fault are left out, unless the fence covers several batches.

        @return: one row with the fates of the rows (see L{gateway.sql.fates}); none where all were
            stored.
        @raise RowError: a row is at fault, in several batches stored as one.
        @raise gateway.postgres.connect.driver_errors.SlowRow: a row is too slow.
        """
        statement, values = bound
        fenced = [fence.lane, fence.first, fence.number, *values]
        single = fence.first == fence.number
        before = ""
        if batch.numbered or batch.refusals:
            before = self._before(connection, batch, fence)
        answer_timeout = self._deadline if options.patient else self._answer_timeout
        suspects = bool(self._suspected) and self._suspects(statement)
        watch = False
        if not (single and (suspects or options.blame is not Blame.MOST)):
            begin = f"{self._within}{before}" if options.patient else before
            try:
                if statement.preparable is None:
                    return await self._block(
                        connection, statement.whole, fenced, batch, begin, answer_timeout
                    )
                return await connection.execute(
                    statement.preparable, fenced, self._deadline, answer_timeout, begin
                )
            except (RowError, RouteError, TransientError) as error:
                # Nothing was stored, and the server answers.
                slow = error.sqlstate == CANCELLED
                if passes(error) and not slow and options.blame is Blame.MOST:
                    raise
                self._suspected[statement] = self._clock.seconds() + SUSPECTED_FOR
                if not single:
                    raise RowError(str(error), error.sqlstate) from error
                watch = slow
        blame = options.blame
        return await self._apart(
            *(connection, statement.block, fenced, batch, before, answer_timeout, blame),
            watch=watch,
        )

    async def _apart(
        self,
        connection: Connection,
        body: str,
        values: Sequence[str | int | None],
        batch: Batch,
        before: str,
        answer_timeout: float,
        blame: Blame,
        watch: bool,
    ) -> Rows:
        """
        Store a batch by the code block that leaves out rows at fault.

        @param watch: whether a slow row is expected; else rows are only timed after a first
            timeout.
        """
        preamble = settings(blame, watch) + self._within + before
        try:
            return await self._block(connection, body, values, batch, preamble, answer_timeout)
        except TransientError as error:
            if watch or error.sqlstate != CANCELLED:
                raise
        preamble = settings(blame, watch=True) + self._within + before
        return await self._block(connection, body, values, batch, preamble, answer_timeout)

    async def try_out(self, connection: Connection, bound: Bound) -> str | None:
        """
        Store rows, and roll back.

        @return: fates of the rows; C{None} where all can be stored.
        @raise StoreError: none can be stored, and it is not certain that any is at fault.
        """
        statement, values = bound
        lane = str(uuid4())
        fenced = [lane, 1, 1, *values]
        undone = _Undone()

        async def work(query: RunQuery) -> None:
            await query(self._within, None)
            block = filled("DO %s", (filled(statement.block, named(fenced)),))
            await query(block, None)
            ((undone.fates,),) = await query(FATES_OF, (lane,))
            raise undone

        with suppress(_Undone):
            await connection.transaction(work, self._deadline)
        return undone.fates

    async def run_empty(self, connection: Connection, fence: Fence, batch: Batch) -> Rows:
        """
        Run a batch without rows to store: move its fence and streams, and keep its dead letters.
        """
        sql = self._before(connection, batch, fence) + _ADVANCE
        values = (fence.lane, fence.first, fence.number)
        await connection.query(sql, values, self._deadline, self._answer_timeout)
        return []

    def _before(self, connection: Connection, batch: Batch, fence: Fence) -> str:
        """
        Return the statements in front of a batch's own: they move its streams, and keep its dead
        letters.
        """
        texts = self._follow(connection, batch.moves, fence) + self._keep_dead_letters(
            connection, batch
        )
        return "".join(f"{text}; " for text in texts).replace("%", "%%")

    def _follow(
        self, connection: Connection, moves: Sequence[StreamMark], fence: Fence
    ) -> list[str]:
        if not moves:
            return []
        spread = [move for move in moves if move.stream.marks is not None]
        texts = []
        if spread:
            values = follow_spread_values(fence, spread, self._database)
            texts.append(filled(FOLLOW_SPREAD, values))
            moves = [move for move in moves if move.stream.marks is None]
        if moves:
            texts.append(filled(FOLLOW, follow_values(fence, moves)))
        return texts

    def _keep_dead_letters(self, connection: Connection, batch: Batch) -> list[str]:
        if not (batch.refusals and batch.dead_letters):
            return []
        return [filled(KEEP_DEAD_LETTERS, dead_letter_values(batch))]

    def joins(self, bounds: Sequence[Bound]) -> bool:
        """
        Say whether batches may share a commit, and no row is likely to be refused.
        """
        return all(s.joins and not self._suspects(s) for s, _ in bounds)

    async def run_all(
        self,
        connection: Connection,
        bounds: Sequence[Bound | None],
        fences: Sequence[Fence],
        batches: Sequence[Batch],
    ) -> None:
        """
        Store several batches in one round trip and transaction, or none of them; patiently.

        @param bounds: C{None} for a batch without rows to store.
        @raise RowError: a row is at fault.
        """
        texts = self._follow(connection, stream_marks(batches), fences[0])
        texts += self._storing(connection, bounds, fences, batches)
        try:
            await connection.query(
                self._within + "; ".join(texts), None, self._deadline, self._deadline
            )
        except RowError:
            self._suspect(bounds)
            raise

    async def run_together(
        self,
        connection: Connection,
        bounds: Sequence[Bound | None],
        fences: Sequence[Fence],
        batches: Sequence[Batch],
        chunks: Sequence[Chunk],
        *,
        ordered: bool,
        patient: bool,
        blame: Blame = Blame.MOST,
    ) -> dict[str, str | None]:
        """
        Store several batches, each of another route, in one round trip and transaction; rows at
        fault are left out.

        @param bounds: C{None} for a batch without rows to store.
        @param chunks: as in L{gateway.model.store.Store.write_together}.
        @param ordered: whether the order of arrival makes a difference where all rows pass.
        @param patient: as in L{WriteOptions}.
        @return: lane -> fates of its rows (see L{gateway.sql.fates}); without those of which all
            are simply stored.
        @raise StoreError: nothing is stored; all rows of a batch fail, or the order does not allow
            more.
        """
        answer_timeout = self._deadline if patient else self._answer_timeout
        rows = [
            (bound, fence, places)
            for bound, fence, places in zip(bounds, fences, arrival(batches, chunks), strict=True)
            if bound is not None
        ]
        statements = [bound[0] for bound, _, _ in rows]
        # The numbers of a stream may alternate between routes, so all marks move first.
        before = self._follow(connection, stream_marks(batches), fences[0])
        for batch in batches:
            before += self._keep_dead_letters(connection, batch)
        for bound, fence in zip(bounds, fences, strict=True):
            if bound is None:
                before.append(_fenced(None, fence, careful=False))
        fates = filled(_FATES_OF_ALL, ([fence.lane for _, fence, _ in rows],))
        suspects = bool(self._suspected) and any(map(self._suspects, statements))
        if not rows or (blame is Blame.MOST and not suspects):
            within = self._within if patient else ""
            try:
                if ordered:
                    storing = [self._merged(rows, careful=False)]
                else:
                    storing = await self._one_behind_the_other(connection, rows)
                after = [] if all(s.joins for s in statements) else [fates]
                sql = within + "; ".join([*before, *storing, *after])
                found = await connection.query(sql, None, self._deadline, answer_timeout)
                return dict(found) if after else {}
            except PreparedStatementLost as error:
                # Refused before anything was done; the block below needs none.
                connection.sharing.found(error)
            except (RowError, RouteError, TransientError) as error:
                if passes(error) or not rows:
                    raise
                self._suspect(bounds)
        refusals = [
            filled(REMEMBER, (fence.lane, parts_json(batch)))
            for fence, batch in zip(fences, batches, strict=True)
            if batch.numbered and batch.count
        ]
        storing = [self._merged(rows, careful=True, ordered=ordered)]
        sql = settings(blame) + self._within + "; ".join([*before, *storing, *refusals, fates])
        found = await connection.query(sql, None, self._deadline, answer_timeout)
        return dict(found)

    async def _one_behind_the_other(
        self, connection: Connection, rows: Sequence[_Rows]
    ) -> list[str]:
        """
        Return the statements that store the rows of several routes.

        Those that wait for others' locks come in one order for all gateways, behind the others.
        """
        preparables = [bound[0].preparable for bound, _, _ in rows]
        prepared = await connection.prepare(filter(None, preparables), self._deadline)
        texts = []
        for (statement, values), fence, _ in sorted(rows, key=_lock_order):
            preparable = statement.preparable
            if prepared and preparable is not None:
                fenced = [fence.lane, fence.first, fence.number, *values]
                texts.append(filled(preparable.execute, fenced))
            else:
                texts.append(_fenced((statement, values), fence, careful=False))
        return texts

    def _merged(self, rows: Sequence[_Rows], *, careful: bool, ordered: bool = True) -> str:
        """
        Return the code block that stores the rows of several routes in order of arrival.
        """
        statements = tuple([bound[0] for bound, _, _ in rows])
        key = (statements, careful, ordered)
        body = self._bodies.get(key)
        if body is None:
            if len(self._bodies) >= _MOST_BODIES:
                self._bodies.clear()
            body = self._bodies[key] = merged_body(statements, careful=careful, ordered=ordered)
        values: dict[str, str | int | None] = {}
        for number, ((_, parameters), fence, places) in enumerate(rows, 1):
            fenced = [fence.lane, fence.first, fence.number, *parameters]
            values |= {f"r{number}p{n}": value for n, value in enumerate(fenced, 1)}
            values[f"r{number}a"] = "{" + ",".join(map(str, places)) + "}"
            values[f"r{number}t"] = len(places)
        return filled("DO %s", (filled(body, values),))

    async def run_whole(
        self,
        connection: Connection,
        bounds: Sequence[Bound | None],
        fences: Sequence[Fence],
        batches: Sequence[Batch],
        chunks: Sequence[Chunk] = (),
        patient: bool = False,
    ) -> Rows:
        """
        Store several batches, of any routes, in one round trip and transaction, or none of them.

        @param bounds: C{None} for a batch without rows to store.
        @param chunks: of their rows, where these are to be stored in order of arrival; none: the
            batches are stored one behind the other.
        @param patient: as in L{WriteOptions}.
        @raise RowError: a row is at fault, or rows have to be stored one by one.
        """
        answer_timeout = self._deadline if patient else self._answer_timeout
        if chunks:
            texts = self._in_order(connection, bounds, fences, batches, chunks)
        else:
            texts = self._storing(connection, bounds, fences, batches)
        sql = (self._within if patient else "") + "; ".join(texts)
        await connection.query(sql, None, self._deadline, answer_timeout)
        return []

    def _storing(
        self,
        connection: Connection,
        bounds: Sequence[Bound | None],
        fences: Sequence[Fence],
        batches: Sequence[Batch],
    ) -> list[str]:
        """Return the statements that store batches behind their fences, with their dead letters."""
        texts: list[str] = []
        for bound, fence, batch in zip(bounds, fences, batches, strict=True):
            texts += self._keep_dead_letters(connection, batch)
            texts.append(_fenced(bound, fence, careful=False))
        return texts

    def _in_order(
        self,
        connection: Connection,
        bounds: Sequence[Bound | None],
        fences: Sequence[Fence],
        batches: Sequence[Batch],
        chunks: Sequence[Chunk],
    ) -> list[str]:
        """Return the statements that store batches in order of arrival, with their dead letters."""
        texts: list[str] = []
        rows: list[_Rows] = []
        places = arrival(batches, chunks)
        for bound, fence, batch, of_batch in zip(bounds, fences, batches, places, strict=True):
            texts += self._keep_dead_letters(connection, batch)
            if bound is None:
                texts.append(_fenced(None, fence, careful=False))
            else:
                rows.append((bound, fence, of_batch))
        return [*texts, self._merged(rows, careful=False)]

    async def run_apart(
        self,
        connection: Connection,
        bounds: Sequence[Bound | None],
        fences: Sequence[Fence],
        batches: Sequence[Batch],
        blames: Sequence[Blame],
        watch: bool = False,
    ) -> None:
        """
        Store several batches by code blocks that find the rows at fault, if there are none.

        @param blames: which failing rows of each batch are at fault.
        @param watch: whether to find a slow row.
        @raise WholeRefused: there are some; nothing is stored.
        @raise WholeFailed: a batch failed as a whole; nothing is stored.
        """

        async def work(query: RunQuery) -> None:
            await query(self._within, None)
            faults: list[Faults] = []
            for place, (bound, fence, batch) in enumerate(
                zip(bounds, fences, batches, strict=True)
            ):
                texts = [
                    every_setting(blames[place], watch),
                    *self._keep_dead_letters(connection, batch),
                    _fenced(bound, fence, careful=True),
                    filled(FATES_OF, (fence.lane,)),
                ]
                try:
                    ((text,),) = await query("; ".join(texts), None)
                except (RowError, RouteError, TransientError, SlowRow, StoredBefore) as error:
                    raise WholeFailed(place, error) from error
                faults.append(refused_rows(runs_of(text, batch.count, ())))
            if any(faults):
                raise WholeRefused(faults)

        await connection.transaction(work, self._deadline)

    def forget(self, statements: Iterable[Statement]) -> None:
        """
        Drop what is known of statements that are no more used.
        """
        for statement in statements:
            self._suspected.pop(statement, None)
        self._bodies.clear()

    def _suspect(self, bounds: Sequence[Bound | None]) -> None:
        for statement, _ in filter(None, bounds):
            self._suspected[statement] = self._clock.seconds() + SUSPECTED_FOR

    def _suspects(self, statement: Statement) -> bool:
        suspected = self._suspected.get(statement, 0.0) > self._clock.seconds()
        if not suspected:
            self._suspected.pop(statement, None)
        return suspected

    async def _block(
        self,
        connection: Connection,
        body: str,
        values: Sequence[str | int | None],
        batch: Batch,
        before: str,
        answer_timeout: float,
    ) -> Rows:
        lane = values[0]
        sql, after = FATES_OF, [lane]
        if batch.moves:
            sql, after = f"{REMEMBER}; {FATES_OF}", [lane, parts_json(batch), lane]
        return await connection.block(
            *(body, named(values), sql, after, self._deadline),
            *(before.replace("%%", "%"), answer_timeout),
        )


def _lock_order(rows: _Rows) -> tuple[bool, str]:
    (statement, _), _, _ = rows
    return not statement.joins, "" if statement.joins else statement.plain or statement.whole


def _fenced(bound: Bound | None, fence: Fence, *, careful: bool) -> str:
    """
    Return the text that stores a batch behind its fence.

    @param careful: whether as a code block that leaves out rows at fault.
    """
    fenced: list[str | int | None] = [fence.lane, fence.first, fence.number]
    if bound is None:
        return filled(_ADVANCE, fenced)
    statement, values = bound
    parameters = named([*fenced, *values])
    if careful or statement.preparable is None:
        body = statement.block if careful else statement.whole
        return filled("DO %s", (filled(body, parameters),))
    return filled(statement.plain, parameters)


class WholeRefused(StoreError):
    """
    Rows of batches that are stored together are at fault.

    @ivar faults: of each batch.
    """

    def __init__(self, faults: list[Faults]) -> None:
        super().__init__("rows are at fault")
        self.faults = faults


class WholeFailed(StoreError):
    """
    One of several batches that are stored together failed as a whole.

    @ivar place: of the batch.
    @ivar error: how.
    """

    def __init__(self, place: int, error: Exception) -> None:
        super().__init__(str(error))
        self.place = place
        self.error = error


def passes(error: StoreError) -> bool:
    """
    Say whether an error is temporary and may occur with any row.
    """
    return isinstance(error, TransientError) and bool(_PASSING.match(error.sqlstate))


def route_fault(
    error: RowError | RouteError | TransientError, *, sound: bool, passed: bool
) -> StoreError | None:
    """
    Return the error of a route on which no row of a batch could be stored; C{None}: the rows are at
    fault, and not their route.

    @param sound: whether a row that was stored before can be stored still.
    @param passed: whether any was stored before.
    """
    if sound:
        return None
    missing = error.sqlstate == MISSING
    if missing and passed:
        return RouteError(str(error), error.sqlstate)
    return None if missing and isinstance(error, RowError) else error


class _Undone(StoreError):
    """Error that rolls back rows which could be stored."""

    fates: str | None = None
