"""
Parse the routes of a configuration file: C{[routes.NAME]} -> L{Route}.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import date, time, tzinfo
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from gateway.config.reader import SectionReader, is_table
from gateway.formats.python import name_fault
from gateway.formats.registry import field_fault, format_of
from gateway.model.route import (
    BINARY_FORMATS,
    CONSTANT,
    DEFAULT_COLUMNS,
    FRAME,
    HOME,
    METADATA,
    SOURCES,
    Conflict,
    FormatName,
    Reading,
    Route,
    Value,
)
from gateway.model.text import closest, meant
from gateway.sql.parameters import foreign_parameter, gives_rows, parameters
from gateway.system.time_zones import zone_of
from gateway.wire.hl7 import codec_named


class ColumnSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Source of the value of one column.

    @ivar field: field of the message, or a source that begins with C{@}.
    @ivar value: constant for every message, instead of a field.
    @ivar required: whether a message without the field is refused.
    @ivar default: stored where a message has no such field.
    """

    field: str | None = None
    value: Any = None
    required: bool = False
    default: Any = None


class RouteSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section of a route: table, columns, format.

    @ivar table: C{table} or C{schema.table}.
    @ivar sql: instead of a table: one statement for each message, with parameters as C{%(name)s};
        C{columns} then names their sources.
    @ivar format: format of the messages.
    @ivar fields: of csv: names of the values of a record, in order.
    @ivar delimiter: of csv: one character between values, or C{whitespace}.
    @ivar pattern: of regex: a regular expression with named groups (RE2 syntax).
    @ivar charset: of hl7: character set of messages whose MSH-18 is empty, as HL7 names it.
    @ivar function: of python: C{package.module:name}, or the name of an entry point in the group
        C{gateway.formats}.
    @ivar timezone: zone of times that name none: an IANA name, or C{local}.
    @ivar columns: column -> source of its value: a field, a source that begins with C{@}, or a
        table as L{ColumnSection}.
    @ivar conflict: action for a row whose key exists already.
    @ivar key: the columns of that key.
    @ivar returning: columns whose values are sent with C{+OK}.
    @ivar create: whether to create the table if it is missing.
    @ivar create_columns: column -> SQL type, for C{create}.
    @ivar dead_letter: whether refused messages are kept in C{gateway.dead_letter}.
    @ivar samples: messages that the route must take, for C{gateway check}; see L{sample_of}.
    @ivar database: name of one of C{[databases]} that has the table; C{None}: C{[database]}.
    @ivar shard_by: in place of it, a field whose value chooses among C{shards}.
    @ivar shards: names of the databases.
    """

    table: str | None = None
    sql: str | None = None
    format: FormatName = "text"
    fields: list[str] | None = None
    delimiter: str | None = None
    pattern: str | None = None
    charset: str | None = None
    function: str | None = None
    timezone: str | None = None
    create: bool = False
    columns: dict[str, Any] | None = None
    conflict: Conflict = "error"
    key: list[str] = field(default_factory=list)
    returning: list[str] = field(default_factory=list)
    create_columns: dict[str, str] | None = None
    dead_letter: bool = False
    samples: list[str] = field(default_factory=list)
    database: str | None = None
    shard_by: str | None = None
    shards: list[str] | None = None


_FORMAT_OF_KEY: Final = {
    **{"fields": "csv", "delimiter": "csv", "pattern": "regex", "charset": "hl7"},
    "function": "python",
}
"""Key -> the only format that it is for."""

_READING_KEYS: Final = ("format", *_FORMAT_OF_KEY)

_ENCODINGS: Final = {"hex": "hexadecimal", "base64": "Base64"}

_BARE_NAME: Final = re.compile(r"[^\s=\"\x00-\x1f\x7f-\x9f]+")

_AT_NAMES: Final = frozenset({"json", "msgpack", "cbor", "python"})
"""Formats in which a field's name may begin with C{@}, as C{@timestamp} of Beats and Logstash."""

_DEFAULT: Final[Mapping[str, Any]] = {"body": FRAME, "peer": "@peer"}

DEFAULT_ROUTES: Final = {"messages": RouteSection(table="messages", create=True)}


def routes_of(
    sections: Mapping[str, RouteSection], reader: SectionReader, stores: bool = True
) -> dict[str, Route]:
    """
    Parse all routes, by name. Problems are noted in C{reader}; the result is not usable then.

    @param stores: whether this gateway stores their messages; else another one does, and a route
        is its name and maybe a format.
    """
    routes = {}
    for name, section in sections.items():
        if not stores:
            reading = _reading(reader, f"routes.{name}", section)
            zone, samples = _zone(reader, name, section), _samples(reader, name, section)
            whole = {"body": Value(FRAME)}
            routes[name] = _parse_route(name, RouteSection(), whole, reading, zone, samples)
            continue
        if section.sql is None and reader.is_sure(f"routes.{name}.sql"):
            _check_table(reader, name, section)
        routes[name] = _one_route(reader, name, section)
    return routes


