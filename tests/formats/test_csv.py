"""
CSV: what a writer of CSV meant is what comes out, or the record is refused by name.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from io import StringIO
from itertools import product

import psycopg2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.formats.csv import WHITESPACE, CsvFormat
from gateway.formats.fields import Texts
from gateway.model.outcome import Code, Word
from tests.support import Database

Record = list[str | None]

NAMES = ["a", "b", "c"]

tricky = st.text(st.sampled_from('",\r\n\t \x1e\x1fxé\0'), max_size=12)
"""Text that is mostly made of what means something."""

delimiters = st.characters(codec="utf-8", exclude_characters='"\r\n')


def read(
    frames: Sequence[bytes], names: Sequence[str] = NAMES, delimiter: str = ","
) -> tuple[list[Record], dict[int, str]]:
    """The records, and what was refused."""
    fields = CsvFormat(names, names, delimiter).parse_frames(frames)
    columns = []
    for name in names:
        cells = fields.cells[name]
        assert isinstance(cells, Texts) and len(cells.values) == len(frames)
        columns.append(cells.values)
    rows = [row for row, _ in fields.faults]
    assert rows == sorted(set(rows))
    assert all(o.word is Word.REJ and o.code is Code.FORMAT for _, o in fields.faults)
    faults = {row: outcome.text for row, outcome in fields.faults}
    return [list(record) for record in zip(*columns, strict=True)], faults


def reason(frame: bytes, names: Sequence[str] = NAMES, delimiter: str = ",") -> str:
    """Why a record is refused."""
    records, faults = read([frame], names, delimiter)
    assert records == [[None] * len(names)]
    return faults[0]


def reference(frame: bytes, delimiter: str) -> Record | None:
    """RFC 4180 read by one character after the other; C{None} for what is not of it."""
    try:
        rest = list(frame.decode().rstrip("\r\n"))
    except UnicodeDecodeError:
        return None
    record: Record = []
    while True:
        value = ""
        quoted = rest[:1] == ['"']
        if quoted:
            rest.pop(0)
            while True:
                if not rest:
                    return None
                character = rest.pop(0)
                if character == '"':
                    if rest[:1] != ['"']:
                        break
                    rest.pop(0)
                value += character
        else:
            while rest and rest[0] != delimiter:
                if rest[0] in '"\r\n':
                    return None
                value += rest.pop(0)
        record.append(value if quoted else value or None)
        if not rest:
            return record
        if rest.pop(0) != delimiter:
            return None


def written(record: Record, delimiter: str = ",") -> bytes:
    """A record as COPY writes it, every text in quotes."""
    return delimiter.join(
        "" if value is None else '"' + value.replace('"', '""') + '"' for value in record
    ).encode()


@pytest.mark.parametrize(
    ("frame", "record"),
    [
        (b"aaa,bbb,ccc\r\n", ["aaa", "bbb", "ccc"]),
        (b"zzz,yyy,xxx", ["zzz", "yyy", "xxx"]),
        (b'"aaa","bbb","ccc"\r\n', ["aaa", "bbb", "ccc"]),
        (b'"aaa","b\r\nbb","ccc"\r\n', ["aaa", "b\r\nbb", "ccc"]),
        (b'"aaa","b""bb","ccc"', ["aaa", 'b"bb', "ccc"]),
        (b" a , b ,c ", [" a ", " b ", "c "]),
    ],
)
def test_examples_of_the_specification(frame: bytes, record: Record) -> None:
    """The records of RFC 4180's section 2 are read as it says, blanks being part of a value."""
    assert read([frame]) == ([record], {})


def test_null_is_empty_without_quotes() -> None:
    """Nothing is NULL, a quoted nothing is the empty text, wherever in the record it is."""
    frames = [b',,""', b'"",,', b',"",', b",,", b'"","",""']
    records, faults = read(frames)
    assert not faults
    assert records == [
        [None, None, ""],
        ["", None, None],
        [None, "", None],
        [None, None, None],
        ["", "", ""],
    ]
    assert read([b'x,"a,"",b",']) == ([["x", 'a,",b', None]], {})


def test_one_value() -> None:
    """With a single name an empty message is a record that holds NULL."""
    assert read([b"", b'""', b"x\n", b"\n"], ["a"]) == ([[None], [""], ["x"], [None]], {})


