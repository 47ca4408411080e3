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
from gateway.model.outcome import Code, Word

Pairs = dict[str, str]

KEYS = ["a", "b", "c"]

tricky = st.text(st.sampled_from('abc="\\ \t\r\nné\0\x1e'), max_size=14)
"""Text that is mostly made of what means something."""

escapes = st.builds(
    lambda pieces, end: f'a="{"".join(pieces)}"{end}',
    st.lists(
        st.sampled_from(
            [
                *(
                    "\\n",
                    "\\/",
                    "\\'",
                    "\\u001b",
                    "\\u0000",
                    "\\uD83D",
                    "\\uDe00",
                    "\\ud83d\\ude00",
                ),
                *("\\U0001f600", "\\U00110000", "\\U0000d800", "\\x1b", "\\x00", "\\033", "\\000"),
                *(
                    "\\xc3",
                    "\\xA9",
                    "\\303",
                    "\\251",
                    "\\xf0",
                    "\\x9f",
                    "\\x98",
                    "\\x80",
                    "\\xed",
                    "\\400",
                ),
                *("\\u00", "\\x", "\\", "é", "x1b", "u", '\\"', "0"),
            ]
        )
        | st.integers(0, 255).map("\\x{:02x}".format)
        | st.integers(0, 0xFFFF).map("\\u{:04X}".format),
        max_size=8,
    ),
    st.sampled_from(["", " b=1"]),
)
"""Values in quotes of escapes good and bad."""


def read(frames: Sequence[bytes], keys: Sequence[str] = KEYS) -> tuple[list[Pairs], dict[int, str]]:
    """The pairs that are there, and what was refused."""
    fields = LogfmtFormat(keys).parse_frames(frames)
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


SIMPLE = {
    **{"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"},
    **{"\\": "\\", '"': '"', "'": "'", "/": "/"},
}


def escaped(rest: list[str]) -> str:
    """
    Take the escapes that make the next character off a text; nothing where they make none.
    """
    if len(rest) > 1 and rest[1] in SIMPLE:
        del rest[0]
        return SIMPLE[rest.pop(0)]
    text = "".join(rest)
    # The shortest number of escapes that is a character: at most four bytes, or two surrogates.
    for kind, count, encoding in (
        (r"\\u([0-9A-Fa-f]{4})", 2, "utf-16-be"),
        (r"\\U([0-9A-Fa-f]{8})", 1, "utf-32-be"),
        (r"\\(?:x([0-9A-Fa-f]{2})|([0-3][0-7]{2}))", 4, "utf-8"),
    ):
        written = b""
        end = 0
        for _ in range(count):
            found = re.compile(kind).match(text, end)
            if found is None:
                break
            octal = found[2] if found.re.groups == 2 else None
            written += bytes([int(octal, 8)]) if octal else bytes.fromhex(found[1])
            end = found.end()
            try:
                character = written.decode(encoding)
            except UnicodeDecodeError:
                continue
            del rest[:end]
            return "" if character == "\0" else character
    return ""


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
                    character = escaped(rest) if rest[0] == "\\" else rest.pop(0)
                    if not character:
                        return None
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
        (b'a="\\n\\x4"', "\\x is no escape in the value of 'a' at byte 5"),
        ('a="\\é"'.encode(), "\\\\xe9 is no escape in the value of 'a' at byte 3"),
        (b'a="\\0"', "\\0 is no escape in the value of 'a' at byte 3"),
        (b'a="\\u00e"', "\\u is no escape in the value of 'a' at byte 3"),
        (b'a="\\X41"', "\\X is no escape in the value of 'a' at byte 3"),
        (b'a="\\400"', "\\4 is no escape in the value of 'a' at byte 3"),
        (b'a="x\\u0000"', "\\u0000 is NUL, which text cannot hold, in the value of 'a' at byte 4"),
        (b'a="\\x00"', "\\x00 is NUL, which text cannot hold, in the value of 'a' at byte 3"),
        (b'a="\\000"', "\\000 is NUL, which text cannot hold, in the value of 'a' at byte 3"),
        (b'a="\\ud83d"', "\\ud83d is half of a pair of surrogates in the value of 'a' at byte 3"),
        (b'a="\\uDE00"', "\\uDE00 is half of a pair of surrogates in the value of 'a' at byte 3"),
        (b'a="\\U00110000"', "\\U00110000 is no character in the value of 'a' at byte 3"),
        (b'a="\\xff"', "\\xff is not UTF-8 in the value of 'a' at byte 3"),
        (b'a="\\303x"', "\\303 is not UTF-8 in the value of 'a' at byte 3"),
        (b'a="\\xed\\xa0\\x80"', "\\xed is not UTF-8 in the value of 'a' at byte 3"),
        (b" \xff", "not UTF-8: invalid start byte at byte 1"),
        (b"k" * 50 + b'"', f"a quote behind the key '{'k' * 40}...' at byte 50"),
    ],
)
def test_faults_say_what_and_where(frame: bytes, why: str) -> None:
    """A fault is named with its place, and costs no neighbour."""
    good = b'a=1 b="2" c'
    pairs = {"a": "1", "b": "2", "c": "true"}
    assert read([good, frame, good]) == ([pairs, {}, pairs], {1: why})


