"""
Port of one listener, which is opened and closed by name.
"""

from __future__ import annotations

import errno
import shlex
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure

from gateway.peers.factory import peer_name


class PortFault(NamedTuple):
    """
    Reason why a port cannot be opened.

    @ivar is_in_use: whether somebody listens there already.
    """

    text: str
    is_in_use: bool


class ListenerPort:
    """
    Port of one listener: an endpoint, and the factory for its connections.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, text: str, factory: IProtocolFactory, listener: str
    ) -> None:
        """
        @param text: the endpoint as configured, for messages.
        @param listener: its name.
        """
        self._endpoint = endpoint
        self._text = text
        self._factory = factory
        self._listener = listener
        self._port: Any = None

    def listen(self) -> None:
        """
        Open the port; do nothing if it is open.

        @raise SystemExit: with one line, if it cannot be opened.
        """
        fault = self.open_port()
        if fault is not None:
            raise SystemExit(f"gateway: listener {self._listener!r} {fault.text}")

    def open_port(self, *, accepts: bool = True) -> PortFault | None:
        """
        Open the port; do nothing if it is open.

        @param accepts: whether connections are accepted; if not, they wait for L{accept}.
        @return: why it cannot be opened.
        """
        if self._port is not None:
            return None
        results: list[object] = []
        self._endpoint.listen(self._factory).addBoth(results.append)
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

    def hold(self) -> None:
        """Accept nobody for now; connections wait for L{accept}."""
        if self._port is not None:
            self._port.stopReading()

    @property
    def port(self) -> IListeningPort | None:
        """Port; C{None} while it does not listen."""
        port: IListeningPort | None = self._port
        return port

    @property
    def host(self) -> Any:
        """Address in Twisted's terms; C{None} while it does not listen."""
        return None if self._port is None else self._port.getHost()

    @property
    def address(self) -> str:
        """C{host:port} or the path of a socket; C{""} while it does not listen."""
        host = self.host
        if host is None:
            return ""
        name = getattr(host, "name", None)
        if name is None:
            return peer_name(host)
        return name.decode() if isinstance(name, bytes) else str(name)

    async def close_port(self) -> None:
        """Close the port, if it is open; it may be opened again."""
        # A closed port has no address any more, which the status asks for.
        port, self._port = self._port, None
        if port is not None:
            result: object = port.stopListening()
            if isinstance(result, Deferred):
                await result


class Usage(NamedTuple):
    """
    Facts about a listener that its log line tells.

    @ivar example: bytes that a peer may send, as an argument of printf(1); C{""}: nobody types it.
    @ivar openssl_options: options of openssl(1) that the listener requires.
    """

    listener: str
    framing: str
    example: str
    is_datagram: bool
    is_tls: bool
    openssl_options: str
    telnet: bool
    is_behind_proxy: bool


def usage_line(usage: Usage, host: Any, where: str) -> str:
    """
    Return the log line of a listener: its address, and a command that uses it.

    @param host: its address in Twisted's terms.
    @param where: the same for people.
    """
    name = getattr(host, "name", None)
    if name is not None:
        netcat, secure = f"-U {shlex.quote(where)}", f"-unix {shlex.quote(where)}"
    else:
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.host, host.host)
        netcat = f"{reached} {host.port}"
        secure = f"-connect {peer_name(IPv4Address('TCP', reached, host.port))}"
    over = ""
    if usage.is_datagram:
        # OpenBSD's nc waits for answers, unless it is told how long.
        local = "U" if name is not None else ""
        call = f"printf {usage.example} | nc -u{local} -w1 {netcat.removeprefix('-U ')}"
        return f"listener {usage.listener}: datagrams on {where}; try: {call}"
    if usage.is_tls:
        over, call = " over TLS", f"openssl s_client -quiet {secure}{usage.openssl_options}"
    elif usage.telnet and name is None:
        call = f"telnet {netcat}"
    else:
        call = f"printf {usage.example} | nc -N {netcat}"
    # Nothing that a person types begins with a proxy's header.
    hint = "through a proxy alone" if usage.is_behind_proxy else f"try: {call}"
    if not usage.example:
        hint = f"for senders that speak {usage.framing}"
    return f"listener {usage.listener}: {usage.framing} frames{over} on {where}; {hint}"
