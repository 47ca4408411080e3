"""
What the live database says about a route's table: is it fit to take messages?

Used before a route is opened and by C{gateway check}, so that both say the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.columns.kind import SqlType
from gateway.errors import RouteError
from gateway.formats.choice import FormatName
from gateway.postgres.connection import Query
from gateway.route import FRAME, METADATA, Route, table_identifier
from gateway.sql.route import insert_for
from gateway.sql.statement import Insert

_TABLE: Final = """
    SELECT c.oid, c.relkind::text,
           has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT')
      FROM pg_class c WHERE c.oid = to_regclass(%s)
"""

# Only the base types of PostgreSQL itself go by their name; whose else has one of these
# names is not the type we know.
_COLUMNS: Final = """
    SELECT a.attname, format_type(a.atttypid, NULL), t.typcategory::text,
           CASE WHEN b.typnamespace = 'pg_catalog'::regnamespace THEN b.typname ELSE '' END::text,
           a.attgenerated <> '' OR a.attidentity = 'a',
           a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity <> '',
           has_column_privilege(a.attrelid, a.attnum, 'INSERT'),
           CASE WHEN b.typname IN ('varchar', 'bpchar')
                THEN greatest(0, CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END - 4)
                ELSE 0 END,
           format_type(e.oid, NULL),
           CASE WHEN e.typnamespace = 'pg_catalog'::regnamespace THEN e.typname ELSE '' END::text,
           format_type(a.atttypid, a.atttypmod)
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
      JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
      LEFT JOIN pg_type e ON e.oid = b.typelem AND b.typcategory = 'A'
     WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum
"""

_INSERTABLE: Final = {"r", "p", "v", "f"}  # table, partitioned table, view, foreign table

_TEXT_TYPES: Final = {"bytea", "json", "jsonb", "xml"}
_TIME_TYPES: Final = {"timestamptz", "timestamp", "date"}


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of the live table.

    @ivar category: of its type (PostgreSQL documentation, table 52.65).
    @ivar computed: never inserted into.
    @ivar required: NOT NULL and without a default.
    """

    name: str
    type: SqlType
    category: str
    computed: bool
    required: bool
    insertable: bool

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Column:
        """
        @param row: of the catalog query.
        """
        (name, type_name, category, base, computed, not_null, has_default) = row[:7]
        insertable, length, element_name, element_base, declared = row[7:]
        element = None if element_name is None else SqlType(element_name, element_base)
        sql_type = SqlType(type_name, base, length, element, not_null, declared)
        required = not_null and not has_default
        return cls(name, sql_type, category, computed, required, insertable)

    def holds(self, source: str, format_: FormatName) -> bool:
        """
        Whether values of a source fit the type, as far as types go.
        """
        if format_ != "text" and source not in METADATA:
            return True  # each value is judged
        if source == "@received_at" and self.type.base in _TIME_TYPES:
            return True
        if self.category == "S":
            return True
        return source == FRAME and self.type.base in _TEXT_TYPES


@dataclass(frozen=True, slots=True)
class Findings:
    """
    A route against its table.

    @ivar exists: whether the table is there.
    @ivar insert: what stores into it; only where there is no problem.
    @ivar problems: one line each; with none the route can be opened.
    """

    exists: bool
    insert: Insert | None
    problems: list[str]


async def examine(query: Query, route: Route) -> Findings:
    """
    Look at a route's table.
    """
    name = table_identifier(route.table)
    rows = await query(_TABLE, (name,))
    if not rows:
        return Findings(False, None, [f"table {name} does not exist"])
    oid, kind, may_insert = rows[0]
    if kind not in _INSERTABLE:
        return Findings(True, None, [f"{name} is not a table (pg_class.relkind {kind!r})"])
    columns = {row[0]: Column.of_row(row) for row in await query(_COLUMNS, (oid,))}
    problems = []
    if not may_insert:
        problems.append(f"INSERT on {name} is not granted; run GRANT INSERT ON {name} TO ...")
    for column, value in route.columns.items():
        source = value.source
        found = columns.get(column)
        if found is None:
            near = difflib.get_close_matches(column, columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"column {column!r} does not exist in {name}{hint}")
        elif found.computed:
            problems.append(f"column {column!r} of {name} is generated; it takes no values")
        elif not found.holds(source, route.reading.format):
            problems.append(
                f"column {column!r} of {name} is of type {found.type.name},"
                f" which cannot hold {'text' if source != '@received_at' else 'a time'} ({source})"
            )
        elif may_insert and not found.insertable:
            problems.append(f"INSERT on column {column!r} of {name} is not granted")
    problems += [
        f"column {c.name!r} of {name} is NOT NULL without a default, and the route gives it nothing"
        for c in columns.values()
        if c.required and not c.computed and c.name not in route.columns
    ]
    if problems:
        return Findings(True, None, problems)
    try:
        insert = insert_for(route, {column: columns[column].type for column in route.columns})
    except RouteError as error:
        return Findings(True, None, [str(error)])
    return Findings(True, insert, problems)
