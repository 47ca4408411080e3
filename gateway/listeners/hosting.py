"""
Hosting of listeners: what a listener gets from the process that it is in.

One process binds, counts and limits by itself. A worker of several gets its connections from its
parent, which also counts them and lends the rates (L{gateway.workers.hosting}).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from gateway.access.connection_limit import ConnectionLimit
from gateway.access.rates import Allowance, Rates
from gateway.config.listener import Listener
from gateway.listeners.datagram_port import DatagramEndpoint
from gateway.system.endpoint_arguments import split_endpoint
from gateway.system.listening_reactor import ListeningReactor, ListenOptions


class Hosting(Protocol):
    """
    Source of ports, limits and rates of listeners.
    """

    def endpoint(self, name: str, listener: Listener) -> IStreamServerEndpoint:
        """Return the endpoint of a listener."""

    def connection_limit(self, around: ConnectionLimit) -> ConnectionLimit:
        """
        Return the count of a listener's connections.

        @param around: the count of all connections.
        """

    def rates(self, name: str, listener: Listener) -> Rates:
        """Return the rate limits of a listener's peers."""


class OneProcess:
    """
    Hosting by a process that does it all.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def endpoint(self, name: str, listener: Listener) -> IStreamServerEndpoint:
        made = listen_options(listener)
        arguments = split_endpoint(listener.endpoint)
        if listener.is_datagram and arguments is not None:
            return DatagramEndpoint(self._reactor, listener.endpoint, arguments, made)
        making = ListeningReactor(self._reactor, listener.endpoint, made)
        endpoint: IStreamServerEndpoint = serverFromString(making, listener.endpoint)
        return endpoint

    def connection_limit(self, around: ConnectionLimit) -> ConnectionLimit:
        return ConnectionLimit(around=around)

    def rates(self, name: str, listener: Listener) -> Rates:
        return Rates(allowance_of(listener))


def listen_options(listener: Listener) -> ListenOptions:
    """Return the options of a listener's socket."""
    return ListenOptions(
        backlog=listener.backlog,
        reuse_port=listener.reuse_port,
        send_buffer=listener.send_buffer,
        receive_buffer=listener.receive_buffer,
        mode=None if listener.socket_mode is None else int(listener.socket_mode, 8),
        owner=listener.socket_owner,
    )


def allowance_of(listener: Listener) -> Allowance:
    """Return the rate that each of a listener's peers is allowed."""
    return Allowance(
        listener.messages_per_second or math.inf,
        listener.bytes_per_second or math.inf,
        listener.burst,
    )
