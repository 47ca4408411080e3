"""
Figures as people read them.
"""

from __future__ import annotations

import pytest

from gateway.web.units import count, moment, rate, size, span


def test_rates() -> None:
    """A small rate is not shown as none, a large one without a fraction."""
    shown = [rate(number) for number in (0, 0.01, 0.1, 1.25, 9.96, 12345.6)]
    assert shown == ["0", "< 0.1", "0.1", "1.2", "10", "12,346"]
    assert count(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1 << 20, "1.0 MB"), (64 << 20, "64.0 MB")),
        *((1 << 30, "1.0 GB"), (500 << 30, "500 GB"), (1 << 50, "1,024 TB")),
    ],
)
def test_sizes(number: int, shown: str) -> None:
    """Sizes have units of 1,024, as in the configuration."""
    assert size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0, "0 s"), (0.0042, "4.2 ms"), (0.25, "250 ms"), (1.5, "1.5 s"), (42, "42 s")),
        *((60, "1 min"), (3599, "59 min"), (3600, "1 h"), (7500, "2 h 5 min"), (90000, "1 d 1 h")),
    ],
)
def test_spans(seconds: float, shown: str) -> None:
    """A time has the two largest units that matter."""
    assert span(seconds) == shown


def test_moments() -> None:
    """Times of day say their zone."""
    assert moment(0.0) == "1970-01-01 00:00:00 UTC"
