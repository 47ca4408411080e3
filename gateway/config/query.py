"""
Parse the queries of a configuration file: C{[queries.NAME]} -> L{Query}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from gateway.columns.kind import Misfit, SqlType
from gateway.columns.kinds import kind_of
from gateway.config.reader import SectionReader, is_table
from gateway.config.route import text_of
from gateway.config.units import IN_BYTES, IN_SECONDS
from gateway.model.query import Param, Query
from gateway.model.text import meant
from gateway.sql.parameters import first_word, parameters


class ParamSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A parameter of a query.

    @ivar type: the name of its SQL type.
    @ivar required: whether a call without it is refused; C{None}: required if it has no default.
    @ivar default: value where a call leaves it out.
    """

    type: str = "text"
    required: bool | None = None
    default: Any = None


class QuerySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Section of a query that peers call by name.

    @ivar sql: one statement, with parameters as C{%(name)s}.
    @ivar params: name -> L{ParamSection}; a parameter that is not listed is a required text.
    @ivar max_rows: most rows of an answer; a call that gives more is refused.
    @ivar max_bytes: largest answer; a call that gives more is refused.
    @ivar timeout: limit for the database, in seconds.
    @ivar read_only: whether it runs in a transaction that cannot write.
    @ivar database: name of one of C{[databases]} that answers it; C{None}: C{[database]}.
    """

    sql: str
    params: dict[str, Any] | None = None
    max_rows: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    # PostgreSQL makes an answer one text, which holds a gigabyte at most.
    max_bytes: Annotated[int, Meta(ge=1, le=256 * 1024 * 1024, extra=IN_BYTES)] = 16 * 1024 * 1024
    timeout: Annotated[float, Meta(gt=0, le=86400, extra=IN_SECONDS)] = 5.0
    read_only: bool = True
    database: str | None = None


DEFAULT_QUERIES: Final = {
    "last": QuerySection(
        sql="select id, body from messages order by id desc limit %(n)s",
        params={"n": {"type": "integer", "default": 1}},
    )
}
"""Queries that peers may call where there is no configuration file."""

_PARAMETER_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")

_STATEMENT_VERBS: Final = (
    "SELECT",
    "VALUES",
    "TABLE",
    "WITH",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
)

_BASES: Final = {
    **dict.fromkeys(("smallint", "int2"), "int2"),
    **dict.fromkeys(("integer", "int", "int4"), "int4"),
    **dict.fromkeys(("bigint", "int8"), "int8"),
    **dict.fromkeys(("real", "float4"), "float4"),
    **dict.fromkeys(("double precision", "float8"), "float8"),
    **dict.fromkeys(("numeric", "decimal"), "numeric"),
    **dict.fromkeys(("boolean", "bool"), "bool"),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), "timestamptz"),
    **dict.fromkeys(("timestamp", "timestamp without time zone"), "timestamp"),
    **{name: name for name in ("date", "uuid", "inet", "cidr", "bytea", "json", "jsonb", "text")},
}
"""Names of types whose values can be judged without asking the database."""

KNOWN_TYPES: Final = tuple(_BASES)


def queries_of(sections: Mapping[str, QuerySection], reader: SectionReader) -> dict[str, Query]:
    """
    Parse all queries, by name. Problems are noted in C{reader}; the result is not usable then.
    """
    return {name: _one_query(reader, name, section) for name, section in sections.items()}


def _one_query(reader: SectionReader, name: str, section: QuerySection) -> Query:
    where = f"queries.{name}"
    if not _PARAMETER_NAME.fullmatch(name):
        reader.note(where, "cannot be called: a name has no spaces and is not empty")
    given = section.params or {}
    declared = reader.sections(f"{where}.params", given, ParamSection)
    try:
        names = parameters(section.sql, list(given))
    except ValueError as error:
        reader.note(f"{where}.sql", str(error))
        names = list(given)
    if not reader.is_sure(f"{where}.sql"):
        names = list(given)
    word = first_word(section.sql)
    if word not in _STATEMENT_VERBS:
        text = f"begins with {word}" if word else "is empty"
        reader.note(f"{where}.sql", f"{text}; a query is one of {', '.join(_STATEMENT_VERBS)}")
    for param in given:
        if param not in names:
            reader.note(f"{where}.params.{param}", f"is no parameter of sql{meant(param, names)}")
    params = {
        param: _param(reader, f"{where}.params.{param}", declaration)
        for param, declaration in declared.items()
    }
    # Parameters with a problem are not reported as undeclared as well.
    params |= {param: Param() for param in names if param not in params}
    return Query(
        name,
        section.sql,
        params,
        section.max_rows,
        section.max_bytes,
        section.timeout,
        section.read_only,
        section.database,
    )


def _param(reader: SectionReader, where: str, section: ParamSection) -> Param:
    if is_table(section.default):
        reader.note(f"{where}.default", "must be a value, not a table")
        return Param(section.type)
    default = None if section.default is None else text_of(section.default)
    if default is not None and section.required:
        reader.note(where, "required and default exclude each other")
    if default is not None:
        try:
            _judge(section.type, default)
        except Misfit as error:
            reader.note(f"{where}.default", str(error))
    required = default is None if section.required is None else section.required
    return Param(section.type, required, default)


def _judge(type_: str, value: str) -> None:
    """
    Check a default against its type, without a database.

    @raise Misfit: the value is not of the type; types outside C{_BASES} are not checked.
    """
    name = " ".join(type_.lower().split())
    base = _BASES.get(name.removesuffix("[]").rstrip())
    if base is None:
        return
    sql_type = SqlType(name, base)
    if name.endswith("[]"):
        sql_type = SqlType(name, "", element=SqlType(name.removesuffix("[]"), base))
    kind_of(sql_type).element(value)
