"""
Formats: what goes in comes out of C{string_to_array} again, or is refused by name.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns.literal import all_quoted
from gateway.model.errors import FramesRefused
from gateway.sql.joined import BytesFormat, TextFormat

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@given(st.lists(texts, min_size=1, max_size=20))
def test_text_is_joined_losslessly(messages: list[str]) -> None:
    """Splitting at the separator gives the messages back, LF and all."""
    text, separator = TextFormat().encode([m.encode() for m in messages])
    assert text.split(separator) == messages
    assert len(separator) == 1


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_any_bytes_as_text(messages: list[bytes]) -> None:
    """Exactly the messages that are not UTF-8 or hold NUL are refused, each with its reason."""

    def good(message: bytes) -> bool:
        try:
            return "\0" not in message.decode()
        except UnicodeDecodeError:
            return False

    try:
        text, separator = TextFormat().encode(messages)
        bad: list[int] = []
        assert [t.encode() for t in text.split(separator)] == messages
    except FramesRefused as refused:
        bad = [position for position, _ in refused.faults]
    assert bad == [i for i, message in enumerate(messages) if not good(message)]


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"a\0b", b"\xf4\x90\x80\x80"]
)
def test_never_replaced_silently(bad: bytes) -> None:
    """Invalid, overlong and surrogate encodings and NUL are refused, their neighbours are not."""
    with pytest.raises(FramesRefused) as caught:
        TextFormat().encode([b"good", bad, b"good"])
    assert [position for position, _ in caught.value.faults] == [1]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_bytes_travel_as_hexadecimal(messages: list[bytes]) -> None:
    """A bytea takes any bytes."""
    text, separator = BytesFormat().encode(messages)
    assert [bytes.fromhex(part) for part in text.split(separator)] == messages


def test_array_literal() -> None:
    """Quotes and backslashes are escaped, whatever else is data."""
    assert all_quoted(['a"b', "c\\d", "", "{e,f}"]) == r'"a\"b","c\\d","","{e,f}"'
