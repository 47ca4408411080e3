"""
SQL types of the live database: how a text becomes a value, as an untyped literal does.

PostgreSQL parses C{'text'} in C{INSERT ... VALUES ('text')} with the input function of the column's
type, or of a domain's base type, and then coerces the value as in an assignment: C{'abcd'} is
refused by a C{varchar(3)}, also under a domain, where an explicit cast would cut it. So here a text
is cast to the base type alone, which runs the same input function; the assignment checks its
length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.columns.kind import SqlType
from gateway.postgres.connect.connection import RunQuery


def base_type(oid: str, modifier: str = "-1") -> str:
    """
    Write a query for the row of C{pg_type} that a type is based on: a domain's at its end, after
    domains over domains, else the type's own; without a row where there is no such type.

    Its column C{fields} is the modifier, be it the type's or that of a domain on the way.

    @param oid: of the type, in SQL.
    @param modifier: of the type, in SQL.
    """
    return f"""(
        WITH RECURSIVE level(oid, fields) AS (
            SELECT {oid}, {modifier}
            UNION ALL
            SELECT t.typbasetype, greatest(fields, t.typtypmod)
              FROM level JOIN pg_type t USING (oid) WHERE t.typtype = 'd'
        )
        SELECT t.*, fields FROM level JOIN pg_type t USING (oid) WHERE t.typtype <> 'd'
    )"""


# A cast from text runs the type's input function unless pg_cast has another one (regclass,
# xml, "char", PostGIS), which may take other texts; then the function is called by name.
# A function with a polymorphic result cannot be; the cast then goes through character, from which
# there is no such cast. An interval's fields say what a bare number counts, so only interval has
# its typmod here. Only PostgreSQL's own base types are known by name; another schema's type of the
# same name is a different type.
_TYPES_QUERY: Final = f"""
    SELECT format_type(b.oid, -1),
           CASE WHEN b.typnamespace = 'pg_catalog'::regnamespace THEN b.typname ELSE '' END::text,
           CASE WHEN b.oid IN ('varchar'::regtype, 'bpchar'::regtype)
                THEN greatest(0, fields - 4) ELSE 0 END,
           format_type(e.oid, -1),
           CASE WHEN e.typnamespace = 'pg_catalog'::regnamespace THEN e.typname ELSE '' END::text,
           e.typdelim::text,
           format_type(declared, typmod),
           CASE WHEN NOT known.cast_differs THEN ''
                WHEN i.prorettype = b.oid THEN format('%%I.%%I(', ins.nspname, i.proname)
                ELSE '' END,
           CASE WHEN NOT known.cast_differs THEN '::' || format_type(b.oid, -1)
                WHEN i.prorettype <> b.oid THEN '::bpchar::' || format_type(b.oid, -1)
                WHEN i.pronargs = 1 THEN '::cstring)'
                ELSE format('::cstring, %%s::oid%%s)',
                            CASE b.typelem WHEN 0 THEN b.oid ELSE b.typelem END,
                            CASE i.pronargs WHEN 2 THEN '' WHEN 3 THEN ', ' ||
                                 CASE b.oid WHEN 'interval'::regtype THEN fields ELSE -1 END END)
                END,
           CASE WHEN l.oid IS NULL THEN '' ELSE format('%%I.%%I(', lns.nspname, l.proname) END,
           CASE WHEN l.oid IS NULL THEN ''
                ELSE format(', %%s%%s)', fields, CASE l.pronargs WHEN 3 THEN ', false' END) END,
           fields >= 0 AND coalesce(el.pronargs = 3, false)
      FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS p(declared, typmod, place)
     CROSS JOIN LATERAL {base_type("declared", "typmod")} AS b
      JOIN pg_proc i ON i.oid = b.typinput
      JOIN pg_namespace ins ON ins.oid = i.pronamespace
      LEFT JOIN pg_type e ON e.oid = b.typelem AND i.oid = 'pg_catalog.array_in'::regproc
      LEFT JOIN pg_cast given ON given.castsource = 'pg_catalog.text'::regtype
           AND given.casttarget = b.oid AND given.castmethod <> 'i'
           AND b.oid NOT IN ('varchar'::regtype, 'bpchar'::regtype)
      LEFT JOIN pg_cast fit ON fit.castsource = b.oid AND fit.casttarget = b.oid AND fields >= 0
      LEFT JOIN pg_proc l ON l.oid = fit.castfunc
      LEFT JOIN pg_namespace lns ON lns.oid = l.pronamespace
      LEFT JOIN pg_cast efit ON efit.castsource = e.oid AND efit.casttarget = e.oid
      LEFT JOIN pg_proc el ON el.oid = efit.castfunc
     CROSS JOIN LATERAL (
           SELECT given.oid IS NOT NULL OR (b.oid = 'interval'::regtype AND fields >= 0)
           ) AS known(cast_differs)
     ORDER BY place
"""


async def sql_types(
    query: RunQuery, declared: Sequence[tuple[int, int]], not_null: Sequence[bool] = ()
) -> list[SqlType]:
    """
    Look up types in the catalog of the database.

    @param declared: oid and modifier of each type, as C{pg_attribute} has them.
    @param not_null: for each, whether its column refuses NULL.
    """
    oids, modifiers = [oid for oid, _ in declared], [modifier for _, modifier in declared]
    refusing = not_null or [False] * len(declared)
    rows = await query(_TYPES_QUERY, (oids, modifiers))
    return [_type_of_row(row, refuses) for row, refuses in zip(rows, refusing, strict=True)]


def _type_of_row(row: Sequence[Any], not_null: bool) -> SqlType:
    name, base, length, element_name, element_base, delimiter, declared = row[:7]
    before, after, fit_before, fit_after, cuts = row[7:]
    element = None
    if element_name is not None:
        element = SqlType(element_name, element_base, delimiter=delimiter)
    return SqlType(
        name,
        base,
        length,
        element,
        not_null,
        declared,
        reader=(before, after),
        fit=(fit_before, fit_after),
        cuts=cuts,
    )
