"""
Places: which database each route stores in, and which shard each message of a sharded route.

A sharded route is one inner route for each of its shards (L{gateway.model.route.by_database}); what
is behind the writer knows these alone. The shard of a message is the one with the highest score
among them, by rendezvous hashing over their names and the text of a field: who adds a shard gives
it a part of every other's values, and moves none between the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

from gateway.columns.structured import scalar
from gateway.formats.fields import Tokens
from gateway.formats.registry import format_of
from gateway.model.route import HOME, Route, by_database, inner_name

_KEPT: Final = 65_536
"""Values whose shard is remembered, of each route; each takes some hundred bytes."""

_BETWEEN: Final = "\x1f"
"""Stands between JSON's values, which hold no control characters other than whitespace."""


def shard_of(shards: Sequence[str], value: str) -> str:
    """
    Return the shard of a value: the one with the highest score, which is the first eight bytes of
    BLAKE2b (C{digest_size=8}) over its name, a NUL and the value, in UTF-8.

    @param shards: names of databases, in any order.
    """
    text = value.encode(errors="surrogateescape")

    def score(shard: str) -> tuple[bytes, str]:
        return blake2b(b"%b\0%b" % (shard.encode(), text), digest_size=8).digest(), shard

    return max(shards, key=score)


class ShardChooser:
    """
    Choice of the inner route of each message of a sharded route.

    A message without the field, with C{null}, or not of the format counts as one with an empty
    value; what its route refuses is refused there.
    """

    def __init__(self, route: Route) -> None:
        """
        @param route: one with shards.
        """
        self._field = route.shard_by
        self._format = format_of(route.reading, [route.shard_by], route.timezone)
        names = {shard: inner_name(route.name, shard) for shard in route.shards}

        def inner_of(value: str | None) -> str:
            return names[shard_of(route.shards, value or "")]

        def inner_of_token(token: str) -> str:
            if token == "null":
                return inner_of(None)
            try:
                return inner_of(scalar(token))
            except msgspec.DecodeError:
                return inner_of(token)  # not UTF-8

        self._inner_of: Callable[[str | None], str] = lru_cache(_KEPT)(inner_of)
        self._inner_of_token: Callable[[str], str] = lru_cache(_KEPT)(inner_of_token)

    def inner_routes(self, frames: Sequence[bytes]) -> list[str]:
        """Return the name of the inner route of each message."""
        fields = self._format.parse_frames(frames)
        cells = fields.cells[self._field]
        if not isinstance(cells, Tokens):
            inner = list(map(self._inner_of, cells.values))
        else:
            # What is not UTF-8 becomes an escape that JSON does not have.
            joined = _BETWEEN.encode().join(cells.values).decode(errors="backslashreplace")
            inner = list(map(self._inner_of_token, joined.split(_BETWEEN)))
        for row, _ in fields.faults:
            inner[row] = self._inner_of(None)
        return inner


class Places:
    """
    Databases of all routes.

    @ivar lanes: name of each database that messages are stored in -> how many commits at once.
    @ivar shards: sharded route -> the choice among its inner routes.
    """

    def __init__(self, routes: Mapping[str, Route], lanes: Mapping[str, int]) -> None:
        self.lanes = lanes
        self.shards: dict[str, ShardChooser] = {}
        self._databases: dict[str, str] = {}
        self._routes: dict[str, Route] = {}
        self.replace(routes)

    def replace(self, routes: Mapping[str, Route]) -> None:
        """Take other routes over; those that are gone keep their databases."""
        for name, route in by_database(routes).items():
            self._databases[name] = route.database or HOME
        choosers = {}
        for name, route in routes.items():
            if route.shards:
                known = self.shards.get(name) if self._routes.get(name) == route else None
                choosers[name] = known or ShardChooser(route)
        self.shards, self._routes = choosers, dict(routes)

    def database_of(self, route: str) -> str:
        """Return the name of the database that a route stores in."""
        return self._databases.get(route, HOME)

    def beside(self, route: str, others: Iterable[str]) -> list[str]:
        """Return those of other routes that store in the same database."""
        database = self.database_of(route)
        return [other for other in others if self.database_of(other) == database]
