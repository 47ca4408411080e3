"""
logfmt: every message is pairs C{key=value key2="value with blanks" flag}.

Strategy: one pattern finds the pairs of a message, or takes all that is left where it
finds none, so that a fault is a pair without a key. Values are unescaped a field at a time,
and only those of wanted fields.

There is no standard; this is the grammar of U{https://github.com/kr/logfmt}: any character
not greater than a space separates, a key without C{=} has the value C{true}, and of a
repeated key the last one counts. Where that grammar skips what it cannot
read, this is a fault; a value without quotes may hold C{=}, as those of URLs do.
Positions count from 0, as in the errors of the other formats.

Values in quotes have the escapes of JSON, which kr/logfmt reads, and those of Go's
C{strconv.Quote}, with which Go's loggers write. C{\\x} and octal digits are bytes, several of
which may be one character in UTF-8; C{\\u} may be half of a surrogate pair. The pattern matches
only escapes that give characters, so that no value needs a second check: any other is a
fault, and so is NUL, which PostgreSQL cannot store.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.formats.fields import Fields, Texts
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused

_MAX_KEY_EXCERPT: Final = 40
"""Characters of a key that an error shows."""

_BLANKS: Final = bytes(range(0x21))

_HEX: Final = "[0-9A-Fa-f]"


def _byte_escapes(first: int, last: int) -> str:
    """
    Return an expression for the escapes of the bytes in a range, C{\\x1b} and C{\\033} alike.
    """
    hexadecimal = _digits(first, last, 16, "x")
    return rf"\\(?:x(?i:{hexadecimal})|{_digits(first, last, 8, '02o')})"


def _digits(first: int, last: int, base: int, form: str) -> str:
    """
    Return an expression for the numbers in a range.

    @param form: format of all digits but the last.
    """
    choices = []
    for high in range(first // base, last // base + 1):
        low = max(first, high * base) % base
        top = min(last, high * base + base - 1) % base
        choices.append(f"{high:{form}}[{''.join(f'{digit:x}' for digit in range(low, top + 1))}]")
    return "|".join(choices)


_NEXT: Final = _byte_escapes(0x80, 0xBF)
_UTF_8: Final = "|".join(
    # The Unicode Standard, table 3-7: well-formed UTF-8; without NUL.
    (
        _byte_escapes(0x01, 0x7F),
        _byte_escapes(0xC2, 0xDF) + _NEXT,
        _byte_escapes(0xE0, 0xE0) + _byte_escapes(0xA0, 0xBF) + _NEXT,
        _byte_escapes(0xED, 0xED) + _byte_escapes(0x80, 0x9F) + _NEXT,
        f"(?:{_byte_escapes(0xE1, 0xEC)}|{_byte_escapes(0xEE, 0xEF)}){_NEXT}{_NEXT}",
        _byte_escapes(0xF0, 0xF0) + _byte_escapes(0x90, 0xBF) + _NEXT + _NEXT,
        _byte_escapes(0xF1, 0xF3) + _NEXT + _NEXT + _NEXT,
        _byte_escapes(0xF4, 0xF4) + _byte_escapes(0x80, 0x8F) + _NEXT + _NEXT,
    )
)
_SURROGATE: Final = rf"[dD][89A-Fa-f]{_HEX}{{2}}"
_LEADING: Final = rf"[dD][89ABab]{_HEX}{{2}}"
_TRAILING: Final = rf"[dD][C-Fc-f]{_HEX}{{2}}"
_CODE_POINT: Final = rf"(?!0000|{_SURROGATE}){_HEX}{{4}}"
_SIMPLE: Final = r"""\\["\\nrt/'abfv]"""
_NUMBERED_ESCAPES: Final = "|".join(
    (
        rf"\\u(?:{_CODE_POINT}|{_LEADING}\\u{_TRAILING})",
        rf"\\U(?:0000{_CODE_POINT}|00(?:0[1-9A-Fa-f]|10){_HEX}{{4}})",
        _UTF_8,
    )
)

_KEY: Final = r'[^\x00-\x20="]++'
_OPEN: Final = rf'"[^"\\]*+(?:{_SIMPLE}[^"\\]*+|(?:{_NUMBERED_ESCAPES})[^"\\]*+)*+'
_BARE_VALUE: Final = r'[^\x00-\x20"]*+'
_PAIR_VALUE: Final = rf'=(?:{_OPEN}"|{_BARE_VALUE})'
_BEHIND: Final = r"(?:[\x00-\x20]++|\Z)"

_PAIRS: Final = re.compile(rf"({_KEY})({_PAIR_VALUE})?{_BEHIND}|(?s:.++)")
"""Pairs as (key, value with its C{=}); the rest, where there is no pair, as ("", "")."""

_KEY_ALONE: Final = re.compile(_KEY)
_OPEN_ALONE: Final = re.compile(_OPEN)
_BARE_ALONE: Final = re.compile(_BARE_VALUE)

_ESCAPE: Final = re.compile(
    rf"{_SIMPLE}|(?:\\(?:x..|[0-7]..))+|\\u....(?:\\u{_TRAILING})?|\\U.{{8}}"
)
"""One escape of those that the pattern of pairs takes; bytes in a row are one."""

_CHARACTERS: Final = {
    **{"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
}

_COMPLETE: Final = re.compile(rf"\\(?:x{_HEX}{{2}}|u{_HEX}{{4}}|U{_HEX}{{8}}|[0-3][0-7]{{2}})")


class LogfmtFormat:
    """
    Reader of the values of keys.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: Faults = []
        rows = self._rows(frames, faults)
        return Fields({field: Texts(_field_values(rows, field)) for field in self._fields}, faults)

    def _rows(self, frames: Sequence[bytes], faults: Faults) -> list[dict[str, str]]:
        """Return the pairs of each message, none for those at fault."""
        try:
            rows = list(map(_pairs, frames))
        except UnicodeDecodeError:
            rows = [_pairs(frame) if _is_text(frame) else {"": ""} for frame in frames]
        for number, pairs in enumerate(rows):
            if "" in pairs:
                rows[number] = {}
                faults.append((number, refused(Code.FORMAT, _message_fault(frames[number]))))
        return rows


def _pairs(frame: bytes) -> dict[str, str]:
    """Return key -> value as it was written; an empty key stands for a fault."""
    return dict(_PAIRS.findall(frame.lstrip(_BLANKS).decode()))


def _is_text(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


def _field_values(rows: list[dict[str, str]], field: str) -> list[str | None]:
    return [
        None
        if (value := row.get(field)) is None
        else value[1:]
        if value and value[1:2] != '"'
        else _value_text(value)
        for row in rows
    ]


def _value_text(value: str) -> str:
    """
    Return the text of a quoted value, or of a key without a value.

    @param value: text behind the key: with quotes and its C{=}; empty for a key alone.
    """
    if not value:
        return "true"
    # Where no backslash is left, each stood before a quote: so it is in all JSON that has
    # no escapes of its own.
    text = value[2:-1].replace('\\"', '"')
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_character, value[2:-1])


def _character(escape: re.Match[str]) -> str:
    """Return the characters of one escape that L{_ESCAPE} found."""
    text = escape[0]
    kind, digits = text[1], text[2:]
    if not digits:
        return _CHARACTERS.get(kind, kind)
    if kind == "u":
        return bytes.fromhex(digits.replace("\\u", "")).decode("utf-16-be")
    if kind == "U":
        return chr(int(digits, 16))
    numbers = text[1:].split("\\")
    return bytes(int(n[1:], 16) if n[0] == "x" else int(n, 8) for n in numbers).decode()


def _message_fault(frame: bytes) -> str:
    """Say what is wrong with a message at fault."""
    try:
        text = frame.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    blanks = len(frame) - len(frame.lstrip(_BLANKS))
    start = next(pair.start() for pair in _PAIRS.finditer(text, blanks) if not pair[1])
    behind = _end(_KEY_ALONE, text, start)
    if behind == start:
        what = "an equals sign" if text[start] == "=" else "a quote"
        return f"{what} without a key {_at(text, start)}"
    key = text[start:behind]
    named = repr(f"{key[:_MAX_KEY_EXCERPT]}..." if len(key) > _MAX_KEY_EXCERPT else key)
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
        return f"{_escape_fault(text, closing)} in the value of {named} {_at(text, closing)}"
    return f"the quote of the value of {named} {_at(text, opening)} is not closed"


def _escape_fault(text: str, place: int) -> str:
    """
    Say what is wrong with an escape that the pattern of pairs does not match.

    @param place: of its backslash.
    """
    match = _COMPLETE.match(text, place)
    if match is None:
        return f"\\{ascii(text[place + 1])[1:-1]} is no escape"
    escape = match[0]
    kind = escape[1]
    number = int(escape[2:], 16) if kind in "xuU" else int(escape[1:], 8)
    if number == 0:
        return f"{escape} is NUL, which text cannot hold,"
    if kind not in "uU":
        return f"{escape} is not UTF-8"
    if number > sys.maxunicode:
        return f"{escape} is no character"
    return f"{escape} is half of a pair of surrogates"


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _at(text: str, place: int) -> str:
    return f"at byte {len(text[:place].encode())}"


def sample(fields: Mapping[str, object]) -> str:
    """
    Write a message that has these fields.
    """
    return " ".join(f"{name}={value}" for name, value in fields.items())
