"""
Real parts for tests: a PostgreSQL, gateways as processes, peers as sockets.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import psycopg2
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from gateway.daemon.embedded import EmbeddedServer, as_other_user
from gateway.daemon.embedded_roles import ADMINISTRATOR, MAKE
from tests import forking
from tests.forking import BIN

PATIENCE: Final = 60.0
"""Seconds after which something that should have happened never will."""


POSTGRES: Final = "GATEWAY_TEST_POSTGRES"
"""Of the environment: a folder with initdb, pg_ctl and postgres of another version to test with."""

_numbers = itertools.count(1)


def wait_until(condition: Any, what: str, patience: float = PATIENCE) -> Any:
    """
    Look again and again until something is so; the longer it takes, the less often.

    @return: what the condition gave.
    """
    start = time.monotonic()
    while not (result := condition()):
        waited = time.monotonic() - start
        if waited > patience:
            raise AssertionError(f"{what}: not within {patience} s")
        # Looking costs what is waited for its processor.
        time.sleep(min(0.05, max(0.005, waited / 10)))
    return result


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile."""
    events: list[dict[str, Any]] = []

    @implementer(ILogObserver)
    def note(event: dict[str, Any]) -> None:
        events.append(event)

    globalLogPublisher.addObserver(note)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(note)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Let the reactor go on until something is so."""
    clock: Any = reactor
    end = clock.seconds() + PATIENCE
    while not condition():
        assert clock.seconds() < end, what
        await deferLater(clock, 0.01)


class TemporaryServer:
    """
    A PostgreSQL that tests may kill and start again.
    """

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        """
        @param template: the data of one that was stopped, for a quicker first start.
        """
        self._other = Path(os.environ[POSTGRES]) if os.environ.get(POSTGRES) else None
        self.embedded = EmbeddedServer(folder, self._other)
        self._template = template

    def start(self) -> None:
        data = self.embedded.data
        if self._template is not None and not data.exists():
            subprocess.run(["cp", "-a", self._template, data], check=True)
        is_new = not data.exists()
        if is_new and self._other is not None:
            self._make(self._other)
        self.embedded.start()
        if is_new:
            # Tests make databases, roles and settings with the role that gateways serve as.
            administrator = self.embedded.dsn.replace("user=gateway", "user=postgres")
            Database(administrator).execute("ALTER ROLE gateway SUPERUSER")

    def _make(self, binaries: Path) -> None:
        """A data directory as the gateway makes it; before 17 no locale is PostgreSQL's own."""
        data = self.embedded.data
        data.parent.mkdir(parents=True, exist_ok=True)
        initdb: list[str | Path] = [
            *(binaries / "initdb", "-D", data, "-U", ADMINISTRATOR, "-E", "UTF8"),
            *("--locale=C.UTF-8", "--auth-local=trust", "--auth-host=reject"),
        ]
        single: list[str | Path] = [binaries / "postgres", "--single", "-D", data, "postgres"]
        for command, script in ((initdb, ""), (single, MAKE)):
            subprocess.run(
                as_other_user(command),
                input=script,
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        (data / "gateway.roles").touch()

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
        if "_connection" in vars(self):
            self._connection.close()
            del self._connection
        pid = self.pid
        if pid is not None:
            os.kill(pid, how)
            wait_until(lambda: not self.embedded.running, "PostgreSQL ends")

    def restart(self, how: int = signal.SIGINT) -> None:
        """Stop it in some way and start it, as soon as it can be."""
        self.stop(how)
        subprocess.run(
            as_other_user(
                [
                    *(self.embedded.binaries / "pg_ctl", "start", "-w", "-s"),
                    *("-D", self.embedded.data, "-l", self.embedded.log_file),
                    *("-o", " ".join(self._options)),
                ]
            ),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @property
    def _options(self) -> list[str]:
        return ["-c listen_addresses=''", f"-c unix_socket_directories={self.embedded.data}"]

    @property
    def pid(self) -> int | None:
        try:
            text = (self.embedded.data / "postmaster.pid").read_text()
        except OSError:
            return None
        return int(text.splitlines()[0])

    @contextmanager
    def create_database(self) -> Iterator[Database]:
        """An empty database, which is dropped at the end."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        # Copied as files, which is half the work of writing all of it into the log of changes
        # too; servers before 15 know no other way.
        how = " STRATEGY file_copy" if self._connection.server_version >= 150000 else ""
        self._administer(f'CREATE DATABASE "{name}"{how}')
        try:
            yield Database(re.sub(r"dbname=\S+", f"dbname={name}", self.embedded.dsn))
        finally:
            self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')

    @cached_property
    def _connection(self) -> Any:
        """Kept: a backend that is new reads the catalogs first, which takes longer than this."""
        connection = psycopg2.connect(self.embedded.dsn)
        connection.autocommit = True
        return connection

    def _administer(self, sql: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)


class Database:
    """
    A database to look into from a test.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own."""
        connection = psycopg2.connect(self.dsn)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def column(self, sql: str, *values: Any) -> list[Any]:
        """The first column of a query."""
        return [row[0] for row in self.execute(sql, *values)]

    def bodies(self, table: str = "messages") -> list[str]:
        """All messages, in order of their id."""
        return self.column(f"SELECT body FROM {table} ORDER BY id")


def lasting_port() -> int:
    """
    A free TCP port for something that is started again: below those that the system gives out by
    itself, or another test's connection may have it in between.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 2, lowest)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def tool(
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    given: bytes | None = None,
) -> subprocess.CompletedProcess[str]:
    """
    The gateway command.

    @param given: for its standard input; C{None}: ours.
    """
    if given is not None:
        with tempfile.TemporaryFile() as file:
            file.write(given)
            file.seek(0)
            return _tool(arguments, cwd, environment, stdin=file)
    return _tool(arguments, cwd, environment)


def _tool(
    arguments: Sequence[str], cwd: Path | None, environment: Mapping[str, str] | None, **how: Any
) -> subprocess.CompletedProcess[str]:
    return forking.run(
        [str(BIN / "gateway"), *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **how,
    )


class Gateway:
    """
    A gateway in a process of its own.

    @ivar log: what it has logged so far.
    """

    def __init__(
        self, arguments: tuple[str, ...], cwd: Path, wrapper: tuple[str, ...] = ()
    ) -> None:
        self.cwd = cwd
        self._peers: list[Peer] = []
        self._log_path = cwd / f"gateway-{next(_numbers)}.log"
        with self._log_path.open("wb") as log:
            self.process = forking.Popen(
                [
                    *wrapper,
                    *(str(BIN / "twistd"), "-n", f"--pidfile={self._log_path}.pid"),
                    *("gateway", *arguments),
                ],
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def wait_log(self, pattern: str) -> re.Match[str]:
        """Wait for the log to say something."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.log)
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"ended before it said {pattern!r}:\n{self.log}")
            return found

        try:
            found: re.Match[str] = wait_until(look, pattern)
        except AssertionError:
            raise AssertionError(f"never said {pattern!r}:\n{self.log}") from None
        return found

    def wait_ready(self) -> None:
        self.wait_log("gateway ready")

    def port(self, listener: str) -> int:
        """Where a listener listens."""
        return int(self.wait_log(rf"listener {listener}: .* on [\d.]+:(\d+);")[1])

    @property
    def http_port(self) -> int:
        """Port of health, metrics and status."""
        return int(self.wait_log(r"http: health, metrics and status on https?://.*:(\d+)/")[1])

    def get(self, path: str) -> tuple[int, str]:
        """
        Ask the site for a page.

        @return: its status code and its body.
        """
        connection = HTTPConnection("127.0.0.1", self.http_port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def connect(self, listener: str = "lines") -> Peer:
        """A client that is closed with the gateway at the latest."""
        peer = Peer(self.port(listener))
        self._peers.append(peer)
        return peer

    def terminate(self) -> int:
        """SIGTERM, and wait for the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Whatever it takes."""
        for peer in self._peers:
            peer.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Peer:
    """
    A client on a socket.
    """

    def __init__(self, where: int | str) -> None:
        """
        @param where: a port on 127.0.0.1, or a Unix socket's path.
        """
        if isinstance(where, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(where)
        else:
            self.socket = socket.create_connection(("127.0.0.1", where), timeout=PATIENCE)
        self._kept = b""

    @property
    def name(self) -> str:
        """As the gateway sees it."""
        host, port = self.socket.getsockname()[:2]
        return f"{host}:{port}"

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def finish(self) -> None:
        """Say that nothing more will be sent, as C{nc -N} does."""
        self.socket.shutdown(socket.SHUT_WR)

    def read_all(self) -> bytes:
        """Everything until the gateway closes."""
        data = self._kept
        self._kept = b""
        while more := self.socket.recv(65536):
            data += more
        return data

    def read_lines(self, count: int) -> list[bytes]:
        """So many answers."""
        while self._kept.count(b"\n") < count:
            more = self.socket.recv(65536)
            if not more:
                raise AssertionError(f"closed after {self._kept!r}")
            self._kept += more
        *lines, self._kept = self._kept.split(b"\n", count)
        return lines

    def readable(self, seconds: float) -> bool:
        """Whether anything comes within some time."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def ask(self, data: bytes) -> bytes:
        """Send everything, end, and read all answers."""
        self.send(data)
        self.finish()
        answer = self.read_all()
        self.close()
        return answer

    def close(self) -> None:
        self.socket.close()


LISTEN: Final = (
    *("--line", "tcp:0:interface=127.0.0.1"),
    *("--netstring", "tcp:0:interface=127.0.0.1"),
    *("--command", "tcp:0:interface=127.0.0.1"),
)
"""Listeners on ports that the system chooses."""
