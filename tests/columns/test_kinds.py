"""
Columns: what a kind accepts, PostgreSQL accepts and reads back as what was sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from psycopg2 import connect

from gateway.columns.column import Column, Misfits
from gateway.columns.kind import SqlType
from gateway.columns.kinds import kind_of
from gateway.formats.fields import Texts, Tokens
from tests.support import TemporaryServer

TYPES = {
    **{"int2": SqlType("smallint", "int2"), "int4": SqlType("integer", "int4")},
    **{"int8": SqlType("bigint", "int8"), "float4": SqlType("real", "float4")},
    **{"float8": SqlType("double precision", "float8"), "numeric": SqlType("numeric", "numeric")},
    **{"bool": SqlType("boolean", "bool"), "text": SqlType("text", "text")},
    **{"varchar": SqlType("character varying", "varchar", 3), "uuid": SqlType("uuid", "uuid")},
    **{"inet": SqlType("inet", "inet"), "cidr": SqlType("cidr", "cidr")},
    **{"bytea": SqlType("bytea", "bytea"), "json": SqlType("json", "json")},
    **{"jsonb": SqlType("jsonb", "jsonb"), "date": SqlType("date", "date")},
    "timestamptz": SqlType("timestamp with time zone", "timestamptz"),
    "timestamp": SqlType("timestamp without time zone", "timestamp"),
    "int4[]": SqlType("integer[]", "_int4", 0, SqlType("integer", "int4")),
    "text[]": SqlType("text[]", "_text", 0, SqlType("text", "text")),
    "jsonb[]": SqlType("jsonb[]", "_jsonb", 0, SqlType("jsonb", "jsonb")),
    "interval": SqlType("interval", "interval"),
}

AS_TEXT = ("timestamptz", "timestamp", "date", "inet", "cidr")

Read = Callable[..., list[Any]]
"""Gives what PostgreSQL makes of a piece of a column of some type."""


@pytest.fixture(scope="module")
def read(server: TemporaryServer) -> Iterator[Read]:
    with server.create_database() as database, closing(connect(database.dsn)) as connection:
        yield reads(connection)


def reads(connection: Any) -> Read:
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SET timezone = 'UTC'")

    def ask(name: str, piece: str, *as_text: str) -> list[Any]:
        kind = kind_of(TYPES[name])
        cast = f"::{TYPES[name].name}" if kind.cast else ""
        # As text where psycopg2 would lose something on the way.
        exact = "::text" if name in AS_TEXT or name in as_text else ""
        cursor.execute(
            f"SELECT u.c{cast}{exact} FROM unnest(%s::{kind.parameter}) AS u(c)",
            ("{" + piece + "}",),
        )
        return [row[0] for row in cursor.fetchall()]

    return ask


@pytest.fixture(scope="module")
def in_zone(server: TemporaryServer) -> Iterator[Callable[[str, list[str]], list[str]]]:
    """What PostgreSQL takes times for where its session has a zone, in UTC."""
    with server.create_database() as database, closing(connect(database.dsn)) as connection:
        yield reads_in_zone(connection)


def reads_in_zone(connection: Any) -> Callable[[str, list[str]], list[str]]:
    def ask(zone: str, texts: list[str]) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('timezone', %s, false)", (zone,))
            cursor.execute(
                "SELECT (u.c::timestamptz AT TIME ZONE 'UTC')::text"
                " FROM unnest(%s::text[]) AS u(c)",
                (texts,),
            )
            return [row[0] for row in cursor.fetchall()]

    return ask


def column(name: str, **keywords: Any) -> Column:
    return Column("c", "f", kind_of(TYPES[name]), **keywords)


def tokens(*values: str | bytes) -> Tokens:
    return Tokens([Raw(v.encode() if isinstance(v, str) else v) for v in values])


def encode(one: Column, cells: Tokens | Texts) -> tuple[str, Misfits]:
    misfits: Misfits = {}
    return one.encode(cells, misfits), misfits


@pytest.mark.parametrize(
    ("name", "sent", "stored"),
    [
        ("int2", ["-32768", '"7"', '" 7 "', "null"], [-32768, 7, 7, None]),
        ("int4", ["2147483647", "-0", '"+5"'], [2147483647, 0, 5]),
        ("int8", ["-9223372036854775808", "9223372036854775807"], [-(2**63), 2**63 - 1]),
        ("float8", ["1e-300", '"-Infinity"', "0.1", "0e-999"], [1e-300, -math.inf, 0.1, 0.0]),
        ("float4", ["1e30", "3"], [1e30, 3.0]),
        (
            "numeric",
            ["1e400", "0.10", '"123456789012345678901234567890.123456789"'],
            [
                Decimal("1e400"),
                Decimal("0.10"),
                Decimal("123456789012345678901234567890.123456789"),
            ],
        ),
        ("bool", ["true", '"off"', '"Yes"', "0"], [True, False, True, False]),
        ("text", ['"a,\\"b\\\\\\n\\u00e9"', "1.50", "true", '{"a": 1}', '""'], None),
        ("varchar", ['"abc"', '"\\u00e9\\u00e9\\u00e9"', "12"], ["abc", "ééé", "12"]),
        (
            "uuid",
            ['"00000000-0000-0000-0000-00000000000A"', '"{0000000000000000000000000000000a}"'],
            ["00000000-0000-0000-0000-00000000000a"] * 2,
        ),
        ("inet", ['"10.0.0.1"', '"::1"', '"10.1.2.3/8"'], ["10.0.0.1/32", "::1/128", "10.1.2.3/8"]),
        ("cidr", ['"10.0.0.0/8"', '"10.0.0.1"'], ["10.0.0.0/8", "10.0.0.1/32"]),
        ("bytea", ['"\\\\x00ff"', '"AP8="', '""'], [b"\0\xff", b"\0\xff", b""]),
        ("jsonb", ['{"a": [1, null], "null": "null"}', "null", '"null"', "1e400"], None),
        ("date", ['"2024-02-29"', '"infinity"'], ["2024-02-29", "infinity"]),
        (
            "timestamptz",
            [
                '"2026-11-21T10:00:00Z"',
                '"2026-11-21 10:00:00.123456+01:00"',
                '"2026-11-21T10:00"',
                '"2026-11-21"',
                '"2024-02-29T23:59:60Z"',
                "1700000000",
                "1700000000.5",
                "1700000000123",
                "1700000000123456",
                "1700000000123456789",
                '"1700000000"',
                "-1",
                '"0001-01-01T00:00:00Z"',
            ],
            [
                "2026-11-21 10:00:00+00",
                "2026-11-21 09:00:00.123456+00",
                "2026-11-21 10:00:00+00",
                "2026-11-21 00:00:00+00",
                "2024-03-01 00:00:00+00",
                "2023-11-14 22:13:20+00",
                "2023-11-14 22:13:20.5+00",
                "2023-11-14 22:13:20.123+00",
                "2023-11-14 22:13:20.123456+00",
                "2023-11-14 22:13:20.123457+00",
                "2023-11-14 22:13:20+00",
                "1969-12-31 23:59:59+00",
                "0001-01-01 00:00:00+00",
            ],
        ),
        (
            "timestamp",
            ['"2026-11-21T10:00:00"', '"2026-11-21T10:00:00+02:00"', "0"],
            ["2026-11-21 10:00:00", "2026-11-21 08:00:00", "1970-01-01 00:00:00"],
        ),
        (
            "int4[]",
            ["[1, null, 3]", "[]", '"{4,5}"', "[[1],[2]]"],
            [[1, None, 3], [], [4, 5], [[1], [2]]],
        ),
        ("text[]", ['["a,b", "c\\"d", "NULL", "", null]'], [["a,b", 'c"d', "NULL", "", None]]),
        ("interval", ['"1 day"'], [timedelta(days=1)]),
    ],
)
def test_what_is_stored(read: Read, name: str, sent: list[str], stored: list[Any] | None) -> None:
    """Values are stored as what they say, alone or together; text and JSON as they came."""
    if name == "text":
        stored = ['a,"b\\\né', "1.50", "true", '{"a": 1}', ""]
    elif name == "jsonb":
        stored = [{"a": [1, None], "null": "null"}, None, "null", 10**400]
    piece, misfits = encode(column(name), tokens(*sent))
    assert misfits == {} and stored is not None

    def plain(values: list[Any]) -> list[Any]:
        return [bytes(v) if isinstance(v, memoryview) else v for v in values]

    found = plain(read(name, piece))
    if name == "float4":
        assert found == pytest.approx(stored, rel=1e-6)
    else:
        assert found == stored
    for one, wanted in zip(sent, found, strict=True):
        assert plain(read(name, encode(column(name), tokens(one))[0])) == [wanted]


@pytest.mark.parametrize(
    ("name", "sent", "why"),
    [
        ("int2", "32768", "'32768' is out of range for smallint"),
        ("int4", "1.5", "'1.5' is not an integer"),
        ("int4", "true", "'true' is not an integer"),
        ("int4", '{"a":1}', "'{\"a\":1}' is an object, not integer"),
        ("int8", "9" * 99, "'" + "9" * 40 + "...' is out of range for bigint"),
        ("float8", "1e400", "'1e400' is out of range for double precision"),
        ("float8", "1e-400", "'1e-400' is out of range for double precision"),
        ("float4", "1e39", "'1e39' is out of range for real"),
        ("float8", '"1,000"', "'1,000' is not a number"),
        ("numeric", "1e999999999", "'1e999999999' is out of range for numeric"),
        ("bool", '"maybe"', "'maybe' is not a truth value"),
        ("varchar", '"abcd"', "'abcd' is longer than 3 characters"),
        ("text", '"a\\u0000b"', "'a?b' holds the character NUL (byte 0), which text cannot"),
        ("uuid", '"x"', "'x' is not a UUID"),
        ("inet", '"localhost"', "'localhost' is not an IP address"),
        ("cidr", '" 10.0.0.1"', "' 10.0.0.1' is not a network"),
        ("bytea", '"\\\\xf"', "'\\xf' is neither \\x and hexadecimal nor Base64"),
        ("jsonb", '"\\u0000"', "'\"\\u0000\"' holds the character NUL, which jsonb cannot"),
        ("date", '"2026-02-30"', "'2026-02-30' is no date: write it as 2000-12-31"),
        (
            "timestamptz",
            '"yesterday"',
            "'yesterday' is no time: neither ISO 8601 nor a number since 1970",
        ),
        ("int4[]", '[1, "x"]', "element 'x' is not an integer"),
        ("int4[]", "5", "'5' is not an array; write [1, 2] or {1,2}"),
        ("text", b'"\xff"', "not UTF-8: invalid start byte"),
    ],
)
def test_what_does_not_fit(name: str, sent: str | bytes, why: str) -> None:
    """Only the value at fault is named, with its column and the reason."""
    good = '"00000000-0000-0000-0000-000000000000"' if name == "uuid" else "null"
    piece, misfits = encode(column(name), tokens(good, sent, good))
    assert misfits == {1: f"column 'c': {why}"}
    assert piece.split(",")[1] == "NULL"


def test_what_is_missing() -> None:
    """A default stands in for what is not there; a required value is asked for by its field."""
    assert encode(column("int4", default="7"), tokens("1", "null")) == ("1,7", {})
    assert encode(column("jsonb", default="{}"), tokens("1", "null")) == ('"1","{}"', {})
    assert encode(column("text", default="x"), Texts(["a", None])) == ('"a","x"', {})
    for name in ("int4", "jsonb", "text"):
        assert encode(column(name, required=True), tokens("null"))[1] == {
            0: "column 'c': the message has no 'f'"
        }
        assert encode(column(name, required=True), Texts([None]))[1] != {}


ZONES = ("Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Africa/Cairo", "UTC")


@pytest.mark.parametrize("name", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("zone", ZONES)
def test_times_without_a_zone(
    read: Read, in_zone: Callable[[str, list[str]], list[str]], name: str, zone: str
) -> None:
    """They are what PostgreSQL takes them for in that zone, twice there or never, and long ago."""
    written = [
        *("2026-03-29T01:59:59", "2026-03-29T02:30:00", "2026-03-29 03:00"),
        *("2026-10-25T01:59:59.5", "2026-10-25T02:30:00", "2026-10-25T03:00:00"),
        *("2026-04-24T00:30:00", "2026-10-29T23:30:00", "2026-07-01", "1880-01-01T00:00:00"),
        *("2026-07-01T24:00:00", "2026-12-31T23:59:60", "2026-07-01T10:00:00-03", "infinity"),
        "2026-07-01T10:00:00+00:53:28",
    ]
    ours = Column("c", "f", kind_of(TYPES[name], ZoneInfo(zone)))
    piece, misfits = encode(ours, Texts(written))
    assert misfits == {}
    assert encode(ours, tokens(*map(json.dumps, written))) == (piece, {})
    stored = [str(value).removesuffix("+00") for value in read(name, piece)]
    assert stored == in_zone(zone, written)


COMPACT = [
    # A time as HL7 writes it, and what it is with MSH-7's offset of +0200 in a route of Berlin.
    ("20260701", "2026-06-30 22:00:00+00"),
    ("2026070110", "2026-07-01 08:00:00+00"),
    ("202607011030", "2026-07-01 08:30:00+00"),
    ("20260701103015", "2026-07-01 08:30:15+00"),
    ("20260701103015.1234", "2026-07-01 08:30:15.1234+00"),
    ("20260701103015-0330", "2026-07-01 14:00:15+00"),
    ("20260701+0000", "2026-07-01 00:00:00+00"),
    ("202607011030+0000", "2026-07-01 10:30:00+00"),
    ("2026-07-01T10:30:00Z", "2026-07-01 10:30:00+00"),
    ("2026-07-01T10:30:00", "2026-07-01 08:30:00+00"),
    ("infinity", "infinity"),
]

NOT_COMPACT = [
    *("2026", "202607", "20261301", "20260230", "2026070125", "202607011060", "1700000000"),
    *("20260701103061", "2026070110301", "20260701103015+01", "1700000000123", "x", "1"),
    *("202607011.5", "2026070110.5", "20260701103015+9900"),
]


def compact(name: str) -> Column:
    return Column("c", "f", kind_of(TYPES[name], ZoneInfo("Europe/Berlin"), compact=True))


def test_times_of_hl7(read: Read) -> None:
    """Digits are a date and a time; one without an offset has that of its message, else the
    route's; a date is that of the day named."""
    written, expected = zip(*COMPACT, strict=True)
    # July's offset in Berlin, so that it does not matter here which of both it is.
    for offsets in ([""] * len(written), ["+0200"] * len(written)):
        piece, misfits = encode(compact("timestamptz"), Texts(written, partial(list, offsets)))
        assert not misfits and read("timestamptz", piece) == list(expected)
    (piece, misfits) = encode(
        compact("timestamptz"), Texts(["20260701103015", None, "2026"], lambda: ["-0500", "", ""])
    )
    assert piece.startswith('"2026-07-01 15:30:15+00",NULL') and list(misfits) == [2]
    days = ["20260701", "2026070110", "20260701235959-0330", "2026-07-01"]
    piece, misfits = encode(compact("date"), Texts(days, lambda: ["+0100"] * 4))
    assert not misfits and read("date", piece) == ["2026-07-01"] * 4


