"""
Ports of the lanes: the store that keeps the messages, and the spool.

L{gateway.postgres.store.store.PostgresStore} is the real L{Store} and
L{gateway.commit.memory_store.MemoryStore} the fake; both pass
C{tests/postgres/store/test_store.py}. The L{Spooler} is L{gateway.spool.outage_spool.OutageSpool}.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.outcome import Outcome, Run


class Written(NamedTuple):
    """
    Outcomes of a batch whose fence has moved.

    @ivar runs: fates of its rows, in order. Refused ones are among them where the others could be
        stored without them.
    @ivar before: whether it was an earlier call that moved the fence.
    """

    runs: Sequence[Run]
    before: bool


class Claim(NamedTuple):
    """
    Result of claiming a stream: from now on only this caller may write it.

    @ivar claim: a word made up for this claim.
    @ivar epoch: the stream's current epoch.
    @ivar mark: the number up to which everything is settled in the database.
    @ivar refusals: number -> the outcome of a message that was refused.
    @ivar marks: for a stream over several databases: the last number that each has itself.
    """

    claim: str
    epoch: str
    mark: int
    refusals: Mapping[int, Outcome]
    marks: Mapping[str, int] | None = None


class SpreadPosition(NamedTuple):
    """
    Position of a stream over several databases in one of them.

    @ivar claim: the word of its last claim there; C{""}: it is not known there.
    @ivar epoch: its epoch there; C{""}: it is not known there.
    @ivar mark: the last number that this database has stored itself, or refused.
    @ivar marks: database -> what its mark was when this one was written last.
    @ivar refusals: number -> the outcome of a message that was refused there.
    """

    claim: str
    epoch: str
    mark: int
    marks: Mapping[str, int]
    refusals: Mapping[int, Outcome]


class Seen(NamedTuple):
    """
    Position of a stream, as its peer knows it.

    @ivar number: the highest one that it had an answer for.
    @ivar epoch: the epoch that the peer was given; C{""} where it does not say.
    """

    number: int
    epoch: str


Spooled = Mapping[str, Sequence[tuple[int, int]]]
"""Numbers of a stream that wait in the gateway's spool: epoch -> (first, last), ascending."""


def first_of(fence: Fence, fences: Sequence[Fence]) -> int:
    """Return the first number on a fence's lane, of fences that move in one commit."""
    return min(other.first for other in fences if other.lane == fence.lane)


def reached(mark: int, waiting: Sequence[tuple[int, int]]) -> int:
    """
    Return the last number that is in the database or follows its mark without a gap in the spool.

    @param waiting: numbers in a spool, of the stream's epoch.
    """
    for first, last in waiting:
        if first <= mark + 1:
            mark = max(mark, last)
    return mark


class Waiting(NamedTuple):
    """
    Numbers of a stream that a spool holds.

    @ivar numbers: ranges of numbers that wait.
    @ivar refusals: epoch -> number -> outcome, of those that are refused.
    @ivar last: epoch and number of the message that was put there last.
    """

    numbers: Spooled
    refusals: Mapping[str, Mapping[int, Outcome]]
    last: tuple[str, int]


class Backlog(Protocol):
    """
    Port that tells which numbers of a stream a spool holds.
    """

    def numbers_of(self, stream: str) -> Waiting | None:
        """Return the stream's numbers in the spool; C{None} where it holds none."""


