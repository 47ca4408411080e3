"""
Sweep for timeouts: one timer that checks all peers of a listener.

Ten thousand peers with timers of their own would cost a timer for each message.
It runs only while there are peers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway.peers.timeouts import Limit, PeerActivity, Stopwatches, Timeouts

_VARYING: Final = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*"|[0-9]+""")
"""Bytes of a peer's in a reason, and numbers."""


class TimedPeer(Protocol):
    """
    Peer that has timeouts.
    """

    def take_activity(self) -> PeerActivity | None:
        """
        Return the activity since the last sweep; C{None} where no timeout runs.
        """

    def expire(self, limit: Limit) -> None:
        """Disconnect the peer, since a timeout is over."""


class TimeoutSweep:
    """
    Sweep over the peers of one listener, which disconnects those whose timeout is over.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        timeouts: Timeouts,
        listener: str,
        peers: Collection[TimedPeer],
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """
        @param listener: its name, for the log.
        @param peers: the peers connected now; the collection changes.
        @param also: called at each sweep.
        """
        self._clock = clock
        self._timeouts = timeouts
        self._interval = timeouts.interval
        self._listener = listener
        self._peers = peers
        self._also = also
        self._watches: dict[TimedPeer, Stopwatches] = {}
        self._call: IDelayedCall | None = None
        self._looked = 0.0
        # Kind of reason -> how many, and the last reason and peer.
        self._closed_counts: dict[str, tuple[int, str, str]] = {}
        self._logged_at = -math.inf

    def replace_timeouts(self, timeouts: Timeouts) -> None:
        """
        Replace the timeouts, from the next sweep on.
        """
        self._timeouts = timeouts
        self._interval = timeouts.interval
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self._begin()

    def count_close(self, reason: str, name: str) -> None:
        """
        Count a peer that was told to go, or refused; logged at the next sweep.

        @param name: its address.
        """
        # A reason may quote what the peer sent, which is another for each.
        kind = _VARYING.sub("", reason)
        count, _, _ = self._closed_counts.get(kind, (0, "", ""))
        self._closed_counts[kind] = count + 1, reason, name
        self._begin()

    def peers_changed(self) -> None:
        """
        Start or stop the timer after a peer came or went.
        """
        if self._peers:
            self._begin()
        elif self._call is not None:
            if self._closed_counts and self._clock.seconds() - self._logged_at < self._interval:
                return  # peers refused one after the other must not have a line each
            self._call.cancel()
            self._call = None
            self._watches.clear()
            self._log_counts()

    def _begin(self) -> None:
        if self._call is None:
            self._looked = self._clock.seconds()
            self._call = self._clock.callLater(self._interval, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        # A gateway that was itself held up (stopped, swapped out) has read nobody
        # meanwhile: that is no timeout of its peers.
        seconds = min(now - self._looked, 2 * self._interval)
        self._call = None
        watches, self._watches = self._watches, {}
        overdue = []
        for peer in self._peers:
            activity = peer.take_activity()
            if activity is not None:
                watch = self._watches[peer] = watches.get(peer) or Stopwatches()
                limit = watch.advance(self._timeouts, seconds, activity)
                if limit is not None:
                    overdue.append((peer, limit))
        for peer, limit in overdue:
            peer.expire(limit)
        self._also()
        self._log_counts()
        if self._peers:
            self._begin()

    def _log_counts(self) -> None:
        """
        Log one line for each reason, so that many bad peers do not flood the log.
        """
        if self._closed_counts:
            self._logged_at = self._clock.seconds()
        for count, reason, name in self._closed_counts.values():
            self._log.warn(
                "listener {listener}: {count} {_peers} disconnected: {reason} ({_last}{peer})",
                event="disconnected",
                listener=self._listener,
                count=count,
                _peers="peer" if count == 1 else "peers",
                reason=reason,
                _last="" if count == 1 else "last ",
                peer=name,
            )
        self._closed_counts.clear()
