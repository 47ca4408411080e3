"""
Stream transports of the reactor, TCP and Unix alike.
"""

from __future__ import annotations

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
    Stream transport of the reactor, TCP or Unix.
    """


def close_half(transport: Transport) -> bool:
    """
    Say nothing more and go on reading.

    @return: whether the transport can do that.
    """
    if INegotiated.providedBy(transport):
        # TLS has a goodbye of its own, without which the peer must take the end for an attack.
        transport.loseConnection()
    elif IHalfCloseableDescriptor.providedBy(transport):
        transport.loseWriteConnection()
    else:
        return False
    return True
