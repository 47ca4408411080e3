r"""
HL7 v2: every message begins with MSH; a field is a path as C{PID-3.1} or C{OBX(2)-5}.

Strategy: a message is decoded by its own MSH-18 and left whole. Each segment that some path wants
is found by one search and split once, so that what nobody wants costs nothing; PyPI's C{hl7}, which
makes an object of every part, takes more than a hundred times as long.

A path names a segment, a field, and within that a component and a subcomponent:

  - C{PID-5} is the text of the whole field, C{PID-5.1} that of its first component, C{PID-5.1.2}
    that of a subcomponent. Where a path ends, all that is below belongs to the value,
    separators included;
  - C{PID-3(2).1} is of the second repetition; without a number, a component is of the first one;
  - C{OBX(2)-5} is of the second OBX; without a number, of the first;
  - C{OBX(*)-5} and C{PID-3(*).1} are of all of them: a JSON array, C{null} where one has no value;
  - fields of MSH count from the separator, which is MSH-1;
  - C{message} is all of the text, as it was sent.

A value's escapes are decoded: those of separators, and C{\Xhh..\}, whose bytes are of the message's
character set. Formatting (C{\.br\}, C{\H\}), other character sets and anything else between two
escape characters stays as it was sent. An empty value is none, and so is C{""}, by which HL7 says
that there is no value any more.

Segments end with CR; LF behind it is dropped. Where a message has no CR they end with LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from gateway.formats.fields import Fields, Texts
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused
from gateway.wire.hl7 import USUAL, UTF_8, NotHl7, codec, decode, read_header, without_margin

WHOLE: Final = "message"
"""The field that is all of the text."""

ALL: Final = 0
"""Stands for C{(*)} in place of a number from 1 on."""

_NO_VALUE: Final = '""'

_MOST_GRAMMARS: Final = 64
"""Sets of separators to remember; most senders have the same."""

_PLAIN: Final = r"\|[^|\r\n\x1b\x80-\xff]*+"
_USUAL_HEADER: Final = re.compile(
    rf"MSH\|\^~\\&(?:(?:{_PLAIN}){{15}}\|([^|\r\n\x1b\x80-\xff]*+)(?:{_PLAIN})*+|(?:{_PLAIN})+)"
    r"(?=\r|\Z)".encode("latin-1")
)
"""The header of nearly all messages, in ASCII; its group is MSH-18."""

_USUAL_CODECS: Final[Mapping[bytes, str]] = {
    **{b"ASCII": "ascii", b"8859/1": "iso8859-1", b"8859/15": "iso8859-15"},
    b"UNICODE UTF-8": UTF_8,
}

_NUMBER: Final = "[1-9][0-9]{0,3}"
_PATH: Final = re.compile(
    rf"(?P<segment>[A-Z][A-Z0-9]{{2}})(?:\((?P<place>\*|{_NUMBER})\))?"
    rf"-(?P<field>{_NUMBER})(?:\((?P<repetition>\*|{_NUMBER})\))?"
    rf"(?:\.(?P<component>{_NUMBER})(?:\.(?P<subcomponent>{_NUMBER}))?)?"
)
_OTHER_NOTATION: Final = re.compile(r"([A-Z][A-Z0-9]{2})[.:_ ]?([0-9]+(?:\.[0-9]+)*)")


@dataclass(frozen=True, slots=True)
class Path:
    """
    Place of a value; numbers count from 1.

    @ivar place: which of the segments of that name; L{ALL}: each of them.
    @ivar repetition: C{None}: the whole field or, where a component is named, the first.
    @ivar component: C{None}: all of them.
    @ivar subcomponent: C{None}: all of them.
    """

    segment: str
    place: int
    field: int
    repetition: int | None
    component: int | None
    subcomponent: int | None


def path_of(field: str) -> Path:
    """
    Parse a path.

    @raise ValueError: it is none; the text says what is wrong, and goes behind the field.
    """
    match = _PATH.fullmatch(field)
    if match is None:
        other = _OTHER_NOTATION.fullmatch(field)
        hint = f"; write {other[1]}-{other[2]}" if other else ""
        raise ValueError(
            f"is no path of HL7, such as PID-3.1, PID-3(2).1 or OBX(2)-5, nor {WHOLE!r}{hint}"
        )
    path = Path(
        match["segment"],
        _numbered(match["place"], 1),
        int(match["field"]),
        None if match["repetition"] is None else _numbered(match["repetition"], 1),
        None if match["component"] is None else int(match["component"]),
        None if match["subcomponent"] is None else int(match["subcomponent"]),
    )
    if path.place == ALL == path.repetition:
        raise ValueError("has * twice, and a value is one list at most")
    if path.segment == "MSH":
        if path.place != 1:
            raise ValueError("names a second MSH, and a message has but one")
        if path.field <= 2 and (path.repetition, path.component) != (None, None):
            raise ValueError(f"goes into MSH-{path.field}, which has no parts")
    return path


def _numbered(text: str | None, default: int) -> int:
    return default if text is None else ALL if text == "*" else int(text)


def fault_of(field: str) -> str | None:
    """Say why no message has such a field; C{None} where one may."""
    if field == WHOLE:
        return None
    try:
        path_of(field)
    except ValueError as error:
        return str(error)
    return None


_Values = Sequence[str | None]
"""Values of one field of many messages."""


class Hl7Format:
    """
    Reader of the values at paths.
    """

    def __init__(self, fields: Sequence[str], charset: str = UTF_8) -> None:
        """
        @param fields: paths for which L{fault_of} returns C{None}.
        @param charset: codec of messages whose MSH-18 is empty.
        """
        self._fields = fields
        self._charset = charset
        self._paths = {field: path_of(field) for field in fields if field != WHOLE}
        self._grammars: dict[tuple[bytes, str], _Grammar] = {}

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: Faults = []
        # Messages with the same separators and character set are read together.
        groups: dict[_Grammar, tuple[list[int], list[str]]] = {}
        for number, frame in enumerate(frames):
            try:
                grammar, text = self._opened(frame)
            except NotHl7 as error:
                faults.append((number, refused(Code.FORMAT, str(error))))
                continue
            group = groups.get(grammar)
            if group is None:
                group = groups[grammar] = ([], [])
            group[0].append(number)
            group[1].append(text)
        cells: dict[str, list[str | None]] = {}
        for grammar, (rows, texts) in groups.items():
            for field, values in self._values(grammar, texts):
                if len(rows) == len(frames):
                    cells[field] = list(values)
                    continue
                column = cells.setdefault(field, [None] * len(frames))
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
        nothing: list[str | None] = [None] * len(frames)

        def offsets() -> list[str]:
            found = [""] * len(frames)
            for grammar, (rows, texts) in groups.items():
                for row, offset in zip(rows, grammar.offsets(texts), strict=True):
                    found[row] = offset
            return found

        columns = {field: Texts(cells.get(field, nothing), offsets) for field in self._fields}
        return Fields(columns, faults)

    def _opened(self, frame: bytes) -> tuple[_Grammar, str]:
        """
        Return a message's text, and the grammar by which it is read.

        @raise NotHl7: it is none that can be read.
        """
        match = _USUAL_HEADER.match(frame)
        if match is not None and b"\rMSH|" not in frame and b"\n" not in frame:
            named = match[1]
            name = _USUAL_CODECS.get(named) if named else self._charset
            if name is not None:
                return self._grammar(USUAL, name), decode(frame, name)
        message = without_margin(frame)
        header = read_header(message)
        name = codec(header, self._charset)
        return self._grammar(header.separators, name), decode(message, name)

    def _grammar(self, separators: bytes, name: str) -> _Grammar:
        known = self._grammars.get((separators, name))
        if known is None:
            if len(self._grammars) >= _MOST_GRAMMARS:
                self._grammars.clear()
            known = _Grammar(separators.decode(), name, list(self._paths.values()))
            self._grammars[separators, name] = known
        return known

    def _values(self, grammar: _Grammar, texts: list[str]) -> Iterator[tuple[str, _Values]]:
        """Return each field's values in these messages."""
        if WHOLE in self._fields:
            yield WHOLE, texts
        if any("\n" in text for text in texts):
            texts = [_with_cr(text) for text in texts]
        found = [segment.found(texts) for segment in grammar.segments]
        for field, path in self._paths.items():
            number, group = grammar.places[path]
            matches = found[number]
            if path.place == ALL:
                yield field, [_listed(path, grammar, [m[group] for m in each]) for each in matches]
            else:
                last = path.place
                fields = [each[last - 1][group] if len(each) >= last else None for each in matches]
                yield field, _within(path, grammar, fields)


