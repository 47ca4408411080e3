"""
Log of lost datagrams: one line for each reason, then once a minute how many more.

No sender hears of a loss, so that this and the counters are the only trace.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.logs.repeat_log import RepeatLog
from gateway.model.outcome import one_line


class LossLog:
    """
    Log of one listener's losses.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, listener: str) -> None:
        self._listener = listener
        self._repeat_log: RepeatLog[str] = RepeatLog(clock, self._say)

    def note(self, reason: str, count: int, text: str) -> None:
        """
        Note that datagrams were lost. The first of their kind is logged at once.

        @param reason: one word.
        @param text: the same for people.
        """
        self._repeat_log.note(reason, count, one_line(text))

    def end(self) -> None:
        """
        Log the counts that are not logged yet, and stop.
        """
        self._repeat_log.end()

    def _say(self, reason: str, count: int, text: str) -> None:
        self._log.warn(
            "listener {listener}: {count} {_datagrams} lost: {reason}: {remark}",
            event="datagrams-lost",
            listener=self._listener,
            count=count,
            _datagrams="datagram" if count == 1 else "datagrams",
            reason=reason,
            remark=text,
        )
