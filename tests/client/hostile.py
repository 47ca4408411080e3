"""
A server that answers the PING as a gateway does, and then says what no gateway would.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Final

from tests.support import PATIENCE

Says = Callable[[bytes], Iterator[bytes]]
"""What it says to the first request, piece by piece."""

_DEEP: Final = b'{"a":%b1%b}' % (b"[" * 400_000, b"]" * 400_000)


def once(data: bytes) -> Says:
    return lambda request: iter([data])


def endless(data: bytes) -> Says:
    return lambda request: repeat(data)


def rows_without_end(request: bytes) -> Iterator[bytes]:
    yield b"*1000000\n"
    yield from repeat((b'{"a":"' + b"x" * 65_000 + b'"}\n') * 20)


LIES: Final[dict[str, tuple[Says, str]]] = {
    "digits": (once(b"*" + b"9" * 5000 + b"\n"), "no number of rows"),
    "many rows": (once(b"*9999999\n"), "no number of rows"),
    "bad JSON": (once(b'*2\n{"a":1}\n{"a\n'), "row 2 "),
    "deep JSON": (once(b"*1\n" + _DEEP + b"\n"), "row 1 "),
    "no object": (once(b"*1\n[1]\n"), "row 1 is no JSON object"),
    "no UTF-8": (once(b'*1\n{"a":"\xff"}\n'), "row 1 "),
    "no line end": (endless(b"x" * 262_144), "without an end"),
    "rows": (rows_without_end, "rows of more than"),
    "pushes": (endless(b">news x\n" * 1000), "nobody listens"),
    "unasked": (endless(b"+OK\n" * 1000), "no rows, which were asked for"),
    "no word": (endless(b"\xff\xfe\x1b[2J\n"), "no answer of a gateway"),
    "no code": (once(b"-REJ \x1b[2J\x9b :x\n"), "no code of a refusal"),
}
"""What is said to a CALL, and words of the client's error."""


class HostileServer:
    """
    On 127.0.0.1.

    @ivar greets: whether it answers the PING; else its first word comes at once.
    """

    def __init__(self, says: Says, greets: bool = True) -> None:
        self._says = says
        self._greets = greets
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            if self._greets:
                connection.sendall(b"+OK " + connection.recv(4096).removeprefix(b"PING "))
                request = connection.recv(65536)
                if request.startswith(b"HELP PUT "):
                    # Whoever sends asks first whether its route may be used.
                    connection.sendall(b"+OK PUT\n")
                    request = connection.recv(65536)
            if request or not self._greets:
                for piece in self._says(request):
                    connection.sendall(piece)
                while connection.recv(65536):
                    pass