def test_wanted_fields_only() -> None:
    """Fields come from their places, whatever their order; of a name twice the last counts."""
    cells = CsvFormat(["d", "b"], ["b", "_", "_", "d", "b"]).parse_frames([b"1,2,3,4,5"]).cells
    assert cells == {"d": Texts(["4"]), "b": Texts(["5"])}


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "nothing where 3 are expected: a, b, c"),
        (b"\r\n", "nothing where 3 are expected: a, b, c"),
        (b"x", "1 value where 3 are expected: a, b, c"),
        (b"1,2,3,", "4 values where 3 are expected: a, b, c"),
        (b'1,"2,3', "the quote of value 2 (b) at byte 2 is not closed"),
        (b'\xc3\xa9,"2,3', "the quote of value 2 (b) at byte 3 is not closed"),
        (b'"', "the quote of value 1 (a) at byte 0 is not closed"),
        (b'1,2,3,4,"', "the quote of value 5 at byte 8 is not closed"),
        (b'1,"2"x,3', "value 2 (b) goes on behind its closing quote at byte 5"),
        (b'1,"2" ,3', "value 2 (b) goes on behind its closing quote at byte 5"),
        (b'1,"2"\n,3', "value 2 (b) goes on behind its closing quote at byte 5"),
        (b'1, "2",3', "value 2 (b) is not quoted but has a quote within at byte 3"),
        (b'1,2,3"', "value 3 (c) is not quoted but has a quote within at byte 5"),
        (b"1,2,3\n4,5,6", "a line break outside of quotes at byte 5"),
        (b"\n1,2,3", "a line break outside of quotes at byte 0"),
        (b"1,\r,3", "a line break outside of quotes at byte 2"),
        (b"1,\xff,3", "not UTF-8: invalid start byte at byte 2"),
        (b"1,2,\xc3", "not UTF-8: unexpected end of data at byte 4"),
    ],
)
def test_faults_say_what_and_where(frame: bytes, why: str) -> None:
    """A fault is named with its place, and the neighbours of a bad record are read all the same."""
    assert reason(frame) == why
    good = b'1,"2",'
    assert read([good, frame, good]) == (
        [["1", "2", None], [None] * 3, ["1", "2", None]],
        {1: reason(frame)},
    )


def test_long_lists_of_names_are_cut() -> None:
    """Of ten thousand expected values the error names only the first."""
    why = reason(b"x", [f"name{n}" for n in range(10_000)])
    assert why.startswith("1 value where 10000 are expected: name0, name1, ")
    assert why.endswith("...") and len(why) < 130
    assert reason(b"x,y", ["a"]) == "2 values where 1 is expected: a"


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n", "\r"])
def test_useless_delimiters(delimiter: str) -> None:
    """What cannot separate values is refused when the format is made."""
    with pytest.raises(ValueError, match="is neither"):
        CsvFormat(["a"], ["a"], delimiter)


@given(st.lists(st.lists(st.none() | tricky, min_size=3, max_size=3), min_size=1), delimiters)
def test_round_trip(records: list[Record], delimiter: str) -> None:
    """Whatever is written comes back, with any delimiter, NULL and empty text apart."""
    assert read([written(r, delimiter) for r in records], NAMES, delimiter) == (records, {})


@given(st.lists(st.lists(tricky.filter(bool), min_size=3, max_size=3), min_size=1))
def test_what_python_writes(records: list[list[str]]) -> None:
    """Records by the csv module of Python, which quotes only where it must, are read."""
    frames = []
    for record in records:
        line = StringIO()
        csv.writer(line).writerow(record)
        frames.append(line.getvalue().encode())
    assert read(frames) == (records, {})


@given(
    st.lists(tricky.map(str.encode) | st.binary(max_size=12), min_size=1, max_size=8),
    st.integers(1, 4),
    st.sampled_from(",;\t \x1eé"),
)
@example([b'1,"2', b'3",4\nx,y'], 2, ",")
@example([b'1,"', b'",2', b"3,4"], 2, ",")
# The character between records, sent to stand in for one that an open quote swallows.
@example([b'1,2,\x1e,3,"', b'"'], 2, ",")
@example([b"1,2,\x1e,3", b"4"], 2, ",")
@example([b"1,2,\x1e"], 2, ",")
@example([b"1,2,3", b"4"], 2, ",")
@example([b"1\n2", b""], 1, ",")
def test_records_are_read_as_one_by_one(frames: list[bytes], width: int, delimiter: str) -> None:
    """Any bytes are read, or refused, just as a plain reader does with each alone: never merged."""
    names = [f"n{n}" for n in range(width)]
    expected = [reference(frame, delimiter) for frame in frames]
    good = [record is not None and len(record) == width for record in expected]
    records, faults = read(frames, names, delimiter)
    assert sorted(faults) == [row for row, fine in enumerate(good) if not fine]
    nothing: Record = [None] * width
    assert records == [r if g else nothing for r, g in zip(expected, good, strict=True)]
    for row, frame in enumerate(frames):
        alone, fault = read([frame], names, delimiter)
        assert alone == [records[row]]
        assert fault.get(0) == faults.get(row)


