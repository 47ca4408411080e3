"""
Patterns: what the groups of a route's pattern find, in linear time.
"""

from __future__ import annotations

import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Texts
from gateway.formats.regex import MAX_PROGRAM, RegexFormat


def read(
    pattern: str, *frames: bytes, fields: tuple[str, ...]
) -> tuple[list[tuple[str | None, ...]], dict[int, str]]:
    """Rows of the wanted fields, and the faults by row."""
    found = RegexFormat(fields, pattern).parse_frames(frames)
    assert list(found.cells) == list(fields)
    columns = []
    for cells in found.cells.values():
        assert isinstance(cells, Texts)
        assert len(cells.values) == len(frames)
        columns.append(cells.values)
    rows = [row for row, _ in found.faults]
    assert rows == sorted(rows)
    return list(zip(*columns, strict=True)), {row: fault.text for row, fault in found.faults}


LOG = (
    r'(?P<peer>[0-9.]+) - (?P<user>\S+) \[(?P<at>[^\]]+)\] "(?P<verb>[A-Z]+) (?P<path>\S+)[^"]*" '
    r"(?P<status>[0-9]{3}) (?:(?P<size>[0-9]+)|-)"
)


def test_groups() -> None:
    """A field is what its group found; a group that took no part is missing."""
    rows, faults = read(
        LOG,
        b'10.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a.gif HTTP/1.0" 200 2326',
        b'10.0.0.2 - - [10/Oct/2000:13:55:37 -0700] "GET / HTTP/1.0" 304 -',
        fields=("status", "peer", "size", "path"),
    )
    assert rows == [("200", "10.0.0.1", "2326", "/a.gif"), ("304", "10.0.0.2", None, "/")]
    assert not faults


def test_whole_message() -> None:
    """The pattern must match all of a message, and a fault keeps its place."""
    rows, faults = read(
        "(?P<word>[a-z]+)",
        b"abc",
        b"abc ",
        b" abc",
        b"",
        b"abc\n",
        b"\xffabc",
        b"x",
        fields=("word",),
    )
    assert rows == [("abc",), (None,), (None,), (None,), (None,), (None,), ("x",)]
    no = "does not match the route's pattern"
    assert faults == {1: no, 2: no, 3: no, 4: no, 5: "not UTF-8: invalid start byte at byte 0"}


def test_characters() -> None:
    """A pattern counts characters, not bytes, and groups end between them."""
    rows, _ = read(
        "(?P<a>.)(?P<b>é?)(?P<c>.*)", "🚀é·x".encode(), "éa".encode(), fields=tuple("abc")
    )
    assert rows == [("🚀", "é", "·x"), ("é", "", "a")]


def test_lines() -> None:
    """A dot stops at a line feed unless the pattern says (?s)."""
    assert read("(?P<a>.*)", b"a\nb", fields=("a",))[0] == [(None,)]
    assert read("(?s)(?P<a>.*)", b"a\nb\0", fields=("a",))[0] == [("a\nb\0",)]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?P<a>x", "is not a valid pattern: missing ): (?P<a>x"),
        ("(?P<a>[z-a])", "is not a valid pattern: invalid character class range: z-a"),
        ("(?P<a>[z-\n])", "is not a valid pattern: invalid character class range: z-"),
        (
            "(?P<a>x(?=y))",
            "is not a valid pattern: invalid perl operator: (?=; "
            "RE2 has no lookaround and no backreferences",
        ),
        (
            r"(?P<a>x)\1",
            r"is not a valid pattern: invalid escape sequence: \1; "
            "RE2 has no lookaround and no backreferences",
        ),
        ("\ud800", "is not a valid pattern: it holds half a surrogate pair"),
        ("(a)", "has no named group; a field is written as (?P<name>...)"),
        ("(?P<host>.*)", "has no group 'hots'; did you mean 'host'?"),
        ("(?P<x>.)(?P<y>.)", "has no group 'hots'; it has x, y"),
        ("(?P<a>.)(?P<a>.)", "has two groups named 'a'"),
        (r"(?P<a>\C)", r"holds \C, a single byte, which would cut characters in two"),
    ],
)
def test_useless_patterns(pattern: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A pattern that is of no use says why in one line, and nothing goes to standard error."""
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        RegexFormat(["hots"], pattern)
    assert capfd.readouterr() == ("", "")


def test_escaped_backslash() -> None:
    """Only C{\\C} itself is a single byte; a backslash before a C is not."""
    assert read(r"(?P<a>\\C)", rb"\C", fields=("a",))[0] == [(r"\C",)]


def test_large_patterns() -> None:
    """A pattern so large that a long message would take seconds is refused."""
    with pytest.raises(ValueError, match=rf"^is too large: .* {MAX_PROGRAM} are allowed; .*$"):
        RegexFormat(["a"], "(?P<a>.{0,900})")


def test_without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where RE2 is not installed, the error names what to install."""
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ValueError, match=r"pip install 'txgateway\[regex\]'"):
        RegexFormat(["a"], "(?P<a>.)")


@pytest.mark.parametrize(
    ("pattern", "frame"),
    [
        ("(?P<x>(a+)+)b", b"a" * 65536),
        ("(?P<x>(a|a)*)b", b"a" * 65536),
        ("(?P<x>(?:a|ab|b)*)(?P<y>.*)c", b"ab" * 32768),
        ("(?P<x>(?:.*a.*a.*a.*)*)(?P<y>a*)", b"ab" * 32768),
    ],
)
def test_linear_time(pattern: str, frame: bytes) -> None:
    """Patterns that take C{re} longer than anybody waits take milliseconds."""
    format_ = RegexFormat(["x"], pattern)

    def once() -> float:
        start = time.thread_time()
        format_.parse_frames([frame])
        return time.thread_time() - start

    assert min(once() for _ in range(3)) < 0.3


@given(
    st.lists(st.binary(max_size=12) | st.text("ab é=,\n", max_size=12).map(str.encode), min_size=1)
)
def test_any_bytes(frames: list[bytes]) -> None:
    """No bytes raise; a message is read as C{re} reads it, whatever its neighbours are."""
    pattern = "(?P<key>[^=]*)=(?P<value>[^,\n]*)(?:,(?P<rest>.*))?"
    fields = ("key", "value", "rest")
    rows, faults = read(pattern, *frames, fields=fields)
    for place, frame in enumerate(frames):
        alone, own = read(pattern, frame, fields=fields)
        assert alone == [rows[place]]
        assert own.get(0) == faults.get(place)
        try:
            found = re.fullmatch(pattern, frame.decode())
        except UnicodeDecodeError:
            assert faults[place].startswith("not UTF-8: ")
            continue
        assert (place in faults) == (found is None)
        if found is not None:
            assert rows[place] == found.groups()
