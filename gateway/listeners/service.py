"""
Service of one listener.
"""

from __future__ import annotations

import errno
import shlex
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure

from gateway.listeners.admission import Admission
from gateway.peers.factory import PeerFactory, peer_name
from gateway.system.endpoint_arguments import is_datagram


class PortFault(NamedTuple):
    """
    Reason why a port cannot be opened.

    @ivar is_in_use: whether somebody listens there already.
    """

    text: str
    is_in_use: bool


class ListenerService:
    """
    One listener: an endpoint, and the factory for its connections.

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
        self._endpoint = endpoint
        self._text = text
        self._port: Any = None
        self._is_datagram = is_datagram(text)

    @property
    def factory(self) -> PeerFactory:
        """Factory of admitted peers."""
        return self.admission.peers

    def listen(self) -> None:
        """
        Open the port; do nothing if it is open.

        @raise SystemExit: with one line, if it cannot be opened.
        """
        fault = self.open_port()
        if fault is not None:
            raise SystemExit(f"gateway: listener {self.factory.listener!r} {fault.text}")

    def open_port(self, *, accepts: bool = True) -> PortFault | None:
        """
        Open the port; do nothing if it is open.

        @param accepts: whether connections are accepted; if not, they wait for L{accept}.
        @return: why it cannot be opened.
        """
        if self._port is not None:
            return None
        results: list[object] = []
        self._endpoint.listen(self.admission).addBoth(results.append)
        result = results[0] if results else None
        if isinstance(result, Failure):
            reason = result.value
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            text = getattr(reason, "strerror", None) or reason
            return PortFault(
                f"cannot listen on {self._text!r}: {text}",
                getattr(reason, "errno", None) == errno.EADDRINUSE,
            )
        assert IListeningPort.providedBy(result)
        self._port = result
        if not accepts:
            self._port.stopReading()
        return None

    def accept(self) -> None:
        """Accept connections."""
        if self._port is not None:
            self._port.startReading()

    @property
    def address(self) -> str:
        """C{host:port} or the path of a socket; C{""} while it does not listen."""
        if self._port is None:
            return ""
        address: Any = self._port.getHost()
        name = getattr(address, "name", None)
        if name is None:
            return peer_name(address)
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def is_tls(self) -> bool:
        """Whether its peers speak TLS."""
        return self.admission.tls is not None or self._text.startswith(("ssl:", "tls:"))

    @property
    def line(self) -> str:
        """Log line: the address of the listener, and a command that uses it."""
        assert self._port is not None
        address: Any = self._port.getHost()
        name, where = getattr(address, "name", None), self.address
        if name is not None:
            netcat, secure = f"-U {shlex.quote(where)}", f"-unix {shlex.quote(where)}"
        else:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
            netcat = f"{host} {address.port}"
            secure = f"-connect {peer_name(IPv4Address('TCP', host, address.port))}"
        over = ""
        if self._is_datagram:
            # OpenBSD's nc waits for answers, unless it is told how long.
            local = "U" if name is not None else ""
            call = f"printf {self.example} | nc -u{local} -w1 {netcat.removeprefix('-U ')}"
            return f"listener {self.factory.listener}: datagrams on {where}; try: {call}"
        if self.is_tls:
            over, call = " over TLS", f"openssl s_client -quiet {secure}{self._openssl_options}"
        elif self.factory.telnet and name is None:
            call = f"telnet {netcat}"
        else:
            call = f"printf {self.example} | nc -N {netcat}"
        # Nothing that a person types begins with a proxy's header.
        hint = "through a proxy alone" if self.admission.proxies else f"try: {call}"
        if not self.example:
            hint = f"for senders that speak {self.factory.framing}"
        framing = self.factory.framing
        return f"listener {self.factory.listener}: {framing} frames{over} on {where}; {hint}"

    @property
    def _openssl_options(self) -> str:
        """Options of openssl(1) that the listener requires."""
        tls = None if self.admission.tls is None else self.admission.tls.contexts.section
        if tls is None or tls.client_ca is None:
            return ""
        return " -cert YOURS.pem"

    async def close_port(self) -> None:
        """Close the port, if it is open; it may be opened again."""
        # A closed port has no address any more, which the status asks for.
        port, self._port = self._port, None
        if port is not None:
            await _maybe(port.stopListening())

    async def stop_listening(self) -> None:
        """Close the port, and refuse connections whose admission is under way."""
        self.admission.close()
        await self.close_port()


async def _maybe(result: object) -> None:
    if isinstance(result, Deferred):
        await result
