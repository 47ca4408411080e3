"""
Streams of an edge's own, in which messages without numbers travel.

A batch takes a stream that nothing is under way on, and its messages the next numbers there. Where
it is not known what became of them the batch keeps stream and numbers until it is, over restarts
too (L{gateway.relay.ledger}), and others take another stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from gateway.model.batch import Fence, Slice
from gateway.model.errors import OutcomeUnknown, RouteError, StoredPartly, StoreError, Unavailable
from gateway.model.outcome import Outcome, Run, Word
from gateway.relay.carrier import Behind, Carrier
from gateway.relay.fates import OF_ROUTE, error_of, fates_of
from gateway.relay.ledger import Binding, Ledger, OwnStream
from gateway.relay.link import Segment, Sent, behind
from gateway.relay.names import own_stream
from gateway.relay.upstream import Upstream
from gateway.spool.queue import Thread

Key = tuple[str, int]
"""Lane and number of a fence."""


class Bound:
    """
    Unnumbered messages of a batch, and the numbers that they have.

    @ivar carrier: stream that they go in; nothing else is sent on it meanwhile.
    @ivar first: number of the first message.
    @ivar fates: fates of the first C{settled} messages.
    @ivar in_doubt: whether any may have been sent before, by a try whose outcome is not known.
    @ivar noted: whether the ledger has it.
    """

    __slots__ = (
        *("carrier", "fates", "first", "first_number", "in_doubt", "noted", "rows", "settled"),
    )

    def __init__(self, carrier: Carrier, first: int, rows: int, first_number: int) -> None:
        """
        @param first_number: number of the first batch, where several are stored as one.
        """
        self.carrier = carrier
        self.first = first
        self.rows = rows
        self.first_number = first_number
        self.fates: list[Run] = []
        self.settled = 0
        self.in_doubt = False
        self.noted = False


class OwnStreams:
    """
    Streams of an edge's own.
    """

    def __init__(
        self,
        upstream: Upstream,
        ledger: Ledger,
        thread: Thread,
        edge: str,
        new_id: Callable[[], str],
        *,
        spools: bool,
    ) -> None:
        """
        @param thread: thread for the ledger.
        @param edge: name of the edge.
        @param spools: whether there is a spool, where batches go whose outcome is not known.
        """
        self._upstream = upstream
        self._ledger = ledger
        self._thread = thread
        self._edge = edge
        self._spools = spools
        self._word = new_id()[:8]
        self._made = 0
        self._free: list[Carrier] = []
        self._bound: dict[Key, Bound] = {}
        # Fates of what came from the spool, until it has left it.
        self._done: dict[Key, Sequence[Run]] = {}
        # Lanes of bindings of an earlier process, and its streams, where it has ended without a
        # stop.
        self._inherited: set[str] = set()
        self._left: set[str] = set()

    def restore(self, bindings: Iterable[Binding], streams: Iterable[OwnStream]) -> None:
        """Take over what the ledger has of an earlier process."""
        for name, epoch, settled in streams:
            self._free.append(Carrier(name, self._upstream, epoch, settled))
        carriers: dict[str, Carrier] = {}
        for lane, number, first_number, name, epoch, first, rows in sorted(
            bindings, key=lambda binding: binding.first
        ):
            carrier = carriers.setdefault(name, Carrier(name, self._upstream, epoch, first - 1))
            bound = Bound(carrier, first, rows, first_number)
            bound.in_doubt = bound.noted = True
            self._bound[lane, number] = bound
            self._left.add(name)
            self._inherited.add(lane)

    def close(self) -> list[OwnStream]:
        """Close the links; return the streams that a later process may go on with."""
        for carrier in [*self._free, *(bound.carrier for bound in self._bound.values())]:
            carrier.close()
        return [
            OwnStream(carrier.name, carrier.epoch, carrier.settled)
            for carrier in self._free
            if carrier.epoch is not None
        ]

    async def forget_inherited(self) -> None:
        """Forget the bindings of an earlier process, since the spool holds nothing."""
        lanes = self._inherited
        if lanes:
            await self._thread.run(partial(self._ledger.release, sorted(lanes)))
        self._inherited = set()
        for key in [key for key in self._bound if key[0] in lanes]:
            del self._bound[key]

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        """Forget lanes that will never be used again; those of an earlier process stay."""
        closed = set(lanes) - self._inherited
        used = {key[0] for key in (*self._done, *self._bound)} & closed
        if used:
            await self._thread.run(partial(self._ledger.release, sorted(used)))
        for key in [key for key in self._done if key[0] in used]:
            del self._done[key]
        for key in [key for key in self._bound if key[0] in used]:
            del self._bound[key]

    def fates_of(self, fence: Fence) -> Sequence[Run] | None:
        """Return the fates of a batch from the spool that is settled."""
        return self._done.get((fence.lane, fence.number))

    def has_numbers(self, fence: Fence) -> bool:
        """
        Say whether a batch has numbers here.

        @raise StoredPartly: only the first batches of its range have some.
        """
        if fence.first < fence.number:
            for number in range(fence.first, fence.number):
                if (fence.lane, number) in self._bound or (fence.lane, number) in self._done:
                    # The caller writes these by themselves, which finds their fates.
                    raise StoredPartly(number)
        return (fence.lane, fence.number) in self._bound

    async def settle(
        self, route: str, pieces: Sequence[Slice], fence: Fence, from_spool: bool
    ) -> list[Run]:
        """
        Settle messages; return their fates.

        @param pieces: one or more, all without numbers of their peers'.
        @param from_spool: whether the batch is in the spool, so that its numbers have to be known
            to a later process.
        @raise StoreError: some have no fate; they keep their numbers, unless none was stored.
        """
        key = (fence.lane, fence.number)
        bound = self._bound.get(key)
        if len(pieces) == 1:
            messages: Sequence[bytes] = pieces[0].frames
        else:
            messages = [frame for piece in pieces for frame in piece.frames]
        if bound is None:
            carrier = self._free.pop() if self._free else self._new_carrier()
            try:
                await self._ready(carrier)
                bound = Bound(carrier, carrier.settled + 1, len(messages), fence.first)
                if from_spool:
                    await self._note(key, bound)
            except BaseException:
                self._give_back(carrier)
                raise
            self._bound[key] = bound
        else:
            try:
                if not bound.noted and from_spool:
                    await self._note(key, bound)
                await self._ready(bound.carrier, bound)
            except Unavailable as error:
                raise OutcomeUnknown(str(error)) from None
        segments = behind([Segment(route.encode(), bound.first, messages)], bound.settled)
        sent = await bound.carrier.send(segments)
        bound.settled += sent.settled
        fates = fates_of(sent.runs, again=bound.in_doubt)
        bound.fates = [*bound.fates, *fates] if bound.fates else fates
        if bound.settled < bound.rows:
            raise await self._error(key, bound, sent)
        return await self._settled(key, bound, from_spool)

    async def _settled(self, key: Key, bound: Bound, from_spool: bool) -> list[Run]:
        """
        Give the stream back, and return the fates of all its messages.

        @raise RouteError: the centre refuses the whole route.
        """
        del self._bound[key]
        self._give_back(bound.carrier)
        refused = all(map(_is_of_route, bound.fates))
        if bound.noted and (refused or not from_spool):
            await self._release(key)
        if refused:
            fate = bound.fates[0][1]
            assert isinstance(fate, Outcome)
            raise RouteError(f"the centre: {bytes(fate).decode()}")
        if from_spool:
            self._done[key] = bound.fates
        return bound.fates

    async def _error(self, key: Key, bound: Bound, sent: Sent) -> StoreError:
        """
        Return why messages have no fate.

        They keep their numbers, unless it is certain that none of them is stored.
        """
        error = None if sent.put_off is None else error_of(sent.put_off)
        is_elsewhere = sent.put_off is not None and sent.put_off.code == "GAP"
        if error is not None and not bound.settled and not bound.in_doubt:
            del self._bound[key]
            if (bound.noted and not await self._release(key)) or is_elsewhere:
                bound.carrier.close()  # another one takes its place
            else:
                self._give_back(bound.carrier)
            return error
        if error is None or is_elsewhere:
            bound.carrier.close()
        if not bound.noted and self._spools:
            # Where that fails it is tried again before the messages are sent again.
            with suppress(Unavailable):
                await self._note(key, bound)
        in_doubt, bound.in_doubt = bound.in_doubt, True
        if in_doubt and isinstance(error, RouteError):
            return error  # it is all that is in the way
        return OutcomeUnknown(str(error or "the line to the centre was lost"))

    async def _ready(self, carrier: Carrier, bound: Bound | None = None) -> None:
        """
        Open a stream of the edge's own, unless it is.

        @raise Unavailable: it cannot be opened now.
        """
        if carrier.is_open:
            return
        try:
            if bound is not None:
                await carrier.greet(bound.first - 1 + bound.settled, carrier.epoch)
                return
            if carrier.epoch is not None:
                settled = carrier.settled
                if await carrier.greet(settled, carrier.epoch) == settled:
                    return
        except Behind as error:
            if bound is not None:
                raise Unavailable(f"the centre: {error}") from None
        if carrier.epoch is not None:
            # It is not where it was, as after a restore: nothing is under way on it, so another
            # one takes its place.
            carrier.close()
            carrier.name, carrier.epoch = self._new_name(), None
        await carrier.greet(None, None)

    def _new_carrier(self) -> Carrier:
        return Carrier(self._new_name(), self._upstream)

    def _new_name(self) -> str:
        self._made += 1
        return own_stream(self._edge, self._word, self._made)

    def _give_back(self, carrier: Carrier) -> None:
        if carrier.name in self._left:
            carrier.close()  # how far an earlier process used it is known to the ledger only
        else:
            self._free.append(carrier)

    async def _release(self, key: Key) -> bool:
        """Forget the binding of a batch; return whether the ledger has, too."""
        try:
            await self._thread.run(partial(self._ledger.release_one, *key))
        except Unavailable:
            return False  # a later process forgets it, when its spool is empty
        return True

    async def _note(self, key: Key, bound: Bound) -> None:
        carrier = bound.carrier
        assert carrier.epoch is not None
        binding = Binding(
            *key, bound.first_number, carrier.name, carrier.epoch, bound.first, bound.rows
        )
        await self._thread.run(partial(self._ledger.bind, binding))
        bound.noted = True


def _is_of_route(run: Run) -> bool:
    """Say whether messages are refused as every message of their route is."""
    fate = run[1]
    return isinstance(fate, Outcome) and fate.word is Word.REJ and fate.code in OF_ROUTE
