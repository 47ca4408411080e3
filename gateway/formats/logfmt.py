"""
logfmt: every message is pairs C{key=value key2="value with blanks" flag}.

Strategy: one pattern finds the pairs of a message, or takes all that is left where it
finds none, so that a fault is a pair without a key. Values are made what they mean a
field at a time, and only those of wanted fields.

There is no standard; this is the grammar of U{https://github.com/kr/logfmt}: whatever
is not greater than a space separates, a key without C{=} has the value C{true}, and of a
key that is there twice the last one counts. Where that grammar skips what it cannot
read, this is a fault; a value without quotes may hold C{=}, as those of URLs do.
Positions count from 0, as in the errors of the other formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.faults import Faults
from gateway.formats.fields import Fields, Texts
from gateway.reply import Code, refused

_MAX_SHOWN: Final = 40
"""Characters of a key that an error shows."""

_BLANKS: Final = bytes(range(0x21))

_KEY: Final = r'[^\x00-\x20="]++'
_OPEN: Final = r'"[^"\\]*+(?:\\["\\nrt][^"\\]*+)*+'
_BARE: Final = r'[^\x00-\x20"]*+'
_VALUE: Final = rf'=(?:{_OPEN}"|{_BARE})'
_BEHIND: Final = r"(?:[\x00-\x20]++|\Z)"

_PAIRS: Final = re.compile(rf"({_KEY})({_VALUE})?{_BEHIND}|(?s:.++)")
"""Pairs as (key, value with its C{=}); the rest, where there is no pair, as ("", "")."""

_READABLE: Final = re.compile(rf"[\x00-\x20]*+(?:{_KEY}(?:{_VALUE})?{_BEHIND})*")
_KEY_ALONE: Final = re.compile(_KEY)
_OPEN_ALONE: Final = re.compile(_OPEN)
_BARE_ALONE: Final = re.compile(_BARE)

_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


class LogfmtFormat:
    """
    Reads the values of keys.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        """
        @param fields: the keys that are wanted.
        """
        self._fields = fields

    def read(self, frames: Sequence[bytes]) -> Fields:
        faults: Faults = []
        rows = self._rows(frames, faults)
        return Fields({field: Texts(_column(rows, field)) for field in self._fields}, faults)

    def _rows(self, frames: Sequence[bytes], faults: Faults) -> list[dict[str, str]]:
        """
        @return: the pairs of each message, none for those at fault.
        """
        try:
            rows = list(map(_pairs, frames))
        except UnicodeDecodeError:
            rows = [_pairs(frame) if _is_text(frame) else {"": ""} for frame in frames]
        for number, pairs in enumerate(rows):
            if "" in pairs:
                rows[number] = {}
                faults.append((number, refused(Code.FORMAT, _reason(frames[number]))))
        return rows


def _pairs(frame: bytes) -> dict[str, str]:
    """
    @return: key -> value as it was written; a key that is empty stands for a fault.
    """
    return dict(_PAIRS.findall(frame.lstrip(_BLANKS).decode()))


def _is_text(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


def _column(rows: list[dict[str, str]], field: str) -> list[str | None]:
    return [
        None
        if (value := row.get(field)) is None
        else value[1:]
        if value and value[1:2] != '"'
        else _meant(value)
        for row in rows
    ]


def _meant(value: str) -> str:
    """
    @param value: as it was written: with quotes and its C{=}, or nothing at all.
    """
    if not value:
        return "true"
    # Where no backslash is left, each stood before a quote: so it is in all JSON that has
    # no escapes of its own.
    text = value[2:-1].replace('\\"', '"')
    if "\\" not in text:
        return text
    text = value[2:-1]
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)


def _reason(frame: bytes) -> str:
    """
    @param frame: a message at fault.
    """
    try:
        text = frame.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    start = _end(_READABLE, text, 0)
    behind = _end(_KEY_ALONE, text, start)
    if behind == start:
        what = "an equals sign" if text[start] == "=" else "a quote"
        return f"{what} without a key {_at(text, start)}"
    key = text[start:behind]
    named = repr(f"{key[:_MAX_SHOWN]}..." if len(key) > _MAX_SHOWN else key)
    if text[behind] == '"':
        return f"a quote behind the key {named} {_at(text, behind)}"
    opening = behind + 1
    if text[opening] != '"':
        place = _at(text, _end(_BARE_ALONE, text, opening))
        return f"the value of {named} is not quoted but has a quote within {place}"
    closing = _end(_OPEN_ALONE, text, opening)
    if text.startswith('"', closing):
        place = _at(text, closing + 1)
        return f"the value of {named} goes on behind its closing quote {place}"
    if closing + 1 < len(text):
        escape = ascii(text[closing + 1])[1:-1]
        return f"\\{escape} in the value of {named} is no escape {_at(text, closing)}"
    return f"the quote of the value of {named} {_at(text, opening)} is not closed"


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _at(text: str, place: int) -> str:
    return f"at byte {len(text[:place].encode())}"
