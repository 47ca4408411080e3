"""
Twisted's TLS, except that a peer that has closed its direction still gets its answers.

Twisted closes the connection when the other end sends close_notify, as TLS 1.2 requires; since TLS
1.3 that alert ends one direction only (RFC 8446 section 6.1). Clients have always used it so (Go's
C{CloseWrite}, socat), or end TCP's direction without the alert (C{ncat --ssl}). Either is taken as
the end of the peer's data. An attacker who cuts the stream gains nothing: a frame that is cut off
is incomplete, and an incomplete frame is never stored.
"""

from __future__ import annotations

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from gateway.system.transport import Transport


class TlsConnection(SSL.Connection):
    """
    OpenSSL connection of one peer.

    @ivar fault: OpenSSL's error number for the peer's certificate; 0: none.
    """

    fault = 0

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        try:
            return super().recv(bufsiz, flags)
        except SSL.ZeroReturnError:
            transport = self.get_app_data()
            if not self.get_shutdown() & SSL.SENT_SHUTDOWN and transport.peer_ended():
                # Only the peer's direction has ended, so this is no end of the connection.
                raise SSL.WantReadError from None
            raise


@implementer(IHalfCloseableProtocol)
class TlsTransport(TLSMemoryBIOProtocol):
    """
    TLS below the protocol of one peer; its connection must be a L{TlsConnection}.
    """

    transport: Transport
    wrappedProtocol: IProtocol
    _ended = False
    _tcp_ended = False

    def __init__(self, factory: TLSMemoryBIOFactory, first: IProtocol) -> None:
        """
        @param first: protocol until L{hand_over} is called.
        """
        super().__init__(factory, first)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        # After its close_notify nothing more is read from a peer.
        if not self._ended:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    @property
    def certificate(self) -> x509.Certificate | None:
        """
        Certificate of the peer, once the handshake is over; C{None}: it showed none.
        """
        return self._tlsConnection.get_peer_certificate(as_cryptography=True)

    @property
    def fault(self) -> int:
        """
        OpenSSL's error number for the peer's certificate; 0: none.
        """
        assert isinstance(self._tlsConnection, TlsConnection)
        return self._tlsConnection.fault

    def hand_over(self, peer: IProtocol) -> None:
        """
        Replace the protocol by C{peer}.
        """
        self.wrappedProtocol = peer
        peer.makeConnection(self)

    def peer_ended(self) -> bool:
        """
        Note that the other end sends nothing more; return whether we may still write.
        """
        peer = self.wrappedProtocol
        if not IHalfCloseableProtocol.providedBy(peer):
            return False
        if not self._ended:
            self._ended = True
            peer.readConnectionLost()
        return True

    def readConnectionLost(self) -> None:
        """
        Note that TCP's direction from the peer ended; called by the reactor.
        """
        self._tcp_ended = True
        if not self.peer_ended():
            self.abortConnection()  # type: ignore[no-untyped-call]
        elif self.disconnecting:
            # The close_notify that we wait for cannot come any more.
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        Do nothing; called by the reactor, but we never close TCP's half.
        """

    def loseConnection(self) -> None:
        super().loseConnection()  # type: ignore[no-untyped-call]
        if self._tcp_ended:
            self.transport.loseConnection()
