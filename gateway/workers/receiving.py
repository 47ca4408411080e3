"""
Listeners of a worker: their connections come from the parent.

An endpoint gets a reactor that takes its factory and binds nothing; so TLS and whatever wraps an
endpoint work as in one process. Each connection goes to the factory that listened in its
listener's name.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.access.connection_limit import ConnectionLimit
from gateway.access.rates import Allowance, RateBucket, Rates
from gateway.config.listener import Listener
from gateway.listeners.admission import Admission
from gateway.listeners.datagram_port import DatagramPort
from gateway.listeners.hosting import allowance_of
from gateway.system.datagram_socket import DatagramSocket
from gateway.workers.channel import Channel
from gateway.workers.messages import RESERVE, Ended, Passed, Reserved, Taken
from gateway.workers.start import Address

_SYSTEMD: Final = re.compile(r"(^|:)systemd:.*")
"""A socket of systemd's, which the parent has: its place in an endpoint string."""

MakeListenersBucket = Callable[[str, Hashable, Allowance, float], RateBucket]
"""A listener, and what L{Rates} knows of a bucket -> that bucket."""


class Receiver:
    """
    Receiver of connections, and hosting of the listeners that they are for.
    """

    _log = Logger()

    def __init__(self, reactor: Any, channel: Channel, make_bucket: MakeListenersBucket) -> None:
        self._reactor = reactor
        self._channel = channel
        self._make_bucket = make_bucket
        self._factories: dict[str, list[IProtocolFactory]] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._addresses: dict[str, Address] = {}
        self._ended: list[int] = []
        channel.on_message(Passed, self._take)

    def place(
        self,
        addresses: Mapping[str, Address],
        datagrams: Sequence[str] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        """
        Take note of the listeners' addresses, and of sockets for datagrams.

        @param datagrams: names of the listeners whose sockets the descriptors are.
        """
        self._addresses.update(addresses)
        for name, descriptor in zip(datagrams, descriptors, strict=True):
            old = self._sockets.pop(name, None)
            if old is not None:
                old.close()
            self._sockets[name] = received = socket.socket(fileno=descriptor)
            received.setblocking(False)

    # Hosting.

    def endpoint(self, name: str, listener: Listener) -> IStreamServerEndpoint:
        """Return the endpoint of a listener."""
        if listener.is_datagram:
            return _Datagrams(self, self._reactor, name)
        text = _SYSTEMD.sub(r"\1tcp:0", listener.endpoint)
        endpoint: IStreamServerEndpoint = serverFromString(
            ReceivingReactor(self._reactor, self, name), text
        )
        return endpoint

    def connection_limit(self, around: ConnectionLimit) -> ConnectionLimit:
        """Return the count of a listener's connections; the parent's count decides."""
        limit = ConnectionLimit(around=around)
        limit.verdict = around.verdict = ""
        return limit

    def rates(self, name: str, listener: Listener) -> Rates:
        """Return the rate limits of a listener's peers."""
        allowance = allowance_of(listener)
        if listener.is_datagram:
            return Rates(allowance)  # one worker has all of them
        return Rates(allowance, partial(self._make_bucket, name))

    # For ports.

    def open(self, name: str, factory: IProtocolFactory) -> ReceivingPort:
        """Return a port that gives a listener's connections to a factory."""
        factory.doStart()
        admission = _admission_of(factory)
        if admission is not None:
            admission.reserve = partial(self._reserve, name)
        port = ReceivingPort(self, name, factory)
        port.startReading()
        return port

    def begin(self, name: str, factory: IProtocolFactory) -> None:
        """Give a listener's connections to a factory, before all others of that name."""
        self.end(name, factory)
        self._factories.setdefault(name, []).append(factory)

    def end(self, name: str, factory: IProtocolFactory) -> None:
        """Give a listener's connections to the factory from before again, if there is one."""
        factories = self._factories.get(name, [])
        if factory in factories:
            factories.remove(factory)

    def datagram_socket(self, name: str) -> socket.socket | None:
        """Return a copy of a listener's socket; C{None}: another worker has it."""
        own = self._sockets.get(name)
        if own is None:
            return None
        copy = own.dup()
        copy.setblocking(False)
        return copy

    def host(self, name: str) -> IAddress:
        """Return the address of a listener."""
        address = self._addresses.get(name, Address())
        found: IAddress
        if address.host is None:
            found = UNIXAddress(os.fsencode(address.path))
        elif ":" in address.host:
            found = IPv6Address("TCP", address.host, address.port)
        else:
            found = IPv4Address("TCP", address.host, address.port)
        return found

    # Connections.

    def _take(self, passed: Passed, descriptors: Sequence[int]) -> None:
        (descriptor,) = descriptors
        # First of all: where we end before that, the parent gives the connection to another
        # worker, and nothing may have been read from it.
        self._channel.send(Taken(passed.number), sent=lambda: self._adopt(passed, descriptor))

    def _adopt(self, passed: Passed, descriptor: int) -> None:
        factories = self._factories.get(passed.listener)
        transport: Any = None
        try:
            if factories:
                transport = self._connect(passed, descriptor, factories[-1])
        except OSError:
            pass  # the peer is gone already
        except Exception:  # noqa: BLE001 - a bug with one connection must not end the others
            self._log.failure("a connection could not be taken over", event="connection-failed")
        finally:
            os.close(descriptor)
        if transport is None:
            self._note_end(passed.number)
        else:
            transport.number = passed.number
            _on_end(transport, lambda: self._note_end(passed.number))

    def _connect(self, passed: Passed, descriptor: int, factory: IProtocolFactory) -> Any:
        admission = _admission_of(factory)
        if admission is None:
            return self._reactor.adoptStreamConnection(descriptor, passed.family, factory)
        limit = admission.peers.connection_limit
        limit.verdict = passed.refusal
        try:
            return self._reactor.adoptStreamConnection(descriptor, passed.family, factory)
        finally:
            limit.verdict = ""

    def _reserve(self, name: str, transport: Any, site: Hashable) -> Deferred[str]:
        """Have the parent count a connection by the address for which a proxy speaks."""
        asked = Reserved(transport.number, name, f"{type(site).__name__} {site}")
        answer = self._channel.ask(RESERVE, msgspec.msgpack.encode(asked))
        # Without a parent this process ends.
        return answer.addCallback(bytes.decode)

    def _note_end(self, number: int) -> None:
        if not self._ended:
            self._reactor.callLater(0, self._send_ended)
        self._ended.append(number)

    def _send_ended(self) -> None:
        ended, self._ended = self._ended, []
        self._channel.send(Ended(ended))


def _admission_of(factory: Any) -> Admission | None:
    """Return the admission that a listener's factory is, or wraps."""
    while factory is not None and not isinstance(factory, Admission):
        factory = getattr(factory, "wrappedFactory", None)
    return factory


def _on_end(transport: Any, call: Callable[[], None]) -> None:
    """Have a function called when a transport has ended."""
    lost = transport.connectionLost

    def connection_lost(reason: Failure) -> None:
        # Without it the transport would refer to itself.
        del transport.connectionLost
        lost(reason)
        call()

    transport.connectionLost = connection_lost


@implementer(IListeningPort)
class ReceivingPort:
    """
    Port of a listener whose connections the parent accepts.
    """

    def __init__(self, receiver: Receiver, name: str, factory: IProtocolFactory) -> None:
        self._receiver = receiver
        self._name = name
        self._factory = factory
        self._is_open = True

    def startListening(self) -> None:
        """Do nothing: the parent listens."""

    def stopListening(self) -> defer.Deferred[None]:
        """Take no more connections."""
        if self._is_open:
            self._is_open = False
            self.stopReading()
            self._factory.doStop()
        return defer.succeed(None)

    def getHost(self) -> IAddress:
        return self._receiver.host(self._name)

    def startReading(self) -> None:
        """Take the connections that the parent accepts."""
        self._receiver.begin(self._name, self._factory)

    def stopReading(self) -> None:
        """Leave them to the port from before."""
        self._receiver.end(self._name, self._factory)


class ReceivingReactor:
    """
    Reactor wrapper that receives connections instead of binding, for Twisted's endpoints.
    """

    def __init__(self, reactor: Any, receiver: Receiver, name: str) -> None:
        """@param name: of the listener."""
        self._reactor = reactor
        self._receiver = receiver
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, **options: Any) -> IListeningPort:
        """Receive the connections of the listener."""
        return self._receiver.open(self._name, factory)

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, **options: Any
    ) -> IListeningPort:
        """Receive the connections of the listener, which speak TLS."""
        return self._receiver.open(
            self._name, TLSMemoryBIOFactory(contextFactory, False, factory, self._reactor)
        )

    def listenUNIX(self, address: str, factory: IProtocolFactory, **options: Any) -> IListeningPort:
        """Receive the connections of the listener."""
        return self._receiver.open(self._name, factory)


