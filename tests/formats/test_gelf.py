"""
GELF: what the format demands is there, and what senders write all the same is taken.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Tokens
from gateway.formats.gelf import GelfFormat, fault_of, sample

GOOD: dict[str, Any] = {"version": "1.1", "host": "h", "short_message": "m"}


def read(fields: list[str], *messages: Any) -> tuple[dict[str, list[str]], dict[int, str]]:
    """
    @param messages: bytes, or what is to be JSON.
    @return: what the fields hold, and why some messages were refused.
    """
    frames = [m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages]
    found = GelfFormat(fields).parse_frames(frames)
    assert list(found.cells) == fields
    cells = {}
    for name, cell in found.cells.items():
        assert isinstance(cell, Tokens)
        cells[name] = [bytes(token).decode() for token in cell.values]
    return cells, {row: outcome.text for row, outcome in found.faults}


def test_fields() -> None:
    """The format's own fields and those that a sender adds, whose names may hold dots."""
    message = {
        **GOOD,
        **{"full_message": "f", "timestamp": 1385053862.3072, "level": 1, "_a": "x"},
        **{"_http.status": 404, "_a-b": None, "facility": "old"},
    }
    names = [
        *("host", "short_message", "full_message", "timestamp", "level", "facility", "version"),
        *("_a", "_http.status", "_a-b", "_none", "additional"),
    ]
    cells, faults = read(names, message)
    assert faults == {}
    assert [token for (token,) in cells.values()] == [
        *('"h"', '"m"', '"f"', "1385053862.3072", "1", '"old"', '"1.1"'),
        *('"x"', "404", "null", "null", '{"a":"x","http.status":404,"a-b":null}'),
    ]


def test_additional_fields_where_there_are_none() -> None:
    """No additional field is NULL, not an empty object."""
    assert read(["additional"], GOOD) == ({"additional": ["null"]}, {})


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"short_message": "m"}, "no GELF message: it has no 'host'"),
        ({**GOOD, "host": None}, "no GELF message: it has no 'host'"),
        ({**GOOD, "host": ""}, "no GELF message: its 'host' is empty"),
        ({**GOOD, "host": " \t"}, "no GELF message: its 'host' is empty"),
        (b'{"host":"\\u0020","short_message":"m"}', "no GELF message: its 'host' is empty"),
        ({**GOOD, "host": 5}, "no GELF message: its 'host' is no text"),
        ({"host": "h"}, "no GELF message: it has no 'short_message'"),
        ({"host": "h", "message": 1}, "no GELF message: its 'short_message' is no text"),
        ({**GOOD, "short_message": {}}, "no GELF message: its 'short_message' is no text"),
        ([GOOD], "the message is not a JSON object but an array"),
        (b"<13>hello", "not JSON: invalid character (byte 0)"),
        (b'{"host":"h","short_message":"\xff"}', "not JSON: not UTF-8: invalid start byte"),
        (b'{"host":"\xff"}', "not JSON: not UTF-8: invalid start byte"),
        (b'{"host":"h","short_message":"m","_x":NaN}', "not JSON: invalid character"),
        (b'{"host":"h","short_message":"m"}{', "not JSON: trailing characters"),
        (b"", "not JSON: it is empty"),
    ],
)
def test_refusals(message: Any, why: str) -> None:
    """A message without what the format demands is refused, with a text that says what it is."""
    cells, faults = read(["host", "short_message", "additional"], GOOD, message, GOOD)
    assert cells == {
        "host": ['"h"', "null", '"h"'],
        "short_message": ['"m"', "null", '"m"'],
        "additional": ["null"] * 3,
    }
    assert list(faults) == [1] and faults[1].startswith(why), faults


@pytest.mark.parametrize(
    "message",
    [
        {"host": "h", "short_message": "m"},
        {**GOOD, "version": "1.0"},
        {**GOOD, "version": 1.1},
        {"host": "h", "message": "m"},
        {"host": "h", "message": "m", "short_message": None},
        b'{"host":"h","short_message":"m",}',
        b'{"host":"h","short_message":"m","_a":[1,2 , ] , }',
        b'{"host":"h","short_message":"m"}\n\r ',
        b'{"host":"h","short_message":"m","_a":true,"_b":{}}',
    ],
)
def test_what_senders_write_all_the_same(message: Any) -> None:
    """What Graylog takes of it is taken here, and means the same."""
    assert read(["host", "short_message"], message) == (
        {"host": ['"h"'], "short_message": ['"m"']},
        {},
    )


def test_control_characters() -> None:
    """A line break or another control character within a text is part of it."""
    frame = b'{"host":"h","short_message":"a\nb\t\\n\\"\x01","_c":"x,}",}'
    cells, faults = read(["short_message", "additional"], frame)
    assert faults == {}
    assert json.loads(cells["short_message"][0]) == 'a\nb\t\n"\x01'
    assert json.loads(cells["additional"][0]) == {"c": "x,}"}


@given(
    st.dictionaries(
        st.text(max_size=4).map("_{}".format),
        st.one_of(st.integers(), st.text(max_size=6), st.lists(st.text(max_size=3))),
        max_size=3,
    ),
    st.text(min_size=1).filter(str.strip),
    st.text(),
)
def test_any_message(added: dict[str, Any], host: str, text: str) -> None:
    """Whatever is in texts and names comes out, also where control characters are raw."""
    message = {"host": host, "short_message": text, **added}
    written = json.dumps(message, ensure_ascii=False)
    for escape, raw in (("\\n", "\n"), ("\\t", "\t"), ("\\u0001", "\x01")):
        written = written.replace("\\\\", "\\u005c").replace(escape, raw)
    if any("\ud800" <= c <= "\udfff" for c in written):
        return
    cells, faults = read(["host", "short_message", "additional"], written.encode())
    assert faults == {}
    assert json.loads(cells["host"][0]) == host and json.loads(cells["short_message"][0]) == text
    assert (json.loads(cells["additional"][0]) or {}) == {n[1:]: v for n, v in added.items()}


def test_fields_that_cannot_be() -> None:
    """The configuration is told of a field that no message has, and what was likely meant."""
    assert all(fault_of(name) is None for name in ("host", "level", "_a", "_a..b", "additional"))
    assert "try '_user'" in (fault_of("user") or "")
    assert fault_of("_a\n") is not None


def test_sample() -> None:
    """The example of a message has all fields."""
    cells, faults = read(
        ["host", "_a.b", "level"], sample({"host": 1, "_a.b": 2, "level": 3}).encode()
    )
    assert (cells, faults) == ({"host": ['"host"'], "_a.b": ["2"], "level": ["3"]}, {})
