"""
Peers that want a gateway to hold as much as they can make it hold.

    python -m tests.faults.hostile --lines 8000 --netstrings 8001 --commands 8002

Each kind is what one connection does for as long as it may; who is disconnected comes back. All
of them are one process with one thread, so that what they cost is theirs.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count, repeat
from subprocess import PIPE
from typing import Final, NamedTuple

from tests.forking import Popen

CONFIG: Final = """
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "messages"
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
[channels]
allow = ["noise"]
[queries.big]
sql = "SELECT repeat('x', 4000000) AS x"
[queries.shout]
sql = "SELECT pg_notify('noise', repeat('x', 7000))"
[queries.slow]
sql = "SELECT pg_sleep(0.2), %(text)s::text AS text"
"""
"""Listeners and queries that they use; nothing in it is unusual but the size of an answer."""

Script = Callable[[int], Iterator[bytes]]


class Kind(NamedTuple):
    """
    What one connection does.

    @ivar listener: that it connects to.
    @ivar script: the connection's number -> what it sends, in pieces, each when the one
        before is sent; at its end it stays and says nothing.
    @ivar reads: bytes that it takes at a time, whenever there are some; 0: never any.
    @ivar pause: seconds between two pieces, and between two readings.
    """

    listener: str
    script: Script
    reads: int = 0
    pause: float = 0.0


def _streams(place: int) -> Iterator[bytes]:
    for number in count():
        yield b"HELLO hostile-%d-%d\n" % (place, number)


def _refused(place: int) -> Iterator[bytes]:
    yield b"HELLO refused-%d\n" % place
    for first in count(1, 100):
        yield b"".join(
            b"PUT messages #%d %d \xff\n" % (number, number) for number in range(first, first + 100)
        )


def _line_without_end(place: int) -> Iterator[bytes]:
    yield b"PUT messages " + b"x" * 65_000


def _frame_without_end(place: int) -> Iterator[bytes]:
    yield b"65000:"
    yield from repeat(b"x", 64_000)


def _calls_again(place: int) -> Iterator[bytes]:
    """Whoever was refused, as on a machine that is busy with the others' calls, asks again."""
    while True:
        yield b"CALL big\n"
        yield from repeat(b"", 25)


def _listening(place: int) -> Iterator[bytes]:
    yield b"LISTEN noise\n"


KINDS: Final[Mapping[str, Kind]] = {
    "large answers": Kind("commands", lambda place: repeat(b"CALL big\n" * 100)),
    "large answers, by the byte": Kind("commands", _calls_again, reads=1, pause=0.2),
    "lines without an end": Kind("commands", _line_without_end),
    "frames without an end": Kind("netstrings", _frame_without_end, pause=0.2),
    "lines too long": Kind("lines", lambda place: repeat(b"x" * 65_536)),
    "short lines": Kind("lines", lambda place: repeat(b"xy\n" * 20_000)),
    "large messages": Kind("lines", lambda place: repeat(b"x" * 60_000 + b"\n")),
    "tags": Kind("commands", lambda place: repeat((b"@" + b"t" * 63 + b" PUT messages x\n") * 100)),
    "help": Kind("commands", lambda place: repeat(b"HELP\n" * 1000)),
    "large arguments": Kind(
        "commands", lambda place: repeat(b'CALL slow {"text": "%s"}\n' % (b"x" * 60_000))
    ),
    "notifications": Kind("commands", _listening),
    "shouts": Kind("commands", lambda place: repeat(b"CALL shout\n"), reads=1 << 16, pause=0.05),
    "streams": Kind("commands", _streams, reads=1 << 16, pause=0.01),
    "refused numbers": Kind("commands", _refused, reads=1 << 16),
}


class _Peer:
    """
    One connection at a time.
    """

    def __init__(self, kind: Kind, place: int, port: int) -> None:
        self.kind = kind
        self.due = 0.0
        self._place = place
        self._port = port
        self._socket: socket.socket | None = None
        self._script: Iterator[bytes] = iter(())
        self._left = b""

    def act(self, now: float) -> None:
        """
        Send and take what can be.
        """
        kind = self.kind
        self.due = now + max(kind.pause, 0.005)
        try:
            if self._socket is None:
                self._connect()
            assert self._socket is not None
            if kind.reads:
                with suppress(BlockingIOError):
                    if not self._socket.recv(kind.reads):
                        raise ConnectionError
            with suppress(BlockingIOError):
                while True:
                    self._left = self._left or next(self._script, b"")
                    self._left = self._left[self._socket.send(self._left) :]
                    if kind.pause or kind.reads or not self._left:
                        break
        except OSError:
            self.close()
            self.due = now + 0.1

    def _connect(self) -> None:
        connection = self._socket = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self._port))
        connection.setblocking(False)
        self._script, self._left = self.kind.script(self._place), b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def attack(ports: Mapping[str, int], each: int, kinds: Mapping[str, Kind] = KINDS) -> None:
    """
    Do it, for ever.

    @param ports: of the listeners.
    @param each: connections of each kind.
    """
    peers = [
        _Peer(kind, place, ports[kind.listener]) for place in range(each) for kind in kinds.values()
    ]
    for peer in peers:
        peer.act(time.monotonic())
    sys.stdout.write(f"{len(peers)} peers of {len(kinds)} kinds\n")
    sys.stdout.flush()
    while True:
        now = time.monotonic()
        for peer in peers:
            if peer.due <= now:
                peer.act(now)
        time.sleep(max(0.0, min(peer.due for peer in peers) - time.monotonic()))


@contextmanager
def hostile_peers(ports: Mapping[str, int], each: int, *kinds: str) -> Iterator[Popen]:
    """
    Peers of all kinds, or of some, in a process of their own.
    """
    command = [sys.executable, "-m", "tests.faults.hostile", "--each", f"{each}"]
    for listener, port in ports.items():
        command += [f"--{listener}", f"{port}"]
    process = Popen([*command, *kinds], stdout=PIPE)
    try:
        assert process.stdout is not None
        assert b"peers" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hostile")
    for listener in ("lines", "netstrings", "commands"):
        parser.add_argument(f"--{listener}", type=int, required=True, help="its port")
    parser.add_argument("--each", type=int, default=15, help="connections of each kind")
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; else all")
    options = parser.parse_args()
    ports = {name: getattr(options, name) for name in ("lines", "netstrings", "commands")}
    attack(ports, options.each, {name: KINDS[name] for name in options.kinds or KINDS})


if __name__ == "__main__":
    main()
