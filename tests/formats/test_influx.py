"""
InfluxDB line protocol: what a client writes is read back, and what is no line says where.
"""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.formats.fields import Texts
from gateway.formats.influx import InfluxFormat, fault_of
from gateway.formats.influx_line import _any_point, point

ALL = ("measurement", "timestamp", "tags", "fields")


def read(*lines: str | bytes, fields: tuple[str, ...] = ALL) -> list[tuple[str | None, ...]]:
    """Rows of the wanted fields, of lines that are good."""
    rows, faults = read_any(*lines, fields=fields)
    assert not faults
    return rows


def read_any(
    *lines: str | bytes, fields: tuple[str, ...] = ALL
) -> tuple[list[tuple[str | None, ...]], dict[int, str]]:
    """Rows of the wanted fields, and the faults by row."""
    found = InfluxFormat(fields).parse_frames(
        [line.encode() if isinstance(line, str) else line for line in lines]
    )
    assert list(found.cells) == list(fields)
    columns = []
    for cells in found.cells.values():
        assert isinstance(cells, Texts)
        assert len(cells.values) == len(lines)
        columns.append(cells.values)
    rows = [row for row, _ in found.faults]
    assert rows == sorted(rows)
    return list(zip(*columns, strict=True)), {row: fault.text for row, fault in found.faults}


def fault(line: str | bytes) -> str:
    """What is wrong with a line, whose fields are all missing."""
    rows, faults = read_any(line, fields=(*ALL, "f", "tag.a", "field.f"))
    assert rows == [(None,) * 7]
    return faults[0]


@pytest.mark.parametrize(
    ("line", "measurement", "timestamp", "tags", "fields"),
    [
        (
            'myMeasurement,tag1=value1,tag2=value2 fieldKey="fieldValue" 1556813561098000000',
            *("myMeasurement", "1556813561098000000"),
            *({"tag1": "value1", "tag2": "value2"}, {"fieldKey": "fieldValue"}),
        ),
        ("myMeasurement fieldKey=1.0", "myMeasurement", None, {}, {"fieldKey": 1.0}),
        ("myMeasurement fieldKey=1", "myMeasurement", None, {}, {"fieldKey": 1}),
        (
            "myMeasurement fieldKey=-1.234456e+78",
            *("myMeasurement", None, {}, {"fieldKey": -1.234456e78}),
        ),
        (
            "myMeasurement fieldKey=-9223372036854775808i",
            *("myMeasurement", None, {}, {"fieldKey": -(2**63)}),
        ),
        (
            "myMeasurement fieldKey=18446744073709551615u 1556813561098000000",
            *("myMeasurement", "1556813561098000000", {}, {"fieldKey": 2**64 - 1}),
        ),
        (
            'myMeasurement fieldKey="this is a string"',
            *("myMeasurement", None, {}, {"fieldKey": "this is a string"}),
        ),
        (
            r"my\ Measurement fieldKey=true,other=F",
            *("my Measurement", None, {}, {"fieldKey": True, "other": False}),
        ),
        (
            r'myMeasurement fieldKey="\"string\" within a string"',
            *("myMeasurement", None, {}, {"fieldKey": '"string" within a string'}),
        ),
        (
            r"myMeasurement,tag\ Key1=tag\ Value1,tag\ Key2=tag\ Value2 fieldKey=100",
            *("myMeasurement", None),
            *({"tag Key1": "tag Value1", "tag Key2": "tag Value2"}, {"fieldKey": 100}),
        ),
        (
            'myMeasurement,tagKey=🍭 fieldKey="Launch 🚀" 1556813561098000000',
            *("myMeasurement", "1556813561098000000"),
            *({"tagKey": "🍭"}, {"fieldKey": "Launch 🚀"}),
        ),
        (
            " comma\\,1,equals\\==e\\,x,two=val2 "
            'field\\=x="fir\\"\n,st\\\\"  1602841605822791506\n',
            *("comma,1", "1602841605822791506"),
            *({"equals=": "e,x", "two": "val2"}, {"field=x": 'fir"\n,st\\'}),
        ),
        (r"m\=x\y,a\b=c\\d f=1", r"m\=x\y", None, {r"a\b": r"c\\d"}, {"f": 1}),
        (r'm f="a\b\\\\\"\n"', "m", None, {}, {"f": 'a\\b\\\\"\\n'}),
        ('m,"q"="v" "f"=1  -5 \r\n', "m", "-5", {'"q"': '"v"'}, {'"f"': 1}),
    ],
)
def test_examples(
    line: str,
    measurement: str,
    timestamp: str | None,
    tags: dict[str, str],
    fields: dict[str, object],
) -> None:
    """The specification's own examples say what it says they do."""
    [row] = read(line)
    assert row[:2] == (measurement, timestamp)
    assert json.loads(row[2] or "") == tags
    assert json.loads(row[3] or "") == fields


