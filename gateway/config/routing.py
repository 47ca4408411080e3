"""
The keys of a listener that routes by content: C{route_by} and C{routes}.

Messages are read for one field before it is known whose they are, so the routes in the
table must all read them alike. That is checked here, so that nothing has to be later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.config.reader import SectionReader
from gateway.formats.registry import field_fault, format_of
from gateway.model.route import SOURCES, Reading, Route
from gateway.model.text import meant


def check_name(reader: SectionReader, key: str, route: str, names: Collection[str]) -> None:
    """
    @param names: of all routes, faulty ones too.
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
    @param where: the listener's key.
    @param field: its C{route_by}.
    @param table: its C{routes}.
    @param names: of all routes, faulty ones too.
    @param routes: those of which it is known how they read messages.
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
    @return: route -> how it reads messages, of those that are there and have fields.
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
    @return: the keys of a route in which they differ; of another format, just that.
    """
    if one.format != other.format:
        return f"format ({one.format}, {other.format})"
    pairs = {
        "fields": (one.names, other.names),
        "delimiter": (one.delimiter, other.delimiter),
        "pattern": (one.pattern, other.pattern),
    }
    return " and ".join(key for key, (mine, yours) in pairs.items() if mine != yours)


def _group_fault(reading: Reading, field: str) -> str | None:
    """
    Why a pattern has no such field, which only the pattern itself can say.
    """
    if reading.format != "regex":
        return None
    try:
        format_of(reading, [])
    except ValueError:
        return None  # said of the route
    try:
        format_of(reading, [field])
    except ValueError as error:
        return f"is no field: the pattern {error}"
    return None
