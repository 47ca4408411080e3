"""
Answer each query from its database: C{[database]}, or the one that C{queries.NAME.database} names.

A standby of C{[database]} answers while it is no further behind than it may be. Else, and where it
cannot be reached, the primary does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from gateway.config.load import Database, NamedDatabase
from gateway.metrics.counters import QueryCounters
from gateway.model import wording
from gateway.model.outcome import Outcome
from gateway.model.query import OnOutcome, Query
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.pool import Pool
from gateway.postgres.queries.replica import ReplicaLag
from gateway.postgres.queries.service import PostgresQueries, query_pool


@dataclass(frozen=True, slots=True)
class Place:
    """
    One of C{[databases]}, where queries are answered.

    @ivar dsn: where it is.
    @ivar service: answers queries there.
    @ivar pool: connections of that service.
    @ivar lag: how far it is behind; C{None} where it is no standby of C{[database]}.
    """

    dsn: str
    service: PostgresQueries
    pool: Pool
    lag: ReplicaLag | None


class PlacedQueries:
    """
    Service that hands calls to the database of their query.

    @ivar places: name of each of C{[databases]} -> how queries are answered there.
    @ivar passed_over: calls that C{[database]} answered in place of a standby, by its name.
    """

    def __init__(
        self,
        queries: Mapping[str, Query],
        settings: Database,
        databases: Mapping[str, NamedDatabase],
        share: Pool,
        primary: Pool,
        backoff: Callable[[int], float],
    ) -> None:
        """
        @param settings: of C{[database]}.
        @param share: connections of C{[database]} for queries.
        @param primary: its other connections, over which a standby is compared with it.
        @param backoff: failed attempts to connect -> seconds to wait.
        """
        self.passed_over = dict.fromkeys((n for n, d in databases.items() if d.is_replica), 0)
        self._counters = defaultdict[str, QueryCounters](QueryCounters)
        self._queries = queries
        self._home = PostgresQueries({}, share, settings, self._counters)
        self.places = {
            name: self._place(name, database, share.reactor, primary, backoff)
            for name, database in databases.items()
        }
        self.replace(queries, ())

    def _place(
        self,
        name: str,
        settings: NamedDatabase,
        reactor: Any,
        primary: Pool,
        backoff: Callable[[int], float],
    ) -> Place:
        connector = Connector.of_process(settings, reactor)
        pool = query_pool(settings, reactor, backoff, connector, name)
        service = PostgresQueries({}, pool, settings, self._counters)
        lag = None
        if settings.max_lag is not None:
            # A connection of its own: queries that use all others do not make a standby late.
            alone = replace(settings, pool_min=1, pool_max=1)
            watched = Pool(alone, reactor, backoff, connector, name=name)
            lag = ReplicaLag(watched, primary, settings.max_lag)
            service.fallback = self._fallback(name, lag)
        return Place(settings.dsn, service, pool, lag)

    @property
    def in_flight(self) -> int:
        """Number of calls without an answer."""
        services = [self._home, *(place.service for place in self.places.values())]
        return sum(service.in_flight for service in services)

    @property
    def counters(self) -> Mapping[str, QueryCounters]:
        """Query -> counters of its calls."""
        return {name: self._counters[name] for name in self._queries}

    def start(self, dsn: str) -> None:
        """
        Start the pools, where there are queries; C{dsn} is that of C{[database]}, as for
        L{Pool.start}.
        """
        self._home.start(dsn)
        for place in self.places.values():
            place.service.start(place.dsn)
            if place.lag is not None and place.service.counters:
                place.lag.start(place.dsn)

    async def check(self, queries: Iterable[Query]) -> list[str]:
        """
        Return the problems for which queries could not be called, one line each. Those that a
        standby answers are checked at its primary.

        @raise gateway.model.errors.StoreError: a database could not tell.
        """
        problems = []
        by_service: dict[int, tuple[PostgresQueries, list[Query]]] = {}
        for query in queries:
            place = self._place_of(query)
            service = self._home if place is None or place.lag is not None else place.service
            by_service.setdefault(id(service), (service, []))[1].append(query)
        for service, theirs in by_service.values():
            problems += await service.check(theirs)
        return problems

    def replace(self, queries: Mapping[str, Query], changed: Collection[str]) -> None:
        """
        Replace the queries, see L{PostgresQueries.replace}.
        """
        self._queries = queries
        home = {
            name: query
            for name, query in queries.items()
            if (place := self._place_of(query)) is None or place.lag is not None
        }
        self._home.replace(home, changed)
        for name, place in self.places.items():
            theirs = {key: query for key, query in queries.items() if query.database == name}
            place.service.replace(theirs, changed)
            if place.lag is not None and theirs and place.service.is_started:
                place.lag.start(place.dsn)

    def renew(self) -> None:
        """Replace the connections to C{[databases]}."""
        for place in self.places.values():
            place.pool.renew()
            if place.lag is not None:
                place.lag.pool.renew()

    def close(self) -> None:
        """
        Disconnect, and answer all waiting calls.
        """
        for place in self.places.values():
            place.service.fallback = None
            place.service.close()
            if place.lag is not None:
                place.lag.close()
        self._home.close()

    def ask(self, name: str, arguments: bytes, on_outcome: OnOutcome) -> None:
        query = self._queries.get(name)
        place = None if query is None else self._place_of(query)
        if query is None or place is None:
            self._home.ask(name, arguments, on_outcome)
        elif place.lag is None or place.lag.may_answer():
            place.service.ask(name, arguments, on_outcome)
        else:
            assert query.database is not None
            self.passed_over[query.database] += 1
            self._home.ask(name, arguments, on_outcome)

    def _place_of(self, query: Query) -> Place | None:
        return None if query.database is None else self.places.get(query.database)

    def _fallback(self, name: str, lag: ReplicaLag) -> Callable[..., bool]:
        """Return a function that has the primary answer what a standby did not."""

        def fall_back(answer: Outcome, query: str, arguments: bytes, on_outcome: OnOutcome) -> bool:
            if answer is wording.NO_CONNECTION:
                lag.lose("it did not answer a call")
            elif answer is not wording.QUERIES_BUSY or lag.may_answer():
                return False
            self.passed_over[name] += 1
            self._home.ask(query, arguments, on_outcome)
            return True

        return fall_back
