"""
RFC 5424: the syslog message with a version, a full timestamp and structured data.

Strategy: one expression is the whole grammar, dates of leap years included, and gives
the parts of a message in one match. It has no two ways to match the same text, so that
it is linear also where it fails. Only then is the message walked part by part, to say
which one is at fault and where. Positions count bytes, the first is 0.

@see: U{https://www.rfc-editor.org/rfc/rfc5424}
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

SyslogParts = tuple[str | None, ...]
"""PRI, version, timestamp, hostname, app-name, procid, msgid, structured data, message."""

PRI: Final = "<(1(?:[0-8][0-9]|9[01])|[1-9]?[0-9])>"

_LONG_MONTH: Final = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_SHORT_MONTH: Final = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_FEBRUARY: Final = "02-(?:0[1-9]|1[0-9]|2[0-8])"
_FOURTH: Final = "[02468][048]|[13579][26]"
# Every fourth year has a leap day, of those that end a century every fourth one.
_LEAP: Final = f"(?:[0-9]{{2}}(?!00)(?:{_FOURTH})|(?:{_FOURTH})00)-02-29"
_DATE: Final = f"(?!0000)(?:[0-9]{{4}}-(?:{_LONG_MONTH}|{_SHORT_MONTH}|{_FEBRUARY})|{_LEAP})"
CLOCK: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_ZONE_OFFSET: Final = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"


def timestamp(digits: int) -> str:
    """
    Return an expression for the timestamps of RFC 3339.

    @param digits: most of a fraction of a second.
    """
    return rf"{_DATE}T{CLOCK}(?:\.[0-9]{{1,{digits}}}+)?+{_ZONE_OFFSET}"


def _word(longest: int) -> str:
    return rf"(?:-|((?!-\ )[!-~]{{1,{longest}}}+))\ "


SD_NAME: Final = r"[!#-<>-\\^-~]{1,32}+"
"""SD-NAME: printable ASCII without the blank, =, ] and the double quote."""

# A backslash before any other character than these is one itself (section 6.3.3).
_PARAM_VALUE: Final = r'(?:[^"\\\]]++|\\.)*+'
_PARAM: Final = rf'\ {SD_NAME}="{_PARAM_VALUE}"'
_ELEMENTS: Final = rf"(?:\[{SD_NAME}(?:{_PARAM})*+\])"

_MESSAGE: Final = re.compile(
    rf"""{PRI}(1)\ (?:-|({timestamp(6)}))\ {_word(255)}{_word(48)}{_word(128)}{_word(32)}
    (?:-|({_ELEMENTS}++))(?:\ \ufeff?+(.*))?\Z""",
    re.DOTALL | re.VERBOSE,
)
_SD_NAME: Final = re.compile(SD_NAME)
_PIECES: Final = re.compile(rf'\ ({SD_NAME})="({_PARAM_VALUE})"|\[({SD_NAME})', re.DOTALL)
_SD_IDS: Final = re.compile(rf"\[({SD_NAME})(?:{_PARAM})*+\]", re.DOTALL)

VERSION_CLAIM: Final = r"(?:1\ |[1-9][0-9]{0,2}\ (?=-\ |[0-9]{4}-))"
"""Text behind the PRI by which a message can only be meant as RFC 5424 or a successor."""


def read(text: str) -> SyslogParts | None:
    """Return the parts of a message; C{None} where it is not of RFC 5424."""
    match = _MESSAGE.match(text)
    if match is None:
        return None
    parts = match.groups()
    data = parts[7]
    # No SD-ID may be there twice; where there is one element only it is not.
    if data is not None and "][" in data and _has_repeated(data):
        return None
    return parts


def is_name(text: str) -> bool:
    """Say whether an SD-ID or a parameter can have that name."""
    return _SD_NAME.fullmatch(text) is not None


def elements(data: str) -> dict[str, dict[str, str | list[str]]]:
    """
    Parse structured data (section 6.3).

    @param data: as L{read} gives it.
    @return: SD-ID -> parameter -> value; a list of values where the parameter is repeated,
        as section 6.3.3 allows.
    """
    by_id: dict[str, dict[str, str | list[str]]] = {}
    params: dict[str, str | list[str]] = {}
    for name, value, sd_id in _PIECES.findall(data):
        if sd_id:
            params = by_id[sd_id] = {}
            continue
        if "\\" in value:
            value = _unescaped_value(value)
        before = params.get(name)
        if before is None:
            params[name] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            params[name] = [before, value]
    return by_id


def _unescaped_value(value: str) -> str:
    # Faster than an expression by far where there is nothing but backslashes.
    parts = value.split("\\\\")
    return "\\".join([part.replace('\\"', '"').replace("\\]", "]") for part in parts])


def _has_repeated(data: str) -> bool:
    sd_ids = _SD_IDS.findall(data)
    return len(set(sd_ids)) < len(sd_ids)


# Where a message is at fault.

_CLAIMED: Final = re.compile(rf"<([0-9]++)>({VERSION_CLAIM})")
_HEADER: Final = (("HOSTNAME", 255), ("APP-NAME", 48), ("PROCID", 128), ("MSGID", 32))
_UNPRINTABLE: Final = re.compile("[^!-~]")
_TIMESTAMP: Final = re.compile(timestamp(6))
_TIMELIKE: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]++))?(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_GOOD_ELEMENTS: Final = re.compile(f"{_ELEMENTS}*+", re.DOTALL)
_GOOD_PARAMS: Final = re.compile(f"(?:{_PARAM})*+", re.DOTALL)
_GOOD_VALUE: Final = re.compile(_PARAM_VALUE, re.DOTALL)
_NAMELIKE: Final = re.compile(r"[!#-<>-\\^-~]*+")
_MAX_VALUE_EXCERPT: Final = 40
"""Characters of a value that an answer shows; it has room for 200."""

_Fault = tuple[str, int, str]
"""The part, its place in characters, what is wrong with it."""


def claimed(text: str) -> bool:
    """
    Say whether a text can only be meant as RFC 5424 or a successor, maybe with a PRI at fault.
    """
    return _CLAIMED.match(text) is not None


def fault(text: str) -> str:
    """Say what is wrong with a text that claims to be RFC 5424, and is not."""
    part, place, what = _fault(text)
    return f"not RFC 5424: {part} at byte {len(text[:place].encode())}: {what}"


def _fault(text: str) -> _Fault:
    claim = _CLAIMED.match(text)
    assert claim is not None
    priority, version = claim[1], claim[2][:-1]
    if not re.fullmatch(PRI, f"<{priority}>"):
        zeros = priority.startswith("0") and len(priority) > 1
        return (
            "PRI",
            1,
            f"{_value_excerpt(priority)} " + ("starts with 0" if zeros else "is not 0 to 191"),
        )
    if version != "1":
        return "VERSION", claim.start(2), f"{version} is not known, only 1 is"
    place = claim.end()
    for part, longest in (("TIMESTAMP", 0), *_HEADER):
        end = text.find(" ", place)
        word = text[place : end if end >= 0 else len(text)]
        wrong = _word_fault(word, longest) if longest else _time_fault(word)
        if wrong is not None:
            return part, place + wrong[0], wrong[1]
        if end < 0:
            return part, len(text), "the message ends here"
        place = end + 1
    return _data_fault(text, place)


def _word_fault(word: str, longest: int) -> tuple[int, str] | None:
    if not word:
        return 0, "it is empty, where there is none write -"
    if match := _UNPRINTABLE.search(word):
        return match.start(), f"{match[0]!r} is not printable ASCII"
    if len(word) > longest:
        return 0, f"{len(word)} characters, at most {longest} are allowed"
    return None


def _time_fault(word: str) -> tuple[int, str] | None:
    if word == "-" or _TIMESTAMP.fullmatch(word):
        return None
    match = _TIMELIKE.fullmatch(word)
    if match is None:
        return 0, f"{_value_excerpt(word)} is not of the form 2003-10-11T22:14:15.003Z"
    try:
        date.fromisoformat(match[1])
    except ValueError:
        return 0, f"there is no day {match[1]}"
    for group, name, count in ((2, "hour", 24), (3, "minute", 60), (4, "second", 60)):
        if int(match[group]) >= count:
            return match.start(group), f"there is no {name} {match[group]}"
    if match[5] and len(match[5]) > 6:
        return match.start(5), f"{len(match[5])} digits of a second, at most 6 are allowed"
    if match[6] is None:
        return len(word), "the zone is missing, Z or as +01:00"
    return match.start(6), f"there is no zone {match[6]}"


def _data_fault(text: str, place: int) -> _Fault:
    if text.startswith("-", place):
        end = place + 1
    elif text.startswith("[", place):
        match = _GOOD_ELEMENTS.match(text, place)
        end = match.end() if match else place
        if text.startswith("[", end):
            return _element_fault(text, end + 1)
        seen: set[str] = set()
        for element in _SD_IDS.finditer(text, place, end):
            if element[1] in seen:
                return "SD-ID", element.start(1), f"{element[1]!r} is there twice"
            seen.add(element[1])
    else:
        return "STRUCTURED-DATA", place, f"{_at(text, place)} where - or [ must be"
    return "STRUCTURED-DATA", end, f"{_at(text, end)} where a blank or the end must be"


def _element_fault(text: str, place: int) -> _Fault:
    end = _end_of(_NAMELIKE, text, place)
    if wrong := _name_fault(text, place, end, " ]"):
        return "SD-ID", *wrong
    end = _end_of(_GOOD_PARAMS, text, end)
    if not text.startswith(" ", end):
        return "SD-ELEMENT", end, f"{_at(text, end)} where a blank or ] must be"
    place = end + 1
    end = _end_of(_NAMELIKE, text, place)
    if wrong := _name_fault(text, place, end, "="):
        return "PARAM-NAME", *wrong
    place = end + 1
    if not text.startswith('"', place):
        return "PARAM-VALUE", place, f'{_at(text, place)} where " must be'
    end = _end_of(_GOOD_VALUE, text, place + 1)
    if text.startswith("]", end):
        return "PARAM-VALUE", end, r"] must be written as \]"
    return "PARAM-VALUE", place, 'the closing " is missing'


def _end_of(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place


def _name_fault(text: str, place: int, end: int, behind: str) -> tuple[int, str] | None:
    if end == place:
        return place, f"{_at(text, place)} where a name must be"
    if end - place > 32:
        return place, f"{end - place} characters, at most 32 are allowed"
    if text[end : end + 1] not in tuple(behind):
        wanted = " or ".join("a blank" if one == " " else one for one in behind)
        return end, f"{_at(text, end)} where {wanted} must be"
    return None


def _at(text: str, place: int) -> str:
    return repr(text[place]) if place < len(text) else "the end"


def _value_excerpt(value: str) -> str:
    return repr(value) if len(value) <= _MAX_VALUE_EXCERPT else f"{value[:_MAX_VALUE_EXCERPT]!r}..."
