"""
MessagePack: what a library of others writes is read as it was meant, or refused by name.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Tokens
from gateway.formats.msgpack import MsgpackFormat, sample
from gateway.formats.objects import json_token


def read(fields: list[str], *frames: bytes) -> tuple[dict[str, list[str]], dict[int, str]]:
    """@return: what the fields hold, and why some frames were refused."""
    found = MsgpackFormat(fields).parse_frames(frames)
    cells = {}
    for name, cell in found.cells.items():
        assert isinstance(cell, Tokens)
        cells[name] = [bytes(token).decode() for token in cell.values]
    return cells, {row: outcome.text for row, outcome in found.faults}


def test_values() -> None:
    """Each kind of value that MessagePack has becomes the JSON that a column reads."""
    message = {
        **{"n": None, "t": True, "i": 2**64 - 1, "j": -(2**63), "f": 0.1, "s": "é\n"},
        **{"b": b"\0\xff", "nan": float("nan"), "a": [1, [b"x"]], "m": {"x": float("inf")}},
    }
    cells, faults = read([*message, "m.x"], msgpack.packb(message))
    assert faults == {}
    assert {name: token for name, (token,) in cells.items()} == {
        **{"n": "null", "t": "true", "i": "18446744073709551615", "j": "-9223372036854775808"},
        **{"f": "0.1", "s": '"é\\n"', "b": '"\\\\x00ff"', "nan": '"NaN"'},
        **{"a": '[1,["\\\\x78"]]', "m": '{"x":"Infinity"}', "m.x": '"Infinity"'},
    }


def test_old_encoders() -> None:
    """Those from before 2013 have one type for text and bytes: it is text, or it is refused."""
    old = msgpack.packb({"a": b"abc", "b": b"\xff"}, use_bin_type=False)
    good = msgpack.packb({"a": b"abc"}, use_bin_type=False)
    cells, faults = read(["a"], old, good)
    assert cells == {"a": ["null", '"abc"']}
    assert faults == {0: "not MessagePack: a text is not UTF-8: invalid start byte"}


def test_times() -> None:
    """A time keeps its nanoseconds, in each of the three forms it has, however deep it is."""
    times = [
        msgpack.Timestamp(1_700_000_000, 0),
        msgpack.Timestamp(1_700_000_000, 500),
        msgpack.Timestamp(2**34, 123_456_789),
        msgpack.Timestamp(-1, 999_999_999),
    ]
    frames = [msgpack.packb({"t": t, "d": {"x": [t]}}) for t in times]
    assert {len(msgpack.packb(t)) for t in times} == {6, 10, 15}
    cells, faults = read(["t", "d"], *frames, msgpack.packb({"t": 1}))
    assert faults == {}
    assert cells["t"] == [
        '"2023-11-14T22:13:20Z"',
        '"2023-11-14T22:13:20.0000005Z"',
        '"2514-05-30T01:53:04.123456789Z"',
        '"1969-12-31T23:59:59.999999999Z"',
        "1",
    ]
    assert [json.loads(token) for token in cells["d"][:4]] == [
        {"x": [json.loads(token)]} for token in cells["t"][:4]
    ]
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    cells, _ = read(["t"], msgpack.packb({"t": moment}, datetime=True))
    assert cells == {"t": ['"2026-01-02T03:04:05.000006Z"']}


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "not MessagePack: it is empty"),
        (b"\x81\xa1", "not MessagePack: it ends too early"),
        (b"\xdf\xff\xff\xff\xff", "not MessagePack: it ends too early"),
        (b"\xdd\xff\xff\xff\xff", "not MessagePack: it ends too early"),
        (b"\x80\x80", "not MessagePack: more follows (byte 1)"),
        (b"\xc1", "not MessagePack: invalid opcode '\\xc1' (byte 0)"),
        (b"{}", "not MessagePack: more follows (byte 1)"),
        (b"\x91" * 100_000, "not MessagePack: nested too deeply"),
        (b"\x91\xd6\xff\x01\x01\x01\x01" * 9, "not MessagePack: more follows (byte 7)"),
        (b"\x90", "the message is not a map but an array"),
        (msgpack.packb({"a": msgpack.ExtType(5, b"x")}), "field 'a': a value in it is of type Ext"),
        (b"\x81\xa1a\xd4\xff\x01", "not MessagePack: invalid MessagePack"),
        (msgpack.packb({"a": msgpack.Timestamp(2**62, 0)}), "not MessagePack: timestamp is out"),
        (msgpack.packb({"a": msgpack.Timestamp(253402300800)}), "not MessagePack: year 10000"),
        (msgpack.packb({None: 1}), "the message has a key that is nothing, no text"),
        (b"\x81\x90\x01", "the message has a key that is an array, no text"),
        (b"\x81\x80\x01", "not "),
        (msgpack.packb({"a": {1.5: 1}}), "field 'a': a key in it is a number, no text"),
    ],
)
def test_refusals(frame: bytes, why: str) -> None:
    """A message at fault is refused with its reason, and nothing is refused with it."""
    good = msgpack.packb({"a": 1})
    cells, faults = read(["a"], good, frame, good)
    assert cells == {"a": ["1", "null", "1"]}
    assert list(faults) == [1] and faults[1].startswith(why), faults


def test_what_nobody_wants() -> None:
    """An extension in a field that no column takes is no fault."""
    cells, faults = read(["a"], msgpack.packb({"a": 1, "b": msgpack.ExtType(5, b"x")}))
    assert (cells, faults) == ({"a": ["1"]}, {})


def test_of_a_repeated_key_the_last_counts() -> None:
    """As in JSON."""
    assert read(["a"], b"\x82\xa1a\x01\xa1a\x02") == ({"a": ["2"]}, {})


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.binary(max_size=5),
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_what_was_packed_is_read(values: list[Any]) -> None:
    """Whatever msgpack writes of JSON's values and bytes comes out as the same value."""
    cells, faults = read(["v"], *(msgpack.packb({"v": value}) for value in values))
    assert faults == {}
    found = [json.loads(token) for token in cells["v"]]
    assert found == [json.loads(json_token(value)) for value in values]


def test_sample() -> None:
    """The example of a message has all fields."""
    cells, faults = read(["a.b", "c"], sample({"a.b": 1, "c": "x"}))
    assert (cells, faults) == ({"a.b": ["1"], "c": ['"x"']}, {})
