"""
What a gateway of two workers shows and how it is steered: console, metrics, page and readiness are
those of one gateway, and agree with what was sent.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from gateway.admin.client import AdminClient, Refused
from gateway.status.workers import PATIENCE as PATIENCE_WITH_WORKERS
from tests import forking
from tests.forking import BIN
from tests.support import Database, Gateway, Peer, TemporaryServer, wait_until

CONFIG = """
[process]
workers = 2
[database]
dsn = '''{dsn}'''
answer_timeout = 60
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
max_connections = 50
[listeners.json]
endpoint = "tcp:0:interface=127.0.0.1"
route = "readings"
[routes.messages]
table = "messages"
create = true
columns = {{ body = "@frame" }}
create_columns = {{ id = "bigserial PRIMARY KEY", body = "text" }}
[routes.readings]
table = "readings"
create = true
format = "json"
columns = {{ n = "n" }}
create_columns = {{ n = "integer" }}
"""


def answer_of(peer: Peer, message: bytes) -> bytes:
    """What a peer hears of a message."""
    peer.send(message)
    (answer,) = peer.read_lines(1)
    return answer


class Whole:
    """
    A gateway of two workers, and all that shows it.
    """

    def __init__(self, gateway: Gateway, database: Database) -> None:
        self.gateway = gateway
        self.database = database
        self.connected: list[Peer] = []
        self.path = Path(gateway.wait_log(r"admin: console on (\S+);")[1])

    def ask(self, command: str) -> list[str]:
        with AdminClient(self.path) as client:
            return list(client.ask(command))

    def rows(self, command: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ask(f"{command} --json")]

    def metrics(self) -> dict[str, dict[Mapping[str, str], float]]:
        """Name of a series -> its labels, as items -> its value."""
        code, body = self.gateway.get("/metrics")
        assert code == 200
        found: dict[str, dict[Any, float]] = {}
        for family in parse(body):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum of the series that have some labels."""
        return sum(
            value
            for own, value in self.metrics().get(name, {}).items()
            if set(labels.items()) <= set(own)
        )

    def status(self) -> Any:
        return json.loads(self.gateway.get("/status.json")[1])

    def refresh(self) -> None:
        """Have all workers asked, so that what HTTP shows is of now."""

        def have_answered() -> bool:
            since = time.monotonic()
            self.ask("SHOW STATS")
            return time.monotonic() - since < 0.9 * PATIENCE_WITH_WORKERS

        wait_until(have_answered, "all workers have answered")

    def pids(self) -> dict[int, int]:
        """Number of a worker -> its process, of those that serve."""
        return {
            row["worker"]: row["pid"]
            for row in self.rows("SHOW WORKERS")
            if row["state"] == "ready"
        }

    def wait_for_both(self) -> None:
        """Wait until both workers get connections."""

        def both_serve() -> bool:
            said = re.findall(r"serves; (\d) of 2 do", self.gateway.log)
            return len(self.pids()) == 2 and said[-1:] == ["2"]

        wait_until(both_serve, "both serve")

    def connect(self, listener: str = "lines") -> Peer:
        self.connected.append(self.gateway.connect(listener))
        return self.connected[-1]

    def peers(self, listener: str, count: int) -> list[Peer]:
        """Peers that have had an answer, so that their workers have them."""
        peers = [self.connect(listener) for _ in range(count)]
        line = b"one\n" if listener == "lines" else b'{"n": 1}\n'
        assert [answer_of(peer, line) for peer in peers] == [b"+OK"] * count
        return peers

    def leave(self) -> None:
        """End all peers, and wait until nobody is connected: what comes then is spread evenly."""
        for peer in self.connected:
            peer.close()
        self.connected.clear()
        wait_until(lambda: not self.rows("SHOW PEERS"), "none is left")


