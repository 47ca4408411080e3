"""
Protocols with an acknowledgement of their own beside JSON lines of the same content::

    python -m benchmarks.shippers            # about two minutes; --quick for a third

The same messages of five typed fields go over sixteen connections into the same table, in each
protocol by turns, each table emptied and checkpointed before; every connection has two windows
under way. What is sent is made before the clock starts, and every answer is compared with what it
must be, byte for byte, so that the load generator costs the same for all. The median of the rounds
counts, as a ratio to lines.

A protocol is one line in L{SHIPPERS}: the keys of its listener, and how a connection sends
messages, as L{Window}s.
"""

from __future__ import annotations

import argparse
import base64
import os
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Final

from msgspec.msgpack import encode as packed

from benchmarks.routes import as_json, row
from gateway.wire import relp
from tests import lumberjack
from tests.support import Database, Gateway, TemporaryServer

CONNECTIONS: Final = 16
WINDOW: Final = 1000
"""Messages of a window."""

UNDER_WAY: Final = 2
"""Windows of a connection that are sent and not answered."""

BOUND: Final = 0.4
"""Messages a second over those of lines."""

_READ: Final = 1 << 16

TABLE: Final = """
    CREATE TABLE readings (
        at timestamptz NOT NULL, device text NOT NULL, temp double precision,
        count integer, data jsonb
    )
"""

CONFIG: Final = """
[database]
dsn = '''{dsn}'''
answer_timeout = 60
[routes.readings]
table = "readings"
format = "json"
dead_letter = true
columns = {{ at = "at", device = "device", temp = "temp", count = "count", data = "data" }}
"""

LISTENER: Final = """
[listeners.{name}]
endpoint = "tcp:0:interface=127.0.0.1"
route = "readings"
{keys}
"""


@dataclass(frozen=True, slots=True)
class Window:
    """
    What is sent together.

    @ivar sent: bytes on the wire.
    @ivar answer: all that the gateway must answer to them.
    """

    sent: bytes
    answer: bytes


Windows = Callable[[Sequence[bytes]], Iterator[Window]]
"""Makes the windows of one connection of its messages, L{WINDOW} in each; with what comes first."""


@dataclass(frozen=True)
class Shipper:
    """
    Protocol that is measured.

    @ivar keys: of its listener, beside the endpoint and the route.
    @ivar windows: how a connection sends messages.
    """

    keys: str
    windows: Windows


