"""
Array literals, the form in which the values of a batch travel.

@see: PostgreSQL documentation, section 8.15.6 "Array Input and Output Syntax".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NULL: Final = "NULL"


def quoted_element(text: str) -> str:
    """
    Quote a text as one element of an array literal.

    @precondition: no NUL.
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def all_quoted(texts: Sequence[str]) -> str:
    """
    Quote texts as elements of an array literal, in three passes at C speed over all of them.

    @param texts: one or more.
    @precondition: none holds NUL.
    """
    joined = "\0".join(texts).replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return '"' + joined + '"'


def nullable_quoted(texts: Sequence[str | None]) -> str:
    """
    Quote texts as L{all_quoted} does, with NULL for C{None}.
    """
    known = [text for text in texts if text is not None]
    if len(known) == len(texts):
        return all_quoted(known)
    return ",".join([NULL if text is None else quoted_element(text) for text in texts])
