"""
Listeners of the parent: their ports, and the limits of their connections.

The parent binds all of them; what a peer says is the workers' affair.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from twisted.internet import defer
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from gateway.config.changes import REOPENS
from gateway.config.listener import Listener
from gateway.config.load import Config
from gateway.listeners.hosting import listen_options
from gateway.listeners.port import ListenerPort, PortFault, Usage, usage_line
from gateway.listeners.replacement import PortReplacement
from gateway.listeners.service import is_tls_endpoint, openssl_options
from gateway.listeners.usage_example import example
from gateway.system.datagram_socket import DatagramSocket, open_socket
from gateway.system.endpoint_arguments import split_endpoint
from gateway.system.listening_reactor import ListeningReactor
from gateway.workers.accepting import AcceptingPorts
from gateway.workers.dispatch import Dispatch, Seats
from gateway.workers.start import Address


@implementer(IListeningPort)
class DatagramSocketPort:
    """
    Port that keeps a socket for datagrams, which worker 1 reads.
    """

    def __init__(self, opened: DatagramSocket) -> None:
        self.opened = opened

    def startListening(self) -> None:
        """Do nothing: it is open."""

    def stopListening(self) -> defer.Deferred[None]:
        self.opened.close()
        return defer.succeed(None)

    def getHost(self) -> IAddress:
        return self.opened.address

    def startReading(self) -> None:
        """Do nothing: the worker reads."""

    def stopReading(self) -> None:
        """Do nothing: the worker reads."""


@implementer(IStreamServerEndpoint)
class _DatagramSockets:
    """
    Endpoint that opens the socket of a listener for datagrams.
    """

    def __init__(self, reactor: Any, listener: Listener) -> None:
        self._reactor = reactor
        self._listener = listener

    def listen(self, protocolFactory: IProtocolFactory) -> defer.Deferred[IListeningPort]:
        """Open the socket."""
        return defer.execute(self._open)

    def _open(self) -> IListeningPort:
        listener = self._listener
        arguments = split_endpoint(listener.endpoint)
        assert arguments is not None
        try:
            opened = open_socket(
                self._reactor, listener.endpoint, arguments, listen_options(listener)
            )
        except OSError as error:
            raise CannotListenError(None, listener.endpoint, error) from None
        return DatagramSocketPort(opened)


class ParentListener:
    """
    Port of one listener, and the limits of its connections.
    """

    def __init__(
        self, reactor: Any, name: str, listener: Listener, seats: Seats, dispatch: Dispatch
    ) -> None:
        self.name = name
        self.seats = seats
        self.is_datagram = listener.is_datagram
        endpoint: IStreamServerEndpoint
        if listener.is_datagram:
            endpoint = _DatagramSockets(reactor, listener)
        else:
            ports = AcceptingPorts(reactor, name, partial(dispatch.accept, seats))
            making = ListeningReactor(reactor, listener.endpoint, listen_options(listener), ports)
            endpoint = serverFromString(making, listener.endpoint)
        self._port = ListenerPort(endpoint, listener.endpoint, Factory(), name)

    def listen(self) -> None:
        """
        Open the port; nobody is accepted before L{accept}.

        @raise SystemExit: with one line, if it cannot be opened.
        """
        self._port.listen()

    def open_port(self, *, accepts: bool = True) -> PortFault | None:
        """Open the port, and say why that is not possible."""
        return self._port.open_port(accepts=accepts)

    def accept(self) -> None:
        """Accept connections."""
        self._port.accept()

    def hold(self) -> None:
        """Accept nobody for now."""
        self._port.hold()

    async def close_port(self) -> None:
        """Close the port."""
        await self._port.close_port()

    @property
    def host(self) -> Any:
        """Address in Twisted's terms; C{None} while it does not listen."""
        return self._port.host

    @property
    def where(self) -> str:
        """Address for people."""
        return self._port.address

    @property
    def address(self) -> Address:
        """Address for the workers."""
        host = self.host
        if host is None:
            return Address()
        if getattr(host, "name", None) is not None:
            return Address(path=host.name)
        return Address(host.host, host.port)

    @property
    def datagram_socket(self) -> socket.socket | None:
        """Socket for datagrams; C{None}: it is none for datagrams, or closed."""
        port = self._port.port
        return port.opened.socket if isinstance(port, DatagramSocketPort) else None


