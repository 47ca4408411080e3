"""
Fields: what a structured format reads from messages, column by column.

Strategy: a format never makes an object that holds one message; it gives, for each
field that some column wants, the values of all messages in order. A message at fault
has a place in them all the same, as one without any field, so that places are rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from gateway.model.errors import Faults


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    Values as JSON writes them, C{null} for what is not there.
    """

    values: Sequence[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Texts:
    """
    Values as text, C{None} for what is not there.
    """

    values: Sequence[str | None]


Cells = Tokens | Texts
"""One field of many messages."""


@dataclass(slots=True)
class Fields:
    """
    Fields that were read.

    @ivar cells: field -> its values, one for each message.
    @ivar faults: messages that are not of the format.
    """

    cells: Mapping[str, Cells]
    faults: Faults = field(default_factory=list)


class Format(Protocol):
    """
    Format: turns the frames of a route into fields.
    """

    def read(self, frames: Sequence[bytes]) -> Fields:
        """
        @param frames: one or more.
        """
