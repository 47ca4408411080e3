"""
Health and status of real gateways, over sockets.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from gateway.config.operator import HTTP_ENDPOINT
from tests.faults.look import Start, assert_quiet
from tests.forking import BIN
from tests.issuer import Issuer
from tests.support import (
    LISTEN,
    PATIENCE,
    Database,
    Gateway,
    Peer,
    TemporaryServer,
    tool,
    wait_until,
)

HTTP = """
[http]
endpoint = "tcp:0:interface=127.0.0.1"
{http}
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
{more}
"""


def sections(http: str = "", more: str = "") -> str:
    return HTTP.format(http=http, more=more)


@pytest.fixture
def own_server(tmp_path: Path, template: Path) -> TemporaryServer:
    """A server that may be stopped; it is not started."""
    folder = tmp_path / "own"
    folder.mkdir()
    return TemporaryServer(folder, template)


def test_all_pages(start_with: Start) -> None:
    """What was stored can be seen at once, on the page and in JSON, and it agrees."""
    gateway = start_with(sections())
    assert gateway.connect().ask(b"hello\nworld\n") == b"+OK\n+OK\n"
    assert gateway.get("/livez") == (200, "ok\n")
    assert gateway.get("/readyz") == (200, "ok\n")
    code, body = gateway.get("/status.json")
    (lines,) = json.loads(body)["listeners"]
    assert code == 200 and lines["messages"] == 2 and lines["answers"] == {"+OK": 2}
    assert lines["address"] == f"127.0.0.1:{gateway.port('lines')}"
    code, page = gateway.get("/")
    assert code == 200 and lines["address"] in page and "Storing" in page
    for path in ("/page.css", "/page.js", "/icon.svg"):
        assert gateway.get(path)[0] == 200
    assert gateway.get("/livz") == (404, "there is no such page; did you mean /livez?\n")
    assert gateway.get("/..%2f..%2fetc/passwd")[0] == 404
    assert_quiet(gateway)


def test_what_the_documents_show(start_with: Start) -> None:
    """The session in docs/operations.md is what one sees."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    found = re.search(r"\$ curl -s 'http://localhost:8009(/\S+)'\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert start_with(sections()).get(found[1]) == (200, found[2])


def test_an_outage_of_the_database(
    own_server: TemporaryServer, start_gateway: Start, tmp_path: Path
) -> None:
    """While it is away messages are spooled: ready still, not for who asks for stored; when it is
    back all is as before. Page, JSON and readiness say the same."""
    own_server.start()
    config = tmp_path / "gateway.toml"
    begin = f"[database]\ndsn = '''{own_server.embedded.dsn}'''\nacquire_timeout = 0.2\n"
    config.write_text(begin + sections())
    gateway = start_gateway("--config", str(config))
    assert gateway.get("/readyz?stored") == (200, "ok\n")
    own_server.stop(signal.SIGQUIT)
    try:
        peer = gateway.connect()
        peer.send(b"hello\n")
        assert peer.read_lines(1) == [b"+QUE"]
        code, body = gateway.get("/readyz")
        assert code == 200 and "\nthe database cannot be reached: " in body
        code, body = gateway.get("/readyz?stored&route=messages")
        assert code == 503 and "spool: 1 message waits" in body
        assert gateway.get("/livez") == (200, "ok\n")
        status = json.loads(gateway.get("/status.json")[1])
        assert {"database-away", "spooling"} <= {one["code"] for one in status["warnings"]}
        wait_until(lambda: "database-away" in gateway.get("/")[1], "the page warns")
        assert "Spooling" in gateway.get("/")[1]
    finally:
        own_server.start()
    wait_until(lambda: gateway.get("/readyz?stored") == (200, "ok\n"), "stored again")
    assert gateway.terminate() == 0
    assert_quiet(gateway)
    own_server.stop()


def test_an_outage_without_a_spool(
    database: Database, start_gateway: Start, tmp_path: Path
) -> None:
    """Where there is no spool an outage is the gateway's own: 503, with the reasons."""
    config = tmp_path / "gateway.toml"
    nowhere = "host=127.0.0.1 port=1 user=gateway dbname=x"
    config.write_text(f"[database]\ndsn = '{nowhere}'\n[spool]\non_outage = 'refuse'\n{sections()}")
    gateway = start_gateway("--config", str(config), until="not ready yet")
    code, body = gateway.get("/readyz")
    reached, spool = body.splitlines()
    assert code == 503 and reached.startswith("the database cannot be reached: ")
    assert spool == "there is no spool for what comes meanwhile"
    assert gateway.get("/livez") == (200, "ok\n")
    assert "[-] database: " in gateway.get("/readyz?verbose")[1]
    assert "Not taking messages" in gateway.get("/")[1]