class NewParentListeners(NamedTuple):
    """
    Listeners of a new configuration, until it is taken over.

    @ivar listeners: by name; those that stay as they are the ones in force.
    @ivar removed: listeners for datagrams that are no more. A worker has their sockets too, so
        that closing them makes no room for others.
    @ivar notes: lines about what needs a restart.
    """

    config: Config
    listeners: Mapping[str, ParentListener]
    ports: PortReplacement
    removed: Sequence[ParentListener]
    notes: list[str]

    async def close(self) -> None:
        """Close the ports that are no more."""
        await self.ports.close()
        for listener in self.removed:
            await listener.close_port()


class ParentListeners:
    """
    Listeners of the parent, by name.
    """

    _log = Logger()

    def __init__(self, reactor: Any, config: Config, dispatch: Dispatch) -> None:
        self._reactor = reactor
        self._dispatch = dispatch
        self._config = config
        self._accepts = False
        self._seats: dict[str, Seats] = {}
        self._listeners: Mapping[str, ParentListener] = {
            name: self._listener(name, listener) for name, listener in config.listeners.items()
        }

    def __iter__(self) -> Iterator[ParentListener]:
        return iter(self._listeners.values())

    def listen(self) -> None:
        """
        Open all ports.

        @raise SystemExit: with one line, where one cannot be opened.
        """
        for listener in self:
            listener.listen()

    def accept(self, accepts: bool) -> None:
        """Accept connections, or leave them in the kernel's queues."""
        self._accepts = accepts
        for listener in self:
            if accepts:
                listener.accept()
            else:
                listener.hold()

    async def close(self) -> None:
        """Close all ports."""
        for listener in self:
            await listener.close_port()

    def log_addresses(self, names: Iterable[str] | None = None) -> None:
        """
        Log where listeners are, and a command for each.

        @param names: of these; C{None}: of all.
        """
        for name in self._listeners if names is None else names:
            listener = self._listeners[name]
            self._log.info(
                "{_line}",
                event="listening",
                listener=name,
                address=listener.where,
                _line=self._line(listener),
            )

    def prepare(self, config: Config) -> NewParentListeners:
        """
        Make the listeners of a new configuration; open nothing.
        """
        listeners: dict[str, ParentListener] = {}
        opened: dict[str, ParentListener] = {}
        closed: dict[str, ParentListener] = {}
        notes = []
        for name, listener in config.listeners.items():
            before, present = self._config.listeners.get(name), self._listeners.get(name)
            if before is not None and present is not None:
                reopens = any(getattr(before, key) != getattr(listener, key) for key in REOPENS)
                if before.endpoint == listener.endpoint and reopens and listener.is_datagram:
                    # Its worker has the socket as well, so that no other can be bound there.
                    notes.append(f"listener {name}: its port is as before, until a restart")
                if before.endpoint == listener.endpoint and (not reopens or listener.is_datagram):
                    listeners[name] = present
                    continue
                closed[name] = present
            listeners[name] = opened[name] = self._listener(name, listener)
        for name, present in self._listeners.items():
            if name not in listeners:
                closed[name] = present
        removed = [one for one in closed.values() if one.is_datagram]
        replaced = {name: one for name, one in closed.items() if not one.is_datagram}
        ports = PortReplacement(opened, replaced)
        return NewParentListeners(config, listeners, ports, removed, notes)

    def take(self, new: NewParentListeners) -> None:
        """Take over prepared listeners whose ports are open."""
        self._config, self._listeners = new.config, new.listeners
        for name, listener in new.config.listeners.items():
            self._seats[name].replace(listener)
        if self._accepts:
            new.ports.accept()

    def _listener(self, name: str, listener: Listener) -> ParentListener:
        seats = self._seats.get(name)
        if seats is None:
            seats = self._seats[name] = Seats(name, self._dispatch.limit, listener)
        return ParentListener(self._reactor, name, listener, seats, self._dispatch)

    def _line(self, listener: ParentListener) -> str:
        config = self._config.listeners[listener.name]
        usage = Usage(
            listener.name,
            config.framing_name,
            example(config, self._config.routes),
            config.is_datagram,
            config.tls is not None or is_tls_endpoint(config.endpoint),
            openssl_options(config.tls),
            config.telnet,
            bool(config.trusted_proxies),
        )
        return usage_line(usage, listener.host, listener.where)
