"""
CBOR: what cbor2 writes is read as it was meant, or refused by name.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

import cbor2
import pytest
from cbor2 import CBORTag
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.cbor import _MARK, CborFormat, _Decoder, sample
from gateway.formats.fields import Tokens
from gateway.formats.objects import json_token
from tests.formats.test_msgpack import VALUES


def read(fields: list[str], *frames: bytes) -> tuple[dict[str, list[str]], dict[int, str]]:
    """@return: what the fields hold, and why some frames were refused."""
    found = CborFormat(fields).parse_frames(frames)
    cells = {}
    for name, cell in found.cells.items():
        assert isinstance(cell, Tokens)
        cells[name] = [bytes(token).decode() for token in cell.values]
    return cells, {row: outcome.text for row, outcome in found.faults}


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (2**64 - 1, "18446744073709551615"),
        (-(2**64), "-18446744073709551616"),
        (2**100, "1267650600228229401496703205376"),
        (-(2**100), "-1267650600228229401496703205376"),
        (CBORTag(2, b""), "0"),
        (1.1, "1.1"),
        (cbor2.undefined, "null"),
        (b"\0", '"\\\\x00"'),
        (datetime(2013, 3, 21, 20, 4, 0, 500_000, tzinfo=UTC), '"2013-03-21T20:04:00.500000Z"'),
        (CBORTag(0, "2013-03-21T20:04:00+02:00"), '"2013-03-21T20:04:00+02:00"'),
        (CBORTag(1, 1363896240), '"2013-03-21T20:04:00Z"'),
        (CBORTag(1, -1.5), '"1969-12-31T23:59:58.5Z"'),
        (CBORTag(1, 1363896240.123457), '"2013-03-21T20:04:00.123457Z"'),
        (CBORTag(1, -1e-7), '"1969-12-31T23:59:59.9999999Z"'),
        (CBORTag(1, -2.0), '"1969-12-31T23:59:58Z"'),
        (CBORTag(1, 1e-7), '"1970-01-01T00:00:00.0000001Z"'),
        (Decimal("273.15"), "273.15"),
        (Decimal("-1E+40"), "-1E+40"),
        (CBORTag(4, [-2, 2**200]), str(2**200)[:-2] + "." + str(2**200)[-2:]),
        (CBORTag(5, [-1, 3]), "1.5"),
        (CBORTag(5, [-60, -1]), "-8.67361737988403547205962240695953369140625E-19"),
        (CBORTag(5, [3, 5]), "40"),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (CBORTag(100, -1), '"1969-12-31"'),
        (CBORTag(1004, "2026-01-02"), '"2026-01-02"'),
        (ip_address("10.0.0.1"), '"10.0.0.1"'),
        (ip_network("2001:db8::/32"), '"2001:db8::/32"'),
        (CBORTag(32, "http://x"), '"http://x"'),
        (CBORTag(35, "(a+)+$"), '"(a+)+$"'),
        (CBORTag(24, b"\x01"), '"\\\\x01"'),
        (CBORTag(258, [3, 3]), "[3,3]"),
        (CBORTag(4711, {"x": [CBORTag(1, 0)]}), '{"x":["1970-01-01T00:00:00Z"]}'),
        ({1: {"x": cbor2.undefined}}, '{"1":{"x":null}}'),
    ],
)
def test_values(value: Any, token: str) -> None:
    """Each kind of value, and each tag that changes what a value is, has its JSON."""
    # Whatever the thread's precision, no digit is lost.
    with localcontext(prec=5):
        cells, faults = read(["v"], cbor2.dumps({"v": value}), cbor2.dumps({"v": "plain"}))
    assert (cells, faults) == ({"v": [token, '"plain"']}, {})


def test_indefinite_lengths() -> None:
    """Maps, arrays, texts and bytes whose length is not known before are read as others."""
    frame = bytes.fromhex("bf6176 9f7f61616162ff5f4101 41ffff 01ff ff".replace(" ", ""))
    assert read(["v"], frame) == ({"v": ['["ab","\\\\x01ff",1]']}, {})


def test_self_described() -> None:
    """A message may begin with the tag that says that it is CBOR."""
    assert read(["v"], b"\xd9\xd9\xf7" + cbor2.dumps({"v": 1})) == ({"v": ["1"]}, {})


def test_repeated_keys() -> None:
    """Of a key that is there twice the last value counts, as in JSON."""
    assert read(["a"], b"\xa2\x61a\x01\x61a\x02") == ({"a": ["2"]}, {})


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "not CBOR: it is empty"),
        (b"\xa1\x61", "not CBOR: it ends too early"),
        (b"\x9f\x01", "not CBOR: it ends too early"),
        (b"\xbb" + b"\xff" * 8, "not CBOR: "),
        (b"\x5b" + b"\xff" * 8, "not CBOR: it ends too early"),
        (b"\xa0\x00", "not CBOR: more follows behind its end"),
        (b"\xa0" + _MARK, "not CBOR: more follows behind its end"),
        (_MARK, "the message is not a map but bytes"),
        (b"\xff", "not CBOR: "),
        (b"\x1c", "not CBOR: "),
        (b"\xa1\x61a\x61\xff", "not CBOR: a text is not UTF-8: invalid start byte"),
        (b"\x81" * 100_000, "not CBOR: nested too deeply"),
        (b"\x80", "the message is not a map but an array"),
        (cbor2.dumps({"a": {None: 1}}), "field 'a': a key in it is nothing, no text"),
        (cbor2.dumps({(1, 2): 1}), "the message has a key that is an array, no text"),
        (cbor2.dumps({"a": cbor2.CBORSimpleValue(3)}), "field 'a': a value in it is of type CBORS"),
        (cbor2.dumps({"a": CBORTag(0, 5)}), "not a message: a time of tag 0 or 1004 is no text"),
        (cbor2.dumps({"a": CBORTag(1, "x")}), "not a message: a time of tag 1 is no number"),
        (cbor2.dumps({"a": CBORTag(1, float("nan"))}), "not a message: a time of tag 1 is no"),
        (cbor2.dumps({"a": CBORTag(1, 10**12)}), "not a message: a time that is not between"),
        (cbor2.dumps({"a": CBORTag(1, 1e300)}), "not a message: a time that is not between"),
        (cbor2.dumps({"a": CBORTag(2, "x")}), "not a message: an integer of tag 2 or 3"),
        (cbor2.dumps({"a": CBORTag(4, [1])}), "not a message: a number of tag 4 or 5"),
        (cbor2.dumps({"a": CBORTag(4, [10**9, 1])}), "not a message: a number of tag 4 has"),
        (cbor2.dumps({"a": CBORTag(5, [10**9, 1])}), "not a message: a number of tag 5 has"),
        (cbor2.dumps({"a": CBORTag(2, b"\xff" * 9999)}), "field 'a': an integer in it has more"),
        (cbor2.dumps({"a": CBORTag(30, [1, 3])}), "not a message: tag 30, a ratio, is not taken"),
        (cbor2.dumps({"a": CBORTag(37, b"x")}), "not a message: a UUID of tag 37 is not 16 bytes"),
        (cbor2.dumps({"a": CBORTag(100, "x")}), "not a message: a day of tag 100 is no day"),
        (cbor2.dumps({"a": CBORTag(260, b"x")}), "not CBOR: "),
        (bytes.fromhex("a16161d81c81d81d00"), "not a message: tags 25, 28, 29 and 256"),
        (bytes.fromhex("a16161d90100826161d81900"), "not a message: tags 25, 28, 29 and 256"),
    ],
)
def test_refusals(frame: bytes, why: str) -> None:
    """A message at fault is refused with its reason, and nothing is refused with it."""
    good = cbor2.dumps({"a": 1})
    cells, faults = read(["a"], good, frame, good)
    assert cells == {"a": ["1", "null", "1"]}
    assert list(faults) == [1] and faults[1].startswith(why), faults


def test_good_messages_are_decoded_at_once() -> None:
    """What looks at each message alone is for chunks with one at fault."""
    rows = [{"a": 1}, {}, {"b": [b"x"]}]
    assert _Decoder().decode([cbor2.dumps(row) for row in rows]) == rows
    assert _Decoder().decode([cbor2.dumps(1), b""]) is None


def test_a_tag_takes_no_mark() -> None:
    """Whatever tag a message ends with, what follows is none of it."""
    decoder = _Decoder()
    good = b"\xa0"
    for tag in (*range(300), 1004, 43000, 55799, 55800, 2**16, 2**32, 2**64 - 1):
        frame = good + cbor2.dumps(CBORTag(tag, 0))[:-1]
        assert decoder.decode([frame, good]) is None, tag
        _, faults = read(["a"], frame, good)
        assert list(faults) == [0] and "more follows" in faults[0], tag


def test_a_message_that_holds_the_mark() -> None:
    """What stands between messages while they are decoded may be in one."""
    value = _MARK[1:] + b"x"
    cells, faults = read(["v"], *(cbor2.dumps({"v": v}) for v in (_MARK[1:], value, 1)))
    assert faults == {}
    assert [json.loads(token) for token in cells["v"]] == [
        *("\\x" + v.hex() for v in (_MARK[1:], value)),
        1,
    ]


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_what_was_written_is_read(values: list[Any]) -> None:
    """Whatever cbor2 writes of JSON's values and bytes comes out as the same value."""
    cells, faults = read(["v"], *(cbor2.dumps({"v": value}) for value in values))
    assert faults == {}
    found = [json.loads(token) for token in cells["v"]]
    assert found == [json.loads(json_token(value)) for value in values]


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4))
def test_any_bytes(frames: list[bytes]) -> None:
    """Together each frame is what it is alone."""
    cells, faults = read(["a"], *frames)
    for number, frame in enumerate(frames):
        alone, fault = read(["a"], frame)
        assert alone["a"] == [cells["a"][number]] and fault.get(0) == faults.get(number)


def test_sample() -> None:
    """The example of a message has all fields."""
    cells, faults = read(["a.b", "c"], sample({"a.b": 1, "c": "x"}))
    assert (cells, faults) == ({"a.b": ["1"], "c": ['"x"']}, {})
