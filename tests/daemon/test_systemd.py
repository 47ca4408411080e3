"""
Systemd's part, played: what it is told, and ports that it holds while the gateway restarts.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway.daemon.systemd import MORE_TIME, STATUS_INTERVAL, Systemd, status_line
from gateway.status.status import State, Status
from gateway.system.notify_socket import NotifySocket
from tests.forking import BIN
from tests.status import samples
from tests.support import PATIENCE, Database, Peer, wait_until


def status(state: State = "ready", peers: int = 0, reasons: tuple[str, ...] = ()) -> Status:
    """A status without a spool."""
    return samples.status(listeners=3, state=state, peers=peers, reasons=reasons, spool=None)


class Manager:
    """
    A service manager's socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._told: list[str] = []

    def told(self) -> list[str]:
        """All messages so far; their assignments are apart by a space."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._told.append(self._socket.recv(10000).decode().replace("\n", " "))
        return self._told

    def wait(self, pattern: str) -> str:
        """Wait for a message."""

        def look() -> str | None:
            return next((one for one in self.told() if re.search(pattern, one)), None)

        found: str = wait_until(look, pattern)
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


async def reload() -> int:
    """A reload with an outcome."""
    return 7


def reloaded(systemd: Systemd) -> list[int]:
    """The outcome of a reload that systemd is told of."""
    outcomes: list[int] = []
    Deferred.fromCoroutine(systemd.reloading(reload)).addCallback(outcomes.append)
    return outcomes


def test_a_status_of_one_line() -> None:
    """The state, counts, and what is wrong."""
    assert status_line(status(peers=1)) == "ready: 3 listeners, 1 peer, 0 spooled"
    reasons = ("the database cannot be reached: no\nroute",)
    assert status_line(status("starting", reasons=reasons)) == (
        r"starting: 3 listeners, 0 peers, 0 spooled; the database cannot be reached: no\nroute"
    )
    assert status_line(status("draining", 2, ("draining: the gateway stops",))) == (
        "draining: 3 listeners, 2 peers, 0 spooled"
    )


def test_what_is_told_and_when(manager: Manager) -> None:
    """Ready with the first turn of the reactor; the state when it has changed, at most every five
    seconds; signs of life twice as often as they are asked for; then the stop, which asks for
    time."""
    clock, now = Clock(), [status()]
    systemd = Systemd(
        NotifySocket(str(manager.path), 4.0, os.getpid()), clock, lambda: status_line(now[0])
    )
    systemd.start()
    assert manager.told() == []
    clock.advance(0)
    ready = "READY=1 STATUS=ready: 3 listeners, 0 peers, 0 spooled"
    assert manager.told() == [ready, "WATCHDOG=1"]
    for peers in range(10):
        now[0] = status(peers=peers)
        clock.advance(0.5)
    assert manager.told()[2:] == [
        *("WATCHDOG=1", "WATCHDOG=1"),
        "STATUS=ready: 3 listeners, 9 peers, 0 spooled",
    ]
    clock.advance(STATUS_INTERVAL)
    assert manager.told()[5:] == ["WATCHDOG=1"]
    assert reloaded(systemd) == [7]
    reloading, done = manager.told()[6:]
    microseconds = re.fullmatch(r"RELOADING=1 MONOTONIC_USEC=(\d+)", reloading)
    assert microseconds is not None and done == "READY=1"
    assert 0 <= time.monotonic() - int(microseconds[1]) / 1e6 < PATIENCE
    now[0] = status("draining", 9)
    systemd.begin_stop()
    clock.advance(STATUS_INTERVAL)
    more = f"EXTEND_TIMEOUT_USEC={MORE_TIME * 1e6:.0f}"
    assert [one for one in manager.told()[8:] if one != "WATCHDOG=1"] == [
        *("STOPPING=1", "STATUS=draining: 3 listeners, 9 peers, 0 spooled", more, more),
    ]
    systemd.stop()
    assert not clock.getDelayedCalls()


def test_a_watchdog_of_another_process(manager: Manager) -> None:
    """A gateway that is not the process which systemd watches shows it no signs of life."""
    clock = Clock()
    systemd = Systemd(NotifySocket(str(manager.path), 4.0, 1), clock, lambda: status_line(status()))
    systemd.start()
    clock.pump([1] * 20)
    assert [one for one in manager.told() if "WATCHDOG" in one] == []
    systemd.stop()


def test_a_stop_before_it_was_ready(manager: Manager) -> None:
    """What ends before the reactor has turned is never ready."""
    clock = Clock()
    systemd = Systemd(NotifySocket(str(manager.path)), clock, lambda: status_line(status()))
    systemd.start()
    systemd.begin_stop()
    clock.advance(STATUS_INTERVAL)
    assert [one for one in manager.told() if "READY" in one] == []
    systemd.stop()


def test_no_systemd() -> None:
    """Without one, nothing is told, and nothing waits."""
    clock = Clock()
    systemd = Systemd(None, clock, lambda: status_line(status()))
    systemd.start()
    assert reloaded(systemd) == [7]
    systemd.begin_stop()
    systemd.stop()
    assert not clock.getDelayedCalls()


class Service:
    """
    A gateway as systemd would run it.

    @ivar port: of the socket that systemd holds.
    """

    def __init__(
        self, folder: Path, manager: Manager, dsn: str, endpoint: str, workers: int = 1
    ) -> None:
        self._folder = folder
        self._manager = manager
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = int(self._socket.getsockname()[1])
        self._config = folder / "gateway.toml"
        self._config.write_text(
            f"[database]\ndsn = '''{dsn}'''\n[http]\nendpoint = 'off'\n"
            f"[process]\nworkers = {workers}\n"
            f'[listeners.lines]\nroute = "messages"\nendpoint = "{endpoint}"\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        before = len([one for one in self._manager.told() if one.startswith("READY=1 ")])
        script = 'exec 3<&0 </dev/null; LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$@"'
        environment = {
            **os.environ,
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "lines",
            "NOTIFY_SOCKET": str(self._manager.path),
            "WATCHDOG_USEC": "1000000",
        }
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("sh", "-c", script, "sh", BIN / "twistd", "-n", "--pidfile=", "gateway"),
                    *("--config", self._config),
                ],
                cwd=self._folder,
                env=environment,
                stdin=self._socket.fileno(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

        def is_ready() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log
            ready = [one for one in self._manager.told() if one.startswith("READY=1 ")]
            return len(ready) > before

        wait_until(is_ready, "it is ready")

    def stop(self) -> int:
        """SIGTERM, and wait for its end."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()

    def close(self) -> None:
        self.stop()
        self._socket.close()


