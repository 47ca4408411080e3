"""
A column of a route: its values of many messages -> a piece of an array literal.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw

from gateway.columns.kind import Kind, Misfit
from gateway.columns.literal import NULL, all_quoted
from gateway.columns.scalars import Text
from gateway.columns.structured import Document, plain, scalar
from gateway.formats.fields import Cells, Tokens

Misfits = dict[int, str]
"""Row -> why its value does not fit."""


class Column:
    """
    Where the values of a column come from, and what becomes of them.

    @ivar name: in the table.
    @ivar source: the field.
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
        @param default: what is stored where a message has no such field, as text.
        @param required: whether a message without one is refused.
        @raise Misfit: the default is of no use.
        """
        self.name = name
        self.source = source
        self.kind = kind
        self._default = NULL if default is None else kind.element(default)
        self._required = required and default is None

    def encode(self, cells: Cells, misfits: Misfits) -> str:
        """
        @param misfits: where those rows are added whose values do not fit and that are
            not in it yet.
        @return: the elements of an array literal, with commas between; those of rows at
            fault are NULL.
        """
        if isinstance(cells, Tokens):
            return self._tokens(cells.values, misfits)
        return self._texts(cells.values, misfits)

    def _tokens(self, tokens: Sequence[Raw], misfits: Misfits) -> str:
        pattern = self.kind.json
        if pattern is not None:
            try:
                joined = b",".join([*tokens, b""]).decode()
            except UnicodeDecodeError:
                pass
            else:
                if pattern.fullmatch(joined):
                    return joined[:-1]
        elif isinstance(self.kind, Document) and (piece := self._documents(tokens)) is not None:
            return piece
        return ",".join(
            [self._token(row, token, misfits) for row, token in enumerate(map(bytes, tokens))]
        )

    def _documents(self, tokens: Sequence[Raw]) -> str | None:
        """
        All at once, where nothing has to be looked at.
        """
        try:
            # No control character is in JSON, save between its tokens.
            joined = b"\x1f".join(tokens).decode()
        except UnicodeDecodeError:
            return None
        if "\\u0000" in joined:
            return None
        piece = '"' + joined.replace("\\", "\\\\").replace('"', '\\"').replace("\x1f", '","') + '"'
        if "null" not in piece:
            return piece
        if self._required:
            return None
        # A whole value that is null; in a string there would be a backslash at its quote.
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
        if None not in values:
            piece = self._all_texts(values)  # type: ignore[arg-type]  # none is None
            if piece is not None:
                return piece
        pieces = []
        for row, value in enumerate(values):
            if value is None:
                pieces.append(self._missing(row, misfits))
                continue
            try:
                pieces.append(self.kind.element(value))
            except Misfit as error:
                pieces.append(NULL)
                misfits.setdefault(row, f"column {self.name!r}: {error}")
        return ",".join(pieces)

    def _all_texts(self, values: Sequence[str]) -> str | None:
        kind = self.kind
        if kind.text is not None:
            joined = ",".join([*values, ""])
            # A value with a comma of its own would be two that fit.
            if joined.count(",") == len(values) and kind.text.fullmatch(joined):
                return joined[:-1]
        elif isinstance(kind, Text):
            length = kind.sql_type.length
            if length and max(map(len, values)) > length:
                return None
            piece = all_quoted(values)
            if "\0" not in "".join(values):
                return piece
        return None

    def _missing(self, row: int, misfits: Misfits) -> str:
        if self._required:
            misfits.setdefault(row, f"column {self.name!r}: the message has no {self.source!r}")
        return self._default
