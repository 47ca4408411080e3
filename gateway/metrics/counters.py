"""
Counters of the gateway's work: its parts add to them, metrics and status read them.

Strategy: plain numbers that only grow. They are added to once for each chunk, batch or connection,
never once for each message, and reading them changes nothing. Rates, averages and an hour's history
are computed by whoever reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

from gateway.model.outcome import Code, Fate, Outcome, Word

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
"""Bounds of histograms of durations, in seconds: few, since each is a series of each route."""

LAGS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Bounds of the histogram of the reactor's lags, in seconds."""

ROWS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Bounds of histograms of batch sizes, in rows."""

STORED: Final = "stored"
"""Fate of a batch that the try had committed whose reply was lost."""

WRITTEN_AGAIN: Final = "written_again"
"""Fate of a batch that no earlier try had committed, and that a later one did."""

NOT_STORED: Final = "not_stored"
"""Fate of a batch that no try had committed and that was not written again as it was."""

SPOOLED: Final = "spooled"
"""Fate of a batch that was put into the spool, together with its fence."""

ABANDONED: Final = "abandoned"
"""Fate of a batch of which nobody knows whether it is stored; its peers are disconnected."""

Answer = tuple[Word, Code | None]
"""First words of an answer."""


ANSWER_OK: Final[Answer] = (Word.OK, None)
"""First word of nearly every answer."""


def _first_words(fate: Fate) -> Answer:
    return (fate.word, fate.code) if isinstance(fate, Outcome) else ANSWER_OK


def kind_of(refusal: Outcome) -> str:
    """Return the kind of a refused connection for counting: its code, in small letters."""
    return "" if refusal.code is None else refusal.code.lower()


class Histogram:
    """
    Histogram with fixed bounds.

    @ivar bounds: upper bounds of its buckets, ascending; one bucket more is for all above.
    @ivar counts: values in each bucket.
    @ivar total: sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, weight: int = 1) -> None:
        """
        Add a value.

        @param weight: how many times it counts.
        """
        self.counts[bisect_left(self.bounds, value)] += weight
        self.total += value * weight

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)


class ListenerCounters:
    """
    Counters of one listener.

    @ivar connections: connections of admitted peers.
    @ivar messages: frames that came in: messages, and commands where peers send commands.
    @ivar bytes_received: bytes that came in from admitted peers.
    @ivar stored: plain C{+OK} that L{gateway.peers.output} counts by itself: they are nearly all.
    @ivar answer_seconds: seconds from reading a frame to its answer, weighted by frames.
    @ivar turned_away: connections that were refused, by reason.
    @ivar let_go: admitted peers that were disconnected, by reason.
    @ivar lost: datagrams that are lost, by reason; a sender hears of none.
    @ivar throttled: pauses of peers that were over their rate limit.
    """

    __slots__ = (
        *("_answers", "answer_seconds", "bytes_received", "connections", "let_go"),
        *("lost", "messages", "stored", "throttled", "turned_away"),
    )

    def __init__(self) -> None:
        self.connections = 0
        self.messages = 0
        self.bytes_received = 0
        self.stored = 0
        self._answers: Counter[Answer] = Counter()
        self.answer_seconds = Histogram(SECONDS)
        self.turned_away: Counter[str] = Counter()
        self.let_go: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.throttled = 0

    @property
    def answers(self) -> Counter[Answer]:
        """Fates of frames, said or not, and every other answer; refused connections too."""
        found = self._answers.copy()
        if self.stored:
            found[ANSWER_OK] += self.stored
        return found

    def answered(self, count: int, fate: Fate, seconds: float) -> None:
        """
        Count answers that are alike.

        @param seconds: from reading their frames until now.
        """
        self._answers[_first_words(fate)] += count
        self.answer_seconds.add(seconds, count)


class RouteCounters:
    """
    Counters of one route.

    @ivar commits: batches that were committed.
    @ivar rows: messages of them that were stored; one that is refused or a duplicate is not.
    @ivar commit_seconds: seconds from a batch's first try to its commit.
    @ivar batch_rows: rows of the batches.
    @ivar unknown: tries whose reply was lost, so that they may have been committed.
    @ivar doubtful: batches with such a try.
    @ivar resolved: those of them that are resolved, by what became of them: L{STORED},
        L{WRITTEN_AGAIN}, L{NOT_STORED}, L{SPOOLED} or L{ABANDONED}.
    @ivar dead_letters: refused messages that were kept.
    """

    __slots__ = (
        *("batch_rows", "commit_seconds", "commits", "dead_letters", "doubtful", "resolved"),
        *("rows", "unknown"),
    )

    def __init__(self) -> None:
        self.commits = 0
        self.rows = 0
        self.commit_seconds = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.unknown = 0
        self.doubtful = 0
        self.resolved: Counter[str] = Counter()
        self.dead_letters = 0

    @property
    def unresolved(self) -> int:
        """Batches of which it is not known now whether they are stored."""
        return self.doubtful - self.resolved.total()


class QueryCounters:
    """
    Counters of one query.

    @ivar answers: answers to its calls.
    @ivar seconds: seconds from a call to its answer.
    """

    __slots__ = ("answers", "seconds")

    def __init__(self) -> None:
        self.answers: Counter[Answer] = Counter()
        self.seconds = Histogram(SECONDS)

    def answered(self, fate: Fate, seconds: float) -> None:
        """Count an answer."""
        self.answers[_first_words(fate)] += 1
        self.seconds.add(seconds)


class ChannelCounters:
    """
    Counters of one channel.

    @ivar notifications: notifications that the database sent.
    @ivar pushes: copies of them that were sent to subscribers.
    @ivar gaps: how often notifications may have been missed, which subscribers are told.
    """

    __slots__ = ("gaps", "notifications", "pushes")

    def __init__(self) -> None:
        self.notifications = 0
        self.pushes = 0
        self.gaps = 0


class SpoolCounters:
    """
    Counters of the spool.

    @ivar kept: messages that were put into it.
    @ivar drained: messages that left it: stored, or refused and kept as dead letters.
    @ivar refused: messages for which it had no room, or that it could not write.
    @ivar dead_letters: messages of each route that became dead letters when they were stored.
    """

    __slots__ = ("dead_letters", "drained", "kept", "refused")

    def __init__(self) -> None:
        self.kept = 0
        self.drained = 0
        self.refused = 0
        self.dead_letters: Counter[str] = Counter()


class StreamCounters:
    """
    Counters of numbered streams.

    @ivar claims: streams that were opened.
    @ivar taken_over: those that another connection had.
    @ivar gaps: claims that were refused and streams that were closed, since the database has not
        got what is before.
    """

    __slots__ = ("claims", "gaps", "taken_over")

    def __init__(self) -> None:
        self.claims = 0
        self.taken_over = 0
        self.gaps = 0
