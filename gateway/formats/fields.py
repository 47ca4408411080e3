"""
Fields: the values that a structured format reads from messages, column by column.

Strategy: a format never makes an object that holds one message; it gives, for each
field that some column wants, the values of all messages in order. A message at fault
keeps its place, as one without any field, so that an index is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from gateway.model.errors import Faults


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    Values of one field as JSON tokens, C{null} where a message has none.
    """

    values: Sequence[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Texts:
    """
    Values of one field as text, C{None} where a message has none.

    @ivar offsets: gives for each message the offset from UTC, such as C{+0100}, of times that name
        none, or C{""}; C{None}: messages name none.
    """

    values: Sequence[str | None]
    offsets: Callable[[], Sequence[str]] | None = None


_NULL: Final = msgspec.Raw(b"null")


def without_rows(tokens: Tokens, rows: Iterable[int]) -> Tokens:
    """
    Return values of which those of some messages are left out.
    """
    values = list(tokens.values)
    for row in rows:
        values[row] = _NULL
    return Tokens(values)


Cells = Tokens | Texts
"""One field of many messages."""


@dataclass(slots=True)
class Fields:
    """
    Fields of many messages.

    @ivar cells: field -> its values, one for each message.
    @ivar faults: messages that are not of the format.
    """

    cells: Mapping[str, Cells]
    faults: Faults = field(default_factory=list)


class Format(Protocol):
    """
    Format: reads fields from the frames of a route.
    """

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        """
        Read the fields of one or more frames.
        """


class WholeFormat:
    """
    Format of messages without fields, whose frames are joined by L{gateway.sql.joined}.
    """

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        """Return no fields."""
        return Fields({})


def nested(fields: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """
    Return a message that has these fields, each a path and its value.
    """
    message: dict[str, Any] = {}
    for path, value in fields:
        *parents, name = path.split(".")
        place = message
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                inner = place[parent] = {}
            place = inner
        place.setdefault(name, value)
    return message
