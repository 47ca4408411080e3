"""
Regular expressions: a message is matched as a whole; a field is a named group.

Strategy: RE2 reads each byte once, whatever the pattern, so that no message can block
the reactor as it can with C{re}; it has neither lookaround nor backreferences for
that reason. Its time for each byte grows with the pattern, so that has a limit.

It works on bytes, whose offsets cost nothing to find; a group ends between characters,
as no pattern here can match a single byte of one.

@see: U{https://github.com/google/re2/wiki/Syntax}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.formats.fields import Fields, Texts
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused

MAX_MEMORY: Final = 8 << 20
"""
Bytes for one pattern, compiled, with what RE2 keeps of its states; RE2's own default.

What does not fit is found more slowly, still in linear time.
"""

MAX_PROGRAM: Final = 5000
"""
Instructions of a pattern, each of which costs a nanosecond for each byte at the very worst:
a third of a second for 64 KiB. C{.} has some 8, C{\\pL} 1200.
"""

_NO_MATCH: Final = refused(Code.FORMAT, "does not match the route's pattern")

_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_GROUP: Final = re.compile(r"\\.|\(\?P?<(?P<name>\w++)>", re.DOTALL)
_NOT_LINEAR: Final = re.compile(r"invalid (?:perl operator|escape sequence: \\[1-9])")


class RegexFormat:
    """
    Reader of the named groups of a pattern.
    """

    def __init__(self, fields: Sequence[str], pattern: str) -> None:
        """
        @param fields: names of groups.
        @raise ValueError: the pattern cannot be used, or a field is no group of it.
        """
        compiled = _compiled(pattern)
        groups = compiled.groupindex
        if not groups:
            raise ValueError("has no named group; a field is written as (?P<name>...)")
        if compiled.groups > len(groups) and (name := _repeated_group(pattern)):
            raise ValueError(f"has two groups named {name!r}")
        for field in fields:
            if field not in groups:
                near = difflib.get_close_matches(field, list(groups), 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(groups)}"
                raise ValueError(f"has no group {field!r}{hint}")
        self._match = compiled.fullmatch
        self._groups = {field: groups[field] for field in fields}

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        cells: dict[str, list[str | None]] = {field: [] for field in self._groups}
        columns = [(number, cells[field].append) for field, number in self._groups.items()]
        faults: Faults = []
        for row, frame in enumerate(frames):
            try:
                text = frame.decode()
            except UnicodeDecodeError as error:
                fault = refused(Code.FORMAT, f"not UTF-8: {error.reason} at byte {error.start}")
            else:
                match = self._match(frame)
                if match is not None:
                    span = match.span
                    plain = len(text) == len(frame)
                    for number, append in columns:
                        start, end = span(number)
                        if start < 0:
                            append(None)
                        else:
                            append(text[start:end] if plain else frame[start:end].decode())
                    continue
                fault = _NO_MATCH
            faults.append((row, fault))
            for _, append in columns:
                append(None)
        return Fields({field: Texts(values) for field, values in cells.items()}, faults)


def _compiled(pattern: str) -> Any:
    try:
        import re2
    except ImportError:
        raise ValueError(
            "patterns need RE2, which is not installed: pip install 'txgateway[regex]'"
        ) from None
    if "C" in _ESCAPED.findall(pattern):
        raise ValueError("holds \\C, a single byte, which would cut characters in two")
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    # RE2 would write to standard error.
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise ValueError("is not a valid pattern: it holds half a surrogate pair") from None
    except re2.error as error:
        (words,) = error.args
        why = " ".join(words.decode("utf-8", "replace").split())
        hint = "; RE2 has no lookaround and no backreferences" if _NOT_LINEAR.match(why) else ""
        raise ValueError(f"is not a valid pattern: {why}{hint}") from None
    if compiled.programsize > MAX_PROGRAM:
        raise ValueError(
            f"is too large: it has {compiled.programsize} instructions, {MAX_PROGRAM} are allowed;"
            " write + or * for large counts"
        )
    return compiled


def _repeated_group(pattern: str) -> str | None:
    """
    Return a name that two groups have; RE2 itself takes the first and is silent.
    """
    names = [match["name"] for match in _GROUP.finditer(pattern) if match["name"]]
    return next((name for name in names if names.count(name) > 1), None)
