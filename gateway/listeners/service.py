"""
Service of one listener.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint

from gateway.config.listener import TlsSection
from gateway.listeners.admission import Admission
from gateway.listeners.port import ListenerPort, PortFault, Usage, usage_line
from gateway.peers.factory import PeerFactory
from gateway.system.endpoint_arguments import is_datagram


class ListenerService:
    """
    One listener: its port, and the factory for its connections.

    @ivar example: what a peer may send, as an argument of printf(1).
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, text: str, admission: Admission, example: str
    ) -> None:
        """
        @param text: the endpoint as configured, for messages.
        @param example: bytes that a peer may send, as an argument of printf(1).
        """
        self.admission = admission
        self.example = example
        self._text = text
        self._port = ListenerPort(endpoint, text, admission, admission.peers.listener)

    @property
    def factory(self) -> PeerFactory:
        """Factory of admitted peers."""
        return self.admission.peers

    def listen(self) -> None:
        """
        Open the port; do nothing if it is open.

        @raise SystemExit: with one line, if it cannot be opened.
        """
        self._port.listen()

    def open_port(self, *, accepts: bool = True) -> PortFault | None:
        """
        Open the port; do nothing if it is open.

        @param accepts: whether connections are accepted; if not, they wait for L{accept}.
        @return: why it cannot be opened.
        """
        return self._port.open_port(accepts=accepts)

    def accept(self) -> None:
        """Accept connections."""
        self._port.accept()

    @property
    def address(self) -> str:
        """C{host:port} or the path of a socket; C{""} while it does not listen."""
        return self._port.address

    @property
    def is_tls(self) -> bool:
        """Whether its peers speak TLS."""
        return self.admission.tls is not None or is_tls_endpoint(self._text)

    @property
    def line(self) -> str:
        """Log line: the address of the listener, and a command that uses it."""
        tls = None if self.admission.tls is None else self.admission.tls.contexts.section
        usage = Usage(
            self.factory.listener,
            self.factory.framing,
            self.example,
            is_datagram(self._text),
            self.is_tls,
            openssl_options(tls),
            self.factory.telnet,
            bool(self.admission.proxies),
        )
        host: Any = self._port.host
        return usage_line(usage, host, self.address)

    async def close_port(self) -> None:
        """Close the port, if it is open; it may be opened again."""
        await self._port.close_port()

    async def stop_listening(self) -> None:
        """Close the port, and refuse connections whose admission is under way."""
        self.admission.close()
        await self.close_port()


def is_tls_endpoint(text: str) -> bool:
    """Say whether an endpoint string has TLS itself."""
    return text.startswith(("ssl:", "tls:"))


def openssl_options(tls: TlsSection | None) -> str:
    """Return the options of openssl(1) that a listener requires."""
    return "" if tls is None or tls.client_ca is None else " -cert YOURS.pem"
