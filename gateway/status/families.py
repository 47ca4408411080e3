"""
Families of metrics, for the client library's collectors: each name begins with C{gateway_}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from gateway.status.status import Distribution

Sample = tuple[Sequence[str], float]
"""Values of a metric's labels, and its value."""


def single(value: float) -> list[Sample]:
    """Return the samples of a metric without labels."""
    return [((), float(value))]


def gauge(
    name: str, text: str, samples: Iterable[Sample], *, labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """Return a gauge."""
    metric = GaugeMetricFamily(f"gateway_{name}", text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric


def counter(
    name: str, text: str, samples: Iterable[Sample], *, labels: Sequence[str] = ()
) -> CounterMetricFamily:
    """Return a counter; C{_total} is added to its name."""
    metric = CounterMetricFamily(f"gateway_{name}", text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric


def states(
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
    return gauge(name, f"{text} 1: it is this one.", samples, labels=(*labels, "state"))


def histogram(
    name: str,
    text: str,
    distributions: Iterable[tuple[Sequence[str], Distribution]],
    *,
    labels: Sequence[str] = (),
) -> HistogramMetricFamily:
    """Return a histogram with cumulative buckets."""
    metric = HistogramMetricFamily(f"gateway_{name}", text, labels=labels)
    for values, found in distributions:
        bounds = [*(str(float(bound)) for bound in found.bounds), "+Inf"]
        metric.add_metric(
            values, list(zip(bounds, accumulate(found.counts), strict=True)), found.total
        )
    return metric
