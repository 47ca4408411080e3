"""
The ports: what the lanes need of whatever keeps the messages.

L{gateway.postgres.store.PostgresStore} is the real L{Store} and
L{gateway.memory.MemoryStore} the fake; both pass C{tests/test_store.py}. The
L{Detour} is L{gateway.spool.detour.SpoolDetour}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.batch import Batch, Fence
from gateway.reply import Outcome


class Store(Protocol):
    """
    Keeps batches, each at most once.
    """

    async def write(self, batch: Batch, fence: Fence) -> bool:
        """
        Store all rows of the batch durably and move the fence, or do neither.

        A fence is moved by its first committed batch. Writing again with the
        same fence stores nothing: that is how an unknown outcome is resolved.

        @return: C{True} where this call stored the batch, C{False} where a
            batch with this fence was stored before. Either way it is stored.
        @raise gateway.faults.FramesRefused: some rows can never be stored.
        @raise gateway.errors.Unavailable: never sent, so not stored.
        @raise gateway.errors.OutcomeUnknown: lost in flight; write again.
        @raise gateway.errors.StoredPartly: the first batches of the fence's range
            are stored, the others are not.
        @raise gateway.errors.TransientError: not stored by this call; write again.
        @raise gateway.errors.RowError: not stored, some row is at fault.
        @raise gateway.errors.RouteError: not stored, the operator must act.
        """

    async def bury(self, batch: Batch, outcomes: Sequence[Outcome], fence: Fence) -> bool:
        """
        Keep refused messages as dead letters and move the fence, or do neither.

        @param outcomes: why each row was refused.
        @return: as for L{write}.
        @raise gateway.errors.StoreError: as for L{write}, but never a C{RowError}.
        """

    async def is_stored(self, fence: Fence) -> bool:
        """
        Whether an earlier L{write} or L{bury} with this fence was committed, or will be.

        For refused rows whose first try was lost: what judged them now may stand before
        the fence, as a trigger for the whole statement does.

        @raise gateway.errors.StoredPartly: as for L{write}.
        @raise gateway.errors.StoreError: that cannot be said now.
        """

    async def probe(self, route: str) -> None:
        """
        Look whether a route is fit to take messages again.

        @raise gateway.errors.StoreError: why it is not.
        """

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """
        Forget lanes that will never be used again.

        @precondition: nothing is in flight on them.
        @raise gateway.errors.StoreError: they are not forgotten.
        """


class Detour(Protocol):
    """
    The way round a store that cannot be reached: kept durably now, stored later, in order.
    """

    def leads(self, route: str) -> bool:
        """
        Whether this route's batches must go this way now: behind what went before.
        """

    async def take(self, batch: Batch, fence: Fence | None, reason: str) -> bool:
        """
        Keep a batch durably.

        @param fence: what it may have been stored with; C{None}: certainly not stored.
        @param reason: why the store cannot have it, for the log.
        @return: C{False} where the straight way is free again; nothing was kept.
        @raise gateway.errors.SpoolUnknown: it may have been kept, its disk failed.
        @raise gateway.errors.SpoolError: no room; nothing was kept.
        """
