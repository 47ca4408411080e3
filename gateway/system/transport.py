"""
Stream transports of the reactor, TCP and Unix alike.
"""

from __future__ import annotations

from socket import socket

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    INegotiated,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
)


class Transport(ITCPTransport, IConsumer, IPushProducer, ISystemHandle):
    """
    Interfaces of the reactor's stream transports, TCP or Unix.
    """


def writes_to(transport: Transport, carrier: socket | None) -> bool:
    """
    Say whether a transport writes to a socket as it is, without TLS between.

    @param carrier: the socket below the transport; C{None}: it has none.
    """
    if carrier is None or not ISystemHandle.providedBy(transport):
        return False
    return transport.getHandle() is carrier


def close_half(transport: Transport) -> bool:
    """
    Close the writing side and go on reading.

    @return: whether the transport can do that.
    """
    if INegotiated.providedBy(transport):
        # TLS has a closing message (close_notify); without it the peer must assume an attack.
        transport.loseConnection()
    elif IHalfCloseableDescriptor.providedBy(transport):
        transport.loseWriteConnection()
    else:
        return False
    return True
