"""
Statements that store rows into a route's table.

Where rows need no answer but that they are stored, one INSERT does it. Where
rows may be duplicates, or return values, the rows are numbered as they come, and the fate
of each is worked out in the same statement and kept by C{gateway.remember}.
Where that cannot be worked out, since a trigger dropped rows or a key comes twice in an
upsert, the block stores the same rows one by one.

Rows that update others are written in the order of their keys, so that two gateways with
the same keys wait for each other rather than for ever (PostgreSQL documentation, section
13.3.4 "Deadlocks"); the lanes of one gateway take turns, see
L{gateway.postgres.store.executor}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.columns.kind import SqlType
from gateway.model.route import Route, identifier, table_identifier
from gateway.sql.block import Part, body
from gateway.sql.statement import (
    FENCE_TYPES,
    ParameterNames,
    Statement,
    fence,
    named_places,
    statement,
)
from gateway.sql.step import BlockRows, Step


@dataclass(frozen=True, slots=True)
class SqlRows:
    """
    SQL of a batch's rows.

    @ivar types: of the parameters after the fence.
    @ivar inputs: SQL names of a row's inputs, as the source calls them.
    @ivar source: (places of the parameters after the fence, whether all inputs are wanted
        as text) -> the SQL after FROM.
    @ivar values: (inputs, names, whether they are text) -> a value for each column.
    @ivar declared: column -> its type with length and precision.
    @ivar columns: name and type that each input is for, for errors; none where an input is
        for several.
    """

    types: Sequence[str]
    inputs: Sequence[str]
    source: Callable[[Sequence[str], bool], str]
    values: Callable[[Sequence[str], ParameterNames, bool], list[str]]
    declared: Mapping[str, str]
    columns: Sequence[tuple[str, SqlType]] = ()


def table_statement(route: Route, rows: SqlRows) -> Statement:
    """
    Write the statement that stores rows into a route's table.

    @param rows: with a value for each column of the route.
    """
    types = (*FENCE_TYPES, *rows.types)
    of_block = _Insert(route, rows, ParameterNames(True)).rows_of_block()
    return statement(
        lambda places, names: _Insert(route, rows, names).text(places),
        body([Part(of_block, named_places(len(types)))], careful=True),
        types,
        joins=route.conflict == "error" and not route.returning,
        rows=of_block,
    )


class _Insert:
    """
    SQL of one route's statement.
    """

    def __init__(self, route: Route, rows: SqlRows, names: ParameterNames) -> None:
        self._route = route
        self._rows = rows
        self._names = names
        self._table = names(table_identifier(route.table))
        self._columns = [names(identifier(column)) for column in route.columns]
        self._key = [names(identifier(column)) for column in route.key]
        # Names of the key's values among the values v0, v1, ... of a row.
        self._parts = [f"v{list(route.columns).index(column)}" for column in route.key]

    def text(self, places: Sequence[str]) -> str:
        if self._route.conflict == "error" and not self._route.returning:
            return self._plain(places)
        if self._route.conflict == "ignore":
            return self._ignoring(places)
        return self._inserting(places, ", ".join([*self._parts, "n"]))

    def rows_of_block(self) -> BlockRows:
        rows = self._rows
        aliased = ", ".join(f"{name} AS c{number}" for number, name in enumerate(rows.inputs))
        step = Step(
            one=self._one,
            many=None if self._tells else self._some,
            ignores=self._route.conflict == "ignore",
            returns=bool(self._route.returning),
            columns=rows.columns,
        )
        return BlockRows(
            step,
            len(rows.inputs),
            lambda places: f"SELECT {aliased} FROM {rows.source(places, True)}",
        )

    @property
    def _tells(self) -> bool:
        """Whether rows need answers of their own."""
        return self._route.conflict == "ignore" or bool(self._route.returning)

    def _into(self) -> str:
        return f"INSERT INTO {self._table} ({', '.join(self._columns)})"

    def _plain(self, places: Sequence[str]) -> str:
        values = self._rows.values(self._rows.inputs, self._names, False)
        return (
            f"{self._into()} SELECT {', '.join(values)} FROM {fence(places)} AS fence,"
            f" {self._rows.source(places[len(FENCE_TYPES) :], False)}"
        )

    def _one(self, row: Sequence[str]) -> str:
        values = ", ".join(self._rows.values(row, self._names, True))
        text = f"{self._into()} VALUES ({values}){self._on_conflict()}"
        if self._route.returning:
            returned = ", ".join(self._returned_texts())
            text += f" RETURNING json_build_array({returned})::text INTO gw_value"
        return f"{text};"

    def _some(self, row: Sequence[str], source: str) -> str:
        # Where two rows would update the same one, PostgreSQL refuses this; they go in turn.
        values = ", ".join(self._rows.values(row, self._names, True))
        return f"{self._into()} SELECT {values} FROM {source}{self._on_conflict()}"

    def _returned_texts(self) -> list[str]:
        """Return the returned columns as text."""
        return [f"{self._names(identifier(column))}::text" for column in self._route.returning]

    def _on_conflict(self) -> str:
        if self._route.conflict == "error":
            return ""
        target = f" ON CONFLICT ({', '.join(self._key)})"
        if self._route.conflict == "ignore":
            return f"{target} DO NOTHING"
        changed = [self._names(identifier(column)) for column in self._route.updated_columns]
        return f"{target} DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in changed)

    # Statements that record the fate of each row.

    def _given(self, places: Sequence[str]) -> str:
        values = self._rows.values(self._rows.inputs, self._names, False)
        aliased = ", ".join(f"{value} AS v{number}" for number, value in enumerate(values))
        return (
            f"gw_given AS MATERIALIZED (SELECT row_number() OVER () AS n, {aliased}"
            f" FROM {fence(places)} AS fence,"
            f" {self._rows.source(places[len(FENCE_TYPES) :], False)})"
        )

    def _taken(self, order: str, returned: Sequence[str]) -> str:
        values = ", ".join(f"v{number}" for number in range(len(self._columns)))
        text = f"{self._into()} SELECT {values} FROM gw_given ORDER BY {order}"
        text += self._on_conflict()
        if returned:
            text += " RETURNING " + ", ".join(returned)
        return text

    def _values(self) -> list[str]:
        return [f"{column} AS r{number}" for number, column in enumerate(self._returned_texts())]

    def _array(self, row: str) -> str:
        values = ", ".join(f"{row}.r{number}" for number in range(len(self._route.returning)))
        return f"json_build_array({values})"

    def _inserting(self, places: Sequence[str], order: str) -> str:
        """
        Write the statement where every row is inserted, or updates one.

        Where two rows of a batch would update the same one, PostgreSQL refuses the statement, and
        the block stores them in turn.
        """
        if not self._route.returning:
            return f"WITH {self._given(places)} {self._taken(order, ())}"
        returned = (
            f"SELECT json_agg({self._array('t')} ORDER BY s.n)"
            f" FROM (SELECT n, row_number() OVER (ORDER BY {order}) AS place FROM gw_given) AS s"
            " JOIN (SELECT *, row_number() OVER () AS place FROM gw_taken) AS t USING (place)"
        )
        taken = self._taken(order, self._values())
        return f"WITH {self._given(places)}, gw_taken AS ({taken}) " + _remember(
            places, f"{_count('gw_taken')} = {_count('gw_given')}", "'[]'", returned
        )

    def _ignoring(self, places: Sequence[str]) -> str:
        # Of rows with the same key the first one is stored, if any; of rows whose key is
        # NULL, and so never the same, all of them. PostgreSQL decides that, row by row as
        # they came; which ones it took is told by their keys. Where these do not add up, as
        # a trigger changed them or the column compares in its own way, the block tells.
        parts = ", ".join(self._parts)
        keys = [f"{column} AS {part}" for column, part in zip(self._key, self._parts, strict=True)]
        # As the table has them: a numeric(5,2) is rounded there. What a cast would cut has been
        # refused there, and with it the statement.
        given = ", ".join(
            f"{part}::{self._names(self._rows.declared[column])} AS {part}"
            for column, part in zip(self._route.key, self._parts, strict=True)
        )
        taken = self._taken("n", [*keys, *self._values()])
        fates = (
            "gw_fates AS (SELECT n, count(n) OVER w AS given,"
            f" row_number() OVER (w ORDER BY n) > count(*) FILTER (WHERE n IS NULL) OVER w"
            " AS duplicate"
            f" FROM (SELECT n, {given} FROM gw_given"
            f" UNION ALL SELECT NULL, {parts} FROM gw_taken) AS both_of_them"
            f" WINDOW w AS (PARTITION BY {parts}))"
        )
        duplicates = (
            "SELECT coalesce(json_agg(n ORDER BY n), '[]') FROM gw_fates"
            " WHERE duplicate AND n IS NOT NULL"
        )
        stored = "FROM gw_fates WHERE NOT duplicate AND n IS NOT NULL"
        sure = (
            f"{_count('gw_taken')} = (SELECT count(*) {stored})"
            " AND NOT EXISTS (SELECT FROM gw_fates WHERE n IS NULL AND given = 0)"
        )
        query = f"WITH {self._given(places)}, gw_taken AS ({taken}), {fates} "
        if self._route.returning:
            returned = (
                f"SELECT json_agg({self._array('t')} ORDER BY s.n)"
                f" FROM (SELECT n, row_number() OVER (ORDER BY n) AS place {stored}) AS s"
                " JOIN (SELECT *, row_number() OVER () AS place FROM gw_taken) AS t USING (place)"
            )
            return query + _remember(places, sure, f"({duplicates})", returned)
        return query + (
            f"SELECT gateway.remember({places[0]}::uuid,"
            f" CASE WHEN {_count('gw_taken')} = {_count('gw_given')} THEN '{{}}' WHEN {sure}"
            f" THEN json_build_object('duplicates', ({duplicates}))::text END)"
        )


def _count(name: str) -> str:
    return f"(SELECT count(*) FROM {name})"


def _remember(places: Sequence[str], sure: str, duplicates: str, values: str) -> str:
    """
    Write the call of C{gateway.remember}.

    @param sure: a condition: the returned values belong to the rows in order.
    """
    return (
        f"SELECT gateway.remember({places[0]}::uuid, CASE WHEN {sure} THEN"
        f" json_build_object('duplicates', {duplicates}::json, 'values',"
        f" coalesce(({values}), '[]'))::text END)"
    )
