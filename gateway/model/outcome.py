"""
Outcomes of messages, and the words on the wire for them.

Every frame gets one answer and its first byte decides: C{+} is settled for good,
C{-} is not (C{docs/protocol.md} has the grammar). An L{Outcome} is one frozen
value shared by all frames that met the same fate, so that a chunk of a thousand
stored messages is answered by one multiplication of C{b"+OK\\n"}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from gateway.model.text import shortened

MAX_TEXT: Final = 200
"""Longest explanation in an answer, in characters; more would drown a telnet user."""

CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+"
)
"""Characters that move a terminal's cursor, end a line, or reverse the direction of text."""


class Word(StrEnum):
    """First word of an answer."""

    OK = "+OK"
    DUP = "+DUP"
    QUE = "+QUE"
    REJ = "-REJ"
    TRY = "-TRY"
    BYE = "-BYE"


class Code(StrEnum):
    """
    Second word of a refusal; programs match on it.
    """

    FORMAT = "FORMAT"
    TOOBIG = "TOOBIG"
    DATA = "DATA"
    CONSTRAINT = "CONSTRAINT"
    ROUTE = "ROUTE"
    QUERY = "QUERY"
    DENIED = "DENIED"
    AUTH = "AUTH"
    BUSY = "BUSY"
    DOWN = "DOWN"
    RATE = "RATE"
    GAP = "GAP"
    DRAIN = "DRAIN"
    INTERNAL = "INTERNAL"


