"""
Grammars: what is read from ABNF is what is matched and what is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.abnf import JSON, Grammar

PROTOCOL = Path(__file__).parent.parent / "docs" / "protocol.md"

DOCUMENTED = Grammar.of(PROTOCOL)

MATCHED = [
    ('r = "Ab"', [b"ab", b"AB", b"aB"], [b"a", b"abc", b""]),
    ('r = %s"Ab"', [b"Ab"], [b"ab"]),
    ('r = "a" "b" / "c"', [b"ab", b"c"], [b"ac", b"b"]),
    ('r = "a" ( "b" / "c" )', [b"ab", b"ac"], [b"a", b"c"]),
    ('r = [ "a" ] "b"', [b"ab", b"b"], [b"a", b"aab"]),
    ('r = *"a" "b"', [b"b", b"aab"], [b"a"]),
    ('r = 2"a"', [b"aa"], [b"a", b"aaa"]),
    ('r = 1*2( "a" / "b" )', [b"a", b"ba"], [b"", b"aba"]),
    ('r = *1"a"', [b"", b"a"], [b"aa"]),
    ("r = %x41-43", [b"A", b"C"], [b"D", b"a"]),
    ("r = %x41.42.0A", [b"AB\n"], [b"A", b"B"]),
    ("r = %xFF", [b"\xff"], [b"\xc3\xbf"]),
    ('r = s SP s ; twice\ns = "[" / %x2A ; "a" \n / "\\"', [b"[ *", b"\\ ["], [b"[*", b"a a"]),
    ("r = DIGIT / ALPHA / DQUOTE", [b"5", b"z", b'"'], [b"_"]),
]


@pytest.mark.parametrize(("text", "good", "bad"), MATCHED)
def test_matches(text: str, good: list[bytes], bad: list[bytes]) -> None:
    """Each construct of ABNF matches what RFC 5234 says it does."""
    matches = Grammar(text).compiled("r").fullmatch
    assert [one for one in good if not matches(one)] == []
    assert [one for one in bad if matches(one)] == []


@pytest.mark.parametrize(
    "text",
    ['r = "a', "r = ( %x41", "r = %x41 )", "r = /", "r =", "r", "r = &", 'r = "a"\nr = "b"'],
)
def test_refuses_what_is_no_grammar(text: str) -> None:
    """What is not ABNF is an error, not another grammar."""
    with pytest.raises(ValueError):
        Grammar(text)


def test_what_no_pattern_can_match_is_refused() -> None:
    """A rule that leads to itself, one in words, and one that is not there are errors."""
    grammar = Grammar('r = "(" [ r ] ")"\nw = <any word>\nm = missing')
    for rule in ("r", "w", "m"):
        with pytest.raises(ValueError):
            grammar.compiled(rule)
    assert grammar.missing() == {"missing"}


@settings(max_examples=30)
@given(st.data())
def test_json_is_made(data: st.DataObject) -> None:
    """A grammar that leads to itself is made all the same: all of it is JSON."""
    grammar = Grammar(JSON)
    json.loads(data.draw(grammar.strategy("json-value")))
    json.loads(grammar.sample("json-value", data.draw(st.randoms(use_true_random=False))))


def test_the_documented_grammar_is_whole() -> None:
    """Every rule that the documentation uses is there, and every rule is used."""
    assert DOCUMENTED.missing() == set()
    assert DOCUMENTED.unused() == {"frame", "answer", "row", "push", "goodbye"}


RULES = ("frame", "answer", "push", "goodbye")

WITH_JSON = DOCUMENTED.extended(JSON + "arguments = json-object / json-array\nrow = json-object")

MATCHERS = {
    rule: DOCUMENTED.extended("arguments = *OCTET\nrow = *OCTET").compiled(rule) for rule in RULES
}


@given(st.sampled_from(RULES), st.data())
def test_what_is_made_is_matched(rule: str, data: st.DataObject) -> None:
    """Frames and answers that are made of the documented grammar are matched by it."""
    made = data.draw(WITH_JSON.strategy(rule))
    assert MATCHERS[rule].fullmatch(made)


def test_samples_are_matched() -> None:
    """So are those of a random number generator, which reach every rule."""
    chance = Random(1)
    for rule in RULES:
        samples = [WITH_JSON.sample(rule, chance) for _ in range(300)]
        assert all(map(MATCHERS[rule].fullmatch, samples))
        assert len(set(samples)) > 100


@pytest.mark.parametrize(
    "frame",
    [
        *(b"PUT messages hello", b"@7 put readings {}", b"PUT r #12 ", b"PUT r ", b"ping"),
        *(b"PING ", b"CALL last", b'CALL last {"n":2}', b"HELLO till-3", b"help put", b"QUIT"),
        *(b"@" + b"\xff" * 63 + b" SYNC", b"LISTEN \xc3\xa4", b"Unlisten a", b"quiet"),
        *(b"HELLO s seen=0", b"hello s seen=" + b"9" * 18, b"@a HELLO s seen=7 epoch=a-B-0"),
        b"HELLO s seen=7 epoch=" + b"e" * 64,
    ],
)
def test_frames_of_the_documentation(frame: bytes) -> None:
    """The documented grammar has the frames that a peer may send."""
    assert MATCHERS["frame"].fullmatch(frame)


@pytest.mark.parametrize(
    "frame",
    [
        *(
            b"",
            b"NOPE",
            b"PUT messages",
            b"PUT",
            b"@ PING",
            b"@" + b"a" * 64 + b" PING",
            b"QUIT now",
        ),
        *(
            b"QUIET ",
            b"PING \xff",
            b"HELLO a b",
            b"HELLO a seen=",
            b"HELLO a seen=01",
            b"HELLO a SEEN=1",
            b"HELLO a seen=" + b"9" * 19,
            b"HELLO a epoch=e",
            b"HELLO a seen=1 epoch=",
            b"HELLO a seen=1 epoch=a_b",
            b"HELLO a seen=1 epoch=" + b"e" * 65,
            b"HELLO a seen=1 epoch=e f",
            b"HELLO \xc2\x85",
            b" PING",
            b"@a\tb PING",
            b"CALL ",
        ),
    ],
)
def test_no_frames_of_the_documentation(frame: bytes) -> None:
    """And not those that are refused."""
    assert not MATCHERS["frame"].fullmatch(frame)


OPENED = DOCUMENTED.compiled("opened")


@pytest.mark.parametrize(
    ("answer", "opens"),
    [
        (b"+OK seq=0 epoch=w1", True),
        (b"@7 +OK seq=41 epoch=5b0c72e6-0a4d-4ad7-9f0e-6b8f3f1d2c11", True),
        (b"-TRY GAP retry=1 :the stream has not come as far", False),
        (b"-TRY GAP seq=2 :send #3 next", False),
        (b"+OK seq=01 epoch=w1", False),
        (b"+OK seq=1", False),
    ],
)
def test_answers_of_the_documentation(answer: bytes, opens: bool) -> None:
    """The documented grammar has what a peer is told of its stream: a number and an epoch."""
    assert MATCHERS["answer"].fullmatch(answer)
    assert (OPENED.fullmatch(answer.rpartition(b"+OK ")[2]) is not None) is opens
