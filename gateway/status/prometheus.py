"""
Metrics of the gateway in the text formats of Prometheus and OpenMetrics.

Strategy: a L{Status} is rendered at each scrape, so that metrics, status page and console agree;
nothing is counted here. docs/metrics.md lists every metric. The labels are few and their values
are configured names or words of ours, never a peer's, a stream's or an identity's, so that the
number of series has a bound.

@see: U{https://prometheus.io/docs/practices/naming/}
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.metrics.counters import ABANDONED, NOT_STORED, SPOOLED, STORED, WRITTEN_AGAIN
from gateway.model.route import HOME
from gateway.status.families import Sample, counter, gauge, histogram, single, states
from gateway.status.status import (
    ListenerStatus,
    PoolStatus,
    QueryStatus,
    ReplicaStatus,
    RouteState,
    RouteStatus,
    SpoolState,
    SpoolStatus,
    State,
    Status,
)
from gateway.status.warnings import CODES
from gateway.status.worker_metrics import label_worker, metrics_of_workers

ANSWERS: Final = ("+OK", "+DUP", "+QUE", "-REJ DATA", "-REJ CONSTRAINT", "-REJ FORMAT", "-TRY DOWN")
"""Answers that have a series before the first of them, since C{rate()} misses what begins at 1."""

FATES: Final = (STORED, WRITTEN_AGAIN, NOT_STORED, SPOOLED, ABANDONED)
"""What becomes of a batch whose outcome was unknown."""


OF_THE_WHOLE: Final = frozenset(
    f"gateway_{name}"
    for name in (
        *("build_info", "state", "storing", "taking", "warnings", "connections"),
        *("connections_max", "peers_max", "route_state", "certificate_expiry_timestamp_seconds"),
        *("answer_seconds", "commit_seconds", "batch_rows", "query_seconds", "channels"),
        *("unknown_outcomes", "unknown_outcomes_unresolved", "unknown_outcomes_resolved"),
    )
)
"""
Metrics that have no C{worker}: verdicts and limits, which are those of the whole gateway, and
histograms and unknown outcomes, which would be most of the series.
"""


def exposition(
    status: Status, accept: str, workers: Mapping[int, Status] = MappingProxyType({})
) -> tuple[bytes, str]:
    """
    Return the metrics of a status and of the process, and their content type.

    @param accept: value of the scrape's C{Accept} header; it chooses the format.
    @param workers: number of a worker -> its own status; empty: there are none.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status, workers))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class StatusCollector(Collector):
    """
    Collector of the metrics of one status, and of those of its workers.
    """

    def __init__(
        self, status: Status, workers: Mapping[int, Status] = MappingProxyType({})
    ) -> None:
        self._status = status
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        if not self._status.workers:
            yield from _all_of(self._status)
            return
        found: dict[str, Metric] = {
            metric.name: metric for metric in _all_of(self._status) if metric.name in OF_THE_WHOLE
        }
        for number, status in sorted(self._workers.items()):
            for metric in _all_of(status):
                if metric.name not in OF_THE_WHOLE:
                    label_worker(metric, number)
                    first = found.setdefault(metric.name, metric)
                    if first is not metric:
                        first.samples += metric.samples
        yield from found.values()
        yield from metrics_of_workers(self._status.workers)


def _all_of(status: Status) -> Iterator[Metric]:
    yield from _of_gateway(status)
    yield from _of_listeners(status.listeners)
    yield from _of_routes(status.routes)
    yield from _of_lanes(status)
    for name, begin in (("messages", "pool"), ("queries", "query_pool")):
        pools = [pool for pool in status.pools if pool.name == name]
        if pools:  # else no worker has told any
            yield from _of_pools(pools, begin)
    if status.replicas:
        yield from _of_replicas(status.replicas)
    if status.spool is not None:
        yield from _of_spool(status.spool)
    yield from _of_streams(status)
    yield from _of_queries(status.queries)
    yield from _of_channels(status)


