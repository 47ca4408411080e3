"""
Table of the kind of each SQL type.
"""

from __future__ import annotations

from datetime import UTC, tzinfo
from typing import Final

from gateway.columns.kind import Kind, SqlType
from gateway.columns.scalars import Boolean, Bytea, Float, Inet, Integer, Numeric, Text, Uuid
from gateway.columns.structured import Array, Document
from gateway.columns.times import CompactDate, CompactTimestamp, Date, Timestamp

_KIND_OF_TYPE: Final[dict[str, type[Kind]]] = {
    **dict.fromkeys(("int2", "int4", "int8"), Integer),
    **dict.fromkeys(("float4", "float8"), Float),
    "numeric": Numeric,
    "bool": Boolean,
    **dict.fromkeys(("text", "varchar", "bpchar"), Text),
    "uuid": Uuid,
    **dict.fromkeys(("inet", "cidr"), Inet),
    "bytea": Bytea,
    **dict.fromkeys(("json", "jsonb"), Document),
    "date": Date,
}


def kind_of(sql_type: SqlType, zone: tzinfo | None = None, compact: bool = False) -> Kind:
    """
    Return the kind of a type; for one not listed, such as an enum, one that PostgreSQL checks.

    @param zone: time zone of times that name none; C{None}: UTC.
    @param compact: whether times are written as in HL7, C{20261127203447}; digits alone are then
        no number since 1970.
    """
    if sql_type.element is not None:
        return Array(sql_type, kind_of(sql_type.element, zone, compact))
    if sql_type.base in ("timestamptz", "timestamp"):
        return (CompactTimestamp if compact else Timestamp)(sql_type, zone or UTC)
    if sql_type.base == "date" and compact:
        return CompactDate(sql_type)
    return _KIND_OF_TYPE.get(sql_type.base, Kind)(sql_type)