def test_a_route_out_of_service(database: Database, start_with: Start) -> None:
    """It is named, and the gateway is ready but for who asks for that route."""
    database.execute("CREATE TABLE one (body text)", ())
    database.execute("CREATE TABLE two (body text)", ())
    routes = "".join(
        f'[routes.{name}]\ntable = "{name}"\ncolumns = {{ body = "@frame" }}\n'
        for name in ("one", "two")
    )
    other = '[listeners.other]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "two"\n'
    text = sections().replace('"messages"', '"one"')
    gateway = start_with(text + other + routes)
    database.execute("DROP TABLE two")
    peer = gateway.connect("other")
    peer.send(b"hello\n")
    assert peer.read_lines(1)[0].startswith(b"-TRY ROUTE")
    code, body = gateway.get("/readyz")
    assert code == 200 and body.startswith("ok\nroute two is out of service: ")
    assert gateway.get("/readyz?route=one") == (200, "ok\n")
    code, body = gateway.get("/readyz?route=two")
    assert code == 503 and body.startswith("route two is out of service: ")
    assert gateway.get("/readyz?route=three") == (404, "no such route; there is one, two\n")


def test_draining(start_with: Start) -> None:
    """A stop is told at once, while listeners still accept for drain_delay; HTTP closes last."""
    gateway = start_with(sections() + "[limits]\ndrain_delay = 2.0\n")
    assert gateway.get("/readyz")[0] == 200
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_log("draining: listeners close in 2 s")
    code, body = gateway.get("/readyz")
    assert (code, body) == (503, "draining: the gateway stops\n")
    assert gateway.get("/livez") == (200, "ok\n")
    assert gateway.connect().ask(b"still\n") == b"+OK\n"
    port = gateway.port("lines")
    # The peer that stays has a second to take its last answer.
    idle = gateway.connect()
    seen_closed = 0
    for _ in itertools.repeat(None):
        is_closed = not is_open(port)
        try:
            found = [gateway.get(path)[0] for path in ("/readyz", "/livez", "/", "/status.json")]
        except OSError:
            break
        assert found == [503, 200, 200, 200]
        seen_closed += is_closed
    assert seen_closed and not is_open(port)
    idle.close()
    assert gateway.process.wait(PATIENCE) == 0
    assert_quiet(gateway)


def is_open(port: int) -> bool:
    """Whether somebody accepts there."""
    with suppress(ConnectionRefusedError):
        Peer(port).close()
        return True
    return False


def test_a_second_signal_does_not_wait(start_with: Start) -> None:
    """The time of draining can be cut short."""
    gateway = start_with(sections() + "[limits]\ndrain_delay = 600.0\n")
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_log("draining: listeners close in 600 s")
    assert gateway.terminate() == 0


@pytest.fixture
def taken() -> Iterator[Callable[..., int]]:
    """Takes a port, if nobody has it: there may be a gateway of its own on this machine."""
    listening: list[socket.socket] = []

    def take(port: int = 0) -> int:
        with suppress(OSError):
            listening.append(socket.create_server(("127.0.0.1", port)))
            return int(listening[-1].getsockname()[1])
        return port

    yield take
    for one in listening:
        one.close()


def test_a_default_that_is_taken(
    database: Database, start_gateway: Start, taken: Callable[..., int]
) -> None:
    """The endpoint that nobody wrote may be taken: one warning, and the gateway goes on."""
    while True:
        taken(int(HTTP_ENDPOINT.split(":")[1]))
        gateway = start_gateway("--database", database.dsn, *LISTEN)
        if "http: cannot listen" in gateway.log:
            break
        # Another test's gateway had the port, and has ended since: now it can be taken.
        gateway.end()
    assert gateway.log.count("http: cannot listen on 'tcp:8009:interface=127.0.0.1': ") == 1
    assert gateway.connect().ask(b"hello\n") == b"+OK\n"
    assert gateway.terminate() == 0
    assert_quiet(gateway)


def test_an_endpoint_that_is_taken(start_with: Start, taken: Callable[..., int]) -> None:
    """One that was written must be free, or the gateway does not start."""
    port = taken()
    text = sections().replace("tcp:0", f"tcp:{port}", 1)
    with pytest.raises(AssertionError) as raised:
        start_with(text)
    line = f"gateway: http cannot listen on 'tcp:{port}:interface=127.0.0.1': Address already in"
    assert line in str(raised.value)


def test_off(start_with: Start) -> None:
    """Who does not want it has none of it."""
    gateway = start_with(sections().replace("tcp:0:interface=127.0.0.1", "off", 1))
    assert "http:" not in gateway.log


def test_a_unix_socket(start_with: Start, tmp_path: Path) -> None:
    """It may be a Unix socket, for a proxy on this machine, under any name."""
    path = tmp_path / "http.sock"
    gateway = start_with(sections().replace("tcp:0:interface=127.0.0.1", f"unix:{path}", 1))
    gateway.wait_log(f"http: health, metrics and status on unix:{path}")
    answer = Peer(str(path)).ask(b"GET /readyz HTTP/1.1\r\nHost: gateway.example.org\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nok\n")


