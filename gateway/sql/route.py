"""
Choice of the statement for a route and its table's types.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.columns.kind import SqlType
from gateway.formats.registry import format_of
from gateway.model.route import Route
from gateway.sql.arrays import ArrayInsert
from gateway.sql.custom import CustomInsert
from gateway.sql.joined import JoinedInsert
from gateway.sql.plain_insert import PlainInsert
from gateway.sql.statement import Insert


def insert_for(
    route: Route, types: Mapping[str, SqlType], plain: PlainInsert | None = None
) -> Insert:
    """
    Return the statement that stores a route's batches.

    @param types: column or parameter -> its type, for every one of the route.
    @param plain: SQL of the user's own, where it may be run for many rows at once.
    @raise RouteError: a value of the configuration does not fit its column or parameter.
    """
    form = format_of(route.reading, route.fields, route.timezone)
    if route.sql:
        return CustomInsert(route, types, form, plain)
    if route.reading.format == "text":
        return JoinedInsert(route, types)
    return ArrayInsert(route, types, form)
