"""
A column of a route: converts its values of many messages to elements of an array literal.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence, Sized
from itertools import accumulate

from msgspec import Raw

from gateway.columns.kind import Kind, Misfit
from gateway.columns.literal import NULL, all_quoted
from gateway.columns.scalars import Text
from gateway.columns.structured import Document, are_json, plain, scalar
from gateway.formats.fields import Cells, Tokens

Misfits = dict[int, str]
"""Row -> why its value does not fit."""


class Column:
    """
    Column of a route: its source, and the conversion of its values.

    @ivar name: in the table.
    @ivar source: name of the field.
    """

    def __init__(
        self,
        name: str,
        source: str,
        kind: Kind,
        default: str | None = None,
        required: bool = False,
    ) -> None:
        """
        @param default: text of the value that is stored where a message has no such field.
        @param required: whether a message without one is refused.
        @raise Misfit: the default does not fit.
        """
        self.name = name
        self.source = source
        self.kind = kind
        self._default = NULL if default is None else kind.element(default)
        self._required = required and default is None

    def encode(self, cells: Cells, misfits: Misfits) -> str:
        """
        Return the elements of an array literal, with commas between; NULL for rows at fault.

        @param misfits: rows whose values do not fit are added to it, unless they are in it already.
        """
        if isinstance(cells, Tokens):
            return self._tokens(cells.values, misfits)
        values = cells.values
        if cells.offsets is not None and self.kind.takes_offsets:
            at_offset = self.kind.at_offset
            values = [
                at_offset(value, offset) if value and offset else value
                for value, offset in zip(values, cells.offsets(), strict=True)
            ]
        return self._texts(values, misfits)

    def _tokens(self, tokens: Sequence[Raw], misfits: Misfits) -> str:
        def one(row: int) -> str:
            return self._token(row, bytes(tokens[row]), misfits)

        pattern = self.kind.json
        try:
            if pattern is not None:
                joined = b",".join([*tokens, b""]).decode()
                if pattern.fullmatch(joined):
                    return joined[:-1]
                texts = tokens if joined.isascii() else [bytes(t).decode() for t in tokens]
                return _around(pattern, joined, texts, one)
            if isinstance(self.kind, Document) and (piece := self._documents(tokens)) is not None:
                return piece
        except UnicodeDecodeError:
            pass  # some are not UTF-8; each is checked below
        return ",".join(map(one, range(len(tokens))))

    def _documents(self, tokens: Sequence[Raw]) -> str | None:
        """
        Convert JSON tokens for a JSON column all at once; C{None} where each must be checked.

        @raise UnicodeDecodeError: some are not text.
        """
        # No control character is in JSON, save between its tokens.
        joined = b"\x1f".join(tokens).decode()
        if "\\u0000" in joined:
            return None
        piece = '"' + joined.replace("\\", "\\\\").replace('"', '\\"').replace("\x1f", '","') + '"'
        if "null" not in piece:
            return piece
        if self._required:
            return None
        # A whole value that is null; within a string its quotes would be escaped.
        return piece.replace('"null"', self._default)

    def _token(self, row: int, token: bytes, misfits: Misfits) -> str:
        if token == b"null":
            return self._missing(row, misfits)
        try:
            text = token.decode()
            if isinstance(self.kind, Document) or text.startswith(("{", "[")):
                return self.kind.composite(text)
            return self.kind.element(scalar(text))
        except Misfit as error:
            misfits.setdefault(row, f"column {self.name!r}: {error}")
        except UnicodeDecodeError as error:
            misfits.setdefault(row, f"column {self.name!r}: {plain(error)}")
        return NULL

    def _texts(self, values: Sequence[str | None], misfits: Misfits) -> str:
        def one(row: int) -> str:
            return self._text(row, values[row], misfits)

        kind = self.kind
        if kind.text is not None:
            # A character that no pattern matches.
            texts = ["\0" if value is None else value for value in values]
            joined = ",".join([*texts, ""])
            # A value with a comma of its own would be two that fit.
            if joined.count(",") == len(values):
                if kind.text.fullmatch(joined):
                    return joined[:-1]
                return _around(kind.text, joined, texts, one)
        elif isinstance(kind, (Text, Document)) and (piece := self._quoted(values)) is not None:
            return piece
        return ",".join(map(one, range(len(values))))

    def _quoted(self, values: Sequence[str | None]) -> str | None:
        """Quote all values at once; C{None} where each must be checked."""
        known = [value for value in values if value is not None]
        length = self.kind.sql_type.length
        if len(known) < len(values) or (length and max(map(len, known)) > length):
            return None
        joined = "".join(known)
        if "\0" in joined:
            return None
        if isinstance(self.kind, Document) and ("\\u0000" in joined or not are_json(known)):
            return None
        return all_quoted(known)

    def _text(self, row: int, value: str | None, misfits: Misfits) -> str:
        if value is None:
            return self._missing(row, misfits)
        try:
            return self.kind.element(value)
        except Misfit as error:
            misfits.setdefault(row, f"column {self.name!r}: {error}")
            return NULL

    def _missing(self, row: int, misfits: Misfits) -> str:
        if self._required:
            misfits.setdefault(row, f"column {self.name!r}: the message has no {self.source!r}")
        return self._default


def _around(
    pattern: re.Pattern[str], joined: str, values: Sequence[Sized], one: Callable[[int], str]
) -> str:
    """
    Take over the values that match, and convert the others one by one.

    @param pattern: a L{column_pattern}: a match of it ends where a value does.
    @param joined: the values, each with a comma behind it.
    @param values: only their lengths are used.
    @param one: converts the value of a row that the pattern does not match.
    """
    ends = list(accumulate([len(value) + 1 for value in values]))
    pieces = []
    row = position = 0
    while row < len(values):
        match = pattern.match(joined, position)
        if match and (stop := match.end()) > position:
            pieces.append(joined[position : stop - 1])
            row = bisect_left(ends, stop, row) + 1
            position = stop
        if row < len(values):
            pieces.append(one(row))
            position = ends[row]
            row += 1
    return ",".join(pieces)
