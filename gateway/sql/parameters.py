"""
Named parameters in SQL of the user's: C{%(name)s}, as psycopg2 has them.

The text is never formatted with values: each parameter becomes a place, C{$1} or an
expression, before PostgreSQL sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_PERCENT: Final = re.compile(r"%(?:\((?P<name>[^()]*)\)s|%)?")


def parameters(sql: str) -> list[str]:
    """
    @return: their names, in the order in which they first appear.
    @raise ValueError: a C{%} is neither of C{%(name)s} nor of C{%%}.
    """
    names: dict[str, None] = {}
    for found in _PERCENT.finditer(sql):
        if found["name"]:
            names[found["name"]] = None
        elif found[0] != "%%":
            near = sql[found.start() : found.start() + 10]
            raise ValueError(f"{near!r}: a parameter is %(name)s, and any other % is %%")
    return list(names)


def with_places(sql: str, place: Callable[[str], str]) -> str:
    """
    @param sql: which L{parameters} has nothing against.
    @param place: a parameter's name -> what stands for it.
    @return: one statement, without a semicolon at its end.
    """
    text = _PERCENT.sub(lambda found: place(found["name"]) if found["name"] else "%", sql)
    return text.strip().rstrip(";").rstrip()
