"""
Time zones, for times that name none.

Where clocks are changed, a local time may exist twice or not at all. It is then what
PostgreSQL takes it for: of two the later one; one that does not exist is read with the offset
from before the change. Both are the smaller of the two offsets that C{fold} gives.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import Final
from zoneinfo import ZoneInfo, available_timezones


class _Local(tzinfo):
    """
    The time zone of this machine, as the C library knows it: from C{TZ}, or C{/etc/localtime}.
    """

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=self)


LOCAL: Final[tzinfo] = _Local()


def zone_of(name: str) -> tzinfo:
    """
    Return the time zone of a name.

    @param name: of the IANA database, or C{local} for that of this machine.
    @raise ValueError: there is none; the text says what to do.
    """
    if name == "local":
        return LOCAL
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # a folder of zones is an OSError
        pass
    known = available_timezones()
    if not known:
        raise ValueError(
            "this machine has no time zones; install them: apt-get install tzdata, or pip install"
            " tzdata"
        )
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else 'try "Europe/Berlin", "UTC" or "local"'
    raise ValueError(f"there is no time zone {name!r}; {hint}")


def offset_of(moment: datetime, zone: tzinfo) -> timedelta:
    """
    Return how far a zone's clock is ahead of UTC at a local time.

    @param moment: a local time of the zone, naive.
    @raise ValueError: at the very beginning or end of the calendar.
    """
    offsets = []
    for fold in (0, 1):
        offset = moment.replace(tzinfo=zone, fold=fold).utcoffset()
        assert offset is not None  # every zone has an offset
        offsets.append(offset)
    return min(offsets)
