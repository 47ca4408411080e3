"""
What docs/metrics.md, the runbook, the alerts and the dashboard say of the metrics.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.model.outcome import Code
from gateway.status.prometheus import StatusCollector
from gateway.status.warnings import CODES
from tests.installing import Installer
from tests.status.samples import status, with_workers

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "etc" / "prometheus"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

HEADINGS = re.findall(r"^### (.*)$", OPERATIONS.partition("## Runbook")[2], re.MULTILINE)
"""Of the runbook."""


def alerts() -> dict[str, str]:
    """Name -> the rest of the rule."""
    text = (PROMETHEUS / "alerts.yml").read_text()
    rules = re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]
    return {name: rest for name, _, rest in (rule.partition("\n") for rule in rules)}


def documented() -> list[tuple[str, ...]]:
    """Name, type, labels and meaning of each metric in the tables of docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    pattern = r"^\| `(gateway_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$"
    return [found.groups() for found in re.finditer(pattern, text, re.MULTILINE)]


def scraped() -> Iterator[tuple[str, ...]]:
    """All metrics: those of one process, and those that only workers have."""
    whole, workers = with_workers()
    of_workers = StatusCollector(whole, workers).collect()
    for family in (
        *StatusCollector(status()).collect(),
        *(family for family in of_workers if family.name.startswith("gateway_worker_")),
    ):
        labels = {label: None for sample in family.samples for label in sample.labels}
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = ", ".join(f"`{label}`" for label in labels if label != "le")
        yield name, family.type, shown, family.documentation


def test_every_metric_is_documented() -> None:
    """The tables have each metric as a scrape has it, once, and no other."""
    assert sorted(documented()) == sorted(scraped())


def test_all_codes_of_warnings_are_known() -> None:
    """A warning has a series before there is one: the list has every code that is given."""
    given = re.findall(r'code="([a-z-]+)"', (ROOT / "gateway/status/warnings.py").read_text())
    assert set(given) == set(CODES)


def test_the_runbook_has_every_warning_and_code() -> None:
    """Each warning and each refusal code has its entry, and each alert of the runbook exists."""
    assert set(CODES) <= set(HEADINGS)
    assert len(set(HEADINGS)) == len(HEADINGS)
    table = OPERATIONS.partition("### Refusal codes")[2]
    assert re.findall(r"^\| `([A-Z]+)` \|", table, re.MULTILINE) == [code.value for code in Code]
    runbook = OPERATIONS.partition("## Runbook")[2]
    assert set(re.findall(r"\bGateway[A-Z]\w+", runbook)) == alerts().keys()


def test_every_alert_leads_to_the_runbook() -> None:
    """Each alert has a summary, a description and the anchor of a heading under which it stands."""
    runbook = OPERATIONS.partition("## Runbook")[2]
    for name, rule in alerts().items():
        assert re.search(r"severity: (critical|warning|info)$", rule, re.MULTILINE), name
        assert re.search(r'^ +summary: ".+"$', rule, re.MULTILINE), name
        assert re.search(r'^ +description: ".+"$', rule, re.MULTILINE), name
        anchor = re.search(r"runbook_url: docs/operations\.md#(.*)$", rule, re.MULTILINE)
        assert anchor is not None, name
        heading = anchor[1] if anchor[1] in HEADINGS else anchor[1].replace("-", " ").capitalize()
        assert heading in HEADINGS, name
        section = re.split(r"^### ", runbook.partition(f"### {heading}\n")[2], flags=re.MULTILINE)
        assert name in section[0], name


def test_alerts_use_metrics_that_there_are() -> None:
    """Alerts and dashboard name no metric of the gateway that a scrape has not got."""
    names = {name for name, *_ in scraped()}
    parts = {f"{name}_{part}" for name in names for part in ("bucket", "count", "sum")}
    used = set(re.findall(r"\bgateway_[a-z_]+", (PROMETHEUS / "alerts.yml").read_text()))
    dashboard = (ROOT / "etc" / "grafana" / "gateway.json").read_text()
    used |= set(re.findall(r"\bgateway_[a-z_]+", dashboard))
    assert used <= names | parts


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_promtool_agrees(arguments: tuple[str, ...], installer: Installer) -> None:
    """The rules are good, and each fires when it should."""
    said = subprocess.run(
        [installer.program("promtool"), *arguments],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_is_tested() -> None:
    """alerts_test.yml has a case in which each alert fires."""
    text = (PROMETHEUS / "alerts_test.yml").read_text()
    firing = r"'ALERTS\{alertname=\"(\w+)\", alertstate=\"firing\""
    assert set(re.findall(rf"labels: {firing}", text)) == alerts().keys()


def test_the_dashboard_is_whole() -> None:
    """No two panels lie on each other, each has a title, an expression and its own number."""
    dashboard: dict[str, Any] = json.loads((ROOT / "etc" / "grafana" / "gateway.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["type"] == "row" or all(target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
