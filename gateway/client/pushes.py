"""
Buffer of pushes that nobody has taken yet, with a limit.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from .parcel import Push

MAX_SIZE: Final = 64 * 1024 * 1024
"""Bytes of pushes that wait, each counted with L{PUSH_OVERHEAD} more."""

PUSH_OVERHEAD: Final = 200
"""Bytes that a push takes beside its payload, about."""


class PushBuffer:
    """
    Pushes of the expected channels. Above the limit all are dropped, and replaced by one for each
    channel which says that some may have been missed.
    """

    def __init__(self) -> None:
        self._channels: set[str] = set()
        self._waiting: deque[Push] = deque()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def expect(self, channel: str) -> None:
        """Accept pushes of a channel."""
        self._channels.add(channel)

    def drop_channel(self, channel: str) -> None:
        """Drop later pushes of a channel."""
        self._channels.discard(channel)

    def add(self, push: Push) -> None:
        """Add a push, if its channel is expected."""
        if push.channel not in self._channels:
            return
        self._waiting.append(push)
        self._size += _push_size(push)
        if self._size > MAX_SIZE:
            gaps = [Push(channel, None) for channel in sorted(self._channels)]
            self._waiting = deque(gaps)
            self._size = sum(map(_push_size, gaps))

    def next(self) -> Push:
        """Remove and return the first push."""
        push = self._waiting.popleft()
        self._size -= _push_size(push)
        return push


def _push_size(push: Push) -> int:
    return PUSH_OVERHEAD + len(push.payload or "")
