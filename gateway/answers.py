"""
Answers: what a peer asked, in order, and the bytes that are due to it.

Strategy: one slot for each piece of work, settled in any order and answered in
that of the frames: a slot's bytes are due when it and all before it are settled.
A slot holds runs of equal outcomes, so a thousand stored messages are one
multiplication, and everything due at once is one string of bytes.
"""

from __future__ import annotations

from collections import deque
from itertools import repeat, zip_longest

from gateway.dialect import Work
from gateway.framing import Framing
from gateway.reply import Outcome, Run, Word, Words, merge


class Slot:
    """
    Answers of one piece of work.

    @ivar runs: fates of its messages in order, C{None} until the store has spoken.
    """

    __slots__ = ("count", "gaps", "runs", "tags")

    count: int
    gaps: list[tuple[int, Outcome]]
    tags: list[bytes] | None
    runs: list[Run] | None


class Answers:
    """
    One peer's answers.

    @ivar unanswered: frames asked whose answers are not due yet.
    @ivar ended: whether C{-BYE} was among what was due; nothing is due after it.
    """

    __slots__ = ("_framing", "_slots", "_words", "ended", "unanswered")

    def __init__(self, framing: Framing, words: Words) -> None:
        """
        @param framing: answers are framed as the peer's frames are.
        """
        self.unanswered = 0
        self.ended = False
        self._framing = framing
        self._words = words
        self._slots: deque[Slot] = deque()

    @property
    def waiting(self) -> bool:
        """Whether anything that was asked has no answer yet."""
        return bool(self._slots)

    def ask(self, work: Work) -> Slot:
        """
        Keep a place for the answers of some work.

        @return: whose C{runs} are to be set once the store has spoken; work
            without messages needs no store.
        """
        # Filled in here and not by a constructor: a call for each chunk less.
        slot = Slot()
        slot.count = work.count
        slot.gaps = work.gaps
        slot.tags = work.tags
        slot.runs = None if work.messages else []
        self._slots.append(slot)
        self.unanswered += slot.count
        return slot

    def forget(self) -> None:
        """
        Nobody is there to be answered.
        """
        self._slots.clear()

    def due(self) -> bytes:
        """
        Take out all answers that may be given now.
        """
        slots = self._slots
        if self.ended:
            slots.clear()
        due: list[bytes] = []
        while slots and (runs := slots[0].runs) is not None:
            slot = slots.popleft()
            self.unanswered -= slot.count
            if slot.gaps:
                runs = merge(runs, slot.gaps)
            position = 0
            for count, fate in runs:
                if fate.word is Word.BYE:
                    # The last word is said once, whatever was asked after it.
                    count = 1
                    self.ended = True
                payload = self._words.payload(fate)
                if payload is None:
                    pass  # this listener has no word for it
                elif slot.tags is None and isinstance(payload, bytes):
                    due.append(self._framing.frame(payload) * count)
                else:
                    payloads = repeat(payload, count) if isinstance(payload, bytes) else payload
                    tags = slot.tags or ()
                    for tag, answer in zip_longest(tags[position : position + count], payloads):
                        tagged = b"%s %s" % (tag, answer) if tag else answer
                        due.append(self._framing.frame(tagged))
                if self.ended:
                    slots.clear()
                    break
                position += count
        return b"".join(due)
