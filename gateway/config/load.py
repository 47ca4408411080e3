"""
Configuration: TOML -> one frozen L{Config}, or all problems at once.

The sections are msgspec structs: a key exists in one place, here, with its type and its default.
L{gateway.config.reader} turns tables into structs.

Pure: the text of the file comes in, and no file is opened. Checks that need more, such as an
endpoint's syntax, are functions passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from gateway.access.grants import AccessSection
from gateway.config.access import check_access
from gateway.config.channel import ChannelsSection, check_channels
from gateway.config.listener import Listener, check_listener, resolved
from gateway.config.operator import (
    AdminSection,
    HttpSection,
    LogSection,
    check_admin,
    check_http,
    resolved_admin,
    resolved_http,
)
from gateway.config.paths import ConfigPaths
from gateway.config.process import ProcessSection
from gateway.config.query import DEFAULT_QUERIES, QuerySection, queries_of
from gateway.config.reader import SectionReader
from gateway.config.relay import RelaySection, check_edge, relay_of
from gateway.config.route import DEFAULT_ROUTES, RouteSection, knows_reading, routes_of
from gateway.config.toml import tables_of
from gateway.config.units import IN_BYTES, IN_SECONDS, Bytes, Count, Seconds
from gateway.config.variables import Variables
from gateway.model.errors import ConfigError
from gateway.model.query import Query
from gateway.model.route import HOME, Route, by_database
from gateway.model.text import meant
from gateway.system.endpoint_text import EndpointFault
from gateway.wire.forward_handshake import HandshakeSecrets
from gateway.wire.protocols import PROTOCOLS

EMBEDDED: Final = "embedded"

MAX_TIMEOUT: Final = 2_147_483
"""Seconds that PostgreSQL's C{statement_timeout} can say: it counts milliseconds in 32 bits."""

_ANY_PORT: Final = re.compile(r"\w+:(port=)?0+(:|$)")


class Database(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[database]}: where PostgreSQL is, and its pool. Durations are in seconds.

    @ivar dsn: C{embedded}, or any libpq URI or conninfo; C{""} for PG* variables alone.
    @ivar dsn_file: file that holds it instead; C{credential:NAME} for a systemd credential.
    @ivar answer_timeout: limit for the reply to a batch; after it the batch goes to the spool.
    @ivar query_connections: most connections used by queries, in addition to C{pool_max}.
    """

    dsn: str = EMBEDDED
    dsn_file: str | None = None
    pool_min: Count = 2
    pool_max: Count = 8
    query_connections: Count = 2
    acquire_timeout: Seconds = 5.0
    answer_timeout: Seconds = 5.0
    connect_timeout: Seconds = 5.0
    statement_timeout: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT, extra=IN_SECONDS)] = 30.0
    recycle_after: Seconds = 1800.0
    idle_timeout: Seconds = 300.0

    @property
    def dsn_key(self) -> str:
        """Name of the key that gives the connection string."""
        return "database.dsn" if self.dsn_file is None else "database.dsn_file"


class NamedDatabase(Database, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[databases.NAME]}: another database, with a pool of its own.

    @ivar max_lag: seconds that a standby of C{[database]} may be behind it; C{None}: it is no
        standby, but a database of its own.
    """

    dsn: str = ""
    max_lag: Seconds | None = None

    @property
    def is_replica(self) -> bool:
        """Whether it only answers queries, and C{[database]} does where it cannot."""
        return self.max_lag is not None


def dsn_key_of(name: str, database: Database) -> str:
    """Return the key that gives the connection string of one of C{[databases]}."""
    return f"databases.{name}.dsn" if database.dsn_file is None else f"databases.{name}.dsn_file"


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[limits]}: limits of the whole process.

    @ivar connections: most connections of peers; fewer where the process may not open so many
        files.
    @ivar bytes_in_flight: cap on the bytes held for peers, see L{gateway.commit.inflight_limit}.
    @ivar drain_timeout: seconds that a stop waits for answers in flight.
    @ivar drain_delay: seconds for which a stop says that it drains before listeners close, so that
        a balancer sends nobody here any more.
    """

    connections: Count = 16_384
    bytes_in_flight: Bytes = 64 * 1024 * 1024
    drain_timeout: Seconds = 10.0
    drain_delay: Annotated[float, Meta(ge=0, extra=IN_SECONDS)] = 0.0


class SpoolSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section C{[spool]}: the file in which messages wait during an outage of the database.

    @ivar path: C{None}: C{spool.db} in the data directory.
    @ivar max_bytes: most bytes on disk, the write-ahead log included.
    @ivar on_outage: whether messages are spooled (C{+QUE}) or refused (C{-TRY DOWN}).
    """

    path: str | None = None
    max_bytes: Annotated[int, Meta(ge=1024 * 1024, extra=IN_BYTES)] = 1024 * 1024 * 1024
    on_outage: Literal["spool", "refuse"] = "spool"


