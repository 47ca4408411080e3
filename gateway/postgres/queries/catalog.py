"""
Examine a query against the live database: its types, its columns, the form of its statement.

Used before a query is first called and by C{gateway check}, so that both report the same. The query
itself is not run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import uuid4

from gateway.columns.kind import Kind, Misfit, SqlType
from gateway.columns.kinds import kind_of
from gateway.config.query import KNOWN_TYPES
from gateway.model.errors import RouteError, RowError
from gateway.model.query import Query
from gateway.postgres.connect.connection import Connection, Rows
from gateway.postgres.connect.connection import RunQuery as Ask
from gateway.postgres.schema.custom_sql import advice
from gateway.postgres.schema.findings import Problem
from gateway.postgres.schema.types import base_type, sql_types
from gateway.sql.arguments import ArgumentParser
from gateway.sql.call import CallStatement, Form, ResultColumn, call_statement, look, look_types
from gateway.sql.parameters import called, gives_rows

# Pseudo-types, such as record, cannot be parameters.
_TYPE: Final = """
    SELECT t.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(m.proname)
      FROM pg_type t
      LEFT JOIN pg_proc m ON m.oid = t.typmodin
      LEFT JOIN pg_namespace n ON n.oid = m.pronamespace
     WHERE t.oid = to_regtype(%s)::oid AND t.typtype <> 'p'
"""
# The type of an array's elements may be a domain, too.
_COLUMN_TYPES: Final = f"""
    SELECT format_type(p.type, NULL), format_type(b.oid, NULL),
           CASE b.typcategory WHEN 'A' THEN format_type(e.oid, NULL) ELSE '' END
      FROM unnest(%s::oid[]) WITH ORDINALITY AS p(type, place)
     CROSS JOIN LATERAL {base_type("p.type")} AS b
      LEFT JOIN LATERAL {base_type("b.typelem")} AS e ON true
     ORDER BY p.place
"""
_VOLATILE: Final = """
    SELECT proname::text FROM pg_proc WHERE proname = ANY(%s::name[]) AND provolatile = 'v' LIMIT 1
"""

_MODIFIERS: Final = re.compile(r"\(([^()]*)\)")
"""Modifiers behind a type's name: length, precision, or whatever its type takes."""

_SHOWN_TYPE: Final = re.compile(r", NULL::(.*)\]", re.DOTALL)

_NO_FUNCTION: Final = "42883"
_AMBIGUOUS: Final = ("42702", "42703")
"""A plan shows columns of the same name as C{id, id_1}."""


