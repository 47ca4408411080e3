"""
An edge, its centre and the line between them, broken under load.
"""

from __future__ import annotations

import pytest

from tests.faults.relay import soak


@pytest.mark.long
def test_nothing_is_lost_or_doubled_through_an_edge() -> None:
    """Both are killed, the line is cut and swallows answers: each message is stored once, in order.
    The long form is C{python -m tests.faults.relay}."""
    verdict = soak(messages=2000, peers=3, seed=5, least=5)
    assert verdict.kept, verdict
    assert verdict.numbered + verdict.plain > 2000
