"""
RFC 3164: syslog as BSD, C{logger} and devices send it; every text is such a message.

Strategy: one expression takes off the front what it knows for sure, the rest is the
message, so that nothing is lost and nothing guessed:

  - without a PRI everything is the message and the priority 13, user.notice, as
    section 4.3.3 has it; so it is with a PRI that is none, as C{<00>} or C{<192>};
  - without a timestamp, or with one of a day that does not exist, everything behind the
    PRI is the message (section 4.3.2);
  - a timestamp may have a year, before or behind the time, a fraction of a second, and a
    zone, as those of Cisco and others have: C{Oct 11 2026 22:14:15.123 CEST:};
  - a timestamp may also be that of RFC 3339, as rsyslog forwards it;
  - a word behind it is the hostname, unless it ends in a colon or has brackets, as the
    tags of local programs have, which name no host; C{-} is no hostname;
  - a tag is C{app:} with a blank or the end behind it, or C{app[pid]}, with or without a
    colon; any other word begins the message. One blank behind the tag belongs to it.

A timestamp without a year is of the year that brings its day nearest to today; of two as
near, of the past one. One without a zone is of the zone that its reader was given. A word is
a zone where that zone uses it or where it is one of L{ZONES}; any other is the hostname.

@see: U{https://www.rfc-editor.org/rfc/rfc3164}
"""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Final

from gateway.formats.rfc5424 import CLOCK, PRI, VERSION_CLAIM, SyslogParts, timestamp
from gateway.system.time_zones import offset_of