Run = Callable[..., Service]


@pytest.fixture
def run(tmp_path: Path, manager: Manager) -> Iterator[Run]:
    """Runs a gateway as a service with a connection string, an endpoint, and workers."""
    services: list[Service] = []

    def run(dsn: str, endpoint: str, workers: int = 1) -> Service:
        services.append(Service(tmp_path, manager, dsn, endpoint, workers))
        services[-1].start()
        return services[-1]

    yield run
    for service in services:
        service.close()


def test_a_service_without_its_database(run: Run, manager: Manager) -> None:
    """It is ready, says what is wrong, reloads, lives and stops."""
    service = run("host=127.0.0.1 port=1", "systemd:domain=INET:index=0")
    assert service.process is not None
    assert Peer(service.port).ask(b"") == b""
    manager.wait("^STATUS=starting: 1 listener, .* 0 spooled; the database cannot be reached")
    signs = manager.told().count("WATCHDOG=1")
    wait_until(lambda: manager.told().count("WATCHDOG=1") >= signs + 3, "signs of life")
    service.process.send_signal(signal.SIGHUP)
    manager.wait("^RELOADING=1 MONOTONIC_USEC=")
    manager.wait("^READY=1$")
    assert "configuration reloaded" in service.log
    assert service.stop() == 0
    manager.wait("^STOPPING=1$")
    manager.wait("^EXTEND_TIMEOUT_USEC=")