@dataclass(frozen=True, slots=True)
class CallableQuery:
    """
    Query that can be called.

    @ivar arguments: parser of a call's arguments.
    @ivar call_statement: statement that answers calls.
    @ivar note: one line for the operator: parameters, columns, and why calls are not grouped.
    """

    arguments: ArgumentParser
    call_statement: CallStatement
    note: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    Result of an examination.

    @ivar sound: C{None} where there are problems.
    """

    sound: CallableQuery | None
    problems: list[Problem]


async def examine_query(connection: Connection, query: Query, timeout: float) -> Judgement:
    """
    Examine a query on the server, without running it.

    @param timeout: seconds for each statement.
    @raise gateway.model.errors.StoreError: the examination failed.
    """
    problems: list[Problem] = []
    types = []
    for name, param in query.params.items():
        key = f"params.{name}"
        param_type = await _find_type(connection, param.type, timeout)
        if isinstance(param_type, str):
            problems.append(Problem(f"{key}.type", param_type))
            continue
        types.append(param_type)
        try:
            if param.default is not None:
                kind_of(param_type).element(param.default)
        except Misfit as error:
            problems.append(Problem(f"{key}.default", str(error)))
    if problems:
        return Judgement(None, problems)
    arguments = ArgumentParser(query.params, types)
    try:
        return await _examined(connection, query, arguments, timeout)
    except (RouteError, RowError) as error:
        return Judgement(None, [Problem("sql", _explained(query, error))])


async def _examined(
    connection: Connection, query: Query, arguments: ArgumentParser, timeout: float
) -> Judgement:
    """
    Find the form of the statement and its columns, and prepare it once as a check.

    @raise RouteError: the server refuses its SQL.
    """
    kinds = arguments.kinds
    volatile = await connection.query(_VOLATILE, (called(query.sql),), timeout)
    form, columns, reason = Form.MANY, None, "it writes"
    if query.read_only and volatile:
        reason = f"it calls {volatile[0][0]}(), which is volatile"
    elif query.read_only:
        columns = await _tried(connection, look(query, kinds, form), timeout)
        reason = "it cannot be joined to the calls"
    if columns is None:
        form = Form.ONE
        if query.read_only:
            columns = await _result(connection, look(query, kinds, form), timeout)
        else:
            columns = await _tried(connection, look(query, kinds, form), timeout)
    if columns is None:
        form = Form.WITH
        columns = await _explained_columns(connection, query, kinds, timeout)
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        text = f"has two columns called {twice!r}; name one of them by AS"
        return Judgement(None, [Problem("sql", text)])
    queue = call_statement(query, kinds, form, columns)
    await connection.transaction(partial(_prepare, queue), timeout)
    takes = ", ".join(
        f"{name} {kind.sql_type.declared}" for name, kind in zip(query.params, kinds, strict=True)
    )
    gives = ", ".join(f"{column.name} {column.type}".rstrip() for column in columns)
    note = f"{takes or 'nothing'} -> {gives or 'no rows'}"
    if query.read_only and form is not Form.MANY:
        note += f"; each call by itself, since {reason}"
    return Judgement(CallableQuery(arguments, queue, note), [])


async def _prepare(queue: CallStatement, ask: Ask) -> None:
    name = f"gateway_{uuid4().hex}"
    types = f" ({', '.join(queue.types)})" if queue.types else ""
    await ask(f"PREPARE {name}{types} AS {queue.prepared}", None)
    await ask(f"DEALLOCATE {name}", None)


async def _find_type(connection: Connection, name: str, timeout: float) -> SqlType | str:
    """
    Return a type, or why it cannot be used.
    """
    try:
        rows = await connection.query(_TYPE, (name,), timeout)
    except (RouteError, RowError) as error:
        return f"{name!r} is no type: {error}"
    if not rows:
        near = difflib.get_close_matches(name, KNOWN_TYPES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"type {name!r} does not exist{hint}"
    ((oid, reads_modifiers),) = rows
    ask = partial(connection.query, timeout=timeout)
    modifier = -1
    given = _MODIFIERS.search(name)
    if given and reads_modifiers is not None:
        ((modifier,),) = await ask(f"SELECT {reads_modifiers}(%s::cstring[])", (f"{{{given[1]}}}",))
    (sql_type,) = await sql_types(ask, [(oid, modifier)])
    if sql_type.cuts:
        return f"{name!r} cannot be kept to its length here; leave the length out"
    return sql_type


async def _tried(connection: Connection, sql: str, timeout: float) -> list[ResultColumn] | None:
    """
    Return the columns of a result; C{None} where the server refuses the statement.
    """
    try:
        return await _result(connection, sql, timeout)
    except (RouteError, RowError):
        return None


async def _result(connection: Connection, sql: str, timeout: float) -> list[ResultColumn]:
    await connection.query(sql, None, timeout)
    columns = connection.columns
    rows = await connection.query(_COLUMN_TYPES, ([oid for _, oid in columns],), timeout)
    return _result_columns([name for name, _ in columns], rows)


async def _explained_columns(
    connection: Connection, query: Query, kinds: Sequence[Kind], timeout: float
) -> list[ResultColumn]:
    """
    Return the columns of a statement that writes, from its plan, since it must not be run for this.
    """
    output = await _output(connection, look(query, kinds, Form.WITH), timeout)
    if not gives_rows(query.sql):
        return []
    names = [_unquoted(text) for text in output]
    try:
        type_names = await _output(connection, look_types(query, kinds, names), timeout)
    except (RouteError, RowError) as error:
        if error.sqlstate in _AMBIGUOUS:
            text = "has two columns of the same name; name one of them by AS"
            raise RouteError(text, error.sqlstate) from error
        # Some column is of a type that has no array, such as void.
        return [ResultColumn(name, "") for name in names]
    types = [shown[1] if (shown := _SHOWN_TYPE.search(text)) else "text" for text in type_names]
    ask = "SELECT array(SELECT t::regtype::oid::bigint FROM unnest(%s::text[]) t)"
    ((oids,),) = await connection.query(ask, (types,), timeout)
    return _result_columns(names, await connection.query(_COLUMN_TYPES, (oids,), timeout))


async def _output(connection: Connection, sql: str, timeout: float) -> list[str]:
    rows = await connection.query(f"EXPLAIN (VERBOSE, FORMAT JSON) {sql}", None, timeout)
    plan: dict[str, Any] = rows[0][0][0]["Plan"]
    return list(plan.get("Output", ()))


def _unquoted(text: str) -> str:
    name = text.removeprefix("gw_u.")
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _result_columns(names: Sequence[str], rows: Rows) -> list[ResultColumn]:
    return [ResultColumn(name, *row) for name, row in zip(names, rows, strict=True)]


def _explained(query: Query, error: RouteError | RowError) -> str:
    """
    Return the server's message, with advice where there is some.
    """
    text = str(error)
    if hint := advice(query.sql, error):
        return text + hint
    texts = [name for name, param in query.params.items() if param.type == "text"]
    if error.sqlstate == _NO_FUNCTION and texts:
        where = f"queries.{query.name}.params.{texts[0]}"
        text += f"; parameter {texts[0]!r} is text as long as [{where}] names no other type"
    if query.read_only and error.sqlstate in ("42601", "0A000") and _writes(query.sql):
        text = "writes; set read_only = false, or have it read only"
    return text


def _writes(sql: str) -> bool:
    return bool(re.search(r"\b(insert|update|delete|merge)\b", sql, re.IGNORECASE))