def test_over_tls(start_with: Start, tmp_path: Path) -> None:
    """With a certificate it is HTTPS; the certificate is among those whose end is watched, and one
    that is renewed is taken over by a reload."""
    issuer = Issuer(tmp_path)
    file = tmp_path / "http.pem"
    file.write_bytes(issuer.issue("localhost").file.read_bytes())
    gateway = start_with(sections(f'tls = {{ certificate = "{file}" }}'))
    gateway.wait_log("on https://127.0.0.1:")
    context = ssl.create_default_context(cafile=str(issuer.file))

    def get(path: str) -> bytes:
        connection = HTTPSConnection(
            "localhost", gateway.http_port, timeout=PATIENCE, context=context
        )
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        body = answer.read()
        connection.close()
        return body

    assert get("/readyz") == b"ok\n"
    (certificate, *_) = json.loads(get("/status.json"))["certificates"]
    assert certificate["listener"] == "[http]"
    with socket.create_connection(("127.0.0.1", gateway.http_port)) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"200" not in plain.recv(1000)
    with socket.create_connection(("127.0.0.1", gateway.http_port)):
        pass  # a probe that leaves before the handshake
    assert get("/readyz") == b"ok\n"
    file.write_bytes(issuer.issue("localhost").file.read_bytes())
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    assert get("/readyz") == b"ok\n"
    assert_quiet(gateway)


def test_a_certificate_with_a_fault(start_with: Start, tmp_path: Path) -> None:
    """A file that cannot be used is named with its key."""
    with pytest.raises(AssertionError, match=r"http\.tls\.certificate: .*nothing\.pem"):
        start_with(sections(f'tls = {{ certificate = "{tmp_path / "nothing.pem"}" }}'))


def test_a_check_of_the_file(tmp_path: Path) -> None:
    """gateway check tells of the site's certificate under its own key."""
    file = Issuer(tmp_path).issue("localhost").file
    config = tmp_path / "gateway.toml"
    config.write_text(sections(f'tls = {{ certificate = "{file}" }}'))
    assert f"\nhttp.tls: {file}: " in tool("check", str(config), cwd=tmp_path).stdout


def test_networks_by_a_reload(start_with: Start, tmp_path: Path) -> None:
    """allow and deny are taken over by a reload."""
    gateway = start_with(sections())
    assert gateway.get("/livez")[0] == 200
    config = tmp_path / "gateway.toml"
    config.write_text(config.read_text().replace("[http]\n", '[http]\ndeny = ["127.0.0.1/32"]\n'))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    assert gateway.get("/livez") == (403, "connections from your address are not allowed here\n")
    assert "next start" not in gateway.log


def test_probes_leave_no_trace(start_with: Start) -> None:
    """Who connects and leaves, or asks, or sends nonsense, is not logged."""
    gateway = start_with(sections())
    port = gateway.http_port
    before = gateway.log
    for sent in (b"", b"GET /readyz HTTP/1.0\r\n\r\n", b"GET /rea", b"\x16\x03\x01\r\n\r\n"):
        for ends in (True, False):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as probe:
                probe.sendall(sent)
                if ends:
                    probe.shutdown(socket.SHUT_WR)
                    while probe.recv(65536):
                        pass
    assert gateway.get("/livez")[0] == 200
    assert gateway.log == before


def test_a_crowd_of_slow_clients(start_with: Start) -> None:
    """A hundred clients that hold what they can keep neither a probe nor a peer out."""
    gateway = start_with(sections())
    peer = gateway.connect()
    holding = [
        socket.create_connection(("127.0.0.1", gateway.http_port), PATIENCE) for _ in range(100)
    ]
    for one in holding:
        with suppress(OSError):
            one.sendall(b"GET / HTTP/1.1\r\nHost: ")
    assert gateway.get("/readyz") == (200, "ok\n")
    peer.send(b"hello\n")
    assert peer.read_lines(1) == [b"+OK"]
    for one in holding:
        one.close()


PASS_ON = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_socket_of_systemd(database: Database, tmp_path: Path) -> None:
    """The socket may be one that systemd has opened."""
    config = tmp_path / "gateway.toml"
    text = sections().replace("tcp:0:interface=127.0.0.1", "systemd:domain=INET:index=0", 1)
    config.write_text(f"[database]\ndsn = '''{database.dsn}'''\n{text}")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", PASS_ON, str(BIN / "twistd"), "-n", "--pidfile="),
            *("--logfile", str(tmp_path / "log"), "gateway", "--config", str(config)),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b"ok\n"
        connection.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stdout.close()


def test_a_thousand_peers(start_with: Start) -> None:
    """With a thousand peers connected the page is there as quickly as ever."""
    gateway: Gateway = start_with(sections())
    peers = [gateway.connect() for _ in range(1000)]
    for peer in peers:
        peer.send(b"hello\n")
    for peer in peers:
        assert peer.read_lines(1) == [b"+OK"]
    status = json.loads(gateway.get("/status.json")[1])
    assert status["peers"] == status["listeners"][0]["messages"] == 1000
    assert "1,000" in gateway.get("/")[1]
