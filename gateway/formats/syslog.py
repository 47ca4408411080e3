"""
Syslog: RFC 5424 and RFC 3164 on one listener, told apart message by message.

Strategy: a message that has a version behind its PRI is read as RFC 5424, and is at fault where
it breaks that grammar; every other text is a message of RFC 3164, which refuses nothing
but invalid UTF-8 (see L{gateway.formats.rfc3164}). Both give the same parts; fields
are taken from them a column at a time, and only those that some column wants. LF and NUL
at the end of a frame are no part of its message: some senders put them there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import tzinfo
from operator import itemgetter
from typing import Final

import msgspec

from gateway.formats import rfc5424
from gateway.formats.fields import Fields, Texts
from gateway.formats.rfc3164 import Rfc3164, bare
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused
from gateway.system.time_zones import LOCAL

SAMPLE: Final = "<13>1 2026-01-01T00:00:00Z host app - - - hello"

FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "ntp", "audit", "alert", "clock"),
    *(f"local{number}" for number in range(8)),
)
"""By number; 12 to 15, for which C{logger} has no names, as in rsyslog."""

SEVERITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")

_PLACES: Final = {
    "priority": 0,
    "version": 1,
    "timestamp": 2,
    "hostname": 3,
    "app_name": 4,
    "procid": 5,
    "msgid": 6,
    "structured_data": 7,
    "message": 8,
}
_OF_PRIORITY: Final[dict[str, dict[str | None, str]]] = {
    "facility": {str(number): str(number >> 3) for number in range(192)},
    "severity": {str(number): str(number & 7) for number in range(192)},
    "facility_name": {str(number): FACILITIES[number >> 3] for number in range(192)},
    "severity_name": {str(number): SEVERITIES[number & 7] for number in range(192)},
}
_NO_PARTS: Final[rfc5424.SyslogParts] = (None,) * len(_PLACES)

NAMES: Final = ("priority", *_OF_PRIORITY, *tuple(_PLACES)[1:])
"""The fields there are, beside C{sd.SD-ID.PARAM}."""


def fault_of(field: str) -> str | None:
    """
    Say why there is no such field; C{None} where there is.
    """
    if field in NAMES:
        return None
    if not field.startswith("sd."):
        return f"no field {field!r} in syslog: there are {', '.join(NAMES)} and sd.SD-ID.PARAM"
    for part, name in zip(("SD-ID", "PARAM"), _parameter(field), strict=True):
        if not rfc5424.is_name(name):
            return (
                f"field {field!r} is not of the form sd.SD-ID.PARAM: {part} {name!r} is not"
                ' 1 to 32 characters of ASCII without blanks, =, ] and "'
            )
    return None


def _parameter(field: str) -> tuple[str, str]:
    # An SD-ID has dots in its enterprise number, parameters hardly ever have any.
    sd_id, _, name = field.removeprefix("sd.").rpartition(".")
    return sd_id, name


class SyslogFormat:
    """
    Reader of the fields of syslog messages.
    """

    def __init__(
        self,
        fields: Sequence[str],
        zone: tzinfo = LOCAL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        @param fields: of L{NAMES}, or C{sd.SD-ID.PARAM}.
        @param zone: of times of RFC 3164, which mostly name none.
        @param clock: seconds since 1970, for the year that RFC 3164 leaves out.
        @raise ValueError: there is no such field.
        """
        for field in fields:
            if (fault := fault_of(field)) is not None:
                raise ValueError(fault)
        self._legacy = Rfc3164(clock, zone)
        self._plain = [
            (field, itemgetter(_PLACES[field]))
            for field in fields
            if field in _PLACES and field != "structured_data"
        ]
        self._of_priority = [
            (field, _OF_PRIORITY[field]) for field in fields if field in _OF_PRIORITY
        ]
        self._whole_data = "structured_data" in fields
        self._parameters = [
            (field, *_parameter(field)) for field in fields if field.startswith("sd.")
        ]

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: Faults = []
        rows = self._rows(frames, faults)
        cells: dict[str, Texts] = {}
        for field, get in self._plain:
            cells[field] = Texts(list(map(get, rows)))
        for field, texts in self._of_priority:
            cells[field] = Texts([texts.get(row[0]) for row in rows])
        if self._whole_data or self._parameters:
            self._read_data(rows, cells)
        return Fields(cells, faults)

    def _rows(self, frames: Sequence[bytes], faults: Faults) -> list[rfc5424.SyslogParts]:
        modern, legacy = rfc5424.read, self._legacy.parse_message
        self._legacy.update_date()
        rows: list[rfc5424.SyslogParts] = []
        for number, frame in enumerate(frames):
            try:
                text = frame.rstrip(b"\n\0").decode()
            except UnicodeDecodeError as error:
                fault = f"not UTF-8: {error.reason} at byte {error.start}"
            else:
                parts = modern(text) or legacy(text)
                if parts is not None:
                    rows.append(parts)
                    continue
                if not rfc5424.claimed(text):
                    rows.append(bare(text))
                    continue
                fault = rfc5424.fault(text)
            rows.append(_NO_PARTS)
            faults.append((number, refused(Code.FORMAT, fault)))
        return rows

    def _read_data(self, rows: Sequence[rfc5424.SyslogParts], cells: dict[str, Texts]) -> None:
        read = [None if row[7] is None else rfc5424.elements(row[7]) for row in rows]
        if self._whole_data:
            encode = msgspec.json.encode
            cells["structured_data"] = Texts(
                [None if data is None else encode(data).decode() for data in read]
            )
        for field, sd_id, name in self._parameters:
            values: list[str | None] = []
            for data in read:
                value = data[sd_id].get(name) if data and sd_id in data else None
                # Of values that are repeated the last one counts, as in jsonb.
                values.append(value[-1] if isinstance(value, list) else value)
            cells[field] = Texts(values)
