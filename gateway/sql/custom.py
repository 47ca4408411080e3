"""
Statement of a route with SQL of the user's own: run for each message, in one round trip.

A code block runs the statement for one row after the other, with the row's values as
typed variables: PostgreSQL plans it once a batch. Where a row fails, the block that
leaves out the rows at fault follows, as for tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.columns.kind import SqlType
from gateway.formats.fields import Format
from gateway.model.batch import Slice
from gateway.model.route import Route, identifier
from gateway.sql.arrays import Arrays
from gateway.sql.block import Part, body
from gateway.sql.parameters import gives_rows, with_places
from gateway.sql.statement import FENCE_TYPES, Binding, ParameterNames, Statement, named_places
from gateway.sql.step import BlockRows, Step, inputs


class CustomInsert:
    """
    Statement of a route with SQL of the user's own, run for each message.
    """

    def __init__(self, route: Route, types: Mapping[str, SqlType], form: Format) -> None:
        """
        @param types: parameter -> its type.
        @param form: reads the fields that the parameters name.
        @raise RouteError: a value of the configuration does not fit its parameter.
        """
        self._route = route
        self._types = types
        self._arrays = Arrays(route, types, form)
        count = len(route.columns)
        step = Step(one=self._one(), returns=bool(route.returning), columns=self._arrays.columns)
        rows = BlockRows(step, count, _rows_query)
        part = Part(rows, named_places(len(FENCE_TYPES) + count))
        self.many = Statement(
            types=(*FENCE_TYPES, *["text[]"] * count),
            prepared="",
            plain="",
            block=body([part], careful=True),
            whole=body([part], careful=False),
            rows=rows,
        )
        self.statements = (self.many,)

    def bind(self, slices: Sequence[Slice]) -> Binding:
        """
        Return the statement and its parameters for the rows of a batch.

        @raise FramesRefused: some messages hold what the parameters cannot.
        """
        return self.many, (yield from self._arrays.bind(slices))

    def _one(self) -> str:
        # Every % of the user's text is doubled, so that it is no parameter.
        names = ParameterNames(True)
        places = {
            name: f"({self._types[name].sql_from_text(place, names)})"
            for name, place in zip(self._route.columns, inputs(len(self._types)), strict=True)
        }
        text = with_places(self._route.sql.replace("%%", "%%%%"), places.__getitem__)
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


def _rows_query(places: Sequence[str]) -> str:
    arrays = ", ".join(f"{place}::text[]" for place in places)
    columns = ", ".join(f"c{number}" for number in range(len(places)))
    return f"SELECT * FROM unnest({arrays}) AS u({columns})"