def _with_cr(text: str) -> str:
    """Return a message whose segments end with CR alone."""
    return text.replace("\r\n", "\r") if "\r" in text else text.replace("\n", "\r")


class _Segments:
    """
    Pattern of the segments of one name, with a group for each field that is wanted.
    """

    def __init__(self, name: str, separator: str, paths: Sequence[Path]) -> None:
        """
        @param paths: those into segments of that name.
        """
        self.numbers = sorted({path.field for path in paths})
        bar = re.escape(separator)
        other = rf"{bar}[^{bar}\r]*+"
        # MSH-1 is the separator itself, so that MSH-2 is the first behind it.
        before = 1 if name == "MSH" else 0
        pattern = ""
        for number, lower in reversed(
            list(zip(self.numbers, [before, *self.numbers], strict=False))
        ):
            if number == before:
                pattern = f"(?=({bar})){pattern}"
                continue
            pattern = rf"(?:(?:{other}){{{number - lower - 1}}}{bar}([^{bar}\r]*+){pattern})?+"
        start = r"\A" if name == "MSH" else r"\r"
        compiled = re.compile(rf"{start}{name}{pattern}(?=[{bar}\r]|\Z)")
        self._search, self._each = compiled.search, compiled.finditer
        self._most = 0 if any(p.place == ALL for p in paths) else max(p.place for p in paths)

    def found(self, texts: Sequence[str]) -> list[Sequence[re.Match[str]]]:
        """
        Return the segments of each message, in order, as many of them as are wanted.

        @param texts: messages; segments end with CR.
        """
        if self._most == 1:
            search = self._search
            return [() if (match := search(text)) is None else (match,) for text in texts]
        most = self._most or None
        return [list(islice(self._each(text), most)) for text in texts]


