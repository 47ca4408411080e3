"""
Text for people: suggestions for mistyped words, control characters made visible, long text cut.
"""

from __future__ import annotations

import difflib
from typing import Any


def meant(word: str, known: Any) -> str:
    near = closest(word, known)
    return f"; did you mean {near!r}?" if near else ""


def closest(word: str, known: Any) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), 1)), None)


def shortened(text: str, most: int) -> str:
    """Return text of at most so many characters, the last three as dots where it is cut."""
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(text: str) -> str:
    """
    Return text from a file with control characters as Python's escapes.

    Shown like this it can neither begin a line nor change a terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
