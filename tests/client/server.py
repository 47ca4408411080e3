"""
The model on a real socket, in threads of its own, so that blocking clients can be tested.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from tests.client.model import Model, Peer
from tests.support import PATIENCE


class ModelServer:
    """
    Serves a model on 127.0.0.1, and ends its connections when told to.

    @ivar model: shared by all connections; hold L{lock} to look into it.
    @ivar port: the system chose it.
    @ivar accepted: how many connections there were.
    @ivar cut_after: connections end after so many reads, without the answers to the last.
    """

    def __init__(self, model: Model, tls: ssl.SSLContext | None = None) -> None:
        self.model = model
        self.lock = threading.Lock()
        self.accepted = 0
        self.cut_after: int | None = None
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Every connection ends."""
        for connection in self._connections[:]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def say(self) -> None:
        """Push what the model has said of its own accord."""
        with self.lock:
            for peer, connection in self._pairs:
                # One that was cut may not have left yet.
                with contextlib.suppress(OSError):
                    connection.sendall(bytes(peer.out))
                peer.out.clear()

    @property
    def _pairs(self) -> list[tuple[Peer, socket.socket]]:
        return list(zip(self.model.peers, self._connections, strict=True))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        with self.lock:
            peer = self.model.connect()
            self._connections.append(connection)
        reads = 0
        try:
            while not peer.closed:
                data = connection.recv(65536)
                if not data:
                    break
                with self.lock:
                    peer.receive(data)
                    out = bytes(peer.out)
                    peer.out.clear()
                reads += 1
                if self.cut_after is not None and reads >= self.cut_after:
                    break
                connection.sendall(out)
            else:
                # Another peer's thread may have let it go while this one was not looking.
                with self.lock:
                    connection.sendall(bytes(peer.out))
        except OSError:
            pass
        with self.lock:
            peer.lost()
            self._connections.remove(connection)
        connection.close()
