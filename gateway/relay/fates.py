"""
Fates of messages from the centre's answers, and errors from its refusals for now.
"""

from __future__ import annotations

from typing import Final

from gateway.client.answers import Answer
from gateway.model.errors import RouteError, StoreError, TransientError, Unavailable
from gateway.model.outcome import (
    DUPLICATE,
    QUEUED,
    STORED,
    Code,
    Fate,
    Outcome,
    Returned,
    Run,
    Word,
)
from gateway.relay.conversation import Runs

OF_ROUTE: Final = frozenset((Code.ROUTE, Code.DENIED))
"""Codes of -REJ that every message of a route gets, until an operator acts at the centre."""


def fates_of(runs: Runs, *, again: bool) -> list[Run]:
    """
    Return the fates that the centre's answers tell.

    @param runs: final answers.
    @param again: whether the messages, which have no numbers of their peers', may have been sent
        before: then C{+DUP} says that they are stored.
    """
    found: list[Run] = []
    for count, answer in runs:
        if answer.word == "+OK" and answer.values:
            answers = [answer.raw] * count
            if found and isinstance(found[-1][1], Returned):
                before, fate = found[-1]
                assert isinstance(fate, Returned)
                found[-1] = (before + count, Returned([*fate.answers, *answers]))
            else:
                found.append((count, Returned(answers)))
            continue
        fate = _fate(answer, again)
        if found and found[-1][1] is fate:
            found[-1] = (found[-1][0] + count, fate)
        else:
            found.append((count, fate))
    return found


def _fate(answer: Answer, again: bool) -> Fate:
    if answer.word == "+OK":
        return STORED
    if answer.word == "+DUP":
        return STORED if again else DUPLICATE
    if answer.word == "+QUE":
        return QUEUED
    return refusal_of(answer)


def refusal_of(answer: Answer) -> Outcome:
    """Return a refusal for good, in the centre's own words."""
    code = Code(answer.code) if answer.code in Code.__members__ else Code.DATA
    return Outcome(Word.REJ, code, answer.text, answer.values.get("sqlstate") or "")


def error_of(answer: Answer) -> StoreError:
    """Return the error for messages that the centre does not take now."""
    text = f"the centre: {answer}"
    sqlstate = answer.values.get("sqlstate") or ""
    if answer.code in ("ROUTE", "DENIED"):
        return RouteError(text, sqlstate)
    if answer.code in ("BUSY", "GAP", "RATE"):
        return TransientError(text, sqlstate)
    return Unavailable(text)
