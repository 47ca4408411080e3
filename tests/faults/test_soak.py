"""
The long form, short.
"""

from __future__ import annotations

import pytest

from tests.faults.soak import soak, usage_soak


@pytest.mark.long
def test_soak() -> None:
    """Number 33: gateway and PostgreSQL killed in turn: nothing missing, doubled or disordered."""
    verdict, _ = soak(gateway_kills=4, database_kills=2, seed=33)
    assert verdict.kept, verdict


@pytest.mark.long
def test_usage() -> None:
    """
    Number 44: under load, with backends terminated, connections reset and bad messages, neither
    memory nor descriptors, timers or objects grow; nothing is missing, doubled or disordered.
    """
    result, _ = usage_soak(rounds=8, seconds=0, seed=44)
    assert result.verdict.kept, result.verdict
    assert result.flat, (result.growth, result.readings)