@pytest.fixture(scope="module")
def shared(server: TemporaryServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One gateway for all tests."""
    folder = tmp_path_factory.mktemp("whole")
    with server.create_database() as database:
        (folder / "gateway.toml").write_text(CONFIG.format(dsn=database.dsn))
        gateway = Gateway(("--config", "gateway.toml"), folder)
        try:
            found = Whole(gateway, database)
            found.wait_for_both()
            yield found
        finally:
            gateway.end()


@pytest.fixture
def whole(shared: Whole) -> Iterator[Whole]:
    """The gateway; nobody is connected before and after a test."""
    yield shared
    shared.leave()


def test_all_figures_agree(whole: Whole) -> None:
    """What was sent over both workers is what the console, the metrics, the page, the JSON and the
    tables say of it, with the label of a worker and without."""
    whole.refresh()
    before = whole.total("gateway_answers_total", listener="lines")
    refused_before = whole.total("gateway_answers_total", listener="json", word="-REJ")
    lines = whole.peers("lines", 4)
    for peer in lines:
        peer.send(b"two\nthree\n")
        assert peer.read_lines(2) == [b"+OK"] * 2
    readings = whole.peers("json", 2)
    for peer in readings:
        peer.send(b'{"n": "x"}\n')
        assert peer.read_lines(1)[0].startswith(b"-REJ DATA")
    sent = before + 12
    whole.refresh()
    assert whole.total("gateway_answers_total", listener="lines") == sent
    assert whole.total("gateway_answers_total", listener="json", word="-REJ") == (
        refused_before + 2
    )
    assert whole.total("gateway_answer_seconds_count", listener="lines") == sent
    assert whole.total("gateway_committed_rows_total", route="messages") == sent
    assert len(whole.database.bodies()) == sent
    (stats,) = (row for row in whole.rows("SHOW STATS") if row["listener"] == "lines")
    assert (stats["messages"], stats["+OK"], stats["peers"]) == (sent, sent, 4)
    (route,) = (row for row in whole.rows("SHOW ROUTES") if row["route"] == "messages")
    assert (route["rows"], route["state"]) == (sent, "in service")
    workers = whole.rows("SHOW WORKERS")
    assert [(row["worker"], row["state"], row["peers"]) for row in workers] == [
        *((1, "ready", 3), (2, "ready", 3))
    ]
    status = whole.status()
    (listener,) = (one for one in status["listeners"] if one["name"] == "lines")
    assert (listener["messages"], listener["peers"], listener["most_peers"]) == (sent, 4, 50)
    assert sum(one["messages"] for one in status["workers"]) == sum(
        one["messages"] for one in status["listeners"]
    )
    assert status["state"] == "ready" and status["is_storing"] and not status["reasons"]
    page = whole.gateway.get("/")[1]
    assert 'id="workers"' in page and f">{sent:,.0f}<" in page
    for worker in ("1", "2"):
        assert whole.total("gateway_worker_up", worker=worker) == 1
        assert whole.total("gateway_peers", worker=worker) == 3
    assert whole.total("gateway_connections") == 6
    assert whole.total("gateway_connections_max") == status["most_peers"]


def test_a_peer_is_found_and_disconnected(whole: Whole) -> None:
    """SHOW PEERS has those of both workers, sorted and filtered as one; KILL ends the one named."""
    peers = whole.peers("lines", 4)
    for number, peer in enumerate(peers):
        peer.send(b"x\n" * number)
        peer.read_lines(number)
    rows = whole.rows("SHOW PEERS listener=lines sort=frames")
    assert [row["frames"] for row in rows] == [4, 3, 2, 1]
    assert Counter(row["worker"] for row in rows) == {1: 2, 2: 2}
    assert len({row["id"] for row in rows}) == 4
    assert [row["id"] for row in whole.rows("SHOW PEERS sort=-frames limit=2")] == [
        *(rows[3]["id"], rows[2]["id"])
    ]
    assert whole.rows("SHOW PEERS listener=json") == []
    for row, peer in zip(rows, reversed(peers), strict=True):
        (said,) = whole.ask(f"KILL {row['id']}")
        assert said.startswith(f"peer {row['id']} (127.0.0.1:")
        assert peer.read_all().startswith(b"-BYE DRAIN :disconnected by")
    whole.leave()
    with pytest.raises(Refused, match="no peer"):
        whole.ask(f"KILL {rows[0]['id']}")


def test_a_pause_holds_for_both_and_for_a_successor(whole: Whole) -> None:
    """A paused route is paused in both workers, also in one that is killed and started again; after
    RESUME everything is stored, once."""
    peers = whole.peers("lines", 2)
    before = len(whole.database.bodies())
    (said,) = whole.ask("PAUSE messages")
    assert said == "route messages is paused: messages go to the spool, and are answered +QUE"
    for peer in peers:
        assert answer_of(peer, b"paused\n") == b"+QUE"
    (route,) = (row for row in whole.rows("SHOW ROUTES") if row["route"] == "messages")
    assert (route["state"], route["spooled"]) == ("paused", 2)
    assert [row["messages"] for row in whole.rows("SHOW SPOOL")] == [1, 1]
    killed = whole.pids()[2]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: whole.pids().get(2) not in (None, killed), "it is started again")
    whole.wait_for_both()
    late = [whole.connect() for _ in range(4)]
    assert [answer_of(peer, b"late\n") for peer in late] == [b"+QUE"] * 4
    (row,) = (row for row in whole.rows("SHOW WORKERS") if row["worker"] == 2)
    assert row["last_end"] == "killed by SIGKILL" and row["restarts"] >= 1
    (route,) = (row for row in whole.rows("SHOW ROUTES") if row["route"] == "messages")
    assert (route["state"], route["spooled"]) == ("paused", 6)
    assert len(whole.database.bodies()) == before
    listed = forking.run(
        [str(BIN / "gateway"), "spool", "--config", "gateway.toml", "list"],
        cwd=whole.gateway.cwd,
        capture_output=True,
        check=True,
    ).stdout.decode()
    found = re.findall(r"(\d) messages wait in \S+/(\S+)", listed)
    assert [name for _, name in found] == ["spool.db", "spool-2.db"]
    assert sum(int(count) for count, _ in found) == 6
    assert whole.ask("RESUME messages") == ["route messages is resumed; 6 messages waited"]
    wait_until(lambda: len(whole.database.bodies()) == before + 6, "all are stored")
    with pytest.raises(Refused, match="not paused"):
        whole.ask("RESUME messages")


def test_no_figure_goes_back(whole: Whole) -> None:
    """Over the end of a worker its counters go on, and what shows it says that it is away."""
    whole.peers("lines", 4)
    whole.leave()
    wait_until(lambda: whole.total("gateway_worker_up") == 2, "both have told their status")
    whole.refresh()
    answers = whole.total("gateway_answers_total", listener="lines")
    messages = whole.total("gateway_messages_received_total", listener="lines")
    rows = [row["rows"] for row in whole.rows("SHOW WORKERS")]
    pid = whole.pids()[1]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: whole.total("gateway_worker_up", worker="1") == 0, "it is away")
    assert whole.gateway.get("/livez") == (200, "ok\n")
    code, body = whole.gateway.get("/readyz")
    assert code == 200 and body.startswith("ok\nworker 1: ")
    (listener,) = (one for one in whole.status()["listeners"] if one["name"] == "lines")
    assert listener["messages"] == messages
    whole.wait_for_both()
    wait_until(lambda: whole.total("gateway_worker_up") == 2, "both are up")
    assert whole.total("gateway_answers_total", listener="lines") == answers
    assert [row["rows"] for row in whole.rows("SHOW WORKERS")] == rows
    assert whole.total("gateway_worker_restarts_total", worker="1") == 1
    code, body = whole.gateway.get("/readyz?verbose")
    assert code == 200 and "[+] worker 1: ready\n[+] worker 2: ready\n" in body


def test_commands_show_workers(whole: Whole) -> None:
    """C{gateway status} has a table of them, and its exit status is that of the whole."""
    done = forking.run(
        [str(BIN / "gateway"), "status", "--socket", str(whole.path)],
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode().splitlines()
    (head,) = (place for place, line in enumerate(lines) if line.startswith("worker "))
    assert [line.split()[:2] for line in lines[head + 1 : head + 3]] == [
        *(["1", "ready"], ["2", "ready"])
    ]
    assert done.returncode == 0


def test_the_level_of_the_log(whole: Whole) -> None:
    """It is set in all workers; unknown routes are refused once; the pools are replaced."""
    (said,) = whole.ask("SET LOG debug")
    assert said.startswith("the log has lines from debug on")
    whole.ask("SET LOG info")
    with pytest.raises(Refused, match=r"^no route mesages; did you mean messages"):
        whole.ask("PAUSE mesages")
    assert whole.ask("RECONNECT") == [
        "connections are replaced; those in use when they are given back"
    ]
    assert whole.rows("SHOW CONFIG")


def test_a_reload_by_the_console(whole: Whole) -> None:
    """All workers have what it brought, it is logged once, and the level that was set is over; a
    file that cannot be used is refused, and its problem is the answer."""
    path = whole.gateway.cwd / "gateway.toml"
    text = path.read_text()
    whole.ask("SET LOG warn")
    more = '[listeners.more]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
    path.write_text(f"{text}{more}max_connections = 7\n")
    assert whole.ask("RELOAD") == ["listener more: added, tcp:0:interface=127.0.0.1"]
    assert len(re.findall("listener more: line frames", whole.gateway.log)) == 1
    whole.peers("more", 4)
    (row,) = (row for row in whole.rows("SHOW LISTENERS") if row["listener"] == "more")
    assert (row["peers"], row["most"]) == (4, 7)
    assert [row["peers"] for row in whole.rows("SHOW WORKERS")] == [2, 2]
    path.write_text("nonsense")
    with pytest.raises(Refused, match="not reloaded"):
        whole.ask("RELOAD")
    path.write_text(text)
    (said,) = whole.ask("RELOAD")
    assert said.startswith("listener more: removed")
    wait_until(
        lambda: "more" not in [row["listener"] for row in whole.rows("SHOW LISTENERS")],
        "it is gone",
    )


def test_drain_ends_all(start_with: Callable[[str], Gateway]) -> None:
    """DRAIN waits for the peers of both workers, says so everywhere, and ends with status 0."""
    gateway = start_with(
        '[process]\nworkers = 2\n[http]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
        '[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n'
    )
    whole = Whole(gateway, None)  # type: ignore[arg-type]
    whole.wait_for_both()
    peers = [gateway.connect() for _ in range(2)]
    assert [answer_of(peer, b"x\n") for peer in peers] == [b"+OK"] * 2
    (said,) = whole.ask("DRAIN")
    assert "2 peers" in said
    wait_until(lambda: gateway.get("/readyz")[0] == 503, "it is draining")
    assert gateway.get("/readyz")[1].startswith("draining: the gateway stops")
    assert answer_of(peers[0], b"y\n") == b"+OK"
    for peer in peers:
        peer.close()
    assert gateway.process.wait(20) == 0
