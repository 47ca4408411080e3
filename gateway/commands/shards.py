"""
Compare the tables of a sharded route: what differs between them is stored in one and refused in
another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.model.route import Route, inner_name, table_identifier
from gateway.postgres.connect.connection import RunQuery

Shape = Mapping[str, str]
"""What a table has, for people -> how: C{column x} -> C{bigint not null}."""

Shapes = dict[str, Shape]
"""Name of an inner route -> the shape of its table; empty where there is none."""

_SHAPE: Final = """
    SELECT 'column ' || quote_ident(a.attname),
           format_type(a.atttypid, a.atttypmod)
           || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
      FROM pg_attribute a
     WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'unique key (' || k.columns || ')', 'there'
      FROM pg_index i
     CROSS JOIN LATERAL (
           SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true), ', ' ORDER BY n) AS columns
             FROM generate_series(1, i.indnkeyatts) n) k
     WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indpred IS NULL
"""


async def shape_of(query: RunQuery, table: str) -> Shape:
    """Return the columns and unique keys of a table."""
    name = table_identifier(table)
    return dict(await query(_SHAPE, (name, name)))


def shard_problems(route: Route, shapes: Shapes) -> list[str]:
    """
    Return what differs between the tables of a route's shards, one line each.
    """
    found = [
        (shard, shape)
        for shard in route.shards
        if (shape := shapes.get(inner_name(route.name, shard)))
    ]
    problems = []
    for shard, shape in found[1:]:
        first, like = found[0]
        for part in dict.fromkeys([*like, *shape]):
            ours, theirs = like.get(part, "missing"), shape.get(part, "missing")
            if ours != theirs:
                problems.append(
                    f"routes.{route.name}.shards: table {route.table}: {part} is {ours} in {first},"
                    f" and {theirs} in {shard}; the tables of all shards must be alike"
                )
    return problems