@pytest.mark.parametrize(
    ("written", "value"),
    [
        # Go's log/slog, logrus with colours, go-kit and kr/logfmt.
        (r"\u001b[31mred\u001b[0m", "\x1b[31mred\x1b[0m"),
        (r"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        (r"\033[31mred\033[0m", "\x1b[31mred\x1b[0m"),
        (r"https:\/\/example.org", "https://example.org"),
        (r"\a\b\f\n\r\t\v\\\"\'", "\a\b\f\n\r\t\v\\\"'"),
        (r"\U0001f600 \U0010FFFF", "\U0001f600 \U0010ffff"),
        (r"\ud83d\ude00\uD83D\uDE00", "\U0001f600\U0001f600"),
        (r"\u00e9\u20AC\ufeff\uffff", "é€\ufeff\uffff"),
        (r"\xc3\xa9\303\251\xE2\x82\254", "éé€"),
        (r"\xf0\x9f\x98\x80\x41\101", "\U0001f600AA"),
        (r"\\x41\\u0000\\\x41", "\\x41\\u0000\\A"),
        (r"\x411\1011\u00411", "A1A1A1"),
    ],
)
def test_escapes(written: str, value: str) -> None:
    """The escapes of JSON and of Go are read, each as the program that writes it means it."""
    assert read([f'a="{written}" b="{written}"'.encode()]) == ([{"a": value, "b": value}], {})


def test_every_byte_and_character() -> None:
    """Every character but NUL can be written as its bytes, and those of UTF-16, in any way."""
    for start in range(1, 0x110000, 911):
        characters = [
            c for c in map(chr, range(start, start + 12)) if ord(c) < 0xD800 or ord(c) > 0xDFFF
        ]
        text = "".join(characters)
        utf16 = text.encode("utf-16-be").hex()
        ways = [
            "".join(f"\\x{byte:02x}" for byte in text.encode()),
            "".join(f"\\{byte:03o}" for byte in text.encode()),
            "".join(f"\\u{utf16[n : n + 4]}" for n in range(0, len(utf16), 4)),
            "".join(f"\\U{ord(c):08X}" for c in characters),
        ]
        assert read([f'a="{way}"'.encode() for way in ways], ["a"]) == ([{"a": text}] * 4, {})


@given(
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), tricky | st.text(st.characters(codec="utf-8"))),
        min_size=1,
    )
)
def test_round_trip(rows: list[Pairs]) -> None:
    """Whatever is written comes back."""
    assert read(list(map(written, rows))) == (rows, {})


@given(
    st.lists((tricky | escapes).map(str.encode) | st.binary(max_size=14), min_size=1, max_size=8)
)
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
        *(b'a="' + b"\\xc3\\xa9" * 8_000 + end for end in (b'"', b"\\xc3", b"")),
        *(b'a="' + b"\\ud83d\\ude00" * 5_000 + end for end in (b'"', b"\\ud83d", b"")),
        b'="' * 32_768,
        b'a=""' * 16_384,
        b"\0" * 65_536,
        b" ".join(b"key%d=%d" % (n, n) for n in range(10_000)),
    ],
    ids=range(23),
)
def test_hostile_messages_cost_little(frame: bytes) -> None:
    """The nastiest 64 KiB take milliseconds: with anything quadratic it would be minutes."""
    format = LogfmtFormat(KEYS)
    start = time.process_time()
    for _ in range(10):
        format.parse_frames([b"a=1", frame])
    assert time.process_time() - start < 5
