"""
Kinds of documents and arrays: C{json}, C{jsonb}, and arrays of any type.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.columns.kind import BLANKS, Kind, Misfit, SqlType, misfit
from gateway.columns.literal import NULL, quoted_element

_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_any: Final = msgspec.json.Decoder(msgspec.Raw).decode

NUL_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""The character NUL in JSON, which C{jsonb} cannot hold."""

_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")

_BOUNDS: Final = re.compile(r"(?:\[[^\[\]\"]*\]\s*)+=")
"""Of an array of PostgreSQL's that does not count from 1, C{[2:3]={1,2}}; no JSON has it."""

_TIME_IN_ARRAY: Final = re.compile(r'(?<=")[0-9]{8,14}(?:\.[0-9]{1,9}+)?+(?=")')

MAX_DIMENSIONS: Final = 6
"""Largest number of dimensions of an array in PostgreSQL (MAXDIM)."""


def are_json(values: Iterable[str]) -> bool:
    """
    Say whether every text is JSON.
    """
    try:
        # Exhausts the iterator at C speed and keeps nothing.
        deque(map(_decode_any, values), maxlen=0)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def scalar(token: str) -> str:
    """
    Return the characters of a JSON string, or any other scalar token as it is.
    """
    return _decode_text(token) if token.startswith('"') else token


class Document(Kind):
    """
    Kind of C{json} and C{jsonb}.
    """

    cast = False

    def __init__(self, sql_type: SqlType) -> None:
        super().__init__(sql_type)
        self.parameter = f"{sql_type.base}[]"

    def element(self, value: str) -> str:
        try:
            _decode_any(value)
        except msgspec.DecodeError as error:
            # Half of a surrogate pair json takes and jsonb does not.
            if not _SURROGATE_ESCAPE.search(value):
                raise misfit(value, f"is not JSON: {plain(error)}") from None
        except RecursionError:
            pass  # how deep it may be, the server decides
        return self.composite(value)

    def composite(self, token: str) -> str:
        if "\0" in token or (self.sql_type.base == "jsonb" and NUL_ESCAPE.search(token)):
            raise misfit(token, "holds the character NUL, which jsonb cannot")
        return quoted_element(token)


class Array(Kind):
    """
    Kind of an array, from JSON's or from PostgreSQL's own notation.
    """

    def __init__(self, sql_type: SqlType, kind: Kind) -> None:
        super().__init__(sql_type)
        self._kind = kind
        self.takes_offsets = kind.takes_offsets

    def element(self, value: str) -> str:
        value = value.strip(BLANKS)
        if value.startswith("{") or _BOUNDS.match(value):
            return super().element(value)
        if not value.startswith("["):
            raise misfit(value, "is not an array; write [1, 2] or {1,2}")
        return self.composite(value)

    def at_offset(self, value: str, offset: str) -> str:
        return _TIME_IN_ARRAY.sub(lambda match: self._kind.at_offset(match[0], offset), value)

    def composite(self, token: str) -> str:
        return quoted_element(self._literal(token, 1))

    def _literal(self, token: str, depth: int) -> str:
        if not token.startswith("["):
            raise misfit(token, "is an object, not an array")
        if depth > MAX_DIMENSIONS:
            raise misfit(token, f"has more than {MAX_DIMENSIONS} dimensions")
        try:
            tokens = [bytes(raw).decode() for raw in _decode_list(token)]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise misfit(token, f"is not JSON: {plain(error)}") from None
        delimiter = self._kind.sql_type.delimiter
        return "{" + delimiter.join([self._item(item, depth) for item in tokens]) + "}"

    def _item(self, token: str, depth: int) -> str:
        if token == "null":
            return NULL
        try:
            if token.startswith("[") and not isinstance(self._kind, Document):
                return self._literal(token, depth + 1)
            if token.startswith(("{", "[")):
                return self._kind.composite(token)
            if isinstance(self._kind, Document):
                return self._kind.composite(token)
            return self._kind.element(scalar(token))
        except Misfit as error:
            raise Misfit(f"element {error}") from None


def plain(error: Exception) -> str:
    """
    Return msgspec's error text without its own "JSON is malformed".
    """
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason}"
    text = str(error)
    if text == "Input data was truncated":
        return "it ends too early"
    return text.removeprefix("JSON is malformed: ")
