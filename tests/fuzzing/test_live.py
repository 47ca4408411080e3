"""
A gateway that is fuzzed as a process, for a moment.
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzzing.live import fuzz


def test_fuzz(tmp_path: Path) -> None:
    """Whatever peers say to a real gateway, all is answered as documented and in order."""
    verdict = fuzz(tmp_path, seconds=3, seed=11, peers=8)
    assert verdict.good and verdict.figures.frames > 100, verdict.figures