def knows_reading(reader: SectionReader, name: str) -> bool:
    """
    Say whether the keys that set a route's format could be read.
    """
    return reader.is_sure(*(f"routes.{name}.{key}" for key in _READING_KEYS))


def _one_route(reader: SectionReader, name: str, section: RouteSection) -> Route:
    before = len(reader.problems)
    reading = _reading(reader, f"routes.{name}", section)
    if section.sql is not None:
        given = _parameters(reader, name, section.sql, section)
    else:
        given = _DEFAULT if section.columns is None else section.columns
    columns = _columns(reader, name, given, reading)
    if reader.is_sure(f"routes.{name}.sql"):
        _check_conflict(reader, name, section, given)
    samples = _samples(reader, name, section)
    _check_shards(reader, name, section, columns, reading)
    zone = _zone(reader, name, section)
    route = _parse_route(name, section, columns, reading, zone, samples)
    sure = len(reader.problems) == before and reader.is_sure_within(f"routes.{name}")
    if sure and reading.format != "text":
        try:
            format_of(reading, route.fields)
        except ValueError as error:
            key = "pattern" if reading.format == "regex" else "format"
            reader.note(f"routes.{name}.{key}", str(error))
    return route


def _zone(reader: SectionReader, name: str, section: RouteSection) -> tzinfo | None:
    if section.timezone is None:
        return None
    try:
        return zone_of(section.timezone)
    except ValueError as error:
        reader.note(f"routes.{name}.timezone", str(error))
        return None


def _parse_route(
    name: str,
    section: RouteSection,
    columns: Mapping[str, Value],
    reading: Reading,
    zone: tzinfo | None,
    samples: tuple[bytes, ...],
) -> Route:
    create = section.create_columns or DEFAULT_COLUMNS
    return Route(
        name,
        section.table or "",
        columns,
        create if section.create else None,
        section.dead_letter,
        reading,
        section.conflict,
        tuple(section.key),
        tuple(section.returning),
        section.sql or "",
        zone,
        samples,
        None if section.database == HOME else section.database,
        section.shard_by or "",
        tuple(section.shards or ()),
    )


def _check_shards(
    reader: SectionReader,
    name: str,
    section: RouteSection,
    columns: Mapping[str, Value],
    reading: Reading,
) -> None:
    """Note what is wrong with the keys that spread a route over several databases."""
    where = f"routes.{name}"
    by, shards = section.shard_by, section.shards
    if by is None and shards is None:
        return
    if shards is None:
        reader.note(f"{where}.shards", "is missing: the databases among which shard_by chooses")
    elif len(shards) < 2 or len(set(shards)) < len(shards):
        reader.note(f"{where}.shards", "must name two or more databases, each once")
    if section.database is not None:
        reader.note(f"{where}.database", "goes with neither shard_by nor shards; leave it out")
    if by is None:
        reader.note(f"{where}.shard_by", "is missing: the field whose value chooses among shards")
        return
    if reading.format == "text":
        reader.note(f"{where}.shard_by", "a text message has no fields; the route needs a format")
    elif by in SOURCES:
        reader.note(f"{where}.shard_by", f"{by!r} is no field of a message")
    elif (fault := field_fault(reading, by)) is not None:
        reader.note(f"{where}.shard_by", f"{by!r} {fault}")
    of_key = [columns[column].source for column in section.key if column in columns]
    if section.key and by not in of_key:
        reader.note(
            f"{where}.shard_by",
            f"{by!r} is no field of the key {section.key}: rows with one key could be in"
            " several databases",
        )


