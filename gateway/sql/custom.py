"""
Statement of a route with SQL of the user's own: run for each message, in one round trip.

A code block runs the statement for one row after the other: PostgreSQL plans it once a batch.
Where a row fails, the block that leaves out the rows at fault follows, as for tables. An INSERT
that does the same for all rows at once is run like that instead, at a third of the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from gateway.columns.kind import SqlType
from gateway.formats.fields import Format
from gateway.model.batch import Slice
from gateway.model.route import Route, identifier
from gateway.sql.arrays import Arrays
from gateway.sql.block import Part, body
from gateway.sql.parameters import gives_rows, with_places
from gateway.sql.plain_insert import PlainInsert
from gateway.sql.statement import (
    FENCE_TYPES,
    Binding,
    ParameterNames,
    Statement,
    fence,
    named_places,
)
from gateway.sql.step import BlockRows, Step


class CustomInsert:
    """
    Statement of a route with SQL of the user's own, run for each message.
    """

    def __init__(
        self,
        route: Route,
        types: Mapping[str, SqlType],
        form: Format,
        plain: PlainInsert | None = None,
    ) -> None:
        """
        @param types: parameter -> its type.
        @param form: reads the fields that the parameters name.
        @param plain: its SQL, where it may be run for all rows at once.
        @raise RouteError: a value of the configuration does not fit its parameter.
        """
        self._route = route
        self._types = types
        self._arrays = Arrays(route, types, form)
        count = len(route.columns)
        step = Step(
            one=self._one,
            many=None if plain is None else partial(self._many, plain, escaped=True),
            returns=bool(route.returning),
            columns=self._arrays.columns,
        )
        rows = BlockRows(step, count, _rows_query)
        part = Part(rows, named_places(len(FENCE_TYPES) + count))

        def text(places: Sequence[str], escaped: bool) -> str:
            if plain is None:
                return ""
            rows = _rows_query(places[len(FENCE_TYPES) :])
            source = f"{fence(places)} AS gw_fence, ({rows}) AS gw_u"
            return self._many(plain, [f"gw_u.c{n}" for n in range(count)], source, escaped)

        self.many = Statement(
            types=(*FENCE_TYPES, *["text[]"] * count),
            prepared=text([f"${n}" for n in range(1, len(part.places) + 1)], False),
            plain=text(part.places, True),
            block=body([part], careful=True),
            joins=plain is not None,
            whole="" if plain is not None else body([part], careful=False),
            rows=rows,
        )
        self.statements = (self.many,)

    def bind(self, slices: Sequence[Slice]) -> Binding:
        """
        Return the statement and its parameters for the rows of a batch.

        @raise FramesRefused: some messages hold what the parameters cannot.
        """
        return self.many, (yield from self._arrays.bind(slices))

    def _one(self, inputs: Sequence[str]) -> str:
        names = ParameterNames(True)
        text = self._filled(self._route.sql, inputs, escaped=True)
        if not gives_rows(self._route.sql):
            return f"{text}\n;"
        if not self._route.returning:
            return f"FOR gw_result IN {text}\nLOOP END LOOP;"
        returned = ", ".join(
            f"gw_result.{names(identifier(column))}::text" for column in self._route.returning
        )
        return (
            f"gw_value := NULL; FOR gw_result IN {text}\nLOOP"
            f" gw_value := coalesce(gw_value, json_build_array({returned})::text); END LOOP;"
        )

    def _many(self, plain: PlainInsert, row: Sequence[str], source: str, escaped: bool) -> str:
        """Write the statement for many rows."""
        head = self._filled(plain.head, row, escaped)
        return f"{head} SELECT {self._filled(plain.values, row, escaped)} FROM {source}"

    def _filled(self, sql: str, inputs: Sequence[str], escaped: bool) -> str:
        """
        Put the inputs of a row into SQL of the user's.

        @param escaped: whether every % of the user's text is doubled, so that it is no parameter.
        """
        names = ParameterNames(escaped)
        places = {
            name: f"({self._types[name].sql_from_text(place, names)})"
            for name, place in zip(self._route.columns, inputs, strict=True)
        }
        return with_places(sql.replace("%%", "%%%%") if escaped else sql, places.__getitem__)


def _rows_query(places: Sequence[str]) -> str:
    arrays = ", ".join(f"{place}::text[]" for place in places)
    columns = ", ".join(f"c{number}" for number in range(len(places)))
    return f"SELECT * FROM unnest({arrays}) AS u({columns})"
