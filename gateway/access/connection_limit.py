"""
Limits of connections: in all, at a listener, and from one address.

Connections count from the moment they are accepted, so that one with an endless TLS handshake
counts too.

Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable


class ConnectionLimit:
    """
    Count of connections, and its limits.

    @ivar count: connections.
    @ivar most: limit of C{count}; may be set at any time.
    @ivar most_alike: limit of connections from one address; may be set at any time.
    @ivar verdict: where another process counts, the limit that the next connection exceeds by its
        count, C{""}: none; C{None}: the limits here hold.
    """

    def __init__(
        self,
        most: float = math.inf,
        around: ConnectionLimit | None = None,
    ) -> None:
        """
        @param around: the larger limit that this one is a part of.
        """
        self.count = 0
        self.most = most
        self.most_alike = math.inf
        self.verdict: str | None = None
        self._alike: Counter[Hashable] = Counter()
        self._around = around

    def enter(self, address: Hashable) -> None:
        """
        Count one more connection; to be followed by L{leave}.
        """
        self.count += 1
        self._alike[address] += 1
        if self._around is not None:
            self._around.enter(address)

    def leave(self, address: Hashable) -> None:
        self.count -= 1
        self._alike[address] -= 1
        if not self._alike[address]:
            del self._alike[address]
        if self._around is not None:
            self._around.leave(address)

    def excess(self, address: Hashable) -> tuple[float, str]:
        """
        Return by how many connections one more would exceed a limit, and which limit.

        @return: 0 where there is room.
        """
        if self.verdict is not None:
            return (1 if self.verdict else 0, self.verdict)
        largest = (self.count + 1 - self.most, "connections at this listener")
        alike = self._alike[address] + 1 - self.most_alike
        largest = max(largest, (alike, "connections from this address"))
        if self._around is not None:
            largest = max(largest, (self._around.count + 1 - self._around.most, "connections"))
        return largest if largest[0] > 0 else (0, "")