@pytest.mark.parametrize(
    ("value", "text", "token"),
    [
        *((written, "true", "true") for written in ("t", "T", "true", "True", "TRUE")),
        *((written, "false", "false") for written in ("f", "F", "false", "False", "FALSE")),
        *(("1i", "1", "1"), ("-0i", "-0", "-0"), ("007u", "007", "7"), ("0i", "0", "0")),
        *(("1.", "1.", "1"), (".5", ".5", "0.5"), ("-.50", "-.50", "-0.50"), ("00", "00", "0")),
        *(("1.e5", "1.e5", "1e5"), ("-01.0E+05", "-01.0E+05", "-1.0E+05"), ("1e-7",) * 3),
        ("123456789.012345678901234567890",) * 3,
        *(("1e-99999",) * 3, ("1e0001",) * 3, ("0.1",) * 3),
        ("9223372036854775807i", "9223372036854775807", "9223372036854775807"),
        ("00018446744073709551615u", "00018446744073709551615", "18446744073709551615"),
        *(('""', "", '""'), ('"é,= "', "é,= ", '"é,= "'), (r'"\""', '"', r'"\""')),
    ],
)
def test_values(value: str, text: str, token: str) -> None:
    """A value becomes text without its suffix or quotes, and a JSON value with every digit."""
    assert read(f"m f={value}", fields=("f", "field.f", "fields")) == [
        (text, text, f'{{"f":{token}}}')
    ]


def test_names() -> None:
    """A bare name is the field of that name, or else the tag; the last field counts."""
    lines = ("m,a=x,b=y a=1i,c=2i,c=t 5", 'n,b=z b="q"', "o c=1")
    assert read(*lines, fields=("a", "b", "c", "tag.a", "field.b", "timestamp", "d")) == [
        ("1", "y", "true", "x", None, "5", None),
        (None, "q", None, None, "q", None, None),
        (None, None, "1", None, None, None, None),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "it is empty"),
        (" \r\n", "it is empty"),
        ("# a comment", "it is a comment, which holds nothing to store"),
        (",a=b f=1", "there is ',' at character 0 where the measurement should be"),
        ("m", "it ends at character 1 without a field"),
        ("m,a=b \n", "it ends at character 5 without a field"),
        ("m\tf=1", "there is a control character (0x09) at character 1 after the measurement"),
        ("m, f=1", "there is ' ' at character 2 where the key of a tag should be"),
        ("m,a f=1", "there is ' ' at character 3 where tag 'a' should have its '='"),
        ("m,a= f=1", "there is ' ' at character 4 where the value of tag 'a' should be"),
        ("m,a=b=c f=1", "there is '=' at character 5 in the value of tag 'a'"),
        ("m,a=1,b=2,a=3 f=1", "tag 'a' is there twice, again at character 10"),
        (r"m,a\ =1,a\ =2 f=1", "tag 'a ' is there twice, again at character 8"),
        ("m =1", "there is '=' at character 2 where the key of a field should be"),
        ("m f", "it ends at character 3 where field 'f' should have its '='"),
        ("m f=", "it ends at character 4 where the value of field 'f' should be"),
        ("m f=1,", "it ends at character 6 where the key of a field should be"),
        ("é é=x", "field 'é': 'x' at character 4 is neither a number nor a boolean, nor in "),
        ("m f=NaN", "field 'f': 'NaN' at character 4 is no value: a number is finite"),
        ("m f=-inf", "field 'f': '-inf' at character 4 is no value: a number is finite"),
        ("m f=1,g=-1u", "field 'g': '-1u' at character 8 is neither a number nor a boolean"),
        ('m f="abc', "the string of field 'f' from character 4 on has no closing quote"),
        ('m f="abc"d', "there is 'd' at character 9 after the string of field 'f'"),
        ("m f=1\x00", "there is a control character (0x00) at character 5 after the value of "),
        ("m f=1 x", "'x' at character 6 where the timestamp should be"),
        ("m f=1 g=2", "'g=2' at character 6 where the timestamp should be"),
        ("m f=1 1.5", "'1.5' at character 6 where the timestamp should be"),
        ("m f=1 5 6", "there is '6' at character 8 after the timestamp"),
        ("m f=1\nm f=2", "a second line begins (a message is one) at character 5 after the fields"),
        ("m f=1 5\nm f=2", "a second line begins (a message is one) at character 7 after the "),
        ("m f=1,g=9223372036854775808i", "field 'g': '9223372036854775808i' at character 8 is "),
        ("m f=-9223372036854775809i", "field 'f': '-9223372036854775809i' at character 4 is bey"),
        ("m f=18446744073709551616u", "field 'f': '18446744073709551616u' at character 4 is bey"),
        ("m f=1e999", "field 'f': '1e999' at character 4 is beyond a float of 64 bits"),
        ("m f=1 9223372036854775808", "the timestamp '9223372036854775808' at character 6 is b"),
    ],
)
def test_faults(line: str, words: str) -> None:
    """What is no line is refused, with the part at fault and the place."""
    assert fault(line).startswith(f"not line protocol: {words}")


