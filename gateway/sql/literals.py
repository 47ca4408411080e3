"""
SQL literals that mean the same in every session.

A backslash in C{'...'} is itself or an escape, as C{standard_conforming_strings} says. The
driver reads that setting when it connects; a role, a database or a pooler may have a session with
the other setting, in which a text could then end its own quotes. In C{E'...'} a backslash is
always an escape, and doubled it is always itself (PostgreSQL documentation, section 4.1.2.2
"String Constants with C-Style Escapes"). C{client_encoding} is always UTF8, in which no
character holds the byte of a backslash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Values = Sequence[Any] | Mapping[str, Any] | None
"""Parameters of a statement: C{%s} in order, C{%(name)s} by name, none."""


def filled(sql: str, values: Values) -> str:
    """
    Fill in the parameters of a statement as literals; C{%%} is a percent sign.

    @param sql: a statement; where C{values} is C{None} it has no parameters, and stays as it is.
    @raise ValueError: a text holds a NUL, which no text of PostgreSQL's can.
    """
    if values is None:
        return sql
    if isinstance(values, Mapping):
        return sql % {name: literal(value) for name, value in values.items()}
    # Most are texts, and one call for each will do.
    return sql % tuple(
        [quoted_literal(value) if type(value) is str else literal(value) for value in values]
    )


def literal(value: object) -> str:
    """
    Write a value as a literal.

    @param value: C{None}, a C{bool}, C{int}, C{float}, C{str}, C{bytes}, or a list of these,
        which becomes an array.
    @raise TypeError: it is none of these.
    """
    match value:
        case str():
            return quoted_literal(value)
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            # A minus sign behind another one would begin a comment.
            return str(value) if value >= 0 else f" {value}"
        case float():
            return repr(value) if math.isfinite(value) and value >= 0 else f"'{value}'::float8"
        case bytes() | bytearray() | memoryview():
            return f"E'\\\\x{value.hex()}'::bytea"
        case list() | tuple():
            return f"ARRAY[{','.join(map(literal, value))}]" if value else "'{}'"
    raise TypeError(f"no literal for {type(value).__name__}")


def quoted_literal(text: str) -> str:
    """
    Write a text as a literal.

    @raise ValueError: it holds a NUL.
    """
    if "\0" in text:
        raise ValueError("a text of PostgreSQL's cannot hold a NUL")
    text = text.replace("'", "''")
    if "\\" in text:
        text = text.replace("\\", "\\\\")
        return f" E'{text}'"
    return f"'{text}'"
