"""
HTTP site: who may connect, what may be asked, and under which name.

Strategy: everything that a stranger sends is judged before a page is made. There are few
connections; where there would be too many, the oldest gives way to the newest, so that somebody
who holds them all keeps no probe out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol

from gateway.access.peer_info import PeerCertificate
from gateway.peers.factory import peer_info_of
from gateway.system.addresses import Address, Networks
from gateway.tls.handshake import ListenerTls
from gateway.web.answer import Answer, Query, text
from gateway.web.channel import Respond, StatusChannel, StatusRequest
from gateway.web.hosts import OwnHosts

MOST: Final = 64
"""Connections at a time."""

METHODS: Final = (b"GET", b"HEAD")

_MOST_ARGUMENTS: Final = 20

DENIED: Final = text(403, "connections from your address are not allowed here")


class StatusSite(Factory):
    """
    Factory of the protocols of all HTTP connections.

    @ivar allow: networks that may connect; empty: all.
    @ivar deny: networks that may not, even if in C{allow}.
    """

    noisy = False

    def __init__(
        self,
        pages: Callable[[Query], Answer],
        hosts: OwnHosts,
        clock: IReactorTime,
        tls: ListenerTls | None = None,
    ) -> None:
        """
        @param pages: returns the answer to a request that may be made.
        @param tls: C{None}: plain HTTP.
        """
        self.allow = Networks(())
        self.deny = Networks(())
        self.tls = tls
        self._pages = pages
        self._hosts = hosts
        self._clock = clock
        self._open: dict[object, Callable[[], None]] = {}

    def logPrefix(self) -> str:
        """Name of the listening port in the reactor's log lines."""
        return "http"

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        address = peer_info_of(addr).address
        is_denied = address in self.deny or (bool(self.allow) and address not in self.allow)
        if is_denied and self.tls is not None:
            # Nothing can be said before the handshake, and nobody kept out is worth one.
            return None
        self._make_room()
        connection = object()
        respond: Respond = (lambda request: DENIED) if is_denied else self._respond
        if self.tls is None:
            return self._channel(connection, respond)

        def build(shown: PeerCertificate | None) -> Protocol:
            return self._channel(connection, respond)

        def refused(reason: str) -> None:
            self._open.pop(connection, None)

        shaking = self.tls.protocol(build, refused)
        self._open[connection] = lambda: _abort(shaking)
        return shaking

    def _channel(self, connection: object, respond: Respond) -> Protocol:
        def gone() -> None:
            self._open.pop(connection, None)

        channel = StatusChannel(respond, self._clock, gone)
        self._open[connection] = lambda: _abort(channel)
        return channel

    def _make_room(self) -> None:
        while len(self._open) >= MOST:
            abort = self._open.pop(next(iter(self._open)))
            abort()

    def _respond(self, request: StatusRequest) -> Answer:
        local = peer_info_of(request.channel.transport.getHost()).address
        refusal = self._refusal(request, local)
        if refusal is not None:
            return refusal
        path, _, arguments = request.uri.decode("latin-1").partition("?")
        try:
            # Twisted's own parsing forgets arguments without a value.
            found = parse_qs(arguments, keep_blank_values=True, max_num_fields=_MOST_ARGUMENTS)
        except ValueError:
            return text(400, "these are too many arguments")
        return self._pages(Query(path, found, ",".join(request.headers(b"Accept"))))

    def _refusal(self, request: StatusRequest, local: Address | None) -> Answer | None:
        """
        Return why a request is not answered; C{None}: it is.
        """
        hosts = request.headers(b"Host")
        if len(hosts) > 1 or (not hosts and request.clientproto == b"HTTP/1.1"):
            # RFC 9112 section 3.2. A browser always sends one.
            return text(400, "a request has one Host header, and only one")
        if hosts and not self._hosts.is_ours(hosts[0], local):
            return text(
                421,
                "the Host header names another machine than this one;"
                " use its address, localhost or the machine's name",
            )
        if request.method not in METHODS:
            refusal = text(405, "only GET and HEAD: nothing can be changed here")
            return refusal._replace(headers={"Allow": "GET, HEAD"})
        return None


def _abort(protocol: Protocol) -> None:
    transport = protocol.transport
    if transport is not None:
        transport.abortConnection()  # type: ignore[attr-defined]
