"""
Array literals: how the values of a batch travel.

@see: PostgreSQL documentation, section 8.15.6 "Array Input and Output Syntax".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NULL: Final = "NULL"


def quoted(text: str) -> str:
    """
    One element of an array literal, whatever it holds.

    @precondition: no NUL.
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def all_quoted(texts: Sequence[str]) -> str:
    """
    Elements of an array literal, by three passes at C speed over all of them at once.

    @param texts: one or more.
    @precondition: none holds NUL.
    """
    joined = "\0".join(texts).replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return '"' + joined + '"'


def nullable_quoted(texts: Sequence[str | None]) -> str:
    """
    As L{all_quoted}, with NULL for C{None}.
    """
    known = [text for text in texts if text is not None]
    if len(known) == len(texts):
        return all_quoted(known)
    return ",".join([NULL if text is None else quoted(text) for text in texts])
