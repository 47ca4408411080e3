"""
Subscriptions to channels, and the delivery of notifications to many peers.

PostgreSQL is asked to LISTEN for a channel's first subscriber and to UNLISTEN after its
last, through a port (L{Notifier}) that knows the connection.

Notifications are sent in rounds: a round goes to all subscribers concerned, one push to each of
them. While a round goes on the next one gathers, as batches do. A round is sent slice
by slice, with the reactor's other work in between, and is followed by a pause of several times
the time it took: so notifications take their share of the reactor and no more,
however many come, and only with a thousand subscribers is the pause noticeable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.metrics.counters import ChannelCounters
from gateway.model import wording
from gateway.model.errors import StoreError
from gateway.model.outcome import RETRY_AFTER, STORED, Code, Outcome, try_later
from gateway.model.text import meant, shortened
from gateway.wire.push import Pushes

SLICE: Final = 500
"""Subscribers told at a stretch: 4 ms of processor time, most of it the kernel's."""

ROUND_SPACING: Final = 5.0
"""Time from the beginning of a round to that of the next, as a multiple of the time it worked."""

LONGEST_REST: Final = 0.1
"""Seconds from the beginning of a round after which the next may always begin."""

FULL: Final = 65536
"""Bytes of notifications for which a rest ends: it must not make a round larger and larger."""


class Subscriber(Protocol):
    """
    Subscriber to channels.
    """

    def push(self, pushes: Pushes) -> bool:
        """
        Send pushes.

        @return: whether more may come; if not, all its subscriptions end.
        """


class Receiver(Protocol):
    """
    Receiver of notifications.
    """

    def notified(self, brought: Sequence[tuple[str, str]]) -> None:
        """Take notifications that came at once, in order: (channel, payload)."""

    def missed(self, channels: Collection[str]) -> None:
        """
        Note that notifications of these channels may have been lost; from now on they come again.
        """


class Notifier(Protocol):
    """
    Source of notifications.
    """

    def bring_to(self, receiver: Receiver) -> None:
        """Set the receiver of notifications; called once, before anything else."""

    async def listen(self, channel: str) -> None:
        """
        Listen to a channel; return when no notification is missed any more.

        @raise StoreError: not now.
        """

    def unlisten(self, channel: str) -> None:
        """End listening to a channel that has no subscriber; harmless if it never had one."""


class _Round:
    """
    Round of pushes to all subscribers concerned.
    """

    __slots__ = ("_batch", "_made", "channels", "left", "waiting")

    def __init__(
        self, batch: list[tuple[str, bytes]], subscribers: dict[str, dict[Subscriber, None]]
    ) -> None:
        """
        @param batch: (channel, push), in order.
        """
        self._batch = batch
        self._made: dict[tuple[str, ...], Pushes] = {}
        self.channels = {channel for channel, _ in batch} & subscribers.keys()
        # Later subscribers get later notifications only.
        concerned = chain.from_iterable(subscribers[channel] for channel in self.channels)
        all_concerned = dict.fromkeys(concerned)
        self.left = len(all_concerned)
        self.waiting: Iterator[Subscriber] = iter(all_concerned)

    def pushes(self, channels: tuple[str, ...]) -> Pushes:
        """Return the pushes for a subscriber to these channels; the same object for all such."""
        pushes = self._made.get(channels)
        if pushes is None:
            mine = self.channels.intersection(channels)
            payloads = [push for channel, push in self._batch if channel in mine]
            pushes = self._made[channels] = Pushes(payloads)
        return pushes


