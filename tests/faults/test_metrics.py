"""
Metrics of a real gateway that a real Prometheus scrapes: under load, then without its database.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.faults.load import Load
from tests.faults.look import Start
from tests.faults.proxy import FaultProxy
from tests.installing import Installer
from tests.issuer import Issuer
from tests.support import PATIENCE, Database, Gateway, Peer, lasting_port, wait_until

ROOT = Path(__file__).parents[2]

SECTIONS = """
acquire_timeout = 0.5
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[channels]
allow = ["news"]
[queries.last]
sql = "select body from messages order by id desc limit 1"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
max_connections = 50
deny = ["127.0.0.3/32"]
[listeners.readings]
endpoint = "tcp:0:interface=127.0.0.1"
route = "readings"
[listeners.gelf]
endpoint = "udp:0:interface=127.0.0.1"
route = "readings"
gelf = true
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.secure.tls]
certificate = "gateway.pem"
[routes.messages]
table = "messages"
create = true
columns = { body = "@frame", peer = "@peer" }
[routes.messages.create_columns]
id = "bigserial"
body = "text"
peer = "text"
[routes.readings]
table = "readings"
format = "json"
dead_letter = true
[routes.readings.columns]
n = "n"
"""

PROMETHEUS = """
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 1s
rule_files: ["{rules}"]
scrape_configs:
  - job_name: gateway
    static_configs:
      - targets: ["127.0.0.1:{gateway}"]
"""


class Prometheus:
    """
    The real one, which scrapes a gateway twice a second.
    """

    def __init__(self, program: str, folder: Path, gateway: Gateway) -> None:
        self._port = lasting_port()
        self._log = folder / "prometheus.log"
        config = folder / "prometheus.yml"
        rules = ROOT / "etc" / "prometheus" / "alerts.yml"
        config.write_text(PROMETHEUS.format(rules=rules, gateway=gateway.http_port))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(program, f"--config.file={config}"),
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, **arguments: str) -> Any:
        """What its API says; C{None} while it starts."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                    return None
                raise AssertionError(f"{arguments}: {error.read().decode()}") from None
        except OSError:
            assert self.process.poll() is None, self._log.read_text()
            return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        found = self.ask("query", query=expression)
        return [] if found is None else list(found["result"])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def prometheus(tmp_path: Path, installer: Installer) -> Iterator[Callable[[Gateway], Prometheus]]:
    """Starts Prometheus and ends it."""
    running: list[Prometheus] = []

    def start(gateway: Gateway) -> Prometheus:
        running.append(Prometheus(installer.program("prometheus"), tmp_path, gateway))
        return running[-1]

    yield start
    for one in running:
        one.end()


def shown_expressions() -> list[str]:
    """All expressions of the dashboard, but for those of workers, with its variables filled in."""
    dashboard = json.loads((ROOT / "etc" / "grafana" / "gateway.json").read_text())
    texts = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    texts += [one["expr"] for one in dashboard["annotations"]["list"]]
    return [
        text.replace("$instance", ".*").replace("$__rate_interval", "10s")
        for text in texts
        if "worker" not in text
    ]


def alert_expressions() -> list[str]:
    """All expressions of the alerts, but for those of workers."""
    text = (ROOT / "etc" / "prometheus" / "alerts.yml").read_text()
    found = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
    return [expression for expression in found if "gateway_worker_" not in expression]


def measured(expression: str) -> str:
    """What an expression compares with a limit: it has a value also where all is well."""
    return re.sub(r" (==|!=|>|<) [\d.]+$", "", re.sub(r"absent\((.*)\)", r"\1", expression))


def scrape(gateway: Gateway) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name of a series -> its labels -> its value."""
    code, body = gateway.get("/metrics")
    assert code == 200
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    for family in parse(body):
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return found


def by(series: dict[tuple[tuple[str, str], ...], float], label: str) -> Counter[str]:
    """Sums by a label's value."""
    sums: Counter[str] = Counter()
    for labels, value in series.items():
        sums[dict(labels)[label]] += int(value)
    return sums


