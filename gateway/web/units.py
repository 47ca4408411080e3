"""
Figures as people read them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_SIZES: Final = ("B", "kB", "MB", "GB", "TB")
_SPANS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def count(number: float) -> str:
    """Return a number of things."""
    return f"{number:,.0f}"


def rate(number: float) -> str:
    """Return a number of things a second."""
    if not number:
        return "0"
    if number < 0.095:
        return "< 0.1"
    return f"{number:.1f}" if number < 9.95 else count(number)


def size(number: float) -> str:
    """Return a number of bytes; a kB has 1,024, as in the configuration."""
    power = 0
    while number >= 1000 and power < len(_SIZES) - 1:
        number /= 1024
        power += 1
    is_exact = not power or number >= 100
    return f"{number:,.{0 if is_exact else 1}f} {_SIZES[power]}"


def span(seconds: float) -> str:
    """Return a time that something took or takes."""
    for place, (length, unit) in enumerate(_SPANS):
        if seconds >= length:
            whole = f"{seconds // length:.0f} {unit}"
            if place + 1 == len(_SPANS):
                return whole
            smaller, name = _SPANS[place + 1]
            rest = seconds % length // smaller
            return f"{whole} {rest:.0f} {name}" if rest else whole
    if seconds >= 1 or not seconds:
        return f"{seconds:.0f} s" if seconds >= 10 or not seconds else f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def moment(seconds: float) -> str:
    """
    Return a time of day.

    @param seconds: since 1970.
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
