"""
Merging of the status of several workers into one of the whole gateway. Pure.

Strategy: the fields of each part are named once, by what becomes of them. Totals and levels are
added; a total goes on where the worker that ended had it, a level ends with its worker. Of states
the worst counts, and a text names its workers where it is not that of all of them. Workers are
taken in the order of their numbers, so that the order in which they told makes no difference.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.status.status import (
    CertificateStatus,
    ChannelStatus,
    Distribution,
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
    Warning,
)
from gateway.status.warnings import CODES

_STATES: Final[Sequence[State]] = ("ready", "draining", "starting")
"""The first of them that a worker is in is that of the whole."""

_ROUTE_STATES: Final[Sequence[RouteState]] = (
    *("out of service", "paused", "opening", "in service", "removed"),
)
"""The gravest first."""

_SPOOL_STATES: Final[Sequence[SpoolState]] = ("refusing", "keeping", "draining", "empty")
"""The gravest first."""

Part = TypeVar("Part", bound=Struct)


@dataclass(frozen=True, slots=True)
class Fields:
    """
    Fields of one part of the status that are added up.

    @ivar totals: numbers that only grow.
    @ivar counted: such numbers by their kind.
    @ivar measured: histograms.
    @ivar levels: numbers that go up and down, and are 0 where there is no worker.
    """

    totals: Sequence[str] = ()
    counted: Sequence[str] = ()
    measured: Sequence[str] = ()
    levels: Sequence[str] = ()


FIELDS: Final[Mapping[type[Struct], Fields]] = {
    ListenerStatus: Fields(
        totals=("connections", "messages", "bytes_received", "throttled"),
        counted=("answers", "turned_away", "let_go", "lost"),
        measured=("answer_seconds",),
        levels=("peers",),
    ),
    RouteStatus: Fields(
        totals=("commits", "rows", "unknown", "dead_letters"),
        counted=("resolved",),
        measured=("commit_seconds", "batch_rows"),
        levels=("unresolved", "spooled", "held"),
    ),
    PoolStatus: Fields(
        totals=("opened", "lost", "reconnects"),
        levels=("most", "in_use", "idle", "opening", "waiting"),
    ),
    SpoolStatus: Fields(
        totals=("kept", "drained", "refused"),
        levels=("messages", "size", "most_size", "damaged"),
    ),
    StreamsStatus: Fields(totals=("claims", "taken_over", "gaps"), levels=("open", "waiting")),
    QueryStatus: Fields(counted=("answers",), measured=("seconds",)),
    ReplicaStatus: Fields(totals=("passed_over",)),
    ChannelStatus: Fields(totals=("notifications", "pushes", "gaps"), levels=("subscribers",)),
    MemoryStatus: Fields(levels=("in_flight", "kept", "most")),
    ProcessStatus: Fields(
        totals=("cpu_seconds",),
        measured=("reactor_lags",),
        levels=("resident", "open_files", "most_files"),
    ),
}
"""Part of the status -> what is added up of it."""


def merged(statuses: Mapping[int, Status], workers: int = 0) -> Status:
    """
    Return the status of all workers together.

    It is storing and taking while one of them is: a balancer that looks at C{/readyz} must not take
    the whole gateway out of service for one worker.

    @param statuses: number of a worker -> its status; at least one.
    @param workers: how many there are, where some have told nothing.
    """
    numbers = sorted(statuses)
    found = [statuses[number] for number in numbers]
    first = found[0]
    workers = max(workers, len(found))
    if workers == 1:
        return first

    def rows(parts: Callable[[Status], Sequence[Any]]) -> list[dict[int, Any]]:
        """Return, for each name in the order of its first worker, its parts by worker."""
        named: defaultdict[str, dict[int, Any]] = defaultdict(dict)
        for number in numbers:
            for part in parts(statuses[number]):
                named[_name(part)][number] = part
        return [*named.values()]

    spools = {n: spool for n, status in statuses.items() if (spool := status.spool) is not None}
    return replace(
        first,
        state=min((status.state for status in found), key=_STATES.index),
        is_storing=any(status.is_storing for status in found),
        is_taking=any(status.is_taking for status in found),
        reasons=lines_of_workers({n: statuses[n].reasons for n in numbers}, workers),
        time=max(status.time for status in found),
        started=min(status.started for status in found),
        warnings=_warnings({n: statuses[n].warnings for n in numbers}, workers),
        peers=sum(status.peers for status in found),
        most_peers=max(status.most_peers for status in found),
        listeners=[_listener(parts) for parts in rows(lambda status: status.listeners)],
        routes=[_route(parts, workers) for parts in rows(lambda status: status.routes)],
        pools=[_pool(parts, workers) for parts in rows(lambda status: status.pools)],
        lanes=[lane for status in found for lane in status.lanes],
        spool=_spool(spools) if spools else None,
        left_spools=[spool for status in found for spool in status.left_spools],
        streams=_summed([status.streams for status in found]),
        queries=[_summed([*parts.values()]) for parts in rows(lambda status: status.queries)],
        channels=[_summed([*parts.values()]) for parts in rows(lambda status: status.channels)],
        certificates=_certificates(found),
        memory=replace(
            _summed([status.memory for status in found]),
            full=any(status.memory.full for status in found),
        ),
        process=process_of([status.process for status in found]),
        replicas=[_replica(parts, workers) for parts in rows(lambda status: status.replicas)],
    )


def process_of(processes: Sequence[ProcessStatus]) -> ProcessStatus:
    """Return all processes as one, with the first one's ID."""
    lag = max(process.reactor_lag for process in processes)
    return replace(_summed(processes), reactor_lag=lag)