class _Grammar:
    """
    Separators of a message, what its escapes mean, and what is wanted of it.

    @ivar segments: patterns of the segments that are wanted.
    @ivar places: path -> which of C{segments}, and which group of it.
    """

    def __init__(self, separators: str, codec: str, paths: Sequence[Path]) -> None:
        """
        @param separators: of fields, components, repetitions; the escape character; the separator
            of subcomponents. Fewer where the message has fewer.
        """
        field, self.component, self.repetition, self.escape, self.subcomponent = (
            separators[number : number + 1] for number in range(5)
        )
        self.segments: list[_Segments] = []
        self.places: dict[Path, tuple[int, int]] = {}
        for name in dict.fromkeys(path.segment for path in paths):
            own = [path for path in paths if path.segment == name]
            segments = _Segments(name, field, own)
            for path in own:
                group = segments.numbers.index(path.field) + 1
                self.places[path] = (len(self.segments), group)
            self.segments.append(segments)
        bar = re.escape(field)
        self._offset = re.compile(
            rf"MSH(?:{bar}[^{bar}\r]*+){{5}}{bar}[0-9.]*+([+-][0-9]{{4}})?"
        ).match
        self._codec = codec
        self._meanings = dict(zip("FSRET", separators, strict=False))
        mark = re.escape(self.escape)
        pair = "[0-9A-Fa-f]{2}"
        # Bytes in a row may be one character.
        self._escapes = re.compile(
            f"{mark}(?:([FSRET])|X((?:{pair})++(?:{mark}{mark}X(?:{pair})++)*+)){mark}"
        )

    def offsets(self, texts: Sequence[str]) -> list[str]:
        """
        Return the offsets from UTC that messages name for themselves.

        That in MSH-7 is of all times in a message (HL7 v2.5, section 2.15.9.7).
        """
        matches = map(self._offset, texts)
        return ["" if match is None else match[1] or "" for match in matches]

    def unescaped(self, text: str) -> str:
        return self._escapes.sub(self._meaning, text)

    def _meaning(self, match: re.Match[str]) -> str:
        if match[1]:
            return self._meanings.get(match[1], match[0])
        digits = match[2].replace(f"{self.escape}{self.escape}X", "")
        try:
            return decode(bytes.fromhex(digits), self._codec)
        except NotHl7:
            return match[0]


def _within(path: Path, grammar: _Grammar, fields: _Values) -> _Values:
    """
    Return what a path means of the fields it leads to.

    @param fields: as they were sent.
    """
    if path.repetition == ALL:
        return [
            None if field is None else _listed(path, grammar, _split(field, grammar.repetition))
            for field in fields
        ]
    if path.repetition is not None or path.component is not None:
        fields = _parts(fields, grammar.repetition, path.repetition or 1)
    return _meant(path, grammar, fields)