class Config(Struct, frozen=True, kw_only=True):
    """
    Whole configuration.

    @ivar relay: the centre that stores the messages in place of C{database}; mostly C{None}.
    @ivar handshakes: listener -> what the peers of its forward protocol have to know; from files.
    """

    process: ProcessSection = field(default_factory=ProcessSection)
    database: Database = field(default_factory=Database)
    databases: dict[str, NamedDatabase] = field(default_factory=dict)
    relay: RelaySection | None = None
    limits: Limits = field(default_factory=Limits)
    spool: SpoolSection = field(default_factory=SpoolSection)
    channels: ChannelsSection = field(default_factory=ChannelsSection)
    access: AccessSection | None = None
    http: HttpSection = field(default_factory=HttpSection)
    admin: AdminSection = field(default_factory=AdminSection)
    log: LogSection = field(default_factory=LogSection)
    listeners: dict[str, Listener] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    handshakes: dict[str, HandshakeSecrets] = field(default_factory=dict)


_SECTIONS: Final = tuple(key for key in Config.__struct_fields__ if key != "handshakes")
"""Keys of the file."""


DEFAULT_LISTENERS: Final = {
    "lines": Listener(endpoint="tcp:8000:interface=127.0.0.1", route="messages"),
    "netstrings": Listener(
        endpoint="tcp:8001:interface=127.0.0.1", framing="netstring", route="messages"
    ),
    "commands": Listener(endpoint="tcp:8002:interface=127.0.0.1", dialect="command"),
}


def default_config() -> Config:
    """
    Return the configuration used where there is no file.
    """
    return Config(
        listeners=DEFAULT_LISTENERS,
        routes=routes_of(DEFAULT_ROUTES, SectionReader("")),
        queries=queries_of(DEFAULT_QUERIES, SectionReader("")),
    )


def load_config(
    text: str,
    path: PurePath,
    endpoint_fault: EndpointFault,
    credentials: PurePath | None = None,
) -> Config:
    """
    Read a configuration file.

    @param text: its content.
    @param path: its path, for messages; relative paths in the file start at its folder.
    @param credentials: C{$CREDENTIALS_DIRECTORY} of systemd.
    @raise ConfigError: with every problem.
    """
    return config_of_tables(tables_of(text, str(path)), path, endpoint_fault, credentials)


def config_of_tables(
    data: Mapping[str, Any],
    path: PurePath,
    endpoint_fault: EndpointFault,
    credentials: PurePath | None = None,
) -> Config:
    """
    Do the same as L{load_config}, from the tables of a file.
    """
    drafted = draft(data, path, endpoint_fault, credentials)
    if drafted.problems:
        raise ConfigError(drafted.problems)
    return drafted.config


class Draft(NamedTuple):
    """
    Configuration together with its problems.

    @ivar config: the configuration; where there are problems, only fit to search for more of them:
        the files and servers whose keys could not be read are left out.
    @ivar problems: one line each.
    """

    config: Config
    problems: list[str]


