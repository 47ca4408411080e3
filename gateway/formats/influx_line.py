"""
Parser of one line of InfluxDB's line protocol; it gives the parts, or the fault and its place.

Strategy: one pattern, possessive and so linear, matches a whole line of the grammar;
the parts it found are then split into dictionaries at C speed. The pattern that is tried
first knows no backslash and no number that could be out of range. A line that it does not
match is tried with a complete pattern, and only a line that is at fault step by step, to name
the place. Places are characters and count from 0.

A repeated tag is a fault, as in InfluxDB; of a repeated field the last one counts.

@see: C{line-protocol.ebnf} in U{https://github.com/influxdata/line-protocol}, and
    U{https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Final

Pairs = Mapping[str, str]

Point = tuple[str | None, Pairs, Pairs, str | None]
"""Measurement, tags, fields with their values as they were sent, timestamp."""

MAX_PART_EXCERPT: Final = 40
"""Characters of a line that an error shows of one part."""

_CONTROL_CLASS: Final = r"\x00-\x1f\x7f"
# Any number of backslashes; the last one escapes what follows or else is one itself.
_ESCAPE_SEQUENCE: Final = rf"\\++[^{_CONTROL_CLASS}\\]"
_MEASUREMENT_NAME: Final = rf"(?!#)(?:[^{_CONTROL_CLASS} ,\\]++|{_ESCAPE_SEQUENCE})++"
_KEY_PATTERN: Final = rf"(?:[^{_CONTROL_CLASS} ,=\\]++|{_ESCAPE_SEQUENCE})++"
_STRING: Final = r'"[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"'
_TRUTH: Final = "TRUE|FALSE|[tT](?:rue)?+|[fF](?:alse)?+"
_EXPONENT: Final = "[eE][+-]?+[0-9]"
_NUMBER: Final = (
    r"[0-9]++u|-?+[0-9]++i|"
    rf"-?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:{_EXPONENT}++)?+"
)
_FIELD_VALUE: Final = rf"(?:(?:{_STRING}|{_NUMBER}|{_TRUTH})(?=[, \r\n]|\Z))"

_PLAIN_NAME: Final = rf"[^{_CONTROL_CLASS} ,\\#][^{_CONTROL_CLASS} ,\\]*+"
_PLAIN_KEY: Final = rf"[^{_CONTROL_CLASS} ,=\\]++"
# Values that surely fit into 64 bits or a double.
_SMALL_NUMBER: Final = (
    rf"-?+[0-9]{{1,18}}+(?:i|(?:\.[0-9]{{0,40}}+)?+(?:{_EXPONENT}{{1,2}}+)?+)(?=[, ]|\Z)"
    r"|[0-9]{1,18}u"
)
_PLAIN_VALUE: Final = rf'(?:{_SMALL_NUMBER}|"[^"\\\n]*+"|{_TRUTH})'
_PLAIN_TIME: Final = "-?+[0-8]?[0-9]{1,18}+"


def _line_pattern(name: str, key: str, value: str, time: str) -> re.Pattern[str]:
    return re.compile(
        rf" *+({name})((?:,{key}={key})*+) ++"
        rf"({key}={value}(?:,{key}={value})*+)(?: ++({time}))?+ *+\r?+\n?+"
    )


_plain_line: Final = _line_pattern(_PLAIN_NAME, _PLAIN_KEY, _PLAIN_VALUE, _PLAIN_TIME).fullmatch
_any_line: Final = _line_pattern(
    _MEASUREMENT_NAME, _KEY_PATTERN, _FIELD_VALUE, "-?+[0-9]++"
).fullmatch

# These are applied only to parts that match the grammar.
_TAG_PAIRS: Final = re.compile(rf"({_KEY_PATTERN})=({_KEY_PATTERN})")
_FIELD_PAIRS: Final = re.compile(rf"({_KEY_PATTERN})=({_STRING}|[^,]++)")
_small: Final = re.compile(_PLAIN_VALUE).fullmatch


def point(line: str) -> Point | str:
    """Return the line's parts, or what is wrong with it."""
    match = _plain_line(line)
    if match:
        measurement, tags, fields, time = match.groups()
        known = dict([tag.split("=") for tag in tags[1:].split(",")]) if tags else {}
        if len(known) == tags.count(","):
            if '"' in fields:
                return measurement, known, dict(_FIELD_PAIRS.findall(fields)), time
            return measurement, known, dict([pair.split("=") for pair in fields.split(",")]), time
    read = _any_point(line)
    return f"not line protocol: {read}" if isinstance(read, str) else read