@pytest.mark.parametrize("name", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("value", NOT_COMPACT)
def test_no_times_of_hl7(name: str, value: str) -> None:
    """What is none, or not as exact as the column, is refused: no number counts from 1970 here."""
    _, misfits = encode(compact(name), Texts([value], lambda: [""]))
    assert "is no " in misfits[0]


def test_times_of_hl7_in_arrays() -> None:
    """Each of a list is read as one alone."""
    times = SqlType(
        "timestamp with time zone[]", "_timestamptz", 0, TYPES["timestamptz"], delimiter=","
    )
    column = Column("c", "f", kind_of(times, None, compact=True))
    values = Texts(['["20260701103015",null,"20260701+0200"]'], lambda: ["-0500"])
    piece, misfits = encode(column, values)
    assert not misfits and piece.replace("\\", "") == (
        '"{"2026-07-01 15:30:15+00",NULL,"2026-06-30 22:00:00+00"}"'
    )


STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "int2": st.integers(-(2**15), 2**15 - 1),
    "int4": st.integers(-(2**31), 2**31 - 1),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(allow_nan=False, allow_infinity=False),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "text": st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    "uuid": st.uuids(),
    "bytea": st.binary(),
    "date": st.dates(),
    "timestamptz": st.datetimes(),
    "int4[]": st.lists(st.integers(-(2**31), 2**31 - 1)),
    "text[]": st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))),
    "jsonb": st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(st.characters(exclude_characters="\0", codec="utf-8")), inner)
        ),
        max_leaves=8,
    ),
}


