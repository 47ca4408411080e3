"""
The databases that messages are stored in, each with a store and connections of its own.

What concerns all of them at once: to open routes, to check and replace them, to start and stop.
L{gateway.commit.placed_store} hands batches to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from gateway.commit.placed_store import PlacedStore, raise_first, side_by_side
from gateway.commit.places import Places
from gateway.config.load import Config
from gateway.model.errors import SchemaNewer, StoreError, Unavailable
from gateway.model.route import HOME, Route, by_database
from gateway.model.store import Store
from gateway.postgres.connect.connector import Connector
from gateway.postgres.connect.pool import Pool
from gateway.postgres.store.store import PostgresStore


class HomeStore(Store, Protocol):
    """
    Store of C{[database]}, or at an edge that of another gateway.
    """

    async def open_all(self) -> None: ...

    async def check_routes(self, routes: Sequence[Route], /) -> list[str]: ...

    def replace_routes(
        self, routes: Mapping[str, Route], changed: Collection[str], until: int, oldest: int, /
    ) -> None: ...

    async def durability(self) -> Sequence[str]: ...

    async def close_abandoned_lanes(self) -> None: ...

    async def forget_units(self, seconds: float) -> int: ...


class Databases:
    """
    Databases that messages are stored in.

    @ivar stores: name of each -> its store; L{HOME} is C{[database]}.
    @ivar places: which route is where; C{None} where there is C{[database]} alone.
    @ivar store: the port through which batches are stored.
    """

    def __init__(
        self, home: HomeStore, config: Config, reactor: Any, backoff: Callable[[int], float]
    ) -> None:
        """
        @param home: with the routes that are there; a L{PostgresStore} where there are others.
        @param config: its standbys are none that messages are stored in.
        @param backoff: failed attempts to connect -> seconds to wait.
        """
        self.stores: dict[str, HomeStore] = {HOME: home}
        self.places: Places | None = None
        self.store: Store = home
        self._dsns: dict[str, str] = {}
        self._pools: dict[str, Pool] = {}
        spread: dict[str, PostgresStore] = {}
        lanes = {HOME: config.database.pool_max}
        for name, one in config.databases.items():
            if one.is_replica:
                continue
            connector = Connector.of_process(one, reactor)
            pool = self._pools[name] = Pool(one, reactor, backoff, connector, name=name)
            spread[name] = PostgresStore(pool, routes_in(config.routes, name), one)
            self._dsns[name] = one.dsn
            lanes[name] = one.pool_max
        if spread:
            assert isinstance(home, PostgresStore)
            self._pools[HOME] = home.pool
            self.stores |= spread
            self.places = Places(config.routes, lanes)
            self.store = PlacedStore({HOME: home, **spread}, self.places, self.is_away)

    @property
    def others(self) -> Mapping[str, Pool]:
        """Name of each but C{[database]} -> its connections."""
        return {name: self._pools[name] for name in self._dsns}

    def is_away(self, database: str) -> bool:
        """Say whether a database is known to be out of reach."""
        figures = self._pools[database].figures
        return bool(figures.trouble) and not figures.size

    def is_route_away(self, route: str) -> bool:
        """Say whether the database of a route is known to be out of reach, while others are not."""
        return self.places is not None and self.is_away(self.places.database_of(route))

    # Life.

    def start(self) -> None:
        """Begin to connect to all but C{[database]}."""
        for name, dsn in self._dsns.items():
            self._pools[name].start(dsn)

    def renew(self) -> None:
        """Replace the connections to all but C{[database]}."""
        for pool in self.others.values():
            pool.renew()

    def close(self) -> None:
        """Disconnect from all but C{[database]}."""
        for pool in self.others.values():
            pool.close()

    async def open_all(self) -> None:
        """
        Open every route, see L{PostgresStore.open_all}; those of one database do not wait for
        another one.

        @raise StoreError: the first, when all were tried.
        """
        failed = await self._of_all(lambda store: store.open_all())
        for error in failed.values():
            if isinstance(error, SchemaNewer):
                raise error
        for name, error in failed.items():
            if isinstance(error, StoreError):
                raise error if name == HOME else Unavailable(f"database {name}: {error}")

    async def durability(self) -> list[str]:
        """
        Return the servers' settings that make C{+OK} less durable, one line each.
        """
        found = await self._of_all(lambda store: store.durability())
        return [
            line if name == HOME else f"{name}: {line}"
            for name, lines in found.items()
            if not isinstance(lines, StoreError)
            for line in lines
        ]

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """
        Delete lanes that will never be used again, wherever they are.

        @raise StoreError: some are not deleted.
        """
        raise_first(await self._of_all(lambda store: store.close_lanes(lanes)))

    async def close_abandoned_lanes(self) -> None:
        """Delete the lanes of gateways that ended without a clean stop."""
        raise_first(await self._of_all(lambda store: store.close_abandoned_lanes()))

    async def forget_units(self, seconds: float) -> None:
        """Forget units that were stored longer ago than that."""
        raise_first(await self._of_all(lambda store: store.forget_units(seconds)))

    # Reloads.

    async def check_routes(self, routes: Iterable[Route]) -> list[str]:
        """
        Return the problems that would keep routes from being opened, one line each.

        @raise StoreError: a database could not tell.
        """
        problems = []
        inner = by_database({route.name: route for route in routes})
        for name, store in self.stores.items():
            theirs = routes_in(inner, name)
            if theirs:
                problems += await store.check_routes([*theirs.values()])
        return problems

    def replace_routes(
        self, routes: Mapping[str, Route], changed: Collection[str], generation: int, oldest: int
    ) -> None:
        """
        Replace the definitions of routes, see L{PostgresStore.replace_routes}.

        @param changed: names, of inner routes too.
        """
        for name, store in self.stores.items():
            store.replace_routes(routes_in(routes, name), changed, generation, oldest)
        if self.places is not None:
            self.places.replace(routes)

    async def _of_all(self, ask: Callable[[HomeStore], Any]) -> dict[str, Any]:
        """Ask all side by side; in place of a result there may be a L{StoreError}."""
        return await side_by_side({name: ask(store) for name, store in self.stores.items()})


def routes_in(routes: Mapping[str, Route], database: str) -> dict[str, Route]:
    """Return the routes, inner ones in place of sharded ones, that store in a database."""
    return {
        name: route
        for name, route in by_database(routes).items()
        if (route.database or HOME) == database
    }
