"""
The remote end of a connection, as far as it is known.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace

from gateway.access.tokens import Token
from gateway.system.addresses import Address, site_of


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """
    Certificate of a peer, as far as it is kept.

    @ivar identity: whom it names.
    @ivar issuer: the name of who signed it, in DER; with C{serial} it is this one and no other.
    @ivar ends: when it expires, in seconds since 1970.
    """

    identity: str
    issuer: bytes
    serial: int
    ends: float


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """
    Remote end of one connection.

    @ivar name: its address as C{host:port}, C{[v6]:port} or C{unix}; a trusted proxy's word
        for whom it speaks.
    @ivar address: the same for comparing; C{None} for a Unix socket.
    @ivar identity: who it proved to be, by a certificate or a token.
    @ivar token: what is kept of the token that it said last.
    @ivar certificate: that it showed.
    @ivar ends: when the first of these two expires, in seconds since 1970.
    """

    name: str
    address: Address | None
    identity: str | None = None
    token: Token | None = None
    certificate: PeerCertificate | None = None
    ends: float = math.inf

    @property
    def site(self) -> Hashable:
        """What limits for an address go by."""
        return site_of(self.address)

    @property
    def account(self) -> Hashable:
        """Whose rate is drawn on: the identity's, else the address's."""
        return self.site if self.identity is None else self.identity

    @property
    def proof(self) -> str:
        """What proved its identity, for the log; never the token itself."""
        if self.token is not None:
            return f"token {self.token.id}"
        return "nothing" if self.certificate is None else f"certificate {self.certificate.serial:X}"

    def proved(self, token: Token) -> PeerInfo:
        """
        The same, now that it has said this token.
        """
        shown = math.inf if self.certificate is None else self.certificate.ends
        return replace(self, identity=token.identity, token=token, ends=min(token.ends, shown))

    def showing(self, certificate: PeerCertificate) -> PeerInfo:
        """
        The same, now that it has shown this certificate.
        """
        return replace(
            self, identity=certificate.identity, certificate=certificate, ends=certificate.ends
        )
