"""
Numbered messages beside plain ones: the same PUTs, with numbers and without::

    python -m benchmarks.streams            # a minute

By turns on emptied tables of one server, the median of the rounds. The load generator sends
frames that were made before, so what is compared is the gateway and PostgreSQL.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.support import Database, Gateway, TemporaryServer

CONFIG = """
[database]
dsn = '''{dsn}'''
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
"""

PAYLOAD = b"x" * 100

BOUND = 0.85
"""What streams must reach of plain messages, in big windows."""


class Sender:
    """
    One connection that keeps a window of messages unanswered.
    """

    def __init__(self, port: int, stream: str | None, count: int, window: int) -> None:
        """
        @param stream: whose numbers the messages have; it is new.
        """
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if stream is not None:
            self.socket.sendall(b"HELLO %b\n" % stream.encode())
            assert self.socket.recv(200).startswith(b"+OK seq=0")
        number = b"#%d " if stream is not None else b""
        frames = [
            b"PUT messages %b%b\n" % (number and number % n, PAYLOAD) for n in range(1, count + 1)
        ]
        step = max(1, window // 4)
        self._pieces = [b"".join(frames[at : at + step]) for at in range(0, count, step)]
        self._step = step
        self._window = window
        self._count = count
        self._sent = 0
        self._unsent = bytearray()
        self.answered = 0

    @property
    def done(self) -> bool:
        """Whether everything is answered."""
        return self.answered >= self._count

    def fill(self) -> int:
        """
        Send what the window takes.

        @return: what to wait for.
        """
        while self._pieces and self._sent - self.answered + self._step <= self._window:
            self._unsent += self._pieces.pop(0)
            self._sent += self._step
        if self._unsent:
            with suppress(BlockingIOError):
                del self._unsent[: self.socket.send(self._unsent, socket.MSG_DONTWAIT)]
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def read(self) -> None:
        """
        Count answers; each must be +OK.
        """
        data = self.socket.recv(1 << 16)
        count = data.count(b"\n")
        if b"-" in data or not data:
            raise RuntimeError(f"answered {data[:200]!r}")
        self.answered += count


def rate(port: int, name: str | None, connections: int, window: int, count: int) -> float:
    """
    @param name: of the streams, a new one for each connection; C{None}: no numbers.
    @param count: messages of each connection.
    @return: messages a second.
    """
    senders = [
        Sender(port, None if name is None else f"{name}-{n}", count, window)
        for n in range(connections)
    ]
    selector = selectors.DefaultSelector()
    begun = time.monotonic()
    for sender in senders:
        selector.register(sender.socket, sender.fill(), sender)
    left = connections
    while left:
        for key, events in selector.select():
            sender = key.data
            if events & selectors.EVENT_READ:
                sender.read()
            if sender.done:
                selector.unregister(sender.socket)
                sender.socket.close()
                left -= 1
                continue
            wanted = sender.fill()
            if wanted != key.events:
                selector.modify(sender.socket, wanted, sender)
    return connections * count / (time.monotonic() - begun)


def measure(rounds: int, scale: float) -> None:
    """
    Print the table.
    """
    shapes = {"16 x 1000": (16, 1000, 40_000), "64 x 1": (64, 1, 600), "1 x 1": (1, 1, 4000)}
    with tempfile.TemporaryDirectory() as folder:
        server = TemporaryServer(Path(folder))
        server.start()
        gateway = None
        try:
            (Path(folder) / "gateway.toml").write_text(CONFIG.format(dsn=server.embedded.dsn))
            gateway = Gateway(("--config", "gateway.toml"), Path(folder))
            gateway.wait_log("gateway ready")
            port = gateway.port("commands")
            database = Database(server.embedded.dsn)
            found: dict[tuple[str, bool], list[float]] = {}
            for turn in range(rounds):
                for shape, (connections, window, count) in shapes.items():
                    for numbered in (False, True) if turn % 2 else (True, False):
                        database.execute("TRUNCATE messages; CHECKPOINT")
                        name = f"{shape} {turn}".replace(" ", "-") if numbered else None
                        each = rate(port, name, connections, window, int(count * scale))
                        found.setdefault((shape, numbered), []).append(each)
            print(f"{'connections x window':22s}{'plain':>10s}{'numbered':>10s}{'ratio':>8s}")
            for shape in shapes:
                plain, numbered_rate = (
                    statistics.median(found[shape, numbered]) for numbered in (False, True)
                )
                bound = f"   (bound {BOUND})" if shape.startswith("16") else ""
                ratio = numbered_rate / plain
                print(f"{shape:22s}{plain:10,.0f}{numbered_rate:10,.0f}{ratio:8.2f}{bound}")
        finally:
            if gateway is not None:
                gateway.end()
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    measure(1 if options.quick else options.rounds, 0.2 if options.quick else 1.0)


if __name__ == "__main__":
    main()
