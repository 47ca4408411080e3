"""
Routes: the table that messages are stored in, and the source of each column's value.

The user's names are put into SQL here and nowhere else, always quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Final, Literal

HOME: Final = "database"
"""Name of C{[database]} where databases are told apart; none of C{[databases]} has it."""

FormatName = Literal[
    "text",
    "json",
    "csv",
    "logfmt",
    "regex",
    "syslog",
    "influx",
    "hl7",
    "gelf",
    "msgpack",
    "cbor",
    "python",
]

BINARY_FORMATS: Final[frozenset[FormatName]] = frozenset(("msgpack", "cbor"))
"""Formats whose messages are no text: any byte may be in them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """
    Format of a route's messages, and its settings.

    @ivar names: names of the values of a csv record, in order.
    @ivar delimiter: of csv: one character, or C{whitespace}.
    @ivar pattern: of regex.
    @ivar charset: of hl7: character set of messages that name none, as MSH-18 would; C{""}: UTF-8.
    @ivar function: of python: C{package.module:name}, or the name of an entry point.
    """

    format: FormatName = "text"
    names: tuple[str, ...] = ()
    delimiter: str = ","
    pattern: str = ""
    charset: str = ""
    function: str = ""


TEXT: Final = Reading()
"""A message is one value."""


FRAME: Final = "@frame"

METADATA: Final = ("@peer", "@listener", "@received_at", "@identity")
"""Sources of what the gateway itself knows of a message."""

SOURCES: Final = (FRAME, *METADATA)
"""Sources of a column's value beside the message's own fields."""

CONSTANT: Final = ""
"""The source of a value that the configuration gives: that of no field."""

Conflict = Literal["error", "ignore", "update"]

DEFAULT_COLUMNS: Final = {
    "id": "bigint generated always as identity primary key",
    "received_at": "timestamptz not null default now()",
    "peer": "text",
    "body": "text not null",
}
"""The table that C{create = true} makes where nothing else is said."""


_UNIQUE: Final = re.compile(r"\b(primary\s+key|unique)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Value:
    """
    Source of a column's value.

    @ivar source: one of L{SOURCES}, a field of the message, or L{CONSTANT}.
    @ivar default: text of the value that is stored where the message has no such field.
    @ivar required: whether a message without the field is refused.
    """

    source: str
    default: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """
    Route as configured.

    @ivar table: C{table} or C{schema.table}, each name taken as it is written; C{""} where
        the route has C{sql}.
    @ivar columns: column -> where its value comes from.
    @ivar create_columns: column -> SQL type, or C{None}: the table is not created.
    @ivar dead_letter: whether refused messages are kept.
    @ivar reading: how messages become fields.
    @ivar conflict: action for a row whose key exists already.
    @ivar key: the columns of that key, for which there is a unique index.
    @ivar returning: columns whose values are told with C{+OK}.
    @ivar sql: the user's own statement, instead of a table; the columns are then the names
        of its parameters.
    @ivar timezone: time zone of times that name none; C{None}: local for syslog, UTC for all
        others.
    @ivar samples: messages that it must take, for C{gateway check}; no part of what it is.
    @ivar database: name of one of C{[databases]} that holds its table; C{None}: C{[database]}.
    @ivar shard_by: field whose value chooses among C{shards}; C{""}: it has none.
    @ivar shards: names of databases that hold a table each; messages are stored by the inner
        routes that L{by_database} makes.
    """

    name: str
    table: str
    columns: Mapping[str, Value]
    create_columns: Mapping[str, str] | None = None
    dead_letter: bool = False
    reading: Reading = TEXT
    conflict: Conflict = "error"
    key: tuple[str, ...] = ()
    returning: tuple[str, ...] = ()
    sql: str = ""
    timezone: tzinfo | None = None
    samples: tuple[bytes, ...] = field(default=(), compare=False)
    database: str | None = None
    shard_by: str = ""
    shards: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the databases in which it stores."""
        return self.shards or (self.database or HOME,)

    @property
    def fields(self) -> list[str]:
        """The fields of a message that columns take their values from."""
        sources = dict.fromkeys(value.source for value in self.columns.values())
        return [source for source in sources if source not in SOURCES and source != CONSTANT]

    @property
    def updated_columns(self) -> list[str]:
        """
        The columns that C{conflict = "update"} sets.

        Where a row has only key columns, the first of these, so that the row counts as updated and
        RETURNING gives its values.
        """
        return [column for column in self.columns if column not in self.key] or [*self.key[:1]]


def inner_name(route: str, database: str) -> str:
    """Return the name of the inner route that stores a sharded route's messages in a database."""
    return f"{route}@{database}"


def by_database(routes: Mapping[str, Route]) -> dict[str, Route]:
    """
    Return routes with an inner one for each shard in place of those that have shards, so that each
    stores in one database.
    """
    found: dict[str, Route] = {}
    for name, route in routes.items():
        if not route.shards:
            found[name] = route
        for shard in route.shards:
            inner = inner_name(name, shard)
            place = None if shard == HOME else shard
            found[inner] = replace(route, name=inner, database=place, shard_by="", shards=())
    return found


def identifier(name: str) -> str:
    """Quote a name for SQL, exactly as it is written."""
    return '"' + name.replace('"', '""') + '"'


def table_identifier(table: str) -> str:
    """Quote C{schema.table} or C{table} for SQL."""
    return ".".join(identifier(part) for part in table.split(".", 1))


def create_sql(route: Route, schema: str) -> str:
    """
    Return the statement that creates the route's table if it is missing.

    @param schema: used where the route names none.
    """
    table = table_identifier(route.table)
    if "." not in route.table:
        table = f"{identifier(schema)}.{table}"
    create = route.create_columns or {}
    parts = [f"{identifier(name)} {sql_type}" for name, sql_type in create.items()]
    if route.key and not (len(route.key) == 1 and _UNIQUE.search(create.get(route.key[0], ""))):
        parts.append(f"UNIQUE ({', '.join(map(identifier, route.key))})")
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(parts)})"