def as_text(name: str, value: Any) -> str:
    """A value as a message of text would have it."""
    if name == "bytea":
        return f"\\x{value.hex()}"
    if name in ("jsonb", "int4[]", "text[]"):
        return json.dumps(value)
    if isinstance(value, date):  # and so a datetime
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)
    return str(value)


def as_stored(name: str, value: Any) -> Any:
    if name == "timestamptz":
        text = value.replace(tzinfo=UTC).isoformat(" ")
        head, _, fraction = text.removesuffix("+00:00").partition(".")
        fraction = fraction.rstrip("0")
        return f"{head}{'.' if fraction else ''}{fraction}+00"
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


@pytest.mark.parametrize("name", STRATEGIES)
def test_whatever_is_sent_reads_back(read: Read, name: str) -> None:
    """As JSON and as text, alone and among others, every value reads back equal."""

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | STRATEGIES[name], min_size=1, max_size=6))
    def hold(values: list[Any]) -> None:
        texts = [None if v is None else as_text(name, v) for v in values]
        scalars = name in ("int2", "int4", "int8", "float8", "numeric", "bool")
        if name in ("jsonb", "int4[]", "text[]"):
            written = ["null" if t is None else t for t in texts]
        elif scalars:
            written = ["null" if t is None else t.lower() for t in texts]
        else:
            written = [json.dumps(t) for t in texts]
        wanted = [None if v is None else as_stored(name, v) for v in values]
        for cells in (tokens(*written), Texts(texts)):
            piece, misfits = encode(column(name), cells)
            assert misfits == {}
            found = [bytes(v) if isinstance(v, memoryview) else v for v in read(name, piece)]
            assert found == wanted

    hold()


