"""
The databases of a schedule, and which route is in which.

Most schedules have one database. Every third one has two, each with faults of its own: routes of
either, and maybe one that is spread over both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from random import Random
from typing import Final

from gateway.commit.places import Places
from gateway.model.route import HOME, Reading, Route, Value, by_database
from tests.simulation.database import Database, Row

ROUTES: Final[tuple[str, ...]] = ("one", "two")

SHARDED: Final = "three"
"""Route that is spread over two databases."""

DEAD_LETTERS: Final = frozenset({"two"})
"""Routes whose refused messages are kept."""

SECOND: Final = "second"
"""The other database, where there are two."""


class Layout:
    """
    Databases of a schedule, and their routes.

    @ivar routes: those that peers name.
    @ivar inner: those that messages are stored by -> the database of each.
    @ivar places: C{None}: there is one database.
    @ivar unit_routes: those that units may have messages for.
    """

    def __init__(self, databases: Sequence[Database], routes: Mapping[str, Route] | None) -> None:
        """
        @param routes: C{None}: all are in the one database.
        """
        self.databases: Mapping[str, Database] = {each.name: each for each in databases}
        self.home = self.databases[HOME]
        self.places: Places | None = None
        self.routes = self.unit_routes = ROUTES
        self.inner: Mapping[str, Database] = dict.fromkeys(ROUTES, self.home)
        for each in databases:
            each.all = databases
        if routes is not None:
            places = self.places = Places(routes, dict.fromkeys(self.databases, 1))
            self.routes = tuple(routes)
            self.unit_routes = tuple(sorted([*DEAD_LETTERS, *places.beside("two", {"one"})]))
            self.inner = {
                name: self.databases[places.database_of(name)] for name in by_database(routes)
            }

        for each in databases:
            each.routes = {name for name, database in self.inner.items() if database is each}

    @property
    def setbacks(self) -> int:
        """How often a database was set back."""
        return sum(each.setbacks for each in self.databases.values())

    @property
    def closed(self) -> list[str]:
        """Routes that are out of service."""
        return sorted(set().union(*[each.memory.closed for each in self.databases.values()]))

    def holds(self, body: bytes) -> bool:
        """Whether a message is in a table, or among the dead letters."""
        return any(body in each.held or body in each.dead for each in self.databases.values())

    @property
    def table(self) -> Sequence[Row]:
        """All messages in tables, in the order of their commits."""
        tables = [each.table for each in self.databases.values()]
        # Messages of one commit stay in their order.
        return tables[0] if len(tables) == 1 else sorted(chain(*tables), key=_commit)


def spread_routes(draw: Random) -> dict[str, Route]:
    """Draw in which of two databases each route is."""
    homes = draw.choice(((None, SECOND), (SECOND, None), (SECOND, SECOND), (None, None)))
    routes = {
        name: Route(name, name, {}, database=home) for name, home in zip(ROUTES, homes, strict=True)
    }
    if homes[0] == homes[1] or draw.random() < 0.5:
        routes[SHARDED] = Route(
            *(SHARDED, SHARDED, {"body": Value("body")}),
            reading=Reading("csv", names=("body",)),
            shard_by="body",
            shards=(HOME, SECOND),
        )
    return routes


def _commit(row: Row) -> int:
    return row.commit
