"""
Examine a user's own SQL against the live database, for the types of its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from gateway.model.errors import RouteError, RowError
from gateway.model.route import Route
from gateway.postgres.connect.connection import RunQuery
from gateway.postgres.schema.findings import Findings, Problem, Relation
from gateway.postgres.schema.types import sql_types
from gateway.sql.parameters import foreign_parameter, with_places
from gateway.sql.plain_insert import plain_insert
from gateway.sql.route import insert_for

_PARAMETERS: Final = """
    SELECT parameter_types::oid[]::bigint[] FROM pg_prepared_statements WHERE name = %s
"""
_ARGUMENTS: Final = """
    SELECT proargtypes::oid[]::bigint[] FROM pg_proc WHERE oid = to_regproc(%s)::oid
"""

# Whether an INSERT of many rows stores what one for each row would, one after the other: nothing
# that looks at the table is run between two rows, and nothing is checked only behind the last one
# that an earlier one could fail. PostgreSQL's own functions and operators do not look at tables; a
# domain's check may, also where the domain is in an array, a range or a row.
_UNWATCHED: Final = """
    SELECT c.oid::bigint
      FROM pg_class c
     CROSS JOIN LATERAL (
           SELECT array_agg(p.relid::oid) || c.oid FROM pg_partition_tree(c.oid) p) AS tree(oids)
     WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND NOT EXISTS (
           SELECT FROM pg_class r
            WHERE r.oid = ANY(oids)
              AND (r.relkind NOT IN ('r', 'p') OR r.relhasrules OR r.relrowsecurity))
       AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = ANY(oids) AND NOT tgisinternal)
       AND NOT EXISTS (
           SELECT FROM pg_constraint WHERE conrelid = ANY(oids) AND confrelid = ANY(oids))
       AND NOT EXISTS (
           SELECT FROM (
                  SELECT atttypid FROM pg_attribute WHERE attrelid = ANY(oids) AND attnum > 0
                  UNION ALL SELECT to_regtype(name)::oid FROM unnest(%s::text[]) AS casts(name)
                  ) AS named(oid)
             JOIN pg_type t ON t.oid = named.oid
             JOIN pg_type e ON e.oid IN (t.oid, t.typelem)
            WHERE e.typtype NOT IN ('b', 'e') AND e.typnamespace <> 'pg_catalog'::regnamespace)
       AND NOT EXISTS (
           SELECT FROM pg_depend d
            WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
              AND (d.classid = 'pg_constraint'::regclass AND d.objid IN (
                       SELECT oid FROM pg_constraint WHERE conrelid = ANY(oids))
                   OR d.classid = 'pg_attrdef'::regclass AND d.objid IN (
                       SELECT oid FROM pg_attrdef WHERE adrelid = ANY(oids))))
"""

_CALL_STATEMENT: Final = re.compile(
    r"\s*call\s+(?P<name>[^\s(]+)\s*\((?P<arguments>.*)\)[\s;]*", re.I | re.S
)
_TEXT_OID: Final = 25  # the oid of text

_UNREADABLE: Final = ("42601", "42883")
"""
SQLSTATEs of statements with parameters of another kind: a syntax error, and before version 14
an operator C{?} that has nothing on its right.
"""


async def examine_sql(query: RunQuery, route: Route) -> Findings:
    """
    Examine a route's own SQL on the server, without running it.

    @raise RouteError: the server refuses it.
    """
    call = _CALL_STATEMENT.fullmatch(route.sql)
    if call is not None:
        oids = await _argument_types(query, route, call)
    else:
        oids = await _prepared(query, route)
    types = await sql_types(query, [(oid, -1) for oid in oids])
    plain = None if route.returning else plain_insert(route.sql)
    relation = None
    if plain is not None:
        unwatched = await query(_UNWATCHED, (plain.table, list(plain.casts)))
        if unwatched:
            relation = Relation(unwatched[0][0], True)
        else:
            plain = None
    try:
        insert = insert_for(route, dict(zip(route.columns, types, strict=True)), plain)
    except RouteError as error:
        return Findings(True, None, [Problem("columns", str(error))])
    return Findings(True, insert, [], relation)


async def _prepared(query: RunQuery, route: Route) -> Sequence[int]:
    places = {name: f"${number}" for number, name in enumerate(route.columns, 1)}
    name = f"gateway_{uuid4().hex}"
    try:
        await query(f"PREPARE {name} AS {with_places(route.sql, places.__getitem__)}", None)
    except (RouteError, RowError) as error:
        raise RouteError(f"its sql: {error}{advice(route.sql, error)}", error.sqlstate) from None
    ((oids,),) = await query(_PARAMETERS, (name,))
    await query(f"DEALLOCATE {name}", None)
    type_oids: Sequence[int] = oids
    return type_oids


def advice(sql: str, error: RouteError | RowError) -> str:
    """
    Return advice to append to the server's error; C{""} for none.
    """
    foreign = foreign_parameter(sql) if error.sqlstate in _UNREADABLE else ""
    return f"; {foreign}" if foreign else ""


async def _argument_types(query: RunQuery, route: Route, call: re.Match[str]) -> Sequence[int]:
    """
    Return the types of a procedure's arguments, since PREPARE does not take CALL. A parameter that
    is only part of an argument is text, which the user's SQL can cast.
    """
    rows = await query(_ARGUMENTS, (call["name"],))
    declared = rows[0][0] if rows else []
    oids = dict.fromkeys(route.columns, _TEXT_OID)
    arguments = [argument.strip() for argument in call["arguments"].split(",")]
    if len(arguments) == len(declared):
        for argument, oid in zip(arguments, declared, strict=True):
            name = argument.removeprefix("%(").removesuffix(")s")
            if name in oids and argument == f"%({name})s":
                oids[name] = oid
    return list(oids.values())
