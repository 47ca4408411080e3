"""
The invariants of all parsers, for a second each.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzzing.guessed import checked
from tests.fuzzing.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes(name: str) -> None:
    """The parser's invariant holds of its seeds, and of what hypothesis makes of them."""
    target = TARGETS[name]
    for seed in target.seeds:
        target.check(seed)
    checked(target, 200, derandomize=True)()


def test_the_long_form(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It runs a target by itself, and says how much it tried and what memory it took."""
    command = [sys.executable, "-m", "tests.fuzzing", "--seconds", "1", "netstring"]
    corpus = tmp_path_factory.mktemp("corpus")
    done = subprocess.run(
        [*command, "--corpus", str(corpus)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "good" in done.stdout, done.stdout + done.stderr
    assert (corpus / "netstring" / "seed-0").exists()
