"""
The Store port: what the writer needs of whatever keeps the messages.

L{gateway.postgres.store.PostgresStore} is the real one and
L{gateway.memory.MemoryStore} the fake; both pass C{tests/test_store.py}.
"""

from __future__ import annotations

from typing import Protocol

from gateway.batch import Batch, Fence


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
        @raise gateway.formats.FramesRefused: some rows can never be stored.
        @raise gateway.errors.Unavailable: never sent, so not stored.
        @raise gateway.errors.OutcomeUnknown: lost in flight; write again.
        @raise gateway.errors.TransientError: not stored by this call; write again.
        @raise gateway.errors.RowError: not stored, some row is at fault.
        @raise gateway.errors.RouteError: not stored, the operator must act.
        """