def test_utf8() -> None:
    """Bytes that are no UTF-8 are a fault of that message alone."""
    rows, faults = read_any(b"m f=1", b"m f=\xff", "é f=2", fields=("measurement", "f"))
    assert rows == [("m", "1"), (None, None), ("é", "2")]
    assert faults == {1: "not UTF-8: invalid start byte at byte 4"}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        *((name, None) for name in ("measurement", "timestamp", "tags", "fields", "a", "a.b")),
        *((name, None) for name in ("tag.a", "field.a.b", "tag.time", "field.time", "a b,=")),
        ("", "is empty"),
        ("a\n", "holds a control character, which no key in line protocol does"),
        ("tag.", "names no tag: write tag.NAME"),
        ("field.", "names no field: write field.NAME"),
        ("tags.a", "should be tag.a; a field of that very name is field.tags.a"),
        ("time", "should be timestamp; a field of that very name is field.time"),
    ],
)
def test_fault_of(field: str, words: str | None) -> None:
    """A name that no message can have is refused when the configuration is read."""
    assert fault_of(field) == words


# Parts as a client has them. A name cannot end in a backslash, nor hold control characters.
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from('\\,= "#'),
    min_size=1,
    max_size=8,
).filter(lambda name: not name.endswith("\\"))
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (f"{number}i", str(number))),
    st.integers(0, 2**64 - 1).map(lambda number: (f"{number}u", str(number))),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: (repr(number),) * 2),
)
strings = st.text(st.characters(codec="utf-8") | st.sampled_from('\\\\", =ntr\n'), max_size=12).map(
    lambda text: ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"', text)
)
truths = st.sampled_from([("t", "true"), ("TRUE", "true"), ("F", "false"), ("false", "false")])


def escaped(name: str, marks: str) -> str:
    return "".join(f"\\{mark}" if mark in marks else mark for mark in name)


@given(
    names.filter(lambda name: not name.startswith("#")),
    st.dictionaries(names, names, max_size=4),
    st.dictionaries(names, numbers | strings | truths, min_size=1, max_size=4),
    st.none() | st.integers(-(2**63), 2**63 - 1).map(str),
)
def test_round_trip(
    measurement: str,
    tags: dict[str, str],
    fields: dict[str, tuple[str, str]],
    timestamp: str | None,
) -> None:
    """What a client escapes by the rules is read back as it was."""
    line = escaped(measurement, ", ")
    for key, value in tags.items():
        line += f",{escaped(key, ',= ')}={escaped(value, ',= ')}"
    pairs = [f"{escaped(key, ',= ')}={value}" for key, (value, _) in fields.items()]
    line += " " + ",".join(pairs) + (f" {timestamp}" if timestamp else "")
    wanted = (*ALL, *(f"tag.{key}" for key in tags), *(f"field.{key}" for key in fields))
    [row] = read(line, fields=wanted)
    texts = [text for _, text in fields.values()]
    assert row[:2] == (measurement, timestamp)
    assert row[4:] == (*tags.values(), *texts)
    assert json.loads(row[2] or "") == tags
    document = json.loads(row[3] or "", parse_int=str, parse_float=str)
    assert list(document) == list(fields)
    for read_back, (value, text) in zip(document.values(), fields.values(), strict=True):
        assert read_back == (value[0] in "tT" if value[0] in "tTfF" else text)


# Anything that looks like a line, and lines that are nearly good.
pieces = st.sampled_from(
    [*'m,a=\\ "#\n\r\t', "é", "m", "a=b", ",a=b", " f=1", ",g=2i", '"s"', " 17", "1e5", ".5", "t"]
)
soup = st.lists(pieces, max_size=16).map("".join)
heads = st.lists(
    st.sampled_from([",a=b", ",c=d", ",a\\ =é\\,", "\\\\", "\\=", ",e==", "x"]), max_size=3
)
values = st.sampled_from(
    ['f="a, \\" b"', "f=.5", "f=1", "g=-2i", "h=3u", "é\\,=F", "h=-3u", "f=1.e+5", ""]
)
bodies = st.lists(values, min_size=1, max_size=4).map(",".join)
tails = st.sampled_from(["", "", " ", " 17", "  -5 \r\n", "\n", " 1.5", "x"])
parts = st.tuples(heads.map("".join), bodies, tails).map(
    lambda three: f"m{three[0]} {three[1]}{three[2]}"
)
nearly = st.one_of(soup, parts, parts).map(str.encode)