def _listed(path: Path, grammar: _Grammar, fields: _Values) -> str | None:
    """Return the values of all segments, or of all repetitions, as a JSON array."""
    values = (_within if path.place == ALL else _meant)(path, grammar, fields)
    return msgspec.json.encode(values).decode() if any(values) else None


def _meant(path: Path, grammar: _Grammar, repetitions: _Values) -> _Values:
    """Return what a path means of the repetitions it leads to."""
    values = repetitions
    if path.component is not None:
        values = _parts(values, grammar.component, path.component)
        if path.subcomponent is not None:
            values = _parts(values, grammar.subcomponent, path.subcomponent)
    values = [value if value and value != _NO_VALUE else None for value in values]
    escape = grammar.escape
    if escape and escape in "".join(filter(None, values)):
        values = [value and grammar.unescaped(value) for value in values]
    return values


def _parts(values: _Values, separator: str, number: int) -> _Values:
    """Return the part of that number of each value."""
    if number == 1 and separator:
        return [value and value.split(separator, 1)[0] for value in values]
    return [value and _part(_split(value, separator), number) for value in values]


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator) if separator else [text]


def _part(parts: Sequence[str], number: int) -> str | None:
    return parts[number - 1] if number <= len(parts) else None


_SAMPLE_HEADER: Final[Mapping[int, str]] = {
    **{7: "20260101000000", 9: "ADT^A04^ADT_A01", 10: "1", 11: "P", 12: "2.5.1"},
}

_Parts = dict[int, dict[int, dict[int, str]]]
"""Repetition -> component -> subcomponent -> value."""


def sample(fields: Mapping[str, object]) -> str:
    """
    Write a message that has these fields.
    """
    segments: dict[str, dict[int, dict[int, _Parts]]] = {}
    given = {field: value for field, value in fields.items() if field != WHOLE}
    for field, value in given.items():
        path = path_of(field)
        if path.segment == "MSH" and (path.field <= 2 or path.field in _SAMPLE_HEADER):
            continue
        places = segments.setdefault(path.segment, {})
        parts = places.setdefault(path.place or 1, {}).setdefault(path.field, {})
        components = parts.setdefault(path.repetition or 1, {})
        components.setdefault(path.component or 1, {})[path.subcomponent or 1] = _escaped(value)
    header = {**_SAMPLE_HEADER, **_written(segments.pop("MSH", {}).get(1, {}))}
    header |= _chosen(given)
    lines = ["|".join(["MSH", "^~\\&", *(header.get(n, "") for n in range(3, max(header) + 1))])]
    for name, places in segments.items():
        for place in range(1, max(places) + 1):
            texts = _written(places.get(place, {}))
            values = [texts.get(number, "") for number in range(1, max(texts, default=0) + 1)]
            lines.append("|".join([name, *values]))
    return "\r".join(lines)


def _chosen(fields: Mapping[str, object]) -> dict[int, str]:
    # Of the header all is there already, unless it is to be something else, as a route wants it.
    chosen: dict[int, str] = {}
    for field, value in fields.items():
        path = path_of(field)
        if path.segment == "MSH" and path.field in _SAMPLE_HEADER and isinstance(value, str):
            components = chosen.get(path.field, _SAMPLE_HEADER[path.field]).split("^")
            number = path.component or 1
            components += [""] * (number - len(components))
            components[number - 1] = _escaped(value)
            chosen[path.field] = "^".join(components)
    return chosen


def _escaped(value: object) -> str:
    marks = {"\\": "E", "|": "F", "^": "S", "~": "R", "&": "T"}
    return "".join(f"\\{marks[c]}\\" if c in marks else c for c in str(value))


def _written(fields: Mapping[int, _Parts]) -> dict[int, str]:
    """Return field -> its text."""
    return {
        number: _joined(
            "~",
            {
                repetition: _joined(
                    "^",
                    {
                        component: _joined("&", subcomponents)
                        for component, subcomponents in components.items()
                    },
                )
                for repetition, components in parts.items()
            },
        )
        for number, parts in fields.items()
    }


def _joined(separator: str, parts: Mapping[int, str]) -> str:
    return separator.join(parts.get(number, "") for number in range(1, max(parts) + 1))