def resumed(status: Status, before: Status) -> Status:
    """
    Return the status of a worker with its totals on top of those of the one before it.

    @param before: the last status of the one before it, itself with those of all before that one.
    """

    def rows(now: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        kept = {_name(part): part for part in then}
        return [_totalled(part, kept[_name(part)]) if _name(part) in kept else part for part in now]

    spool = status.spool
    if spool is not None and before.spool is not None:
        spool = _totalled(spool, before.spool)
    return replace(
        status,
        listeners=rows(status.listeners, before.listeners),
        routes=rows(status.routes, before.routes),
        pools=rows(status.pools, before.pools),
        spool=spool,
        streams=_totalled(status.streams, before.streams),
        queries=rows(status.queries, before.queries),
        channels=rows(status.channels, before.channels),
        process=_totalled(status.process, before.process),
        replicas=rows(status.replicas, before.replicas),
    )


def remains(status: Status, reason: str) -> Status:
    """
    Return what is left of the status of a worker that ended: its totals, and what waits in its
    spool until its successor stores it.

    @param reason: why nothing is stored from there now.
    """

    def waiting(spool: SpoolStatus) -> SpoolStatus:
        if not spool.messages:
            return replace(spool, state="empty", reason="")
        return replace(spool, state="keeping", reason=reason)

    return replace(
        status,
        state="starting",
        is_storing=False,
        is_taking=False,
        reasons=(reason,),
        warnings=(),
        peers=0,
        listeners=[_ended(part) for part in status.listeners],
        # The mildest state: others say how the route is.
        routes=[
            replace(_ended(part), state="removed", reason="", spooled=part.spooled)
            for part in status.routes
        ],
        pools=[replace(_ended(part), trouble="") for part in status.pools],
        lanes=(),
        spool=None if status.spool is None else waiting(status.spool),
        left_spools=[waiting(spool) for spool in status.left_spools],
        streams=_ended(status.streams),
        queries=[_ended(part) for part in status.queries],
        channels=[_ended(part) for part in status.channels],
        memory=replace(_ended(status.memory), full=False),
        process=replace(_ended(status.process), reactor_lag=0.0),
        replicas=[replace(part, is_used=True, reason="", lag=None) for part in status.replicas],
    )


def _name(part: Any) -> str:
    """Return what a part is known by among those of its kind."""
    return part.full_name if isinstance(part, PoolStatus) else str(part.name)


def _listener(parts: Mapping[int, ListenerStatus]) -> ListenerStatus:
    found = [*parts.values()]
    mosts = [part.most_peers for part in found if part.most_peers is not None]
    return replace(
        _summed(found),
        address=next((part.address for part in found if part.address), ""),
        most_peers=max(mosts, default=None),
    )


def _route(parts: Mapping[int, RouteStatus], workers: int) -> RouteStatus:
    state = min((part.state for part in parts.values()), key=_ROUTE_STATES.index)
    reasons = {n: part.reason for n, part in parts.items() if part.state == state}
    table = next((part.table for part in parts.values() if part.table), "")
    return replace(
        _summed([*parts.values()]), state=state, reason=_told(reasons, workers), table=table
    )


def _pool(parts: Mapping[int, PoolStatus], workers: int) -> PoolStatus:
    return replace(
        _summed([*parts.values()]),
        trouble=_told({number: part.trouble for number, part in parts.items()}, workers),
        server=next((part.server for part in parts.values() if part.server), ""),
    )


def _replica(parts: Mapping[int, ReplicaStatus], workers: int) -> ReplicaStatus:
    lags = [part.lag for part in parts.values() if part.lag is not None]
    return replace(
        _summed([*parts.values()]),
        is_used=all(part.is_used for part in parts.values()),
        reason=_told({number: part.reason for number, part in parts.items()}, workers),
        lag=max(lags, default=None),
    )


def _spool(parts: Mapping[int, SpoolStatus]) -> SpoolStatus:
    numbers = sorted(parts)
    found = [parts[number] for number in numbers]
    state = min((part.state for part in found), key=_SPOOL_STATES.index)
    reasons = {number: parts[number].reason for number in numbers if parts[number].state == state}
    return replace(
        _summed(found),
        path=", ".join(dict.fromkeys(part.path for part in found)),
        state=state,
        reason=_told(reasons, len(found)),
        oldest=min((part.oldest for part in found if part.oldest is not None), default=None),
        takes=any(part.takes for part in found),
    )


def _certificates(statuses: Iterable[Status]) -> list[CertificateStatus]:
    found: dict[tuple[str, str, str, float], CertificateStatus] = {}
    for status in statuses:
        for one in status.certificates:
            found.setdefault((one.listener, one.kind, one.subject, one.expires), one)
    return [*found.values()]


def _warnings(warnings: Mapping[int, Sequence[Warning]], workers: int) -> list[Warning]:
    """Return the warnings of all, each once, the gravest first."""
    who: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, some in warnings.items():
        for one in some:
            numbers = who[one.code, one.subject, one.text]
            if number not in numbers:
                numbers.append(number)
    found = [
        Warning(code=code, subject=subject, text=_of(numbers, workers) + text)
        for (code, subject, text), numbers in who.items()
    ]
    order = {code: place for place, code in enumerate(CODES)}
    return sorted(found, key=lambda one: order.get(one.code, len(order)))


def lines_of_workers(lines: Mapping[int, Sequence[str]], workers: int) -> list[str]:
    """
    Return the lines of all workers, each once, with the numbers of those that tell it.

    @param workers: how many there are; what all of them tell has no numbers.
    """
    who: defaultdict[str, list[int]] = defaultdict(list)
    for number, some in lines.items():
        for line in dict.fromkeys(some):
            who[line].append(number)
    return [_of(numbers, workers) + line for line, numbers in who.items()]


def _told(texts: Mapping[int, str], workers: int) -> str:
    """Return what some workers tell as one text."""
    return "; ".join(lines_of_workers({n: [text] for n, text in texts.items() if text}, workers))


def _of(numbers: Sequence[int], workers: int) -> str:
    """Return the name of some of the workers, to begin a line with; C{""}: it is all of them."""
    if len(numbers) == workers:
        return ""
    names = ", ".join(map(str, sorted(numbers)))
    return f"worker{'s' if len(numbers) > 1 else ''} {names}: "


def _summed(parts: Sequence[Part]) -> Part:
    """Return the first part with the sums of all."""
    first = parts[0]
    if len(parts) == 1:
        return first
    fields = FIELDS[type(first)]
    sums = {name: sum(getattr(part, name) for part in parts) for name in fields.levels}
    return replace(first, **_totals(parts, fields), **sums)


def _totalled(part: Part, before: Part) -> Part:
    """Return a part with its totals, and only these, on top of those of the one before."""
    return replace(part, **_totals([part, before], FIELDS[type(part)]))


def _ended(part: Part) -> Part:
    """Return a part with its totals alone."""
    return replace(part, **dict.fromkeys(FIELDS[type(part)].levels, 0))


def _totals(parts: Sequence[Struct], fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: sum(getattr(part, name) for part in parts) for name in fields.totals
    }
    for name in fields.counted:
        counts = Counter[str]()
        for part in parts:
            counts.update(getattr(part, name))
        found[name] = dict(counts)
    for name in fields.measured:
        found[name] = _distribution([getattr(part, name) for part in parts])
    return found


def _distribution(parts: Sequence[Distribution]) -> Distribution:
    """
    Return histograms of the same buckets as one.
    """
    return Distribution(
        bounds=parts[0].bounds,
        counts=[sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)],
        total=sum(part.total for part in parts),
    )