def use_everything(gateway: Gateway, database: Database) -> Peer:
    """
    Have something of every kind counted.

    @return: a peer that stays, with a stream, a channel and calls.
    """
    readings = gateway.connect("readings")
    readings.send(b'{"n": 1}\n{"n": "x"}\n{\n{"n": 13}\n')
    assert [line[:4] for line in readings.read_lines(4)] == [b"+OK", b"-REJ", b"-REJ", b"-REJ"]
    with socket.create_connection(
        ("127.0.0.1", gateway.port("lines")), PATIENCE, ("127.0.0.3", 0)
    ) as refused:
        assert refused.recv(100).startswith(b"-BYE DENIED")
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        # Half of a GELF message: the other one never comes.
        sender.sendto(b"\x1e\x0f12345678\0\2{", ("127.0.0.1", gateway.port("gelf")))
    browser = gateway.connect("lines")
    browser.send(b"GET / HTTP/1.1\r\n")
    assert browser.read_all().startswith(b"-BYE FORMAT")
    peer = gateway.connect("commands")
    peer.send(b"HELLO till-1\nPUT messages #1 one\nLISTEN news\nCALL last\nCALL nothing\n")
    assert peer.read_lines(3)[1:] == [b"+OK", b"+OK"]
    assert peer.read_lines(2)[0] == b"*1"
    assert peer.read_lines(1)[0].startswith(b"-REJ QUERY")
    database.execute("NOTIFY news, 'hello'")
    assert peer.read_lines(1) == [b">news hello"]
    return peer


@pytest.mark.long
def test_prometheus_has_data_for_every_expression(
    start_with: Start,
    start_proxy: Callable[[str], FaultProxy],
    prometheus: Callable[[Gateway], Prometheus],
    database: Database,
    tmp_path: Path,
) -> None:
    """
    Each expression of the dashboard and of the alerts has a value, those of the spool while the
    database is away; the alerts' rules are evaluated without an error, and what is wrong is seen.
    """
    database.execute("CREATE TABLE readings (n integer CHECK (n <> 13))")
    (tmp_path / "gateway.pem").write_bytes(Issuer(tmp_path).issue("localhost").file.read_bytes())
    proxy = start_proxy(database.dsn)
    gateway = start_with(SECTIONS, proxy.dsn(database.dsn))
    server = prometheus(gateway)
    wait_until(lambda: server.query('up{job="gateway"} == 1'), "the gateway is scraped")
    peer = use_everything(gateway, database)
    load = Load(gateway, peers=4)
    load.wait_progress()
    proxy.tell("drop-reply-to EXECUTE")
    proxy.wait_event("dropped-reply")
    load.wait_progress()
    proxy.tell("refuse")
    proxy.tell("reset")
    wait_until(lambda: server.query("gateway_spool_oldest_timestamp_seconds"), "the spool is used")
    for expression in [*shown_expressions(), *map(measured, alert_expressions())]:
        text = measured(expression)
        found = wait_until(lambda text=text: server.query(text), text)
        assert all(one["value"][1] is not None for one in found), text
    for seen in (
        "gateway_storing == 0",
        "gateway_taking == 1",
        'gateway_spool_state{state="keeping"} == 1',
    ):
        wait_until(lambda seen=seen: server.query(seen), seen)
    wait_until(
        lambda: server.query('ALERTS{alertname="GatewayDatabaseAway"}'), "the alert is pending"
    )
    (group,) = server.ask("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    proxy.tell("accept")
    load.finish()
    peer.close()
    wait_until(
        lambda: not sum(scrape(gateway)["gateway_spool_messages"].values()), "the spool is stored"
    )
    assert_figures_agree(gateway, database)


def assert_figures_agree(gateway: Gateway, database: Database) -> None:
    """
    Figures that count the same agree with each other, and with what is in the tables.
    """
    figures = scrape(gateway)
    answers = by(figures["gateway_answers_total"], "listener")
    assert answers == by(figures["gateway_answer_seconds_count"], "listener")
    assert answers["lines"] > 1000
    stored = Counter[str](by(figures["gateway_committed_rows_total"], "route"))
    assert by(figures["gateway_commit_seconds_count"], "route") == by(
        figures["gateway_commits_total"], "route"
    )
    drained = int(figures["gateway_spool_drained_total"][()])
    assert drained == figures["gateway_spool_kept_total"][()] > 0
    for route in ("messages", "readings"):
        (rows,) = database.column(f"SELECT count(*) FROM {route}")
        assert stored[route] + (drained if route == "messages" else 0) == rows
    (letters,) = database.column("SELECT count(*) FROM gateway.dead_letter")
    assert by(figures["gateway_dead_letters_total"], "route")["readings"] == letters == 3
    words = by(figures["gateway_answers_total"], "word")
    assert words["+QUE"] == drained
    assert words["-REJ"] == 4
    unknown = by(figures["gateway_unknown_outcomes_total"], "route")
    assert unknown.total() >= 1
    assert not by(figures["gateway_unknown_outcomes_unresolved"], "route").total()
    assert by(figures["gateway_unknown_outcomes_resolved_total"], "outcome").total() >= 1
    reasons = by(figures["gateway_connections_refused_total"], "reason")
    assert reasons == {"denied": 1}
    assert by(figures["gateway_peers_disconnected_total"], "reason") == {"format": 1}
