"""
Streams of an edge's peers: each goes on at the centre under the peer's own numbers.

It has a link of its own while it is used. The centre answers a number again as it has answered it
before, so sending again is always right, by whatever process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from gateway.model.batch import Batch
from gateway.model.errors import OutcomeUnknown, StoreError, StreamBehind, StreamsElsewhere
from gateway.model.outcome import STORED, Fate, Run, part
from gateway.model.store import Claim, Seen, Spooled, reached
from gateway.model.stream import Stream
from gateway.model.stream_marks import StreamPosition
from gateway.relay.carrier import Behind, Carrier
from gateway.relay.fates import error_of, fates_of, refusal_of
from gateway.relay.link import Segment, behind
from gateway.relay.names import UNUSABLE, peer_stream
from gateway.relay.upstream import Upstream

IDLE: Final = 60.0
"""Seconds after which the link of a stream that is not used is closed."""

MAX_STREAMS: Final = 256
"""Links of streams; the one that was used longest ago gives way, if it is free."""

_LOST: Final = ""
"""Claim of a stream that another gateway has claimed."""

_FIRST: Final = attrgetter("first")

_AT_REST: Final = 100
"""Numbers of which refusals are asked for where the peer does not say how far it was."""


class _Piece(NamedTuple):
    """
    Numbered messages of one stream, in a row.

    @ivar place: index of the slice in the batch; -1 for a message that is refused, which is sent
        for no route, so that it only uses its number up.
    """

    first: int
    place: int
    stream: Stream
    segment: Segment


class PeerStreams:
    """
    Streams of an edge's peers.
    """

    def __init__(
        self, upstream: Upstream, clock: IReactorTime, edge: str, new_id: Callable[[], str]
    ) -> None:
        """
        @param edge: name of the edge.
        """
        self._upstream = upstream
        self._clock = clock
        self._edge = edge
        self._new_id = new_id
        self._streams: dict[str, Carrier] = {}
        # Fence -> a batch of which some streams are settled, and their fates.
        self._partly: dict[tuple[str, int], tuple[Batch, dict[str, list[Run]]]] = {}

    def close(self) -> None:
        """Close the links."""
        for carrier in self._streams.values():
            carrier.close()

    async def claim(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        """Claim a stream, as L{gateway.model.store.Store.claim_stream} says."""
        carrier = self._carrier_of(name)
        async with self._turn(carrier):
            return await self._claim(carrier, seen, spooled)

    @asynccontextmanager
    async def _turn(self, carrier: Carrier) -> AsyncIterator[None]:
        """Be the only one who uses a stream."""
        carrier.busy += 1
        try:
            await carrier.turn.acquire()
            try:
                yield
            finally:
                carrier.turn.release()
        finally:
            carrier.busy -= 1
            carrier.used_at = self._clock.seconds()

    async def _claim(self, carrier: Carrier, seen: Seen | None, spooled: Spooled) -> Claim:
        carrier.claim = None
        if seen is None:
            mark = await self._afresh(carrier, spooled)
            known = mark - _AT_REST
        else:
            waiting = sorted([*spooled.get(seen.epoch, ()), *spooled.get("", ())])
            if not seen.epoch and not waiting:
                # The only epoch of what is here.
                waiting = sorted(next(iter(spooled.values()))) if len(spooled) == 1 else []
            floor = min([seen.number, *(first - 1 for first, _ in waiting)])
            try:
                mark = await carrier.greet(floor, seen.epoch)
            except Behind as error:
                # The registry tells by the number whether it is in another epoch.
                mark = max(error.mark, seen.number) if error.renewed else error.mark
                mark = mark if error.renewed else max(0, min(mark, seen.number - 1))
                raise StreamBehind(str(mark)) from None
            if (end := reached(mark, waiting)) < seen.number:
                raise StreamBehind(str(end))
            known = seen.number
        refusals = await carrier.refusals(known + 1, mark)
        carrier.claim = self._new_id()
        assert carrier.epoch is not None
        return Claim(
            carrier.claim,
            carrier.epoch,
            mark,
            {number: refusal_of(answer) for number, answer in refusals},
        )

    async def _afresh(self, carrier: Carrier, spooled: Spooled) -> int:
        """
        Open a stream for a peer that knows nothing; return its mark.

        A new epoch begins, unless all that waits in the spool goes on from the mark.
        """
        if len(spooled) == 1:
            ((epoch, waiting),) = spooled.items()
            ranges = sorted(waiting)
            if epoch and ranges:
                try:
                    mark = await carrier.greet(ranges[0][0] - 1, epoch)
                except Behind:
                    mark = -1
                end = reached(mark, ranges)
                if end > mark >= 0 and end >= ranges[-1][1]:
                    return mark
        return await carrier.greet(None, None)

    async def settle(
        self, batch: Batch, key: tuple[str, int], is_settled: bool
    ) -> dict[str, list[Run]]:
        """
        Settle the numbered messages of a batch; return the fates of each stream's, by its name.

        @param key: lane and number of its fence.
        @param is_settled: whether they were settled before, and only their fates are asked for.
        @raise StreamsElsewhere: some streams are not just before them.
        @raise Unavailable: nothing of the batch was sent.
        @raise OutcomeUnknown: some of it was.
        """
        if not batch.numbered:
            return {}
        pieces = _pieces_of(batch)
        known, partly = self._partly.get(key, (batch, {}))
        fates = partly if known is batch else {}
        names = [name for name in pieces if name not in fates]
        if not names:
            return fates
        work = [Deferred.fromCoroutine(self._stream(name, pieces[name])) for name in names]
        errors: list[StoreError] = []
        elsewhere: dict[str, StreamPosition] = {}
        sent = bool(fates)
        for name, (good, result) in zip(
            names, await DeferredList(work, consumeErrors=True), strict=True
        ):
            if good:
                fates[name] = result
                sent = True
            elif isinstance(result, Failure) and result.check(StreamsElsewhere):
                assert isinstance(result.value, StreamsElsewhere)
                elsewhere |= result.value.stream_positions
            elif isinstance(result, Failure) and result.check(StoreError):
                assert isinstance(result.value, StoreError)
                errors.append(result.value)
            else:
                assert isinstance(result, Failure)
                result.raiseException()
        if errors:
            unknown = [error for error in errors if isinstance(error, OutcomeUnknown)]
            if not sent and not unknown:
                raise errors[0]
            self._partly[key] = (batch, fates)
            raise unknown[0] if unknown else OutcomeUnknown(str(errors[0]))
        if elsewhere and not is_settled:
            raise StreamsElsewhere(elsewhere)
        for name in elsewhere:
            # It has gone on since, and the centre does not tell of an earlier epoch any more.
            rows = sum(len(piece.segment.messages) for piece in pieces[name])
            fates[name] = [(rows, STORED)]
        self._partly.pop(key, None)
        return fates

    async def _stream(self, name: str, pieces: Sequence[_Piece]) -> list[Run]:
        """
        Settle the messages of one stream; return their fates, in the order of their numbers.
        """
        carrier = self._carrier_of(name)
        async with self._turn(carrier):
            first = pieces[0].first
            position = await self._position(carrier, pieces[0].stream, first)
            if position is not None:
                raise StreamsElsewhere({name: position})
            segments = [piece.segment for piece in pieces]
            sent = await carrier.send(segments)
        left = behind(segments, sent.settled)
        if not left:
            return fates_of(sent.runs, again=False)
        if sent.put_off is not None:
            if sent.put_off.code == "GAP":
                carrier.close()
            error = error_of(sent.put_off)
            raise OutcomeUnknown(str(error)) if sent.settled else error
        carrier.close()
        if sent.farewell is not None and sent.farewell.code == "BUSY":
            # Another gateway has claimed it.
            carrier.claim = _LOST
            raise StreamsElsewhere({name: StreamPosition(False, True, carrier.settled)})
        raise OutcomeUnknown("the line to the centre was lost")

    async def _position(
        self, carrier: Carrier, stream: Stream, first: int
    ) -> StreamPosition | None:
        """
        See that a stream is open for a message and those behind it.

        @return: where it is instead; C{None}: it is.
        """
        if stream.claim is not None and carrier.claim not in (None, stream.claim):
            return StreamPosition(False, True, carrier.settled)
        if carrier.is_open and carrier.epoch == stream.epoch:
            if carrier.settled >= first - 1:
                return None
        elif carrier.is_open and carrier.claim and stream.loose:
            # A peer has it here, in a later epoch.
            return StreamPosition(True, False, carrier.settled)
        try:
            await carrier.greet(first - 1, stream.epoch)
        except Behind as error:
            mark = min(error.mark, first - 2)
            return StreamPosition(True, not error.renewed, max(0, mark))
        return None

    def _carrier_of(self, name: str) -> Carrier:
        carrier = self._streams.get(name)
        if carrier is None:
            self._prune()
            carrier = Carrier(peer_stream(self._edge, name), self._upstream)
            self._streams[name] = carrier
        return carrier

    def _prune(self) -> None:
        """Close links that are not used, and forget their streams where there are too many."""
        now = self._clock.seconds()
        free = sorted(
            (carrier.used_at, name) for name, carrier in self._streams.items() if not carrier.busy
        )
        excess = len(self._streams) + 1 - MAX_STREAMS
        for used_at, name in free:
            if excess > 0 or now - used_at > IDLE:
                self._streams.pop(name).close()
                excess -= 1


def _pieces_of(batch: Batch) -> dict[str, list[_Piece]]:
    """Return the numbered messages of a batch by their stream, in the order of their numbers."""
    route = batch.route.encode()
    pieces: dict[str, list[_Piece]] = {}
    for place, piece in enumerate(batch.slices):
        stream = piece.chunk.stream
        if stream is not None:
            segment = Segment(route, piece.first, piece.frames)
            pieces.setdefault(stream.name, []).append(_Piece(piece.first, place, stream, segment))
    for refusal in batch.refusals:
        stream = refusal.stream
        if stream is not None:
            number = refusal.number
            segment = Segment(UNUSABLE, number, [refusal.chunk.frames[refusal.row]])
            pieces.setdefault(stream.name, []).append(_Piece(number, -1, stream, segment))
    for some in pieces.values():
        some.sort(key=_FIRST)
    return pieces


def in_order(batch: Batch, loose: Sequence[Run], fates: Mapping[str, Sequence[Run]]) -> list[Run]:
    """
    Return the fates of a batch's messages in their order.

    @param loose: fates of those without numbers.
    @param fates: stream -> fates of its messages, by their numbers.
    """
    of_place: dict[int, list[Run]] = {}
    for name, pieces in _pieces_of(batch).items():
        source = _Runs(fates[name])
        for piece in pieces:
            of_place[piece.place] = source.take(len(piece.segment.messages))
    rest = _Runs(loose)
    runs: list[Run] = []
    for place, (chunk, start, stop) in enumerate(batch.slices):
        own = rest.take(stop - start) if chunk.stream is None else of_place[place]
        for count, fate in own:
            if runs and runs[-1][1] is fate:
                runs[-1] = (runs[-1][0] + count, fate)
            else:
                runs.append((count, fate))
    return runs or [(0, STORED)]


class _Runs:
    """
    Fates that are taken from the first on.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = iter(runs)
        self._count = self._done = 0
        self._fate: Fate = STORED

    def take(self, rows: int) -> list[Run]:
        """Return the fates of the next messages."""
        taken: list[Run] = []
        while rows:
            if self._done == self._count:
                self._count, self._fate = next(self._runs)
                self._done = 0
                continue
            some = min(rows, self._count - self._done)
            taken.append((some, part(self._fate, self._done, self._done + some)))
            self._done += some
            rows -= some
        return taken