def one_line(text: str) -> str:
    """Return a text as one line, at most L{MAX_TEXT} characters, without control characters."""
    text = CONTROL.sub(" ", text.encode("utf-8", "backslashreplace").decode())
    return shortened(text, MAX_TEXT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    Fate of a message, as its answer tells it.

    @ivar word: first word of the answer, by which the peer knows what to do: nothing, give up, try
        again, leave.
    @ivar code: kind of refusal; C{None} where the message is kept.
    @ivar text: one line for people; never SQL, never a secret.
    @ivar sqlstate: PostgreSQL's error code, where PostgreSQL refused.
    @ivar retry: seconds the peer should wait before it tries again.
    @ivar values: C{name=value}, one or more with a space between.
    @ivar dead_letter: whether the refused message was kept as a dead letter in the commit of its
        unit (L{gateway.model.unit}), so that its sender may forget it.
    """

    word: Word
    code: Code | None = None
    text: str = ""
    sqlstate: str = ""
    retry: int | None = None
    values: str = ""
    dead_letter: bool = False

    def __bytes__(self) -> bytes:
        parts = [self.word.value]
        if self.code is not None:
            parts.append(self.code.value)
        if self.sqlstate:
            parts.append(f"sqlstate={self.sqlstate}")
        if self.retry is not None:
            parts.append(f"retry={self.retry}")
        if self.values:
            parts.append(self.values)
        if self.text:
            # An answer is one line, whatever a trigger or the peer itself put into the text.
            text = one_line(self.text)
            # A plain +OK carries data of the peer's (PING), not an explanation.
            parts.append(text if self.code is None else f":{text}")
        return " ".join(parts).encode()


@dataclass(frozen=True, slots=True)
class Returned:
    """
    Fate of consecutive stored messages whose answers carry values that the database returned.

    @ivar answers: C{+OK name=value ...} for each of them.
    """

    answers: Sequence[bytes]

    word: ClassVar[Word] = Word.OK


@dataclass(frozen=True, slots=True)
class Listing:
    """
    Answer of several frames: C{*N}, then N rows.

    @ivar rows: each a frame of its own, before framing.
    """

    rows: Sequence[bytes]

    word: ClassVar[Word] = Word.OK


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """
    End of a request that was answered in the words of a protocol with an acknowledgement of its
    own; nothing is left to be said.

    @ivar closes: whether the connection ends.
    """

    closes: bool = False

    word: ClassVar[Word] = Word.OK


Fate = Outcome | Returned | Listing | Acknowledged
"""Result of a message, of messages in a row, or of a command."""

STORED: Final = Outcome(Word.OK)

DUPLICATE: Final = Outcome(Word.DUP)

QUEUED: Final = Outcome(Word.QUE)

SILENT: Final = Outcome(Word.OK, text="not said")
"""Stands for C{+OK} where its peer wants to hear nothing."""

RETRY_AFTER: Final = 1
"""Seconds we ask peers to wait before they send a message again."""


def refused(code: Code, text: str, sqlstate: str = "") -> Outcome:
    """Return a refusal for good: the same message would fail again."""
    return Outcome(Word.REJ, code, text, sqlstate)


def try_later(code: Code, text: str, retry: int | None = None, sqlstate: str = "") -> Outcome:
    """Return the outcome of a message that is not stored and may be sent again."""
    return Outcome(Word.TRY, code, text, sqlstate, retry)


def goodbye(code: Code, text: str) -> Outcome:
    """Return the outcome with which the gateway closes the connection."""
    return Outcome(Word.BYE, code, text)


def row_refused(text: str, sqlstate: str) -> Outcome:
    """
    Return the outcome of a row whose data the database refused.

    @param sqlstate: of class 22 ("data exception") where the value itself is at fault, or 42
        where it is not in the syntax of its type; all else is a rule that it broke.
    """
    code = Code.DATA if sqlstate.startswith(("22", "42")) else Code.CONSTRAINT
    return refused(code, text, sqlstate)


_KEPT: Final = (Word.OK, Word.DUP, Word.QUE)


def is_kept(fate: Fate) -> bool:
    """
    Say whether a message is stored, in the spool, or kept as a dead letter, so that its sender may
    forget it.
    """
    return fate.word in _KEPT or (isinstance(fate, Outcome) and fate.dead_letter)


@dataclass(frozen=True, slots=True)
class Words:
    """
    Answer words of a listener: the protocol's, or a device's own.

    @ivar ack: sent instead of C{+OK}, C{+DUP} and C{+QUE}; C{b""} sends nothing at all.
    @ivar nak: sent instead of every other answer; C{b""} sends nothing at all.
    """

    ack: bytes | None = None
    nak: bytes | None = None

    @classmethod
    def configured(cls, ack: str | None, nak: str | None) -> Words:
        """
        Make them from a listener's C{ack} and C{nak}.

        C{ack = "none"} silences both unless C{nak} is set.
        """
        if ack == "none":
            return cls(b"", b"" if nak is None else nak.encode())
        return cls(
            None if ack is None else ack.encode(),
            None if nak is None else nak.encode(),
        )

    @property
    def silent(self) -> bool:
        """Whether refusals are not answered at all."""
        return self.nak == b""

    def payload(self, fate: Fate) -> bytes | Sequence[bytes] | None:
        """
        Return the answer before framing, or a list with one for each message; C{None}: no answer.
        """
        if fate is STORED and self.ack is None:
            return b"+OK"  # nearly every answer there is
        if fate is SILENT or isinstance(fate, Acknowledged):
            return None
        own = self.ack if fate.word in _KEPT else self.nak
        if own is not None:
            return own or None
        if isinstance(fate, Outcome):
            return bytes(fate)
        return fate.answers if isinstance(fate, Returned) else [b"*%d" % len(fate.rows), *fate.rows]


Run = tuple[int, Fate]
"""Number of messages in a row, and the fate that they share."""


def part(fate: Fate, start: int, stop: int) -> Fate:
    """Return the fate of messages C{start} to C{stop} of a run, the latter not included."""
    return Returned(fate.answers[start:stop]) if isinstance(fate, Returned) else fate


def refused_rows(runs: Sequence[Run]) -> list[tuple[int, Outcome]]:
    """Return (row, outcome) of the rows that are refused for good, ascending."""
    refused_so_far = []
    row = 0
    for count, fate in runs:
        if isinstance(fate, Outcome) and fate.word is Word.REJ:
            refused_so_far += [(number, fate) for number in range(row, row + count)]
        row += count
    return refused_so_far


def replaced(runs: Sequence[Run], others: Sequence[tuple[int, Outcome]]) -> list[Run]:
    """
    Return the runs with the outcomes of some rows replaced.

    @param others: (row, outcome), ascending.
    """
    instead = dict(others)
    replaced_runs: list[Run] = []
    row = 0
    for count, fate in runs:
        if row in instead:
            replaced_runs += [(1, instead[number]) for number in range(row, row + count)]
        else:
            replaced_runs.append((count, fate))
        row += count
    return replaced_runs


def merge(runs: Sequence[Run], gaps: Sequence[tuple[int, Outcome]]) -> list[Run]:
    """
    Insert the outcomes of frames that were never submitted among those that the store gave.

    @param runs: fates of the stored messages, in order.
    @param gaps: (position among all frames, outcome) of frames never submitted, ascending.
    @return: the fates of all frames, in order.
    """
    merged: list[Run] = []
    position = 0
    waiting = iter(gaps)
    gap = next(waiting, None)
    for count, fate in runs:
        done = 0
        while done < count:
            while gap is not None and gap[0] == position:
                merged.append((1, gap[1]))
                position += 1
                gap = next(waiting, None)
            take = count - done if gap is None else min(count - done, gap[0] - position)
            merged.append((take, part(fate, done, done + take)))
            position += take
            done += take
    while gap is not None:
        merged.append((1, gap[1]))
        gap = next(waiting, None)
    return merged
