"""
The long form of fuzzing, short.
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import fuzz


def test_fuzz(tmp_path: Path) -> None:
    """Whatever peers say to a real gateway, all is answered as documented and in order."""
    verdict = fuzz(tmp_path, seconds=3, seed=11, peers=8)
    assert verdict.good and verdict.figures.frames > 100, verdict.figures
