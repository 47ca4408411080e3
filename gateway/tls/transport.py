"""
Twisted's TLS over the reactor's transport, with one thing more: a peer that has said all it
had to say still gets its answers.

Twisted closes as soon as the other end says goodbye, which is what TLS 1.2 asks for; since
TLS 1.3 it ends one direction only (RFC 8446 section 6.1). Clients have always used it so (Go's
C{CloseWrite}, socat), or end TCP's direction without a goodbye (C{ncat --ssl}). Either is
taken for the end of what is sent: a frame that was cut off by somebody in between is not
finished, and what is not finished is never stored.
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
    OpenSSL's side of one connection.

    @ivar fault: OpenSSL's number of what is wrong with the peer's certificate, 0: nothing.
    """

    fault = 0

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        try:
            return super().recv(bufsiz, flags)
        except SSL.ZeroReturnError:
            transport = self.get_app_data()
            if not self.get_shutdown() & SSL.SENT_SHUTDOWN and transport.peer_ended():
                # There is nothing to read, and that is all there is to it.
                raise SSL.WantReadError from None
            raise


@implementer(IHalfCloseableProtocol)
class TlsTransport(TLSMemoryBIOProtocol):
    """
    Carries a peer; its connection must be a L{TlsConnection}.
    """

    transport: Transport
    wrappedProtocol: IProtocol
    _ended = False
    _tcp_ended = False

    def __init__(self, factory: TLSMemoryBIOFactory, first: IProtocol) -> None:
        """
        @param first: carried until it hands over.
        """
        super().__init__(factory, first)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        # After its goodbye nothing is read from a peer, nor kept for it.
        if not self._ended:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    @property
    def certificate(self) -> x509.Certificate | None:
        """
        The peer's, once the handshake is over; C{None}: it showed none.
        """
        return self._tlsConnection.get_peer_certificate(as_cryptography=True)

    @property
    def fault(self) -> int:
        """
        That of the connection.
        """
        assert isinstance(self._tlsConnection, TlsConnection)
        return self._tlsConnection.fault

    def hand_over(self, peer: IProtocol) -> None:
        """
        Carry another protocol from now on.
        """
        self.wrappedProtocol = peer
        peer.makeConnection(self)

    def peer_ended(self) -> bool:
        """
        The other end says that it sends nothing more.

        @return: whether we may go on writing.
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
        The reactor's: the same of TCP.
        """
        self._tcp_ended = True
        if not self.peer_ended():
            self.abortConnection()  # type: ignore[no-untyped-call]
        elif self.disconnecting:
            # The goodbye that we wait for cannot come any more.
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        The reactor's; we never close TCP's half.
        """

    def loseConnection(self) -> None:
        super().loseConnection()  # type: ignore[no-untyped-call]
        if self._tcp_ended:
            self.transport.loseConnection()
