"""
Statement that answers calls of a query, of many calls at once where it can.

The user's SQL stands in a subquery whose rows PostgreSQL makes JSON of. Arguments travel as
arrays, an element for each call: for one call the parameters are their first elements, for
many each call is a row of C{unnest}, and the SQL is joined to it by LATERAL. SQL that
writes stands in a WITH instead.

The result is one text: the answers of the calls, and in each its rows, with
separators that JSON never holds unescaped. Limits are kept here, so that an answer that is
too large never leaves the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.columns.kind import Kind
from gateway.model import wording
from gateway.model.outcome import Listing, Outcome
from gateway.model.query import Query
from gateway.model.route import identifier
from gateway.sql.parameters import gives_rows, halves, with_places
from gateway.sql.statement import ParameterNames, Preparable, is_of_its_time, named_places

MOST_BYTES_OF_MANY: Final = 1024 * 1024
"""Most bytes of the answers of several calls; with more, the calls are answered one by one."""

_ROW: Final = b"\x1e"
_CALL_SEPARATOR: Final = b"\x1d"
_TOO_MANY_ROWS: Final = b"R"
_TOO_LARGE: Final = b"B"


class Form(Enum):
    """Position of the user's SQL in the statement."""

    MANY = "joined to the calls by LATERAL"
    ONE = "a subquery"
    WITH = "a query of WITH"


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """
    Column of a query's result.

    @ivar type: its name in SQL.
    @ivar base: as in L{SqlType}.
    @ivar element: base type of an array's elements, C{""} for what is no array.
    """

    name: str
    type: str
    base: str = ""
    element: str = ""

    @property
    def is_bytes(self) -> bool:
        return "bytea" in (self.base, self.element)


@dataclass(frozen=True, slots=True)
class CallStatement:
    """
    Statement that answers calls.

    @ivar form: whether it answers several.
    @ivar types: SQL types of the parameters.
    @ivar prepared: the text with C{$1}, C{$2}, ... for PREPARE.
    @ivar plain: the text with C{%(p1)s}, C{%(p2)s}, ... for sessions that cannot keep a
        prepared statement.
    @ivar lasts: as in L{Preparable}.
    @ivar preparable: both of them.
    """

    form: Form
    types: tuple[str, ...]
    prepared: str
    plain: str
    lasts: bool
    preparable: Preparable = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found = Preparable(self.types, self.prepared, self.plain, self.lasts)
        object.__setattr__(self, "preparable", found)

    def bind(self, calls: Sequence[Sequence[str]]) -> list[str]:
        """
        Return the parameters.

        @param calls: the elements of each call's arguments.
        """
        if not calls[0]:
            return [str(len(calls))] if self.types else []
        if len(calls) == 1:
            return [f"{{{element}}}" for element in calls[0]]
        return [f"{{{','.join(elements)}}}" for elements in zip(*calls, strict=True)]


def call_statement(
    query: Query, kinds: Sequence[Kind], form: Form, columns: Sequence[ResultColumn]
) -> CallStatement:
    """
    Write the statement that answers calls of a query.

    @param kinds: of the parameters, in order.
    @param columns: of the result.
    """
    types = [kind.parameter for kind in kinds]
    if form is Form.MANY and not types:
        types = ["int4"]
    return CallStatement(
        form,
        tuple(types),
        _statement_sql(
            query, kinds, form, columns, [f"${n}" for n in range(1, len(types) + 1)], False
        ),
        _statement_sql(query, kinds, form, columns, named_places(len(types)), True),
        not is_of_its_time(query.sql),
    )


def look(query: Query, kinds: Sequence[Kind], form: Form) -> str:
    """
    Write a statement that has the result's columns and no row.

    With L{Form.WITH} it is for EXPLAIN.
    """
    if form is Form.MANY:
        arrays = [f"'{{}}'::{kind.parameter}" for kind in kinds]
        places = [
            _argument_sql(f"(gw_p.gw_{n})", kind, ParameterNames(False))
            for n, kind in enumerate(kinds)
        ]
        sql = _placed(query, places, False)
        return f"SELECT gw_u.* FROM {_calls(arrays, '0')} CROSS JOIN LATERAL ({sql}\n) gw_u LIMIT 0"
    # A subquery, since a NULL would be computed with while planning.
    sql = _placed(query, _unknown(kinds), False)
    if form is Form.ONE:
        return f"SELECT gw_u.* FROM ({sql}\n) gw_u LIMIT 0"
    return f"{_as_with_query(sql)} SELECT{' gw_u.* FROM gw_u' if gives_rows(query.sql) else ''}"


def look_types(query: Query, kinds: Sequence[Kind], columns: Sequence[str]) -> str:
    """Write a statement for EXPLAIN VERBOSE, whose output says C{NULL::type} of each column."""
    sql = _placed(query, _unknown(kinds), False)
    pairs = ", ".join(f"ARRAY[gw_u.{identifier(column)}, NULL]" for column in columns)
    return f"{_as_with_query(sql)} SELECT {pairs} FROM gw_u"


