"""
The order in which tests are run.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.ordering import long_first


def test_each_process_begins_with_its_share() -> None:
    """The long ones are dealt out, and all else stays in order."""
    found = long_first("abCdEfGhij", str.isupper, 3)
    assert ["".join(part) for part in (found[:3], found[3:6], found[6:])] == ["Cab", "Edf", "Ghij"]


@given(st.text("abXY", max_size=30), st.integers(1, 8))
def test_none_is_lost(items: str, processes: int) -> None:
    """Each is there once, however many processes there are."""
    assert sorted(long_first(items, str.isupper, processes)) == sorted(items)
