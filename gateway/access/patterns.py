"""
Patterns for names, in which C{*} stands for any text, the empty one too.

Matching takes a time that grows with the name and the pattern and no more, whatever a
peer sends: each part is searched once, from the left, which finds a match where
there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IDENTITY: Final = "{identity}"
"""Stands for the identity of whoever is asking."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """
    A pattern of names.

    @ivar parts: the texts before, between and after the asterisks.
    """

    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Pattern:
        return cls(tuple(text.split("*")))

    @classmethod
    def personal(cls, text: str, identity: str | None) -> Pattern | None:
        """
        Make a pattern in which L{IDENTITY} is replaced by an identity, taken literally.

        @return: C{None} where the text has L{IDENTITY} and there is no identity.
        """
        if IDENTITY not in text:
            return cls.of(text)
        if identity is None:
            return None
        return cls(tuple(part.replace(IDENTITY, identity) for part in text.split("*")))

    def matches(self, name: str) -> bool:
        """Say whether a name matches."""
        first, *rest = self.parts
        if not rest:
            return name == first
        *between, last = rest
        place, end = len(first), len(name) - len(last)
        if place > end or not name.startswith(first) or not name.endswith(last):
            return False
        for part in between:
            place = name.find(part, place, end)
            if place < 0:
                return False
            place += len(part)
        return True