def _statement_sql(
    query: Query,
    kinds: Sequence[Kind],
    form: Form,
    columns: Sequence[ResultColumn],
    parameters: Sequence[str],
    plain: bool,
) -> str:
    names = ParameterNames(plain)
    typed = [f"{p}::{kind.parameter}" for p, kind in zip(parameters, kinds, strict=False)]
    if form is Form.MANY:
        places = [_argument_sql(f"(gw_p.gw_{n})", kind, names) for n, kind in enumerate(kinds)]
    else:
        places = [_argument_sql(f"(({p})[1])", k, names) for p, k in zip(typed, kinds, strict=True)]
    sql = _placed(query, places, plain)
    if form is Form.WITH:
        if not gives_rows(query.sql):
            return f"{_as_with_query(sql)} SELECT ''"
        return f"{_as_with_query(sql)} {_answer_query(query, 'gw_u', columns, names)}"
    answer = _answer_query(query, f"({sql}\n) gw_u", columns, names)
    if form is Form.ONE:
        return answer
    count = f"{parameters[0]}::int4"
    return (
        f"SELECT CASE WHEN count(*) = 1 OR sum(octet_length(gw_a)) <= {MOST_BYTES_OF_MANY}"
        r" THEN string_agg(gw_a, E'\x1d' ORDER BY gw_i) END"
        f" FROM (SELECT gw_p.gw_i, gw_t.gw_a FROM {_calls(typed, count)}"
        f" CROSS JOIN LATERAL ({answer} WHERE gw_p.gw_i IS NOT NULL) gw_t) gw_g"
    )


def _argument_sql(place: str, kind: Kind, names: ParameterNames) -> str:
    """
    Write an argument with the declared type, without the cut of a cast.

    @param place: one element of the array that it travels in.
    """
    sql_type = kind.sql_type
    value = sql_type.sql_from_text(place, names) if kind.parameter == "text[]" else place
    return f"({sql_type.fitted(value, names)})"


def _unknown(kinds: Sequence[Kind]) -> list[str]:
    return [f"((SELECT NULL::{kind.sql_type.declared}))" for kind in kinds]


def _placed(query: Query, places: Sequence[str], plain: bool) -> str:
    sql = query.sql.replace("%%", "%%%%") if plain else query.sql
    return with_places(sql, dict(zip(query.params, places, strict=True)).__getitem__)


def _calls(arrays: Sequence[str], count: str) -> str:
    if not arrays:
        return f"generate_series(1, {count}) AS gw_p(gw_i)"
    columns = ", ".join(f"gw_{number}" for number in range(len(arrays)))
    return f"unnest({', '.join(arrays)}) WITH ORDINALITY AS gw_p({columns}, gw_i)"


def _as_with_query(sql: str) -> str:
    """Write the user's statement as the last query of WITH."""
    head, main = halves(sql)
    return f"{f'{head},' if head.strip() else 'WITH'} gw_u AS MATERIALIZED ({main}\n)"


def _answer_query(
    query: Query, source: str, columns: Sequence[ResultColumn], names: ParameterNames
) -> str:
    """
    Write the query that gives one call's answer: a row of one text.

    @param source: gives the rows, as C{gw_u}.
    """
    chosen = "*"
    if any(column.is_bytes for column in columns):
        chosen = ", ".join(names(_column_sql(column)) for column in columns)
    rows = f"SELECT {chosen} FROM {source} LIMIT {query.max_rows + 1}"
    return (
        f"SELECT CASE WHEN count(*) > {query.max_rows} THEN 'R'"
        f" WHEN sum(octet_length(gw_r)) > {query.max_bytes} THEN 'B'"
        r" ELSE coalesce(string_agg(gw_r, E'\x1e'), '') END AS gw_a"
        f" FROM (SELECT row_to_json(gw_q)::text AS gw_r FROM ({rows}) gw_q) gw_s"
    )


def _column_sql(column: ResultColumn) -> str:
    """
    Write a column of the result, bytes as Base64.

    PostgreSQL's Base64 has line feeds, and its JSON has bytes in hexadecimal.
    """
    name = identifier(column.name)
    if column.base == "bytea":
        return f"{_base64(f'gw_u.{name}')} AS {name}"
    if column.element == "bytea":
        return (
            f"CASE WHEN array_ndims(gw_u.{name}) = 1 THEN to_json(ARRAY(SELECT {_base64('gw_e')}"
            f" FROM unnest(gw_u.{name}) WITH ORDINALITY AS gw_b(gw_e, gw_o) ORDER BY gw_o))"
            f" ELSE to_json(gw_u.{name}) END AS {name}"
        )
    return f"gw_u.{name}"


def _base64(value: str) -> str:
    return rf"translate(encode({value}, 'base64'), E'\n', '')"


def answers_of(result: str, query: Query) -> list[Outcome | Listing]:
    """
    Return the answer of each call.

    @param result: the result of a L{CallStatement}.
    """
    # Only a json column has line breaks, between its tokens.
    data = result.encode().replace(b"\n", b" ").replace(b"\r", b" ")
    return [
        Listing(answer.split(_ROW)) if answer[:1] == b"{" else _without_rows(answer, query)
        for answer in data.split(_CALL_SEPARATOR)
    ]


def _without_rows(answer: bytes, query: Query) -> Outcome | Listing:
    if answer == _TOO_MANY_ROWS:
        return wording.more_rows(query.max_rows)
    if answer == _TOO_LARGE:
        return wording.more_bytes(query.max_bytes)
    return Listing(())
