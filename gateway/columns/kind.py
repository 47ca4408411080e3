"""
Kinds: how one SQL type takes the values that messages bring.

A kind judges a whole column at once: the values are joined and one pattern, run at
C speed, says that all of them fit; where they fit as they are, the joined text is the
array literal already. Only a column that fails is looked at value by value, to name
the ones at fault or to write them as PostgreSQL wants them.

So a pattern is always narrower than what the type takes, and L{Kind.element} decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.columns.literal import quoted

MAX_SHOWN: Final = 40
"""Characters of a value that an error shows."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Misfit(ValueError):
    """
    A value does not fit; the text says why, and of which column it is is known elsewhere.
    """


def shown(value: str) -> str:
    """
    A value for people: quoted, without control characters, cut where it is long.
    """
    text = _CONTROL.sub("?", value[: MAX_SHOWN + 1])
    return f"'{text[:MAX_SHOWN]}...'" if len(text) > MAX_SHOWN else f"'{text}'"


def misfit(value: str, why: str) -> Misfit:
    return Misfit(f"{shown(value)} {why}")


@dataclass(frozen=True, slots=True)
class SqlType:
    """
    The type of a live column.

    @ivar name: as SQL writes it, without length or precision: an explicit cast to
        C{varchar(3)} would cut a value silently, where assigning it is an error.
    @ivar base: the type's own name; of a domain, that of the type it is based on.
    @ivar length: characters that a C{varchar(n)} or C{char(n)} holds, 0 for any number.
    @ivar element: for an array, the type of its elements.
    @ivar not_null: whether the column refuses NULL.
    @ivar declared: with length and precision, where it was told.
    """

    name: str
    base: str
    length: int = 0
    element: SqlType | None = None
    not_null: bool = False
    declared: str = ""

    def __post_init__(self) -> None:
        # As format_type() has it, without a length; but a cast to character cuts to one.
        if self.base == "bpchar" and self.name == "character":
            object.__setattr__(self, "name", "bpchar")
        if self.element is not None and self.name == "character[]":
            object.__setattr__(self, "name", "bpchar[]")
        if not self.declared:
            object.__setattr__(self, "declared", self.name)


class Kind:
    """
    Any type that PostgreSQL itself reads from text, and judges alone.

    @ivar parameter: the type of the array that values travel in.
    @ivar cast: whether an element of that array must be cast to the column's type.
    @ivar json: what JSON scalars may be taken over as they are, each followed by a comma.
    @ivar text: the same for values of text formats.
    """

    parameter = "text[]"
    cast = True
    json: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None

    def __init__(self, sql_type: SqlType) -> None:
        self.sql_type = sql_type

    def element(self, value: str) -> str:
        """
        One value as an element of the array literal.

        @raise Misfit: it does not fit.
        """
        if "\0" in value:
            raise misfit(value, "holds the character NUL (byte 0), which text cannot")
        return quoted(value)

    def composite(self, token: str) -> str:
        """
        As L{element}, for a JSON object or array.

        @raise Misfit: the type has none.
        """
        raise misfit(token, f"is {composite_name(token)}, not {self.sql_type.name}")


def composite_name(token: str) -> str:
    return "an object" if token.startswith("{") else "an array"


def column_pattern(value: str) -> re.Pattern[str]:
    """
    Matches any number of values, each followed by a comma.

    @param value: a regular expression that cannot match the same text in two ways, so
        that no input makes it slow.
    """
    return re.compile(f"(?:(?:{value}),)*+")
