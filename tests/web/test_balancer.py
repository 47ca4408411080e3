"""
A real HAProxy in front of gateways, with C{etc/haproxy.cfg}; and what C{etc/kubernetes.yaml} says.
"""

from __future__ import annotations

import csv
import re
import signal
import socket
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

import pytest

from gateway.config.load import load_config
from gateway.daemon.configuration import endpoint_fault
from tests.faults.look import Start, assert_quiet
from tests.installing import Installer
from tests.support import Gateway, Peer, TemporaryServer, wait_until

ETC = Path(__file__).parents[2] / "etc"

GATEWAY = """
[database]
dsn = '''{dsn}'''
acquire_timeout = 0.2
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[limits]
drain_delay = 3.0
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
trusted_proxies = ["127.0.0.0/8"]
"""


class HAProxy:
    """
    The real one, with the configuration of the repository and the addresses of these gateways.

    @ivar port: where it listens.
    """

    def __init__(self, program: str, folder: Path, gateways: Sequence[Gateway]) -> None:
        text = (ETC / "haproxy.cfg").read_text()
        self._control = folder / "haproxy.sock"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port: int = listening.getsockname()[1]
            text = text.replace("bind :8000", f"bind fd@{listening.fileno()}")
            text = text.replace("maxconn", f"stats socket {self._control}\n    maxconn")
            text = text.replace("inter 2s", "inter 100ms")
            for number, gateway in enumerate(gateways, 1):
                text = text.replace(
                    f" 10.0.0.{number}:8000",
                    f" 127.0.0.1:{gateway.port('lines')} port {gateway.http_port}",
                )
            assert " 10.0.0." not in text.partition("global")[2]
            config = folder / "haproxy.cfg"
            config.write_text(text)
            subprocess.run([program, "-c", "-q", "-f", str(ETC / "haproxy.cfg")], check=True)
            self._process = subprocess.Popen(
                [program, "-db", "-f", str(config)], pass_fds=[listening.fileno()]
            )

    def serving(self, backend: str) -> int:
        """Return the number of servers that passed their checks; -1: not all were checked yet."""
        with socket.socket(socket.AF_UNIX) as control:
            try:
                control.connect(str(self._control))
            except OSError:
                return -1
            control.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        servers = [
            line
            for line in csv.DictReader(answer.removeprefix("# ").splitlines())
            if line["pxname"] == backend and line["svname"] != "BACKEND"
        ]
        if any(line["check_status"] in ("", "INI") for line in servers):
            return -1
        return sum(line["status"] == "UP" for line in servers)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def own_server(tmp_path: Path, template: Path) -> Iterator[TemporaryServer]:
    """A server that may be stopped."""
    folder = tmp_path / "own"
    folder.mkdir()
    server = TemporaryServer(folder, template)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def in_front(tmp_path: Path, installer: Installer) -> Iterator[Callable[..., HAProxy]]:
    """Starts HAProxy and ends it."""
    running: list[HAProxy] = []

    def start(gateways: Sequence[Gateway]) -> HAProxy:
        running.append(HAProxy(installer.program("haproxy"), tmp_path, gateways))
        return running[-1]

    yield start
    for one in running:
        one.end()


def answer(port: int) -> bytes:
    """Return the answer to a message on a new connection."""
    return Peer(port).ask(b"hello\n")


@pytest.mark.long
def test_haproxy_in_an_outage(
    own_server: TemporaryServer,
    start_gateway: Start,
    in_front: Callable[..., HAProxy],
    tmp_path: Path,
) -> None:
    """An outage of the database takes no gateway out, and no peer is turned away; a gateway that
    stops is out before its listener closes; and nothing of the checks is in a log."""
    gateways = []
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        config = folder / "gateway.toml"
        config.write_text(GATEWAY.format(dsn=own_server.embedded.dsn))
        gateways.append(start_gateway("--config", str(config), cwd=folder))
    proxy = in_front(gateways)
    wait_until(lambda: proxy.serving("storing") == 3, "all store")
    wait_until(lambda: proxy.serving("taking") == 3, "all take")
    assert answer(proxy.port) == b"+OK\n"

    own_server.stop(signal.SIGQUIT)
    try:
        wait_until(lambda: answer(proxy.port) == b"+QUE\n", "it is spooled")
        wait_until(lambda: proxy.serving("storing") == 0, "none stores")
        assert proxy.serving("taking") == 3
        assert [answer(proxy.port) for _ in range(9)] == [b"+QUE\n"] * 9
    finally:
        own_server.start()
    wait_until(lambda: proxy.serving("storing") == 3, "all store again")

    stopping = gateways[1]
    stopping.process.send_signal(signal.SIGTERM)
    asked = 0
    while stopping.process.poll() is None:
        assert answer(proxy.port) == b"+OK\n"
        asked += 1
    assert asked and proxy.serving("storing") == proxy.serving("taking") == 2
    for gateway in gateways:
        assert "GET" not in gateway.log and " disconnected: " not in gateway.log
        assert_quiet(gateway)


def test_kubernetes() -> None:
    """The configuration in the example is one, its ports are those of the probes, and there is time
    for a stop."""
    text = (ETC / "kubernetes.yaml").read_text()
    found = re.search(r"gateway\.toml: \|\n((?:    .*\n)+)", text)
    assert found is not None
    config = load_config(
        textwrap.dedent(found[1]), PurePath("/etc/gateway/gateway.toml"), endpoint_fault
    )
    assert config.http.endpoint == "tcp:8009" and "containerPort: 8009" in text
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert grace is not None
    assert int(grace[1]) > config.limits.drain_delay + config.limits.drain_timeout
    probes = re.findall(r"(\w+)Probe:\n +httpGet:\n +path: (\S+)\n", text)
    assert probes == [("liveness", "/livez"), ("readiness", "/readyz")]
