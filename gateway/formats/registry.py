"""
Registry of all message formats; a format is registered here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from gateway.formats import (
    cbor,
    csv,
    gelf,
    hl7,
    influx,
    json,
    logfmt,
    msgpack,
    objects,
    syslog,
)
from gateway.formats.cbor import CborFormat
from gateway.formats.csv import CsvFormat
from gateway.formats.fields import Format, WholeFormat
from gateway.formats.gelf import GelfFormat
from gateway.formats.hl7 import Hl7Format
from gateway.formats.influx import InfluxFormat
from gateway.formats.json import JsonFormat
from gateway.formats.logfmt import LogfmtFormat
from gateway.formats.msgpack import MsgpackFormat
from gateway.formats.python import PythonFormat
from gateway.formats.regex import RegexFormat
from gateway.formats.syslog import SyslogFormat
from gateway.model.route import FormatName, Reading
from gateway.system.time_zones import LOCAL
from gateway.wire.hl7 import UTF_8, codec_named

FieldValues = Mapping[str, object]
"""Field -> a value that whatever the column is takes it."""


@dataclass(frozen=True, slots=True)
class Registration:
    """
    Functions of one format.

    @ivar new: makes the reader of its messages from the settings, the fields that are wanted, and
        the zone of times that name none.
    @ivar sample: makes a message with such fields, bytes where it is no text; C{None}: any text is
        one.
    @ivar fault_of: says why messages with these settings never have a field, if so.
    """

    new: Callable[[Reading, Sequence[str], tzinfo], Format]
    sample: Callable[[Reading, FieldValues], str | bytes] | None = None
    fault_of: Callable[[Reading, str], str | None] = lambda reading, field: None


FORMATS: Final[Mapping[FormatName, Registration]] = {
    "text": Registration(lambda reading, fields, zone: WholeFormat()),
    "json": Registration(
        lambda reading, fields, zone: JsonFormat(fields),
        lambda reading, fields: json.sample(fields),
        lambda reading, field: json.fault_of(field),
    ),
    "csv": Registration(
        lambda reading, fields, zone: CsvFormat(fields, reading.names, reading.delimiter),
        lambda reading, fields: csv.sample(fields, reading.names, reading.delimiter),
        lambda reading, field: csv.fault_of(field, reading.names),
    ),
    "logfmt": Registration(
        lambda reading, fields, zone: LogfmtFormat(fields),
        lambda reading, fields: logfmt.sample(fields),
    ),
    "regex": Registration(lambda reading, fields, zone: RegexFormat(fields, reading.pattern)),
    "syslog": Registration(
        lambda reading, fields, zone: SyslogFormat(fields, zone),
        lambda reading, fields: syslog.SAMPLE,
        lambda reading, field: syslog.fault_of(field),
    ),
    "influx": Registration(
        lambda reading, fields, zone: InfluxFormat(fields),
        lambda reading, fields: influx.sample(fields),
        lambda reading, field: influx.fault_of(field),
    ),
    "hl7": Registration(
        lambda reading, fields, zone: Hl7Format(fields, codec_named(reading.charset) or UTF_8),
        lambda reading, fields: hl7.sample(fields),
        lambda reading, field: hl7.fault_of(field),
    ),
    "gelf": Registration(
        lambda reading, fields, zone: GelfFormat(fields),
        lambda reading, fields: gelf.sample(fields),
        lambda reading, field: gelf.fault_of(field),
    ),
    "msgpack": Registration(
        lambda reading, fields, zone: MsgpackFormat(fields),
        lambda reading, fields: msgpack.sample(fields),
        lambda reading, field: objects.fault_of(field),
    ),
    "cbor": Registration(
        lambda reading, fields, zone: CborFormat(fields),
        lambda reading, fields: cbor.sample(fields),
        lambda reading, field: objects.fault_of(field),
    ),
    "python": Registration(
        lambda reading, fields, zone: PythonFormat(fields, reading.function),
        fault_of=lambda reading, field: objects.fault_of(field),
    ),
}
"""Every format there is: a new one is a module of its own, its name above, and a line here."""


def format_of(reading: Reading, fields: Sequence[str], zone: tzinfo | None = None) -> Format:
    """
    Make the reader of a route's messages.

    @param fields: fields that columns want, for which L{field_fault} returns C{None}.
    @param zone: of times that name none, where the format itself reads them; C{None}: local.
    @raise ValueError: the pattern cannot be used.
    """
    return FORMATS[reading.format].new(reading, fields, zone or LOCAL)


def field_fault(reading: Reading, field: str) -> str | None:
    """
    Say why messages of a route never have such a field; C{None} where they may.
    """
    return FORMATS[reading.format].fault_of(reading, field)
