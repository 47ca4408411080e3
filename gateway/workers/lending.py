"""
Rates of identities over all workers: the parent has the buckets, and lends parts of them.

A worker that needs more than it has asks for a twentieth of a second's worth, or for what waits;
what it does not use it gives back. So the rate holds for all workers together, whichever of them
an identity's peers are connected to, and a peer waits for a lease some twenty times a second at
most.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from gateway.access.rates import Allowance, Bucket, Lease, Rates
from gateway.config.load import Config
from gateway.listeners.hosting import allowance_of
from gateway.workers.channel import Channel, ChannelError

BORROW: Final = "borrow"
"""Name of the question for a lease: L{Loan}, answered by messages, bytes and seconds to wait."""

RETURN: Final = "return"
"""Name of the push that gives back what was lent: L{Loan}."""

_LEASE: Final = 0.05
"""Seconds' worth of a rate that is lent at once."""

_UNUSED: Final = 0.5
"""Seconds after which a worker gives back what it has not used."""

_SOME: Final = 100
"""Messages that are processed at once, at least."""

_SHORT_MESSAGE: Final = 16
"""Bytes of a short message."""


class Loan(msgspec.Struct, frozen=True, array_like=True):
    """
    Part of a bucket that is asked for, or given back.

    @ivar key: identity or address, as text.
    """

    listener: str
    key: str
    messages: float
    bytes: float


class Lender:
    """
    Buckets of all workers together.
    """

    def __init__(self, clock: Any, config: Config) -> None:
        self._clock = clock
        self._rates: Mapping[str, Rates] = {}
        self.replace(config)

    def replace(self, config: Config) -> None:
        """Apply the rates of a new configuration."""
        allowances = {name: allowance_of(one) for name, one in config.listeners.items()}
        before = self._rates
        self._rates = {
            name: before[name]
            if name in before and before[name].allowance == allowance
            else Rates(allowance)
            for name, allowance in allowances.items()
        }

    def serve(self, channel: Channel) -> None:
        """Lend to a worker."""
        channel.serve(BORROW, self._lend)
        channel.on_push(RETURN, self._take_back)

    def lend(self, loan: Loan) -> Lease:
        """Lend a part of a bucket, as much as there is of what is asked for."""
        bucket = self._bucket(loan)
        if bucket is None:
            return Lease(loan.messages, loan.bytes, 0.0)
        return bucket.lend(loan.messages, loan.bytes, self._clock.seconds())

    async def _lend(self, payload: bytes, descriptors: Sequence[int]) -> bytes:
        return msgspec.msgpack.encode(self.lend(msgspec.msgpack.decode(payload, type=Loan)))

    def _take_back(self, payload: bytes) -> None:
        loan = msgspec.msgpack.decode(payload, type=Loan)
        bucket = self._bucket(loan)
        if bucket is not None:
            bucket.take_back(loan.messages, loan.bytes)

    def _bucket(self, loan: Loan) -> Bucket | None:
        rates = self._rates.get(loan.listener)
        found = None if rates is None else rates.bucket(loan.key, self._clock.seconds())
        return found if isinstance(found, Bucket) else None


