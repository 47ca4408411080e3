"""
Answers: outcomes -> the words on the wire.

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
from typing import Final

MAX_TEXT: Final = 200
"""Longest explanation in an answer, in characters; more would drown a telnet user."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]+")


class Word(StrEnum):
    """First word of an answer."""

    OK = "+OK"
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
    BUSY = "BUSY"
    DOWN = "DOWN"
    RATE = "RATE"
    DRAIN = "DRAIN"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    The fate of a message.

    @ivar word: what the peer must do: nothing, give up, try again, leave.
    @ivar code: which kind of refusal; C{None} for L{Word.OK} and L{Word.QUE}.
    @ivar text: one line for people; never SQL, never a secret.
    @ivar sqlstate: PostgreSQL's error code, where PostgreSQL refused.
    @ivar retry: seconds the peer should wait before it tries again.
    """

    word: Word
    code: Code | None = None
    text: str = ""
    sqlstate: str = ""
    retry: int | None = None

    def __bytes__(self) -> bytes:
        parts = [self.word.value]
        if self.code is not None:
            parts.append(self.code.value)
        if self.sqlstate:
            parts.append(f"sqlstate={self.sqlstate}")
        if self.retry is not None:
            parts.append(f"retry={self.retry}")
        if self.text:
            # An answer is one line, whatever a trigger or the peer itself put into the text.
            text = _CONTROL.sub(" ", self.text)
            if len(text) > MAX_TEXT:
                text = text[: MAX_TEXT - 3] + "..."
            # A plain +OK carries data of the peer's (PING), not an explanation.
            parts.append(text if self.code is None else f":{text}")
        return " ".join(parts).encode("utf-8", "backslashreplace")


STORED: Final = Outcome(Word.OK)

QUEUED: Final = Outcome(Word.QUE)

RETRY_AFTER: Final = 1
"""Seconds we ask peers to wait before they send a message again."""


def refused(code: Code, text: str, sqlstate: str = "") -> Outcome:
    """Refused for good: the same message fails again."""
    return Outcome(Word.REJ, code, text, sqlstate)


def try_later(code: Code, text: str, retry: int | None = None, sqlstate: str = "") -> Outcome:
    """Not stored; the peer may send it again."""
    return Outcome(Word.TRY, code, text, sqlstate, retry)


def goodbye(code: Code, text: str) -> Outcome:
    """The gateway closes this connection."""
    return Outcome(Word.BYE, code, text)


def row_refused(text: str, sqlstate: str) -> Outcome:
    """
    The database refused this message's data.

    @param sqlstate: of class 22 ("data exception") where the value itself is at fault;
        all else is a rule that it broke.
    """
    return refused(Code.DATA if sqlstate.startswith("22") else Code.CONSTRAINT, text, sqlstate)


_KEPT: Final = (Word.OK, Word.QUE)


@dataclass(frozen=True, slots=True)
class Words:
    """
    What a listener says for an outcome: the protocol's words, or a device's own.

    @ivar ack: said instead of C{+OK} and C{+QUE}; C{b""} says nothing at all.
    @ivar nak: said instead of every other answer; C{b""} says nothing at all.
    """

    ack: bytes | None = None
    nak: bytes | None = None

    @classmethod
    def configured(cls, ack: str | None, nak: str | None) -> Words:
        """
        From a listener's C{ack} and C{nak}: C{ack = "none"} silences both unless C{nak} is set.
        """
        if ack == "none":
            return cls(b"", b"" if nak is None else nak.encode())
        return cls(
            None if ack is None else ack.encode(),
            None if nak is None else nak.encode(),
        )

    def payload(self, outcome: Outcome) -> bytes | None:
        """
        @return: the answer before framing, C{None} where nothing is to be said.
        """
        if outcome is STORED and self.ack is None:
            return b"+OK"  # nearly every answer there is
        own = self.ack if outcome.word in _KEPT else self.nak
        return bytes(outcome) if own is None else own or None


Run = tuple[int, Outcome]
"""So many messages in a row that met the same fate."""


def merge(runs: Sequence[Run], gaps: Sequence[tuple[int, Outcome]]) -> list[Run]:
    """
    Put answers known at once back between those that the store gave.

    @param runs: fates of the stored messages, in order.
    @param gaps: (position among all frames, outcome) of frames never submitted, ascending.
    @return: the fates of all frames, in order.
    """
    merged: list[Run] = []
    position = 0
    waiting = iter(gaps)
    gap = next(waiting, None)
    for count, outcome in runs:
        left = count
        while left:
            while gap is not None and gap[0] == position:
                merged.append((1, gap[1]))
                position += 1
                gap = next(waiting, None)
            take = left if gap is None else min(left, gap[0] - position)
            merged.append((take, outcome))
            position += take
            left -= take
    while gap is not None:
        merged.append((1, gap[1]))
        gap = next(waiting, None)
    return merged
