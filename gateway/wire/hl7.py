"""
HL7 v2 on the wire: the header of a message, its character set, and the acknowledgement of it.

Strategy: only MSH is read, as bytes, so that what an acknowledgement repeats is what was sent,
byte for byte. Numbers of fields are HL7's: MSH-1 is the separator itself, MSH-2 the encoding
characters.

@see: HL7 v2.5, chapter 2: section 2.9 (acknowledgement), 2.15 (MSH, MSA, ERR), tables 0155, 0211
    and 0357.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MSH: Final = b"MSH"

UTF_8: Final = "utf-8"

_BOM: Final = b"\xef\xbb\xbf"

_JAPANESE: Final = "iso2022_jp_ext"
"""All that ISO 2022 may switch to in Japanese messages: JIS X 0201, 0208 and 0212."""

_JIS_X_0201: Final = "shift_jis"
"""Of one byte for each character; L{decode} refuses those of two."""

CHARSETS: Final[Mapping[str, str]] = {
    **{"ASCII": "ascii", "USASCII": "ascii", "ISOIR6": "ascii"},
    **{f"8859{part}": f"iso8859-{part}" for part in (*range(1, 10), 15)},
    **{f"ISO8859{part}": f"iso8859-{part}" for part in (*range(1, 10), 15)},
    **dict.fromkeys(("UNICODE", "UNICODEUTF8", "UTF8"), UTF_8),
    "ISOIR14": _JIS_X_0201,
    **dict.fromkeys(("ISOIR87", "ISOIR159", "JAS2020", "JISX0202"), _JAPANESE),
    **{"GB180302000": "gb18030", "GB18030": "gb18030"},
    "KSX1001": "euc_kr",
    "BIG5": "big5",
    # No table of HL7 has it; it says what it means all the same.
    "WINDOWS1252": "cp1252",
}
"""
Name in MSH-18, capital and without what stands between letters and digits -> Python's codec.