def _of_gateway(status: Status) -> Iterator[Metric]:
    yield gauge(
        "build_info", "Version of the gateway.", [((status.version,), 1)], labels=("version",)
    )
    yield states("state", "State of the gateway's life.", [((), status.state)], get_args(State))
    yield gauge("storing", "Whether messages are stored now.", single(status.is_storing))
    yield gauge(
        "taking",
        "Whether messages are stored or spooled now, as /readyz.",
        single(status.is_taking),
    )
    warnings = Counter(dict.fromkeys(CODES, 0))
    warnings.update(warning.code for warning in status.warnings)
    yield gauge(
        "warnings",
        "Warnings of the status page, by their code.",
        [((code,), count) for code, count in warnings.items()],
        labels=("code",),
    )
    yield gauge("connections", "Connections of peers, admitted or not yet.", single(status.peers))
    yield gauge("connections_max", "Limit of connections of peers.", single(status.most_peers))
    memory = status.memory
    yield gauge("in_flight_bytes", "Bytes of unanswered messages.", single(memory.in_flight))
    yield gauge("kept_bytes", "Bytes that wait for peers themselves.", single(memory.kept))
    yield gauge(
        "in_flight_max_bytes",
        "Limit of gateway_in_flight_bytes and gateway_kept_bytes together.",
        single(memory.most),
    )
    yield gauge("in_flight_full", "Whether all peers wait at that limit.", single(memory.full))
    yield histogram(
        "reactor_lag_seconds",
        "How late a timer of one second was.",
        [((), status.process.reactor_lags)],
    )
    yield gauge(
        "reactor_lag_longest_seconds",
        "Longest lag of the reactor in the last minute.",
        single(status.process.reactor_lag),
    )
    expiries: defaultdict[str, float] = defaultdict(lambda: float("inf"))
    for certificate in status.certificates:
        expiries[certificate.listener] = min(expiries[certificate.listener], certificate.expires)
    yield gauge(
        "certificate_expiry_timestamp_seconds",
        "When the first certificate, authority or list of revoked ones of a listener expires.",
        [((listener,), expires) for listener, expires in expiries.items()],
        labels=("listener",),
    )


def _of_listeners(listeners: Sequence[ListenerStatus]) -> Iterator[Metric]:
    labels = ("listener",)

    def each(value: Callable[[ListenerStatus], float]) -> list[Sample]:
        return [((one.name,), value(one)) for one in listeners]

    yield gauge("peers", "Peers connected.", each(lambda one: one.peers), labels=labels)
    yield gauge(
        "peers_max",
        "Limit of a listener's peers, where it has one.",
        [((one.name,), one.most_peers) for one in listeners if one.most_peers is not None],
        labels=labels,
    )
    yield counter(
        "connections_accepted",
        "Connections of admitted peers.",
        each(lambda one: one.connections),
        labels=labels,
    )
    yield counter(
        "connections_refused",
        "Connections refused, by reason.",
        [
            ((one.name, reason), count)
            for one in listeners
            for reason, count in one.turned_away.items()
        ],
        labels=("listener", "reason"),
    )
    yield counter(
        "peers_disconnected",
        "Peers that the gateway disconnected, by reason.",
        [((one.name, reason), count) for one in listeners for reason, count in one.let_go.items()],
        labels=("listener", "reason"),
    )
    yield counter(
        "datagrams_lost",
        "Datagrams lost, by reason; no sender hears of it.",
        [((one.name, reason), count) for one in listeners for reason, count in one.lost.items()],
        labels=("listener", "reason"),
    )
    yield counter(
        "messages_received",
        "Frames received: messages, and commands where peers send commands.",
        each(lambda one: one.messages),
        labels=labels,
    )
    yield counter(
        "received_bytes",
        "Bytes received from admitted peers.",
        each(lambda one: one.bytes_received),
        labels=labels,
    )
    yield counter(
        "answers",
        "Answers by their word and code, those to refused connections included.",
        [
            ((one.name, *_word_and_code(answer)), count)
            for one in listeners
            for answer, count in (dict.fromkeys(ANSWERS, 0) | dict(one.answers)).items()
        ],
        labels=("listener", "word", "code"),
    )
    yield histogram(
        "answer_seconds",
        "Seconds from reading a message to its answer.",
        [((one.name,), one.answer_seconds) for one in listeners],
        labels=labels,
    )
    yield counter(
        "rate_limited",
        "Pauses of peers that were over their rate limit.",
        each(lambda one: one.throttled),
        labels=labels,
    )


