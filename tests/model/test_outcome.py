"""
Answers: the words on the wire.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.outcome import STORED, Code, Outcome, Word, Words, goodbye, refused, try_later


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (STORED, b"+OK"),
        (refused(Code.DATA, "no"), b"-REJ DATA :no"),
        (refused(Code.CONSTRAINT, "no", "23505"), b"-REJ CONSTRAINT sqlstate=23505 :no"),
        (try_later(Code.DOWN, "wait", 1), b"-TRY DOWN retry=1 :wait"),
        (goodbye(Code.FORMAT, "bad"), b"-BYE FORMAT :bad"),
        (Outcome(Word.OK, text="hello"), b"+OK hello"),
    ],
)
def test_words(outcome: Outcome, said: bytes) -> None:
    """Word, code, named values, then text for people."""
    assert Words().payload(outcome) == said


@given(st.text())
def test_an_answer_is_one_short_line(text: str) -> None:
    """Whatever a trigger raises, the answer stays one line of bounded length."""
    said = bytes(refused(Code.CONSTRAINT, text, "P0001"))
    assert b"\n" not in said and b"\r" not in said and b"\0" not in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("ack", "nak", "for_ok", "for_refusal"),
    [
        ("Data saved successfully!", None, b"Data saved successfully!", b"-REJ DATA :no"),
        ("ok", "fail", b"ok", b"fail"),
        ("none", None, None, None),
        ("none", "fail", None, b"fail"),
        (None, "fail", b"+OK", b"fail"),
    ],
)
def test_own_words(
    ack: str | None, nak: str | None, for_ok: bytes | None, for_refusal: bytes | None
) -> None:
    """A listener for fixed devices says what they expect, or nothing."""
    words = Words.configured(ack, nak)
    assert words.payload(STORED) == for_ok
    assert words.payload(refused(Code.DATA, "no")) == for_refusal


@pytest.mark.parametrize("character", "\x1b\x07\x7f\x9b\u2028\u202e\u2066\u200f\u061c")
def test_a_text_cannot_steer_a_terminal(character: str) -> None:
    """Escapes, C1 and what has the rest read backwards are spaces in an answer."""
    said = bytes(Outcome(Word.REJ, Code.DATA, f"a{character}b {character * 3}c")).decode()
    assert said == "-REJ DATA :a b  c"
