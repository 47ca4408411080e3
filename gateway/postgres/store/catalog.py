"""
Examine a route's table in the live database: can it take messages?

Used before a route is opened and by C{gateway check}, so that both report the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.columns.kind import SqlType
from gateway.model.errors import RouteError
from gateway.model.route import (
    CONSTANT,
    FRAME,
    METADATA,
    FormatName,
    Route,
    identifier,
    table_identifier,
)
from gateway.postgres.connect.connection import RunQuery
from gateway.postgres.schema.custom_sql import examine_sql
from gateway.postgres.schema.findings import Findings, Problem, Relation
from gateway.postgres.schema.placement import examine_placement, missing_in_key
from gateway.postgres.schema.types import sql_types
from gateway.sql.route import insert_for

_TABLE_QUERY: Final = """
    SELECT c.oid::bigint, c.relkind::text,
           has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT'),
           c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT c.relhasrules
           AND NOT EXISTS (
               SELECT FROM pg_trigger t
                WHERE NOT t.tgisinternal AND (t.tgrelid = c.oid OR t.tgrelid IN (
                    SELECT p.relid FROM pg_partition_tree(c.oid) p)))
      FROM pg_class c WHERE c.oid = to_regclass(%s)
"""

_COLUMNS_QUERY: Final = """
    SELECT a.attname, a.atttypid::bigint, a.atttypmod, t.typcategory::text,
           a.attgenerated <> '' OR a.attidentity = 'a',
           a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity <> '',
           has_column_privilege(a.attrelid, a.attnum, 'INSERT'),
           has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
           has_column_privilege(a.attrelid, a.attnum, 'UPDATE')
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum
"""

_KEYS: Final = """
    SELECT array_agg(a.attname::text)
      FROM pg_index i
      JOIN pg_attribute a
        ON a.attrelid = i.indrelid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])
     WHERE i.indrelid = %s::oid AND i.indisunique AND i.indisvalid AND i.indimmediate
       AND i.indpred IS NULL AND i.indexprs IS NULL
     GROUP BY i.indexrelid
