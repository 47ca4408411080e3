"""
A gateway of several processes, as its peers and its operator see it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from gateway.admin.client import AdminClient
from tests.faults.workers import is_alive, workers_of
from tests.issuer import Issuer
from tests.support import Database, Gateway, Peer, TemporaryServer, wait_until


def peers_of(pid: int) -> int:
    """Connections of peers that a worker has."""
    with_peers = psutil.Process(pid).net_connections("inet4")
    return sum(one.status == psutil.CONN_ESTABLISHED for one in with_peers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def issuer(folder: Path) -> Issuer:
    return Issuer(folder)


def show(issuer: Issuer, folder: Path) -> int:
    """Give the gateway another certificate; return its serial number."""
    issued = issuer.issue("localhost")
    new = folder / "server.new"
    new.write_bytes(issued.file.read_bytes())
    new.rename(folder / "server.pem")
    return issued.certificate.serial_number


def shown(gateway: Gateway, issuer: Issuer) -> int:
    """Send a line over TLS; return the serial number of the certificate that was shown."""
    context = ssl.create_default_context(cafile=str(issuer.file))
    peer = Peer(gateway.port("secure"))
    peer.socket = context.wrap_socket(peer.socket, server_hostname="localhost")
    peer.send(b"secure\n")
    assert peer.read_lines(1) == [b"+OK"]
    certificate = peer.socket.getpeercert()
    peer.close()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


@pytest.fixture(scope="module")
def shared(
    server: TemporaryServer, folder: Path, issuer: Issuer
) -> Iterator[tuple[Gateway, Database]]:
    """A gateway of two workers for many tests, and its database."""
    with server.create_database() as database:
        config = folder / "gateway.toml"
        config.write_text(
            f"""
[process]
workers = 2
[database]
dsn = '''{database.dsn}'''
answer_timeout = 60
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
max_connections = 16
[listeners.local]
endpoint = "unix:s"
route = "messages"
[listeners.secure]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
tls = {{ certificate = "server.pem" }}
[listeners.behind]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
trusted_proxies = ["127.0.0.0/8"]
max_connections_per_address = 2
[listeners.wrapped]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.datagrams]
endpoint = "udp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
table = "messages"
create = true
dead_letter = true
"""
        )
        show(issuer, folder)
        gateway = Gateway(("--config", str(config)), folder)
        try:
            gateway.wait_log("2 of 2 do")
            gateway.wait_log("worker 1: gateway ready")
            gateway.wait_log("worker 2: gateway ready")
            yield gateway, database
        finally:
            gateway.end()


@pytest.fixture
def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_connections_are_spread_evenly(shared: tuple[Gateway, Database]) -> None:
    """Each worker has as many as the other, and each peer is answered."""
    gateway, database = shared
    with ExitStack() as stack:
        peers = [gateway.connect() for _ in range(8)]
        for peer in peers:
            stack.callback(peer.close)
            peer.send(b"spread\n")
        assert [peer.read_lines(1) for peer in peers] == [[b"+OK"]] * 8
        pids = workers_of(gateway)
        assert sorted(pids) == [1, 2]
        assert [peers_of(pid) for pid in pids.values()] == [4, 4]
    assert database.bodies().count("spread") == 8


def test_a_limit_holds_for_all_workers(shared: tuple[Gateway, Database]) -> None:
    """The seventeenth connection is told which limit it exceeds; when one left, one may come."""
    gateway, _ = shared
    with ExitStack() as stack:

        def enter() -> Peer | None:
            """One more peer, unless it is refused."""
            peer = gateway.connect()
            stack.callback(peer.close)
            peer.send(b"x\n")
            return peer if peer.read_lines(1) == [b"+OK"] else None

        # Those of the test before may just be leaving.
        peers = [wait_until(enter, "one may come") for _ in range(16)]
        word = gateway.connect().read_all()
        assert word.startswith(b"-BYE BUSY") and b"connections at this listener" in word
        peers[0].close()
        wait_until(enter, "one more may come")


def test_a_unix_socket(shared: tuple[Gateway, Database], folder: Path) -> None:
    """Its connections are passed as those of TCP are."""
    peer = Peer(str(folder / "s"))
    assert peer.ask(b"local\n") == b"+OK\n"


def test_a_proxy_before_the_listener(shared: tuple[Gateway, Database]) -> None:
    """Connections are counted by the address that the proxy names, over all workers."""
    gateway, _ = shared
    with ExitStack() as stack:

        def answer(address: str, listener: str = "behind") -> bytes:
            peer = gateway.connect(listener)
            stack.callback(peer.close)
            peer.send(b"PROXY TCP4 %s 192.0.2.1 5000 8000\r\nproxied\n" % address.encode())
            return peer.read_lines(1)[0]

        answers = [answer("203.0.113.9") for _ in range(4)]
        assert answers[:2] == [b"+OK"] * 2
        assert all(one.startswith(b"-BYE BUSY") for one in answers[2:])
        assert b"connections from this address" in answers[2]
        assert answer("203.0.113.10") == b"+OK"
        assert [answer("203.0.113.9", "wrapped") for _ in range(3)] == [b"+OK"] * 3


def test_datagrams(shared: tuple[Gateway, Database]) -> None:
    """They are read by the first worker."""
    gateway, database = shared
    port = int(gateway.wait_log(r"listener datagrams: datagrams on 127.0.0.1:(\d+)")[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"datagram", ("127.0.0.1", port))
    wait_until(lambda: "datagram" in database.bodies(), "it is stored")


def test_a_worker_that_is_killed(shared: tuple[Gateway, Database]) -> None:
    """Its peers are disconnected, those of the other notice nothing, and a new one serves."""
    gateway, _ = shared
    before = workers_of(gateway)
    peers = [gateway.connect() for _ in range(4)]
    for peer in peers:
        peer.send(b"x\n")
        assert peer.read_lines(1) == [b"+OK"]
    os.kill(before[2], signal.SIGKILL)
    gateway.wait_log(rf"worker 2 \(process {before[2]}\) ended after .*: killed by SIGKILL")
    alive = 0
    for peer in peers:
        try:
            peer.send(b"y\n")
            alive += peer.read_lines(1) == [b"+OK"]
        except (AssertionError, ConnectionError):
            pass
        peer.close()
    assert alive == 2
    wait_until(lambda: workers_of(gateway).get(2) not in (None, before[2]), "a new one")
    assert workers_of(gateway)[1] == before[1]


@pytest.mark.long
def test_a_worker_that_stands_still(
    shared: tuple[Gateway, Database], issuer: Issuer, folder: Path
) -> None:
    """It is killed and replaced; meanwhile others serve, and a certificate that is renewed is
    shown by all, the one that came later too."""
    gateway, _ = shared
    before = shown(gateway, issuer)
    assert shown(gateway, issuer) == before
    pid = workers_of(gateway)[1]
    os.kill(pid, signal.SIGSTOP)
    renewed = show(issuer, folder)
    gateway.wait_log(rf"worker 1 \(process {pid}\) is killed: no sign of life for 10 s")
    gateway.wait_log(rf"worker 1 \(process {pid}\) ended(.|\n)* worker 1 .* serves; 2 of 2 do")
    assert [shown(gateway, issuer) for _ in range(4)] == [renewed] * 4
    assert not is_alive(pid)


def test_more_connect_than_the_parent_has_files(server: TemporaryServer, tmp_path: Path) -> None:
    """While the workers stand still; then others are started in their place, and serve."""
    with server.create_database() as database, ExitStack() as stack:
        (tmp_path / "gateway.toml").write_text(
            f"""
