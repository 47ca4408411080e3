"""
Closing a connection: answers arrive before its end.
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
    The end of one connection, begun when everything is written.

    @ivar lingers: whether the time for the last words is running.
    """

    __slots__ = ("_clock", "_transport", "lingers")

    def __init__(self, transport: Transport, clock: IReactorTime) -> None:
        self._transport = transport
        self._clock = clock
        self.lingers: IDelayedCall | None = None
        # What waits to be written is written before the end all the same.
        transport.unregisterProducer()

    def say(self, *, ended: bool, blocked: bool) -> None:
        """
        Close; again where one of these has changed.

        @param ended: whether the peer has said all it had to say.
        @param blocked: whether something still waits for the peer to take it.
        """
        transport = self._transport
        if ended:
            transport.loseConnection()
        elif self.lingers is None:
            if not close_half(transport):
                transport.loseConnection()
                return
            transport.resumeProducing()
            # A peer that is slow has until write_timeout to take what waits for it.
            if not blocked:
                self.linger()

    def linger(self) -> None:
        """
        The last word is on its way.
        """
        self.lingers = self._clock.callLater(LINGER, self._transport.abortConnection)

    def forget(self) -> None:
        """
        The connection is gone.
        """
        if self.lingers is not None and self.lingers.active():
            self.lingers.cancel()
