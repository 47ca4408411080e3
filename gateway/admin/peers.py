"""
SHOW PEERS: the connected peers, filtered and sorted.

Strategy: ten thousand peers are read, sorted and shown a few hundred at a time, with the reactor's
other work in between. Parts are sorted one by one and merged while they are shown; a peer that goes
meanwhile is left out, or shown as it was.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.admin.grammar import CommandError
from gateway.admin.table import Column, Kind, Row
from gateway.listeners.service import ListenerService
from gateway.model.text import closest, printable
from gateway.peers.factory import PeerFactory
from gateway.peers.phase import Pause
from gateway.peers.protocol import PeerProtocol
from gateway.system.addresses import Networks

SLICE: Final = 250
"""Peers that are read at a stretch: some milliseconds."""

COLUMNS: Final = (
    Column("id", Kind.ID),
    Column("listener"),
    Column("address"),
    Column("identity"),
    Column("since", Kind.TIME),
    Column("idle", Kind.SECONDS),
    Column("frames", Kind.COUNT),
    Column("bytes", Kind.BYTES),
    Column("unanswered", Kind.COUNT),
    Column("stream"),
    Column("state"),
)

COLUMNS_OF_WORKERS: Final = (COLUMNS[0], Column("worker", Kind.ID), *COLUMNS[1:])
"""Columns where there are several workers."""

_STATES: Final[Mapping[Pause | None, str]] = {
    None: "read",
    Pause.OUTPUT: "takes no answers",
    Pause.MEMORY: "memory is full",
    Pause.WINDOW: "window is full",
    Pause.CLOSING: "told to go",
    Pause.RATE: "over its rate",
}
"""Why a peer is not read now."""

_ASCENDING: Final = ("id", "worker", "listener", "address", "identity", "stream", "state", "since")
"""Columns whose smallest value comes first."""


@dataclass(frozen=True, slots=True)
class PeerQuery:
    """
    Question of SHOW PEERS.

    @ivar listener: C{""}: any; likewise C{identity}.
    @ivar networks: C{None}: any address.
    @ivar column: index of the column to sort by.
    @ivar descending: whether its largest value comes first.
    @ivar limit: C{None}: all.
    @ivar options: what it was read from.
    """

    listener: str = ""
    identity: str = ""
    networks: Networks | None = None
    column: int = 0
    descending: bool = False
    limit: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def query_of(
    options: Mapping[str, str], listeners: Iterable[str], columns: Sequence[Column] = COLUMNS
) -> PeerQuery:
    """
    Read the options of SHOW PEERS.

    @param listeners: names of the listeners.
    @raise CommandError: one of them cannot be used.
    """
    listener = options.get("listener", "")
    known = list(listeners)
    if listener and listener not in known:
        raise _no("listener", listener, known)
    networks = None
    if "address" in options:
        try:
            networks = Networks([options["address"]])
        except ValueError as error:
            raise CommandError(f"address= takes an address, a network or unix: {error}") from None
    sort = options.get("sort", "id").lower()
    name = sort.removeprefix("-")
    names = [column.name for column in columns]
    if name not in names:
        raise _no("column", name, names)
    limit = options.get("limit")
    if limit is not None and not (limit.isascii() and limit.isdecimal() and len(limit) < 10):
        raise CommandError("limit= takes a number")
    return PeerQuery(
        listener=listener,
        identity=options.get("identity", ""),
        networks=networks,
        column=names.index(name),
        descending=(name not in _ASCENDING) != sort.startswith("-"),
        limit=None if limit is None else int(limit),
        options=options,
    )


def slices_of(parts: Sequence[Sequence[Row]], query: PeerQuery) -> Iterator[list[Row]]:
    """
    Merge rows, as many as a query asks for, and yield some at a time.

    @param parts: each sorted as the query says.
    """
    key: Callable[[Row], Any] = itemgetter(query.column)
    merged = islice(heapq.merge(*parts, key=key, reverse=query.descending), query.limit)
    while rows := list(islice(merged, SLICE)):
        yield rows


def _no(what: str, name: str, known: Sequence[str]) -> CommandError:
    near = closest(name, known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
    return CommandError(f"no {what} {printable(name)}; {hint}")


class PeerList:
    """
    The connected peers of all listeners.
    """

    def __init__(
        self,
        listeners: Callable[[], Iterable[ListenerService]],
        streams: Callable[[], Mapping[int, str]],
        clock: IReactorTime,
        wall: Callable[[], float],
        worker: int = 0,
    ) -> None:
        """
        @param streams: returns the names of the open streams, by the C{id} of their peers.
        @param wall: seconds since 1970.
        @param worker: number of the worker that this process is; 0: it does it all.
        """
        self.columns = COLUMNS_OF_WORKERS if worker else COLUMNS
        self._begin = (worker,) if worker else ()
        self._listeners = listeners
        self._streams = streams
        self._clock = clock
        self._wall = wall

    def find(self, number: int) -> tuple[PeerFactory, PeerProtocol] | None:
        """Find a peer by its ID."""
        for service in self._listeners():
            for peer in service.factory.peers:
                if peer.id == number:
                    return service.factory, peer
        return None

    async def slices(self, query: PeerQuery) -> AsyncIterator[Sequence[Row]]:
        """Return rows, some at a time."""
        parts: list[Sequence[Row]] = []
        key: Callable[[Row], Any] = itemgetter(query.column)
        for unsorted in self._read(query):
            parts.append(sorted(unsorted, key=key, reverse=query.descending))
            await self.breathe()
        for rows in slices_of(parts, query):
            yield rows
            await self.breathe()

    async def breathe(self) -> None:
        """Let the reactor do its other work."""
        await deferLater(self._clock, 0)

    def _read(self, query: PeerQuery) -> Iterator[list[tuple[Any, ...]]]:
        """Read the peers that a query asks for, some at each step."""
        streams = self._streams()
        offset = self._wall() - self._clock.seconds()
        for service in list(self._listeners()):
            factory = service.factory
            if query.listener and query.listener != factory.listener:
                continue
            peers = list(factory.peers)
            for start in range(0, len(peers), SLICE):
                now = self._clock.seconds()
                yield [
                    (
                        peer.id,
                        *self._begin,
                        *_row(factory.listener, peer, streams.get(id(peer), ""), now, offset),
                    )
                    for peer in peers[start : start + SLICE]
                    if peer in factory.peers and _fits(peer, query)
                ]


def _fits(peer: PeerProtocol, query: PeerQuery) -> bool:
    info = peer.peer_info
    return (not query.identity or info.identity == query.identity) and (
        query.networks is None or info.address in query.networks
    )


def _row(
    listener: str, peer: PeerProtocol, stream: str, now: float, offset: float
) -> tuple[Any, ...]:
    info, answers = peer.peer_info, peer.answers
    heard = peer.since if answers.last_read is None else answers.last_read
    """Return the cells behind those of the peer's ID and worker."""
    return (
        listener,
        info.name,
        info.identity or "",
        round(peer.since + offset, 3),
        round(max(0.0, now - heard), 3),
        peer.frames,
        peer.received,
        answers.unanswered,
        stream,
        _STATES[peer.paused],
    )
