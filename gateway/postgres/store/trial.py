"""
Try messages out: what each would store, and what PostgreSQL says, in a transaction that is undone.

For C{gateway check}, which tries the samples of a configuration, and C{gateway routes try}. Nothing
is kept but what PostgreSQL never takes back: sequences go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import uuid4

from gateway.columns.literal import NULL
from gateway.model.batch import Chunk, Origin, Slice
from gateway.model.errors import (
    FramesRefused,
    RouteError,
    RowError,
    StoreError,
    TransientError,
)
from gateway.model.outcome import STORED, Outcome, row_refused
from gateway.model.route import FRAME, Route
from gateway.postgres.connect.connection import Connection, RunQuery
from gateway.postgres.store.catalog import examine
from gateway.postgres.store.route_cache import ready
from gateway.sql.block import Blame, settings
from gateway.sql.fates import FATES_OF, runs_of
from gateway.sql.literals import filled
from gateway.sql.metadata import of_chunk
from gateway.sql.statement import Insert, bind_at_once, named

_ORIGIN: Final = Origin("192.0.2.1:1024", "try")
"""Sender of a message that nobody sent; the address is one for documentation (RFC 5737)."""


@dataclass(frozen=True, slots=True)
class Trial:
    """
    Result of one message.

    @ivar outcome: what its sender would be told.
    @ivar values: column -> its value as text, C{None} for NULL: of a message that is stored what
        the table has, where it may be read, else what PostgreSQL is given; none of a message that
        is refused before.
    """

    outcome: Outcome
    values: Mapping[str, str | None] = field(default_factory=dict)


async def try_messages(
    connection: Connection,
    route: Route,
    frames: Sequence[bytes],
    now: float,
    timeout: float,
    *,
    together: bool = False,
) -> list[Trial]:
    """
    Store messages, say what became of each, and roll back. What the gateway would create at its
    start is there meanwhile.

    @param now: seconds since 1970, for C{@received_at}.
    @param timeout: seconds for each statement.
    @param together: whether a message finds those before it stored.
    @raise StoreError: the route cannot be opened, or the database could not tell.
    """
    undone = _Undone()

    async def work(query: RunQuery) -> None:
        insert = (await ready(route, query)).sound
        # What a table has then is more than what it is given: rounded, padded, set by a trigger.
        reading = replace(route, returning=tuple(route.columns)) if route.table else route
        seen = (await examine(query, reading)).insert if route.table else None
        trial = _Try(query, route if seen is None else reading, seen or insert, seen is not None)
        for frame in frames:
            chunk = Chunk(route.name, [frame], _ORIGIN, now, lambda chunk, runs: None)
            undone.trials.append(await trial.one(Slice(chunk, 0, 1), together))
        raise undone

    try:
        await connection.transaction(work, timeout)
    except _Undone:
        return undone.trials
    raise AssertionError("a transaction that is undone was committed")


class _Try:
    """
    Trial of one message after the other.
    """

    def __init__(self, query: RunQuery, route: Route, insert: Insert, sees: bool) -> None:
        """
        @param sees: whether each row is returned as the table has it.
        """
        self._query = query
        self._route = route
        self._insert = insert
        self._sees = sees

    async def one(self, part: Slice, together: bool) -> Trial:
        try:
            statement, values = bind_at_once(self._insert, [part])
        except FramesRefused as refusal:
            return Trial(refusal.faults[0][1])
        given = self._given(part, values)
        lane = str(uuid4())
        block = filled("DO %s", (filled(statement.block, named([lane, 1, 1, *values])),))
        await self._query("SAVEPOINT gateway_try", None)
        try:
            await self._query(settings(Blame.ALL) + block, None)
            ((fates,),) = await self._query(FATES_OF, (lane,))
        except (RowError, RouteError, TransientError) as error:
            await self._query("ROLLBACK TO SAVEPOINT gateway_try", None)
            return Trial(row_refused(str(error), error.sqlstate), given)
        if not together:
            await self._query("ROLLBACK TO SAVEPOINT gateway_try", None)
        ((_, fate),) = runs_of(fates, 1, ())
        outcome = fate if isinstance(fate, Outcome) else STORED
        returned = json.loads(fates or "{}").get("values")
        if self._sees and returned and returned[0] is not None:
            given = dict(zip(self._route.columns, returned[0], strict=True))
        return Trial(outcome, given)

    def _given(self, part: Slice, values: Sequence[str | None]) -> dict[str, str | None]:
        """
        Return the value of each column as PostgreSQL is given it.
        """
        columns = self._route.columns
        if self._route.sql or self._route.reading.format != "text":
            return dict(zip(columns, map(_element, values), strict=True))
        (frame,) = part.frames
        return {
            name: frame.decode(errors="backslashreplace")
            if value.source == FRAME
            else of_chunk(value)(part.chunk)
            for name, value in columns.items()
        }


def _element(literal: str | None) -> str | None:
    """
    Return the only element of an array literal.
    """
    text = (literal or "")[1:-1]
    if text == NULL:
        return None
    if not text.startswith('"'):
        return text
    return "\\".join([part.replace('\\"', '"') for part in text[1:-1].split("\\\\")])


class _Undone(StoreError):
    """Error that rolls everything back."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[Trial] = []
