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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.config.load import HOME
from gateway.metrics.counters import ABANDONED, NOT_STORED, SPOOLED, STORED, WRITTEN_AGAIN
from gateway.status.status import (
    Distribution,
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

ANSWERS: Final = ("+OK", "+DUP", "+QUE", "-REJ DATA", "-REJ CONSTRAINT", "-REJ FORMAT", "-TRY DOWN")
"""Answers that have a series before the first of them, since C{rate()} misses what begins at 1."""

FATES: Final = (STORED, WRITTEN_AGAIN, NOT_STORED, SPOOLED, ABANDONED)
"""What becomes of a batch whose outcome was unknown."""

Sample = tuple[Sequence[str], float]
"""Values of a metric's labels, and its value."""


def exposition(status: Status, accept: str) -> tuple[bytes, str]:
    """
    Return the metrics of a status and of the process, and their content type.

    @param accept: value of the scrape's C{Accept} header; it chooses the format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class StatusCollector(Collector):
    """
    Collector of the metrics of one status.
    """

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        status = self._status
        yield from _of_gateway(status)
        yield from _of_listeners(status.listeners)
        yield from _of_routes(status.routes)
        yield from _of_lanes(status)
        for name, begin in (("messages", "pool"), ("queries", "query_pool")):
            yield from _of_pools([pool for pool in status.pools if pool.name == name], begin)
        if status.replicas:
            yield from _of_replicas(status.replicas)
        if status.spool is not None:
            yield from _of_spool(status.spool)
        yield from _of_streams(status)
        yield from _of_queries(status.queries)
        yield from _of_channels(status)


def _of_gateway(status: Status) -> Iterator[Metric]:
    yield _gauge(
        "build_info", "Version of the gateway.", [((status.version,), 1)], labels=("version",)
    )
    yield _states("state", "State of the gateway's life.", [((), status.state)], get_args(State))
    yield _gauge("storing", "Whether messages are stored now.", _one(status.is_storing))
    yield _gauge(
        "taking", "Whether messages are stored or spooled now, as /readyz.", _one(status.is_taking)
    )
    warnings = Counter(dict.fromkeys(CODES, 0))
    warnings.update(warning.code for warning in status.warnings)
    yield _gauge(
        "warnings",
        "Warnings of the status page, by their code.",
        [((code,), count) for code, count in warnings.items()],
        labels=("code",),
    )
    yield _gauge("connections", "Connections of peers, admitted or not yet.", _one(status.peers))
    yield _gauge("connections_max", "Limit of connections of peers.", _one(status.most_peers))
    memory = status.memory
    yield _gauge("in_flight_bytes", "Bytes of unanswered messages.", _one(memory.in_flight))
    yield _gauge("kept_bytes", "Bytes that wait for peers themselves.", _one(memory.kept))
    yield _gauge(
        "in_flight_max_bytes",
        "Limit of gateway_in_flight_bytes and gateway_kept_bytes together.",
        _one(memory.most),
    )
    yield _gauge("in_flight_full", "Whether all peers wait at that limit.", _one(memory.full))
    yield _histogram(
        "reactor_lag_seconds",
        "How late a timer of one second was.",
        [((), status.process.reactor_lags)],
    )
    yield _gauge(
        "reactor_lag_longest_seconds",
        "Longest lag of the reactor in the last minute.",
        _one(status.process.reactor_lag),
    )
    expiries: defaultdict[str, float] = defaultdict(lambda: float("inf"))
    for certificate in status.certificates:
        expiries[certificate.listener] = min(expiries[certificate.listener], certificate.expires)
    yield _gauge(
        "certificate_expiry_timestamp_seconds",
        "When the first certificate, authority or list of revoked ones of a listener expires.",
        [((listener,), expires) for listener, expires in expiries.items()],
        labels=("listener",),
    )


def _of_listeners(listeners: Sequence[ListenerStatus]) -> Iterator[Metric]:
    labels = ("listener",)

    def each(value: Callable[[ListenerStatus], float]) -> list[Sample]:
        return [((one.name,), value(one)) for one in listeners]

    yield _gauge("peers", "Peers connected.", each(lambda one: one.peers), labels=labels)
    yield _gauge(
        "peers_max",
        "Limit of a listener's peers, where it has one.",
        [((one.name,), one.most_peers) for one in listeners if one.most_peers is not None],
        labels=labels,
    )
    yield _counter(
        "connections_accepted",
        "Connections of admitted peers.",
        each(lambda one: one.connections),
        labels=labels,
    )
    yield _counter(
        "connections_refused",
        "Connections refused, by reason.",
        [
            ((one.name, reason), count)
            for one in listeners
            for reason, count in one.turned_away.items()
        ],
        labels=("listener", "reason"),
    )
    yield _counter(
        "peers_disconnected",
        "Peers that the gateway disconnected, by reason.",
        [((one.name, reason), count) for one in listeners for reason, count in one.let_go.items()],
        labels=("listener", "reason"),
    )
    yield _counter(
        "datagrams_lost",
        "Datagrams lost, by reason; no sender hears of it.",
        [((one.name, reason), count) for one in listeners for reason, count in one.lost.items()],
        labels=("listener", "reason"),
    )
    yield _counter(
        "messages_received",
        "Frames received: messages, and commands where peers send commands.",
        each(lambda one: one.messages),
        labels=labels,
    )
    yield _counter(
        "received_bytes",
        "Bytes received from admitted peers.",
        each(lambda one: one.bytes_received),
        labels=labels,
    )
    yield _counter(
        "answers",
        "Answers by their word and code, those to refused connections included.",
        [
            ((one.name, *_word_and_code(answer)), count)
            for one in listeners
            for answer, count in (dict.fromkeys(ANSWERS, 0) | dict(one.answers)).items()
        ],
        labels=("listener", "word", "code"),
    )
    yield _histogram(
        "answer_seconds",
        "Seconds from reading a message to its answer.",
        [((one.name,), one.answer_seconds) for one in listeners],
        labels=labels,
    )
    yield _counter(
        "rate_limited",
        "Pauses of peers that were over their rate limit.",
        each(lambda one: one.throttled),
        labels=labels,
    )


def _of_routes(routes: Sequence[RouteStatus]) -> Iterator[Metric]:
    labels = ("route",)

    def each(value: Callable[[RouteStatus], float]) -> list[Sample]:
        return [((one.name,), value(one)) for one in routes]

    yield _states(
        "route_state",
        "State of a route.",
        [((one.name,), one.state) for one in routes],
        get_args(RouteState),
        labels=labels,
    )
    yield _counter("commits", "Batches committed.", each(lambda one: one.commits), labels=labels)
    yield _counter(
        "committed_rows",
        "Messages stored by them, without those from the spool.",
        each(lambda one: one.rows),
        labels=labels,
    )
    yield _histogram(
        "commit_seconds",
        "Seconds from a batch's first try to its commit.",
        [((one.name,), one.commit_seconds) for one in routes],
        labels=labels,
    )
    yield _histogram(
        "batch_rows",
        "Messages in a committed batch.",
        [((one.name,), one.batch_rows) for one in routes],
        labels=labels,
    )
    yield _counter(
        "unknown_outcomes",
        "Tries to commit whose reply was lost, so that they may have been committed.",
        each(lambda one: one.unknown),
        labels=labels,
    )
    yield _gauge(
        "unknown_outcomes_unresolved",
        "Batches of which it is not known now whether they are stored.",
        each(lambda one: one.unresolved),
        labels=labels,
    )
    yield _counter(
        "unknown_outcomes_resolved",
        "Batches with such a try, by what became of them.",
        [((one.name, fate), one.resolved.get(fate, 0)) for one in routes for fate in FATES],
        labels=("route", "outcome"),
    )
    yield _counter(
        "dead_letters",
        "Refused messages that were kept as dead letters.",
        each(lambda one: one.dead_letters),
        labels=labels,
    )
    yield _gauge(
        "spool_messages",
        "Messages that wait in the spool.",
        each(lambda one: one.spooled),
        labels=labels,
    )


def _of_lanes(status: Status) -> Iterator[Metric]:
    lanes = status.lanes
    yield _gauge("lanes", "Lanes: logical writers of batches.", _one(len(lanes)))
    yield _gauge(
        "lanes_busy", "Lanes with messages.", _one(sum(lane.waiting > 0 for lane in lanes))
    )
    yield _gauge(
        "lane_messages",
        "Messages queued and in flight on all lanes.",
        _one(sum(lane.waiting for lane in lanes)),
    )
    yield _gauge(
        "commit_in_flight_seconds",
        "Age of the oldest batch in flight; 0 where there is none.",
        _one(max((lane.seconds for lane in lanes), default=0.0)),
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
    yield _gauge(
        f"{begin}_connections",
        f"Connections {of}, by state.",
        [((*values, state), count) for state, value in states for values, count in each(value)],
        labels=(*labels, "state"),
    )
    yield _gauge(
        f"{begin}_connections_max",
        f"Limit of connections {of}.",
        each(lambda pool: pool.most),
        labels=labels,
    )
    yield _gauge(
        f"{begin}_waiting",
        f"Callers that wait for a connection {of}.",
        each(lambda pool: pool.waiting),
        labels=labels,
    )
    yield _gauge(
        f"{begin}_reachable",
        f"Whether there are connections {of}, or can be, as far as is known.",
        each(lambda pool: pool.is_reached),
        labels=labels,
    )
    yield _counter(
        f"{begin}_connections_opened",
        f"Connections {of} that were opened.",
        each(lambda pool: pool.opened),
        labels=labels,
    )
    yield _counter(
        f"{begin}_connections_lost",
        f"Connections {of} that were lost.",
        each(lambda pool: pool.lost),
        labels=labels,
    )
    yield _counter(
        f"{begin}_reconnects",
        f"Connections {of} that were opened after all had been lost.",
        each(lambda pool: pool.reconnects),
        labels=labels,
    )


def _of_replicas(replicas: Sequence[ReplicaStatus]) -> Iterator[Metric]:
    labels = ("database",)
    yield _gauge(
        "replica_used",
        "Whether a standby answers its queries; else [database] does.",
        [((one.name,), float(one.is_used)) for one in replicas],
        labels=labels,
    )
    yield _gauge(
        "replica_lag_seconds",
        "How far a standby is behind, at most; no sample where that is not known.",
        [((one.name,), one.lag) for one in replicas if one.lag is not None],
        labels=labels,
    )
    yield _counter(
        "replica_passed_over",
        "Calls that [database] answered in place of a standby.",
        [((one.name,), one.passed_over) for one in replicas],
        labels=labels,
    )


def _of_spool(spool: SpoolStatus) -> Iterator[Metric]:
    yield _states("spool_state", "State of the spool.", [((), spool.state)], get_args(SpoolState))
    yield _gauge("spool_size_bytes", "Size of the spool on disk.", _one(spool.size))
    yield _gauge("spool_max_bytes", "Limit of the spool's size.", _one(spool.most_size))
    yield _gauge(
        "spool_oldest_timestamp_seconds",
        "When the oldest message in the spool came; no sample while it is empty.",
        [] if spool.oldest is None else _one(spool.oldest),
    )
    yield _gauge(
        "spool_damaged_messages",
        "Messages of the spool that are set aside because they are damaged.",
        _one(spool.damaged),
    )
    yield _counter("spool_kept", "Messages put into the spool.", _one(spool.kept))
    yield _counter(
        "spool_drained",
        "Messages that left the spool: stored, or kept as dead letters.",
        _one(spool.drained),
    )
    yield _counter(
        "spool_refused",
        "Messages for which the spool had no room, or that it could not write.",
        _one(spool.refused),
    )


def _of_streams(status: Status) -> Iterator[Metric]:
    streams = status.streams
    yield _gauge("streams_open", "Numbered streams that are open.", _one(streams.open))
    yield _gauge(
        "streams_waiting_messages",
        "Messages in the spool that wait for earlier ones of their stream.",
        _one(streams.waiting),
    )
    yield _counter("stream_claims", "Streams that were opened.", _one(streams.claims))
    yield _counter(
        "streams_taken_over",
        "Streams that were opened while another connection had them.",
        _one(streams.taken_over),
    )
    yield _counter(
        "stream_gaps",
        "Claims refused and streams closed since the database has not got what is before.",
        _one(streams.gaps),
    )


def _of_queries(queries: Sequence[QueryStatus]) -> Iterator[Metric]:
    found: list[Sample] = []
    for query in queries:
        outcomes = defaultdict[str, float](float, {"OK": 0})
        for answer, count in query.answers.items():
            word, code = _word_and_code(answer)
            outcomes[code or word.removeprefix("+")] += count
        found += [((query.name, outcome), count) for outcome, count in outcomes.items()]
    yield _counter(
        "query_answers",
        "Answers to calls of a query: OK, or the code of the refusal.",
        found,
        labels=("query", "outcome"),
    )
    yield _histogram(
        "query_seconds",
        "Seconds from a call to its answer.",
        [((query.name,), query.seconds) for query in queries],
        labels=("query",),
    )


def _of_channels(status: Status) -> Iterator[Metric]:
    channels = status.channels
    yield _gauge("channels", "Channels that peers may listen to.", _one(len(channels)))
    yield _gauge(
        "channel_subscribers",
        "Peers that listen, counted once for each channel.",
        _one(sum(one.subscribers for one in channels)),
    )
    yield _counter(
        "channel_notifications",
        "Notifications that the database sent.",
        _one(sum(one.notifications for one in channels)),
    )
    yield _counter(
        "channel_pushes",
        "Copies of notifications that were sent to peers.",
        _one(sum(one.pushes for one in channels)),
    )
    yield _counter(
        "channel_gaps",
        "How often notifications may have been missed, which subscribers are told.",
        _one(sum(one.gaps for one in channels)),
    )


def _word_and_code(answer: str) -> tuple[str, str]:
    word, _, code = answer.partition(" ")
    return word, code


def _one(value: float) -> list[Sample]:
    return [((), float(value))]


def _gauge(
    name: str, text: str, samples: Iterable[Sample], *, labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    metric = GaugeMetricFamily(f"gateway_{name}", text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric


def _counter(
    name: str, text: str, samples: Iterable[Sample], *, labels: Sequence[str] = ()
) -> CounterMetricFamily:
    metric = CounterMetricFamily(f"gateway_{name}", text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric


def _states(
    name: str,
    text: str,
    current: Iterable[tuple[Sequence[str], str]],
    states: Sequence[str],
    *,
    labels: Sequence[str] = (),
) -> GaugeMetricFamily:
    """
    Return a gauge with a series for each state, which is 1 for the current one, else 0.
    """
    samples = [
        ((*values, state), float(state == now)) for values, now in current for state in states
    ]
    return _gauge(name, f"{text} 1: it is this one.", samples, labels=(*labels, "state"))


def _histogram(
    name: str,
    text: str,
    distributions: Iterable[tuple[Sequence[str], Distribution]],
    *,
    labels: Sequence[str] = (),
) -> HistogramMetricFamily:
    metric = HistogramMetricFamily(f"gateway_{name}", text, labels=labels)
    for values, one in distributions:
        bounds = [*(str(float(bound)) for bound in one.bounds), "+Inf"]
        metric.add_metric(values, list(zip(bounds, accumulate(one.counts), strict=True)), one.total)
    return metric
