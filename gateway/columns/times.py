"""
Kinds of C{timestamptz}, C{timestamp} and C{date}.

Text is ISO 8601 in its extended form, a blank for the T allowed as in RFC 3339; a time
that names no zone is of the route's, and UTC where that has none, since the zone of the
server's user means nothing to a peer. A number counts from 1970 in UTC: its size tells
whether it counts seconds, milliseconds, microseconds or nanoseconds, as no two of them
overlap between 1973 and 5138.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from gateway.columns.kind import BLANKS, Kind, SqlType, column_pattern, misfit
from gateway.system.time_zones import offset_of

_LONG_MONTH: Final = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_SHORT_MONTH: Final = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_FEBRUARY: Final = "02-(?:0[1-9]|1[0-9]|2[0-8])"
# Leap days are judged one by one.
_ISO_DATE: Final = f"[1-9][0-9]{{3}}-(?:{_LONG_MONTH}|{_SHORT_MONTH}|{_FEBRUARY})"
_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9}+)?+)?+"
_ZONE: Final = "(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])"

_ISO: Final = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,12}))?)?)?"
    r"\s?(?P<zone>[Zz]|(?P<sign>[+-])(?P<hours>[0-9]{2})"
    r"(?::?(?P<minutes>[0-9]{2})(?::(?P<seconds>[0-9]{2}))?)?)?"
)
_UNIX_TIME: Final = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,12})?(?:[eE][+]?[0-9]{1,2})?")
_INFINITE: Final = {"infinity", "-infinity"}
_START: Final = datetime(1970, 1, 1, tzinfo=UTC)

_COMPACT: Final = re.compile(
    r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
    r"(?:(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})?+"
    r"(?P<second>(?<=[0-9]{12})[0-9]{2}(?:\.[0-9]{1,9}+)?+)?+)?(?P<zone>[+-][0-9]{4})?"
)
"""DTM and TS of HL7 (v2.5, section 2.A.22), to the day at least."""

_UNITS: Final = ((11, 6), (14, 3), (17, 0))
"""Up to so many digits, so many powers of ten make microseconds of it."""


def from_epoch(value: str) -> datetime:
    """
    Convert seconds, milliseconds, microseconds or nanoseconds since 1970 to a time.

    @raise ValueError: it is not between the years 1 and 9999.
    """
    number = Decimal(value)
    size = abs(number)
    power = next((power for digits, power in _UNITS if size < 10**digits), -3)
    microseconds = number.scaleb(power).to_integral_value(ROUND_HALF_EVEN)
    try:
        return _START + timedelta(microseconds=int(microseconds))
    except OverflowError:
        raise ValueError from None


def from_iso(value: str, zone: tzinfo = UTC) -> datetime:
    """
    Convert an ISO 8601 text to a time in UTC.

    @param zone: used where the text names none.
    @raise ValueError: it is not ISO 8601.
    """
    match = _ISO.fullmatch(value)
    if not match:
        raise ValueError
    fraction = Decimal(f"0.{match['fraction'] or 0}")
    seconds = int(match["second"] or 0)
    if seconds > 60:  # 60 is a leap second, which PostgreSQL counts as the next minute
        raise ValueError
    try:
        moment = (
            datetime.fromisoformat(match["day"])
            + _clock(int(match["hour"] or 0), int(match["minute"] or 0))
            + timedelta(seconds=seconds, microseconds=int(_micro(fraction)))
        )
        offset = _offset(match) if match["zone"] else offset_of(moment, zone)
        return (moment - offset).replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError from None


def _offset(match: re.Match[str]) -> timedelta:
    hours, minutes, seconds = (int(match[part] or 0) for part in ("hours", "minutes", "seconds"))
    if hours > 15 or minutes > 59 or seconds > 59:  # as PostgreSQL
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return -offset if match["sign"] == "-" else offset


def _micro(fraction: Decimal) -> Decimal:
    return fraction.scaleb(6).to_integral_value(ROUND_HALF_EVEN)


def _clock(hour: int, minute: int) -> timedelta:
    if hour > 24 or minute > 59 or (hour == 24 and minute):
        raise ValueError
    return timedelta(hours=hour, minutes=minute)


class Timestamp(Kind):
    """
    Kind of C{timestamptz}, and of C{timestamp}, which is stored as UTC.
    """

    cast = False

    def __init__(self, sql_type: SqlType, zone: tzinfo = UTC) -> None:
        """
        @param zone: of times that name none.
        """
        super().__init__(sql_type)
        self._zone = zone
        self._zoned = sql_type.base == "timestamptz"
        self.parameter = f"{sql_type.base}[]"
        # PostgreSQL takes these as they are and means the same.
        if self._zoned or zone is UTC:
            plain = f"{_ISO_DATE}[T ]{_TIME}" + (_ZONE if self._zoned else "")
            self.json = column_pattern(f'"{plain}"')
            self.text = column_pattern(plain)

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        if value.lower() in _INFINITE:
            return value.lower()
        try:
            is_number = _UNIX_TIME.fullmatch(value)
            moment = from_epoch(value) if is_number else from_iso(value, self._zone)
        except (ValueError, ArithmeticError):
            raise misfit(value, "is no time: neither ISO 8601 nor a number since 1970") from None
        text = moment.replace(tzinfo=None).isoformat(" ")
        return f'"{text}+00"' if self._zoned else f'"{text}"'


class Date(Kind):
    """
    Kind of C{date}.
    """

    parameter = "date[]"
    cast = False
    json = column_pattern(f'"{_ISO_DATE}"')
    text = column_pattern(_ISO_DATE)

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        if value.lower() in _INFINITE:
            return value.lower()
        try:
            if len(value) != len("2000-01-01"):
                raise ValueError
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise misfit(value, "is no date: write it as 2000-12-31") from None


def from_compact(value: str) -> str | None:
    """
    Write a time of HL7 as ISO 8601; C{None} where it is none.

    Hours without minutes are full hours.
    """
    match = _COMPACT.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second, zone = match.groups()
    text = f"{year}-{month}-{day}"
    if hour is not None:
        text += f"T{hour}:{minute or '00'}:{second or '00'}"
    return text + (zone or "")


class CompactTimestamp(Timestamp):
    """
    Kind of times where messages write them as in HL7.
    """

    takes_offsets = True

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        iso = from_compact(value)
        if iso is None and _UNIX_TIME.fullmatch(value):
            raise misfit(value, "is no time: neither as 20261231235959 nor ISO 8601")
        return super().element(iso or value)

    def at_offset(self, value: str, offset: str) -> str:
        match = _COMPACT.fullmatch(value)
        return value if match is None or match["zone"] else value + offset


class CompactDate(Date):
    """
    Kind of dates where messages write them as in HL7; the time behind a date is left out.
    """

    def element(self, value: str) -> str:
        iso = from_compact(value.strip(BLANKS))
        try:
            if iso is not None:
                from_iso(iso)
                value = iso[: len("2000-01-01")]
            return super().element(value)
        except ValueError:
            raise misfit(value, "is no date: write it as 20001231") from None
