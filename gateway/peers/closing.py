"""
Closing of a connection so that its last answers still arrive.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.system.transport import Transport, close_half

LINGER: Final = 2.0
"""
Seconds for which the rest of what a peer sent is read and thrown away after
C{-BYE}: closing at once with unread data makes TCP drop the answers on their way
(RFC 1122 section 4.2.2.13).
"""


class Closing:
    """
    Closing of one connection, begun when everything is written.

    @ivar lingers: the timer that aborts the connection; C{None}: not started.
    """

    __slots__ = ("_clock", "_transport", "lingers")

    def __init__(self, transport: Transport, clock: IReactorTime) -> None:
        self._transport = transport
        self._clock = clock
        self.lingers: IDelayedCall | None = None
        # The transport still writes what it has buffered before it closes.
        transport.unregisterProducer()

    def advance(self, *, ended: bool, blocked: bool) -> None:
        """
        Close; to be called again where one of these has changed.

        @param ended: whether the peer has closed its end.
        @param blocked: whether some bytes still wait for the peer to read them.
        """
        transport = self._transport
        if ended:
            transport.loseConnection()
        elif self.lingers is None:
            if not close_half(transport):
                transport.loseConnection()
                return
            transport.resumeProducing()
            # A slow peer has until write_timeout to read what is buffered.
            if not blocked:
                self.linger()

    def linger(self) -> None:
        """
        Start the timer that aborts the connection: the last answer is on its way.
        """
        self.lingers = self._clock.callLater(LINGER, self._transport.abortConnection)

    def cancel(self) -> None:
        """
        Stop the timer: the connection is gone.
        """
        if self.lingers is not None and self.lingers.active():
            self.lingers.cancel()
