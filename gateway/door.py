"""
The door of a listener: who gets in.

Whoever connects is looked at by its address and by how many there are already; what the
connection begins with before the protocol proper comes next, in layers that are gone when
they have done their part. Who may not come in is told so where the listener speaks to it in
the clear, and is closed without a word otherwise.
"""

from __future__ import annotations

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

from gateway.factory import PeerFactory, guest_of
from gateway.farewell import LINGER
from gateway.framing import FRAMINGS
from gateway.guest import Guest
from gateway.networks import Networks
from gateway.reply import Code, Outcome, goodbye
from gateway.terms import Transport, close_half

SPARE: Final = 32
"""Connections that are being told why they may not stay; more are closed without a word."""

_DENIED: Final = goodbye(Code.DENIED, "connections from your address are not allowed here")


class Door(Factory):
    """
    Makes what a new connection begins with.

    @ivar peers: those who are in.
    """

    noisy = False

    def __init__(
        self,
        peers: PeerFactory,
        clock: IReactorTime,
        *,
        allow: Networks | None = None,
        deny: Networks | None = None,
    ) -> None:
        """
        @param allow: who may connect; empty: everybody.
        @param deny: who may not, even so.
        """
        self.peers = peers
        self._clock = clock
        self.allow = Networks(()) if allow is None else allow
        self.deny = Networks(()) if deny is None else deny
        self._turned_away = 0

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return self._enter(guest_of(addr))

    def _enter(self, guest: Guest) -> Protocol | None:
        refusal = self._refusal(guest)
        if refusal is None:
            return self.peers.peer(guest)
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
        address = guest.address
        if address in self.deny or (self.allow and address not in self.allow):
            return _DENIED
        excess, what = self.peers.crowd.excess(guest.site)
        if excess > 0:
            return goodbye(Code.BUSY, f"too many {what}; try again later")
        return None

    def _gone(self) -> None:
        self._turned_away -= 1


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
