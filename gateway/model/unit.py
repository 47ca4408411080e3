"""
Units: messages of one peer that are stored together or not at all.

For protocols that acknowledge many messages at once, over all their routes. A unit may have a key,
by which the same one is known when it is sent again, by whatever connection to whatever gateway:
what has that key is stored once. The key is the fence of what is stored, see
L{gateway.model.batch.Fence}: a UUID of version 8, which no lane has.

@see: U{https://www.rfc-editor.org/rfc/rfc9562#section-5.8}: UUIDs of a form of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final
from uuid import UUID

from gateway.model.grouping import GroupFates
from gateway.model.outcome import Run

_VERSION: Final = 8

OnUnitSettled = Callable[[list[Run]], None]
"""Called once, with the fates of a unit's messages in order."""


class Unit:
    """
    Unit of messages that were submitted together.

    @ivar key: UUID by which it is known when it is sent again; C{None}: it is not.
    @ivar dead_letters: routes whose refused messages are kept.
    """

    __slots__ = ("_fates", "_settled", "dead_letters", "key")

    def __init__(
        self,
        places: Sequence[Sequence[int]],
        settled: OnUnitSettled,
        key: str | None = None,
        dead_letters: frozenset[str] = frozenset(),
    ) -> None:
        """
        @param places: places in the unit of the messages of each of its chunks.
        @param key: as L{unit_key} makes it.
        """
        self.key = key
        self.dead_letters = dead_letters
        self._settled = settled
        self._fates = GroupFates(places)

    def settle(self, group: int, runs: Sequence[Run]) -> None:
        """
        Record the fates of one chunk's messages; each is settled once.

        @param group: number of the chunk in the unit, from 0.
        """
        fates = self._fates.settle(group, runs)
        if fates is not None:
            self._settled(fates)


class UnitPart:
    """
    Chunk of a unit.

    @ivar group: its number in the unit, from 0.
    """

    __slots__ = ("group", "unit")

    def __init__(self, unit: Unit, group: int) -> None:
        self.unit = unit
        self.group = group


def unit_key(*parts: bytes) -> str:
    """
    Return the key of a unit.

    @param parts: all by which it is known, such as its sender, its name and its content; how they
        are cut is part of it.
    """
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    number = int.from_bytes(digest.digest())
    number = number & ~(0xF << 76) | _VERSION << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=number))


def is_unit_key(lane: str) -> bool:
    """Say whether a fence's UUID is, or is made of, a unit's key."""
    return UUID(lane).version == _VERSION
