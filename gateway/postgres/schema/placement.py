"""
Where the rows of a route's table are: partitions, foreign servers, the shards of Citus.

C{gateway check} tells of it, since it decides which promise holds and how fast the route is;
nothing else in the gateway depends on it. docs/scaling.md has the figures behind the sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from gateway.model.route import Route, identifier, table_identifier
from gateway.postgres.connect.connection import RunQuery

# An expression in a key has attribute number 0 and no column.
_PARTITIONED: Final = """
    SELECT p.partstrat::text, p.partdefid <> 0,
           array(SELECT a.attname::text
                   FROM unnest(p.partattrs::int2[]) WITH ORDINALITY AS k(number, place)
                   JOIN pg_catalog.pg_attribute a
                     ON a.attrelid = p.partrelid AND a.attnum = k.number
                  ORDER BY k.place),
           p.partexprs IS NOT NULL
      FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = %s::oid
"""

_BOUNDS: Final = """
    SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid)
      FROM pg_catalog.pg_inherits i
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = %s::oid
"""

# The table itself, or those of its partitions that are foreign.
_FOREIGN: Final = """
    SELECT c.oid::regclass::text, s.srvname::text, w.fdwname::text
      FROM (SELECT %s::oid AS oid UNION
            SELECT relid::oid FROM pg_catalog.pg_partition_tree(%s::oid::regclass)) AS t
      JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind = 'f'
      JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = c.oid
      JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
      JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
     ORDER BY 1
"""

_HAS_CITUS: Final = "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"

_CITUS: Final = """
    SELECT d.partmethod::text, d.repmodel::text, d.colocationid,
           CASE WHEN d.partkey IS NOT NULL
                THEN pg_catalog.column_to_column_name(d.logicalrelid, d.partkey) END,
           (SELECT count(*) FROM pg_catalog.pg_dist_shard s WHERE s.logicalrelid = d.logicalrelid),
           current_setting('citus.max_cached_conns_per_worker', true)
      FROM pg_catalog.pg_dist_partition d WHERE d.logicalrelid = %s::oid::regclass
"""

CACHED: Final = 16
"""
Connections to each worker that a session of the coordinator should keep: as many as Citus opens
for one statement (C{citus.max_adaptive_executor_pool_size}).
"""


@dataclass(frozen=True, slots=True)
class Placement:
    """
    Placement of the rows of a table.

    @ivar remarks: what a person should know, one line each.
    @ivar required: columns that each unique index must contain; empty: none.
    @ivar why: what requires them.
    """

    remarks: Sequence[str] = ()
    required: Sequence[str] = ()
    why: str = ""


async def examine_placement(query: RunQuery, route: Route, oid: int) -> Placement:
    """
    Find where the rows of a route's table are.

    @param oid: of the table.
    """
    name = table_identifier(route.table)
    remarks: list[str] = []
    required: Sequence[str] = ()
    why = ""
    for strategy, has_default, columns, has_expressions in await query(_PARTITIONED, (oid,)):
        bounds = [bound for (bound,) in await query(_BOUNDS, (oid,))]
        where = _columns(columns)
        text = f"{name} is partitioned by {where or 'an expression'}, {_counted(bounds)}"
        if not bounds:
            text += "; every row is refused (23514) until there is one"
        elif not has_default and not (strategy == "h" and _complete(bounds)):
            text += (
                "; a row for which there is none is refused (23514): make partitions ahead of"
                " time, or a default one"
            )
        remarks.append(text)
        if not has_expressions:
            required, why = columns, f"is partitioned by {where}"
    for table, server, wrapper in await query(_FOREIGN, (oid, oid)):
        remarks.append(_foreign(table, server, wrapper))
    if (await query(_HAS_CITUS, None))[0][0]:
        for method, model, group, column, shards, cached in await query(_CITUS, (oid,)):
            remarks += _citus(name, method, model, group, column, shards, cached)
            if method != "n":
                required, why = [column], f"is distributed by {_columns([column])}"
    return Placement(remarks, required, why)


def missing_in_key(placement: Placement, key: Sequence[str]) -> list[str]:
    """
    Return the columns that a unique index on a key lacks, so that it cannot be made.
    """
    return [column for column in placement.required if column not in key]


def _columns(columns: Sequence[str]) -> str:
    return f"({', '.join(map(identifier, columns))})" if columns else ""


def _counted(bounds: Sequence[str]) -> str:
    return f"{len(bounds)} partition{'' if len(bounds) == 1 else 's'}"


def _complete(bounds: Sequence[str]) -> bool:
    """
    Say whether partitions by hash leave no row without one.

    @param bounds: C{FOR VALUES WITH (modulus 4, remainder 0)}, and so on.
    """
    moduli = [int(bound.partition("modulus ")[2].partition(",")[0]) for bound in bounds]
    return sum(Fraction(1, modulus) for modulus in moduli) == 1


def _foreign(table: str, server: str, wrapper: str) -> str:
    text = f"{table} is a foreign table of server {identifier(server)} ({wrapper})"
    if wrapper != "postgres_fdw":
        return f"{text}: exactly once holds only as far as that wrapper commits with PostgreSQL"
    return (
        f"{text}: it commits just before this server does, so nothing is lost, and a batch is"
        " stored twice where this server or its session ends between the two; a unique index"
        " there, and a statement of your own (sql) with ON CONFLICT DO NOTHING, keep it at once"
    )


def _citus(
    name: str,
    method: str,
    model: str,
    group: int,
    column: str | None,
    shards: int,
    cached: str | None,
) -> list[str]:
    """
    Describe a table that Citus knows.

    @param method: h, r or a: by hash, range or as appended; n: not distributed.
    @param model: t: a copy on each node, kept alike by two-phase commit.
    @param group: of tables that are placed alike; 0: none.
    @param cached: C{citus.max_cached_conns_per_worker}; C{None} where Citus is not loaded.
    """
    kept = "exactly once holds, by two-phase commit with the fence on the coordinator"
    if method == "n":
        if model == "t":
            return [f"{name} is a reference table of Citus, written on every node: {kept}"]
        where = "one shard of Citus, on one node" if group else "a local table that Citus knows"
        return [f"{name} is {where}: {kept}"]
    assert column is not None
    over = f"over {shards} shards of Citus"
    remarks = [f"{name} is distributed by {_columns([column])} {over}: {kept}"]
    if cached is not None and int(cached) < CACHED:
        remarks.append(
            f"citus.max_cached_conns_per_worker is {cached}, so that each batch connects to its"
            f" shards anew: ALTER ROLE ... SET citus.max_cached_conns_per_worker = {CACHED}"
            " is about four times as fast (docs/scaling.md)"
        )
    return remarks