[process]
workers = 2
[database]
dsn = '''{database.dsn}'''
pool_max = 2
query_connections = 2
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[routes.messages]
table = "messages"
create = true
"""
        )
        few = ("bash", "-c", 'ulimit -n 260; exec "$0" "$@"')
        gateway = Gateway(("--config", "gateway.toml"), tmp_path, few)
        stack.callback(gateway.end)
        gateway.wait_log("at most 246; raise")
        gateway.wait_log("2 of 2 do")
        pids = workers_of(gateway).values()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for _ in range(300):
            stack.callback(gateway.connect().close)
        wait_until(lambda: len(gateway_files(gateway)) > 70, "they are accepted")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gateway.wait_log("ended after (.|\n)*2 of 2 do")
        assert gateway.get("/livez")[0] == 200
    assert "Traceback" not in gateway.log, gateway.log[gateway.log.index("Traceback") - 400 :][
        :4000
    ]


def gateway_files(gateway: Gateway) -> list[Path]:
    """Descriptors of the parent."""
    return list(Path(f"/proc/{gateway.process.pid}/fd").iterdir())


def test_nobody_outlives_the_parent(start_with: Callable[..., Gateway], free_port: int) -> None:
    """A parent that is killed takes its workers along, also one that stands still, and a new start
    binds the same port at once."""
    sections = f"""
