"""
Text of others, made safe for a terminal.

A message, a row, a notification or an answer may hold what clears a screen, sets a title, or has
the text around it read backwards. All that goes to a terminal or to standard error passes here.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.model.outcome import CONTROL

LONGEST: Final = 2000
"""Characters of an error that are shown."""


def visible(text: str, *, is_json: bool = False) -> str:
    r"""
    Show control characters, those of text direction too, as escapes.

    @param is_json: whether they are to be those of JSON, C{\u009b}, so that it means the same.
    """
    return CONTROL.sub(_as_json if is_json else _as_python, text)


def error_text(text: str) -> str:
    """
    One line of bounded length for standard error.
    """
    text = visible(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _as_python(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _as_json(found: re.Match[str]) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in found[0])
