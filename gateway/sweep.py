"""
The sweep: one timer that looks at all peers of a listener.

Ten thousand peers with timers of their own would cost a timer for each message.
It runs only while there are peers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway.deadlines import Limit, Timeouts


class Swept(Protocol):
    """
    Whatever has limits in time.
    """

    def look(self, seconds: float) -> Limit | None:
        """
        @param seconds: since the last look.
        @return: which limit is over.
        """

    def expire(self, limit: Limit) -> None:
        """A limit is over."""


class Sweep:
    """
    Looks at the peers of one listener.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, timeouts: Timeouts, listener: str, peers: Collection[Swept]
    ) -> None:
        """
        @param listener: its name, for the log.
        @param peers: those connected, at any time.
        """
        self._clock = clock
        self._timeouts = timeouts
        self._interval = timeouts.interval
        self._listener = listener
        self._peers = peers
        self._call: IDelayedCall | None = None
        self._looked = 0.0
        self._let_go: Counter[str] = Counter()

    def let_go(self, reason: str) -> None:
        """
        A peer was told to go between two looks; the log hears of it at the next.
        """
        self._let_go[reason] += 1

    def peers_changed(self) -> None:
        """
        Somebody came or went.
        """
        if self._peers and self._call is None:
            self._looked = self._clock.seconds()
            self._call = self._clock.callLater(self._interval, self._look)
        elif not self._peers and self._call is not None:
            self._call.cancel()
            self._call = None
            self._say()

    def _look(self) -> None:
        now = self._clock.seconds()
        # A gateway that was itself held up (stopped, swapped out) has read nobody
        # meanwhile, and must not blame its peers for it.
        seconds = min(now - self._looked, 2 * self._interval)
        self._looked = now
        self._call = self._clock.callLater(self._interval, self._look)
        overdue = [
            (peer, limit) for peer in self._peers if (limit := peer.look(seconds)) is not None
        ]
        for peer, limit in overdue:
            peer.expire(limit)
            self.let_go(limit.text(self._timeouts))
        self._say()

    def _say(self) -> None:
        """
        One line for all, so that many bad peers do not flood the log.
        """
        for reason, count in self._let_go.items():
            self._log.warn(
                "listener {listener}: {count} {peers} let go: {reason}",
                listener=self._listener,
                count=count,
                peers="peer" if count == 1 else "peers",
                reason=reason,
            )
        self._let_go.clear()
