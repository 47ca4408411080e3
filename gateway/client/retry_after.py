"""
How long to wait before something is tried again.
"""

from __future__ import annotations

from collections.abc import Callable

from .answers import Answer


def backoff(
    jitter: Callable[[], float], first: float = 0.1, most: float = 30.0
) -> Callable[[int], float]:
    """
    @param jitter: from 0 to 1; two clients that lost one gateway must not come back together.
    @param first: seconds before the first try, at most.
    @param most: seconds before any try, at most.
    @return: how many seconds to wait before the nth try in a row.
    """

    def seconds(attempt: int) -> float:
        return min(most, first * 2.0 ** min(attempt - 1, 30)) * (0.5 + jitter() / 2)

    return seconds


class RetryAfter:
    """
    Time at which whatever was answered -TRY is sent again, one for all of it.

    @ivar due: that time, of the clock that is handed in.
    """

    def __init__(self, retry: Callable[[int], float]) -> None:
        """
        @param retry: seconds before the nth try in a row.
        """
        self.due = 0.0
        self._retry = retry
        self._tries = 0

    def later(self, answer: Answer, now: float) -> None:
        """Something was answered -TRY."""
        if now < self.due:
            return
        self._tries += 1
        wait = self._retry(self._tries)
        if answer.retry is not None:
            wait = max(wait, answer.retry)
        elif answer.code == "GAP" and self._tries == 1:
            wait = 0.0  # not the gateway makes us wait: it is for us to go on
        self.due = now + wait

    def progress(self) -> None:
        """Something was answered for good."""
        self._tries = 0