@implementer(IListeningPort)
class _NoPort:
    """
    Port of a listener for datagrams that another worker reads.
    """

    def __init__(self, receiver: Receiver, name: str) -> None:
        self._receiver = receiver
        self._name = name

    def startListening(self) -> None:
        """Do nothing."""

    def stopListening(self) -> defer.Deferred[None]:
        return defer.succeed(None)

    def getHost(self) -> IAddress:
        return self._receiver.host(self._name)

    def startReading(self) -> None:
        """Do nothing."""

    def stopReading(self) -> None:
        """Do nothing."""


@implementer(IStreamServerEndpoint)
class _Datagrams:
    """
    Endpoint of a listener for datagrams, whose socket the parent opened.
    """

    def __init__(self, receiver: Receiver, reactor: Any, name: str) -> None:
        self._receiver = receiver
        self._reactor = reactor
        self._name = name

    def listen(self, protocolFactory: IProtocolFactory) -> defer.Deferred[IListeningPort]:
        """
        Read the socket; where another worker does, nothing.

        @param protocolFactory: an L{Admission}.
        """
        assert isinstance(protocolFactory, Admission)
        return defer.execute(self._open, protocolFactory)

    def _open(self, admission: Admission) -> IListeningPort:
        try:
            own = self._receiver.datagram_socket(self._name)
        except OSError as error:
            raise CannotListenError(None, self._name, error) from None
        if own is None:
            return _NoPort(self._receiver, self._name)
        port = DatagramPort(self._reactor, DatagramSocket(own), admission)
        port.startReading()
        return port
