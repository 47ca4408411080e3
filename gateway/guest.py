"""
Guests: who is connected, as far as that is known.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from gateway.networks import Address, site_of
from gateway.tokens import Token


@dataclass(frozen=True, slots=True)
class Guest:
    """
    One connection's other end.

    @ivar name: its address as C{host:port}, C{[v6]:port} or C{unix}; a trusted proxy's word
        for whom it speaks.
    @ivar address: the same for comparing; C{None} for a Unix socket.
    @ivar identity: who it proved to be, by a certificate or a token.
    @ivar token: the name of the token that did; never the token.
    """

    name: str
    address: Address | None
    identity: str | None = None
    token: str | None = None

    @property
    def site(self) -> Hashable:
        """What limits for an address go by."""
        return site_of(self.address)

    @property
    def account(self) -> Hashable:
        """Whose rate is drawn on: the identity's, else the address's."""
        return self.site if self.identity is None else self.identity

    def proved(self, token: Token) -> Guest:
        """
        The same, now that it has said this token.
        """
        return replace(self, identity=token.identity, token=token.id)
