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
from gateway.postgres.schema.findings import Findings, Problem
from gateway.postgres.schema.types import sql_types
from gateway.sql.parameters import foreign_parameter, with_places
from gateway.sql.route import insert_for

_PARAMETERS: Final = """
    SELECT parameter_types::oid[]::bigint[] FROM pg_prepared_statements WHERE name = %s
"""
_ARGUMENTS: Final = """
    SELECT proargtypes::oid[]::bigint[] FROM pg_proc WHERE oid = to_regproc(%s)::oid
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
    try:
        insert = insert_for(route, dict(zip(route.columns, types, strict=True)))
    except RouteError as error:
        return Findings(True, None, [Problem("columns", str(error))])
    return Findings(True, insert, [])


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