def _reading(reader: SectionReader, where: str, section: RouteSection) -> Reading:
    names = section.fields or []
    delimiter = "," if section.delimiter is None else section.delimiter
    function = section.function or ""
    reading = Reading(
        *(section.format, tuple(names), delimiter, section.pattern or "", section.charset or ""),
        function,
    )
    if not reader.is_sure(f"{where}.format"):
        return reading
    for key, format_ in _FORMAT_OF_KEY.items():
        if getattr(section, key) is not None and section.format != format_:
            reader.note(f"{where}.{key}", f'is for format = "{format_}"; leave it out')
    if section.format == "csv" and not names:
        reader.note(f"{where}.fields", 'is missing; name the values in order, ["a", "b"]')
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        reader.note(f"{where}.fields", f"names {name!r} twice")
    if delimiter != "whitespace" and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        reader.note(f"{where}.delimiter", 'must be one character, or "whitespace"')
    charset = section.charset
    if charset is not None and codec_named(charset) is None:
        reader.note(
            f"{where}.charset",
            f'{charset!r} is no character set of HL7, such as "8859/1" or "UNICODE UTF-8"',
        )
    if section.format == "regex" and section.pattern is None:
        reader.note(f"{where}.pattern", "is missing; name groups as in (?P<name>.*)")
    if section.format == "python" and section.function is None:
        reader.note(f"{where}.function", 'is missing; name it as in "package.module:name"')
    elif section.format == "python" and (fault := name_fault(function)) is not None:
        reader.note(f"{where}.function", fault)
    return reading


def _samples(reader: SectionReader, name: str, section: RouteSection) -> tuple[bytes, ...]:
    if not reader.is_sure(f"routes.{name}.format", f"routes.{name}.samples"):
        return ()
    samples = []
    for number, text in enumerate(section.samples):
        try:
            samples.append(sample_of(text, section.format))
        except ValueError as error:
            reader.note(f"routes.{name}.samples[{number}]", str(error))
    return tuple(samples)


def sample_of(text: str, format_: FormatName) -> bytes:
    """
    Return the message that a sample stands for.

    @param text: the message itself; of formats that are no text, and of python where that is
        meant, C{hex:} or C{base64:} and its bytes.
    @raise ValueError: it is not of that form.
    """
    prefix, colon, rest = text.partition(":")
    binary = format_ in BINARY_FORMATS
    if (binary or format_ == "python") and colon and prefix in ("hex", "base64"):
        try:
            if prefix == "hex":
                return bytes.fromhex(rest)
            return base64.b64decode("".join(rest.split()), validate=True)
        except ValueError:
            raise ValueError(f"what follows {prefix}: is not {_ENCODINGS[prefix]}") from None
    if binary:
        raise ValueError(f'a message of {format_} is no text; write "hex:..." or "base64:..."')
    return text.encode()


def _columns(
    reader: SectionReader, name: str, given: Mapping[str, Any], reading: Reading
) -> dict[str, Value]:
    """
    Return the columns of a route, without those that have a problem.
    """
    where = f"routes.{name}.columns"
    columns = {}
    is_known = reader.is_sure(where) and knows_reading(reader, name)
    if not given:
        reader.note(where, 'names no column; try body = "@frame"')
    for column, source in given.items():
        value = _parse_value(reader, f"{where}.{column}", source)
        if value is None:
            continue
        source = value.source
        if source in SOURCES or source == CONSTANT or not is_known:
            pass
        elif _is_reserved(reading, source):
            reader.note(
                f"{where}.{column}",
                f"{source!r} is no source of a {reading.format} route{meant(source, SOURCES)};"
                f" there are {', '.join(SOURCES)}",
            )
        elif (fault := field_fault(reading, source)) is not None:
            reader.note(f"{where}.{column}", f"{source!r} {fault}")
        columns[column] = value
    if given and len(columns) == len(given) and is_known:
        sources = [value.source for value in columns.values()]
        if reading.format == "text" and FRAME not in sources:
            reader.note(where, 'no column takes "@frame", so messages would be lost')
        elif all(source in METADATA or source == CONSTANT for source in sources):
            reader.note(where, "no column takes a field, so messages would be lost")
    return columns


def _is_reserved(reading: Reading, source: str) -> bool:
    """
    Say whether a source that is none of L{SOURCES} cannot be a field of a message either.
    """
    if reading.format in _AT_NAMES:
        # What looks like one of ours is taken for a slip.
        return source.startswith("@") and closest(source, SOURCES) is not None
    return reading.format == "text" or source.startswith("@")


def _parameters(
    reader: SectionReader, name: str, sql: str, section: RouteSection
) -> Mapping[str, Any]:
    """
    Return the source of each parameter of a route's own SQL: as C{columns} says, else the field of
    the same name, or the whole message for the only parameter of a text route.
    """
    where = f"routes.{name}"
    try:
        names = parameters(sql, list(section.columns or ()))
    except ValueError as error:
        reader.note(f"{where}.sql", str(error))
        return section.columns or _DEFAULT
    if not names:
        foreign = foreign_parameter(sql)
        fault = f"has no parameter: {foreign}" if foreign else "has no parameter; write %(name)s"
        reader.note(f"{where}.sql", f"{fault}, or messages would be lost")
        return section.columns or _DEFAULT
    given = section.columns or {}
    for column in given:
        if column not in names:
            reader.note(
                f"{where}.columns.{column}", f"is no parameter of sql{meant(column, names)}"
            )
    if section.format != "text" or not reader.is_sure(f"{where}.format", f"{where}.columns"):
        return {name: given.get(name, name) for name in names}
    if not given and len(names) == 1:
        return {names[0]: FRAME}
    missing = [name for name in names if name not in given]
    for parameter in missing:
        reader.note(f"{where}.columns", f'names no source for {parameter!r}; "@frame" is one')
    return {name: given.get(name, FRAME) for name in names}


