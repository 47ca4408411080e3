"""
CSV: every message is one record (RFC 4180) whose values are known by their position.

Strategy: the frames are joined, with a mark between them that counts as a value of its
own, and split in one go: value 3 of all messages is a slice. The marks prove that
each message is a record of its own: none of the frames holds the mark's character, so
where every mark comes out as a value, and always after the same number of values, no
quote was open at the end of a frame and no record is too short or too long. What cannot
be read takes everything behind it along, the last mark too, so it is never missed.
Only a chunk that fails is read frame by frame, to name the ones at fault.

NULL is as in C{COPY ... (FORMAT csv)}: an empty value without quotes. A quote within a
value that has none around it is a fault, as in RFC 4180: some readers keep it, others
(PostgreSQL) drop it, and nobody could tell which was meant. Line ends behind a record
are not part of it. Positions count from 0, as in the errors of the other formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from gateway.formats.fields import Fields, Texts
from gateway.model.errors import Faults
from gateway.model.outcome import Code, refused
from gateway.model.text import shortened

WHITESPACE: Final = "whitespace"
"""The delimiter that is any run of spaces and tabs; then there are no quotes."""

_MAX_LISTED: Final = 80
"""Characters of the list of names that an error shows."""

_BREAK: Final = re.compile("[\r\n]")
_BREAK_OR_QUOTE: Final = re.compile('[\r\n"]')
_QUOTED: Final = '"[^"]*+(?:""[^"]*+)*+"'
_QUOTED_FIELD: Final = re.compile(_QUOTED)


class CsvFormat:
    """
    Reader of values that are separated by a character, or by blanks.
    """

    def __init__(self, fields: Sequence[str], names: Sequence[str], delimiter: str = ",") -> None:
        """
        @param fields: the names that are wanted.
        @param names: of a record's values, in order; of a repeated name the last one counts.
        @param delimiter: one character, or L{WHITESPACE}.
        @raise ValueError: such a delimiter cannot be used.
        """
        self._spaced = delimiter == WHITESPACE
        if not self._spaced and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError(
                f"delimiter {delimiter!r} is neither {WHITESPACE!r} nor one character"
                " other than a quote or a line break"
            )
        self._names = names
        places = {name: place for place, name in enumerate(names)}
        self._places = {field: places[field] for field in fields}
        self._delimiter = " " if self._spaced else delimiter
        self._mark = "\x1e" if delimiter != "\x1e" else "\x1f"
        self._between = f"{self._delimiter}{self._mark}{self._delimiter}".encode()
        character = re.escape(self._delimiter)
        self._find = re.compile(
            rf'({_QUOTED}|[^"\r\n{character}]*+){character}|(?s:.++)'  # the rest, where all fails
        ).findall

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        faults: Faults = []
        values = self._all(frames)
        if values is None:
            values = self._one_by_one(frames, faults)
        stride = len(self._names) + 1
        return Fields(
            {
                field: Texts(self._unquoted(values[place::stride]))
                for field, place in self._places.items()
            },
            faults,
        )

    def _all(self, frames: Sequence[bytes]) -> list[str] | None:
        """
        Split all messages at once.

        @return: the values of all messages as they were written, a mark behind those of
            each; C{None} where some message may be at fault.
        """
        try:
            text = self._joined(frames)
        except UnicodeDecodeError:
            return None
        # A single frame may hold the mark's character: the last value is never from the frame.
        if len(frames) > 1 and text.count(self._mark) != len(frames):
            return None
        values = self._taken_apart(text)
        stride = len(self._names) + 1
        if len(values) != len(frames) * stride:
            return None
        return values if values[stride - 1 :: stride] == [self._mark] * len(frames) else None

    def _joined(self, frames: Sequence[bytes]) -> str:
        """
        Join the frames, with a delimiter, a mark and a delimiter behind each.

        The result is UTF-8 if and only if each frame is.
        """
        text = self._between.join([*frames, b""]).decode()
        if "\n" in text or "\r" in text:
            text = self._between.join([*(frame.rstrip(b"\r\n") for frame in frames), b""]).decode()
        return text

    def _taken_apart(self, text: str) -> list[str]:
        """
        Split a text into its values, as they are written.

        Where it cannot be read to its end, the last value is empty and stands for the rest.

        @param text: with a delimiter at its end.
        """
        broken = "\n" in text or "\r" in text
        if self._spaced:
            return [""] if broken else list(filter(None, text.replace("\t", " ").split(" ")))
        if broken or '"' in text:
            return self._find(text)
        values = text.split(self._delimiter)
        values.pop()
        return values

    def _unquoted(self, values: list[str]) -> Sequence[str | None]:
        """Remove the quotes of values; an empty value without quotes becomes C{None}."""
        if not self._spaced and '"' in "".join(values):
            return [
                value[1:-1].replace('""', '"') if value[:1] == '"' else value or None
                for value in values
            ]
        return [value or None for value in values] if "" in values else values

    def _one_by_one(self, frames: Sequence[bytes], faults: Faults) -> list[str]:
        nothing = [""] * len(self._names) + [self._mark]
        values = []
        for row, frame in enumerate(frames):
            own = self._all([frame])
            if own is None:
                own = nothing
                faults.append((row, refused(Code.FORMAT, self._reason(frame))))
            values += own
        return values

    def _reason(self, frame: bytes) -> str:
        try:
            frame.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8: {error.reason} at byte {error.start}"
        text = self._joined([frame])
        values = self._taken_apart(text)
        if values[-1:] == [self._mark]:
            return self._miscounted(len(values) - 1, empty=not frame.strip(b"\r\n"))
        if self._spaced:
            return f"a line break at byte {_byte_offset(text, _found(_BREAK, text, 0))}"
        number = len(values)
        start = sum(map(len, values)) + number - 1  # one delimiter behind each but the last
        which = f"value {number}"
        if number <= len(self._names):
            which += f" ({self._names[number - 1]})"
        if text[start] == '"':
            quoted = _QUOTED_FIELD.match(text, start)
            if quoted is None:
                return f"the quote of {which} at byte {_byte_offset(text, start)} is not closed"
            offset = _byte_offset(text, quoted.end())
            return f"{which} goes on behind its closing quote at byte {offset}"
        place = _found(_BREAK_OR_QUOTE, text, start)
        if text[place] == '"':
            return (
                f"{which} is not quoted but has a quote within at byte {_byte_offset(text, place)}"
            )
        return f"a line break outside of quotes at byte {_byte_offset(text, place)}"

    def _miscounted(self, count: int, empty: bool) -> str:
        names = shortened(", ".join(self._names), _MAX_LISTED)
        had = "nothing" if empty or not count else "1 value" if count == 1 else f"{count} values"
        expected = "1 is" if len(self._names) == 1 else f"{len(self._names)} are"
        return f"{had} where {expected} expected: {names}"


def _found(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.search(text, start)
    return len(text) if match is None else match.start()


def _byte_offset(text: str, place: int) -> int:
    return len(text[:place].encode())


def sample(fields: Mapping[str, object], names: Sequence[str], delimiter: str) -> str:
    """
    Write a record in which every field has a value.

    @param names: of a record's values, in order.
    """
    between = " " if delimiter == "whitespace" else delimiter
    return between.join(str(fields.get(name, 1)) for name in names)


def fault_of(field: str, names: Sequence[str]) -> str | None:
    """Say why no record has a field; C{None} where it may have it."""
    if field in names:
        return None
    near = get_close_matches(field, names, 1)
    return f"is not in fields{f'; did you mean {near[0]!r}?' if near else ''}"
