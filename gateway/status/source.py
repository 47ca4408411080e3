"""
Source of the status: reads all parts of the gateway at once.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from gateway.access.connection_limit import ConnectionLimit
from gateway.commit.circuit_breaker import CircuitBreakers
from gateway.commit.inflight_limit import InflightLimit
from gateway.commit.pauses import PAUSED
from gateway.commit.placed_writer import PlacedWriter
from gateway.commit.writer import Writer
from gateway.dialects.stream_registry import StreamRegistry
from gateway.dialects.subscriptions import Subscriptions
from gateway.listeners.service import ListenerService
from gateway.metrics.counters import LAGS, Answer, Histogram, RouteCounters
from gateway.model.route import Route
from gateway.postgres.connect.pool import Pool
from gateway.postgres.queries.placed import PlacedQueries
from gateway.postgres.store.databases import Databases
from gateway.relay.upstream import Upstream
from gateway.spool.leftover import Leftovers, LeftoverSpool
from gateway.spool.outage_spool import OutageSpool
from gateway.spool.queue import Spool
from gateway.status.health import health_of
from gateway.status.status import (
    CertificateStatus,
    ChannelStatus,
    Distribution,
    LaneStatus,
    ListenerStatus,
    MemoryStatus,
    PoolStatus,
    ProcessStatus,
    QueryStatus,
    ReplicaStatus,
    RouteState,
    RouteStatus,
    SpoolState,
    SpoolStatus,
    State,
    Status,
    StreamsStatus,
)
from gateway.tls.registry import TlsRegistry

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class StatusParts:
    """
    Parts of the gateway that the status is read from.

    @ivar routes: the configured routes by name; a callable, since a reload replaces them.
    @ivar listeners: the listeners; a callable for the same reason.
    @ivar spool: C{None} where there is none; with it C{spooler}.
    @ivar leftovers: spools of workers that are no more.
    @ivar max_spool_bytes: limit of the spool's size; a callable for the same reason.
    """

    clock: IReactorTime
    wall: Callable[[], float]
    routes: Callable[[], Mapping[str, Route]]
    listeners: Callable[[], Iterable[ListenerService]]
    connection_limit: ConnectionLimit
    inflight_limit: InflightLimit
    pool: Pool | Upstream
    query_pool: Pool
    writer: Writer | PlacedWriter
    databases: Databases
    breakers: CircuitBreakers
    streams: StreamRegistry
    queries: PlacedQueries
    channels: Subscriptions
    tls: TlsRegistry
    spool: Spool | None
    spooler: OutageSpool | None
    leftovers: Leftovers
    max_spool_bytes: Callable[[], int]


class StatusSource:
    """
    Source of the status.

    @ivar state: C{starting}, C{ready} or C{draining}; set by the service.
    @ivar spool_oldest: when the oldest message in the spool came; set by L{Watch}.
    @ivar reactor_lag: longest lag of the reactor in the last minute; set by L{Watch}.
    @ivar reactor_lags: all lags of the reactor; L{Watch} adds to it.
    """

    def __init__(self, parts: StatusParts) -> None:
        self.state: State = "starting"
        self.spool_oldest: float | None = None
        self.reactor_lag = 0.0
        self.reactor_lags = Histogram(LAGS)
        self.parts = parts
        self._started = parts.wall()
        self._version = gateway_version()

    def read(self) -> Status:
        """
        Read the status, without its warnings (L{gateway.status.watch}).
        """
        parts = self.parts
        pools = [_pool("messages", parts.pool), _pool("queries", parts.query_pool)]
        for name, other in parts.databases.others.items():
            pools.append(_pool("messages", other, name))
        for name, place in parts.queries.places.items():
            pools.append(_pool("queries", place.pool, name))
        routes = self._routes()
        spool = self._spool(pools[0].is_reached)
        health = health_of(self.state, pools, routes, spool)
        limit = parts.connection_limit
        return Status(
            version=self._version,
            state=self.state,
            is_storing=health.is_storing,
            is_taking=health.is_taking,
            reasons=health.reasons,
            time=parts.wall(),
            started=self._started,
            warnings=(),
            peers=limit.count,
            most_peers=int(limit.most),
            listeners=[_listener(service) for service in parts.listeners()],
            routes=routes,
            pools=pools,
            lanes=[
                LaneStatus(number=number, waiting=load, seconds=age)
                for number, (load, age) in enumerate(parts.writer.loads(), 1)
            ],
            spool=spool,
            left_spools=tuple(map(self._left_spool, parts.leftovers.present())),
            streams=self._streams(),
            queries=[
                QueryStatus(
                    name=name,
                    answers=_answers(counters.answers),
                    seconds=_distribution(counters.seconds),
                )
                for name, counters in parts.queries.counters.items()
            ],
            channels=self._channels(),
            certificates=certificates_of(parts.tls),
            memory=MemoryStatus(
                in_flight=parts.inflight_limit.used,
                kept=parts.inflight_limit.kept,
                most=parts.inflight_limit.limit,
                full=parts.inflight_limit.full,
            ),
            process=process_status(self.reactor_lag, self.reactor_lags),
            replicas=self._replicas(),
        )

    def _replicas(self) -> Sequence[ReplicaStatus]:
        queries = self.parts.queries
        return [
            ReplicaStatus(
                name=name,
                is_used=place.lag.is_well,
                reason=place.lag.reason,
                lag=place.lag.seconds,
                passed_over=queries.passed_over[name],
            )
            for name, place in queries.places.items()
            if place.lag is not None
        ]

    def _routes(self) -> list[RouteStatus]:
        parts = self.parts
        closed, pauses, held = parts.breakers.closed, parts.breakers.pauses, parts.writer.held()
        rows = Counter[str]({} if parts.spool is None else parts.spool.rows)
        for left in parts.leftovers.present():
            rows.update({} if left.spool is None else left.spool.rows)
        dead_letters = Counter() if parts.spool is None else parts.spool.counters.dead_letters
        found = []
        routes = parts.routes()
        for name in [*routes, *(name for name in rows if name not in routes)]:
            state: RouteState = "in service"
            if name not in routes:
                state = "removed"
            elif name in closed:
                state = "out of service"
            elif pauses.holds(name):
                state = "paused"
            elif self.state == "starting":
                state = "opening"
            counters = parts.writer.counters.get(name) or RouteCounters()
            found.append(
                RouteStatus(
                    name=name,
                    table=routes[name].table if name in routes else "",
                    state=state,
                    reason=closed.get(name, PAUSED if state == "paused" else ""),
                    commits=counters.commits,
                    rows=counters.rows,
                    commit_seconds=_distribution(counters.commit_seconds),
                    batch_rows=_distribution(counters.batch_rows),
                    unknown=counters.unknown,
                    unresolved=counters.unresolved,
                    resolved=dict(counters.resolved),
                    dead_letters=counters.dead_letters + dead_letters[name],
                    spooled=rows.get(name, 0),
                    held=held.get(name, 0),
                    database=(routes[name].database or "") if name in routes else "",
                )
            )
        return found

    def _spool(self, is_reached: bool) -> SpoolStatus | None:
        spool, spooler = self.parts.spool, self.parts.spooler
        if spool is None or spooler is None:
            return None
        state: SpoolState = "empty"
        reason = ""
        if spooler.refusing and (spool.messages or not is_reached):
            state, reason = "refusing", spooler.refusing
        elif spool.messages:
            state = "draining" if spooler.is_draining else "keeping"
            paused = [name for name in spool.rows if self.parts.breakers.pauses.holds(name)]
            reason = spooler.keeping or (f"{PAUSED}: {', '.join(paused)}" if paused else "")
        counters = spool.counters
        return SpoolStatus(
            path=spool.path,
            state=state,
            reason=reason,
            messages=spool.messages,
            size=spool.size,
            most_size=self.parts.max_spool_bytes(),
            oldest=self.spool_oldest if spool.messages else None,
            damaged=spool.damaged,
            kept=counters.kept,
            drained=counters.drained,
            refused=counters.refused,
            takes=spooler.takes,
        )

    def _left_spool(self, left: LeftoverSpool) -> SpoolStatus:
        spool, spooler = left.spool, left.spooler
        most = self.parts.max_spool_bytes()
        if spool is None or spooler is None:
            return SpoolStatus(
                path=str(left.path),
                state="keeping",
                reason=left.reason,
                messages=0,
                size=0,
                most_size=most,
                oldest=None,
                damaged=0,
                kept=0,
                drained=0,
                refused=0,
                takes=False,
            )
        return SpoolStatus(
            path=spool.path,
            state=("draining" if spooler.is_draining else "keeping") if spool.messages else "empty",
            reason=spooler.keeping,
            messages=spool.messages,
            size=spool.size,
            most_size=most,
            oldest=None,
            damaged=spool.damaged,
            kept=0,
            drained=spool.counters.drained,
            refused=0,
            takes=False,
        )

    def _streams(self) -> StreamsStatus:
        streams, spool = self.parts.streams, self.parts.spool
        counters = streams.counters
        return StreamsStatus(
            open=streams.count,
            waiting=0 if spool is None else sum(spool.aside.values()),
            claims=counters.claims,
            taken_over=counters.taken_over,
            gaps=counters.gaps,
        )

    def _channels(self) -> Sequence[ChannelStatus]:
        channels = self.parts.channels
        subscribers = channels.subscribers
        return [
            ChannelStatus(
                name=name,
                subscribers=subscribers[name],
                notifications=counters.notifications,
                pushes=counters.pushes,
                gaps=counters.gaps,
            )
            for name, counters in channels.counters.items()
        ]


def _listener(service: ListenerService) -> ListenerStatus:
    factory, counters = service.factory, service.factory.counters
    most = factory.connection_limit.most
    return ListenerStatus(
        name=factory.listener,
        address=service.address,
        framing=factory.framing,
        dialect=factory.dialect_name,
        tls=service.is_tls,
        peers=factory.connection_limit.count,
        most_peers=None if most == inf else int(most),
        connections=counters.connections,
        messages=counters.messages,
        bytes_received=counters.bytes_received,
        answers=_answers(counters.answers),
        answer_seconds=_distribution(counters.answer_seconds),
        turned_away=dict(counters.turned_away),
        let_go=dict(counters.let_go),
        lost=dict(counters.lost),
        throttled=counters.throttled,
    )


def _pool(name: str, pool: Pool | Upstream, database: str = "") -> PoolStatus:
    figures = pool.figures
    return PoolStatus(
        name=name,
        most=pool.max,
        in_use=figures.in_use,
        idle=figures.idle,
        opening=figures.opening,
        waiting=figures.waiting,
        opened=figures.opened,
        lost=figures.lost,
        reconnects=figures.reconnects,
        trouble=figures.trouble,
        server=figures.server,
        database=database,
    )


def gateway_version() -> str:
    """Return the version of the gateway that is installed."""
    return version("txgateway")


def certificates_of(tls: TlsRegistry) -> list[CertificateStatus]:
    """Return the certificates, authorities and lists of all listeners and of the site."""
    return [
        CertificateStatus(listener=listener, kind=kind, subject=subject, expires=expires)
        for listener, kind, subject, expires in tls.expiries()
    ]


def process_status(reactor_lag: float, reactor_lags: Histogram) -> ProcessStatus:
    """
    Return the status of this process.

    @param reactor_lag: longest lag in the last minute, in seconds.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        open_files = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        # No file can be opened any more, which is the very thing to be shown.
        resident, open_files = usage.ru_maxrss * 1024, most_files
    return ProcessStatus(
        pid=os.getpid(),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        resident=resident,
        open_files=open_files,
        most_files=most_files,
        reactor_lag=reactor_lag,
        reactor_lags=_distribution(reactor_lags),
    )


def _answers(counted: Counter[Answer]) -> dict[str, int]:
    return {
        word.value if code is None else f"{word.value} {code.value}": count
        for (word, code), count in counted.items()
    }


def _distribution(histogram: Histogram) -> Distribution:
    return Distribution(
        bounds=histogram.bounds, counts=tuple(histogram.counts), total=histogram.total
    )
