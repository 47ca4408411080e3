"""
Back-off between tries.
"""

from __future__ import annotations

from collections.abc import Callable

from .answers import Answer


def backoff_policy(
    jitter: Callable[[], float], first: float = 0.1, most: float = 30.0
) -> Callable[[int], float]:
    """
    Return a function from an attempt, counted from 1, to the seconds to wait before it.

    @param jitter: returns numbers from 0 to 1, so that clients of one gateway do not reconnect at
        the same time.
    @param first: longest wait before the first attempt, in seconds.
    @param most: longest wait before any attempt, in seconds.
    """

    def seconds(attempt: int) -> float:
        return min(most, first * 2.0 ** min(attempt - 1, 30)) * (0.5 + jitter() / 2)

    return seconds


class RetryAfter:
    """
    Time at which everything that was answered -TRY is sent again.

    @ivar due: time to try again, in seconds of the caller's clock.
    """

    def __init__(self, retry: Callable[[int], float]) -> None:
        """
        @param retry: attempt -> seconds to wait before it.
        """
        self.due = 0.0
        self._retry = retry
        self._tries = 0

    def set_from(self, answer: Answer, now: float) -> None:
        """Set the time after an answer -TRY."""
        if now < self.due:
            return
        self._tries += 1
        wait = self._retry(self._tries)
        if answer.retry is not None:
            wait = max(wait, answer.retry)
        elif answer.code == "GAP" and self._tries == 1:
            wait = 0.0  # the gateway is ready: the gap is ours to close
        self.due = now + wait

    def progress(self) -> None:
        """Reset the back-off after a final answer."""
        self._tries = 0
