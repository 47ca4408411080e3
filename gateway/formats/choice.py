"""
Which format reads the messages of a route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from difflib import get_close_matches
from typing import Final, Literal

from gateway.formats import influx, json, syslog
from gateway.formats.csv import CsvFormat
from gateway.formats.fields import Format
from gateway.formats.influx import InfluxFormat
from gateway.formats.json import JsonFormat
from gateway.formats.logfmt import LogfmtFormat
from gateway.formats.regex import RegexFormat
from gateway.formats.syslog import SyslogFormat
from gateway.formats.text import WholeFormat
from gateway.zones import LOCAL

FormatName = Literal["text", "json", "csv", "logfmt", "regex", "syslog", "influx"]


@dataclass(frozen=True, slots=True)
class Reading:
    """
    How messages are read.

    @ivar names: of csv: what the values of a record are called, in order.
    @ivar delimiter: of csv: one character, or C{whitespace}.
    @ivar pattern: of regex.
    """

    format: FormatName = "text"
    names: tuple[str, ...] = ()
    delimiter: str = ","
    pattern: str = ""


TEXT: Final = Reading()
"""A message is one value."""

_FORMATS: Final[Mapping[FormatName, Callable[[Reading, Sequence[str], tzinfo], Format]]] = {
    "text": lambda reading, fields, zone: WholeFormat(),
    "json": lambda reading, fields, zone: JsonFormat(fields),
    "csv": lambda reading, fields, zone: CsvFormat(fields, reading.names, reading.delimiter),
    "logfmt": lambda reading, fields, zone: LogfmtFormat(fields),
    "regex": lambda reading, fields, zone: RegexFormat(fields, reading.pattern),
    "syslog": lambda reading, fields, zone: SyslogFormat(fields, zone),
    "influx": lambda reading, fields, zone: InfluxFormat(fields),
}

_FAULTS: Final[Mapping[FormatName, Callable[[str], str | None]]] = {
    "json": json.fault_of,
    "syslog": syslog.fault_of,
    "influx": influx.fault_of,
}


def format_of(reading: Reading, fields: Sequence[str], zone: tzinfo | None = None) -> Format:
    """
    @param fields: those that columns want, which L{field_fault} has nothing against.
    @param zone: of times that name none, where the format itself reads them; C{None}: local.
    @raise ValueError: the pattern is of no use.
    """
    return _FORMATS[reading.format](reading, fields, zone or LOCAL)


def field_fault(reading: Reading, field: str) -> str | None:
    """
    Why messages read like this never have such a field, for the configuration.
    """
    if reading.format == "csv" and field not in reading.names:
        near = get_close_matches(field, reading.names, 1)
        return f"is not in fields{f'; did you mean {near[0]!r}?' if near else ''}"
    fault = _FAULTS.get(reading.format)
    return None if fault is None else fault(field)
