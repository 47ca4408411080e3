"""
JSON: fields are found wherever they are, and what is no object is refused by name.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Tokens
from gateway.formats.json import JsonFormat, fault_of


@pytest.mark.parametrize("field", ["", "a.", ".a", "a..b", 'a"', "a\\b", "a\n"])
def test_fields_that_cannot_be(field: str) -> None:
    """The configuration is told of a field that no message could be searched for."""
    assert fault_of(field) is not None and fault_of("a.b c.é") is None


def read(fields: list[str], *frames: bytes) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """@return: what the fields hold, and why some frames were refused."""
    found = JsonFormat(fields).parse_frames(frames)
    cells = {}
    for name, cell in found.cells.items():
        assert isinstance(cell, Tokens)
        cells[name] = [bytes(token).decode() for token in cell.values]
    return cells, {row: bytes(outcome).decode() for row, outcome in found.faults}


def test_bytes_of_fields_that_nobody_wants() -> None:
    """A message is UTF-8 as a whole, also where no column looks."""
    _, faults = read(["a"], b'{"a": 1, "b": "\xc3\xa9"}', b'{"a": 1, "b": "\xff"}', b'{"a": 2}')
    assert faults == {
        1: "-REJ FORMAT :not JSON: not UTF-8: invalid start byte (byte 15)",
    }
    cells, _ = read(["a", "b.c"], b'{"a": 1, "b": 5}', b'{"a": 1, "x": "\xff"}')
    assert cells == {"a": ["null"] * 2, "b.c": ["null"] * 2}, "one at fault has no field"


def test_fields_and_paths() -> None:
    """Names, dotted paths, an object and what is in it; values stay as they were written."""
    cells, faults = read(
        ["a", "b.c", "b", "b.d.e"],
        b'{"a": 1.50, "b": {"c": "x", "d": {"e": [1, 2]}}}',
        b' {"b": {"c": null, "d": null}, "A": 1} ',
        b'{"a": 1, "a": 2, "b": null}',
        b"{}",
    )
    assert faults == {}
    assert cells == {
        "a": ["1.50", "null", "2", "null"],
        "b": ['{"c": "x", "d": {"e": [1, 2]}}', '{"c": null, "d": null}', "null", "null"],
        "b.c": ['"x"', "null", "null", "null"],
        "b.d.e": ["[1, 2]", "null", "null", "null"],
    }


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "not JSON: it is empty"),
        (b"  ", "not JSON: it is empty"),
        (b"5", "the message is not a JSON object but a number"),
        (b'"x"', "the message is not a JSON object but a string"),
        (b"[1]", "the message is not a JSON object but an array"),
        (b"null", "the message is not a JSON object but null"),
        (b'{"a":', "not JSON: it ends too early"),
        (b'{"a": 1}}', "not JSON: trailing characters (byte 9)"),
        (b'{"a": 1}{"a": 2}', "not JSON: trailing characters (byte 9)"),
        (b'{"a": NaN}', "not JSON: invalid character (byte 6)"),
        (b"{'a': 1}", "not JSON: object keys must be strings (byte 1)"),
        (b'{"a": 01}', "not JSON: invalid number (byte 7)"),
        (b'{"a": "\n"}', "not JSON: invalid character (byte 7)"),
        (b'{"a": "\\ud800"}', "not JSON: half of a surrogate pair (byte 7)"),
        (b'{"a": {"b": 1}, "b": {"a": 5}}', "field 'b.a' is not a JSON object but a number"),
        (b'{"b": []}', "field 'b' is not a JSON object but an array"),
        (b'{"x": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "not JSON: nested too deeply"),
    ],
)
def test_what_is_refused(frame: bytes, why: str) -> None:
    """Only the message at fault, with the position or the field."""
    good = b'{"a": 1, "b": {"a": {"b": 2}}}'
    cells, faults = read(["a", "b.a.b"], good, frame, good)
    assert faults == {1: f"-REJ FORMAT :{why}"}
    assert cells["a"][0::2] == ["1", "1"] and cells["b.a.b"] == ["2", "null", "2"]


names = st.text(
    st.characters(exclude_characters='.\\"', exclude_categories=["Cc"], codec="utf-8"),
    min_size=1,
    max_size=5,
)


@given(st.lists(st.dictionaries(names, st.integers() | st.text(st.characters(codec="utf-8")))))
def test_any_object(objects: list[dict[str, Any]]) -> None:
    """Whatever a field is called and holds, it is found."""
    wanted = sorted({name for one in objects for name in one}) or ["x"]
    frames = [json.dumps(one).encode() for one in objects] or [b"{}"]
    cells, faults = read(wanted, *frames)
    assert faults == {}
    for name in wanted:
        assert [json.loads(token) for token in cells[name]] == [
            one.get(name) for one in objects or [{}]
        ]


@given(st.lists(st.binary(max_size=20) | st.text('{}[]",:ab1.\\u \n', max_size=12), min_size=1))
def test_any_bytes(frames: list[bytes | str]) -> None:
    """Nothing raises, and no message changes what its neighbours are."""
    told = [frame.encode() if isinstance(frame, str) else frame for frame in frames]
    cells, faults = read(["a", "a.b"], *told)
    for row, frame in enumerate(told):
        alone, fault = read(["a", "a.b"], frame)
        assert {name: values[row] for name, values in cells.items()} == {
            name: values[0] for name, values in alone.items()
        }
        assert faults.get(row) == fault.get(0)
