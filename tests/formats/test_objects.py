"""
Decoded messages: what JSON has no form for is written as PostgreSQL itself writes it.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from ipaddress import ip_address, ip_interface, ip_network
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Tokens
from gateway.formats.objects import (
    MAX_DEPTH,
    ObjectReader,
    Unwritable,
    fault_of,
    json_token,
    moment,
)
from tests.support import TemporaryServer


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 7


def read(fields: list[str], *rows: Any) -> tuple[dict[str, list[str]], dict[int, str]]:
    """@return: what the fields hold, and why some messages were refused."""
    found = ObjectReader(fields).read(rows, {})
    cells = {}
    for name, cell in found.cells.items():
        assert isinstance(cell, Tokens)
        cells[name] = [bytes(token).decode() for token in cell.values]
    return cells, {row: outcome.text for row, outcome in found.faults}


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (None, "null"),
        (True, "true"),
        (-(2**70), "-1180591620717411303424"),
        (0.1, "0.1"),
        (1e22, "1e22"),
        (1e-7, "1e-7"),
        (math.nan, '"NaN"'),
        (-math.inf, '"-Infinity"'),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+5"), "1E+5"),
        (Decimal("-Infinity"), '"-Infinity"'),
        (Decimal("sNaN"), '"NaN"'),
        ('a"\n\0é', '"a\\"\\n\\u0000é"'),
        (Colour.RED, '"red"'),
        (Level.HIGH, "7"),
        (b"\0\xff", '"\\\\x00ff"'),
        (memoryview(b"ab"), '"\\\\x6162"'),
        (datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC), '"2026-01-02T03:04:05.000600+00:00"'),
        (datetime(2026, 1, 2), '"2026-01-02T00:00:00"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(1, 2), '"01:02:00"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (ip_address("::1"), '"::1"'),
        (ip_network("10.0.0.0/8"), '"10.0.0.0/8"'),
        (ip_interface("10.0.0.1/8"), '"10.0.0.1/8"'),
        ([1, (b"", [None])], '[1,["\\\\x",[null]]]'),
        ({"a": {1: b"x"}, -5: []}, '{"a":{"1":"\\\\x78"},"-5":[]}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
    ],
)
def test_a_value_is_one_token(value: object, token: str) -> None:
    """Each value has one form, which is JSON."""
    assert json_token(value) == token
    json.loads(token)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "a value in it is of type object, which no column takes"),
        ([{1, 2}], "a value in it is of type set, which no column takes"),
        (timedelta(1), "a value in it is of type timedelta, which no column takes"),
        ({None: 1}, "a key in it is nothing, no text"),
        ({True: 1}, "a key in it is a truth value, no text"),
        ({1.5: 1}, "a key in it is a number, no text"),
        ({b"a": 1}, "a key in it is bytes, no text"),
        ("\ud800", "a text in it holds half of a surrogate pair"),
        ([10**4400], "an integer in it has more than 4300 digits"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_column_takes(value: object, why: str) -> None:
    """It is refused with its reason, whether it is alone or among plain values."""
    with pytest.raises(Unwritable) as caught:
        json_token(value)
    assert str(caught.value) == why
    cells, faults = read(["v", "w"], {"v": 1, "w": 2}, {"v": value, "w": 3}, {"v": "x"})
    assert cells == {"v": ["1", "null", '"x"'], "w": ["2", "null", "null"]}
    assert faults == {1: f"field 'v': {why}"}


def test_depth() -> None:
    """A value may be nested so deep, whatever holds it, and no deeper."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert json_token(value) == "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    with pytest.raises(Unwritable, match="nested too deeply"):
        json_token([value])


