"""
SQL of the user's own that only inserts a row of its parameters, and may run for many at once.

Such a statement run for each message in turn, and an INSERT of all their rows in the same order,
store the same, as long as nothing looks at the table in between: see
L{gateway.postgres.schema.custom_sql}. Strategy: the text is taken only where every token of it is
understood; all else is run for each message. A constant that is read when the statement is
prepared, and would be another one later (C{'now'}), is not taken either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from gateway.sql.statement import is_of_its_time

_TOKEN: Final = re.compile(
    r"""
    (?P<blank>\s+) | (?P<parameter>%\([^()]*\)s) | (?P<text>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")+" | [^\W\d]\w*) | (?P<number>\d+(?:\.\d+)?\b) | (?P<cast>::) | .
    """,
    re.S | re.X,
)

_WORDS: Final = {"INSERT": "I", "INTO": "O", "VALUES": "V", "TRUE": "L", "FALSE": "L", "NULL": "L"}

_VALUE: Final = "(?:P|T|-?N|L)(?:Cw)*"
_SHAPE: Final = re.compile(
    rf"(?P<head>IO(?P<table>w(?:\.w)?)(?:\(w(?:,w)*\))?)V\((?P<values>{_VALUE}(?:,{_VALUE})*)\);?"
)
"""The whole of a statement with a letter for each token."""


class PlainInsert(NamedTuple):
    """
    Parts of the text of a statement.

    @ivar head: C{INSERT INTO}, the table, and maybe its columns.
    @ivar table: as it is written.
    @ivar values: what is between the parentheses of C{VALUES}.
    @ivar casts: types that values are cast to, as they are written.
    """

    head: str
    table: str
    values: str
    casts: Sequence[str]


def plain_insert(sql: str) -> PlainInsert | None:
    """
    Take a statement apart; C{None} where it is anything else than an INSERT of one row of
    parameters and constants, with or without casts.
    """
    tokens = [token for token in _TOKEN.finditer(sql) if not token["blank"]]
    shape = _SHAPE.fullmatch("".join(map(_letter, tokens)))
    if shape is None or any(token["text"] and is_of_its_time(token[0]) for token in tokens):
        return None

    def text(part: str) -> str:
        first, last = tokens[shape.start(part)], tokens[shape.end(part) - 1]
        return sql[first.start() : last.end()]

    casts = [after[0] for token, after in pairwise(tokens) if token["cast"]]
    return PlainInsert(text("head"), text("table"), text("values"), casts)


def _letter(token: re.Match[str]) -> str:
    if token["name"]:
        return _WORDS.get(token[0].upper(), "w")
    for kind, letter in (("parameter", "P"), ("text", "T"), ("number", "N"), ("cast", "C")):
        if token[kind]:
            return letter
    return token[0] if token[0] in "(),.;-" else "?"
