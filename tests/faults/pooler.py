"""
Poolers that share server sessions as PgBouncer does in transaction or statement mode.

The one in Python runs as a process of its own and holds everywhere::

    python -m tests.faults.pooler unix:/run/postgresql/.s.PGSQL.5432 USER DATABASE SESSIONS MODE

It knows as much of the protocol as that takes (PostgreSQL documentation, chapter 54):
it logs in by itself, lets every client in, and lends a free session to a client from
its next message until the server is idle outside a transaction (C{ReadyForQuery}, I).
In statement mode a client that leaves a transaction open is told so and cut off, in
PgBouncer's words (C{handle_server_work} in its server.c).
Where a real PgBouncer is installed, tests run behind that one too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol, cast

import psycopg2
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import ClientFactory, Factory, connectionDone
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from gateway.daemon.embedded import as_other_user
from tests.faults.command import Commands, Program
from tests.support import PATIENCE, wait_until

_INT: Final = Struct("!i")
_VERSION: Final = 3 << 16
_ENCRYPT: Final = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_AGAIN: Final = 0.1  # seconds until a session that was lost is opened anew


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + _INT.pack(len(body) + 4) + body


_OK: Final = _message(b"R", _INT.pack(0))
_KEY: Final = _message(b"K", bytes(8))
_IDLE: Final = _message(b"Z", b"I")
_OPEN: Final = _message(b"Z", b"T")
_NO_BLOCKS: Final = _message(
    b"E",
    b"SFATAL\0VFATAL\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0",
)


class _Messages(StreamProtocol):
    """
    A stream cut into messages, the first of a client without its kind.
    """

    transport: ITCPTransport
    starting = False

    def __init__(self, pooler: Pooling) -> None:
        self.pooler = pooler
        self._buffer = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        for message in self._whole():
            self.received(message)

    def _whole(self) -> Iterator[bytes]:
        while True:
            head = 0 if self.starting else 1
            if len(self._buffer) < head + 4:
                return
            size = head + _INT.unpack_from(self._buffer, head)[0]
            if len(self._buffer) < size:
                return
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield message

    def received(self, message: bytes) -> None:
        raise NotImplementedError


class Client(_Messages):
    """
    Somebody who thinks to have a session.

    @ivar session: the one that is lent to it now.
    @ivar waiting: what it has said and nobody has taken.
    """

    def __init__(self, pooler: Pooling) -> None:
        super().__init__(pooler)
        self.starting = True
        self.session: Session | None = None
        self.waiting: list[bytes] = []

    def received(self, message: bytes) -> None:
        if self.starting:
            self._start(_INT.unpack_from(message, 4)[0])
        elif message[:1] == b"X":
            self.transport.loseConnection()
        elif self.session is not None:
            self.session.transport.write(message)
        else:
            self.waiting.append(message)
            self.pooler.wants(self)

    def _start(self, code: int) -> None:
        if code in _ENCRYPT:
            self.transport.write(b"N")
        elif code == _VERSION:
            self.starting = False
            self.transport.write(_OK + b"".join(self.pooler.parameters) + _KEY + _IDLE)
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.pooler.gone(self)
        if self.session is not None:
            # In the middle of something: nobody else can use that session.
            self.session.client = None
            self.session.transport.loseConnection()


class Session(_Messages):
    """
    A session of the server.

    @ivar client: to whom it is lent.
    """

    def __init__(self, pooler: Pooling) -> None:
        super().__init__(pooler)
        self.client: Client | None = None
        self._ready = False
        self._parameters: list[bytes] = []

    def connectionMade(self) -> None:
        body = _INT.pack(_VERSION) + b"user\0%s\0database\0%s\0client_encoding\0UTF8\0\0" % (
            self.pooler.user,
            self.pooler.database,
        )
        self.transport.write(_INT.pack(len(body) + 4) + body)

    def received(self, message: bytes) -> None:
        if message == _OPEN and self.pooler.mode == "statement" and self.client is not None:
            self.client.transport.write(_NO_BLOCKS)
            self.client.transport.loseConnection()
        elif self.client is not None:
            self.client.transport.write(message)
        elif not self._ready and message[:1] == b"S":
            self._parameters.append(message)
        if message == _IDLE:
            if not self._ready:
                self._ready = True
                self.pooler.opened(self._parameters)
            client, self.client = self.client, None
            if client is not None:
                client.session = None
            self.pooler.is_free(self)

    def lend(self, client: Client) -> None:
        self.client = client
        client.session = self
        said, client.waiting = client.waiting, []
        self.transport.write(b"".join(said))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.pooler.lost(self)
        if self.client is not None:
            self.client.session = None
            self.client.transport.loseConnection()


class Pooling:
    """
    Which session is whose.
    """

    def __init__(
        self, to: str, user: str, database: str, sessions: int, mode: str, reactor: Any
    ) -> None:
        self.mode = mode
        self.user = user.encode()
        self.database = database.encode()
        self.parameters: list[bytes] = []
        self.ready: Callable[[], None] = lambda: None
        self._to = to.removeprefix("unix:")
        self._reactor = reactor
        self._free: deque[Session] = deque()
        self._waiting: deque[Client] = deque()
        for _ in range(sessions):
            self._open()

    def _open(self) -> None:
        factory = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: Session(self)  # type: ignore[method-assign]
        factory.clientConnectionFailed = lambda *_: self._open_later()  # type: ignore[method-assign]
        self._reactor.connectUNIX(self._to, factory)

    def _open_later(self) -> None:
        self._reactor.callLater(_AGAIN, self._open)

    def opened(self, parameters: list[bytes]) -> None:
        if not self.parameters:
            self.parameters = parameters
            self.ready()

    def is_free(self, session: Session) -> None:
        self._free.append(session)
        self._lend()

    def wants(self, client: Client) -> None:
        if client not in self._waiting:
            self._waiting.append(client)
        self._lend()

    def gone(self, client: Client) -> None:
        if client in self._waiting:
            self._waiting.remove(client)

    def lost(self, session: Session) -> None:
        if session in self._free:
            self._free.remove(session)
        self._open_later()

    def _lend(self) -> None:
        # The first in turn is the one freed longest ago, so that clients meet all sessions.
        while self._free and self._waiting:
            self._free.popleft().lend(self._waiting.popleft())


class Pooler(Protocol):
    """
    What tests need of either.
    """

    def dsn(self, dsn: str) -> str:
        """The same database, through the pooler."""

    def end(self) -> None: ...


class OwnPooler(Program):
    """
    The one in Python.
    """

    def __init__(self, dsn: str, sessions: int, mode: str = "transaction") -> None:
        parts = psycopg2.extensions.parse_dsn(dsn)
        super().__init__(
            "pooler",
            f"unix:{parts['host']}/.s.PGSQL.{parts['port']}",
            *(parts["user"], parts["dbname"], str(sessions), mode),
        )

    def dsn(self, dsn: str) -> str:
        return str(psycopg2.extensions.make_dsn(dsn, host="127.0.0.1", port=self.port))


INI: Final = Path(__file__).parents[2] / "etc" / "pgbouncer.ini"


class PgBouncer:
    """
    The real one, on a Unix socket, with C{etc/pgbouncer.ini}.
    """

    def __init__(
        self, dsn: str, sessions: int, mode: str, folder: Path, program: str = "pgbouncer"
    ) -> None:
        self._folder = folder / "pgbouncer"
        self._folder.mkdir(mode=0o700)
        parts = psycopg2.extensions.parse_dsn(dsn)
        ini = self._folder / "pgbouncer.ini"
        text = INI.read_text()
        for old, new in (
            ("metrics = host=127.0.0.1 port=5000", "* = host={host} port={port} user={user}"),
            ("listen_addr = 127.0.0.1", f"listen_addr =\nunix_socket_dir = {self._folder}"),
            ("auth_type = scram-sha-256", "auth_type = any"),
            ("auth_file = /etc/pgbouncer/userlist.txt", f"logfile = {self._folder}/log"),
            ("pool_mode = transaction", f"pool_mode = {mode}"),
            ("default_pool_size = 40", f"default_pool_size = {sessions}"),
            ("server_login_retry = 1", "server_login_retry = 0.1"),
        ):
            assert f"\n{old}\n" in text, old
            text = text.replace(f"\n{old}\n", f"\n{new.format(**parts)}\n")
        ini.write_text(text)
        self._process = subprocess.Popen(
            as_other_user([program, "-q", ini]), stderr=subprocess.DEVNULL
        )
        socket = self._folder / ".s.PGSQL.6432"
        wait_until(socket.exists, "pgbouncer listens")

    def dsn(self, dsn: str) -> str:
        return str(psycopg2.extensions.make_dsn(dsn, host=str(self._folder), port=6432))

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


POOLERS: Final = ("own", *(("pgbouncer",) if shutil.which("pgbouncer") else ()))
"""Those that can be had here."""


def start_pooler(
    kind: str, dsn: str, sessions: int, folder: Path, mode: str = "transaction"
) -> Pooler:
    """
    @param kind: one of L{POOLERS}.
    @param mode: C{transaction} or C{statement}.
    """
    if kind == "own":
        return OwnPooler(dsn, sessions, mode)
    return PgBouncer(dsn, sessions, mode, folder)


def main() -> None:
    from twisted.internet import reactor as global_reactor

    reactor = cast(Any, global_reactor)
    parser = argparse.ArgumentParser()
    for name in ("to", "user", "database"):
        parser.add_argument(name)
    parser.add_argument("sessions", type=int)
    parser.add_argument("mode")
    given = parser.parse_args()
    pooling = Pooling(given.to, given.user, given.database, given.sessions, given.mode, reactor)
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda addr: Client(pooling)  # type: ignore[method-assign]
    port = reactor.listenTCP(0, factory, interface="127.0.0.1", backlog=1024)
    commands = Commands(lambda words: None, reactor.stop)
    # Only then does it know what to tell its clients of the server.
    pooling.ready = lambda: commands.say(f"port {port.getHost().port}")
    StandardIO(commands)
    reactor.run()


if __name__ == "__main__":
    main()