def _any_point(line: str) -> Point | str:
    match = _any_line(line)
    if not match:
        return _line_fault(line)
    measurement, tags, fields, time = match.groups()
    pairs, values = _TAG_PAIRS.findall(tags), _FIELD_PAIRS.findall(fields)
    if "\\" in line:
        measurement = measurement.replace("\\,", ",").replace("\\ ", " ")
        pairs = [(_unescaped_key(key), _unescaped_key(value)) for key, value in pairs]
        values = [(_unescaped_key(key) if "\\" in key else key, value) for key, value in values]
    known = dict(pairs)
    if len(known) != len(pairs):
        place = _repeated_key([key for key, _ in pairs])
        at = match.start(2) + _nth(_TAG_PAIRS, tags, place).start()
        return f"tag {_part_excerpt(pairs[place][0])} is there twice, again at character {at}"
    for place, (key, value) in enumerate(values):
        if value[0] != '"' and not _small(value) and (range_ := _out_of_range(value)):
            at = match.start(3) + _nth(_FIELD_PAIRS, fields, place).start(2)
            name, number = _part_excerpt(key), _part_excerpt(value)
            return f"field {name}: {number} at character {at} is beyond {range_}"
    if time is not None and _out_of_range(time + "i"):
        return f"the timestamp {_part_excerpt(time)} at character {match.start(4)} is beyond int64"
    return measurement, known, dict(values), time


def _unescaped_key(token: str) -> str:
    """Remove the escapes from a part of a tag, or the key of a field."""
    # No two of these share a backslash, so their order does not matter.
    return token.replace("\\,", ",").replace("\\=", "=").replace("\\ ", " ")


def _repeated_key(keys: list[str]) -> int:
    """
    Return the index of the first key that repeats an earlier one.

    @precondition: one of them is there twice.
    """
    first: dict[str, int] = {}
    return next(n for n, key in enumerate(keys) if first.setdefault(key, n) != n)


def _nth(pattern: re.Pattern[str], text: str, place: int) -> re.Match[str]:
    return next(islice(pattern.finditer(text), place, None))


def _out_of_range(value: str) -> str | None:
    """
    Return the type whose range a number exceeds; C{None}: it fits.

    @param value: a number of the grammar.
    """
    if value[-1] not in "iu":
        return "a float of 64 bits" if math.isinf(float(value)) else None
    digits = value[:-1].lstrip("-").lstrip("0")
    limit = (1 << 64) - 1 if value[-1] == "u" else (1 << 63) - (value[0] != "-")
    # Making a number of any count of digits would take more than linear time.
    if len(digits) > 20 or int(digits or "0") > limit:
        return "uint64" if value[-1] == "u" else "int64"
    return None


# The functions below find the place where a line breaks the grammar.

_OPTIONAL_SPACES: Final = re.compile(" *+")
_MEASUREMENT: Final = re.compile(_MEASUREMENT_NAME)
_KEY_TOKEN: Final = re.compile(_KEY_PATTERN)
_GOOD_TAGS: Final = re.compile(rf"(?:,{_KEY_PATTERN}={_KEY_PATTERN}(?=[, \r\n]|\Z))*+")
_GOOD_FIELDS: Final = re.compile(
    rf"(?:{_KEY_PATTERN}={_FIELD_VALUE}(?:,{_KEY_PATTERN}={_FIELD_VALUE})*+)?+"
)
_CLOSED_STRING: Final = re.compile(_STRING)
_GOOD: Final = re.compile(_FIELD_VALUE)
_BARE_TOKEN: Final = re.compile(rf"[^{_CONTROL_CLASS} ,]*+")
_LINE_TIME: Final = re.compile(r"-?+[0-9]++(?=[ \r\n]|\Z)")
_END: Final = re.compile(r" *+\r?+\n?+\Z")


