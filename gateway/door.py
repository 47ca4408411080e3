"""
The door of a listener: who gets in.

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

from gateway.factory import PeerFactory, guest_of, place_name
from gateway.farewell import LINGER, STOPPING
from gateway.framing import FRAMINGS
from gateway.guest import Guest, PeerCertificate
from gateway.networks import Networks, address_of
from gateway.proxy.header import Source
from gateway.proxy.protocol import ProxyHeader
from gateway.reply import Code, Outcome, goodbye
from gateway.terms import Transport, close_half
from gateway.tls.handshake import TlsDoor

SPARE: Final = 32
"""Connections that are being told why they may not stay; more are closed without a word."""

_DENIED: Final = goodbye(Code.DENIED, "connections from your address are not allowed here")

_NO_PROXY: Final = goodbye(Code.DENIED, "connections come through a proxy here")


class Door(Factory):
    """
    Makes what a new connection begins with.

    @ivar peers: those who are in.
    @ivar tls: what a peer has to pass first; C{None}: peers speak in the clear.
    """

    noisy = False

    def __init__(
        self,
        peers: PeerFactory,
        clock: IReactorTime,
        *,
        allow: Networks | None = None,
        deny: Networks | None = None,
        proxies: Networks | None = None,
        tls: TlsDoor | None = None,
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
        guest = guest_of(addr)
        if not self.proxies:
            return self._enter(guest)
        if guest.address not in self.proxies:
            return self._keep_out(guest, _NO_PROXY)
        # Until it is known for whom it speaks it counts as somebody of no address.
        crowd, nobody = self.peers.crowd, object()
        excess, what = crowd.excess(nobody)
        if excess > 0:
            return self._keep_out(guest, _too_many(what))
        crowd.enter(nobody)
        return ProxyHeader(
            self._clock,
            lambda source: self._enter(guest if source is None else _behind(source)),
            partial(self.peers.not_let_in, guest.name),
            partial(crowd.leave, nobody),
        )

    def _enter(self, guest: Guest) -> Protocol | None:
        refusal = self._refusal(guest)
        if refusal is None:
            return self._let_in(guest) if self.tls is None else self._shake(self.tls, guest)
        return self._keep_out(guest, refusal)

    def _keep_out(self, guest: Guest, refusal: Outcome) -> Protocol | None:
        if self.tls is None:
            return self._turn_away(guest, refusal)
        # Nothing can be said before the handshake, and nobody kept out is worth one.
        self.peers.not_let_in(guest.name, refusal.text)
        return None

    def _shake(self, tls: TlsDoor, guest: Guest) -> Protocol:
        """
        Have a handshake first; meanwhile it counts as a connection.
        """
        crowd = self.peers.crowd
        crowd.enter(guest.site)

        def build(certificate: PeerCertificate | None) -> Protocol | None:
            crowd.leave(guest.site)
            known = guest if certificate is None else guest.showing(certificate)
            refusal = self._refusal(known)
            return self._let_in(known) if refusal is None else self._turn_away(known, refusal)

        def refused(reason: str) -> None:
            crowd.leave(guest.site)
            self.peers.not_let_in(guest.name, reason)

        return tls.protocol(build, refused)

    def _let_in(self, guest: Guest) -> Protocol | None:
        """
        Who it is is known as far as it can be before it speaks.
        """
        rights = self.peers.rights(guest)
        if isinstance(rights, Outcome):
            return self._turn_away(guest, rights)
        return self.peers.peer(guest)

    def _turn_away(self, guest: Guest, refusal: Outcome) -> Protocol | None:
        self.peers.not_let_in(guest.name, refusal.text)
        if self._turned_away >= SPARE:
            return None
        self._turned_away += 1
        framing = FRAMINGS[self.peers.framing](self.peers.max_frame)
        said = self.peers.words.payload(refusal)
        return TurnedAway(
            framing.frame(said) if isinstance(said, bytes) else b"", self._clock, self._gone
        )

    def _refusal(self, guest: Guest) -> Outcome | None:
        """
        @return: why somebody may not come in.
        """
        if self._closed:
            return STOPPING
        address = guest.address
        if address in self.deny or (self.allow and address not in self.allow):
            return _DENIED
        excess, what = self.peers.crowd.excess(guest.site)
        if excess > 0:
            return _too_many(what)
        return None

    def _gone(self) -> None:
        self._turned_away -= 1


def _too_many(what: str) -> Outcome:
    return goodbye(Code.BUSY, f"too many {what}; try again later")


def _behind(source: Source) -> Guest:
    """
    For whom a proxy connects.
    """
    # One of IPv4 may be told in the words of IPv6.
    address = address_of(str(source.address))
    return Guest(place_name(str(address), source.port), address)


@implementer(IHalfCloseableProtocol)
class TurnedAway(Protocol):
    """
    Somebody who is told why it may not stay.
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