def _of_routes(routes: Sequence[RouteStatus]) -> Iterator[Metric]:
    labels = ("route",)

    def each(value: Callable[[RouteStatus], float]) -> list[Sample]:
        return [((one.name,), value(one)) for one in routes]

    yield states(
        "route_state",
        "State of a route.",
        [((one.name,), one.state) for one in routes],
        get_args(RouteState),
        labels=labels,
    )
    yield counter("commits", "Batches committed.", each(lambda one: one.commits), labels=labels)
    yield counter(
        "committed_rows",
        "Messages stored by them, without those from the spool.",
        each(lambda one: one.rows),
        labels=labels,
    )
    yield histogram(
        "commit_seconds",
        "Seconds from a batch's first try to its commit.",
        [((one.name,), one.commit_seconds) for one in routes],
        labels=labels,
    )
    yield histogram(
        "batch_rows",
        "Messages in a committed batch.",
        [((one.name,), one.batch_rows) for one in routes],
        labels=labels,
    )
    yield counter(
        "unknown_outcomes",
        "Tries to commit whose reply was lost, so that they may have been committed.",
        each(lambda one: one.unknown),
        labels=labels,
    )
    yield gauge(
        "unknown_outcomes_unresolved",
        "Batches of which it is not known now whether they are stored.",
        each(lambda one: one.unresolved),
        labels=labels,
    )
    yield counter(
        "unknown_outcomes_resolved",
        "Batches with such a try, by what became of them.",
        [((one.name, fate), one.resolved.get(fate, 0)) for one in routes for fate in FATES],
        labels=("route", "outcome"),
    )
    yield counter(
        "dead_letters",
        "Refused messages that were kept as dead letters.",
        each(lambda one: one.dead_letters),
        labels=labels,
    )
    yield gauge(
        "spool_messages",
        "Messages that wait in the spool.",
        each(lambda one: one.spooled),
        labels=labels,
    )


def _of_lanes(status: Status) -> Iterator[Metric]:
    lanes = status.lanes
    yield gauge("lanes", "Lanes: logical writers of batches.", single(len(lanes)))
    yield gauge(
        "lanes_busy", "Lanes with messages.", single(sum(lane.waiting > 0 for lane in lanes))
    )
    yield gauge(
        "lane_messages",
        "Messages queued and in flight on all lanes.",
        single(sum(lane.waiting for lane in lanes)),
    )
    yield gauge(
        "commit_in_flight_seconds",
        "Age of the oldest batch in flight; 0 where there is none.",
        single(max((lane.seconds for lane in lanes), default=0.0)),
    )


def _of_pools(pools: Sequence[PoolStatus], begin: str) -> Iterator[Metric]:
    """
    Return the metrics of pools of one kind; their databases are told apart where there are several.
    """
    of = f"of the pool for {pools[0].name}"
    labels = ("database",) if len(pools) > 1 else ()

    def each(value: Callable[[PoolStatus], float]) -> list[Sample]:
        return [((pool.database or HOME,) if labels else (), value(pool)) for pool in pools]

    states: tuple[tuple[str, Callable[[PoolStatus], float]], ...] = (
        ("in_use", lambda pool: pool.in_use),
        ("idle", lambda pool: pool.idle),
        ("opening", lambda pool: pool.opening),
    )
    yield gauge(
        f"{begin}_connections",
        f"Connections {of}, by state.",
        [((*values, state), count) for state, value in states for values, count in each(value)],
        labels=(*labels, "state"),
    )
    yield gauge(
        f"{begin}_connections_max",
        f"Limit of connections {of}.",
        each(lambda pool: pool.most),
        labels=labels,
    )
    yield gauge(
        f"{begin}_waiting",
        f"Callers that wait for a connection {of}.",
        each(lambda pool: pool.waiting),
        labels=labels,
    )
    yield gauge(
        f"{begin}_reachable",
        f"Whether there are connections {of}, or can be, as far as is known.",
        each(lambda pool: pool.is_reached),
        labels=labels,
    )
    yield counter(
        f"{begin}_connections_opened",
        f"Connections {of} that were opened.",
        each(lambda pool: pool.opened),
        labels=labels,
    )
    yield counter(
        f"{begin}_connections_lost",
        f"Connections {of} that were lost.",
        each(lambda pool: pool.lost),
        labels=labels,
    )
    yield counter(
        f"{begin}_reconnects",
        f"Connections {of} that were opened after all had been lost.",
        each(lambda pool: pool.reconnects),
        labels=labels,
    )


