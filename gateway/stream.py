"""
Numbered streams: which number comes next, and what became of those before.

A peer that opened a stream numbers its messages. Each is stored once, whatever is
sent again: the database keeps, for each route of a stream, the highest number stored
through it, and moves that mark in the transaction that stores the message. (One mark a
route, because routes may overtake each other where one of them is out of service.)

A L{Stream} is what one claim knows; a later claim of the same name, here or at another
gateway, has a L{Stream} of its own. All of it is synchronous and talks to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.reply import DUPLICATE, Code, Fate, Outcome, Run, Word, goodbye

MAX_NUMBER: Final = 10**18 - 1
"""Largest number of a message; PostgreSQL's bigint holds more."""

KEPT_REFUSALS: Final = 10_000
"""
Numbers behind the last one for which a refusal is remembered. Who has not heard of one
for so long does not ask any more.
"""

_AT_REST: Final = 100
"""Refusals that are remembered of a stream that is closed; the database knows the others."""

TAKEN: Final = goodbye(Code.BUSY, "another connection has opened this stream")

BEHIND: Final = goodbye(
    Code.GAP, "the database is behind what it was; say HELLO again and go on from there"
)


class Stream:
    """
    One claim of a stream.

    @ivar next: the number that its peer has to send next.
    @ivar epoch: what was submitted in an earlier one and is not written yet is void.
    @ivar marks: route -> highest number stored through it, as far as is known here.
    @ivar refusals: number -> what it was told; for those that are sent again.
    @ivar unsaved: those of them that the database does not know of.
    @ivar ended: whether nothing more is taken.
    @ivar loose: whether this is no claim, but what was left in the spool by one.
    @ivar idle: called whenever everything submitted has met its fate.
    """

    __slots__ = (
        *("_begun", "_pending", "_told", "claim", "ended", "epoch", "idle", "loose"),
        *("marks", "name", "next", "refusals", "unsaved"),
    )

    def __init__(
        self,
        name: str,
        claim: int | None = None,
        last: int = 0,
        marks: Mapping[str, int] | None = None,
        refusals: Mapping[int, Outcome] | None = None,
        loose: bool = False,
    ) -> None:
        """
        @param claim: what the database knows this claim by; C{None} where it was not asked.
        @param last: the last number that is settled.
        """
        self.name = name
        self.claim = claim
        self.next = last + 1
        self.epoch = 0
        self.marks = dict(marks or {})
        self.refusals = dict(refusals or {})
        self.unsaved: dict[int, Outcome] = {}
        self.loose = loose
        self.ended = False
        self.idle: Callable[[], None] | None = None
        self._pending: dict[int, int] = {}
        self._begun = last
        self._told = 0

    @property
    def last(self) -> int:
        """The last number that was taken."""
        return self.next - 1

    @property
    def busy(self) -> bool:
        """Whether anything of it has no fate yet."""
        return bool(self._pending)

    # For the peer's side.

    def take(self, number: int) -> Outcome | None:
        """
        The peer sends a message with this number.

        @return: its answer; C{None} where it is to be stored.
        """
        if self.ended:
            return TAKEN
        if number == self.next:
            self.next += 1
            return None
        return self.gap() if number > self.next else self.refusals.get(number, DUPLICATE)

    def is_in_doubt(self, number: int) -> bool:
        """
        Whether a number is sent again before it is known what became of it.
        """
        if self.ended or number >= self.next:
            return False
        # What was read at once is taken before any of it is submitted.
        return number > self._begun or (bool(self._pending) and number >= min(self._pending))

    def take_in_turn(self, number: int, refusal: Outcome | None = None) -> Outcome:
        """
        As L{take}, when everything before is answered.

        @param refusal: uses the number up if it comes next; C{None} for one that was in
            doubt: if it comes next it was not stored, and has to be sent again.
        """
        if self.ended or number != self.next:
            return self.take(number) or DUPLICATE
        if refusal is None:
            return self.gap()
        self.next += 1
        self._begun = number
        self.refusals[number] = self.unsaved[number] = refusal
        self._forget()
        return refusal

    def take_all(self, first: int, count: int) -> None:
        """
        As L{take}, for numbers in a row.

        @param first: the one that comes next.
        """
        assert first == self.next and not self.ended
        self.next += count

    def gap(self) -> Outcome:
        """
        What is said to a number that is too high.
        """
        return Outcome(Word.TRY, Code.GAP, f"send #{self.next} next", values=f"seq={self.last}")

    def told(self, epoch: int, runs: Sequence[Run]) -> Sequence[Run]:
        """
        What is said to messages that were submitted, now that it is their turn: who has
        to send a message again has to send all behind it again, refused ones too.

        @param epoch: in which they were submitted.
        """
        again = epoch < self._told
        found: list[Run] = []
        for count, fate in runs:
            if fate.word is Word.TRY:
                again = True
                self._told = self.epoch
            found.append((count, self.gap() if again and fate.word is Word.REJ else fate))
        return found

    def end(self) -> None:
        """
        Its peer is gone, or no longer the one that has it: what is not written yet never is.
        """
        self.ended = True
        self.epoch += 1

    def rest(self) -> None:
        """
        Nothing is in flight and nobody sends: keep no more than is needed to go on.
        """
        kept = list(self.refusals)[-_AT_REST:]
        self.refusals = {number: self.refusals[number] for number in kept} | self.unsaved

    # For those who store.

    def begin(self, first: int, count: int) -> None:
        """
        Messages are submitted, in a chunk that begins with this number.
        """
        self._pending[first] = count
        if first == self._begun + 1:  # else it is void already
            self._begun += count

    def settle(self, chunk: int, first: int, count: int, fate: Fate) -> None:
        """
        Some messages of a chunk have met their fate.
        """
        if fate.word in (Word.TRY, Word.BYE):
            self._back_to(first)
        elif fate.word is Word.REJ and isinstance(fate, Outcome):
            for number in range(first, min(first + count, self.next)):
                self.refusals[number] = fate
            self._forget()
        left = self._pending.get(chunk, 0) - count
        if left > 0:
            self._pending[chunk] = left
        else:
            self._pending.pop(chunk, None)
            if not self._pending and self.idle is not None:
                self.idle()

    def refused_here(self, number: int, outcome: Outcome) -> None:
        """
        A message was refused before the database saw it, which has to remember it with
        the next one that is stored.
        """
        self.unsaved[number] = outcome

    def moved(self, route: str, number: int) -> None:
        """
        Everything through a route up to a number is stored, and refusals are remembered.
        """
        self.marks[route] = number
        if self.unsaved:
            # Those behind it may have been added since.
            self.unsaved = {n: o for n, o in self.unsaved.items() if n > number}

    def _back_to(self, number: int) -> None:
        """
        This number and those behind it are not stored, and have to be sent again.
        """
        if number < self.next:
            self.next = number
            self._begun = number - 1
            self.epoch += 1
            for known in (self.refusals, self.unsaved):
                for later in [n for n in known if n >= number]:
                    del known[later]

    def _forget(self) -> None:
        if len(self.refusals) > KEPT_REFUSALS:
            for number in list(self.refusals)[: KEPT_REFUSALS // 10]:
                del self.refusals[number]