ZONES: Final = {
    **{"Z": 0, "UT": 0, "UTC": 0, "GMT": 0},
    # RFC 5322, section 4.3.
    **{"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7},
    # Europe's.
    **{"WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3},
}
"""Names of zones that are known whatever the reader's own zone is -> hours ahead of UTC."""

_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_LONG_MONTH: Final = r"(?:Jan|Mar|May|Jul|Aug|Oct|Dec)\ (?:[\ 0]?[1-9]|[12][0-9]|3[01])"
_SHORT_MONTH: Final = r"(?:Apr|Jun|Sep|Nov)\ (?:[\ 0]?[1-9]|[12][0-9]|30)"
_FEBRUARY: Final = r"Feb\ (?:[\ 0]?[1-9]|[12][0-9])"

# Printable ASCII, as programs name themselves: (sd-pam), postfix/smtpd, %ASA-6-302013.
_TAG: Final = r"[!-9;-Z\\^-~]{1,255}+"
_PID: Final = r"\[([!-Z\\^-~]{0,128}+)\]"

_FRACTION: Final = r"(?:\.[0-9]{1,9}+)?+"
# From 1970 to 2099, as rsyslog has it; any other number is none.
_YEAR: Final = "19[7-9][0-9]|20[0-9]{2}"

_MOST_DAYS: Final = 1024
"""Days to remember: more than there are without a year, in their two notations."""

_ZONE_NAME: Final = re.compile("[A-Z]{1,6}")
"""Some zones have but a number for a name."""


def _message(zones: Iterable[str]) -> Callable[[str], re.Match[str] | None]:
    """
    Return a function that matches messages.

    @param zones: words that are a zone where they stand behind a time.
    """
    end = r"(?=[:\ ]|\Z)"
    year = rf"(?:{_YEAR}){end}"
    zone = rf"(?:{'|'.join(sorted(zones))}|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9]){end}"
    return re.compile(
        rf"""{PRI}(?!{VERSION_CLAIM})
        (?:
            (?:
                ((?:{_LONG_MONTH}|{_SHORT_MONTH}|{_FEBRUARY})(?:\ (?:{_YEAR}))?)\ ({CLOCK})
                # Most hosts begin with a small letter, as no year and no zone does.
                (?:(?=\ [a-z])|({_FRACTION}(?:\ (?:{year}(?:\ {zone})?|{zone}(?:\ {year})?))?:?))
                |({timestamp(9)})
            )(?:\ |\Z)
            # An address of IPv6 may end in two colons.
            (?:(?:-|((?!-\ )[0-9A-Za-z_.:%/-]{{1,255}}+)(?<![^:]:))\ )?
            (?:({_TAG})(?:{_PID}(?::|(?=\ )|\Z)|:(?=\ |\Z))\ ?)?
        )?
        (.*)""",
        re.DOTALL | re.VERBOSE,
    ).match


def bare(text: str) -> SyslogParts:
    """Return the parts of a text that has no PRI."""
    return "13", None, None, None, None, None, None, None, text


class Rfc3164:
    """
    Parser of messages, which adds the years and zones that they lack.
    """

    def __init__(self, clock: Callable[[], float], zone: tzinfo) -> None:
        """
        @param clock: seconds since 1970.
        @param zone: of times that name none.
        """
        self._clock = clock
        self._zone = zone
        self._today = date.min
        # Day -> its date, and the offset of its times unless the clocks are changed then.
        self._days: dict[str, tuple[str, str | None] | None] = {}
        self._offsets = {
            name: _offset_text(timedelta(hours=ahead)) for name, ahead in ZONES.items()
        }
        self._offsets |= _abbreviations(zone, datetime.fromtimestamp(clock(), zone).year)
        self._match = _message(self._offsets)

    def update_date(self) -> None:
        """Read today's date, which decides the years; called once a chunk, not for each message."""
        today = datetime.fromtimestamp(self._clock(), self._zone).date()
        if today != self._today or len(self._days) > _MOST_DAYS:
            self._today = today
            self._days = {}

    def parse_message(self, text: str) -> SyslogParts | None:
        """
        Return a message's parts; C{None} where there is no PRI, or where it claims to be RFC 5424.
        """
        match = self._match(text)
        if match is None:
            return None
        pri, day, clock, behind, time, hostname, tag, pid, message = match.groups()
        if day is not None:
            zone = None
            if behind:
                day, clock, zone = _with_words(day, clock, behind)
            try:
                start = self._days[day]
            except KeyError:
                start = self._days[day] = self._day(day)
            if start is None:
                rest = text[match.end(1) + 1 :]
                return pri, None, None, None, None, None, None, None, rest
            whole, offset = start
            if zone is not None:
                offset = self._offsets.get(zone) or f"{zone[:3]}:{zone[-2:]}"
            elif offset is None:
                moment = datetime.fromisoformat(f"{whole}T{clock[:8]}")
                offset = _offset_text(offset_of(moment, self._zone))
            time = f"{whole}T{clock}{offset}"
        return pri, None, time, hostname, tag, pid or None, None, None, message

    def _day(self, day: str) -> tuple[str, str | None] | None:
        """
        Return the date of a day, and the offset of its times; C{None} where there is no such day.

        The offset is C{None} on a day on which the clocks are changed.

        @param day: with or without a year.
        """
        month, number = _MONTHS.index(day[:3]) + 1, int(day[4:6])
        year = int(day[-4:]) if len(day) > len("Jan 31") else None
        if year is None:
            that_day = _nearest(month, number, self._today)
        elif (month, number) == (2, 29) and not isleap(year):
            return None
        else:
            that_day = date(year, month, number)
        # No clock is changed forth and back in a day.
        midnight = datetime(that_day.year, that_day.month, that_day.day)
        offsets = {
            offset_of(moment, self._zone)
            for moment in (midnight, midnight + timedelta(hours=23, minutes=59, seconds=59))
        }
        return that_day.isoformat(), _offset_text(*offsets) if len(offsets) == 1 else None


def _with_words(day: str, clock: str, behind: str) -> tuple[str, str, str | None]:
    """
    Join a day and a time with the words that follow.

    @param behind: text that follows a time: a fraction, a year and a zone.
    @return: the day, its year behind it; the time with its fraction; the zone.
    """
    fraction, *words = behind.removesuffix(":").split(" ")
    zone = None
    for word in words:
        if word.isdigit():
            day = f"{day[:6]} {word}"
        else:
            zone = word
    return day, clock + fraction, zone


def _offset_text(offset: timedelta) -> str:
    """Write an offset as RFC 3339 does."""
    return str(timezone(offset)).removeprefix("UTC") or "Z"


def _abbreviations(zone: tzinfo, year: int) -> dict[str, str]:
    """Return a zone's abbreviations about that year, of summer and winter -> the offset."""
    offsets = {}
    for each in range(max(1, year - 1), min(9999, year + 1) + 1):
        for month in range(1, 13):
            moment = datetime(each, month, 2, tzinfo=zone)
            name, offset = moment.tzname(), moment.utcoffset()
            if name is not None and offset is not None and _ZONE_NAME.fullmatch(name):
                offsets[name] = _offset_text(offset)
    return offsets


def _nearest(month: int, number: int, today: date) -> date:
    # Between two leap days there are up to eight years.
    reach = 8 if (month, number) == (2, 29) else 1
    years = range(max(1, today.year - reach), min(9999, today.year + reach) + 1)
    days = [date(year, month, number) for year in years if reach == 1 or isleap(year)]
    return min(days, key=lambda one: abs(one - today))
