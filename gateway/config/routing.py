"""
Check of the keys that route by content: C{route_by} and C{routes}.

A message is parsed for one field before its route is known, so all routes in the table must have
the same format. That is checked here, so that nothing later has to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.config.reader import SectionReader
from gateway.formats.registry import field_fault, format_of
from gateway.model.route import SOURCES, Reading, Route
from gateway.model.text import meant


def check_name(reader: SectionReader, key: str, route: str, names: Collection[str]) -> None:
    """
    Note a route that is not in C{names}, which has those with problems too.
    """
    if route not in names and reader.is_sure("routes"):
        hint = meant(route, names) or f"; there are {', '.join(names) or 'none'}"
        reader.note(key, f"there is no route {route!r}{hint}")


def check_content(
    reader: SectionReader,
    where: str,
    field: str | None,
    table: Mapping[str, str] | None,
    names: Collection[str],
    routes: Mapping[str, Route],
) -> None:
    """
    Check C{route_by} and C{routes} of one listener, and note the problems.

    @param where: key of the listener.
    @param field: C{route_by} of the listener.
    @param table: C{routes} of the listener.
    @param names: of all routes, those with problems too.
    @param routes: routes whose format is known.
    """
    is_field = bool(field) and field not in SOURCES
    if field is None:
        reader.note(f"{where}.route_by", "is missing: the field whose value chooses among routes")
    elif not is_field:
        reader.note(f"{where}.route_by", f"{field!r} is no field of a message")
    if not table:
        what = "is missing" if table is None else "names no route"
        reader.note(f"{where}.routes", f'{what}: route_by needs some; try value = "route"')
        return
    readings = _readings(reader, where, table, names, routes)
    if not readings:
        return
    first, *others = readings
    unlike = [name for name in others if readings[name] != readings[first]]
    for name in unlike:
        reader.note(
            f"{where}.routes",
            f"{first!r} and {name!r} differ in {_differences(readings[first], readings[name])};"
            " routes that a field chooses among must read messages alike",
        )
    if field and is_field and not unlike:
        reading = readings[first]
        fault = field_fault(reading, field) or _group_fault(reading, field)
        if fault is not None:
            reader.note(f"{where}.route_by", f"{field!r} {fault}")


def _readings(
    reader: SectionReader,
    where: str,
    table: Mapping[str, str],
    names: Collection[str],
    routes: Mapping[str, Route],
) -> dict[str, Reading]:
    """
    Return route -> format for the routes in the table that exist and have fields; note the others.
    """
    readings = {}
    for value, name in table.items():
        check_name(reader, f"{where}.routes.{value}", name, names)
        if name not in routes:
            continue
        reading = routes[name].reading
        if reading.format == "text":
            reader.note(f"{where}.routes.{value}", f"{name!r} is a text route, which has no fields")
        else:
            readings[name] = reading
    return readings


def _differences(one: Reading, other: Reading) -> str:
    """
    Return the keys in which two routes differ; only C{format} if that differs.
    """
    if one.format != other.format:
        return f"format ({one.format}, {other.format})"
    pairs = {
        "fields": (one.names, other.names),
        "delimiter": (one.delimiter, other.delimiter),
        "pattern": (one.pattern, other.pattern),
        "charset": (one.charset, other.charset),
        "function": (one.function, other.function),
    }
    return " and ".join(key for key, (mine, yours) in pairs.items() if mine != yours)


def _group_fault(reading: Reading, field: str) -> str | None:
    """
    Return why a pattern has no such field; the pattern is compiled to find out.
    """
    if reading.format != "regex":
        return None
    try:
        format_of(reading, [])
    except ValueError:
        return None  # reported for the route already
    try:
        format_of(reading, [field])
    except ValueError as error:
        return f"is no field: the pattern {error}"
    return None
