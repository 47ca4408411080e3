"""
Arguments of a call: JSON to one array element for each parameter.

They travel as the values of a batch do, so that one statement can answer many calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from gateway.columns.kind import Kind, Misfit, SqlType, excerpt
from gateway.columns.kinds import kind_of
from gateway.columns.literal import NULL
from gateway.columns.structured import Document, plain, scalar
from gateway.model.query import Param
from gateway.model.text import meant

_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode

_BLANK: Final = b" \t\r\n"


class _Parameter:
    """
    Parameter of a query: conversion of its argument, and its element where a call has none.

    @ivar absent: array element where a call leaves the argument out; C{None}: the call is refused.
    """

    __slots__ = ("absent", "document", "fits", "kind", "name")

    def __init__(self, name: str, param: Param, kind: Kind) -> None:
        """
        @raise Misfit: its default does not fit its type.
        """
        self.name = name
        self.kind = kind
        self.fits = None if kind.json is None else kind.json.fullmatch
        self.document = isinstance(kind, Document)
        if param.default is not None:
            self.absent: str | None = kind.element(param.default)
        else:
            self.absent = None if param.required else NULL

    def element(self, token: Raw | None) -> str:
        """
        Return an argument as an array element.

        @raise Misfit: it is missing, or does not fit.
        """
        if token is None:
            if self.absent is None:
                raise Misfit(f"parameter {self.name!r} is missing")
            return self.absent
        try:
            text = bytes(token).decode()
            # Most are written as PostgreSQL takes them.
            if self.fits is not None and self.fits(text + ","):
                return text
            if text == "null":
                return NULL
            if self.document or text.startswith(("{", "[")):
                return self.kind.composite(text)
            return self.kind.element(scalar(text))
        except Misfit as error:
            raise Misfit(f"parameter {self.name!r}: {error}") from None
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            raise Misfit(f"parameter {self.name!r} is not JSON: {plain(error)}") from None


class ArgumentParser:
    """
    Parser of the arguments of one query's calls.

    @ivar kinds: of its parameters, in order.
    """

    def __init__(self, params: Mapping[str, Param], types: Sequence[SqlType]) -> None:
        """
        @param types: of the parameters, in order.
        @raise Misfit: a default does not fit its type.
        """
        self.kinds = [kind_of(sql_type) for sql_type in types]
        self._names = list(params)
        self._places = [
            _Parameter(name, param, kind)
            for (name, param), kind in zip(params.items(), self.kinds, strict=True)
        ]

    def parse(self, arguments: bytes) -> list[str]:
        """
        Return an array element for each parameter.

        @raise Misfit: what is wrong, for the peer.
        """
        places = self._places
        tokens: Sequence[Raw | None]
        start = arguments[:1]
        if start in (b" ", b"\t", b"\r", b"\n"):
            arguments = arguments.lstrip(_BLANK)
            start = arguments[:1]
        try:
            if start == b"{":
                table = _decode_object(arguments)
                tokens = [table.get(place.name) for place in places]
                if len(table) + tokens.count(None) != len(places):
                    raise self._surplus(table)
            elif start == b"[":
                given = _decode_array(arguments)
                if len(given) > len(places):
                    raise self._too_many(len(given))
                tokens = [*given, *[None] * (len(places) - len(given))]
            elif not start:
                tokens = [None] * len(places)
            else:
                raise Misfit(
                    f"{excerpt(arguments.decode('utf-8', 'replace'))} is neither a JSON object nor"
                    " an array"
                )
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Misfit(f"the arguments are not JSON: {plain(error)}") from None
        return [place.element(token) for place, token in zip(places, tokens, strict=True)]

    def _surplus(self, table: Mapping[str, object]) -> Misfit:
        unknown = next(name for name in table if name not in self._names)
        if not self._names:
            return Misfit(f"no parameter {excerpt(unknown)}; this query takes none")
        hint = meant(unknown, self._names) or f"; there are {', '.join(self._names)}"
        return Misfit(f"no parameter {excerpt(unknown)}{hint}")

    def _too_many(self, count: int) -> Misfit:
        takes = f"{len(self._names)} ({', '.join(self._names)})" if self._names else "none"
        arguments = "1 argument" if count == 1 else f"{count} arguments"
        return Misfit(f"{arguments}, but the query takes {takes}")
