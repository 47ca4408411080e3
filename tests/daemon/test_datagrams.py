"""
Datagrams into a real gateway, from senders that nobody here wrote: logger, nc, Python's
SysLogHandler, pygelf and graypy.

None hears an answer; what the table holds is what they sent.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Any, Final

import graypy
import psycopg2
import pygelf
import pytest

from gateway.admin.client import AdminClient
from tests.faults.look import assert_quiet
from tests.installing import Installer
from tests.support import PATIENCE, Database, Gateway, wait_until

Start = Callable[..., Gateway]

SYSLOG: Final = """
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[listeners.udp]
endpoint = "udp:0:interface=127.0.0.1"
route = "messages"
[listeners.local]
endpoint = "unixgram:log.sock"
route = "messages"
[routes.messages]
table = "messages"
create = true
dead_letter = true
"""

GELF: Final = """
[http]
endpoint = "tcp:0:interface=127.0.0.1"
[listeners.gelf]
endpoint = "udp:0:interface=127.0.0.1"
route = "messages"
gelf = true
[routes.messages]
table = "messages"
format = "json"
create = true
dead_letter = true
[routes.messages.columns]
body = "short_message"
site = "_site"
[routes.messages.create_columns]
id = "bigint generated always as identity primary key"
body = "text not null"
site = "text"
"""


def stored(database: Database, count: int) -> list[str]:
    """All messages, as soon as there are so many."""
    wait_until(lambda: len(database.bodies()) >= count, f"{count} messages are stored")
    return database.bodies()


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[logging.Logger]:
    """A logger of Python's with one handler."""
    logger = logging.getLogger(f"{__name__}.{id(handler)}")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        handler.close()


def send(port: int, *datagrams: bytes) -> None:
    """Send datagrams as fast as they go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        for datagram in datagrams:
            sender.send(datagram)


def lost(gateway: Gateway, reason: str) -> int:
    """Datagrams that a listener has lost, as the metrics say."""
    _, text = gateway.get("/metrics")
    found = re.findall(rf'^gateway_datagrams_lost_total{{.*reason="{reason}"}} (\S+)', text, re.M)
    return int(sum(map(float, found)))


@pytest.mark.parametrize("where", ["udp", "local"])
def test_logger(
    where: str, installer: Installer, start_with: Start, database: Database, tmp_path: Path
) -> None:
    """logger sends each line of its input as a datagram of RFC 5424, over UDP and to a socket."""
    gateway = start_with(SYSLOG)
    texts = ["hello", "käse, 奶酪", "blanks  and <brackets> "]
    to: tuple[str, ...] = ("--udp", "-n", "127.0.0.1", "-P", str(gateway.port("udp")))
    if where == "local":
        to = ("-u", str(tmp_path / "log.sock"))
    done = subprocess.run(
        [installer.program("logger"), *to, "-t", "demo", "-p", "cron.err", "--rfc5424", "--stderr"],
        input="".join(f"{text}\n" for text in texts),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done
    messages = stored(database, len(texts))
    assert messages == done.stderr.splitlines()
    for text, message in zip(texts, messages, strict=True):
        assert message.startswith("<75>1 ") and message.endswith(text)
    assert_quiet(gateway)


@pytest.mark.parametrize("where", ["udp", "local"])
def test_python(where: str, start_with: Start, database: Database, tmp_path: Path) -> None:
    """Python's SysLogHandler ends each datagram with NUL, which is no part of the message."""
    gateway = start_with(SYSLOG)
    address: Any = ("127.0.0.1", gateway.port("udp"))
    if where == "local":
        address = str(tmp_path / "log.sock")
    texts = ["hello", "käse, 奶酪", "two\nlines", *(f"message {n}" for n in range(200))]
    with logging_to(SysLogHandler(address, SysLogHandler.LOG_CRON)) as logger:
        for text in texts:
            logger.error("%s", text)
    assert stored(database, len(texts)) == [f"<75>{text}" for text in texts]
    assert database.column("SELECT DISTINCT split_part(peer, ':', 1) FROM messages") == [
        "127.0.0.1" if where == "udp" else "unix"
    ]
    assert_quiet(gateway)