def test_paths() -> None:
    """Names, paths, a map and what is in it; a map of any kind is one."""
    cells, faults = read(
        ["a", "b.c", "b", "b.d.e"],
        {"a": 1, "b": {"c": 2.5, "d": OrderedDict(e=[1])}},
        {"b": None},
        {"b": {"d": None}},
        MappingProxyType({"a": "x"}),
    )
    assert faults == {}
    assert cells == {
        "a": ["1", "null", "null", '"x"'],
        "b": ['{"c":2.5,"d":{"e":[1]}}', "null", '{"d":null}', "null"],
        "b.c": ["2.5", "null", "null", "null"],
        "b.d.e": ["[1]", "null", "null", "null"],
    }


def test_integers_as_keys() -> None:
    """An integer is found by its decimal digits; of it and the same text the later counts."""
    rows = [{1: "a"}, {"1": "b"}, {1: "a", "1": "b"}, {"1": "b", 1: "a"}, {-1: {2: "c"}}, {"01": 1}]
    cells, faults = read(["1", "-1.2"], *rows)
    assert faults == {}
    assert cells["1"] == ['"a"', '"b"', '"b"', '"a"', "null", "null"]
    assert cells["-1.2"] == [*["null"] * 4, '"c"', "null"]


def test_what_is_no_map() -> None:
    """A message, or a field with other fields in it, is a map with keys that are text."""
    _, faults = read(["a.b", "c"], [1], None, "x", {"a": 5}, {None: 1}, {"a": {1.5: 1}}, {"c": 1})
    assert faults == {
        0: "the message is not a map but an array",
        1: "the message is not a map but nothing",
        2: "the message is not a map but text",
        3: "field 'a' is not a map but a number",
        4: "the message has a key that is nothing, no text",
        5: "field 'a' has a key that is a number, no text",
    }
    assert [fault_of(field) for field in ("a.b", "é", "1", "a..b", "")] == [
        *(None, None, None),
        *["has an empty name in its path"] * 2,
    ]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.decimals(),
    st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.uuids(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3) | st.integers(), inner),
    max_leaves=8,
)


@given(st.lists(VALUES, min_size=1))
def test_together_as_alone(values: list[Any]) -> None:
    """Written for all rows at once, each value is written as it is alone."""
    cells, faults = read(["v"], *({"v": value} for value in values))
    assert faults == {}
    assert cells["v"] == [json_token(value) for value in values]


def test_as_the_server_writes_it(server: TemporaryServer) -> None:
    """Bytes, times and numbers that are none look in JSON as to_jsonb has them look."""
    values: list[tuple[str, Any]] = [
        *(("bytea", value) for value in (b"", b"\0\\\xff", b"abc")),
        *(("float8", value) for value in (1.5, math.nan, math.inf, -math.inf)),
        *(("numeric", value) for value in (Decimal("1.10"), Decimal("NaN"))),
        ("timestamptz", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("timestamptz", datetime(2026, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=2)))),
        ("timestamp", datetime(2026, 1, 2, 3, 4, 5)),
        *(("date", date(2026, 1, 2)), ("time", time(1, 2, 3))),
        *(("bool", True), ("bigint", 2**62), ("text", 'a"\n')),
    ]
    with server.create_database() as database, closing(psycopg2.connect(database.dsn)) as session:
        cursor = session.cursor()
        cursor.execute("SET timezone = 'UTC'")
        for kind, value in values:
            cursor.execute(f"SELECT to_jsonb(%s::{kind})::text", (value,))
            ((written,),) = cursor.fetchall()
            token = json.loads(json_token(value))
            if kind == "timestamptz":
                token = datetime.fromisoformat(token).astimezone(UTC).isoformat()
            assert token == json.loads(written), (kind, value)


def test_moments() -> None:
    """A time has all digits that came, and is one between the years 1 and 9999."""
    assert moment(0) == "1970-01-01T00:00:00Z"
    assert moment(-1, "123456789") == "1969-12-31T23:59:59.123456789Z"
    assert moment(1_700_000_000, "500000000") == "2023-11-14T22:13:20.5Z"
    for seconds in (253_402_300_800, -62_135_596_801, 10**30):
        with pytest.raises(Unwritable):
            moment(seconds)