@given(st.lists(st.binary(max_size=24) | nearly, min_size=1, max_size=8))
@example([b'm f="\\', b"m\\", b"m f=.", b"m f=1e", b"m f=-", b'm f="\\"', b"m,a=b\\"])
def test_any_bytes(frames: list[bytes]) -> None:
    """No bytes raise, and a message is read the same whatever its neighbours are."""
    wanted = (*ALL, "a", "tag.a", "field.f")
    rows, faults = read_any(*frames, fields=wanted)
    for place, frame in enumerate(frames):
        row, own = read_any(frame, fields=wanted)
        assert row == [rows[place]]
        assert own.get(0) == faults.get(place)
        if not own:
            assert json.loads(rows[place][2] or "") is not None
            assert json.loads(rows[place][3] or "")


@given(nearly)
def test_both_ways_agree(frame: bytes) -> None:
    """The pattern for ordinary lines finds in them what the one for any line does."""
    line = frame.decode()
    read = point(line)
    other = _any_point(line)
    assert read == (f"not line protocol: {other}" if isinstance(other, str) else other)


# The grammar as it is published, one rule a line; lines end a message here.
_ANY = r"[^\x00-\x1f\x7f\\]"
_ESCAPE = rf"\\\\*{_ANY}"
_NAME = rf"(?:[^\x00-\x1f\x7f \\,#]|{_ESCAPE})(?:[^\x00-\x1f\x7f \\,]|{_ESCAPE})*"
_KEY = rf"(?:[^\x00-\x1f\x7f \\,=]|{_ESCAPE})+"
_FLOAT = r"-?(?:\d+(?:\.(?:\d+)?(?:[eE][+-]?\d+)?)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)"
_TRUTH = "t|T|true|True|TRUE|f|F|false|False|FALSE"
_FIELD = rf'{_KEY}=(?:{_TRUTH}|"(?:[^"\\]|\\[\s\S])*"|-?\d+i|\d+u|{_FLOAT})'
GRAMMAR = re.compile(
    rf" *{_NAME}(?:,{_KEY}={_KEY})* +{_FIELD}(?:,{_FIELD})*(?: +-?\d+)? *(?:\r?\n|\r)?", re.ASCII
)


@given(nearly)
def test_grammar(frame: bytes) -> None:
    """Exactly the lines of the published grammar are read, save those with a tag twice."""
    line = frame.decode()
    read = point(line)
    if isinstance(read, tuple) or "twice" in read:
        assert GRAMMAR.fullmatch(line)
    else:
        assert not GRAMMAR.fullmatch(line)


LONG = 65536


@pytest.mark.parametrize("start", ["", "m ", "m,", 'm f="', "m f=", "m f=1 ", "m,a=", "m a=1,b="])
@pytest.mark.parametrize(
    "piece",
    ["\\", '"', ",", "=", " ", "a", "\\,", "a=1,", ",a=", 'a="\\"', "\n", "9", "1.", "1e9", "é"],
)
def test_long_messages(start: str, piece: str) -> None:
    """64 KiB of anything are read in linear time."""
    frame = (start + piece * (LONG // len(piece))).encode()
    assert least(frame) < 0.3


@pytest.mark.parametrize(
    "line",
    [
        "m " + ",".join(f"f{number}={number}" for number in range(10_000)),
        "m " + ",".join(f'f{number}="\\\\\\""' for number in range(10_000)),
        "m" + "".join(f",\\ {number}=a\\=b" for number in range(10_000)) + " f=1",
        "m" + "".join(f",t{number}=1" for number in range(10_000)) + ",t9999=2 f=1",
        "m " + ",".join(f"f{number}=.1" for number in range(10_000)) + ",z=99999999999999999999i",
        "m f=0." + "1" * LONG,
    ],
)
def test_many_parts(line: str) -> None:
    """Ten thousand parts, or one number of 65536 digits, are read in linear time."""
    assert least(line.encode()) < 0.3


def least(frame: bytes) -> float:
    """Seconds to read a message, the least of three: some 0.015 at most on an idle machine."""
    lines = InfluxFormat((*ALL, "f"))

    def once() -> float:
        start = time.thread_time()
        lines.parse_frames([frame])
        return time.thread_time() - start

    return min(once() for _ in range(3))
