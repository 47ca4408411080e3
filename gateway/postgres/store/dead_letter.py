"""
Keep, list and replay dead letters: refused messages in C{gateway.dead_letter}.

They are written behind a fence like any batch, so that a lost reply duplicates none. A replay
stores the message and removes the dead letter in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from gateway.model.batch import Batch, Chunk, Origin
from gateway.model.errors import FramesRefused, GatewayError, RowError
from gateway.model.outcome import refused_rows
from gateway.model.route import Route
from gateway.postgres.connect.connection import Connection, RunQuery
from gateway.postgres.store.catalog import examine
from gateway.sql.fates import FATES_OF, runs_of
from gateway.sql.statement import bind_at_once, named

KEEP_DEAD_LETTERS: Final = """
    INSERT INTO gateway.dead_letter
           (route, peer, listener, identity, received_at, sqlstate, error, frame)
    SELECT %(route)s, l.peer, l.listener, l.identity, to_timestamp(l.received_at),
           nullif(l.sqlstate, ''), l.error, l.frame
      FROM unnest(%(peer)s::text[], %(listener)s::text[], %(identity)s::text[],
                  %(received_at)s::float8[], %(sqlstate)s::text[], %(error)s::text[],
                  %(frame)s::bytea[])
           AS l(peer, listener, identity, received_at, sqlstate, error, frame)
"""


def dead_letter_values(batch: Batch) -> Mapping[str, Any]:
    """
    Return the parameters of L{KEEP_DEAD_LETTERS}, for those of a batch's refusals that become dead
    letters.
    """
    dead_letters = batch.dead_letters
    chunks = [refusal.chunk for refusal in dead_letters]
    return {
        "route": batch.route,
        "peer": [chunk.origin.peer for chunk in chunks],
        "listener": [chunk.origin.listener for chunk in chunks],
        "identity": [chunk.origin.identity for chunk in chunks],
        "received_at": [chunk.received_at for chunk in chunks],
        "sqlstate": [refusal.outcome.sqlstate for refusal in dead_letters],
        "error": [refusal.outcome.text for refusal in dead_letters],
        "frame": [refusal.chunk.frames[refusal.row] for refusal in dead_letters],
    }


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    A row of C{gateway.dead_letter}.

    @ivar attempts: number of times it was refused.
    """

    id: int
    refused_at: datetime
    route: str
    peer: str | None
    listener: str | None
    identity: str | None
    received_at: datetime | None
    sqlstate: str | None
    error: str
    attempts: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class DeadLetterSelection:
    """
    Selection of dead letters; attributes left at their default select all.

    @ivar days: minimum age since the refusal, in days.
    """

    ids: Sequence[int] = ()
    route: str | None = None
    days: float | None = None

    def where(self) -> tuple[str, Mapping[str, Any]]:
        """
        Return the selection as an SQL condition, and its parameters.
        """
        terms = ["true"]
        if self.ids:
            terms.append("id = ANY(%(ids)s)")
        if self.route is not None:
            terms.append("route = %(route)s")
        if self.days is not None:
            terms.append("refused_at < now() - make_interval(secs => %(days)s * 86400)")
        values = {"ids": list(self.ids), "route": self.route, "days": self.days}
        return " AND ".join(terms), values


_LETTER_COLUMNS: Final = (
    "id, refused_at, route, peer, listener, identity, received_at, sqlstate, error, attempts, frame"
)


class Gone(GatewayError):
    """A dead letter was replayed or removed meanwhile."""


class DeadLetters:
    """
    Dead letters of a database, over one connection.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        """
        @param timeout: seconds for each statement.
        """
        self._connection = connection
        self._timeout = timeout

    async def count(self, choice: DeadLetterSelection) -> int:
        """
        Count the selected dead letters.
        """
        condition, values = choice.where()
        rows = await self._query(
            f"SELECT count(*) FROM gateway.dead_letter WHERE {condition}", values
        )
        number: int = rows[0][0]
        return number

    async def find(
        self, choice: DeadLetterSelection, limit: int, after: int = 0
    ) -> list[DeadLetter]:
        """
        Return the oldest of the selected dead letters with an id above C{after}.
        """
        condition, values = choice.where()
        rows = await self._query(
            f"SELECT {_LETTER_COLUMNS} FROM gateway.dead_letter WHERE {condition}"
            " AND id > %(after)s ORDER BY id LIMIT %(limit)s",
            {**values, "limit": limit, "after": after},
        )
        return [DeadLetter(*(*row[:-1], bytes(row[-1]))) for row in rows]

    async def purge(self, choice: DeadLetterSelection) -> int:
        """
        Delete the selected dead letters, and return their number.
        """
        condition, values = choice.where()
        return len(
            await self._query(
                f"DELETE FROM gateway.dead_letter WHERE {condition} RETURNING id", values
            )
        )

    async def replay(self, letter: DeadLetter, route: Route) -> str | None:
        """
        Store a message again, and remove its dead letter in the same transaction.

        @return: C{None} where it is stored, else why it was refused.
        @raise Gone: the dead letter no longer exists.
        @raise StoreError: it cannot be stored now; nothing changed, unless it is L{OutcomeUnknown}.
        """

        async def work(query: RunQuery) -> None:
            insert = (await examine(query, route)).sound
            statement, bound = bind_at_once(insert, _batch_of_letter(letter).slices)
            # A concurrent replay waits here, and then finds no row.
            if not await query(_TAKE, (letter.id,)):
                raise Gone
            lane = str(uuid4())
            ((fates,),) = await self._connection.block(
                statement.block, named([lane, 1, 1, *bound]), FATES_OF, (lane,), self._timeout
            )
            for _, refusal in refused_rows(runs_of(fates, 1, route.returning)):
                raise RowError(refusal.text, refusal.sqlstate)
            await query("DELETE FROM gateway.lane WHERE id = %s::uuid", (lane,))

        try:
            await self._connection.transaction(work, self._timeout)
        except RowError as error:
            reason, sqlstate = str(error), error.sqlstate
        except Gone:
            await self._query("ROLLBACK", None)
            raise
        except FramesRefused as refused:
            reason, sqlstate = refused.faults[0][1].text, ""
            await self._query("ROLLBACK", None)
        else:
            return None
        await self._query(
            "UPDATE gateway.dead_letter SET attempts = attempts + 1, error = %s,"
            " sqlstate = nullif(%s, ''), refused_at = now() WHERE id = %s",
            (reason, sqlstate, letter.id),
        )
        return reason

    async def _query(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        return await self._connection.query(sql, values, self._timeout)


_TAKE: Final = "DELETE FROM gateway.dead_letter WHERE id = %s RETURNING id"


def _batch_of_letter(letter: DeadLetter) -> Batch:
    origin = Origin(letter.peer or "", letter.listener or "", letter.identity)
    at = letter.received_at.timestamp() if letter.received_at is not None else 0.0
    return Batch.of([Chunk(letter.route, [letter.frame], origin, at, lambda chunk, runs: None)])
