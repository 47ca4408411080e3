"""
Build the listeners of a configuration, and apply a reload to them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from msgspec.structs import astuple
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.access.authenticator import Authenticator
from gateway.access.connection_limit import ConnectionLimit
from gateway.access.peer_info import PeerInfo
from gateway.access.rights import Access
from gateway.config.changes import REOPENS
from gateway.config.listener import AUTH_TIMEOUT, MAX_CHUNK, REMEMBER_CHUNKS, Listener
from gateway.config.load import Config
from gateway.dialects.acknowledging import AcknowledgingDialect, DialectSettings
from gateway.dialects.base import Dialect
from gateway.dialects.by_content import ContentDialect
from gateway.dialects.command import CommandDialect
from gateway.dialects.plain import PlainDialect
from gateway.dialects.registry import READERS
from gateway.dialects.token_first import TokenFirst
from gateway.formats.registry import format_of
from gateway.listeners.admission import Admission
from gateway.listeners.hosting import Hosting, OneProcess
from gateway.listeners.replacement import PortReplacement
from gateway.listeners.service import ListenerService
from gateway.listeners.usage_example import example
from gateway.metrics.counters import ListenerCounters
from gateway.model import wording
from gateway.model.outcome import Words
from gateway.peers.factory import DatagramSettings, ListenerSettings, PeerFactory, PeerServices
from gateway.peers.timeouts import Timeouts
from gateway.system.addresses import Networks
from gateway.system.socket_options import SocketOptions
from gateway.tls.registry import TlsRegistry
from gateway.wire.hl7 import ALL_OF_TWO, Accepted
from gateway.wire.protocols import PROTOCOLS

DATAGRAM: Final = "datagram"
"""Framing of listeners for datagrams, as it is shown."""

_ANY_BYTES: Final = frozenset({"cbor", "msgpack", "python"})
"""Formats in which a line end or NUL at the end of a message is part of it."""


class NewListeners(NamedTuple):
    """
    Listeners of a new configuration, until it is taken over.

    @ivar services: by name; those that stay as they are the ones in force.
    @ivar ports: ports that have to be opened and closed.
    """

    config: Config
    services: Mapping[str, ListenerService]
    ports: PortReplacement


class Listeners:
    """
    Listeners of the gateway, by name.

    @ivar connection_limit: limit of all peers together.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        *,
        connections: int,
        services: PeerServices,
        commands: CommandDialect,
        tls: TlsRegistry,
        authenticator: Authenticator,
        hosting: Hosting | None = None,
    ) -> None:
        """
        @param connections: most connections of all listeners.
        @param tls: contexts of the listeners that have TLS.
        @param hosting: where ports and limits come from; C{None}: this process has them.
        """
        self.connection_limit = ConnectionLimit(connections)
        self._reactor = reactor
        self._hosting = OneProcess(reactor) if hosting is None else hosting
        self._peer_services = services
        self._commands = commands
        self._tls = tls
        self._authenticator = authenticator
        tls.on_change(self._end_revoked)
        self._config = config
        self._counters: dict[str, ListenerCounters] = {}
        self._access = Access(config.access, tuple(config.routes))
        self._closing: list[ListenerService] = []
        self._services: Mapping[str, ListenerService] = {
            name: self._service(config, name, listener)
            for name, listener in config.listeners.items()
        }
        self._take_tls()

    def __iter__(self) -> Iterator[ListenerService]:
        return iter(self._services.values())

    @property
    def with_closing(self) -> list[ListenerService]:
        """All listeners, and those that a reload removed and that still have peers."""
        for service in self._closing:
            if not service.factory.peers:
                service.factory.end_log()
        self._closing = [service for service in self._closing if service.factory.peers]
        return [*self, *self._closing]

    def prepare(self, config: Config) -> NewListeners:
        """
        Make the listeners of a new configuration; open nothing.
        """
        services: dict[str, ListenerService] = {}
        opened: dict[str, ListenerService] = {}
        closed: dict[str, ListenerService] = {}
        for name, listener in config.listeners.items():
            before, service = self._config.listeners.get(name), self._services.get(name)
            if before is None or service is None:
                service = opened[name] = self._service(config, name, listener)
            elif before.endpoint != listener.endpoint:
                closed[name] = service
                service = opened[name] = self._service(config, name, listener)
            elif any(getattr(before, key) != getattr(listener, key) for key in REOPENS):
                closed[name] = service
                service = opened[name] = self._reopened(config, name, listener, service.admission)
            services[name] = service
        for name, service in self._services.items():
            if name not in services:
                closed[name] = service
        return NewListeners(config, services, PortReplacement(opened, closed))

    def take(self, new: NewListeners, announces: bool = True) -> None:
        """
        Take over prepared listeners whose ports are open. Peers of a listener that stays are
        connected on, if they still have any right.

        @param announces: whether the addresses of new ones are logged.
        """
        config, before = new.config, self._config
        kept = {id(service.admission) for service in new.services.values()}
        self._config, services = config, self._services
        self._services = new.services
        self._take_tls()
        for name, listener in config.listeners.items():
            service = new.services[name]
            if name in services and service.admission is services[name].admission:
                self._renew(service, name, before)
            _let_in(service.admission, listener)
        self._access = Access(config.access, tuple(config.routes))
        for service in new.services.values():
            service.factory.replace_access(self._access, self._known)
        self._end_revoked()
        for service in services.values():
            if id(service.admission) not in kept:
                service.admission.close()
                service.factory.close_all(wording.LISTENER_CLOSES)
                self._closing.append(service)
        new.ports.accept()
        Deferred.fromCoroutine(new.ports.close()).addErrback(
            lambda failure: self._log.failure(
                "a port could not be closed", event="port-not-closed", failure=failure
            )
        )
        for name in new.ports.opened if announces else ():
            service = new.services[name]
            self._log.info(
                "{_line}",
                event="listening",
                listener=name,
                address=service.address,
                _line=service.line,
            )

    def _renew(self, service: ListenerService, name: str, before: Config) -> None:
        """
        Apply the configuration to a listener whose peers stay connected.
        """
        config, factory = self._config, service.factory
        listener = config.listeners[name]
        if (before.listeners[name].tls is None) != (listener.tls is None):
            factory.close_all(wording.LISTENER_CLOSES)
        factory.replace_settings(_settings(config, name, listener))
        factory.replace_rates(self._hosting.rates(name, listener))
        dialect = factory.dialect
        if _dialect_keys(before, name) != _dialect_keys(config, name):
            dialect = self._dialect(config, name)
        factory.replace_dialect(dialect, config.routes)
        service.example = example(listener, config.routes)

    def _take_tls(self) -> None:
        for name, service in self._services.items():
            service.admission.tls = self._tls.listener_tls(name)

    def _service(self, config: Config, name: str, listener: Listener) -> ListenerService:
        peers = PeerFactory(
            _settings(config, name, listener),
            self._peer_services,
            self._dialect(config, name),
            self._access,
            self._hosting.rates(name, listener),
            self._hosting.connection_limit(self.connection_limit),
        )
        # What is counted goes on when a listener moves, or comes back.
        peers.counters = self._counters.setdefault(name, peers.counters)
        admission = Admission(peers, self._reactor)
        _let_in(admission, listener)
        return self._reopened(config, name, listener, admission)

    def _reopened(
        self, config: Config, name: str, listener: Listener, admission: Admission
    ) -> ListenerService:
        """
        Make a listener with a port of its own.
        """
        endpoint = self._hosting.endpoint(name, listener)
        return ListenerService(
            endpoint, listener.endpoint, admission, example(listener, config.routes)
        )

    def _dialect(self, config: Config, name: str) -> Dialect:
        listener = config.listeners[name]
        plain = _plain_dialect(config, listener)
        if plain is None:
            return self._commands
        if listener.dialect in READERS:
            settings = _dialect_settings(config, name, plain.routes, self._peer_services)
            return AcknowledgingDialect(READERS[listener.dialect], plain, settings)
        return TokenFirst(plain, self._authenticator) if listener.auth else plain

    def _known(self, peer_info: PeerInfo) -> PeerInfo | None:
        """
        Return a peer with the current state of its token; C{None} where the token is no longer
        valid.
        """
        if peer_info.token is None:
            return peer_info
        token = self._authenticator.current(peer_info.token)
        return None if token is None else peer_info.proved(token)

    def _end_revoked(self) -> None:
        for service in self._services.values():
            if service.admission.tls is not None:
                service.factory.end_revoked(service.admission.tls.contexts.revoked)


