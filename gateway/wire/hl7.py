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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from gateway.model.outcome import one_line

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

PROCESSING_IDS: Final = ("P", "T", "D")
"""Production, training, debugging (table 0103)."""

_WITH_SEPARATORS: Final = re.compile(rb"\x1b\$|(?<=[^A-Za-z0-9])(GB ?18030|BIG-?5)(?![A-Za-z0-9])")
"""What is in a header whose character set has bytes that look as separators."""


class Condition(IntEnum):
    """
    Error conditions of HL7's table 0357, as far as they are found here.
    """

    REQUIRED_FIELD_MISSING = 101
    DATA_TYPE = 102
    VALUE_TOO_LONG = 104
    UNSUPPORTED_MESSAGE_TYPE = 200
    UNSUPPORTED_EVENT = 201
    UNSUPPORTED_PROCESSING_ID = 202
    UNSUPPORTED_VERSION = 203
    UNKNOWN_KEY = 204
    DUPLICATE_KEY = 205
    INTERNAL = 207


CONDITION_NAMES: Final[Mapping[Condition, str]] = {
    Condition.REQUIRED_FIELD_MISSING: "Required field missing",
    Condition.DATA_TYPE: "Data type error",
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

    @ivar header: by which it is answered; C{None}: it does not begin with MSH.
    """

    def __init__(self, text: str, header: Header | None = None) -> None:
        super().__init__(f"not HL7: {text}")
        self.header = header


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
        raise NotHl7(_what_begins(message))
    separator = message[3:4]
    segment, end, rest = message.partition(b"\r")
    if not end:
        segment, _, rest = message.partition(b"\n")
    fields = _split(segment, separator) if separator else [segment]
    separators = separator + fields[1] if len(fields) > 1 else separator
    if separators != USUAL and (
        _SEPARATORS.fullmatch(separators) is None or len(set(separators)) < len(separators)
    ):
        raise NotHl7(f"{separators[:8]!r} behind MSH are no separators", NO_HEADER)
    fields.insert(1, separator)
    header = Header(separators[:5], fields)
    if MSH + separator in rest and _second(rest, separator):
        raise NotHl7("MSH is there twice, as of two messages", header)
    return header


def _split(segment: bytes, separator: bytes) -> list[bytes]:
    # Some sets have characters that end in a byte that looks as a separator.
    sets = _WITH_SEPARATORS.search(segment)
    if sets is None:
        return segment.split(separator)
    name = _JAPANESE if sets[1] is None else "gb18030" if sets[1].startswith(b"G") else "big5"
    try:
        parts = segment.decode(name).split(separator.decode())
        return [part.encode(name) for part in parts]
    except UnicodeError:
        return segment.split(separator)


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
        raise NotHl7(
            f"no {name}, its character set by MSH-18 or the route: byte {error.start}"
        ) from None


def escaped(header: Header, text: str, codec: str) -> bytes:
    """
    Write a text so that it can stand in a field.

    One line of it; what the message's separators mean is escaped, what its character set has not
    becomes C{?}.
    """
    names = "FSRET"
    marks = header.separators.decode()
    escape = marks[3] if len(marks) > 3 else ""
    table = {
        ord(mark): f"{escape}{name}{escape}" if escape else " "
        for mark, name in zip(marks, names, strict=False)
    }
    return one_line(text).translate(table).encode(codec, "replace")


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Fault of a message, for ERR.

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


@dataclass(frozen=True, slots=True)
class Accepted:
    """
    Messages that a listener accepts, by their headers.

    @ivar message_types: of MSH-9, such as C{ADT} or C{ADT^A04}; none: all.
    @ivar versions: of MSH-12, such as C{2.5.1}; none: all that begin with C{2.}, and none at all.
    @ivar processing_ids: of MSH-11; P, T and D alone also take none at all.
    """

    message_types: Collection[str] = ()
    versions: Collection[str] = ()
    processing_ids: Collection[str] = PROCESSING_IDS

    def fault(self, header: Header) -> Fault | None:
        """Say why a message is not accepted; C{None}: it is."""
        if self.message_types and (fault := self._type_fault(header)) is not None:
            return fault
        version = _text(header.first(12))
        if version not in self.versions if self.versions else not _is_two(version):
            return Fault(
                Condition.UNSUPPORTED_VERSION, f"version {version!r} (MSH-12) is not taken", 12
            )
        mode = _text(header.first(11))
        if mode not in self.processing_ids and (mode or self.processing_ids != PROCESSING_IDS):
            return Fault(
                Condition.UNSUPPORTED_PROCESSING_ID,
                f"processing id {mode!r} (MSH-11) is not taken",
                11,
            )
        return None

    def _type_fault(self, header: Header) -> Fault | None:
        kind, event = _text(header.first(9)), _text(header.first(9, 2))
        if kind in self.message_types or f"{kind}^{event}" in self.message_types:
            return None
        if any(one.startswith(f"{kind}^") for one in self.message_types):
            return Fault(Condition.UNSUPPORTED_EVENT, f"event {event!r} of {kind} is not taken", 9)
        return Fault(
            Condition.UNSUPPORTED_MESSAGE_TYPE, f"message type {kind!r} (MSH-9) is not taken", 9
        )


ALL_OF_TWO: Final = Accepted()
"""All messages of HL7 v2."""


def _text(part: bytes) -> str:
    return part[:40].decode("ascii", "replace")


def _is_two(version: str) -> bool:
    # Some write it with blanks or nothing at all; a sender of version 3 sends no MSH.
    return not version or version == "2" or version.startswith("2.")


AckLetter = Literal["A", "E", "R"]
"""Second letter of MSA-1: accepted; refused; not supported, or not now."""


def acknowledgement_word(header: Header, letter: AckLetter) -> bytes:
    """
    Return MSA-1 of a message's acknowledgement; C{b""}: its sender wants none.

    With MSH-15 or MSH-16 the mode is the enhanced one. A sender that wants no accept
    acknowledgement, but an application acknowledgement, gets that: C{NE} and C{AL} are the original
    mode in other words (HL7 v2.8.2, chapter 2, note in section 2.9.3). Nobody gets both.
    """
    accept, application = header.first(15).upper(), header.first(16).upper()
    if not accept and not application:
        return b"A" + letter.encode()
    by_application = (not accept or accept == b"NE") and application != b""
    wanted = application if by_application else accept
    if (
        wanted == b"NE"
        or (wanted == b"ER" and letter == "A")
        or (wanted == b"SU" and letter != "A")
    ):
        return b""
    return (b"A" if by_application else b"C") + letter.encode()