def draft(
    data: Mapping[str, Any],
    path: PurePath,
    endpoint_fault: EndpointFault,
    credentials: PurePath | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Draft:
    """
    Do the same as L{config_of_tables}, for a caller that adds problems of its own before it
    reports them.

    @param environment: variables that strings of the file may name.
    """
    reader = SectionReader(str(path))
    data = Variables(environment, reader).replaced("", data)
    reader.check_keys("", data, _SECTIONS)
    config_paths = ConfigPaths(path.parent, credentials)
    process = reader.section("process", data.get("process", {}), ProcessSection)
    database = reader.section("database", data.get("database", {}), Database) or Database()
    database = config_paths.resolved(reader, "database", database, ["dsn_file"])
    databases = _read_databases(reader, data.get("databases", {}), config_paths)
    limits = reader.section("limits", data.get("limits", {}), Limits) or Limits()
    spool = reader.section("spool", data.get("spool", {}), SpoolSection) or SpoolSection()
    spool = config_paths.resolved(reader, "spool", spool, ["path"])
    channels = reader.section("channels", data.get("channels", {}), ChannelsSection)
    channels = config_paths.resolved(
        reader, "channels", channels or ChannelsSection(), ["dsn_file"]
    )
    check_channels(reader, channels)
    http = reader.section("http", data.get("http", {}), HttpSection) or HttpSection()
    http = resolved_http(reader, http, config_paths)
    check_http(reader, http, endpoint_fault)
    admin = reader.section("admin", data.get("admin", {}), AdminSection) or AdminSection()
    admin = resolved_admin(admin, config_paths)
    check_admin(reader, admin, endpoint_fault)
    log = reader.section("log", data.get("log", {}), LogSection) or LogSection()
    relay = relay_of(data, reader, config_paths)
    access = None
    if "access" in data:
        access = reader.section("access", data["access"], AccessSection)
    if access is not None:
        access = config_paths.resolved(reader, "access", access, ["tokens"])
    if database.dsn_file is not None and "dsn" in data["database"]:
        reader.note_unknown("database.dsn_file", "database.dsn is there too; leave one of them out")
    sections = reader.sections("routes", data.get("routes", {}), RouteSection)
    listeners = reader.sections("listeners", data.get("listeners", {}), Listener)
    # Names that are there but faulty are not "missing" as well.
    route_names, query_names = (_keys_of(data.get(key)) for key in ("routes", "queries"))
    if "routes" not in data:
        sections = dict(DEFAULT_ROUTES)
        route_names = list(DEFAULT_ROUTES)
    if "listeners" not in data:
        listeners = dict(DEFAULT_LISTENERS)
    _check_pool(reader, "database", database)
    routes = routes_of(sections, reader, stores=relay is None)
    query_sections = reader.sections("queries", data.get("queries", {}), QuerySection)
    queries = queries_of(query_sections, reader)
    _check_places(reader, databases, _keys_of(data.get("databases")), queries, routes)
    reading = {name: route for name, route in routes.items() if knows_reading(reader, name)}
    used: dict[str, str] = {}
    for name, listener in listeners.items():
        listener = resolved(reader, name, listener, config_paths)
        listeners[name] = listener
        check_listener(reader, name, listener, route_names, reading, endpoint_fault)
        if listener.dialect in PROTOCOLS and "framing" in data["listeners"][name]:
            reader.note(
                f"listeners.{name}.framing",
                f"is what {listener.dialect} brings itself; leave it out",
            )
        _check_units(reader, name, listener, routes)
        if not reader.is_sure(f"listeners.{name}.endpoint"):
            continue
        other = used.setdefault(listener.endpoint, name)
        if other != name and not _ANY_PORT.match(listener.endpoint):
            reader.note(
                f"listeners.{name}.endpoint", f"is that of listeners.{other} too; give it its own"
            )
    if access is not None or "access" not in data:
        check_access(reader, access, listeners, route_names, query_names, channels.allow)
    if relay is not None:
        check_edge(reader, data, listeners, route_names)
    if not listeners and not data.get("listeners"):
        reader.note("listeners", "there is none; nobody could connect")
    config = Config(
        process=process or ProcessSection(),
        database=database,
        databases=databases,
        relay=relay,
        limits=limits,
        spool=spool,
        channels=channels,
        access=access,
        http=http,
        admin=admin,
        log=log,
        listeners=listeners,
        routes=routes,
        queries=queries,
    )
    return Draft(_without_doubts(config, reader) if reader.problems else config, reader.problems)


def _read_databases(
    reader: SectionReader, tables: Any, config_paths: ConfigPaths
) -> dict[str, NamedDatabase]:
    """Read the sections C{[databases.NAME]}."""
    databases = reader.sections("databases", tables, NamedDatabase)
    for name, database in databases.items():
        where = f"databases.{name}"
        if not name or name == HOME:
            reader.note(where, f"is no name: give it one that is not empty and not {HOME!r}")
        databases[name] = config_paths.resolved(reader, where, database, ["dsn_file"])
        given = tables[name]
        if database.dsn == EMBEDDED:
            reader.note(f"{where}.dsn", "the embedded server is [database] alone; name another one")
        elif database.dsn_file is not None and "dsn" in given:
            reader.note_unknown(
                f"{where}.dsn_file", f"{where}.dsn is there too; leave one of them out"
            )
        elif "dsn" not in given and "dsn_file" not in given:
            reader.note_unknown(f"{where}.dsn", "is missing; it or dsn_file says where it is")
        _check_pool(reader, where, database)
    return databases


def _check_pool(reader: SectionReader, where: str, database: Database) -> None:
    keys = (f"{where}.pool_min", f"{where}.pool_max")
    if database.pool_min > database.pool_max and reader.is_sure(*keys):
        reader.note(keys[0], f"{database.pool_min} is over pool_max = {database.pool_max}")


def _check_places(
    reader: SectionReader,
    databases: Mapping[str, NamedDatabase],
    known: Sequence[str],
    queries: Mapping[str, Query],
    routes: Mapping[str, Route],
) -> None:
    """
    Note queries and routes that name no database, or one that cannot be used for them.

    @param known: names of all databases, those with problems too.
    """
    for query in queries.values():
        if query.database is None:
            continue
        if query.database not in known:
            reader.note(f"queries.{query.name}.database", _no_database(query.database, known))
            continue
        place = databases.get(query.database)
        if not query.read_only and place is not None and place.is_replica:
            reader.note(
                f"queries.{query.name}.read_only",
                f"a query that writes cannot be answered by {query.database}, a standby"
                " (max_lag); leave out its database",
            )
    for route in routes.values():
        key = f"routes.{route.name}.{'shards' if route.shards else 'database'}"
        for name in route.places:
            if name != HOME and name not in known:
                reader.note(key, _no_database(name, known))
            elif (place := databases.get(name)) is not None and place.is_replica:
                reader.note(key, f"{name} is a standby (max_lag), in which nothing can be stored")
        for name in by_database({route.name: route}):
            if name != route.name and name in routes:
                reader.note(
                    f"routes.{name}",
                    f"is the name by which a shard of {route.name} is known; give it another one",
                )


def _check_units(
    reader: SectionReader, name: str, listener: Listener, routes: Mapping[str, Route]
) -> None:
    """
    Note a listener whose messages come in units that would be stored in several databases.
    """
    if listener.dialect not in PROTOCOLS:
        return
    names = dict.fromkeys(
        [*([listener.route] if listener.route else []), *(listener.routes or {}).values()]
    )
    places = dict.fromkeys(p for n in names if n in routes for p in routes[n].places)
    if len(places) > 1:
        key = "routes" if listener.routes else "route"
        reader.note(
            f"listeners.{name}.{key}",
            f"leads into several databases ({', '.join(places)}): what {listener.dialect}"
            " acknowledges together is stored together, which one database alone can do; have the"
            " routes of one listener in one database",
        )


def _no_database(name: str, known: Sequence[str]) -> str:
    """Say that there is no such database, and which there are."""
    if not known:
        return f"there is no [databases.{name}], nor any other"
    return f"there is no [databases.{name}]; there is {', '.join(known)}{meant(name, known)}"


def _without_doubts(config: Config, reader: SectionReader) -> Config:
    """
    Return the configuration without the files and servers whose keys could not be read, or
    contradict each other.
    """
    database, channels, access = config.database, config.channels, config.access
    if not reader.is_sure("database.dsn", "database.dsn_file"):
        database = replace(database, dsn=EMBEDDED, dsn_file=None)
    if not reader.is_sure("channels.dsn", "channels.dsn_file"):
        channels = replace(channels, dsn=None, dsn_file=None)
    if access is not None and not reader.is_sure("access.tokens"):
        access = replace(access, tokens=None)
    databases = {
        name: place
        if reader.is_sure(f"databases.{name}.dsn", f"databases.{name}.dsn_file")
        else replace(place, dsn=EMBEDDED, dsn_file=None)
        for name, place in config.databases.items()
    }
    listeners = {
        name: listener
        if reader.is_sure_within(f"listeners.{name}.tls")
        else replace(listener, tls=None)
        for name, listener in config.listeners.items()
    }
    for name in listeners:
        for key in ("shared_key_file", "users_file"):
            if not reader.is_sure(f"listeners.{name}.{key}"):
                listeners[name] = replace(listeners[name], **{key: None})
    http = config.http
    if not reader.is_sure_within("http.tls"):
        http = replace(http, tls=None)
    return replace(
        config,
        database=database,
        databases=databases,
        channels=channels,
        access=access,
        listeners=listeners,
        http=http,
    )


def check_endpoints(config: Config, endpoint_fault: EndpointFault) -> list[str]:
    """
    Return the problems of listeners that were given on the command line.
    """
    reader = SectionReader("command line")
    for name, listener in config.listeners.items():
        names = list(config.routes)
        check_listener(reader, name, listener, names, config.routes, endpoint_fault)
    return reader.problems


def _keys_of(tables: object) -> list[str]:
    """Return the keys of C{tables}; none where it is no mapping."""
    return list(tables) if isinstance(tables, Mapping) else []