"""

_INSERTABLE: Final = {"r", "p", "v", "f"}  # table, partitioned table, view, foreign table

_TEXT_TYPES: Final = {"bytea", "json", "jsonb", "xml"}
_TIME_TYPES: Final = {"timestamptz", "timestamp", "date"}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """
    A column of the live table.

    @ivar category: category of its type (PostgreSQL documentation, table 52.65).
    @ivar computed: generated, so never inserted into.
    @ivar required: NOT NULL and without a default.
    """

    name: str
    type: SqlType
    category: str
    computed: bool
    required: bool
    insertable: bool
    selectable: bool
    updatable: bool

    def accepts(self, source: str, format_: FormatName) -> bool:
        """
        Say whether values of a source fit the type, as far as that is known without the values.
        """
        if format_ != "text" and source not in METADATA:
            return True  # each value is judged
        if source == CONSTANT:
            return True  # judged when the statement is written
        if source == "@received_at" and self.type.base in _TIME_TYPES:
            return True
        if self.category == "S":
            return True
        return source == FRAME and self.type.base in _TEXT_TYPES


async def examine(query: RunQuery, route: Route) -> Findings:
    """
    Examine a route: its table, or its own SQL.

    @raise RouteError: its SQL cannot be used.
    """
    return await (examine_sql if route.sql else _examine_table)(query, route)


async def _examine_table(query: RunQuery, route: Route) -> Findings:
    name = table_identifier(route.table)
    rows = await query(_TABLE_QUERY, (name,))
    if not rows:
        return Findings(False, None, [Problem("table", f"table {name} does not exist")])
    oid, kind, may_insert, simple = rows[0]
    if kind not in _INSERTABLE:
        text = f"{name} is not a table (pg_class.relkind {kind!r})"
        return Findings(True, None, [Problem("table", text)])
    columns = await _table_columns(query, oid)
    problems = []
    if not may_insert:
        text = f"INSERT on {name} is not granted; run GRANT INSERT ON {name} TO ..."
        problems.append(Problem("table", text))
    for column, value in route.columns.items():
        text = _column_problem(name, column, value.source, columns, route, may_insert)
        if text:
            problems.append(Problem("columns", text))
    problems += [
        Problem(
            "columns",
            f"column {c.name!r} of {name} is NOT NULL without a default,"
            " and the route gives it nothing",
        )
        for c in columns.values()
        if c.required and not c.computed and c.name not in route.columns
    ]
    if route.conflict != "error" and columns.keys() >= {*route.key}:
        problems += await _index_problems(query, name, oid, kind, route)
        problems += _key_problems(name, route, columns)
    for column in route.returning:
        table_column = columns.get(column)
        if table_column is None:
            problems.append(Problem("returning", _missing_column(name, column, columns)))
        elif not table_column.selectable:
            problems.append(Problem("returning", _not_granted(name, "SELECT", column)))
    if problems:
        return Findings(True, None, problems)
    try:
        insert = insert_for(route, {column: columns[column].type for column in route.columns})
    except RouteError as error:
        return Findings(True, None, [Problem("columns", str(error))])
    return Findings(True, insert, problems, Relation(oid, simple))


async def _table_columns(query: RunQuery, oid: int) -> dict[str, TableColumn]:
    """
    Return the columns of the table with this oid.
    """
    rows = await query(_COLUMNS_QUERY, (oid,))
    declared = [(row[1], row[2]) for row in rows]
    types = await sql_types(query, declared, [row[5] for row in rows])
    columns = {}
    for row, sql_type in zip(rows, types, strict=True):
        name, _, _, category, computed, not_null, has_default, *rights = row
        required = not_null and not has_default
        columns[name] = TableColumn(name, sql_type, category, computed, required, *rights)
    return columns


def _column_problem(
    name: str,
    column: str,
    source: str,
    columns: Mapping[str, TableColumn],
    route: Route,
    may_insert: bool,
) -> str:
    """
    Return what is wrong with a column of the route; C{""} for nothing.
    """
    table_column = columns.get(column)
    if table_column is None:
        return _missing_column(name, column, columns)
    if table_column.computed:
        return f"column {column!r} of {name} is generated; it takes no values"
    if not table_column.accepts(source, route.reading.format):
        what = "text" if source != "@received_at" else "a time"
        return (
            f"column {column!r} of {name} is of type {table_column.type.declared},"
            f" which cannot hold {what} ({source})"
        )
    if may_insert and not table_column.insertable:
        return _not_granted(name, "INSERT", column)
    return ""


async def _index_problems(
    query: RunQuery, name: str, oid: int, kind: str, route: Route
) -> list[Problem]:
    """
    Return what is wrong with the unique index that C{key} needs.

    @param kind: its pg_class.relkind. Of a view only its table has indexes.
    """
    key = ", ".join(map(identifier, route.key))
    if kind == "f":
        text = (
            f"{name} is a foreign table, for which PostgreSQL knows no key; leave conflict and key"
            " out, and end a statement of your own (sql) with ON CONFLICT DO NOTHING"
        )
        return [Problem("conflict", text)]
    indexes = await query(_KEYS, (oid,))
    if kind not in ("r", "p") or {*route.key} in [{*index} for (index,) in indexes]:
        return []
    text = f"{name} has no unique index on ({key}); run CREATE UNIQUE INDEX ON {name} ({key})"
    placement = await examine_placement(query, route, oid)
    missing = ", ".join(map(identifier, missing_in_key(placement, route.key)))
    if missing:
        text = (
            f"{name} {placement.why}, so that no unique index can be without {missing}: add it to"
            f" key, and run CREATE UNIQUE INDEX ON {name} ({key}, {missing})"
        )
    return [Problem("key", text)]


def _key_problems(name: str, route: Route, columns: Mapping[str, TableColumn]) -> list[Problem]:
    problems = [
        Problem("key", _not_granted(name, "SELECT", column))
        for column in route.key
        if not columns[column].selectable
    ]
    if route.conflict == "update":
        problems += [
            Problem("conflict", _not_granted(name, "UPDATE", column))
            for column in route.updated_columns
            if column in columns and not columns[column].updatable
        ]
    return problems


def _missing_column(name: str, column: str, columns: Iterable[str]) -> str:
    near = difflib.get_close_matches(column, columns, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"column {column!r} does not exist in {name}{hint}"


def _not_granted(name: str, privilege: str, column: str) -> str:
    return (
        f"{privilege} on column {column!r} of {name} is not granted;"
        f" run GRANT {privilege} ON {name} TO ..."
    )