def _settings(config: Config, name: str, listener: Listener) -> ListenerSettings:
    return ListenerSettings(
        listener=name,
        framing=DATAGRAM if listener.is_datagram else listener.framing_name,
        words=_words(listener),
        max_frame=listener.max_frame,
        max_chunk=listener.max_chunk or MAX_CHUNK,
        window=listener.window,
        timeouts=_timeouts(listener),
        push_buffer=config.channels.push_buffer,
        auth=listener.asks_proof,
        telnet=listener.telnet,
        refuses_http=listener.refuse_http and not listener.knows_peers,
        delimiter=None if listener.delimiter is None else listener.delimiter.encode(),
        socket_options=SocketOptions(
            keepalive=listener.keepalive,
            user_timeout=listener.user_timeout,
            no_delay=listener.no_delay,
            send_buffer=listener.send_buffer,
            receive_buffer=listener.receive_buffer,
        ),
        datagrams=_datagrams(config, listener),
    )


def _datagrams(config: Config, listener: Listener) -> DatagramSettings:
    names = [*(listener.routes or {}).values(), *([listener.route] if listener.route else [])]
    routes = [config.routes[name] for name in names if name in config.routes]
    trims = listener.trim_end
    if trims is None:
        trims = not any(route.reading.format in _ANY_BYTES for route in routes)
    return DatagramSettings(
        gelf=listener.gelf,
        trims=trims,
        by_source=any(
            route.dead_letter or any(value.source == "@peer" for value in route.columns.values())
            for route in routes
        ),
    )


