"""
Store of an edge: another gateway, the centre, over its command protocol.

Messages that peers have numbered go on in their own streams (L{gateway.relay.peer_streams}), all
others in streams of the edge's own (L{gateway.relay.own_streams}). The numbered ones of a batch are
settled first: so a batch that has numbers of the edge's own has nothing else left.

The centre stores message by message: nothing here is stored whole, and what is refused is refused
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from twisted.logger import Logger

from gateway.model.batch import Batch, Chunk, Fence
from gateway.model.errors import EmbeddedError, RouteError
from gateway.model.outcome import STORED, Run
from gateway.model.route import Route
from gateway.model.store import Claim, Seen, Spooled, Written
from gateway.model.text import printable
from gateway.relay.ledger import Ledger
from gateway.relay.own_streams import OwnStreams
from gateway.relay.peer_streams import PeerStreams, in_order
from gateway.relay.upstream import Upstream
from gateway.spool.queue import Thread


class RelayStore:
    """
    Store whose database is behind another gateway.

    @ivar dead_letters: messages that the edge keeps since they were refused after +QUE.
    """

    _log = Logger()

    def __init__(
        self,
        upstream: Upstream,
        ledger: Ledger,
        thread: Thread,
        reactor: Any,
        edge: str,
        routes: Mapping[str, Route],
        *,
        spools: bool,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        """
        @param thread: thread for the ledger.
        @param edge: name of the edge.
        @param spools: whether there is a spool, from which batches are written C{patient}.
        """
        self.dead_letters = 0
        self._upstream = upstream
        self._ledger = ledger
        self._thread = thread
        self._edge = edge
        self._routes = dict(routes)
        self._spools = spools
        self._own = OwnStreams(upstream, ledger, thread, edge, new_id, spools=spools)
        self._peers = PeerStreams(upstream, reactor, edge, new_id)
        self._verified: set[str] = set()
        self._is_open = False

    # Life.

    def start(self, spooled: int = 0) -> None:
        """
        Open the ledger, and log where messages go; blocks.

        @param spooled: messages that an earlier process has left in the spool.
        @raise SystemExit: the ledger cannot be used; with one line.
        """
        try:
            self._own.restore(*self._ledger.open())
        except EmbeddedError as error:
            raise SystemExit(f"gateway: {printable(str(error))}") from None
        if self._ledger.is_new and spooled:
            self._log.warn(
                "relay: {path} was not there, but {count} messages are in the spool: those that"
                " were on their way to the centre before may be stored twice",
                event="relay-file-missing",
                path=str(self._ledger.path),
                count=spooled,
            )
        self.dead_letters = self._ledger.dead_letters()
        self._thread.start()
        self._is_open = True
        self._log.info(
            "relay: edge {edge}, centre {where}",
            event="relay-address",
            edge=self._edge,
            where=", ".join(self._upstream.endpoints),
        )

    def close(self) -> None:
        """Close all links, and the ledger, which keeps how far free streams were."""
        if self._is_open:
            self._is_open = False
            self._peers.close()
            self._thread.stop()
            self._ledger.close(self._own.close())

    async def open_all(self) -> None:
        """
        See that the centre takes messages for the routes; those that it refuses fail by themselves.

        @raise StoreError: it cannot be asked.
        """
        await self._upstream.connected()
        for route in self._routes:
            try:
                await self._check_route(route)
            except RouteError as error:
                self._log.warn(
                    "relay: {reason}", event="relay-route-refused", route=route, reason=str(error)
                )

    async def durability(self) -> Sequence[str]:
        """Return nothing: the centre judges its database itself."""
        return ()

    async def close_abandoned_lanes(self) -> None:
        """Forget what an earlier process left, since the spool holds nothing."""
        await self._own.forget_inherited()

    async def check_routes(self, routes: Sequence[Route]) -> list[str]:
        """
        Return what is wrong with routes, for a reload.

        @raise StoreError: the centre cannot be asked.
        """
        problems = []
        for route in routes:
            try:
                await self._upstream.check_route(route.name)
            except RouteError as error:
                problems.append(f"routes.{route.name}: {error}")
        return problems

    def replace_routes(
        self, routes: Mapping[str, Route], changed: Iterable[str], until: int, oldest: int
    ) -> None:
        """Apply a new configuration; messages in flight are none of its concern."""
        self._routes = dict(routes)
        self._verified.difference_update(changed)

    async def forget_units(self, seconds: float) -> int:
        """Forget nothing: an edge stores no units."""
        return 0

    # The port.

    async def write(
        self, batch: Batch, fence: Fence, *, patient: bool = False, blame: bool = False
    ) -> Written:
        self._upstream.busy += 1
        try:
            return await self._write(batch, fence, from_spool=patient and self._spools)
        finally:
            self._upstream.busy -= 1

    async def _write(self, batch: Batch, fence: Fence, from_spool: bool) -> Written:
        own = self._own
        if (done := own.fates_of(fence)) is not None and not batch.numbered:
            return Written(done, True)
        before = done is not None or own.has_numbers(fence)
        key = (fence.lane, fence.number)
        if batch.slices:
            await self._check_route(batch.route)
        if batch.dead_letters:
            # Refused by the centre after they were answered +QUE: nobody else has them.
            keep = partial(self._ledger.keep_dead_letters, key, batch.dead_letters)
            self.dead_letters += await self._thread.run(keep)
        if not batch.numbered:
            runs: Sequence[Run] = [(0, STORED)]
            if batch.slices:
                runs = await self._settle_own(batch, fence, from_spool)
            return Written(runs, before)
        fates = await self._peers.settle(batch, key, before)
        runs = []
        if done is not None:
            runs = done
        elif any(piece.chunk.stream is None for piece in batch.slices):
            runs = await self._settle_own(batch, fence, from_spool)
        return Written(in_order(batch, runs, fates), before)

    async def _settle_own(self, batch: Batch, fence: Fence, from_spool: bool) -> Sequence[Run]:
        """Settle the messages of a batch that have no numbers of their peers'."""
        pieces = [piece for piece in batch.slices if piece.chunk.stream is None]
        try:
            return await self._own.settle(batch.route, pieces, fence, from_spool)
        except RouteError:
            self._verified.discard(batch.route)
            raise

    async def write_together(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        afresh: bool = False,
    ) -> Sequence[Written] | None:
        # The centre would commit them one by one, too.
        return None

    async def write_whole(
        self,
        batches: Sequence[Batch],
        fences: Sequence[Fence],
        chunks: Sequence[Chunk] = (),
        *,
        patient: bool = False,
        blame: bool = False,
    ) -> None:
        raise RouteError("an edge stores no units of messages: the centre takes them one by one")

    async def resolve(self, batch: Batch, fence: Fence) -> Written | None:
        if self._own.fates_of(fence) is not None or self._own.has_numbers(fence):
            # Some of it may be stored; then all of it is.
            return await self._write(batch, fence, from_spool=self._spools)
        return None

    async def claim_stream(self, name: str, seen: Seen | None, spooled: Spooled) -> Claim:
        return await self._peers.claim(name, seen, spooled)

    async def probe(self, route: str) -> None:
        await self._check_route(route, afresh=True)

    async def try_out(self, batch: Batch) -> bool:
        # The centre refuses messages one by one, so none is to blame for another.
        return False

    async def close_lanes(self, lanes: Sequence[str]) -> None:
        if self._is_open:
            await self._own.close_lanes(lanes)

    async def _check_route(self, route: str, afresh: bool = False) -> None:
        """
        See once that the centre takes messages for a route, before any uses a number up.

        @raise RouteError: it does not.
        """
        if afresh or route not in self._verified:
            await self._upstream.check_route(route)
            self._verified.add(route)
