"""
Queries without the wire: coroutines that call them, each with one call in flight.

Run by C{benchmarks.queries} in a process of its own: C{python -m benchmarks.inside DSN
CLIENTS SECONDS} prints calls a second.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from benchmarks.queries import ROWS, SQL
from gateway.commands.reactor import run
from gateway.config.load import Database as Settings
from gateway.model.outcome import Listing
from gateway.model.query import Param, Query
from gateway.postgres.queries.service import PostgresQueries, query_pool


async def measure(reactor: Any, dsn: str, clients: int, seconds: float) -> float:
    """
    @return: calls a second.
    @raise RuntimeError: an answer is not the row.
    """
    settings = Settings(dsn=dsn)
    query = Query("balance", SQL, {"aid": Param("integer")})
    pool = query_pool(settings, reactor, lambda attempt: 0.1)
    queries = PostgresQueries({query.name: query}, pool, settings)
    queries.start(dsn)
    await queries.answer_call("balance", b"[1]")
    begun = time.monotonic()

    async def client() -> int:
        count = 0
        while time.monotonic() - begun < seconds:
            answer = await queries.answer_call("balance", b'{"aid":%d}' % random.randint(1, ROWS))
            if not isinstance(answer, Listing) or answer.rows != [b'{"abalance":0}']:
                raise RuntimeError(f"answered {answer!r}")
            count += 1
        return count

    counts = await gatherResults([Deferred.fromCoroutine(client()) for _ in range(clients)])
    queries.close()
    return sum(counts) / (time.monotonic() - begun)


def main() -> None:
    dsn, clients, seconds = sys.argv[1:]

    async def work(reactor: Any) -> int:
        print(await measure(reactor, dsn, int(clients), float(seconds)))
        return 0

    run(work)


if __name__ == "__main__":
    main()
