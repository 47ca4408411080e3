"""
Address, identity and certificate of the remote end of a connection.
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
    The facts that are kept of a peer's certificate.

    @ivar identity: the name in it.
    @ivar issuer: name of the authority that signed it, in DER; with C{serial} it is unique.
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

    @ivar name: its address as C{host:port}, C{[v6]:port} or C{unix}; behind a trusted proxy the
        address that the proxy names.
    @ivar address: IP address for comparisons; C{None} for a Unix socket.
    @ivar identity: proved by a certificate, a token or a password.
    @ivar has_password: whether a password proved it.
    @ivar token: ID and expiry of the token that it sent last.
    @ivar certificate: certificate that it presented.
    @ivar ends: when the first of these two expires, in seconds since 1970.
    """

    name: str
    address: Address | None
    identity: str | None = None
    token: Token | None = None
    certificate: PeerCertificate | None = None
    ends: float = math.inf
    has_password: bool = False

    @property
    def site(self) -> Hashable:
        """Address or IPv6 network that limits count by; C{None} for a Unix socket."""
        return site_of(self.address)

    @property
    def account(self) -> Hashable:
        """Key of the peer's rate: the identity, else the address."""
        return self.site if self.identity is None else self.identity

    @property
    def proof(self) -> str:
        """
        Name of the token or certificate that proved its identity, for the log; never a secret.
        """
        if self.has_password:
            return "a password"
        if self.token is not None:
            return f"token {self.token.id}"
        return "nothing" if self.certificate is None else f"certificate {self.certificate.serial:X}"

    def proved(self, token: Token) -> PeerInfo:
        """Return a copy with the identity of a token that was verified."""
        shown = math.inf if self.certificate is None else self.certificate.ends
        return replace(self, identity=token.identity, token=token, ends=min(token.ends, shown))

    def with_password(self, user: str) -> PeerInfo:
        """Return a copy with the identity of a user whose password was right."""
        return replace(self, identity=user, has_password=True)

    def showing(self, certificate: PeerCertificate) -> PeerInfo:
        """Return a copy with the identity of a certificate that was presented."""
        return replace(
            self, identity=certificate.identity, certificate=certificate, ends=certificate.ends
        )