def _of_replicas(replicas: Sequence[ReplicaStatus]) -> Iterator[Metric]:
    labels = ("database",)
    yield gauge(
        "replica_used",
        "Whether a standby answers its queries; else [database] does.",
        [((one.name,), float(one.is_used)) for one in replicas],
        labels=labels,
    )
    yield gauge(
        "replica_lag_seconds",
        "How far a standby is behind, at most; no sample where that is not known.",
        [((one.name,), one.lag) for one in replicas if one.lag is not None],
        labels=labels,
    )
    yield counter(
        "replica_passed_over",
        "Calls that [database] answered in place of a standby.",
        [((one.name,), one.passed_over) for one in replicas],
        labels=labels,
    )


def _of_spool(spool: SpoolStatus) -> Iterator[Metric]:
    yield states("spool_state", "State of the spool.", [((), spool.state)], get_args(SpoolState))
    yield gauge("spool_size_bytes", "Size of the spool on disk.", single(spool.size))
    yield gauge("spool_max_bytes", "Limit of the spool's size.", single(spool.most_size))
    yield gauge(
        "spool_oldest_timestamp_seconds",
        "When the oldest message in the spool came; no sample while it is empty.",
        [] if spool.oldest is None else single(spool.oldest),
    )
    yield gauge(
        "spool_damaged_messages",
        "Messages of the spool that are set aside because they are damaged.",
        single(spool.damaged),
    )
    yield counter("spool_kept", "Messages put into the spool.", single(spool.kept))
    yield counter(
        "spool_drained",
        "Messages that left the spool: stored, or kept as dead letters.",
        single(spool.drained),
    )
    yield counter(
        "spool_refused",
        "Messages for which the spool had no room, or that it could not write.",
        single(spool.refused),
    )


def _of_streams(status: Status) -> Iterator[Metric]:
    streams = status.streams
    yield gauge("streams_open", "Numbered streams that are open.", single(streams.open))
    yield gauge(
        "streams_waiting_messages",
        "Messages in the spool that wait for earlier ones of their stream.",
        single(streams.waiting),
    )
    yield counter("stream_claims", "Streams that were opened.", single(streams.claims))
    yield counter(
        "streams_taken_over",
        "Streams that were opened while another connection had them.",
        single(streams.taken_over),
    )
    yield counter(
        "stream_gaps",
        "Claims refused and streams closed since the database has not got what is before.",
        single(streams.gaps),
    )


def _of_queries(queries: Sequence[QueryStatus]) -> Iterator[Metric]:
    found: list[Sample] = []
    for query in queries:
        outcomes = defaultdict[str, float](float, {"OK": 0})
        for answer, count in query.answers.items():
            word, code = _word_and_code(answer)
            outcomes[code or word.removeprefix("+")] += count
        found += [((query.name, outcome), count) for outcome, count in outcomes.items()]
    yield counter(
        "query_answers",
        "Answers to calls of a query: OK, or the code of the refusal.",
        found,
        labels=("query", "outcome"),
    )
    yield histogram(
        "query_seconds",
        "Seconds from a call to its answer.",
        [((query.name,), query.seconds) for query in queries],
        labels=("query",),
    )


def _of_channels(status: Status) -> Iterator[Metric]:
    channels = status.channels
    yield gauge("channels", "Channels that peers may listen to.", single(len(channels)))
    yield gauge(
        "channel_subscribers",
        "Peers that listen, counted once for each channel.",
        single(sum(one.subscribers for one in channels)),
    )
    yield counter(
        "channel_notifications",
        "Notifications that the database sent.",
        single(sum(one.notifications for one in channels)),
    )
    yield counter(
        "channel_pushes",
        "Copies of notifications that were sent to peers.",
        single(sum(one.pushes for one in channels)),
    )
    yield counter(
        "channel_gaps",
        "How often notifications may have been missed, which subscribers are told.",
        single(sum(one.gaps for one in channels)),
    )


def _word_and_code(answer: str) -> tuple[str, str]:
    word, _, code = answer.partition(" ")
    return word, code