class LentBucket:
    """
    Bucket of one identity, or address, in a worker: what it has borrowed of the parent's.
    """

    def __init__(
        self, clock: Any, channel: Channel, listener: str, key: Hashable, allowance: Allowance
    ) -> None:
        self._clock = clock
        self._channel = channel
        self._listener = listener
        self._key = f"{type(key).__name__} {key}"
        self._allowance = allowance
        self._messages = 0.0 if allowance.messages < math.inf else math.inf
        self._bytes = 0.0 if allowance.bytes < math.inf else math.inf
        self._asking = False
        self._empty_until = -math.inf
        self._used = clock.seconds()
        self._looking: IDelayedCall | None = None
        self._borrow(0, 0)

    @property
    def awaits(self) -> bool:
        """Whether the parent has not said yet how much may pass."""
        return self._asking

    @property
    def burst(self) -> float:
        """Length of a burst, in seconds."""
        return self._allowance.burst

    def take(self, messages: Sequence[bytes], now: float) -> int:
        """
        Take messages from the first on, as many as may pass now; return their number.

        As in L{Bucket}, a message passes where no byte is owed, however large it is.
        """
        self._used = now
        passed = int(min(len(messages), max(0.0, self._messages)))
        sizes: list[int] = []
        if self._bytes < math.inf:
            sizes = list(map(len, messages))
            before = accumulate(sizes[:passed], initial=0.0)
            passed = sum(size < self._bytes for size, _ in zip(before, sizes, strict=False))
            self._bytes -= sum(sizes[:passed])
        self._messages -= passed
        if passed < len(messages):
            self._borrow(len(messages) - passed, sum(sizes[passed:]), now)
        return passed

    def charge(self, size: int, now: float, messages: int = 0) -> bool:
        """
        Take bytes and messages whether they may pass or not; return whether any are owed now.
        """
        self._used = now
        self._bytes -= size
        self._messages -= messages
        if self._bytes >= 0 and self._messages >= 0:
            return False
        self._borrow(0, 0, now)
        return True

    def wait(self, now: float) -> float:
        """
        Return the seconds until another message may pass, as the parent said.
        """
        return max(0.0, self._empty_until - now)

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

    def is_full(self, now: float) -> bool:
        """
        Say whether nothing is borrowed, so that a new one would be equal.
        """
        return not self._asking and self._has_none(self._messages) and self._has_none(self._bytes)

    def _has_none(self, tokens: float) -> bool:
        return tokens in (0.0, math.inf)

    def _borrow(self, messages: float, size: float, now: float | None = None) -> None:
        """
        Ask for more, unless that is known to be in vain.

        @param messages: messages that wait.
        @param size: their bytes.
        """
        if self._asking or (now is not None and now < self._empty_until):
            return
        self._asking = True
        allowance = self._allowance
        asked = Loan(
            self._listener,
            self._key,
            _wanted(self._messages, messages, allowance.messages),
            _wanted(self._bytes, size, allowance.bytes),
        )
        self._channel.ask(BORROW, msgspec.msgpack.encode(asked)).addCallbacks(
            lambda payload: self._lent(asked, payload), self._not_lent
        )

    def _lent(self, asked: Loan, payload: bytes) -> None:
        messages, size, wait = msgspec.msgpack.decode(payload, type=tuple[float, float, float])
        self._asking = False
        self._messages += messages
        self._bytes += size
        now = self._clock.seconds()
        lacks = (self._messages < 1 and asked.messages) or (self._bytes <= 0 and asked.bytes)
        self._empty_until = now + max(wait, 0.001) if lacks else -math.inf
        if self._looking is None:
            self._looking = self._clock.callLater(_UNUSED, self._look)

    def _not_lent(self, failure: Failure) -> None:
        # Without a parent this process ends.
        failure.trap(ChannelError)

    def _look(self) -> None:
        """Give back what was not used."""
        self._looking = None
        if self._clock.seconds() - self._used < _UNUSED or self._asking:
            self._looking = self._clock.callLater(_UNUSED, self._look)
            return
        messages, size = _left(self._messages), _left(self._bytes)
        if messages or size:
            self._messages -= messages
            self._bytes -= size
            unused = Loan(self._listener, self._key, messages, size)
            self._channel.push(RETURN, msgspec.msgpack.encode(unused))


def _left(tokens: float) -> float:
    """Return what may be given back of some tokens: neither a debt nor what is not limited."""
    return tokens if 0 < tokens < math.inf else 0.0


def _wanted(tokens: float, waiting: float, rate: float) -> float:
    """
    Return how many tokens to borrow: what is owed, and a lease or what waits.

    @param tokens: that are there.
    @param rate: tokens a second; infinite: none are needed.
    """
    if rate == math.inf:
        return 0.0
    return math.ceil(max(1.0, _LEASE * rate, waiting) + max(0.0, -tokens))