class Subscriptions:
    """
    Subscriptions of all peers.

    @ivar counters: channel -> counters of what came on it.
    """

    _log = Logger()

    def __init__(
        self,
        allowed: Sequence[str],
        notifier: Notifier,
        clock: IReactorTime,
        at_once: int = SLICE,
    ) -> None:
        """
        @param allowed: channels that peers may listen to.
        @param at_once: subscribers in a slice.
        """
        self.counters = {channel: ChannelCounters() for channel in allowed}
        self._allowed = tuple(allowed)
        self._notifier = notifier
        self._clock = clock
        self._at_once = at_once
        # Dictionaries for their order: the first subscriber gets its push first.
        self._subscribers: dict[str, dict[Subscriber, None]] = {}
        self._subscribed: dict[Subscriber, tuple[str, ...]] = {}
        # Subscribers that wait for LISTEN: their channels, and how many wait for each channel.
        self._asking: dict[Subscriber, list[str]] = {}
        self._waiting_count: Counter[str] = Counter()
        self._gathered: list[tuple[str, bytes]] = []
        self._size = 0
        self._round: _Round | None = None
        self._resting = False
        self._begun = 0.0
        self._busy = 0.0
        notifier.bring_to(self)

    def replace_allowed(self, allowed: Sequence[str]) -> None:
        """
        Replace the channels that peers may listen to. Subscriptions to others end with their
        peers, which have to be told by whoever replaces their rights.
        """
        self.counters = {
            channel: self.counters.get(channel) or ChannelCounters() for channel in allowed
        }
        self._allowed = tuple(allowed)

    def offers(self, channel: str) -> bool:
        """Say whether peers may listen to a channel."""
        return channel in self._allowed

    # Called by peers.

    async def subscribe(self, channel: str, subscriber: Subscriber) -> Outcome:
        """
        Subscribe to a channel; return the answer to LISTEN.

        After C{+OK} no notification is missed, unless C{>!gap} says so.
        """
        if channel not in self._allowed:
            return self._denied(channel)
        if subscriber in self._subscribers.get(channel, ()):
            return STORED
        asking = self._asking.setdefault(subscriber, [])
        asking.append(channel)
        self._waiting_count[channel] += 1
        try:
            await self._notifier.listen(channel)
        except StoreError as error:
            return try_later(Code.DOWN, str(error), RETRY_AFTER)
        else:
            if channel in asking:
                self._join(channel, subscriber)
            return STORED
        finally:
            self._waiting_count[channel] -= 1
            if channel in asking:
                asking.remove(channel)
            if not asking and self._asking.get(subscriber) is asking:
                del self._asking[subscriber]
            self._release(channel)

    async def unsubscribe(self, channel: str, subscriber: Subscriber) -> Outcome:
        """
        End a subscription; return the answer to UNLISTEN.

        Nothing of the channel is pushed after it.
        """
        if channel not in self._allowed:
            return self._denied(channel)
        asking = self._asking.get(subscriber, [])
        asking[:] = [other for other in asking if other != channel]
        subscribers = self._subscribers.get(channel, {})
        if subscriber in subscribers:
            del subscribers[subscriber]
            left = tuple(other for other in self._subscribed[subscriber] if other != channel)
            if left:
                self._subscribed[subscriber] = left
            else:
                del self._subscribed[subscriber]
            self._release(channel)
        return STORED

    def channels_of(self, subscriber: Subscriber) -> Sequence[str]:
        """Return the channels that a subscriber listens to, or is about to."""
        return [*self._subscribed.get(subscriber, ()), *self._asking.get(subscriber, ())]

    def end_all(self, subscriber: Subscriber) -> None:
        """End all its subscriptions, those it still waits for too; calling it again is harmless."""
        self._asking.pop(subscriber, []).clear()
        for channel in self._subscribed.pop(subscriber, ()):
            del self._subscribers[channel][subscriber]
            self._release(channel)

    def _join(self, channel: str, subscriber: Subscriber) -> None:
        subscribers = self._subscribers.setdefault(channel, {})
        if subscriber not in subscribers:
            subscribers[subscriber] = None
            already = self._subscribed.get(subscriber, ())
            self._subscribed[subscriber] = (*already, channel)

    def _release(self, channel: str) -> None:
        """End listening to a channel that has no subscriber any more."""
        if not self._waiting_count[channel]:
            del self._waiting_count[channel]
            if not self._subscribers.get(channel):
                self._subscribers.pop(channel, None)
                self._notifier.unlisten(channel)

    def _denied(self, channel: str) -> Outcome:
        hint = meant(channel, self._allowed)
        return wording.not_offered(shortened(channel, 40), hint)

    @property
    def subscribers(self) -> dict[str, int]:
        """Channel -> number of its subscribers, for every channel that peers may listen to."""
        return {name: len(self._subscribers.get(name, ())) for name in self._allowed}

    # Called by the notifier.

    def notified(self, brought: Sequence[tuple[str, str]]) -> None:
        for channel, payload in brought:
            counters = self.counters.get(channel)
            if counters is None:
                continue  # a reload took the channel away
            counters.notifications += 1
            counters.pushes += len(self._subscribers.get(channel, ()))
            push = f">{channel} {payload}".encode()
            self._gathered.append((channel, push))
            self._size += len(push)
        self._next_round()

    def missed(self, channels: Collection[str]) -> None:
        channels = [channel for channel in channels if channel in self.counters]
        for channel in channels:
            self.counters[channel].gaps += 1
        self._gathered += [(channel, f">!gap {channel}".encode()) for channel in channels]
        self._next_round()

    def _next_round(self) -> None:
        """Begin a round with what has gathered, unless one goes on or a pause does."""
        if self._round is not None or not self._gathered:
            return
        if self._resting and self._size < FULL:
            return
        batch, self._gathered = self._gathered, []
        self._size = 0
        self._round = _Round(batch, self._subscribers)
        self._begun = self._clock.seconds()
        self._busy = 0.0
        self._tell()

    def _tell(self) -> None:
        """Send one slice of the round."""
        current = self._round
        assert current is not None
        begun = self._clock.seconds()
        current.left -= self._at_once
        for subscriber in islice(current.waiting, self._at_once):
            channels = self._subscribed.get(subscriber)
            # It may have left since the round began.
            if channels is not None and not self._push_to(subscriber, current.pushes(channels)):
                self.end_all(subscriber)
        now = self._clock.seconds()
        self._busy += now - begun
        if current.left > 0:
            self._clock.callLater(0, self._tell)
            return
        self._round = None
        rest = min(self._begun + ROUND_SPACING * self._busy, self._begun + LONGEST_REST) - now
        if rest > 0 and not self._resting:
            self._resting = True
            self._clock.callLater(rest, self._rested)
        elif self._gathered:
            # In another reactor turn, or a flood would never let other work run.
            self._clock.callLater(0, self._next_round)

    def _rested(self) -> None:
        self._resting = False
        self._next_round()

    def _push_to(self, subscriber: Subscriber, pushes: Pushes) -> bool:
        if not pushes.payloads:
            return True
        try:
            return subscriber.push(pushes)
        except Exception:  # noqa: BLE001 - a bug in one peer's connection must not cost the others
            self._log.failure("a push failed", event="push-failed")
            return False
