"""
Kinds: the conversion of message values to one SQL type.

A kind checks a whole column at once: the values are joined and one pattern, run at
C speed, matches all of them; where they fit as they are, the joined text is the
array literal already. Only a column that fails is checked value by value, to name
the ones at fault or to write them as PostgreSQL wants them.

So a pattern is always narrower than what the type takes, and L{Kind.element} decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.columns.literal import quoted_element

MAX_EXCERPT: Final = 40
"""Characters of a value that an error shows."""

BLANKS: Final = " \t\n\v\f\r"
"""What PostgreSQL leaves out around a number or a truth value."""

_NOT_SHOWABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Misfit(ValueError):
    """
    A value does not fit its type; the text says why, and the caller adds the column.
    """


def excerpt(value: str) -> str:
    """Return a value for error texts: quoted, without control characters, cut where it is long."""
    text = _NOT_SHOWABLE.sub("?", value[: MAX_EXCERPT + 1])
    return f"'{text[:MAX_EXCERPT]}...'" if len(text) > MAX_EXCERPT else f"'{text}'"


def misfit(value: str, why: str) -> Misfit:
    return Misfit(f"{excerpt(value)} {why}")


@dataclass(frozen=True, slots=True)
class SqlType:
    """
    Type of an existing column or parameter.

    @ivar name: the base type as SQL writes it, of a domain the type at its end; without
        length or precision, which come with the assignment: an explicit cast to
        C{varchar(3)} cuts what an assignment refuses.
    @ivar base: the type's own name; of a domain, that of the type it is based on.
    @ivar length: characters that a C{varchar(n)} or C{char(n)} holds, 0 for any number.
    @ivar element: for an array, the type of its elements.
    @ivar not_null: whether the column refuses NULL.
    @ivar declared: with length and precision; the name of a domain.
    @ivar delimiter: between elements of an array of this type.
    @ivar reader: SQL before and behind a text that makes it a value; a cast where it is not given.
    @ivar fit: SQL before and behind a value that gives it its length or precision as an
        assignment does.
    @ivar cuts: whether only an assignment does that: a cast would cut or pad.
    """

    name: str
    base: str
    length: int = 0
    element: SqlType | None = None
    not_null: bool = False
    declared: str = ""
    delimiter: str = ","
    reader: tuple[str, str] = ("", "")
    fit: tuple[str, str] = ("", "")
    cuts: bool = False

    def __post_init__(self) -> None:
        if not self.declared:
            object.__setattr__(self, "declared", self.name)
        if not any(self.reader):
            object.__setattr__(self, "reader", ("", f"::{self.name}"))

    def sql_from_text(self, text: str, write: Callable[[str], str] = str) -> str:
        """
        Return SQL that converts a text to a value of the base type.

        @param text: SQL of a text.
        @param write: how names are written into the SQL.
        """
        before, after = self.reader
        return f"{write(before)}{text}{write(after)}"

    def fitted(self, value: str, write: Callable[[str], str] = str) -> str:
        """
        Return SQL that gives a value its length or precision as an assignment does, unless L{cuts}.

        @param value: SQL of a value of the base type.
        """
        before, after = self.fit
        return f"{write(before)}{value}{write(after)}::{write(self.declared)}"


class Kind:
    """
    Kind of any type whose values PostgreSQL itself reads from text and checks.

    @ivar parameter: the type of the array that values travel in.
    @ivar cast: whether an element of that array must be cast to the column's type.
    @ivar json: matches JSON scalars that can be taken over as they are, each followed by a comma.
    @ivar text: function for values of text formats, as the one for JSON.
    @ivar takes_offsets: whether L{at_offset} does anything.
    """

    parameter = "text[]"
    cast = True
    json: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None
    takes_offsets = False

    def __init__(self, sql_type: SqlType) -> None:
        self.sql_type = sql_type

    def element(self, value: str) -> str:
        """
        Return one value as an element of the array literal.

        @raise Misfit: it does not fit.
        """
        if "\0" in value:
            raise misfit(value, "holds the character NUL (byte 0), which text cannot")
        return quoted_element(value)

    def at_offset(self, value: str, offset: str) -> str:
        """
        Return a value of a text format with an offset from UTC, if it is a time that names none.

        @param offset: such as C{+0100}.
        """
        return value

    def composite(self, token: str) -> str:
        """
        Return a JSON object or array as an element of the array literal.

        @raise Misfit: the type has none.
        """
        raise misfit(token, f"is {composite_name(token)}, not {self.sql_type.declared}")


def composite_name(token: str) -> str:
    return "an object" if token.startswith("{") else "an array"


def column_pattern(value: str) -> re.Pattern[str]:
    """
    Compile a pattern for any number of values, each followed by a comma.

    @param value: a regular expression that cannot match the same text in two ways, so
        that no input makes it slow.
    """
    return re.compile(f"(?:(?:{value}),)*+")
