"""
logfmt: pairs come out as they were meant, or the message is refused by name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Texts
from gateway.formats.logfmt import LogfmtFormat
from gateway.reply import Code, Word

Pairs = dict[str, str]

KEYS = ["a", "b", "c"]

tricky = st.text(st.sampled_from('abc="\\ \t\r\nné\0\x1e'), max_size=14)
"""Text that is mostly made of what means something."""


def read(frames: Sequence[bytes], keys: Sequence[str] = KEYS) -> tuple[list[Pairs], dict[int, str]]:
    """The pairs that are there, and what was refused."""
    fields = LogfmtFormat(keys).read(frames)
    rows: list[Pairs] = [{} for _ in frames]
    for key in keys:
        cells = fields.cells[key]
        assert isinstance(cells, Texts)
        for row, value in zip(rows, cells.values, strict=True):
            if value is not None:
                row[key] = value
    numbers = [number for number, _ in fields.faults]
    assert numbers == sorted(set(numbers))
    assert all(o.word is Word.REJ and o.code is Code.FORMAT for _, o in fields.faults)
    return rows, {number: outcome.text for number, outcome in fields.faults}


def reference(frame: bytes) -> Pairs | None:
    """The grammar read by one character after the other; C{None} for what is not of it."""
    try:
        rest = list(frame.decode())
    except UnicodeDecodeError:
        return None
    pairs: Pairs = {}
    while True:
        while rest and rest[0] <= " ":
            rest.pop(0)
        if not rest:
            return pairs
        key = ""
        while rest and rest[0] > " " and rest[0] not in '="':
            key += rest.pop(0)
        if not key:
            return None
        value = "true"
        if rest[:1] == ["="]:
            rest.pop(0)
            value = ""
            if rest[:1] == ['"']:
                rest.pop(0)
                while rest[:1] != ['"']:
                    if not rest:
                        return None
                    character = rest.pop(0)
                    if character == "\\":
                        if not rest or rest[0] not in '"\\nrt':
                            return None
                        character = {"n": "\n", "r": "\r", "t": "\t"}.get(rest[0], rest[0])
                        rest.pop(0)
                    value += character
                rest.pop(0)
            else:
                while rest and rest[0] > " " and rest[0] != '"':
                    value += rest.pop(0)
        if rest and rest[0] > " ":
            return None
        pairs[key] = value


def written(pairs: Pairs) -> bytes:
    """Pairs with quotes only where they are needed."""
    words = []
    for key, value in pairs.items():
        if re.search(r'[\x00-\x20"\\=]', value):
            value = value.replace("\\", "\\\\").replace('"', '\\"')
            value = value.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
            value = f'"{value}"'
        words.append(f"{key}={value}")
    return " ".join(words).encode()


@pytest.mark.parametrize(
    ("frame", "pairs"),
    [
        # From the documentation of kr/logfmt and Heroku's router.
        (b'foo=bar a=14 baz="hello kitty" cool%story=bro f %^asdf', {"a": "14", "f": "true"}),
        (b'a=info b=GET c="/path?x=1&y=2" fwd="1.2.3.4" dyno=web.1', {"b": "GET"}),
        (
            b'a=value b="quoted \\"value\\" with \\\\ and \\n" c',
            {"b": 'quoted "value" with \\ and \n'},
        ),
        (b"a= b=x c", {"a": "", "b": "x", "c": "true"}),
        (b'a=""', {"a": ""}),
        (b"a=1 a=2 b a=3 b=", {"a": "3", "b": ""}),
        (b"b= b", {"b": "true"}),
        (b"a=http://x/?q=1&r= c=\\n", {"a": "http://x/?q=1&r=", "c": "\\n"}),
        (b'\t a=1\r\n b="\\r\\t\t\n" \r\n', {"a": "1", "b": "\r\t\t\n"}),
        (b'a="\\\\n\\\\\\n"', {"a": "\\n\\\n"}),
        (b'a="{\\"x\\": \\"y\\\\\\"\\"}"', {"a": '{"x": "y\\""}'}),
        (b"", {}),
        (b" \n", {}),
        ("ключ=1 a=é\u2028x".encode(), {"a": "é\u2028x"}),
    ],
)
def test_examples(frame: bytes, pairs: Pairs) -> None:
    """Values are bare, quoted with escapes, empty or a mere key; the last of a name counts."""
    rows, faults = read([frame], [*KEYS, "f"])
    assert not faults
    assert rows[0] == rows[0] | pairs


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"=1", "an equals sign without a key at byte 0"),
        (b"a=1 =2", "an equals sign without a key at byte 4"),
        (b' \xc3\xa9 "x"', "a quote without a key at byte 4"),
        (b'a"b=1', "a quote behind the key 'a' at byte 1"),
        (b'a=x"y', "the value of 'a' is not quoted but has a quote within at byte 3"),
        (b'b=1 a="x', "the quote of the value of 'a' at byte 6 is not closed"),
        (b'a="x\\', "the quote of the value of 'a' at byte 2 is not closed"),
        (b'a="x\\"', "the quote of the value of 'a' at byte 2 is not closed"),
        (b'a="x"y', "the value of 'a' goes on behind its closing quote at byte 5"),
        (b'a="x""y"', "the value of 'a' goes on behind its closing quote at byte 5"),
        (b'a="\\n\\x41"', "\\x in the value of 'a' is no escape at byte 5"),
        ('a="\\é"'.encode(), "\\\\xe9 in the value of 'a' is no escape at byte 3"),
        (b" \xff", "not UTF-8: invalid start byte at byte 1"),
        (b"k" * 50 + b'"', f"a quote behind the key '{'k' * 40}...' at byte 50"),
    ],
)
def test_faults_say_what_and_where(frame: bytes, why: str) -> None:
    """A fault is named with its place, and costs no neighbour."""
    good = b'a=1 b="2" c'
    pairs = {"a": "1", "b": "2", "c": "true"}
    assert read([good, frame, good]) == ([pairs, {}, pairs], {1: why})


@given(
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), tricky | st.text(st.characters(codec="utf-8"))),
        min_size=1,
    )
)
def test_round_trip(rows: list[Pairs]) -> None:
    """Whatever is written comes back."""
    assert read(list(map(written, rows))) == (rows, {})


@given(st.lists(tricky.map(str.encode) | st.binary(max_size=14), min_size=1, max_size=8))
def test_messages_are_read_as_one_by_one(frames: list[bytes]) -> None:
    """Any bytes are read, or refused, just as a plain reader does with each message alone."""
    keys = [*KEYS, "ab", "n", "é"]
    expected = [reference(frame) for frame in frames]
    rows, faults = read(frames, keys)
    assert sorted(faults) == [row for row, pairs in enumerate(expected) if pairs is None]
    assert rows == [
        {key: pairs[key] for key in keys if key in pairs} if pairs else {} for pairs in expected
    ]
    for row, frame in enumerate(frames):
        alone, fault = read([frame], keys)
        assert alone == [rows[row]]
        assert fault.get(0) == faults.get(row)


@pytest.mark.parametrize(
    "frame",
    [
        b"a " * 32_768 + b"=",
        b" a" * 32_768 + b'"',
        b"a=1 " * 16_000 + b'"',
        b"a=" * 32_768,
        b"a" * 65_536,
        b"a" * 65_536 + b'"',
        b" " * 65_536,
        b" " * 65_536 + b"=",
        b"a" + b" " * 65_536 + b"=",
        b'a="' + b'\\"' * 32_700,
        b'a="' + b'\\"' * 32_700 + b"\\",
        b'a="' + b"\\\\" * 32_700 + b'"x',
        b'a="' + b"\\n" * 32_700 + b'"',
        b'="' * 32_768,
        b'a=""' * 16_384,
        b"\0" * 65_536,
        b" ".join(b"key%d=%d" % (n, n) for n in range(10_000)),
    ],
    ids=range(17),
)
def test_hostile_messages_cost_little(frame: bytes) -> None:
    """The nastiest 64 KiB take milliseconds: with anything quadratic it would be minutes."""
    format = LogfmtFormat(KEYS)
    start = time.process_time()
    for _ in range(10):
        format.read([b"a=1", frame])
    assert time.process_time() - start < 5
