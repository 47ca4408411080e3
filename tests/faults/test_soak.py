"""
The long form, short.
"""

from __future__ import annotations

from tests.faults.soak import soak


def test_soak() -> None:
    """Number 33: gateway and PostgreSQL killed in turn: nothing missing, doubled or disordered."""
    verdict, _ = soak(gateway_kills=4, database_kills=2, seed=33)
    assert verdict.kept, verdict