def test_as_copy_does(database: Database) -> None:
    """PostgreSQL's own COPY reads the same values from all that is read here, NULL among them."""
    values = [
        "",
        '""',
        "x",
        " y ",
        '"a,b"',
        '"a""b"',
        '""""',
        '","',
        '"l\r\nm\n"',
        "'\\n'",
        "\u00e9",
    ]
    frames = [",".join(record).encode() for record in product(values, repeat=3)]
    database.execute("CREATE TABLE copied (id serial, a text, b text, c text)")
    connection = psycopg2.connect(database.dsn)
    try:
        with connection, connection.cursor() as cursor:
            lines = StringIO(b"\n".join(frames).decode(), newline="")
            cursor.copy_expert("COPY copied (a, b, c) FROM STDIN (FORMAT csv)", lines)
    finally:
        connection.close()
    copied = database.execute("SELECT a, b, c FROM copied ORDER BY id")
    assert read(frames) == (list(map(list, copied)), {})


def test_the_marks_own_character_is_data() -> None:
    """The character that the reader sets between records changes none that holds it."""
    frames = [b"\x1e,,\x1e", b'"\x1e",\x1e\x1e,",\x1e,"', b"1,2,3"]
    assert read(frames) == (
        [["\x1e", None, "\x1e"], ["\x1e", "\x1e\x1e", ",\x1e,"], ["1", "2", "3"]],
        {},
    )


def test_whitespace() -> None:
    """Runs of spaces and tabs separate, those around do not count, quotes mean nothing."""
    frames = [b"servers.a.cpu 0.5 1700000000", b'\t "a \t b"   c\xc2\xa0\x1e \r\n', b"a b c\n"]
    assert read(frames, NAMES, WHITESPACE) == (
        [["servers.a.cpu", "0.5", "1700000000"], ['"a', 'b"', "c\xa0\x1e"], ["a", "b", "c"]],
        {},
    )


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "nothing where 3 are expected: a, b, c"),
        (b" \t", "nothing where 3 are expected: a, b, c"),
        (b"1  2", "2 values where 3 are expected: a, b, c"),
        (b"1 2 3 4", "4 values where 3 are expected: a, b, c"),
        (b"1 2\n3", "a line break at byte 3"),
        (b"1 2 \xff", "not UTF-8: invalid start byte at byte 4"),
    ],
)
def test_whitespace_faults(frame: bytes, why: str) -> None:
    """Where blanks separate, faults are named too, and cost no neighbour."""
    assert reason(frame, NAMES, WHITESPACE) == why
    records, faults = read([b"1 2 3", frame, b"4 5 6"], NAMES, WHITESPACE)
    assert faults == {1: why}
    assert records == [["1", "2", "3"], [None] * 3, ["4", "5", "6"]]


@given(st.lists(st.text(st.sampled_from(" \t\r\nx\x1e\xa0"), max_size=9), min_size=1))
def test_whitespace_records_stay_apart(texts: list[str]) -> None:
    """With blanks too a list is read as each message alone."""
    records, faults = read([t.encode() for t in texts], ["a", "b"], WHITESPACE)
    for row, text in enumerate(texts):
        line = text.rstrip("\r\n")
        values = [value for value in line.replace("\t", " ").split(" ") if value]
        fine = len(values) == 2 and not {"\r", "\n"} & set(line)
        assert (row not in faults) == fine
        assert records[row] == (values if fine else [None, None])


@pytest.mark.parametrize(
    "frame",
    [
        b'"' * 65_536,
        b'"' * 65_535,
        b'""' * 32_000 + b"x",
        b'a"' * 32_768,
        b'"a",' * 16_384,
        b'"",' * 21_000 + b'"',
        b"," * 65_536,
        b" " * 65_536,
        b"\n" * 65_536,
        b'"\n' * 32_768,
        b"\x1e" * 65_536,
        b",\x1e" * 32_768,
        b"\xc3\xa9," * 20_000 + b'"',
        b"a" * 65_535 + b"\xff",
    ],
    ids=range(14),
)
@pytest.mark.parametrize("delimiter", [",", WHITESPACE])
def test_hostile_frames_cost_little(frame: bytes, delimiter: str) -> None:
    """The nastiest 64 KiB take milliseconds: with anything quadratic it would be minutes."""
    format = CsvFormat(NAMES, NAMES, delimiter)
    start = time.process_time()
    for _ in range(10):
        format.parse_frames([b"1,2,3", frame])
    assert time.process_time() - start < 5


def test_many_names() -> None:
    """A record may have ten thousand values, and be longer than csv.field_size_limit."""
    names = [f"name{n}" for n in range(10_000)]
    assert read([",".join(names).encode()], names) == ([names], {})
    assert read([b'"' + b"x" * 1_000_000 + b'"'], ["a"]) == ([["x" * 1_000_000]], {})
