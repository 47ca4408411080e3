"""
Admission to a listener: which connections are accepted.

Whoever connects is looked at by its address and by how many there are already; what the
connection begins with before the protocol proper comes next, in layers that are gone when
they have done their part. Who may not come in is told so where the listener speaks to it in
the clear, and is closed without a word otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

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
from gateway.model import wording
from gateway.model.outcome import Outcome
from gateway.peers.closing import LINGER
from gateway.peers.factory import PeerFactory, peer_info_of, place_name
from gateway.system.addresses import Networks, address_of
from gateway.system.transport import Transport, close_half
from gateway.tls.handshake import ListenerTls
from gateway.wire.framing import FRAMINGS
from gateway.wire.proxy_header import ProxiedAddress

SPARE: Final = 32
"""Connections that are being told why they may not stay; more are closed without a word."""


class Admission(Factory):
    """
    Factory of what a new connection begins with.

    @ivar peers: those who are in.
    @ivar tls: what a peer has to pass first; C{None}: peers speak in the clear.
    """

    noisy = False

    def logPrefix(self) -> str:
        """What the reactor calls the listening port in its log lines."""
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
        @param allow: who may connect; empty: everybody.
        @param deny: who may not, even so.
        @param proxies: who says for whom it connects, and that one is looked at then; nobody
            else may connect. Empty: everybody comes for themselves.
        """
        self.peers = peers
        self._clock = clock
        self.allow = Networks(()) if allow is None else allow
        self.deny = Networks(()) if deny is None else deny
        self.proxies = Networks(()) if proxies is None else proxies
        self.tls = tls
        self._turned_away = 0
        self._closed = False

    def close(self) -> None:
        """
        Let nobody in any more, those neither that have connected and are not yet let in.
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
            lambda source: self._enter(peer_info if source is None else _behind(source)),
            partial(self.peers.not_let_in, peer_info.name),
            partial(connection_limit.leave, nobody),
        )

    def _enter(self, peer_info: PeerInfo) -> Protocol | None:
        refusal = self._refusal(peer_info)
        if refusal is None:
            return self._let_in(peer_info) if self.tls is None else self._shake(self.tls, peer_info)
        return self._keep_out(peer_info, refusal)

    def _keep_out(self, peer_info: PeerInfo, refusal: Outcome) -> Protocol | None:
        if self.tls is None:
            return self._turn_away(peer_info, refusal)
        # Nothing can be said before the handshake, and nobody kept out is worth one.
        self.peers.not_let_in(peer_info.name, refusal.text)
        return None

    def _shake(self, tls: ListenerTls, peer_info: PeerInfo) -> Protocol:
        """
        Have a handshake first; meanwhile it counts as a connection.
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
            self.peers.not_let_in(peer_info.name, reason)

        return tls.protocol(build, refused)

    def _let_in(self, peer_info: PeerInfo) -> Protocol | None:
        """
        Who it is is known as far as it can be before it speaks.
        """
        rights = self.peers.rights(peer_info)
        if isinstance(rights, Outcome):
            return self._turn_away(peer_info, rights)
        return self.peers.peer(peer_info)

    def _turn_away(self, peer_info: PeerInfo, refusal: Outcome) -> Protocol | None:
        self.peers.not_let_in(peer_info.name, refusal.text)
        if self._turned_away >= SPARE:
            return None
        self._turned_away += 1
        framing = FRAMINGS[self.peers.framing](self.peers.max_frame)
        said = self.peers.words.payload(refusal)
        return TurnedAway(
            framing.frame(said) if isinstance(said, bytes) else b"", self._clock, self._gone
        )

    def _refusal(self, peer_info: PeerInfo) -> Outcome | None:
        """
        @return: why somebody may not come in.
        """
        if self._closed:
            return wording.STOPPING
        address = peer_info.address
        if address in self.deny or (self.allow and address not in self.allow):
            return wording.DENIED_ADDRESS
        excess, what = self.peers.connection_limit.excess(peer_info.site)
        if excess > 0:
            return wording.too_many(what)
        return None

    def _gone(self) -> None:
        self._turned_away -= 1


def _behind(source: ProxiedAddress) -> PeerInfo:
    """
    For whom a proxy connects.
    """
    # One of IPv4 may be told in the words of IPv6.
    address = address_of(str(source.address))
    return PeerInfo(place_name(str(address), source.port), address)


@implementer(IHalfCloseableProtocol)
class TurnedAway(Protocol):
    """
    Connection that is told why it is refused, and then closed.
    """

    transport: Transport

    def __init__(self, word: bytes, clock: IReactorTime, gone: Any) -> None:
        """
        @param word: what is said.
        @param gone: called when the connection is no more.
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
        """What was said is on its way."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self._gone()