class Store(Protocol):
    """
    Port that keeps batches, each at most once.
    """

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        """
        Store or refuse every row of the batch and move the fence, or do neither.

        Rows that fail while others of their route pass are refused, whatever the reason, and
        cost their neighbours nothing; but several batches stored as one are stored whole. A
        fence is moved by its first committed batch. Writing again with the same fence stores
        nothing and returns what the first write did: that is how an unknown outcome is
        resolved. The marks of streams that have messages in the batch move with it, from just
        before these to the last of them; the batch's refusals are remembered, and its dead letters
        kept. There may be no row to be stored at all.

        @param patient: whether to wait for as long as the database takes, though not for locks.
        @param blame: whether rows are refused for errors that mostly pass, too: it has been tried
            again often enough.
        @raise gateway.model.errors.FramesRefused: some rows can never be stored; nothing is.
        @raise gateway.model.errors.StreamsElsewhere: streams are not just before the batch's
            messages; nothing is stored, nor ever will be by this call.
        @raise gateway.model.errors.Unavailable: never sent, so not stored.
        @raise gateway.model.errors.OutcomeUnknown: lost in flight; write again.
        @raise gateway.model.errors.StoredPartly: the first batches of the fence's range
            are stored, the others are not.
        @raise gateway.model.errors.FenceVoid: L{resolve} has taken the fence; not stored.
        @raise gateway.model.errors.TransientError: not stored by this call; write again.
        @raise gateway.model.errors.RowError: some row is at fault, and it is not known which, or it
            is of several batches; nothing is stored.
        @raise gateway.model.errors.RouteError: not stored, the operator must act.
        """

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        """
        Store or refuse every row of batches of several routes in one commit and move their fences,
        or do neither.

        Rows are refused as by L{write}, and the order of arrival is kept wherever it makes a
        difference. Where all rows of a route fail, or it fails for a reason that is not its rows',
        nothing is stored, and the caller writes the batches one by one; after an unknown outcome is
        settled by L{resolve}.

        @param chunks: all chunks of the rows, in the order in which they were received; none: the
            batches were received one after the other.
        @param patient: as in L{write}.
        @param afresh: whether each fence may have moved by itself, in an earlier try of other
            batches; then no row is refused, and routes only add rows. Else, where the first fence
            has moved already, all of them are stored.
        @return: what L{write} returns, for each batch; C{None} where they cannot be stored
            together: nothing is stored.
        @raise gateway.model.errors.BatchesRefused: some rows can never be stored; nothing is.
        @raise gateway.model.errors.StoreError: as for L{write}; whatever row is at fault.
        """

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        """
        Store every row of several batches, their dead letters too, in one commit and move their
        fences, or do nothing at all.

        For units of messages (L{gateway.model.unit}), which have no streams. There may be several
        batches of a route, each with a fence of its own, and they are stored in this order. Where
        the first fence of a lane has moved, nothing is stored of any batch on that lane: an earlier
        try stored all of it, maybe cut in another way.

        @param chunks: all chunks of their rows, in the order in which they were received, where the
            batches are in another one.
        @param patient: as in L{write}.
        @param blame: as in L{write}.
        @raise gateway.model.errors.BatchesRefused: some rows can never be stored; nothing is.
        @raise gateway.model.errors.OrderMatters: it failed, and rows at fault can only be found by
            batches that are in order; nothing is stored.
        @raise gateway.model.errors.BatchesStored: some batches were stored before; nothing is
            stored by this call.
        @raise gateway.model.errors.StoreError: as for L{write}, with the route where one is known.
        """

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        """
        Settle the fate of an earlier L{write} or L{write_together} whose outcome is unknown.

        Afterwards it has happened, or never will, even if a stalled server resumes it.

        @param fence: fence of the write; where there were several, the first one tells of all, and
            each of the others what became of its rows.
        @return: result of the earlier write; C{None} where it stored nothing: the fence is void
            from now on.
        @raise gateway.model.errors.StoredPartly: as for L{write}.
        @raise gateway.model.errors.StoreError: it is not settled yet; call again.
        """

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        """
        Claim a stream for this gateway; whatever others still want to store for it is refused.

        @param seen: number and epoch that the peer knows; C{None}: nothing, so that a new epoch
            begins, unless all of C{spooled} goes on from the mark.
        @raise gateway.model.errors.StreamBehind: the stream has not come so far in that epoch;
            nothing is changed.
        @raise gateway.model.errors.StoreError: that cannot be done now.
        """

    async def probe(self, route: str) -> None:
        """
        Check whether a route can take messages again.

        @raise gateway.model.errors.StoreError: why it is not.
        """

    async def try_out(self, batch: Batch) -> bool:
        """
        Say whether some messages of a batch can be stored now; store none.

        If so, those that L{write} could not store for an unclear reason are at fault themselves.

        @raise gateway.model.errors.StoreError: it cannot be determined.
        """

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """
        Remove lanes that will never be used again.

        @precondition: nothing is in flight on them.
        @raise gateway.model.errors.StoreError: they are not forgotten.
        """


class Spooler(Protocol):
    """
    Port of the spool, which keeps batches durably while the store cannot be reached.

    It stores them later, in order.

    @ivar takes: whether it keeps new batches while the store is away or a route is paused; else it
        only stores what it has.
    @ivar may_lead: whether L{leads} and L{waiting} have to be asked. C{False}: nothing is in
        the spool, nor on its way there.
    """

    may_lead: bool

    @property
    def takes(self) -> bool: ...

    def leads(self, batch: Batch) -> bool:
        """
        Say whether a batch must go to the spool now.

        It must where earlier messages of its route or of its streams are there, or its route is
        paused.
        """

    def waiting_streams(self, batch: Batch) -> Collection[str]:
        """
        Return the streams of the batch that must go to the spool, while its other rows need not.
        """

    async def keep(self, batch: Batch, fence: Fence | None, reason: str) -> bool:
        """
        Keep a batch durably.

        @param fence: the one it may have been stored with; C{None}: certainly not stored.
        @param reason: why the store cannot have it, for the log.
        @return: C{False} where the store can be written directly again; nothing was kept.
        @raise gateway.model.errors.SpoolUnknown: it may have been kept, its disk failed.
        @raise gateway.model.errors.SpoolError: no room; nothing was kept.
        """