def test_the_line_in_the_log(installer: Installer, start_with: Start, database: Database) -> None:
    """What the gateway says at its start to try works as it stands."""
    installer.program("nc")
    gateway = start_with(SYSLOG)
    for listener in ("udp", "local"):
        command = gateway.wait_log(rf"listener {listener}: datagrams on .*; try: (.*)")[1]
        done = subprocess.run(["sh", "-ec", command], timeout=PATIENCE, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), done
    assert stored(database, 2) == ["hello", "hello"]


@pytest.mark.parametrize("library", ["pygelf", "graypy", "pygelf-plain"])
def test_gelf(library: str, start_with: Start, database: Database) -> None:
    """GELF's senders: compressed, in chunks where a message is long, and fields of their own."""
    gateway = start_with(GELF.replace('format = "json"', 'format = "gelf"'))
    where: Any = ("127.0.0.1", gateway.port("gelf"))
    handler: Any
    if library == "graypy":
        handler = graypy.GELFUDPHandler(*where, extra_fields=True)
    else:
        compress = library == "pygelf"
        handler = pygelf.GelfUdpHandler(
            *where, compress=compress, chunk_size=1300, include_extra_fields=True
        )
    # Numbers hardly become smaller by compression.
    texts = ["hello", "käse, 奶酪", "long " + "".join(str(n * n) for n in range(6_000))]
    with logging_to(handler) as logger:
        for text in texts:
            logger.error("%s", text, extra={"site": "north"})
    assert sorted(stored(database, len(texts))) == sorted(texts)
    assert database.column("SELECT DISTINCT site FROM messages") == ["north"]
    assert_quiet(gateway)


def test_bad_messages_are_kept(start_with: Start, database: Database) -> None:
    """A datagram that is refused is kept as a dead letter, with who sent it, and counted."""
    gateway = start_with(GELF)
    send(gateway.port("gelf"), b"no json", b'{"short_message":"good"}', b'{"host":"x"}')
    assert stored(database, 1) == ["good"]
    letters = "SELECT convert_from(frame, 'UTF8') FROM gateway.dead_letter ORDER BY id"
    wait_until(lambda: len(database.column(letters)) == 2, "both are kept")
    assert database.column(letters) == ["no json", '{"host":"x"}']
    (peers,) = database.column("SELECT count(DISTINCT peer) FROM gateway.dead_letter")
    assert peers == 1
    gateway.wait_log("listener gelf: 1 message for route messages refused: FORMAT")


def test_many(start_with: Start, database: Database) -> None:
    """Under load what the kernel took is stored, and what it dropped is counted: nothing else."""
    gateway = start_with(SYSLOG.replace("route =", 'receive_buffer = "64kB"\nroute =', 1))
    sent = 20_000
    send(gateway.port("udp"), *[b"message %d" % n for n in range(sent)])

    def count() -> int:
        (number,) = database.column("SELECT count(*) FROM messages")
        return int(number) + lost(gateway, "kernel")

    wait_until(lambda: count() == sent, "each is stored or counted")
    bodies = [int(body.split()[1]) for body in database.bodies()]
    assert bodies == sorted(set(bodies))
    if lost(gateway, "kernel"):
        gateway.wait_log("listener udp: .* datagrams? lost: kernel: the kernel's buffer was full")


def test_a_listener_that_is_not_read(start_with: Start, database: Database) -> None:
    """
    With the database stuck, messages in flight are bounded; then the kernel drops, which is counted
    and logged; in the end all is stored or counted.
    """
    gateway = start_with(
        SYSLOG.replace("route =", 'receive_buffer = "64kB"\nroute =', 1)
        + '[limits]\nbytes_in_flight = "200kB"\n'
    )
    send(gateway.port("udp"), b"first")
    stored(database, 1)
    with database_locked(database):
        for _ in range(20):
            send(gateway.port("udp"), *[b"x" * 200] * 500)
        gateway.wait_log("listener udp: .* datagrams? lost: kernel: the kernel's buffer was full")
        # Others are served all the same: half of the limit is theirs.
        status = json.loads(gateway.get("/status.json")[1])
        assert not status["memory"]["full"]
    wait_until(
        lambda: (
            database.column("SELECT count(*) FROM messages")[0] + lost(gateway, "kernel") == 10_001
        ),
        "each is stored or counted",
    )