def _past(pattern: re.Pattern[str], line: str, at: int) -> int:
    """Return the place after what the pattern matches, which may be nothing."""
    match = pattern.match(line, at)
    return match.end() if match else at


def _line_fault(line: str) -> str:
    """
    Say what is wrong with a line.

    @precondition: the line is not of the grammar.
    """
    start = _past(_OPTIONAL_SPACES, line, 0)
    if _END.match(line, start):
        return "it is empty"
    if line[start] == "#":
        return "it is a comment, which holds nothing to store"
    name = _past(_MEASUREMENT, line, start)
    if name == start:
        return f"{_there(line, start)} where the measurement should be"
    tags = _past(_GOOD_TAGS, line, name)
    if line[tags : tags + 1] == ",":
        return _bad_tag(line, tags + 1)
    if _END.match(line, tags):
        return f"it ends at character {tags} without a field"
    fields = _past(_OPTIONAL_SPACES, line, tags)
    if fields == tags:
        return f"{_there(line, tags)} after the {'measurement' if tags == name else 'tags'}"
    end = _past(_GOOD_FIELDS, line, fields)
    if end == fields or line[end] == ",":
        return _bad_field(line, end + (end > fields))
    time = _past(_OPTIONAL_SPACES, line, end)
    if time == end:
        return f"{_there(line, end)} after the fields"
    end = _past(_LINE_TIME, line, time)
    if end == time:
        word = line[time : _past(_BARE_TOKEN, line, time)]
        if word:
            return f"{_part_excerpt(word)} at character {time} where the timestamp should be"
        return f"{_there(line, time)} where the timestamp should be"
    return f"{_there(line, _past(_OPTIONAL_SPACES, line, end))} after the timestamp"


def _bad_tag(line: str, start: int) -> str:
    name, at, fault = _read_key(line, start, "tag")
    if fault:
        return fault
    end = _past(_KEY_TOKEN, line, at)
    if end == at:
        return f"{_there(line, at)} where the value of tag {name} should be"
    return f"{_there(line, end)} in the value of tag {name}"


def _bad_field(line: str, start: int) -> str:
    name, at, fault = _read_key(line, start, "field")
    if fault:
        return fault
    if line[at : at + 1] == '"':
        end = _past(_CLOSED_STRING, line, at)
        if end == at:
            return f"the string of field {name} from character {at} on has no closing quote"
        return f"{_there(line, end)} after the string of field {name}"
    end = _past(_BARE_TOKEN, line, at)
    word = line[at:end]
    if not word:
        return f"{_there(line, at)} where the value of field {name} should be"
    if _GOOD.fullmatch(word):
        return f"{_there(line, end)} after the value of field {name}"
    if word.lstrip("+-").lower() in ("nan", "inf", "infinity"):
        return (
            f"field {name}: {_part_excerpt(word)} at character {at} is no value: a number is finite"
        )
    return (
        f"field {name}: {_part_excerpt(word)} at character {at} is neither a number nor a boolean, "
        "nor in double quotes"
    )


def _read_key(line: str, start: int, kind: str) -> tuple[str, int, str | None]:
    """
    Read a key.

    @return: the key for people, where its value begins, and what is wrong with it.
    """
    end = _past(_KEY_TOKEN, line, start)
    if end == start:
        return "", end, f"{_there(line, start)} where the key of a {kind} should be"
    name = _part_excerpt(_unescaped_key(line[start:end]))
    if line[end : end + 1] != "=":
        return name, end, f"{_there(line, end)} where {kind} {name} should have its '='"
    return name, end + 1, None


def _there(line: str, at: int) -> str:
    if at >= len(line):
        return f"it ends at character {at}"
    if line[at] == "\n":
        return f"a second line begins (a message is one) at character {at}"
    if line[at] < " " or line[at] == "\x7f":
        return f"there is a control character (0x{ord(line[at]):02x}) at character {at}"
    return f"there is {line[at]!r} at character {at}"


def _part_excerpt(text: str) -> str:
    return f"'{text[:MAX_PART_EXCERPT]}...'" if len(text) > MAX_PART_EXCERPT else f"'{text}'"
