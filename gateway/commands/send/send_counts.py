"""
Counts of the answers in C{gateway send}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.client.answers import UNKNOWN, Answer

MOST_CODES: Final = 50
"""Codes that are counted apart; gateways have fewer."""


class SendCounts:
    """
    Counts, from the first message sent to the last answer.

    @ivar taken: messages passed to the client.
    @ivar skipped: messages that the stream already had.
    @ivar words: first word of the answer -> number of messages.
    @ivar refusals: code -> number of messages; C{UNSENDABLE}: the framing cannot carry them.
    @ivar size: bytes of input that are finished.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.taken = 0
        self.skipped = 0
        self.words: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.size = 0
        self._seconds = seconds
        self._begun = self._last = seconds()

    def start(self) -> None:
        """Start the clock."""
        self._begun = self._last = self._seconds()

    def answered(self, runs: Iterable[tuple[int, Answer]]) -> int:
        """
        Count answers, and return the number of refusals among them.
        """
        refused = 0
        for count, answer in runs:
            if answer is UNKNOWN:
                continue
            self.words[answer.word] += count
            if not answer.kept:
                refused += count
                known = answer.code in self.refusals or len(self.refusals) < MOST_CODES
                self.refusals[answer.code if known else "OTHERS"] += count
        self._last = self._seconds()
        return refused

    def unsendable(self) -> None:
        """Count a message that the framing cannot carry."""
        self.taken += 1
        self.words["-REJ"] += 1
        self.refusals["UNSENDABLE"] += 1

    @property
    def settled(self) -> int:
        return sum(self.words.values())

    @property
    def unanswered(self) -> int:
        return self.taken - self.settled

    @property
    def refused(self) -> int:
        return self.words["-REJ"]

    @property
    def elapsed(self) -> float:
        """Seconds from the start to the last answer."""
        return self._last - self._begun

    @property
    def rate(self) -> float:
        """Answers per second, over the whole run."""
        return self.settled / self.elapsed if self.elapsed > 0 else 0.0

    def report(self) -> dict[str, Any]:
        """Return the counts for C{--json}."""
        return {
            "sent": self.taken,
            "stored": self.words["+OK"],
            "duplicates": self.words["+DUP"],
            "queued": self.words["+QUE"],
            "refused": self.refused,
            "refusals": dict(self.refusals),
            "unanswered": self.unanswered,
            "skipped": self.skipped,
            "seconds": round(self.elapsed, 3),
            "rate": round(self.rate, 1),
        }

    def summary(self) -> str:
        """Return the counts as one line for people."""
        parts = [f"{self.words['+OK']:,} stored"]
        if self.words["+DUP"]:
            parts.append(f"{self.words['+DUP']:,} were stored before")
        if self.words["+QUE"]:
            parts.append(f"{self.words['+QUE']:,} queued in the gateway's spool")
        if self.refused:
            codes = ", ".join(f"{code} {count:,}" for code, count in sorted(self.refusals.items()))
            parts.append(f"{self.refused:,} refused ({codes})")
        if self.unanswered:
            parts.append(f"{self.unanswered:,} without an answer: stored or not")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped that the stream had")
        return f"{', '.join(parts)}; {self.elapsed:.1f} s, {self.rate:,.0f} messages/s"
