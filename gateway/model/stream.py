"""
Numbered streams: the next number of each, and the outcomes of the numbers before.

A peer that opened a stream numbers its messages, over all routes. The database keeps one
mark for each stream: every number up to it is settled, and it moves by exactly the
numbers of the batch that is stored, in the same transaction. So nothing overtakes.

A stream's I{epoch} is a time in which one number is one message. A new one is made up
whenever a peer opens the stream without knowing how far it was.

A L{Stream} is the state of one claim; a later claim of the same name, here or at another
gateway, has a L{Stream} of its own. All of it is synchronous and does no I/O.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from sys import byteorder
from typing import Final
from zlib import adler32, crc32

from gateway.model import wording
from gateway.model.outcome import DUPLICATE, Code, Fate, Outcome, Run, Word

MAX_NUMBER: Final = 10**18 - 1
"""Largest number of a message; PostgreSQL's bigint holds more."""

KEPT_REFUSALS: Final = 10_000
"""
Numbers behind the last one for which a refusal is remembered. Who has not heard of one
for so long does not ask any more.
"""

_AT_REST: Final = 100
"""Refusals that are remembered of a stream that is closed; the database knows the others."""

DIGEST: Final = 8
"""Bytes of one message in L{digests_of}."""


class Stream:
    """
    State of one claim of a stream.

    @ivar claim: the claim's word in the database; C{None} where the database was not asked.
    @ivar epoch: a word of the database's; C{""} for what an earlier version left in a spool.
    @ivar next: the number that its peer has to send next.
    @ivar series: what was submitted in an earlier one and is not written yet is void.
    @ivar refusals: number -> its outcome, to answer numbers that are sent again.
    @ivar ended: whether nothing more is taken.
    @ivar sure: whether outcomes known here may be told where the database cannot be asked.
    @ivar loose: whether this is no claim, but messages that a claim left in the spool.
    @ivar marks: for a stream over several databases: the last number that each has itself; kept by
        the store. C{None}: one database has all.
    @ivar idle: called whenever everything submitted has met its fate.
    """

    __slots__ = (
        *("_begun", "_pending", "_answered_series", "claim", "ended", "epoch", "idle", "loose"),
        *("marks", "name", "next", "refusals", "series", "sure"),
    )

    def __init__(
        self,
        name: str,
        epoch: str,
        claim: str | None = None,
        last: int = 0,
        refusals: Mapping[int, Outcome] | None = None,
        loose: bool = False,
        marks: Mapping[str, int] | None = None,
    ) -> None:
        """
        @param last: the last number that is settled.
        """
        self.name = name
        self.epoch = epoch
        self.claim = claim
        self.next = last + 1
        self.series = 0
        self.refusals = dict(refusals or {})
        self.loose = loose
        self.marks = None if marks is None else dict(marks)
        self.ended = False
        self.sure = True
        self.idle: Callable[[], None] | None = None
        self._pending: dict[int, int] = {}
        self._begun = last
        self._answered_series = 0

    @property
    def last(self) -> int:
        """The last number that was accepted."""
        return self.next - 1

    @property
    def busy(self) -> bool:
        """Whether some submitted message is not settled yet."""
        return bool(self._pending)

    # Called for the peer.

    def accept(self, number: int) -> Outcome | None:
        """
        Accept the peer's next message, or answer it.

        @return: the answer to it; C{None} where it is to be stored.
        """
        if self.ended:
            return wording.STREAM_TAKEN
        if number == self.next:
            self.next += 1
            return None
        return self.gap() if number > self.next else self.refusals.get(number, DUPLICATE)

    def is_in_doubt(self, number: int) -> bool:
        """Say whether a number is sent again before its fate is known."""
        if self.ended or number >= self.next:
            return False
        # All messages of one read are taken before any of them is submitted.
        return number > self._begun or (bool(self._pending) and number >= min(self._pending))

    def take_in_turn(self, number: int) -> Outcome:
        """
        Answer a number that was in doubt, when everything before it is answered.

        As L{accept}, but if it comes next it was not stored, and has to be sent again.
        """
        if self.ended or number != self.next:
            return self.accept(number) or DUPLICATE
        return self.gap()

    def take_all(self, first: int, count: int) -> None:
        """
        Accept consecutive numbers, as L{accept} does one.

        @param first: the one that comes next.
        """
        assert first == self.next and not self.ended
        self.next += count

    def gap(self) -> Outcome:
        """Return the answer to a number that is too high."""
        return Outcome(Word.TRY, Code.GAP, f"send #{self.next} next", values=f"seq={self.last}")

    def answers_due(self, series: int, runs: Sequence[Run]) -> Sequence[Run]:
        """
        Return the answers to submitted messages when it is their turn.

        A peer that has to send a message again has to send all behind it again, refused ones too.

        @param series: in which they were submitted.
        """
        again = series < self._answered_series
        answered_runs: list[Run] = []
        for count, fate in runs:
            if fate.word is Word.TRY:
                again = True
                self._answered_series = self.series
            answered_runs.append((count, self.gap() if again and fate.word is Word.REJ else fate))
        return answered_runs

    def end_claim(self) -> None:
        """
        End the claim: what is not written yet never is.

        Its peer is gone, or another connection has claimed the stream.
        """
        self.ended = True
        self.series += 1

    def rest(self) -> None:
        """Drop most of the remembered refusals; nothing is in flight and no peer sends."""
        kept = list(self.refusals)[-_AT_REST:]
        self.refusals = {number: self.refusals[number] for number in kept}

    # Called by chunks.

    def note_submitted(self, first: int, count: int) -> None:
        """Note that messages of one read are submitted whose numbers begin with C{first}."""
        self._pending[first] = count
        if first == self._begun + 1:  # else it is void already
            self._begun += count

    def settle(self, read: int, numbers: Sequence[int], fate: Fate) -> None:
        """
        Record the fate of some messages that were submitted together.

        @param read: the first number of all of these.
        @param numbers: one or more, ascending.
        """
        if fate.word in (Word.TRY, Word.BYE):
            self.back_to(numbers[0])
            if fate.word is Word.BYE:
                # Its fate is not known here, nor whether all before it is still stored.
                self.sure = False
        elif fate.word is Word.REJ and isinstance(fate, Outcome):
            for number in numbers:
                if number < self.next:
                    self.refusals[number] = fate
            self._forget()
        left = self._pending.get(read, 0) - len(numbers)
        if left > 0:
            self._pending[read] = left
        else:
            self._pending.pop(read, None)
            if not self._pending and self.idle is not None:
                self.idle()

    def back_to(self, number: int) -> None:
        """Go back to a number: it and those behind it are not stored, and have to be sent again."""
        if number < self.next:
            self.next = number
            self._begun = number - 1
            self.series += 1
            for later in [n for n in self.refusals if n >= number]:
                del self.refusals[later]

    def _forget(self) -> None:
        if len(self.refusals) > KEPT_REFUSALS:
            for number in list(self.refusals)[: KEPT_REFUSALS // 10]:
                del self.refusals[number]


def digests_of(frames: Sequence[bytes]) -> bytes:
    """
    Return the checksums of messages, CRC-32 and Adler-32 of each, little-endian.

    They tell a message from another one that is sent under the same number. Two checksums of
    unlike kinds and not a cryptographic one, since this is done for each message, and a peer that
    forges one only loses messages of its own.
    """
    both = array("I", bytes(DIGEST * len(frames)))
    both[::2] = array("I", map(crc32, frames))
    both[1::2] = array("I", map(adler32, frames))
    if byteorder == "big":
        both.byteswap()
    return both.tobytes()
