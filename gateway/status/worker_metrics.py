"""
Metrics of workers: those that each has of its own, and the label that tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import Metric

from gateway.status.families import Sample, counter, gauge
from gateway.status.status import ProcessStatus, WorkerStatus


def metrics_of_workers(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """Return the metrics of all worker processes."""
    labels = ("worker",)

    def each(value: Callable[[ProcessStatus], float]) -> list[Sample]:
        return [
            ((str(one.number),), value(one.process)) for one in workers if one.process is not None
        ]

    yield gauge(
        "worker_up",
        "Whether the worker's process is there and has told its status.",
        [((str(one.number),), one.read is not None) for one in workers],
        labels=labels,
    )
    yield counter(
        "worker_restarts",
        "Processes that were started in place of one that ended.",
        [((str(one.number),), one.restarts) for one in workers],
        labels=labels,
    )
    yield gauge(
        "worker_start_timestamp_seconds",
        "When the worker's process began.",
        [((str(one.number),), one.started) for one in workers if one.started is not None],
        labels=labels,
    )
    yield counter(
        "worker_cpu_seconds",
        "Processor time that the worker used, with those before it.",
        each(lambda one: one.cpu_seconds),
        labels=labels,
    )
    yield gauge(
        "worker_resident_memory_bytes",
        "Memory that the worker uses.",
        each(lambda one: one.resident),
        labels=labels,
    )
    yield gauge(
        "worker_open_fds",
        "Files and sockets that the worker has open.",
        each(lambda one: one.open_files),
        labels=labels,
    )
    yield gauge(
        "worker_max_fds",
        "Limit of gateway_worker_open_fds.",
        each(lambda one: one.most_files),
        labels=labels,
    )


def label_worker(metric: Metric, worker: int) -> None:
    """Give each sample of a metric the label of its worker."""
    metric.samples = [
        sample._replace(labels={**sample.labels, "worker": str(worker)})
        for sample in metric.samples
    ]