def _parse_value(reader: SectionReader, where: str, given: object) -> Value | None:
    if isinstance(given, str):
        if given:
            return Value(given)
        reader.note(where, "is empty; name a field")
        return None
    if not is_table(given):
        reader.note(where, 'must be a field, or a table as { field = "a", default = 0 }')
        return None
    section = reader.section(where, given, ColumnSection)
    if section is None:
        return None
    if not reader.is_sure(f"{where}.field", f"{where}.value"):
        return None
    if (section.field is None) == (section.value is None):
        reader.note(where, "needs either field or value")
        return None
    if section.value is not None:
        for key in ("required", "default"):
            if getattr(section, key):
                reader.note(f"{where}.{key}", "is for a field; value is always there")
        return Value(CONSTANT, text_of(section.value))
    assert section.field is not None
    default = None if section.default is None else text_of(section.default)
    if section.required and default is not None:
        reader.note(where, "required and default exclude each other")
    if section.field in SOURCES and (section.required or default is not None):
        reader.note(where, f"required and default are for fields; {section.field} is none")
    return Value(section.field, default, section.required)


def text_of(value: object) -> str:
    """
    Write a TOML value as the text a message would have.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (date, time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)  # infinite ones too
    return msgspec.json.encode(value).decode()


def _check_conflict(
    reader: SectionReader, name: str, section: RouteSection, columns: Mapping[str, Any]
) -> None:
    where = f"routes.{name}"
    for key in ("key", "returning"):
        names = getattr(section, key)
        for column in dict.fromkeys(c for c in names if names.count(c) > 1):
            reader.note(f"{where}.{key}", f"names {column!r} twice")
    for column in section.returning:
        if not _BARE_NAME.fullmatch(column):
            reader.note(f"{where}.returning", f"{column!r} is no word an answer could hold")
    if section.returning and section.sql is not None and not gives_rows(section.sql):
        reader.note(f"{where}.returning", "sql returns nothing; add RETURNING")
    if section.sql is not None:
        for key in ("table", "create", "create_columns", "key"):
            if getattr(section, key):
                reader.note(f"{where}.{key}", "is for a table; leave it out beside sql")
        if section.conflict != "error":
            reader.note(f"{where}.conflict", "is for a table; write ON CONFLICT into sql")
        return
    if not reader.is_sure(f"{where}.conflict"):
        return
    if section.conflict == "error":
        if section.key:
            reader.note(f"{where}.key", 'is for conflict = "ignore" or "update"')
        return
    if not section.key:
        reader.note(
            f"{where}.key", f'is missing: conflict = "{section.conflict}" needs its columns'
        )
    if not reader.is_sure(f"{where}.columns"):
        return
    for column in section.key:
        if column not in columns:
            reader.note(
                f"{where}.key",
                f"{column!r} is not in [{where}.columns]{meant(column, columns)}",
            )


def _check_table(reader: SectionReader, name: str, section: RouteSection) -> None:
    where = f"routes.{name}"
    if section.table is None:
        reader.note(f"{where}.table", "is missing; name a table, or give sql")
    elif "" in section.table.split(".", 1):
        reader.note(f"{where}.table", "must be table or schema.table")
    if not reader.is_sure(f"{where}.create", f"{where}.create_columns"):
        return
    if section.create_columns is not None and not section.create:
        reader.note(f"{where}.create_columns", "is there, but create = true is not")
    if section.create:
        create = section.create_columns or DEFAULT_COLUMNS
        what = "create_columns" if section.create_columns else "the default table"
        given = section.columns or _DEFAULT if reader.is_sure(f"{where}.columns") else ()
        missing = [(f"columns.{column}", column) for column in given]
        missing += [("returning", column) for column in section.returning]
        for key, column in missing:
            if column not in create:
                reader.note(
                    f"{where}.{key}",
                    f"{column!r} is not in {what}{meant(column, create)};"
                    f" add it to [routes.{name}.create_columns]",
                )
