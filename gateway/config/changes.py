"""
Compare two configurations: what a reload takes over, and what has to wait for the next start.

Pure. No value that may hold a secret becomes part of a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.access.grants import AccessSection
from gateway.config.listener import Listener
from gateway.config.load import Config
from gateway.model.query import Query
from gateway.model.route import HOME, Route

AT_ONCE: Final = (
    *("allow", "deny", "trusted_proxies", "max_connections", "max_connections_per_address"),
    *("messages_per_second", "bytes_per_second", "burst", "window"),
    *("frame_timeout", "write_timeout", "idle_timeout", "route", "route_by", "routes"),
    *("remember_chunks", "hl7", "try_"),
    *("gelf", "trim_end"),
)
"""Keys of a listener that a reload takes over for all its peers."""

NEW_CONNECTIONS: Final = (
    *(
        "framing",
        "delimiter",
        "dialect",
        "max_frame",
        "max_chunk",
        "shared_key_file",
        "users_file",
        "ack",
        "nak",
        "telnet",
        "refuse_http",
        "auth",
        "tls",
    ),
    *("first_frame_timeout", "keepalive", "user_timeout", "no_delay"),
)
"""Keys of a listener that a reload takes over for peers that connect from then on."""

PORT: Final = ("backlog", "reuse_port", "send_buffer", "receive_buffer", "socket_mode")
"""Keys of a listener, with C{socket_owner}, for which its port is opened anew; peers stay."""

REOPENS: Final = (*PORT, "socket_owner")

_RESTART: Final = "not taken over, needs a restart"

_ROUTE_KEYS: Final = {"create_columns": "create", "reading": "format"}
"""Attribute of a L{Route} -> key in the configuration, where these differ."""


class Changes(NamedTuple):
    """
    Differences between the configuration in force and a new one.

    @ivar lines: changes that a reload takes over, one line each.
    @ivar waiting: those that it does not, one line each.
    @ivar routes: names of routes that are added or changed.
    @ivar removed_routes: names of those that are removed.
    @ivar queries: names of queries that are added or changed.
    """

    lines: list[str]
    waiting: list[str]
    routes: list[str]
    removed_routes: list[str]
    queries: list[str]


def changes_of(before: Config, after: Config, started: Config, *, has_spool: bool) -> Changes:
    """
    Compare configurations.

    @param before: the one in force.
    @param started: the one at the start of the gateway; keys that are not taken over are as it
        says, and differences are named as long as they last.
    @param has_spool: whether the gateway has a spool.
    """
    routes = _definitions("route", before.routes, after.routes)
    queries = _definitions("query", before.queries, after.queries)
    changed_routes = [name for name, what in routes.items() if what != "removed"]
    lines = [
        *(f"route {name}: {what}" for name, what in routes.items()),
        *(f"query {name}: {what}" for name, what in queries.items()),
        *_channels(before, after),
        *_listeners(before.listeners, after.listeners),
        *_handshakes(before, after),
        *_access(before.access, after.access),
        *_values("limits", before.limits, after.limits),
        *_values("log", before.log, after.log),
        *_values("http", before.http, after.http, ["allow", "deny"]),
    ]
    spool = _values("spool", before.spool, after.spool, ["max_bytes", "on_outage"])
    waiting = [
        *_keys("process", started.process, after.process),
        *_keys("database", started.database, after.database),
        *_databases(started, after),
        *_relay(started, after),
        *_keys("channels", started.channels, after.channels, ["dsn", "dsn_file"]),
        *_keys("spool", started.spool, after.spool, ["path"]),
        *_keys("http", started.http, after.http, ["endpoint"]),
        *_keys("admin", started.admin, after.admin),
    ]
    if started.http.tls is None or after.http.tls is None:
        waiting += _keys("http", started.http, after.http, ["tls"])
    else:
        lines += [
            f"{key}: changed, for new connections"
            for key in _keys("http", before.http, after.http, ["tls"])
        ]
    if has_spool:
        lines += spool
    else:
        waiting += _keys("spool", started.spool, after.spool, ["max_bytes", "on_outage"])
    return Changes(
        lines,
        [f"{key}: {_RESTART}" for key in waiting],
        changed_routes,
        [name for name, what in routes.items() if what == "removed"],
        [name for name, what in queries.items() if what != "removed"],
    )


def _relay(started: Config, after: Config) -> Iterator[str]:
    """Yield what of [relay] has to wait."""
    if started.relay is None or after.relay is None:
        if started.relay is not after.relay:
            yield "relay"
    else:
        yield from _keys("relay", started.relay, after.relay)


def _definitions(
    kind: str, before: Mapping[str, Route | Query], after: Mapping[str, Route | Query]
) -> dict[str, str]:
    """Return what happens to each route or query that changes."""
    found = {}
    for name in [*after, *(name for name in before if name not in after)]:
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            found[name] = "added" if old is None else "removed"
        elif keys := [
            _ROUTE_KEYS.get(key, key)
            for key in type(new).__dataclass_fields__
            if not _is_same(getattr(old, key), getattr(new, key))
        ]:
            found[name] = f"changed: {', '.join(keys)}"
    return found


def _is_same(value: object, present: object) -> bool:
    """Say whether values are equal, and where they are mappings, have the same order."""
    if isinstance(value, Mapping) and isinstance(present, Mapping) and [*value] != [*present]:
        return False
    return value == present


def _databases(started: Config, after: Config) -> Iterator[str]:
    """Name the keys of C{[databases]} that are others than at the start."""
    old, new = started.databases, after.databases
    for name in [*new, *(name for name in old if name not in new)]:
        if name in old and name in new:
            yield from _keys(f"databases.{name}", old[name], new[name])
        else:
            yield f"databases.{name}"


def moved_places(before: Config, started: Config, after: Config) -> list[str]:
    """
    Return a problem for each query or route that is to have a database that the gateway was not
    started with, and for each route whose messages would be stored elsewhere from now on: what is
    in flight, or in the spool, may be stored where they were.
    """
    problems = [
        f"queries.{query.name}.database: [databases.{query.database}] is new, and needs a restart"
        for query in after.queries.values()
        if query.database is not None and query.database not in started.databases
    ]
    for route in after.routes.values():
        key = f"routes.{route.name}.{'shards' if route.shards else 'database'}"
        problems += [
            f"{key}: [databases.{name}] is new, and needs a restart"
            for name in route.places
            if name != HOME and name not in started.databases
        ]
        old = before.routes.get(route.name)
        if old is not None and (old.places, old.shard_by) != (route.places, route.shard_by):
            problems.append(f"{key}: another database needs a restart")
    return problems


def _channels(before: Config, after: Config) -> Iterator[str]:
    old, new = before.channels, after.channels
    for name in new.allow:
        if name not in old.allow:
            yield f"channel {name}: added"
    for name in old.allow:
        if name not in new.allow:
            yield f"channel {name}: removed, its subscribers are disconnected"
    yield from _values("channels", old, new, ["push_buffer"])


def _listeners(before: Mapping[str, Listener], after: Mapping[str, Listener]) -> Iterator[str]:
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            yield f"listener {name}: added, {new.endpoint}"
            continue
        if old.endpoint != new.endpoint:
            yield (
                f"listener {name}: endpoint {old.endpoint} -> {new.endpoint}, its peers are"
                " disconnected after their answers"
            )
        for key in Listener.__struct_fields__:
            value, present = getattr(old, key), getattr(new, key)
            if key == "endpoint" or value == present:
                continue
            scope = "at once"
            if key in NEW_CONNECTIONS:
                scope = "for new connections"
            elif key in REOPENS:
                scope = "its port is opened anew"
            change = f"{_shown(value)} -> {_shown(present)}"
            if key in ("tls", "hl7"):
                change = "changed"
            if key == "tls" and (value is None or present is None):
                change = "added" if value is None else "removed"
                scope = "its peers are disconnected after their answers"
            yield f"listener {name}: {key.rstrip('_')} {change}, {scope}"
    for name in before:
        if name not in after:
            yield f"listener {name}: removed, its peers are disconnected after their answers"


def _handshakes(before: Config, after: Config) -> Iterator[str]:
    """Tell of files with other secrets than before, which are not shown."""
    for name, secrets in after.handshakes.items():
        old = before.handshakes.get(name)
        if old is not None and old != secrets:
            yield f"listener {name}: shared key or users changed; who knew others is disconnected"


def _access(old: AccessSection | None, new: AccessSection | None) -> Iterator[str]:
    if old is None or new is None:
        if new is not None:
            yield "access: added"
        return
    for name in [*new.grants, *(name for name in old.grants if name not in new.grants)]:
        if name not in old.grants:
            yield f"access.grants.{name}: added"
        elif name not in new.grants:
            yield f"access.grants.{name}: removed"
        elif old.grants[name] != new.grants[name]:
            yield f"access.grants.{name}: changed"
    yield from _values("access", old, new, ["deny", "tokens"])


def _values(section: str, old: Struct, new: Struct, keys: list[str] | None = None) -> Iterator[str]:
    for key in new.__struct_fields__ if keys is None else keys:
        value, present = getattr(old, key), getattr(new, key)
        if value != present:
            yield f"{section}.{key}: {_shown(value)} -> {_shown(present)}"


def _keys(section: str, old: Struct, new: Struct, keys: list[str] | None = None) -> list[str]:
    return [
        f"{section}.{key}"
        for key in (new.__struct_fields__ if keys is None else keys)
        if getattr(old, key) != getattr(new, key)
    ]


def _shown(value: object) -> str:
    match value:
        case None | ():
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{key} = {name}" for key, name in value.items())
    return str(value)
