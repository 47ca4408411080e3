"""
Build the listeners of a configuration, and apply a reload to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from twisted.internet.endpoints import serverFromString

from gateway.access.authenticator import Authenticator
from gateway.access.connection_limit import ConnectionLimit
from gateway.access.peer_info import PeerInfo
from gateway.access.rates import Allowance, Rates
from gateway.access.rights import Access
from gateway.config.listener import AUTH_TIMEOUT, Listener
from gateway.config.load import Config
from gateway.dialects.base import Dialect
from gateway.dialects.by_content import ContentDialect
from gateway.dialects.command import CommandDialect
from gateway.dialects.plain import PlainDialect
from gateway.dialects.token_first import TokenFirst
from gateway.formats.registry import format_of
from gateway.listeners.admission import Admission
from gateway.listeners.service import ListenerService
from gateway.listeners.usage_example import example
from gateway.model.outcome import Words
from gateway.peers.factory import ListenerSettings, PeerFactory, PeerServices
from gateway.peers.timeouts import Timeouts
from gateway.system.addresses import Networks
from gateway.system.listening_reactor import ListeningReactor, ListenOptions
from gateway.system.socket_options import SocketOptions
from gateway.tls.registry import TlsRegistry


class Listeners:
    """
    Listeners of the gateway, by name.

    @ivar connection_limit: limit of all peers together.
    """

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
    ) -> None:
        """
        @param connections: most connections of all listeners.
        @param tls: contexts of the listeners that have TLS.
        """
        self.connection_limit = ConnectionLimit(connections)
        self._reactor = reactor
        self._peer_services = services
        self._commands = commands
        self._tls = tls
        self._authenticator = authenticator
        tls.on_change(self._end_revoked)
        self._routes = tuple(config.routes)
        self._access = Access(config.access, self._routes)
        self._services = {
            name: self._service(config, name, listener)
            for name, listener in config.listeners.items()
        }

    def __iter__(self) -> Iterator[ListenerService]:
        return iter(self._services.values())

    def reload(self, config: Config) -> None:
        """
        Apply a new configuration: networks, connection limits, rates and access. Connected peers
        that still have any right stay connected.
        """
        for name, listener in config.listeners.items():
            service = self._services.get(name)
            if service is not None:
                _let_in(service.admission, listener)
                service.factory.replace_rates(Rates(_allowance(listener)))
        # A reload does not change the routes.
        self._access = Access(config.access, self._routes)
        for service in self._services.values():
            service.factory.replace_access(self._access, self._known)
        self._end_revoked()

    def _service(self, config: Config, name: str, listener: Listener) -> ListenerService:
        reactor = self._reactor
        settings = ListenerSettings(
            listener=name,
            framing=listener.framing,
            words=Words.configured(listener.ack, listener.nak),
            max_frame=listener.max_frame,
            window=listener.window,
            timeouts=_timeouts(listener),
            push_buffer=config.channels.push_buffer,
            auth=listener.auth,
            telnet=listener.telnet,
            refuses_http=listener.refuse_http and not listener.knows_peers,
            socket_options=SocketOptions(
                keepalive=listener.keepalive,
                user_timeout=listener.user_timeout,
                no_delay=listener.no_delay,
                send_buffer=listener.send_buffer,
                receive_buffer=listener.receive_buffer,
            ),
        )
        peers = PeerFactory(
            settings,
            self._peer_services,
            self._dialect(config, listener),
            self._access,
            Rates(_allowance(listener)),
            ConnectionLimit(around=self.connection_limit),
        )
        admission = Admission(peers, reactor, tls=self._tls.listener_tls(name))
        _let_in(admission, listener)
        making = ListeningReactor(reactor, listener.endpoint, _made(listener))
        endpoint = serverFromString(making, listener.endpoint)
        return ListenerService(
            endpoint, listener.endpoint, admission, example(listener, config.routes)
        )

    def _dialect(self, config: Config, listener: Listener) -> Dialect:
        plain = _plain_dialect(config, listener)
        if plain is None:
            return self._commands
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


def _let_in(admission: Admission, listener: Listener) -> None:
    """
    Set networks and connection limits of a listener.
    """
    admission.allow, admission.deny = Networks(listener.allow), Networks(listener.deny)
    admission.proxies = Networks(listener.trusted_proxies)
    connection_limit = admission.peers.connection_limit
    connection_limit.most = listener.max_connections or math.inf
    connection_limit.most_alike = listener.max_connections_per_address or math.inf


def _allowance(listener: Listener) -> Allowance:
    return Allowance(
        listener.messages_per_second or math.inf,
        listener.bytes_per_second or math.inf,
        listener.burst,
    )


def _timeouts(listener: Listener) -> Timeouts:
    first = listener.first_frame_timeout or (AUTH_TIMEOUT if listener.auth else math.inf)
    return Timeouts(
        frame=listener.frame_timeout,
        write=listener.write_timeout,
        idle=listener.idle_timeout or math.inf,
        first=first,
    )


def _made(listener: Listener) -> ListenOptions:
    return ListenOptions(
        backlog=listener.backlog,
        reuse_port=listener.reuse_port,
        send_buffer=listener.send_buffer,
        receive_buffer=listener.receive_buffer,
        mode=None if listener.socket_mode is None else int(listener.socket_mode, 8),
        owner=listener.socket_owner,
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
