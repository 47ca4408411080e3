"""
Rate limits: messages and bytes that a peer may send in a second.

A token bucket for each identity, or each address of peers without one: it fills at
the rate and holds a burst. All peers of one identity draw from one bucket, which outlives
them until it is full again, so that reconnecting gains nothing.

Pure: the caller passes the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

_DUST: Final = 1e-6
"""Part of a message or byte that may be lost to rounding."""

_SOME: Final = 100
"""Messages that are looked at at once, however few may pass."""

_SHORT_MESSAGE: Final = 16
"""Bytes of a short message."""

_MIN_BUCKETS: Final = 1024
"""Buckets among which full ones are looked for, at least."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """
    Size and refill rate of one token bucket.

    @ivar messages: a second; infinite: any number.
    @ivar bytes: bytes of payload a second; infinite: any number.
    @ivar burst: seconds' worth of both that may come at once.
    """

    messages: float = math.inf
    bytes: float = math.inf
    burst: float = 1.0

    @property
    def limited(self) -> bool:
        return self.messages < math.inf or self.bytes < math.inf


class Lease(NamedTuple):
    """
    Part of a bucket that is lent to another process.

    @ivar wait: seconds until there is more, where it is less than was asked for.
    """

    messages: float
    bytes: float
    wait: float


class RateBucket(Protocol):
    """
    Bucket of one identity, or address, as a throttle uses it.
    """

    @property
    def awaits(self) -> bool:
        """Whether it is not known yet how much may pass: another process was asked."""

    @property
    def burst(self) -> float:
        """Length of a burst, in seconds."""

    def take(self, messages: Sequence[bytes], now: float) -> int:
        """Take messages from the first on, as many as may pass now; return their number."""

    def charge(self, size: int, now: float, messages: int = 0) -> bool:
        """Take bytes and messages in any case; return whether any are owed now."""

    def wait(self, now: float) -> float:
        """Return the seconds until another message may pass."""

    def portion(self, seconds: float) -> int:
        """Return how many messages to process at once."""

    def give_back(self, messages: Sequence[bytes]) -> None:
        """Put messages back that passed and were not processed."""

    def is_full(self, now: float) -> bool:
        """Say whether a new one would be equal."""


class Bucket:
    """
    Token bucket of one identity, or address.

    @ivar awaits: never.
    """

    __slots__ = ("_allowance", "_bytes", "_messages", "_when")

    awaits = False

    def __init__(self, allowance: Allowance, now: float) -> None:
        self._allowance = allowance
        self._messages = self._most(allowance.messages, 1.0)
        self._bytes = self._most(allowance.bytes, 0.0)
        self._when = now

    def take(self, messages: Sequence[bytes], now: float) -> int:
        """
        Take messages from the first on, as many as may pass now; return their number.

        A message passes where no byte is owed, so that one larger than the burst is not delayed for
        ever; those that come after it wait for all of it.
        """
        self._fill(now)
        passed = int(min(len(messages), self._messages + _DUST))
        if self._bytes < math.inf and passed:
            sizes = list(map(len, messages[:passed]))
            if self._bytes < 0 or sum(sizes) > self._bytes:
                before = accumulate(sizes, initial=-_DUST)
                passed = sum(size <= self._bytes for size, _ in zip(before, sizes, strict=False))
            self._bytes -= sum(sizes[:passed])
        self._messages -= passed
        return passed

    def charge(self, size: int, now: float, messages: int = 0) -> bool:
        """
        Take bytes and messages whether they may pass or not; return whether any are owed now.
        """
        self._fill(now)
        self._bytes -= size
        self._messages -= messages
        return self._bytes < 0 or self._messages < 0

    @property
    def burst(self) -> float:
        """Length of a burst, in seconds."""
        return self._allowance.burst

    def wait(self, now: float) -> float:
        """
        Return the seconds until another message may pass.
        """
        self._fill(now)
        allowance = self._allowance
        lack = (1.0 - self._messages) / allowance.messages
        return max(0.0, lack, -self._bytes / allowance.bytes if self._bytes < 0 else 0.0)

    def portion(self, seconds: float) -> int:
        """
        Return how many messages to process at once for a time in seconds, at least some.
        """
        allowed = min(self._allowance.messages, self._allowance.bytes / _SHORT_MESSAGE)
        return max(_SOME, int(allowed * seconds))

    def give_back(self, messages: Sequence[bytes]) -> None:
        """
        Put messages back that passed and were not processed: they will be taken again.
        """
        self._messages += len(messages)
        self._bytes += sum(map(len, messages))

    def lend(self, messages: float, size: float, now: float) -> Lease:
        """
        Take messages and bytes for another process, as many as there are.
        """
        self._fill(now)
        lent = max(0.0, min(messages, math.floor(self._messages + _DUST)))
        lent_bytes = max(0.0, min(size, self._bytes))
        self._messages -= lent
        self._bytes -= lent_bytes
        allowance = self._allowance
        waits = [0.0]
        if lent < min(1.0, messages):
            waits.append((1.0 - self._messages) / allowance.messages)
        if lent_bytes < min(1.0, size):
            waits.append((1.0 - self._bytes) / allowance.bytes)
        return Lease(lent, lent_bytes, max(waits))

    def take_back(self, messages: float, size: float) -> None:
        """
        Put back what was lent and not used.
        """
        self._messages += messages
        self._bytes += size

    def is_full(self, now: float) -> bool:
        """
        Say whether the bucket is full, so that a new one would be equal.
        """
        self._fill(now)
        allowance = self._allowance
        return self._messages >= self._most(allowance.messages, 1.0) and self._bytes >= self._most(
            allowance.bytes, 0.0
        )

    def _fill(self, now: float) -> None:
        passed = now - self._when
        self._when = now
        allowance = self._allowance
        if passed > 0:
            most = self._most(allowance.messages, 1.0)
            self._messages = min(most, self._messages + passed * allowance.messages)
            most = self._most(allowance.bytes, 0.0)
            self._bytes = min(most, self._bytes + passed * allowance.bytes)

    def _most(self, rate: float, least: float) -> float:
        return max(least, rate * self._allowance.burst)


MakeBucket = Callable[[Hashable, Allowance, float], RateBucket]
"""An identity or an address, what it is allowed, and the time -> its bucket."""


def _own_bucket(key: Hashable, allowance: Allowance, now: float) -> RateBucket:
    return Bucket(allowance, now)


class Rates:
    """
    Token buckets of one listener.
    """

    def __init__(self, allowance: Allowance, make: MakeBucket | None = None) -> None:
        """
        @param make: makes buckets; C{None}: they are of this process alone.
        """
        self.allowance = allowance
        self._make = _own_bucket if make is None else make
        self._buckets: dict[Hashable, RateBucket] = {}
        self._many = _MIN_BUCKETS

    def bucket(self, key: Hashable, now: float) -> RateBucket | None:
        """
        Return the bucket of an identity or an address; C{None} where nothing is limited.
        """
        if not self.allowance.limited:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._many:
                self._forget(now)
            bucket = self._buckets[key] = self._make(key, self.allowance, now)
        return bucket

    def _forget(self, now: float) -> None:
        kept = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)}
        self._buckets = kept
        # Checking all of them pays only when half of them may be new.
        self._many = max(_MIN_BUCKETS, 2 * len(kept))
