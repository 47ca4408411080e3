"""
RFC 3164: syslog as BSD, C{logger} and devices send it; every text is such a message.

Strategy: one expression takes off the front what it knows for sure, the rest is the
message, so that nothing is lost and nothing guessed:

  - without a PRI everything is the message and the priority 13, user.notice, as
    section 4.3.3 has it; so it is with a PRI that is none, as C{<00>} or C{<192>};
  - without a timestamp, or with one of a day that does not exist, everything behind the
    PRI is the message (section 4.3.2);
  - a timestamp may also be that of RFC 3339, as rsyslog forwards it;
  - a word behind it is the hostname, unless it ends in a colon or has brackets, as the
    tags of local programs have, which name no host; C{-} is no hostname;
  - a tag is C{app:} with a blank or the end behind it, or C{app[pid]}, with or without a
    colon; any other word begins the message. One blank behind the tag belongs to it.

A timestamp of RFC 3164 has no year and no zone. It is taken for UTC, and for the year
that brings its day nearest to today; of two as near, for the past one.

@see: U{https://www.rfc-editor.org/rfc/rfc3164}
"""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

from gateway.formats.rfc5424 import CLAIM, CLOCK, PRI, Parts, timestamp

_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_LONG: Final = r"(?:Jan|Mar|May|Jul|Aug|Oct|Dec)\ (?:[\ 0]?[1-9]|[12][0-9]|3[01])"
_SHORT: Final = r"(?:Apr|Jun|Sep|Nov)\ (?:[\ 0]?[1-9]|[12][0-9]|30)"
_FEBRUARY: Final = r"Feb\ (?:[\ 0]?[1-9]|[12][0-9])"

# Printable ASCII, as programs name themselves: (sd-pam), postfix/smtpd, %ASA-6-302013.
_TAG: Final = r"[!-9;-Z\\^-~]{1,255}+"
_PID: Final = r"\[([!-Z\\^-~]{0,128}+)\]"

_MESSAGE: Final = re.compile(
    rf"""{PRI}(?!{CLAIM})
    (?:
        (?:({_LONG}|{_SHORT}|{_FEBRUARY})\ ({CLOCK})|({timestamp(9)}))(?:\ |\Z)
        # An address of IPv6 may end in two colons.
        (?:(?:-|((?!-\ )[0-9A-Za-z_.:%/-]{{1,255}}+)(?<![^:]:))\ )?
        (?:({_TAG})(?:{_PID}(?::|(?=\ )|\Z)|:(?=\ |\Z))\ ?)?
    )?
    (.*)""",
    re.DOTALL | re.VERBOSE,
)


def bare(text: str) -> Parts:
    """
    @param text: has no PRI.
    """
    return "13", None, None, None, None, None, None, None, text


class Rfc3164:
    """
    Reads messages, and knows their years.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """
        @param clock: seconds since 1970.
        """
        self._clock = clock
        self._today = date.min
        self._days: dict[str, str] = {}

    def look_at_the_clock(self) -> None:
        """
        Take the year from today; to be called now and then, not for each message.
        """
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        if today != self._today:
            self._today = today
            self._days = {}

    def read(self, text: str) -> Parts | None:
        """
        @return: C{None} where there is no PRI, or where it claims to be RFC 5424.
        """
        found = _MESSAGE.match(text)
        if found is None:
            return None
        pri, day, clock, time, hostname, tag, pid, message = found.groups()
        if day is not None:
            start = self._days.get(day)
            if start is None:
                start = self._days[day] = f"{_nearest(day, self._today)}T"
            time = f"{start}{clock}Z"
        return pri, None, time, hostname, tag, pid or None, None, None, message


def _nearest(day: str, today: date) -> date:
    month, number = _MONTHS.index(day[:3]) + 1, int(day[3:])
    # Between two leap days there are up to eight years.
    reach = 8 if (month, number) == (2, 29) else 1
    years = range(max(1, today.year - reach), min(9999, today.year + reach) + 1)
    days = [date(year, month, number) for year in years if reach == 1 or isleap(year)]
    return min(days, key=lambda one: abs(one - today))
