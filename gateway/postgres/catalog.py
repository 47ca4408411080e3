"""
What the live database says about a route's table: is it fit to take messages?

Used before a route is opened and by C{gateway check}, so that both say the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.postgres.connection import Query
from gateway.route import FRAME, Route, table_identifier

_TABLE: Final = """
    SELECT c.oid, c.relkind::text,
           has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT')
      FROM pg_class c WHERE c.oid = to_regclass(%s)
"""

_COLUMNS: Final = """
    SELECT a.attname, format_type(a.atttypid, NULL), t.typcategory::text, b.typname::text,
           a.attgenerated <> '' OR a.attidentity = 'a',
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
           has_column_privilege(a.attrelid, a.attnum, 'INSERT')
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
      JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
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

    @ivar sql_type: without length or precision, quoted where it must be.
    @ivar base: the type's own name, that of the base type for a domain.
    @ivar computed: never inserted into.
    @ivar required: NOT NULL and without a default.
    """

    name: str
    sql_type: str
    category: str
    base: str
    computed: bool
    required: bool
    insertable: bool

    def holds(self, source: str) -> bool:
        """
        Whether every value of a source fits the type, as far as types go.
        """
        if source == "@received_at" and self.base in _TIME_TYPES:
            return True
        if self.category == "S":
            return True
        return source == FRAME and self.base in _TEXT_TYPES


@dataclass(frozen=True, slots=True)
class Findings:
    """
    A route against its table.

    @ivar exists: whether the table is there.
    @ivar types: column -> SQL type, for the route's columns that are there.
    @ivar problems: one line each; with none the route can be opened.
    """

    exists: bool
    types: Mapping[str, str]
    problems: list[str]


async def examine(query: Query, route: Route) -> Findings:
    """
    Look at a route's table.
    """
    name = table_identifier(route.table)
    rows = await query(_TABLE, (name,))
    if not rows:
        return Findings(False, {}, [f"table {name} does not exist"])
    oid, kind, may_insert = rows[0]
    if kind not in _INSERTABLE:
        return Findings(True, {}, [f"{name} is not a table (pg_class.relkind {kind!r})"])
    columns = {row[0]: Column(*row) for row in await query(_COLUMNS, (oid,))}
    problems = []
    if not may_insert:
        problems.append(f"INSERT on {name} is not granted; run GRANT INSERT ON {name} TO ...")
    for column, source in route.columns.items():
        found = columns.get(column)
        if found is None:
            near = difflib.get_close_matches(column, columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"column {column!r} does not exist in {name}{hint}")
        elif found.computed:
            problems.append(f"column {column!r} of {name} is generated; it takes no values")
        elif not found.holds(source):
            problems.append(
                f"column {column!r} of {name} is of type {found.sql_type},"
                f" which cannot hold {'text' if source != '@received_at' else 'a time'} ({source})"
            )
        elif may_insert and not found.insertable:
            problems.append(f"INSERT on column {column!r} of {name} is not granted")
    problems += [
        f"column {c.name!r} of {name} is NOT NULL without a default, and the route gives it nothing"
        for c in columns.values()
        if c.required and not c.computed and c.name not in route.columns
    ]
    types = {c: columns[c].sql_type for c in route.columns if c in columns}
    return Findings(True, types, problems)
