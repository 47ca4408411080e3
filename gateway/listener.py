"""
Listeners: an endpoint, and a factory for those who connect to it.
"""

from __future__ import annotations

import shlex
from socket import socket
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure

from gateway.door import Door
from gateway.factory import PeerFactory, peer_name

BACKLOG: Final = 4096
"""Peers that may wait to be accepted; the kernel's net.core.somaxconn caps it."""


class ListenerService:
    """
    One listener: an endpoint, and a factory for those who connect to it.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, text: str, door: Door, example: str
    ) -> None:
        """
        @param text: the endpoint as configured, for messages.
        @param example: what a peer may send, as an argument of printf(1).
        """
        self.door = door
        self._endpoint = endpoint
        self._text = text
        self._example = example
        self._port: IListeningPort | None = None

    @property
    def factory(self) -> PeerFactory:
        """Of those who are in."""
        return self.door.peers

    def listen(self) -> None:
        """
        Open the port; again is harmless.

        @raise SystemExit: with one line, where it cannot be opened.
        """
        if self._port is not None:
            return
        results: list[object] = []
        self._endpoint.listen(self.door).addBoth(results.append)
        result = results[0] if results else None
        if isinstance(result, Failure):
            reason = result.value
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            raise SystemExit(
                f"gateway: listener {self.factory.listener!r} cannot listen on"
                f" {self._text!r}: {getattr(reason, 'strerror', None) or reason}"
            )
        assert IListeningPort.providedBy(result)
        self._port = result
        # Twisted asks for 50 where the endpoint does not say; the rest of a storm of
        # reconnecting peers would wait for a second or more each.
        listening = getattr(result, "socket", None)
        if isinstance(listening, socket) and "backlog=" not in self._text:
            listening.listen(BACKLOG)

    @property
    def line(self) -> str:
        """Where it listens, and one way to use it."""
        assert self._port is not None
        address: Any = self._port.getHost()
        name = getattr(address, "name", None)
        if name is not None:
            where = name.decode() if isinstance(name, bytes) else str(name)
            call = f"nc -N -U {shlex.quote(where)}"
        else:
            where = peer_name(address)
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
            call = f"nc -N {host} {address.port}"
        return (
            f"listener {self.factory.listener}: {self.factory.framing} frames on {where};"
            f" try: printf {self._example} | {call}"
        )

    async def stop_listening(self) -> None:
        if self._port is not None:
            await _maybe(self._port.stopListening())


async def _maybe(result: object) -> None:
    if isinstance(result, Deferred):
        await result
