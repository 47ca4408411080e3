"""
Make text of others safe for a terminal.

A message, a row, a notification or an answer may have bytes that clear a screen, set a title, or
reverse the text around it. All that goes to a terminal or to standard error passes through here.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.model.outcome import CONTROL
from gateway.model.text import shortened

MAX_ERROR_CHARACTERS: Final = 2000
"""Characters of an error that are shown."""


def visible(text: str, *, is_json: bool = False) -> str:
    r"""
    Show control characters, also those of text direction, as escapes.

    @param is_json: whether to use JSON escapes, C{\u009b}, so that the text stays the same JSON.
    """
    return CONTROL.sub(_json_escape if is_json else _as_python, text)


def error_text(text: str) -> str:
    """
    Return text for standard error, as one line of limited length.
    """
    return shortened(visible(text), MAX_ERROR_CHARACTERS)


def _as_python(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _json_escape(match: re.Match[str]) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in match[0])
