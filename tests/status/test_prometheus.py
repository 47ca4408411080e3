"""
Metrics of a status.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.status.prometheus import OF_THE_WHOLE, exposition
from gateway.status.status import CertificateStatus, Warning
from gateway.status.warnings import CODES
from tests.installing import Installer
from tests.status.samples import listener, status, with_workers
from tests.web.made import NOW, pool, route

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"

LABELS = {
    *("listener", "route", "word", "code", "state", "reason", "database", "query", "outcome", "le"),
    *("version", "worker"),
}
"""All labels that the gateway's own metrics may have."""

MOST_SERIES = 5000


def families(body: bytes) -> dict[str, Metric]:
    return {family.name: family for family in parse_text(body.decode())}


def value(body: bytes, name: str, **labels: str) -> float:
    """The value of a series."""
    found = [
        sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def series(body: bytes) -> Sequence[str]:
    return [line for line in body.decode().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (OPEN_METRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_scrape_chooses_the_format(accept: str, kind: str) -> None:
    """The Accept header chooses between Prometheus' text and OpenMetrics; both can be parsed."""
    body, content_type = exposition(status(), accept)
    assert content_type.split("; escaping")[0] == kind
    parse = parse_open if accept == OPEN_METRICS else parse_text
    assert "gateway_answers" in {family.name for family in parse(body.decode())}


def test_metrics_have_few_labels() -> None:
    """No label can tell a peer, a stream or an identity; the process has its figures."""
    found = families(exposition(status(), "")[0])
    for name, family in found.items():
        if name.startswith("gateway_"):
            assert {label for one in family.samples for label in one.labels} <= LABELS, name
            assert not (family.type == "gauge" and name.endswith("_count")), name
    assert {"process_cpu_seconds", "process_open_fds", "python_info", "python_gc_collections"} <= (
        found.keys()
    )


def test_promtool_has_nothing_to_say(installer: Installer) -> None:
    """Names, types and texts are as Prometheus' own tool wants them."""
    whole, workers = with_workers()
    for body in (exposition(status(), "")[0], exposition(whole, "", workers)[0]):
        said = subprocess.run(
            [installer.program("promtool"), "check", "metrics"],
            input=body,
            capture_output=True,
            check=False,
        )
        assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_series_have_a_bound() -> None:
    """Fifty routes and fifty listeners that had every answer there is are below 5,000 series."""
    body, _ = exposition(status(routes=50, listeners=50), "")
    assert len(series(body)) <= MOST_SERIES
    whole, workers = with_workers(4, routes=50, listeners=10)
    assert len(series(exposition(whole, "", workers)[0])) <= MOST_SERIES


def test_workers_have_series_of_their_own() -> None:
    """Counters and levels tell the worker, and verdicts and histograms are those of the whole; one
    process has no such label."""
    whole, workers = with_workers()
    body, _ = exposition(whole, "", workers)
    found = families(body)
    assert "gateway_worker_up" in found
    for name, family in found.items():
        if name.startswith("gateway_") and family.samples:
            labelled = {"worker" in sample.labels for sample in family.samples}
            assert labelled == {name not in OF_THE_WHOLE}, name
    for word in ("+OK", "-REJ"):
        assert sum(
            sample.value
            for sample in found["gateway_answers"].samples
            if sample.labels["word"] == word
        ) == sum(
            count
            for one in whole.listeners
            for answer, count in one.answers.items()
            if answer.startswith(word)
        )
    one_process = families(exposition(status(), "")[0])
    assert found.keys() - one_process.keys() == {
        name for name in found if name.startswith("gateway_worker_")
    }
    assert not any("worker" in s.labels for f in one_process.values() for s in f.samples)


def test_a_worker_that_is_away() -> None:
    """It is not up, and has no other series; before any has told, nothing of a pool is told."""
    whole, workers = with_workers()
    workers.pop(2)
    gone = replace(whole.workers[1], pid=None, started=None, read=None, process=None)
    body, _ = exposition(replace(whole, workers=[whole.workers[0], gone]), "", workers)
    assert value(body, "gateway_worker_up", worker="2") == 0
    assert value(body, "gateway_worker_restarts_total", worker="2") == 1
    assert value(body, "gateway_peers", listener="listener0", worker="1") == 20
    assert b'worker="2"' not in body.partition(b"gateway_worker_")[0]
    nothing = replace(whole, pools=(), workers=[gone])
    assert value(exposition(nothing, "", {})[0], "gateway_worker_up", worker="2") == 0


def test_a_histogram_is_cumulative() -> None:
    """Each bucket has all values up to its bound, the last one all there are."""
    body, _ = exposition(status(), "")
    name = "gateway_commit_seconds"
    counts = [
        sample.value
        for sample in families(body)[name].samples
        if sample.name == f"{name}_bucket" and sample.labels["route"] == "route0"
    ]
    assert counts == sorted(counts)
    assert counts[-1] == value(body, f"{name}_count", route="route0")


def test_answers_begin_at_zero() -> None:
    """Usual answers have a series before the first of them: else its increase would be missed."""
    body, _ = exposition(replace(status(), listeners=[listener("lines", answers={})]), "")
    for word, code in (("+OK", ""), ("-REJ", "DATA"), ("-TRY", "DOWN")):
        assert value(body, "gateway_answers_total", listener="lines", word=word, code=code) == 0


def test_warnings_are_counted_by_their_code() -> None:
    """Each code has a series, so that what the page shows can raise an alert."""
    warnings = [
        Warning(code="route-out-of-service", subject="one"),
        Warning(code="route-out-of-service", subject="two"),
    ]
    body, _ = exposition(replace(status(), warnings=warnings), "")
    for code in CODES:
        found = value(body, "gateway_warnings", code=code)
        assert found == (2 if code == "route-out-of-service" else 0), code


def test_states_are_one_of_several() -> None:
    """A route's state is 1 in one series and 0 in the others."""
    body, _ = exposition(replace(status(), routes=[route("one", state="paused")]), "")
    name = "gateway_route_state"
    assert {s.labels["state"]: s.value for s in families(body)[name].samples} == {
        **{"opening": 0, "in service": 0, "out of service": 0, "removed": 0},
        "paused": 1,
    }


def test_a_pool_with_connections_is_reachable() -> None:
    """An attempt to connect that fails says nothing while others are connected."""
    away = pool("messages", trouble="refused", idle=0, in_use=0)
    busy = pool("queries", trouble="too many clients")
    body, _ = exposition(replace(status(), pools=[away, busy]), "")
    assert value(body, "gateway_pool_reachable") == 0
    assert value(body, "gateway_query_pool_reachable") == 1


def test_the_first_expiry_counts() -> None:
    """Of a listener's certificates and lists the one that expires first is told."""
    certificates = [
        CertificateStatus(listener="secure", kind=kind, subject="x", expires=NOW + days * 86400)
        for kind, days in (("certificate", 90), ("list", 7), ("authority", 900))
    ]
    body, _ = exposition(replace(status(), certificates=certificates), "")
    name = "gateway_certificate_expiry_timestamp_seconds"
    assert value(body, name, listener="secure") == NOW + 7 * 86400


def test_without_a_spool() -> None:
    """A gateway without a spool has no figures of one, and an empty one no oldest message."""
    full = status().spool
    assert full is not None
    assert not any(
        n.startswith("gateway_spool_s") for n in families(exposition(status(spool=None), "")[0])
    )
    body, _ = exposition(status(spool=replace(full, oldest=None)), "")
    assert "\ngateway_spool_oldest_timestamp_seconds " not in body.decode()
    assert value(body, "gateway_spool_size_bytes") == 4096


def test_a_hostile_name_is_escaped() -> None:
    """Names of the configuration cannot end a line or a label."""
    name = 'a"} 1\nb\\'
    body, _ = exposition(replace(status(), listeners=[listener(name)]), "")
    assert value(body, "gateway_peers", listener=name) == 20