def test_a_service_of_several_workers(run: Run, manager: Manager, database: Database) -> None:
    """The parent alone tells systemd of it, and accepts at systemd's socket; a worker that stands
    still is no business of the watchdog's."""
    service = run(database.dsn, "systemd:domain=INET:index=0", 2)
    assert service.process is not None
    assert [Peer(service.port).ask(b"x\n") for _ in range(4)] == [b"+OK\n"] * 4
    wait_until(lambda: manager.told().count("WATCHDOG=1") >= 2, "signs of life")
    service.process.send_signal(signal.SIGHUP)
    manager.wait("^RELOADING=1 MONOTONIC_USEC=")
    manager.wait("^READY=1$")
    assert "configuration reloaded" in service.log
    assert service.stop() == 0
    manager.wait("^STOPPING=1$")
    assert len([one for one in manager.told() if one.startswith("READY=1")]) == 2


def test_a_gateway_that_hangs_shows_no_sign_of_life(
    run: Run, manager: Manager, database: Database
) -> None:
    """The signs come from the reactor: while it does not turn there are none."""
    service = run(database.dsn, "systemd:domain=INET:index=0")
    assert service.process is not None
    manager.wait("^WATCHDOG=1$")
    service.process.send_signal(signal.SIGSTOP)
    try:
        signs = manager.told().count("WATCHDOG=1")
        time.sleep(1.5)
        assert manager.told().count("WATCHDOG=1") <= signs + 1
    finally:
        service.process.send_signal(signal.SIGCONT)
    wait_until(lambda: manager.told().count("WATCHDOG=1") > signs + 1, "signs of life")


class Sender(threading.Thread):
    """
    A peer that sends numbered lines, one at a time, and sends again what was not answered.

    @ivar connections: how often it connected.
    @ivar refused: connections that were refused.
    """

    def __init__(self, number: int, port: int) -> None:
        super().__init__(daemon=True)
        self._number = number
        self._port = port
        self.sent = 0
        self.connections = 0
        self.refused = 0
        self.is_ending = False

    def run(self) -> None:
        while not self.is_ending:
            try:
                peer = Peer(self._port)
            except ConnectionRefusedError:
                self.refused += 1
                continue
            self.connections += 1
            with suppress(OSError, AssertionError):
                while not self.is_ending:
                    peer.send(f"{self._number}-{self.sent}\n".encode())
                    if not peer.read_lines(1)[0].startswith(b"+OK"):
                        break
                    self.sent += 1
            peer.close()

    @property
    def stored(self) -> list[str]:
        """What was answered."""
        return [f"{self._number}-{number}" for number in range(self.sent)]


@pytest.mark.long
@pytest.mark.parametrize("endpoint", ["index=0", "name=lines"])
def test_a_restart_under_load(run: Run, database: Database, endpoint: str) -> None:
    """While systemd holds the port nobody is refused over restarts: who connects meanwhile waits.
    Nothing is lost, and nothing is doubled."""
    service = run(database.dsn, f"systemd:domain=INET:{endpoint}")
    senders = [Sender(number, service.port) for number in range(16)]
    for sender in senders:
        sender.start()
    for _ in range(3):
        before = [sender.sent for sender in senders]
        wait_until(
            lambda before=before: all(
                sender.sent > number + 20 for sender, number in zip(senders, before, strict=True)
            ),
            "they go on",
        )
        assert service.stop() == 0
        service.start()
    before = [sender.sent for sender in senders]
    wait_until(lambda: sum(sender.sent for sender in senders) > sum(before) + 500, "they go on")
    for sender in senders:
        sender.is_ending = True
    for sender in senders:
        sender.join(PATIENCE)
    assert [sender.refused for sender in senders] == [0] * 16
    assert all(sender.connections == 4 for sender in senders), [s.connections for s in senders]
    stored = sorted(body for sender in senders for body in sender.stored)
    assert sorted(database.bodies()) == stored
    assert "Traceback" not in service.log