def windows_of(messages: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut messages into windows."""
    for start in range(0, len(messages), WINDOW):
        yield messages[start : start + WINDOW]


def lines(messages: Sequence[bytes]) -> Iterator[Window]:
    """JSON lines, each answered C{+OK}."""
    for some in windows_of(messages):
        yield Window(b"".join(message + b"\n" for message in some), b"+OK\n" * len(some))


def relp_frames(messages: Sequence[bytes]) -> Iterator[Window]:
    """RELP's C{open}, then frames of C{syslog}."""
    offers = b"relp_version=0\nrelp_software=benchmark\ncommands=syslog"
    yield Window(b"1 open %d %b\n" % (len(offers), offers), relp.opened(1, 0))
    first = 2
    for some in windows_of(messages):
        frames = [
            b"%d syslog %d %b\n" % (number, len(message), message)
            for number, message in enumerate(some, first)
        ]
        yield Window(b"".join(frames), relp.stored(first, len(some)))
        first += len(some)


def forward_chunks(messages: Sequence[bytes]) -> Iterator[Window]:
    """Chunks of forward's PackedForward, with EventTimes, each with an id that it alone has."""
    for number, some in enumerate(windows_of(messages)):
        entries = b"".join(
            b"\x92\xd7\0"
            + struct.pack(">II", 1_790_000_000 + number, place)
            + packed(loads(message))
            for place, message in enumerate(some)
        )
        name = packed(base64.b64encode(os.urandom(16)).decode())
        options = b"\x82\xa5chunk" + name + b"\xa4size" + packed(len(some))
        chunk = b"\x93\xa9benchmark\xc6" + len(entries).to_bytes(4) + entries + options
        yield Window(chunk, b"\x81\xa3ack" + name)


def beats_windows(messages: Sequence[bytes]) -> Iterator[Window]:
    """Windows of Lumberjack, compressed as Beats compress them, each with one acknowledgement."""
    for some in windows_of(messages):
        yield Window(lumberjack.window(some), lumberjack.ack(len(some)))


SHIPPERS: Final = {
    "lines": Shipper(f"window = {WINDOW * UNDER_WAY}", lines),
    "relp": Shipper(f'dialect = "relp"\nwindow = {WINDOW * UNDER_WAY}', relp_frames),
    "forward": Shipper('dialect = "forward"', forward_chunks),
    "beats": Shipper('dialect = "beats"', beats_windows),
}
"""By name; the others are compared with the first."""


class Connection:
    """
    Sender with its windows.
    """

    def __init__(self, port: int, windows: Sequence[Window]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._coming = iter(windows)
        self._rest = memoryview(b"")
        # Answers of the windows under way, each as far as it is still to come.
        self._due: deque[bytes] = deque()
        self._is_finished = False

    @property
    def done(self) -> bool:
        """Whether everything is sent and answered."""
        return self._is_finished and not self._rest and not self._due

    def write(self) -> bool:
        """
        Send what may be sent now.

        @return: whether the socket takes no more for the moment.
        """
        while True:
            if not self._rest:
                window = next(self._coming, None) if len(self._due) < UNDER_WAY else None
                if window is None:
                    self._is_finished = len(self._due) < UNDER_WAY
                    return False
                self._rest = memoryview(window.sent)
                self._due.append(window.answer)
            try:
                self._rest = self._rest[self.socket.send(self._rest) :]
            except BlockingIOError:
                return True

    def read(self) -> None:
        """
        Take answers.

        @raise RuntimeError: one is not what it must be.
        """
        said = self.socket.recv(_READ)
        if not said:
            raise RuntimeError("the gateway has closed the connection")
        while said:
            due = self._due.popleft()
            if not said.startswith(due[: len(said)]):
                raise RuntimeError(f"answered {said[:200]!r} in place of {due[:200]!r}")
            if len(due) > len(said):
                self._due.appendleft(due[len(said) :])
            said = said[len(due) :]


class Bench:
    """
    One server, one gateway with a listener for each protocol.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """
        @param count: number of messages, a multiple of L{CONNECTIONS}.
        """
        messages = [as_json(row(number)).rstrip("\n").encode() for number in range(count)]
        share = count // CONNECTIONS
        self._parts = [messages[n * share : (n + 1) * share] for n in range(CONNECTIONS)]
        self._count = count
        self._server = TemporaryServer(folder)
        self._server.start()
        self._database = Database(self._server.embedded.dsn)
        self._database.execute(TABLE)
        config = folder / "gateway.toml"
        sections = [LISTENER.format(name=n, keys=s.keys) for n, s in SHIPPERS.items()]
        config.write_text(CONFIG.format(dsn=self._database.dsn) + "".join(sections))
        self._gateway = Gateway(("--config", str(config)), folder)
        self._gateway.wait_ready()

    def close(self) -> None:
        self._gateway.end()
        self._server.stop()

    def rate(self, name: str) -> float:
        """
        Send all messages in one protocol.

        @return: messages a second.
        """
        self._database.execute("TRUNCATE readings")
        self._database.execute("CHECKPOINT")
        windows = [list(SHIPPERS[name].windows(part)) for part in self._parts]
        port = self._gateway.port(name)
        connections = [Connection(port, each) for each in windows]
        try:
            seconds = run(connections)
        finally:
            for connection in connections:
                connection.socket.close()
        (stored,) = self._database.column("SELECT count(*) FROM readings")
        if stored != self._count:
            raise RuntimeError(f"{name}: {self._count} acknowledged, {stored} in the table")
        return self._count / seconds


def run(connections: Sequence[Connection]) -> float:
    """
    Have all connections send everything.

    @return: seconds from the first byte to the last answer.
    """
    by_number = {connection.socket.fileno(): connection for connection in connections}
    waiting = select.epoll()
    begun = time.monotonic()
    for number, connection in by_number.items():
        waiting.register(number, select.EPOLLIN | select.EPOLLOUT * connection.write())
    left = len(connections)
    while left:
        for number, events in waiting.poll():
            connection = by_number[number]
            if events & ~select.EPOLLOUT:
                connection.read()
            waiting.modify(number, select.EPOLLIN | select.EPOLLOUT * connection.write())
            if connection.done:
                waiting.unregister(number)
                left -= 1
    waiting.close()
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shippers")
    parser.add_argument("--quick", action="store_true", help="one small round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("only", nargs="*", help="protocols; without: all")
    options = parser.parse_args()
    first, *others = SHIPPERS
    names = [first, *(name for name in others if not options.only or name in options.only)]
    rates: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
        bench = Bench(Path(folder), 160_000 if options.quick else 480_000)
        try:
            bench.rate(first)
            for _ in range(1 if options.quick else options.rounds):
                for name in names:
                    rates[name].append(bench.rate(name))
        finally:
            bench.close()
    missed = False
    print(f"{'':10}{'messages/s':>12}{'of lines':>10}   (bound {BOUND})")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, rates[first], strict=True))
        print(f"{name:10}{statistics.median(found):12,.0f}{ratio:10.2f}", flush=True)
        missed = missed or ratio < BOUND
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
