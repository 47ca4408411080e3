"""
Peers that are slow, mute, gone or hostile: each is disconnected in time, and the others are served.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.support import PATIENCE, Database, Gateway, Peer, wait_until

Start = Callable[..., Gateway]

LATE = b"-BYE RATE :frame not finished within 1 s\n"
QUIET = b"-BYE RATE :nothing sent for 1 s\n"

PINGS = (b"PING " + b"x" * 194 + b"\n") * 300
"""As many bytes come back, but for one of each."""

ANSWERS = 199 * 300

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
"""A network of one's own, whoever one is; it has a loopback device that is down."""

LINK = """
import fcntl, socket, struct
def loopback(up):
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # linux/sockios.h, linux/if.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP if up else 0))
"""

WITH_NETWORK = f"""
import os, sys
{LINK}
loopback(True)
os.execv(sys.argv[1], sys.argv[1:])
"""

VANISHING = f"""
import sys
{LINK}
peers = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(5)]
for peer in peers:
    peer.sendall(b"hello\\n")
    assert peer.recv(100) == b"+OK\\n"
print("connected", flush=True)
sys.stdin.readline()
for peer in peers:
    peer.sendall(sys.argv[2].encode())
print("sent", flush=True)
sys.stdin.readline()
loopback(False)
print("vanished", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start(database: Database, tmp_path: Path, start_gateway: Start) -> Callable[..., Gateway]:
    """Starts a gateway whose two listeners, plain and command, have some limits."""

    def start(limits: str) -> Gateway:
        return start_gateway("--config", str(configured(database, tmp_path, limits)))

    return start


def configured(database: Database, folder: Path, limits: str) -> Path:
    config = folder / "g.toml"
    dsn = database.dsn.replace("'", "")
    config.write_text(
        f'[database]\ndsn = "{dsn}"\n'
        f'[listeners.lines]\nendpoint = "tcp:0:interface=127.0.0.1"\nroute = "messages"\n{limits}\n'
        f'[listeners.local]\nendpoint = "unix:g.sock"\nroute = "messages"\n{limits}\n'
        "[listeners.commands]\n"
        f'endpoint = "tcp:0:interface=127.0.0.1"\ndialect = "command"\n{limits}\n'
    )
    return config


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as stack:
        yield stack


def take(peer: socket.socket, size: int) -> int:
    """Read so many bytes, or to the end."""
    taken = 0
    while taken < size and (more := len(peer.recv(size - taken))):
        taken += more
    return taken


def descriptors(gateway: Gateway) -> int:
    return psutil.Process(gateway.process.pid).num_fds()


def test_slowloris(start: Callable[..., Gateway], peers: ExitStack) -> None:
    """Fifty peers that drip a byte at a time end at the deadline; another one is served."""
    gateway = start("frame_timeout = 1.0")
    good = gateway.connect()
    peers.callback(good.close)
    good.send(b"x\n")
    assert good.read_lines(1) == [b"+OK"]
    base = descriptors(gateway)
    begun = time.monotonic()
    slow = [gateway.connect() for _ in range(50)]
    for peer in slow:
        peers.callback(peer.close)
        peer.send(b"whole\nb")
    ended: dict[Peer, float] = {}
    longest = 0.0
    while len(ended) < len(slow) and time.monotonic() < begun + PATIENCE:
        asked = time.monotonic()
        good.send(b"x\n")
        assert good.read_lines(1) == [b"+OK"]
        longest = max(longest, time.monotonic() - asked)
        for peer in slow:
            if peer not in ended and peer.readable(0) and b"BYE" in peer.socket.recv(999, 2):
                ended[peer] = time.monotonic() - begun
            with suppress(OSError):
                peer.send(b"b")
    assert len(ended) == len(slow)
    assert min(ended.values()) >= 1 and max(ended.values()) < 5
    assert longest < 1
    for peer in slow:
        assert peer.read_all() == b"+OK\n" + LATE
    # They are thrown out while they still drip, not when they have the grace to leave.
    wait_until(lambda: descriptors(gateway) <= base + 4, "their sockets are closed")
    gateway.wait_log("peers? disconnected: frame not finished within 1 s")


def test_a_peer_that_takes_no_answers(start: Callable[..., Gateway], peers: ExitStack) -> None:
    """It is read no more, then dropped; memory stays flat, and others are served."""
    gateway = start("write_timeout = 1.0")
    process = psutil.Process(gateway.process.pid)
    commands = gateway.port("commands")
    good = gateway.connect()
    peers.callback(good.close)
    with socket.create_connection(("127.0.0.1", commands), timeout=PATIENCE) as warm:
        for _ in range(20):
            warm.sendall(PINGS)
            assert take(warm, ANSWERS) == ANSWERS
    base, memory = descriptors(gateway), process.memory_info().rss
    mute = []
    for _ in range(4):
        peer = socket.create_connection(("127.0.0.1", commands), timeout=PATIENCE)
        peers.callback(peer.close)
        peer.setblocking(False)
        mute.append(peer)
    taken = dict.fromkeys(mute, 0)
    dropped: dict[socket.socket, float] = {}
    since = dict.fromkeys(mute, time.monotonic())
    grown = 0
    while len(dropped) < len(mute):
        for peer in mute:
            if peer in dropped:
                continue
            try:
                taken[peer] += peer.send(PINGS)
                assert taken[peer] < 60e6, "it is read on and on"
                since[peer] = time.monotonic()
            except BlockingIOError:
                pass
            except OSError:
                dropped[peer] = time.monotonic() - since[peer]
            assert time.monotonic() < since[peer] + PATIENCE, "never dropped"
        good.send(b"x\n")
        assert good.read_lines(1) == [b"+OK"]
        grown = max(grown, process.memory_info().rss - memory)
    assert min(dropped.values()) > 0.5 and max(dropped.values()) < 5
    assert grown < 30 * 1024 * 1024
    wait_until(lambda: descriptors(gateway) <= base, "their sockets are closed")
    gateway.wait_log("disconnected: no answer taken for 1 s")


def test_a_slow_reader_is_not_dropped(start: Callable[..., Gateway], peers: ExitStack) -> None:
    """Who takes some answers now and then gets all of them, long after write_timeout."""
    gateway = start("write_timeout = 1.0")
    # With a small buffer, so that the kernel tells of every little that is read.
    peer = socket.socket()
    peers.callback(peer.close)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
    peer.settimeout(0.2)
    peer.connect(("127.0.0.1", gateway.port("commands")))
    sent = 0
    with suppress(TimeoutError):
        while True:
            sent += peer.send(PINGS[sent % len(PINGS) :])
    peer.settimeout(PATIENCE)
    begun = time.monotonic()
    got = 0
    while time.monotonic() < begun + 3:
        time.sleep(0.25)  # being slow is the test's point
        got += take(peer, 64 * 1024)
    wanted = sent // len(PINGS) * ANSWERS
    assert got + take(peer, wanted - got) == wanted
    assert "disconnected" not in gateway.log


def test_an_idle_peer(start: Callable[..., Gateway], peers: ExitStack, database: Database) -> None:
    """Nothing sent for the time: the end; a peer whose message is not stored yet stays."""
    gateway = start("idle_timeout = 1.0")
    waiting, idle = gateway.connect(), gateway.connect()
    peers.callback(waiting.close)
    peers.callback(idle.close)
    with psycopg2.connect(database.dsn) as lock, lock.cursor() as cursor:
        cursor.execute("LOCK TABLE messages")
        waiting.send(b"hello\n")
        assert idle.read_all() == QUIET
        assert not waiting.readable(1.5)
    lock.close()
    assert waiting.read_lines(1) == [b"+OK"]
    waiting.send(b"still here\n")
    assert waiting.read_all() == b"+OK\n" + QUIET


@pytest.mark.parametrize("listener", ["lines", "local"])
def test_who_talks_after_goodbye(
    start: Callable[..., Gateway], peers: ExitStack, tmp_path: Path, listener: str
) -> None:
    """A peer that sends for ever after -BYE is cut off, on TCP and on a Unix socket."""
    gateway = start("frame_timeout = 0.5")
    where = gateway.port(listener) if listener == "lines" else str(tmp_path / "g.sock")
    base = descriptors(gateway)
    peer = Peer(where)
    peers.callback(peer.close)
    peer.send(b"begun")
    assert peer.read_lines(1) == [LATE[:-1].replace(b"1 s", b"0.5 s")]
    begun = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < begun + PATIENCE:
            peer.send(b"x" * 10_000 + b"\n")
    assert 1 < time.monotonic() - begun < 10
    wait_until(lambda: descriptors(gateway) <= base, "its socket is closed")


def has_namespaces() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="needs user and network namespaces")
@pytest.mark.parametrize("queued", [False, True], ids=["idle", "with answers queued"])
def test_half_open_peers(
    database: Database, tmp_path: Path, peers: ExitStack, queued: bool
) -> None:
    """Peers that vanish without FIN or RST are gone after twice keepalive, answers due or not."""
    config = configured(database, tmp_path, "keepalive = 1.0")
    gateway = Gateway(
        ("--config", str(config)), tmp_path, (*NAMESPACE, sys.executable, "-c", WITH_NETWORK)
    )
    peers.callback(gateway.end)
    gateway.wait_ready()
    base = descriptors(gateway)
    lock = psycopg2.connect(database.dsn)
    peers.callback(lock.close)
    client = subprocess.Popen(
        [
            *("nsenter", "--preserve-credentials", "--user", "--net"),
            *("--target", str(gateway.process.pid)),
            *(sys.executable, "-c", VANISHING, str(gateway.port("lines"))),
            "late\n" if queued else "",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    peers.callback(client.wait)
    peers.callback(client.kill)
    assert client.stdin is not None and client.stdout is not None
    peers.callback(client.stdout.close)
    peers.callback(client.stdin.close)

    def go_on(until: str) -> None:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline() == f"{until}\n"

    assert client.stdout.readline() == "connected\n"
    with lock.cursor() as cursor:
        cursor.execute("LOCK TABLE messages")
    go_on("sent")
    if queued:
        waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
        wait_until(lambda: database.column(waits)[0], "their messages wait")
    go_on("vanished")
    begun = time.monotonic()
    assert descriptors(gateway) >= base + 5
    lock.rollback()
    wait_until(lambda: descriptors(gateway) <= base, "their sockets are closed")
    assert 0.5 < time.monotonic() - begun < 6
    assert client.poll() is None, "they left by themselves"
    assert len(database.bodies()) == (10 if queued else 5)
    assert "Traceback" not in gateway.log and "Unhandled" not in gateway.log
