"""
Admission to a listener: which connections are accepted.

A new connection is checked by its address and by the number of connections; a PROXY header and a
TLS handshake come before the peer's protocol, in layers that replace themselves when they are done.
A refused connection gets the reason if the listener has no TLS, and is closed silently otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.access.peer_info import PeerCertificate, PeerInfo
from gateway.listeners.proxy import ProxyHeader
from gateway.metrics.counters import kind_of
from gateway.model import wording
from gateway.model.outcome import Outcome
from gateway.peers.closing import LINGER
from gateway.peers.factory import PeerFactory, peer_info_of, place_name
from gateway.system.addresses import Networks, address_of
from gateway.system.transport import Transport, close_half
from gateway.tls.handshake import ListenerTls
from gateway.wire.proxy_header import ProxiedAddress

SPARE: Final = 32
"""Connections that are being told why they may not stay; more are closed without a word."""


class Admission(Factory):
    """
    Factory of the first protocol of a new connection.

    @ivar peers: factory of admitted peers.
    @ivar tls: C{None}: the listener has no TLS.
    @ivar reserve: counts a transport by its address where another process does, and tells the limit
        that it exceeds, C{""} for none; C{None}: this process counts.
    """

    noisy = False

    def logPrefix(self) -> str:
        """Name of the listening port in the reactor's log lines."""
        return f"listener {self.peers.listener}"

    def __init__(
        self,
        peers: PeerFactory,
        clock: IReactorTime,
        *,
        allow: Networks | None = None,
        deny: Networks | None = None,
        proxies: Networks | None = None,
        tls: ListenerTls | None = None,
    ) -> None:
        """
        @param allow: networks that may connect; empty: all.
        @param deny: networks that may not, even if in C{allow}.
        @param proxies: networks of proxies that send a PROXY header; the address in it is checked,
            and nobody else may connect. Empty: peers connect directly.
        """
        self.peers = peers
        self._clock = clock
        self.allow = Networks(()) if allow is None else allow
        self.deny = Networks(()) if deny is None else deny
        self.proxies = Networks(()) if proxies is None else proxies
        self.tls = tls
        self.reserve: Callable[[Any, Hashable], Deferred[str]] | None = None
        self._turned_away = 0
        self._closed = False

    def close(self) -> None:
        """
        Refuse all connections from now on, also those whose admission is still under way.
        """
        self._closed = True

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        peer_info = peer_info_of(addr)
        if not self.proxies:
            return self._enter(peer_info)
        if peer_info.address not in self.proxies:
            return self._keep_out(peer_info, wording.NO_PROXY)
        # Until it is known for whom it speaks it counts as somebody of no address.
        connection_limit, nobody = self.peers.connection_limit, object()
        excess, what = connection_limit.excess(nobody)
        if excess > 0:
            return self._keep_out(peer_info, wording.too_many(what))
        connection_limit.enter(nobody)
        return ProxyHeader(
            self._clock,
            lambda source, what: self._enter(
                peer_info if source is None else _behind(source), what
            ),
            partial(self.peers.log_refusal, peer_info.name, "proxy"),
            partial(connection_limit.leave, nobody),
            self._reserved,
        )

    def _reserved(self, transport: Any, source: ProxiedAddress | None) -> Deferred[str] | None:
        """Have a connection counted by its address, where another process does that."""
        alike = self.peers.connection_limit.most_alike
        if self.reserve is None or source is None or alike == math.inf:
            return None
        peer_info = _behind(source)
        if self.address_refusal(peer_info) is not None:
            return None
        return self.reserve(transport, peer_info.site)

    def _enter(self, peer_info: PeerInfo, exceeded: str = "") -> Protocol | None:
        """@param exceeded: limit of connections that it exceeds, as another process counts."""
        refusal = self._refusal(peer_info)
        if refusal is None and exceeded:
            refusal = wording.too_many(exceeded)
        if refusal is None:
            return self._let_in(peer_info) if self.tls is None else self._shake(self.tls, peer_info)
        return self._keep_out(peer_info, refusal)

    def _keep_out(self, peer_info: PeerInfo, refusal: Outcome) -> Protocol | None:
        if self.tls is None:
            return self._turn_away(peer_info, refusal)
        # Nothing can be said before the handshake, and nobody kept out is worth one.
        self.peers.log_refusal(peer_info.name, kind_of(refusal), refusal.text)
        return None

    def _shake(self, tls: ListenerTls, peer_info: PeerInfo) -> Protocol:
        """
        Return the protocol of a handshake, during which the connection counts for the limits.
        """
        connection_limit = self.peers.connection_limit
        connection_limit.enter(peer_info.site)

        def build(certificate: PeerCertificate | None) -> Protocol | None:
            connection_limit.leave(peer_info.site)
            known = peer_info if certificate is None else peer_info.showing(certificate)
            refusal = self._refusal(known)
            return self._let_in(known) if refusal is None else self._turn_away(known, refusal)

        def refused(reason: str) -> None:
            connection_limit.leave(peer_info.site)
            self.peers.log_refusal(peer_info.name, "tls", reason)

        return tls.protocol(build, refused)

    def _let_in(self, peer_info: PeerInfo) -> Protocol | None:
        """
        Return the protocol of a peer whose identity is known as far as possible before its first
        frame.
        """
        rights = self.peers.rights(peer_info)
        if isinstance(rights, Outcome):
            return self._turn_away(peer_info, rights)
        return self.peers.peer(peer_info)

    def _turn_away(self, peer_info: PeerInfo, refusal: Outcome) -> Protocol | None:
        self.peers.log_refusal(peer_info.name, kind_of(refusal), refusal.text)
        self.peers.counters.answered(1, refusal, 0.0)
        if self._turned_away >= SPARE:
            return None
        self._turned_away += 1
        framing = self.peers.make_framing(lambda _: None)
        payload = self.peers.words.payload(refusal)
        return TurnedAway(
            framing.frame(payload) if isinstance(payload, bytes) else b"", self._clock, self._gone
        )

    def _refusal(self, peer_info: PeerInfo) -> Outcome | None:
        """
        Return why a connection is refused; C{None}: it is not.
        """
        if self._closed:
            return wording.STOPPING
        refusal = self.address_refusal(peer_info)
        if refusal is not None:
            return refusal
        excess, what = self.peers.connection_limit.excess(peer_info.site)
        if excess > 0:
            return wording.too_many(what)
        return None

    def address_refusal(self, peer_info: PeerInfo) -> Outcome | None:
        """Return why nobody of this address may send here; C{None}: it may."""
        address = peer_info.address
        if address in self.deny or (self.allow and address not in self.allow):
            return wording.DENIED_ADDRESS
        return None

    def _gone(self) -> None:
        self._turned_away -= 1


def _behind(source: ProxiedAddress) -> PeerInfo:
    """
    Return the peer for which a proxy connects.
    """
    # One of IPv4 may be told in the words of IPv6.
    address = address_of(str(source.address))
    return PeerInfo(place_name(str(address), source.port), address)


@implementer(IHalfCloseableProtocol)
class TurnedAway(Protocol):
    """
    Protocol that sends the reason for a refusal, and closes the connection.
    """

    transport: Transport

    def __init__(self, word: bytes, clock: IReactorTime, gone: Any) -> None:
        """
        @param word: bytes to send.
        @param gone: called when the connection is closed.
        """
        self._word = word
        self._clock = clock
        self._gone = gone
        self._lingering: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._lingering = self._clock.callLater(LINGER, self.transport.abortConnection)
        self.transport.write(self._word)
        if not close_half(self.transport):
            self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: our direction is closed after the reason, which is on its way."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self._gone()