Those of table 0211, but for UTF-16 and UTF-32, whose bytes MLLP cannot carry, and CNS 11643;
and the same names as senders misspell them.
"""

_BETWEEN: Final = re.compile("[ /_.-]+")
_TWO_BYTES: Final = re.compile(rb"[\x80-\xa0\xe0-\xff]")

USUAL: Final = b"|^~\\&"
"""Separators that HL7 recommends."""
_SEPARATORS: Final = re.compile(rb"[!-/:-@\[-`{-~]{1,6}")
"""Characters of ASCII that are neither a letter, a digit nor a blank; HL7 2.7 has six."""

_MOST_DIGITS: Final = 4
"""Of a part of a version."""

MAX_TEXT: Final = 250
"""Longest text in ERR-8 (HL7 v2.5, section 2.15.5.8), in characters before they are escaped."""


class Condition(IntEnum):
    """
    Error conditions of HL7's table 0357.
    """

    SEGMENT_SEQUENCE = 100
    REQUIRED_FIELD_MISSING = 101
    DATA_TYPE = 102
    TABLE_VALUE_NOT_FOUND = 103
    VALUE_TOO_LONG = 104
    UNSUPPORTED_MESSAGE_TYPE = 200
    UNSUPPORTED_EVENT = 201
    UNSUPPORTED_PROCESSING_ID = 202
    UNSUPPORTED_VERSION = 203
    UNKNOWN_KEY = 204
    DUPLICATE_KEY = 205
    INTERNAL = 207


CONDITION_NAMES: Final[Mapping[Condition, str]] = {
    Condition.SEGMENT_SEQUENCE: "Segment sequence error",
    Condition.REQUIRED_FIELD_MISSING: "Required field missing",
    Condition.DATA_TYPE: "Data type error",
    Condition.TABLE_VALUE_NOT_FOUND: "Table value not found",
    Condition.VALUE_TOO_LONG: "Value too long",
    Condition.UNSUPPORTED_MESSAGE_TYPE: "Unsupported message type",
    Condition.UNSUPPORTED_EVENT: "Unsupported event code",
    Condition.UNSUPPORTED_PROCESSING_ID: "Unsupported processing id",
    Condition.UNSUPPORTED_VERSION: "Unsupported version id",
    Condition.UNKNOWN_KEY: "Unknown key identifier",
    Condition.DUPLICATE_KEY: "Duplicate key identifier",
    Condition.INTERNAL: "Application internal error",
}
"""As the table has them."""


class NotHl7(ValueError):
    """
    A message has no header that can be read.

    Its text is for people, and goes on from C{not HL7: }.

    @ivar has_header: whether it begins with MSH, so that it can be answered.
    """

    def __init__(self, text: str, has_header: bool = True) -> None:
        super().__init__(f"not HL7: {text}")
        self.has_header = has_header


@dataclass(frozen=True, slots=True)
class Header:
    """
    MSH of a message.

    @ivar separators: those of fields, components, repetitions, the escape character and the
        separator of subcomponents; fewer where MSH-2 has fewer.
    @ivar fields: MSH-0, which is C{MSH}, MSH-1, ... as they were sent.
    """

    separators: bytes
    fields: Sequence[bytes]

    def field(self, number: int) -> bytes:
        """Return a field as it was sent; C{b""} where there is none."""
        fields = self.fields
        return fields[number] if number < len(fields) else b""

    def first(self, number: int, component: int = 1) -> bytes:
        """Return a component of the first repetition of a field."""
        field = self.field(number)
        if len(self.separators) > 2:
            field = field.split(self.separators[2:3], 1)[0]
        if len(self.separators) < 2:
            return field if component == 1 else b""
        components = field.split(self.separators[1:2])
        return components[component - 1] if component <= len(components) else b""

    @property
    def release(self) -> tuple[int, ...]:
        """Version in MSH-12 as numbers, such as C{(2, 5, 1)}; C{()} where it is none."""
        parts = self.first(12).split(b".")
        known = all(part.isdigit() and len(part) <= _MOST_DIGITS for part in parts)
        return tuple(map(int, parts)) if known else ()


NO_HEADER: Final = Header(USUAL, (MSH, b"|", USUAL[1:]))
"""Header by which a message is answered whose own cannot be read."""


def without_margin(message: bytes) -> bytes:
    """Drop what is before a message and none of it: line ends and a byte order mark."""
    return message if message.startswith(MSH) else message.lstrip(b"\r\n").removeprefix(_BOM)


def read_header(message: bytes) -> Header:
    """
    Read the header of a message.

    @param message: one for which L{without_margin} changes nothing.
    @raise NotHl7: it has none.
    """
    if not message.startswith(MSH):
        raise NotHl7(_what_begins(message), has_header=False)
    separator = message[3:4]
    segment, end, rest = message.partition(b"\r")
    if not end:
        segment, _, rest = message.partition(b"\n")
    fields = segment.split(separator) if separator else [segment]
    separators = separator + fields[1] if len(fields) > 1 else separator
    if separators != USUAL and (
        _SEPARATORS.fullmatch(separators) is None or len(set(separators)) < len(separators)
    ):
        raise NotHl7(f"{separators[:8]!r} behind MSH are no separators")
    if MSH + separator in rest and _second(rest, separator):
        raise NotHl7("the block holds two messages, MSH is there twice")
    fields.insert(1, separator)
    return Header(separators[:5], fields)


def _second(rest: bytes, separator: bytes) -> bool:
    mark = MSH + separator
    return rest.startswith(mark) or b"\r" + mark in rest or b"\n" + mark in rest


def _what_begins(message: bytes) -> str:
    if not message.strip():
        return "it is empty"
    if message[:3] in (b"FHS", b"BHS"):
        return f"it begins with {message[:3].decode()}; files and batches are not taken"
    return f"it begins with {message[:8]!r}, not with MSH"


def codec(header: Header, default: str = UTF_8) -> str:
    """
    Return the codec of a message's character set.

    @param default: the one where MSH-18 says nothing.
    @raise NotHl7: there is no such set.
    """
    field = header.field(18)
    if not field:
        return default
    names = field.split(header.separators[2:3]) if len(header.separators) > 2 else [field]
    return _codec_of(names)


def codec_named(name: str) -> str | None:
    """Return the codec of a character set; C{None} where there is no such set."""
    return CHARSETS.get(_BETWEEN.sub("", name).upper())


def _codec_of(names: Sequence[bytes]) -> str:
    # The first is what a message begins with, the others what it may switch to by escapes.
    codecs = []
    for name in names:
        found = codec_named(name.decode("latin-1")) if name else CHARSETS["ASCII"]
        if found is None:
            shown = name[:40].decode("ascii", "replace")
            raise NotHl7(f"character set {shown!r} (MSH-18) is not known")
        codecs.append(found)
    if len(codecs) > 1 and set(codecs) <= {"ascii", _JIS_X_0201, _JAPANESE}:
        return _JAPANESE if set(codecs) != {"ascii"} else "ascii"
    return codecs[0]


def decode(message: bytes, codec: str) -> str:
    """
    Decode a message, or a part of one.

    @raise NotHl7: it is not of the character set.
    """
    try:
        if codec == _JIS_X_0201 and (fault := _TWO_BYTES.search(message)) is not None:
            raise UnicodeDecodeError(codec, message, fault.start(), fault.end(), "no character")
        return message.decode(codec)
    except UnicodeDecodeError as error:
        name = "JIS X 0201" if codec == _JIS_X_0201 else codec.upper()
        raise NotHl7(f"no {name}, the character set by MSH-18: byte {error.start}") from None


def escaped(header: Header, text: str, codec: str) -> bytes:
    """
    Write a text so that it can stand in a field.

    What the message's separators mean is escaped; what its character set has not becomes C{?}.
    """
    names = "FSRET"
    marks = header.separators.decode()
    escape = marks[3] if len(marks) > 3 else ""
    table = {
        ord(mark): f"{escape}{name}{escape}" if escape else " "
        for mark, name in zip(marks, names, strict=False)
    }
    return text[:MAX_TEXT].translate(table).encode(codec, "replace")


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What was wrong with a message, for ERR.

    @ivar condition: of table 0357.
    @ivar text: one line for people.
    @ivar place: number of MSH's field; C{0}: none of MSH's.
    @ivar code: the gateway's own code (ERR-5).
    @ivar diagnostic: more for experts (ERR-7).
    """

    condition: Condition
    text: str
    place: int = 0
    code: str = ""
    diagnostic: str = ""


