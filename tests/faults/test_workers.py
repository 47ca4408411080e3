"""
Workers and their parent killed under load; the long form is C{python -m tests.faults.workers}.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.workers import WorkersSoak
from tests.support import TemporaryServer


@pytest.mark.long
def test_processes_killed_under_load(tmp_path: Path, template: Path) -> None:
    """Nothing that was answered is lost or doubled, streams keep their order, and no worker
    outlives its parent."""
    (tmp_path / "server").mkdir()
    (tmp_path / "gateway").mkdir()
    server = TemporaryServer(tmp_path / "server", template)
    server.start()
    try:
        soak = WorkersSoak(tmp_path / "gateway", server, workers=2, seed=7)
        try:
            verdict = soak.run(6, freezes=False)
        finally:
            soak.end()
    finally:
        server.stop()
    assert verdict.is_kept, verdict