def _words(listener: Listener) -> Words:
    protocol = PROTOCOLS.get(listener.dialect)
    if protocol is None:
        return Words.configured(listener.ack, listener.nak)
    return Words(b"", protocol.farewell)


def _let_in(admission: Admission, listener: Listener) -> None:
    """
    Set networks and connection limits of a listener.
    """
    admission.allow, admission.deny = Networks(listener.allow), Networks(listener.deny)
    admission.proxies = Networks(listener.trusted_proxies)
    connection_limit = admission.peers.connection_limit
    connection_limit.most = listener.max_connections or math.inf
    connection_limit.most_alike = listener.max_connections_per_address or math.inf


def _timeouts(listener: Listener) -> Timeouts:
    asks = listener.asks_proof or listener.shared_key_file is not None
    first = listener.first_frame_timeout or (AUTH_TIMEOUT if asks else math.inf)
    return Timeouts(
        frame=listener.frame_timeout,
        write=listener.write_timeout,
        idle=listener.idle_timeout or math.inf,
        first=first,
    )


def _dialect_keys(config: Config, name: str) -> tuple[object, ...]:
    """
    Return everything that a listener's dialect depends on.
    """
    listener = config.listeners[name]
    routes = listener.routes or {}
    # All routes of the listener have the same format.
    readings = [config.routes[route].reading for route in routes.values()][:1]
    return (
        *(listener.dialect, listener.auth, listener.route, listener.route_by, routes, readings),
        *(listener.max_frame, listener.max_chunk, listener.remember_chunks),
        config.handshakes.get(name),
        *(listener.hl7, listener.try_),
    )


def _dialect_settings(
    config: Config, name: str, routes: Collection[str], services: PeerServices
) -> DialectSettings:
    listener = config.listeners[name]
    remembered = listener.remember_chunks
    return DialectSettings(
        clock=services.clock,
        max_frame=listener.max_frame,
        max_chunk=listener.max_chunk or MAX_CHUNK,
        remember_chunks=REMEMBER_CHUNKS if remembered is None else remembered,
        formats={route: config.routes[route].reading for route in routes},
        handshake=config.handshakes.get(name),
        wall=services.wall,
        route_by=listener.route_by or "",
        hl7=ALL_OF_TWO if listener.hl7 is None else Accepted(*astuple(listener.hl7)),
        reject_later=listener.try_ == "AR",
    )


def _plain_dialect(config: Config, listener: Listener) -> Dialect | None:
    """
    Return the dialect of a plain listener; C{None} for the command dialect.
    """
    if listener.route_by is not None and listener.routes:
        # All routes of the listener have the same format.
        reading = config.routes[next(iter(listener.routes.values()))].reading
        form = format_of(reading, [listener.route_by])
        return ContentDialect(form, listener.route_by, listener.routes, listener.route)
    if listener.route is not None:
        return PlainDialect(listener.route)
    return None
