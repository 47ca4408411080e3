"""
Text for people.
"""

from __future__ import annotations

import pytest

from gateway.model.text import shortened


@pytest.mark.parametrize(
    ("text", "short"), [("", ""), ("abcdefgh", "abcdefgh"), ("abcdefghi", "abcde...")]
)
def test_long_text_is_cut(text: str, short: str) -> None:
    """What is longer than it may be ends with dots, and has no character more."""
    assert shortened(text, 8) == short