[process]
workers = 2
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:{free_port}:interface=127.0.0.1"
route = "messages"
"""
    first = start_with(sections)
    first.wait_log("2 of 2 do")
    pids = workers_of(first)
    os.kill(pids[2], signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    second = start_with(sections)
    assert not any(map(is_alive, pids.values()))
    assert second.connect().ask(b"x\n") == b"+OK\n"
    second.wait_log("2 of 2 do")
    pids = workers_of(second)
    assert second.terminate() == 0
    assert not any(map(is_alive, pids.values()))
    assert "all 2 workers ended" in second.log


RELOADED = """
[process]
workers = 2
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:{port}:interface=127.0.0.1"
route = "messages"
{line}
[listeners.fast]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
messages_per_second = 50
burst = 1.0
{tls}
[routes.messages]
table = "messages"
create = true
"""


def test_a_reload_is_for_all_or_none(
    start_with: Callable[..., Gateway], tmp_path: Path, free_port: int
) -> None:
    """All workers take a new configuration over, one that is started later too; a wrong one
    changes nothing; peers stay connected."""
    gateway = start_with(RELOADED.format(port=free_port, line="", tls=""))
    gateway.wait_log("2 of 2 do")
    config = tmp_path / "gateway.toml"
    first = config.read_text()
    peers = [gateway.connect() for _ in range(2)]

    def longest() -> list[bytes]:
        """What each worker says to a line of 3,000 bytes."""
        return [gateway.connect().ask(b"x" * 3000 + b"\n")[:4] for _ in range(2)]

    assert longest() == [b"+OK\n"] * 2
    config.write_text(first.replace("create = true", "columns = { nope = '@frame' }"))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("not reloaded: .*nope")
    config.write_text(first.replace("[listeners.fast]", "max_frame = 1000\n[listeners.fast]"))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    assert longest() == [b"-REJ"] * 2
    for number, pid in workers_of(gateway).items():
        if number == 2:
            os.kill(pid, signal.SIGKILL)
            gateway.wait_log(rf"worker 2 \(process {pid}\) ended(.|\n)* worker 2 .*; 2 of 2 do")
    assert longest() == [b"-REJ"] * 2
    assert gateway.log.count("configuration reloaded") == 1
    peers[0].send(b"x\n")
    assert peers[0].readable(10)


def test_a_rate_holds_for_all_workers(start_with: Callable[..., Gateway], free_port: int) -> None:
    """Peers of one address in two workers together get the rate and its burst, and no more."""
    gateway = start_with(RELOADED.format(port=free_port, line="", tls=""))
    gateway.wait_log("2 of 2 do")
    peers = [gateway.connect("fast") for _ in range(4)]
    for peer in peers:
        peer.send(b"m\n" * 100)
    answers = [answer for peer in peers for answer in peer.read_lines(100)]
    assert set(answers) >= {b"+OK"}
    stored = answers.count(b"+OK")
    # A burst, and what a moment brings meanwhile; some may be lent to the other worker.
    assert 45 <= stored < 120, stored
    assert all(answer.startswith((b"+OK", b"-TRY RATE")) for answer in answers)


def test_spools_of_workers(
    start_with: Callable[..., Gateway],
    start_gateway: Callable[..., Gateway],
    database: Database,
    tmp_path: Path,
) -> None:
    """What workers keep in an outage is stored by their successors, and by the one process that
    is left where there are fewer; its spool is removed then."""
    section = """
[process]
workers = 3
[http]
endpoint = "off"
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
"""
    config = tmp_path / "away.toml"
    config.write_text(
        f"[database]\ndsn = 'host=/nonexistent dbname=x'\nacquire_timeout = 0.2\n{section}"
    )
    away = start_gateway("--config", str(config), until="3 of 3 do")
    peers = [away.connect() for _ in range(3)]
    for number, peer in enumerate(peers):
        peer.send(b"%d\n" % number)
    assert [peer.read_lines(1)[0].partition(b" ")[0] for peer in peers] == [b"+QUE"] * 3
    pids = workers_of(away)
    os.kill(pids[3], signal.SIGKILL)
    away.wait_log("worker 3: spool: 1 messages in .*spool-3.db are stored first")
    assert away.terminate() == 0
    files = [tmp_path / "gateway-data" / name for name in ("spool-2.db", "spool-3.db")]
    assert all(file.exists() for file in files)
    config.write_text(config.read_text().replace("workers = 3", "workers = 2"))
    away = start_gateway("--config", str(config), until="2 of 2 do")
    with AdminClient(Path(away.wait_log(r"admin: console on (\S+);")[1])) as console:

        def shown() -> list[tuple[int, str, int]]:
            rows = map(json.loads, console.ask("SHOW SPOOL --json"))
            return [(row["worker"], Path(row["path"]).name, row["messages"]) for row in rows]

        wait_until(
            lambda: shown() == [(1, "spool.db", 1), (1, "spool-3.db", 1), (2, "spool-2.db", 1)],
            "what the third one left is listed",
        )
        (page,) = console.ask("SHOW STATUS --json")
        assert "of a worker that is no more wait in" in page
        (route,) = map(json.loads, console.ask("SHOW ROUTES --json"))
        assert route["spooled"] == 3
    assert away.terminate() == 0
    # Two are left: worker 1 takes the third one's.
    two = start_with(section.replace("3", "2"))
    two.wait_log("worker 1: spool: .*spool-3.db of a worker that is no more is empty, and removed")
    wait_until(lambda: len(database.bodies()) == 3, "all are stored")
    assert not files[1].exists()
    assert two.terminate() == 0
    one = start_with(section.replace("3", "1"))
    one.wait_log("spool: .*spool-2.db of a worker that is no more is empty, and removed")
    assert not files[0].exists()
    assert sorted(database.bodies()) == ["0", "1", "2"]
    assert one.terminate() == 0
