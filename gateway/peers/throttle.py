"""
Throttle: refuses or delays the messages of a peer that sends more than its rate limit.

They are answered with C{-TRY RATE}, and the peer is not read for a moment: the answer tells the
peer, the pause protects everybody else, since refusing a flood costs nearly as much as reading
it. Where the listener has no word for a refusal the message waits instead: nobody would know
that it was not stored.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.access.rates import RateBucket
from gateway.metrics.counters import ListenerCounters
from gateway.model import wording
from gateway.model.outcome import Outcome

PAUSE: Final = 0.1
"""Seconds that a peer over its rate is not read, at least."""

LONGEST_PAUSE: Final = 1.0
"""
Seconds that it is not read where it sends on, over its rate each time that it is read: twice as
long each time, up to what C{-TRY RATE} asks it to wait at least.
"""


_LEASE: Final = 0.002
"""Seconds between looks whether another process has said how much may pass."""


class Throttle:
    """
    Throttle of one peer.

    @ivar holds: whether the peer is not to be read now.
    @ivar refuses: whether what is over the rate is refused, rather than kept for later.
    """

    __slots__ = ("_bucket", "_call", "_clock", "_counters", "_pause", "_resume", "refuses")

    def __init__(
        self,
        bucket: RateBucket,
        clock: IReactorTime,
        resume: Callable[[], None],
        counters: ListenerCounters,
        *,
        refuses: bool,
    ) -> None:
        """
        @param resume: called when the peer may be read again.
        @param counters: count the pauses.
        """
        self._bucket = bucket
        self._clock = clock
        self._resume = resume
        self._counters = counters
        self._call: IDelayedCall | None = None
        self._pause = PAUSE
        self.refuses = refuses

    @property
    def holds(self) -> bool:
        return self._call is not None

    @property
    def portion(self) -> int:
        """
        Number of messages to process at once, so that a peer that sends far too many costs little.
        """
        return self._bucket.portion(PAUSE)

    @property
    def stalls(self) -> bool:
        """Whether kept messages have to wait longer."""
        return self._call is not None and (not self.refuses or self._bucket.awaits)

    def limit_frames(self, frames: list[bytes], held: deque[bytes]) -> list[bytes]:
        """
        Leave in C{frames} those that may pass, from the first on; pause reading where some may not.

        @param held: frames that come after them; those that have to wait go back in front of it.
        @return: frames that are to be refused: all or none, for each has to wait for what those
            before it ask for.
        """
        now = self._clock.seconds()
        passed = self._bucket.take(frames, now)
        over = frames[passed:]
        if not over:
            self._pause = PAUSE
            return over
        self._hold(now)
        del frames[passed:]
        if self.refuses and not passed and not self._bucket.awaits:
            # A pause no longer than a burst does not reduce the rate below its limit.
            longest = max(PAUSE, min(LONGEST_PAUSE, self._bucket.burst))
            self._pause = min(longest, 2 * self._pause)
            return over
        held.extendleft(reversed(over))
        return []

    def charge(self, size: int) -> None:
        """
        Charge bytes that belong to no finished message.

        These are line endings, lengths, skipped bytes, the beginning of a message. The number is
        negative where a message is complete whose beginning was charged.
        """
        now = self._clock.seconds()
        if self._bucket.charge(size, now):
            self._hold(now)

    def charge_messages(self, count: int) -> None:
        """Charge messages that came in one frame with another that was charged."""
        now = self._clock.seconds()
        if self._bucket.charge(0, now, count):
            self._hold(now)

    def give_back(self, frames: Sequence[bytes]) -> None:
        """Put frames back that were not processed: they will be passed to L{limit_frames} again."""
        self._bucket.give_back(frames)

    def refusal(self) -> Outcome:
        """Return the answer to a message that may not pass."""
        seconds = max(1, math.ceil(self._bucket.wait(self._clock.seconds())))
        return wording.over_rate(seconds)

    def cancel(self) -> None:
        """Stop the pause: the peer is gone, or has another throttle."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _hold(self, now: float) -> None:
        if self._call is None:
            if self._bucket.awaits:
                pause = _LEASE
            else:
                self._counters.throttled += 1
                pause = max(self._pause, self._bucket.wait(now))
            self._call = self._clock.callLater(pause, self._over)

    def _over(self) -> None:
        self._call = None
        self._resume()
