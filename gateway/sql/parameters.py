"""
Named parameters in SQL of the user's own, and what its text alone tells of a statement.

The parameters are as psycopg2 has them. The text is never formatted with values: each parameter
becomes a place, C{$1} or an expression, before PostgreSQL sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

_PERCENT: Final = re.compile(r"%(?:\((?P<name>[^()]*)\)s|%)?")

# PostgreSQL documentation, section 4.1: strings, names in quotes, dollar quotes, comments.
_CLOSED_LITERAL: Final = r"""
    [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
  | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
"""
_COMMENT: Final = r"--[^\n]* | /\*.*?\*/"
_SQL_TOKEN: Final = re.compile(
    rf"(?P<closed>{_CLOSED_LITERAL}) | (?P<comment>{_COMMENT}) | (?P<word>\w+) | .", re.S | re.X
)

_NUMBERED_PLACE: Final = re.compile(r"(?<![\w$])\$[0-9]{1,9}")
"""Parameter as PREPARE and drivers of other languages write it; no identifier begins so."""

_NAMED: Final = re.compile(r"(?<![\w:\])\[]):(?P<name>[^\W\d]\w*)")
"""Not a cast (C{::}), nor the end of a slice (C{a[1:n]})."""

# A parameter of ODBC and JDBC, told from an operator of jsonb: nothing stands on one of its sides.
_UNNAMED: Final = re.compile(
    r"""
    (?<![?|&@\-\#~]) \? (?![?|&\-\#])
    (?: (?=\s*(?:[,;)\]:]|$))
      | (?<=[(,=<>+*/%\[]\?) | (?<=[(,=<>+*/%\[]\s\?)
      | (?<=\bselect\s\?) | (?<=\bwhere\s\?) | (?<=\band\s\?) | (?<=\bor\s\?) | (?<=\bnot\s\?)
      | (?<=\blimit\s\?) | (?<=\boffset\s\?) | (?<=\blike\s\?) | (?<=\bbetween\s\?)
    )
    """,
    re.X | re.I,
)

_PREPARABLE_VERBS: Final = (
    "SELECT",
    "VALUES",
    "TABLE",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "CALL",
)
_READING: Final = ("SELECT", "VALUES", "TABLE")


def parameters(sql: str, known: Sequence[str] = ()) -> list[str]:
    """
    Return the names of a statement's parameters, in the order in which they first appear.

    @param known: names configured beside the statement, for error texts.
    @raise ValueError: a C{%} is neither of C{%(name)s} nor of C{%%}; a parameter stands where
        none can be, or is numbered; there is more than one statement.
    """
    names: dict[str, None] = {}
    for match in _PERCENT.finditer(sql):
        if match["name"]:
            names[match["name"]] = None
        elif match[0] != "%%":
            near = sql[match.start() : match.start() + 10]
            raise ValueError(f"{near!r}: a parameter is %(name)s, and any other % is %%")
    numbered = _NUMBERED_PLACE.search(_without_literals(sql))
    if numbered is not None:
        # PostgreSQL would take it for one of the places that our parameters become.
        place = int(numbered[0][1:]) - 1
        name = known[place] if 0 <= place < len(known) else "name"
        raise ValueError(_wrong_place(name, numbered[0]))
    ended = False
    for token in _SQL_TOKEN.finditer(sql):
        text = token[0]
        if token["closed"] or token["comment"]:
            for match in _PERCENT.finditer(text):
                if match["name"]:
                    raise ValueError(
                        f"{match[0]} stands inside quotes or a comment; parameters are"
                        " written without quotes"
                    )
        if ended and not token["comment"] and not text.isspace():
            raise ValueError("has more than one statement; put them into a function")
        ended = ended or text == ";"
    return list(names)


def foreign_parameter(sql: str) -> str:
    """
    Return a hint where a parameter is written as elsewhere, C{?} or C{:name}; C{""}: none is.

    Both are right in other places (operators of jsonb, casts, slices): this is for a statement
    that is refused, or that should have a parameter and has none.
    """
    text = _without_literals(sql)
    named = _NAMED.search(text)
    if named is not None:
        return _wrong_place(named["name"], named[0])
    return _wrong_place("name", "?") if _UNNAMED.search(text) else ""


def _wrong_place(name: str, instead: str) -> str:
    return f"parameters are written %({name})s here, not {instead}"


def _without_literals(sql: str) -> str:
    """Return the statement without the content of quotes and comments."""

    def replaced(token: re.Match[str]) -> str:
        if token["closed"]:
            return "''"
        return " " if token["comment"] else token[0]

    return _SQL_TOKEN.sub(replaced, sql)


def with_places(sql: str, place: Callable[[str], str]) -> str:
    """
    Replace the parameters of a statement, and remove a semicolon at its end.

    @param sql: one that L{parameters} accepts.
    @param place: a parameter's name -> its replacement.
    """
    for token in _SQL_TOKEN.finditer(sql):
        if token[0] == ";":
            sql = sql[: token.start()]
            break
    return _PERCENT.sub(lambda match: place(match["name"]) if match["name"] else "%", sql).strip()


def called(sql: str) -> list[str]:
    """
    Return the names before an opening parenthesis, as PostgreSQL folds them.

    They are those of functions, and some words of SQL.
    """
    called_names: dict[str, None] = {}
    name = ""
    for token in _SQL_TOKEN.finditer(sql):
        text = token[0]
        if token["word"]:
            name = text.lower()
        elif token["closed"] and text.startswith('"'):
            name = text[1:-1].replace('""', '"')
        elif text == "(" and name:
            called_names[name] = None
            name = ""
        elif not text.isspace() and not token["comment"]:
            name = ""
    return list(called_names)


def first_word(sql: str) -> str:
    """Return the first word of a statement, in capitals; C{""} where there is none."""
    words = (token[0] for token in _SQL_TOKEN.finditer(sql) if token["word"])
    return next(words, "").upper()


def halves(sql: str) -> tuple[str, str]:
    """
    Split a statement into its WITH queries, that word included, and the statement behind them.

    The first half is C{""} where there is no WITH.
    """
    if first_word(sql) != "WITH":
        return "", sql
    depth = 0
    for token in _SQL_TOKEN.finditer(sql):
        text = token[0]
        depth += (text == "(") - (text == ")")
        if token["word"] and not depth and text.upper() in _PREPARABLE_VERBS:
            return sql[: token.start()], sql[token.start() :]
    return "", sql


def gives_rows(sql: str) -> bool:
    """
    Say whether a statement has a result: it reads, or has RETURNING.

    Text in parentheses, such as the queries of WITH, does not count.
    """
    depth = 0
    verb = ""
    for token in _SQL_TOKEN.finditer(sql):
        text = token[0]
        depth += (text == "(") - (text == ")")
        word = text.upper() if token["word"] and not depth else ""
        if not verb and word in _PREPARABLE_VERBS:
            verb = word
        elif word == "RETURNING":
            return True
    return verb in _READING