def acknowledgement(
    header: Header, word: bytes, moment: bytes, control_id: bytes, fault: Fault | None = None
) -> bytes:
    """
    Write the acknowledgement of a message, before framing.

    Sender and receiver change places; separators, processing id, version and character set are
    those of the message.

    @param word: MSA-1: AA, AE, AR, CA, CE or CR.
    @param moment: MSH-7, digits alone.
    @param control_id: MSH-10, the acknowledgement's own; at most 20 bytes.
    @param fault: why the message was not accepted.
    """
    field = header.field
    bar = header.separators[:1]
    release = header.release
    head = [
        *(MSH + bar + field(2), field(5), field(6), field(3), field(4), moment, b""),
        *(_type(header, release), control_id, field(11), field(12)),
    ]
    enhanced = word.startswith(b"C")
    charset = field(18)
    if enhanced or charset:
        # An acknowledgement is never acknowledged itself.
        head += [b"", b"", b"NE", b"NE"] if enhanced else [b""] * 4
    if charset:
        head += [b"", charset]
    answer = [b"MSA", word, field(10)]
    if fault is None:
        return bar.join(head) + b"\r" + bar.join(answer) + b"\r"
    try:
        name = codec(header)
    except NotHl7:
        name = "ascii"
    text = escaped(header, fault.text, name)
    if release < (2, 5):
        answer.append(text)
    return b"\r".join([bar.join(head), bar.join(answer), _error(header, fault, text, name), b""])


def _type(header: Header, release: tuple[int, ...]) -> bytes:
    # The event is part of it since 2.3.1, the structure since 2.4 (as HAPI and Mirth write it).
    event = header.first(9, 2)
    between = header.separators[1:2]
    if not event or not between or release < (2, 3, 1):
        return b"ACK"
    return between.join((b"ACK", event, b"ACK") if release >= (2, 4) else (b"ACK", event))


def _error(header: Header, fault: Fault, text: bytes, codec: str) -> bytes:
    separators = header.separators
    bar, between = separators[:1], separators[1:2]
    number = b"%d" % fault.condition
    name = CONDITION_NAMES[fault.condition].encode()
    place = [b"MSH", b"1", b"%d" % fault.place] if fault.place and between else []
    old = b""
    if header.release < (2, 5) and len(separators) > 4:
        coded = separators[4:5].join((number, name, b"HL70357"))
        old = between.join([*(place or [b""] * 3), coded])
    return bar.join(
        [
            *(b"ERR", old, between.join(place)),
            between.join((number, name, b"HL70357")) if between else number,
            *(b"E", escaped(header, fault.code, codec), b""),
            *(escaped(header, fault.diagnostic, codec), text),
        ]
    )
