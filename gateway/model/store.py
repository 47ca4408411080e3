"""
The ports: what the lanes need of whatever keeps the messages.

L{gateway.postgres.store.store.PostgresStore} is the real L{Store} and
L{gateway.commit.memory_store.MemoryStore} the fake; both pass
C{tests/postgres/store/test_store.py}. The L{Spooler} is L{gateway.spool.outage_spool.OutageSpool}.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.model.batch import Batch, Fence
from gateway.model.outcome import Outcome, Run


class Written(NamedTuple):
    """
    Outcomes of a batch whose fence is moved.

    @ivar runs: what became of its rows, in order. Refused ones are among them where the
        others could be stored without them.
    @ivar before: whether it was an earlier call that moved the fence.
    """

    runs: Sequence[Run]
    before: bool


class Claim(NamedTuple):
    """
    A stream that is its caller's from now on.

    @ivar claim: a word made up for it.
    @ivar epoch: that the stream is in.
    @ivar mark: the number up to which everything is settled in the database.
    @ivar refusals: what was told to messages that were refused.
    """

    claim: str
    epoch: str
    mark: int
    refusals: Mapping[int, Outcome]


class Seen(NamedTuple):
    """
    Position of a stream, as its peer knows it.

    @ivar number: the highest one that it had an answer for.
    @ivar epoch: that it was told; C{""} where it does not say.
    """

    number: int
    epoch: str


Spooled = Mapping[str, Sequence[tuple[int, int]]]
"""Numbers of a stream that wait in the gateway's spool: epoch -> (first, last), ascending."""


def reached(mark: int, waiting: Sequence[tuple[int, int]]) -> int:
    """
    @param waiting: numbers in a spool, of the epoch that the stream is in.
    @return: how far the stream is, with what goes on exactly from its mark.
    """
    for first, last in waiting:
        if first <= mark + 1:
            mark = max(mark, last)
    return mark


class Waiting(NamedTuple):
    """
    Numbers of a stream that a spool holds.

    @ivar numbers: those that wait.
    @ivar refusals: epoch -> what was told to those of them that are refused.
    @ivar last: the epoch and the number of what was put there last.
    """

    numbers: Spooled
    refusals: Mapping[str, Mapping[int, Outcome]]
    last: tuple[str, int]


class Backlog(Protocol):
    """
    Numbers of streams that a spool holds.
    """

    def of(self, stream: str) -> Waiting | None:
        """
        @return: C{None} where it holds nothing of the stream.
        """


class Store(Protocol):
    """
    Keeps batches, each at most once.
    """

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        """
        Bring all rows of the batch to their end and move the fence, or do neither.

        Rows that fail while others of their route pass are refused, whatever the reason, and
        cost their neighbours nothing; but several batches stored as one are stored whole. A
        fence is moved by its first committed batch. Writing again with the same fence stores
        nothing and tells what the first write did: that is how an unknown outcome is
        resolved. Streams that have messages in the
        batch move with it, from just before these to the last of them; the batch's refusals
        are remembered, and its dead letters kept. There may be no row to be stored at all.

        @param patient: whether to wait for as long as the database takes, though not for locks.
        @param blame: whether rows are refused for what mostly passes by itself, too: it has
            been tried again often enough.
        @raise gateway.model.errors.FramesRefused: some rows can never be stored; nothing is.
        @raise gateway.model.errors.StreamsElsewhere: streams are not just before the batch's
            messages; nothing is stored, nor ever will be by this call.
        @raise gateway.model.errors.Unavailable: never sent, so not stored.
        @raise gateway.model.errors.OutcomeUnknown: lost in flight; write again.
        @raise gateway.model.errors.StoredPartly: the first batches of the fence's range
            are stored, the others are not.
        @raise gateway.model.errors.FenceVoid: L{resolve} has taken the fence; not stored.
        @raise gateway.model.errors.TransientError: not stored by this call; write again.
        @raise gateway.model.errors.RowError: some row is at fault, and nobody can say which, or it
            is of several batches; nothing is stored.
        @raise gateway.model.errors.RouteError: not stored, the operator must act.
        """

    async def write_together(
        self, batches: Sequence[Batch], fences: Sequence[Fence], *, afresh: bool = False
    ) -> bool:
        """
        Store batches of several routes and move their fences, or do neither.

        For what is expected to go well: whoever hears of an error writes the batches one
        by one, after the fate of an unknown outcome is settled by L{resolve}.

        @param afresh: whether nobody has tried it with exactly these; else, where the first
            fence was moved, all of them are stored.
        @return: C{False} where they cannot be stored together; nothing is stored.
        @raise gateway.model.errors.BatchesRefused: some rows can never be stored; nothing is.
        @raise gateway.model.errors.StoreError: as for L{write}; whatever row is at fault.
        """

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        """
        Settle the fate of an earlier L{write} or L{write_together}: afterwards it has
        happened, or never will, whatever a server that stood still may come to.

        @param fence: of several, the first one.
        @return: what it did; C{None} where it did nothing: the fence is void from now on.
        @raise gateway.model.errors.StoredPartly: as for L{write}.
        @raise gateway.model.errors.StoreError: it is not settled yet; ask again.
        """

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        """
        Make a stream this gateway's; what others still want to store for it is refused.

        @param seen: what its peer knows; C{None}: nothing, so that a new epoch begins, unless
            all of C{spooled} goes on from the mark.
        @raise gateway.model.errors.StreamBehind: the stream has not come so far in that epoch;
            nothing is changed.
        @raise gateway.model.errors.StoreError: that cannot be done now.
        """

    async def probe(self, route: str) -> None:
        """
        Look whether a route is fit to take messages again.

        @raise gateway.model.errors.StoreError: why it is not.
        """

    async def try_out(self, batch: Batch) -> bool:
        """
        @return: whether some of its messages can be stored now; none is. If so, those that
            L{write} could not store, and nobody could say why, are at fault themselves.
        @raise gateway.model.errors.StoreError: nobody can say.
        """

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """
        Forget lanes that will never be used again.

        @precondition: nothing is in flight on them.
        @raise gateway.model.errors.StoreError: they are not forgotten.
        """


class Spooler(Protocol):
    """
    Port of the spool: keeps batches durably while the store cannot be reached, stores them later,
    in order.
    """

    def leads(self, batch: Batch) -> bool:
        """
        Whether a batch must go this way now: behind what went before of its route, or of
        its streams.
        """

    def waiting(self, batch: Batch) -> Collection[str]:
        """
        @return: streams of the batch that must go this way, while others need not.
        """

    async def take(self, batch: Batch, fence: Fence | None, reason: str) -> bool:
        """
        Keep a batch durably.

        @param fence: what it may have been stored with; C{None}: certainly not stored.
        @param reason: why the store cannot have it, for the log.
        @return: C{False} where the straight way is free again; nothing was kept.
        @raise gateway.model.errors.SpoolUnknown: it may have been kept, its disk failed.
        @raise gateway.model.errors.SpoolError: no room; nothing was kept.
        """