HOSTILE = st.one_of(
    st.text(max_size=30),
    st.text("0123456789+-.eE_ :TZtz/{}[]\",\\'xXinfaN\0", max_size=20),
    st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,12})?)?"
        r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)?",
        fullmatch=True,
    ),
    st.from_regex(r"[+-]?[0-9]{1,25}(\.[0-9]{0,25})?([eE][+-]?[0-9]{1,6})?", fullmatch=True),
    st.sampled_from(
        ["NaN", "nan", "1e400", "-1e400", "1e-400", "٣", "1,2", '"', "{}", "[]", "null", "NULL"]
    ),
)


JUDGED_BY_SERVER = ("interval", "inet", "cidr")


@pytest.mark.parametrize("name", [name for name in TYPES if name not in JUDGED_BY_SERVER])
def test_what_a_kind_accepts_the_server_accepts(read: Read, name: str) -> None:
    """Hostile text is refused here, for its own message alone, or taken by PostgreSQL."""

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(HOSTILE, min_size=1, max_size=5))
    def hold(values: list[str]) -> None:
        # What begins like PostgreSQL's own array is PostgreSQL's to judge, and so are
        # numbers that numeric cannot hold or older servers do not know.
        own = r"\s*(?:[\[{]|[+-]?(?:0[xXoObB]|[nN][aA][nN].))|.*(?:[eE][+-]?[0-9]{5}|_)"
        values = [v for v in values if not re.match(own, v, re.DOTALL)] or ["1"]
        written = [json.dumps(v).encode("utf-8", "surrogatepass") for v in values]
        for cells in (tokens(*written), Texts(list(values))):
            piece, misfits = encode(column(name), cells)
            assert set(misfits) <= set(range(len(values)))
            assert len(read(name, piece, name)) == len(values)

    hold()


@pytest.mark.parametrize("name", TYPES)
def test_together_as_alone(name: str) -> None:
    """A column judged as a whole is what its values are one by one."""

    @settings(max_examples=60, deadline=None)
    @given(st.lists(HOSTILE, min_size=2, max_size=5))
    def hold(values: list[str]) -> None:
        for every in (tokens(*[json.dumps(v) for v in values]), Texts(values)):
            alone = [
                encode(column(name), type(every)([value]))  # type: ignore[list-item]
                for value in every.values
            ]
            _, misfits = encode(column(name), every)
            assert sorted(misfits) == [row for row, (_, bad) in enumerate(alone) if bad]

    hold()