@contextmanager
def database_locked(database: Database) -> Iterator[None]:
    """Nothing can be written into the table meanwhile."""
    connection = psycopg2.connect(database.dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


def test_a_stop_takes_what_has_come(start_with: Start, database: Database) -> None:
    """What the kernel has received before a stop is stored before the gateway ends."""
    gateway = start_with(SYSLOG)
    port = gateway.port("udp")
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        send(port, *[b"%d" % n for n in range(300)])
        gateway.process.send_signal(signal.SIGTERM)
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    assert gateway.process.wait(PATIENCE) == 0
    assert database.bodies() == [str(n) for n in range(300)]


def test_a_reload(start_with: Start, database: Database, tmp_path: Path) -> None:
    """A reload opens, changes, moves and closes listeners for datagrams."""
    gateway = start_with(SYSLOG)
    file = tmp_path / "gateway.toml"
    before = file.read_text()
    old = gateway.port("udp")
    file.write_text(
        before.replace('"unixgram:log.sock"', '"unixgram:other.sock"').replace(
            "[listeners.local]",
            'deny = ["127.0.0.1/32"]\n[listeners.more]\nendpoint = "udp:0:interface=127.0.0.1"\n'
            'receive_buffer = "100kB"\nroute = "messages"\n[listeners.local]',
        )
    )
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    assert (tmp_path / "other.sock").exists() and not (tmp_path / "log.sock").exists()
    send(old, b"denied")
    gateway.wait_log("listener udp: 1 message refused: DENIED: .*127.0.0.1:")
    send(gateway.port("more"), b"more")
    assert stored(database, 1) == ["more"]
    file.write_text(
        before.replace('route = "messages"', 'receive_buffer = 9000\nroute = "messages"', 1)
    )
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_log("listener udp: receive_buffer none -> 9000, its port is opened anew")
    wait_until(lambda: gateway.log.count("configuration reloaded") == 2, "it is reloaded again")
    moved = re.findall(r"listener udp: datagrams on 127.0.0.1:(\d+);", gateway.log)[-1]
    send(int(moved), b"again")
    assert stored(database, 2) == ["more", "again"]
    with pytest.raises(ConnectionRefusedError), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", gateway.port("more")))
        for _ in range(2):
            sender.send(b"nobody")


def test_the_console(start_with: Start, database: Database) -> None:
    """SHOW LISTENERS has where they are, and what was lost."""
    gateway = start_with(SYSLOG.replace("route =", "messages_per_second = 1\nroute =", 1))
    send(gateway.port("udp"), *[b"x"] * 50)
    wait_until(lambda: lost(gateway, "rate") > 0, "those over the rate are lost")
    with AdminClient(Path(gateway.wait_log(r"admin: console on (\S+);")[1])) as client:
        shown = [json.loads(line) for line in client.ask("SHOW LISTENERS --json")]
    rows = {row["listener"]: row for row in shown}
    assert rows["udp"]["framing"] == "datagram" and rows["udp"]["lost"].startswith("rate ")
    assert rows["udp"]["address"] == f"127.0.0.1:{gateway.port('udp')}"
    assert rows["local"]["lost"] == "" and rows["local"]["address"].endswith("/log.sock")


SYSTEMD: Final = """
import os, socket, sys
held = socket.socket(type=socket.SOCK_DGRAM)
held.bind(("127.0.0.1", 0))
os.dup2(held.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="udp")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("kind", [":type=datagram", ""])
def test_a_socket_of_systemd(
    kind: str, start_gateway: Callable[..., Gateway], database: Database, tmp_path: Path
) -> None:
    """It is read where the endpoint says that it is for datagrams; else the gateway says so."""
    file = tmp_path / "gateway.toml"
    endpoint = f"systemd:domain=INET:name=udp{kind}"
    text = SYSLOG.replace("udp:0:interface=127.0.0.1", endpoint)
    file.write_text(f"[database]\ndsn = '''{database.dsn}'''\n{text}")
    until = "gateway ready" if kind else "it is for datagrams: add :type=datagram"
    gateway = start_gateway(
        "--config", str(file), wrapper=(sys.executable, "-c", SYSTEMD), until=until
    )
    if kind:
        send(gateway.port("udp"), b"hello")
        assert stored(database, 1) == ["hello"]
