"""
Patterns for names, in which C{*} stands for anything, or for nothing.

Matching takes a time that grows with the name and the pattern and no more, whatever a
peer makes up: each part is looked for once, from the left, which finds a match where
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
    @ivar parts: what stands before, between and after the asterisks.
    """

    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Pattern:
        return cls(tuple(text.split("*")))

    @classmethod
    def personal(cls, text: str, identity: str | None) -> Pattern | None:
        """
        @param identity: put in for L{IDENTITY}, and taken to the letter.
        @return: C{None} where the text wants one and there is none.
        """
        if IDENTITY not in text:
            return cls.of(text)
        if identity is None:
            return None
        return cls(tuple(part.replace(IDENTITY, identity) for part in text.split("*")))

    def matches(self, name: str) -> bool:
        """
        Whether this is such a name.
        """
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
