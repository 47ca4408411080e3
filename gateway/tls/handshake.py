"""
TLS handshake, which a peer has to finish before its protocol exists.

Twisted calls C{connectionMade} before the handshake, also for peers that will be refused. So TLS
starts with this protocol; after the handshake, and if the certificate has an identity, it has the
real protocol built and replaces itself by it. Bytes behind the handshake in the same read already
go to the real protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography import x509
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.access.peer_info import PeerCertificate
from gateway.system.socket_options import carrier_of, unheard
from gateway.tls.contexts import Contexts
from gateway.tls.failure_reasons import LISTED, NO_IDENTITY, reason_of
from gateway.tls.identity import identity_of
from gateway.tls.transport import TlsConnection, TlsTransport

Build = Callable[[PeerCertificate | None], IProtocol | None]
"""
The peer's certificate, C{None} where it showed none -> its protocol; C{None}: it is not let in,
and whoever decided that has said so.
"""

OnRefused = Callable[[str], None]
"""Told why a handshake failed, in a few words; once for each that did."""

_PATIENCE: Final = 3
"""
Times C{handshake_timeout} that a peer has whose bytes have come, and which we have not read: a
storm of peers takes a millisecond of our time for each handshake, and who waits in it would
come back and make it worse.
"""


@implementer(IHandshakeListener)
class Handshake(Protocol):
    """
    Protocol of a connection until its handshake is over.
    """

    transport: TlsTransport
    _deadline: IDelayedCall | None = None
    _over = False

    def __init__(
        self,
        timeout: float,
        clock: IReactorTime,
        build: Build,
        refused: OnRefused,
        is_revoked: Callable[[PeerCertificate], bool] = lambda shown: False,
    ) -> None:
        """
        @param timeout: limit for the handshake, in seconds.
        @param is_revoked: whether a certificate is revoked by lists that were read during the
            handshake.
        """
        self._is_revoked = is_revoked
        self._timeout = timeout
        self._clock = clock
        self._build = build
        self._refused = refused

    def connectionMade(self) -> None:
        self._late = self._clock.seconds() + _PATIENCE * self._timeout
        self._deadline = self._clock.callLater(self._timeout, self._expire)

    def handshakeCompleted(self) -> None:
        self._cancel()
        try:
            certificate = self.transport.certificate
        except (ValueError, x509.InvalidVersion):
            # OpenSSL accepts certificates that cryptography cannot parse.
            self._refuse(NO_IDENTITY)
            return
        shown = None
        if certificate is not None:
            identity = identity_of(certificate)
            if identity is None:
                self._refuse(NO_IDENTITY)
                return
            shown = PeerCertificate(
                identity,
                certificate.issuer.public_bytes(),
                certificate.serial_number,
                certificate.not_valid_after_utc.timestamp(),
            )
            if self._is_revoked(shown):
                self._refuse(LISTED)
                return
        self._over = True
        peer = self._build(shown)
        if peer is None:
            self._abort()
        else:
            self.transport.hand_over(peer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel()
        self._tell(reason_of(reason.value, self.transport.fault))

    def _expire(self) -> None:
        self._deadline = None
        carrier = carrier_of(self.transport)
        if carrier is not None and self._clock.seconds() < self._late and unheard(carrier):
            # The peer's bytes wait in the kernel: the delay is ours.
            self._deadline = self._clock.callLater(min(1.0, self._timeout), self._expire)
            return
        self._refuse(f"handshake not finished within {self._timeout:g} s")

    def _refuse(self, reason: str) -> None:
        self._tell(reason)
        self._abort()

    def _abort(self) -> None:
        # Not loseConnection, which waits for a close_notify that may never come.
        self.transport.abortConnection()  # type: ignore[no-untyped-call]

    def _tell(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._refused(reason)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@implementer(IOpenSSLServerConnectionCreator)
class ListenerTls:
    """
    TLS of one listener.

    @ivar contexts: for new connections; may be replaced.
    """

    def __init__(self, contexts: Contexts, clock: IReactorTime) -> None:
        self.contexts = contexts
        self._clock = clock
        self._factory = TLSMemoryBIOFactory(self, False, Factory(), clock)

    def protocol(self, build: Build, refused: OnRefused) -> Protocol:
        """
        Return the protocol for the transport of one peer. Either C{build} or C{refused} is called,
        once.
        """
        contexts = self.contexts
        files = contexts.files

        def is_revoked(shown: PeerCertificate) -> bool:
            # OpenSSL used the lists of the time when the handshake began.
            now = self.contexts
            return now.files is not files and bool(now.revoked([shown]))

        timeout = contexts.section.handshake_timeout
        shaking = Handshake(timeout, self._clock, build, refused, is_revoked)
        return TlsTransport(self._factory, shaking)

    def serverConnectionForTLS(self, protocol: object) -> TlsConnection:
        return self.contexts.connection()
