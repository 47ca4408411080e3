"""
The ports: what the lanes need of whatever keeps the messages.

L{gateway.postgres.store.PostgresStore} is the real L{Store} and
L{gateway.memory.MemoryStore} the fake; both pass C{tests/test_store.py}. The
L{Detour} is L{gateway.spool.detour.SpoolDetour}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.batch import Batch, Fence
from gateway.reply import Outcome, Run


class Written(NamedTuple):
    """
    What became of a batch whose fence is moved.

    @ivar runs: what became of its rows, in order. Refused ones are among them where the
        others could be stored without them.
    @ivar before: whether it was an earlier call that moved the fence.
    """

    runs: Sequence[Run]
    before: bool


class Claim(NamedTuple):
    """
    A stream that is its caller's from now on.

    @ivar number: of the claim, one more than that of the one before.
    @ivar marks: route -> highest number stored through it.
    @ivar refusals: what was told to messages that were refused.
    """

    number: int
    marks: Mapping[str, int]
    refusals: Mapping[int, Outcome]

    @property
    def last(self) -> int:
        """The last number that is settled."""
        return max(self.marks.values(), default=0)


class Store(Protocol):
    """
    Keeps batches, each at most once.
    """

    async def write(self, batch: Batch, fence: Fence) -> Written:
        """
        Bring all rows of the batch to their end and move the fence, or do neither.

        Rows that the database refuses cost their neighbours nothing; but several batches
        stored as one are stored whole. A fence is moved by its first committed batch.
        Writing again with the same fence stores nothing and tells what the first write
        did: that is how an unknown outcome is resolved. Streams that have messages in the
        batch move with it.

        @raise gateway.faults.FramesRefused: some rows can never be stored; nothing is.
        @raise gateway.errors.Unavailable: never sent, so not stored.
        @raise gateway.errors.OutcomeUnknown: lost in flight; write again.
        @raise gateway.errors.StoredPartly: the first batches of the fence's range
            are stored, the others are not.
        @raise gateway.errors.TransientError: not stored by this call; write again.
        @raise gateway.errors.RowError: some row is at fault, and nobody can say which, or it is
            of several batches; nothing is stored.
        @raise gateway.errors.RouteError: not stored, the operator must act.
        """

    async def write_together(self, batches: Sequence[Batch], fences: Sequence[Fence]) -> bool:
        """
        Store batches of several routes and move their fences, or do neither.

        For what is expected to go well: whoever hears of an error writes the batches one
        by one, after the fate of an unknown outcome is settled by L{claim}.

        @return: C{False} where they cannot be stored together; nothing was tried.
        @raise gateway.faults.BatchesRefused: some rows can never be stored; nothing is.
        @raise gateway.errors.StoreError: as for L{write}; whatever row is at fault.
        """

    async def claim(self, fence: Fence) -> bool:
        """
        Settle the fate of L{write_together}: afterwards it has happened, or never will.

        This takes the number after the fence's.

        @param fence: the first one.

        @return: whether it has happened.
        @raise gateway.errors.StoreError: it is not settled yet; ask again.
        """

    async def bury(self, batch: Batch, outcomes: Sequence[Outcome], fence: Fence) -> Written:
        """
        Keep refused messages as dead letters and move the fence, or do neither.

        @param outcomes: why each row was refused.
        @raise gateway.errors.StoreError: as for L{write}.
        """

    async def recall(self, batch: Batch, fence: Fence) -> Written | None:
        """
        What an earlier L{write} or L{bury} of this batch with this fence did.

        For messages that cannot be read as they could when the first try was lost: the
        table's types may have changed since.

        @return: C{None} where the fence is not moved, nor ever will be by that try.
        @raise gateway.errors.StoredPartly: as for L{write}.
        @raise gateway.errors.StoreError: that cannot be said now.
        """

    async def claim_stream(self, name: str) -> Claim:
        """
        Make a stream this gateway's; what others still want to store for it is refused.

        @raise gateway.errors.StoreError: that cannot be done now.
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
