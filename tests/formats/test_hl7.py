r"""
HL7 v2: values by path, as PyPI's hl7 finds them too, and what is at fault is named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Texts
from gateway.formats.hl7 import Hl7Format, fault_of, sample
from gateway.wire.hl7 import read_header

ADT = "\r".join(
    [
        r"MSH|^~\&|REG|MCM^1.2.3^ISO|LAB|SOUTH|20261127203447+0100||ADT^A04^ADT_A01|42|P|2.5.1",
        "EVN|A04|20261127203400",
        'PID|1||191919^^^GENHOS&1.2&ISO^MR~371-66-9256^^^USSSA^SS||MÄSSIE^JAMES^A||19560129|""|',
        "NTE|1||a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f \\.br\\ \\H\\x\\N\\ \\X41\\ \\XC3\\\\XA9\\",
        "OBX|1|NM|8302-2^Body height^LN||1.80|m|||||F",
        "OBX",
        "OBX|3|NM|3141-9^Body weight^LN||79|kg|||||F",
        "",
    ]
)


def msh(text: str = "A", charset: str = "", separators: str = "|^~\\&") -> str:
    """A header with that text as MSH-3, and that as MSH-18."""
    bar = separators[0]
    return bar.join([f"MSH{separators}", text, *[""] * 14, charset, "\r"])


def read(message: str | bytes, *fields: str, charset: str = "utf-8") -> list[str | None]:
    """The values of one message without fault."""
    frame = message if isinstance(message, bytes) else message.encode()
    found = Hl7Format(fields, charset).parse_frames([frame])
    assert not found.faults, found.faults
    values = [found.cells[field].values for field in fields]
    assert all(len(value) == 1 for value in values)
    return [None if value[0] is None else str(value[0]) for value in values]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("MSH-1", "|"),
        ("MSH-2", "^~\\&"),
        ("MSH-3", "REG"),
        ("MSH-4.2", "1.2.3"),
        ("MSH-9", "ADT^A04^ADT_A01"),
        ("MSH-9.2", "A04"),
        ("MSH-10", "42"),
        ("MSH-12", "2.5.1"),
        ("MSH-18", None),
        ("EVN-2", "20261127203400"),
        ("EVN-3", None),
        ("PID-3", "191919^^^GENHOS&1.2&ISO^MR~371-66-9256^^^USSSA^SS"),
        ("PID-3.1", "191919"),
        ("PID-3(1)", "191919^^^GENHOS&1.2&ISO^MR"),
        ("PID-3(2)", "371-66-9256^^^USSSA^SS"),
        ("PID-3(2).1", "371-66-9256"),
        ("PID-3(2).4", "USSSA"),
        ("PID-3(3).1", None),
        ("PID-3(*).1", '["191919","371-66-9256"]'),
        ("PID-3(*).2", None),
        ("PID-3(*).4.2", '["1.2",null]'),
        ("PID-3.4", "GENHOS&1.2&ISO"),
        ("PID-3.4.1", "GENHOS"),
        ("PID-3.4.3", "ISO"),
        ("PID-3.4.4", None),
        ("PID-3.2", None),
        ("PID-4", None),
        ("PID-5", "MÄSSIE^JAMES^A"),
        ("PID-5.1", "MÄSSIE"),
        ("PID-5.1.1", "MÄSSIE"),
        ("PID-5(1).2", "JAMES"),
        ("PID-5(2).2", None),
        ("PID-7", "19560129"),
        ("PID-8", None),
        ("PID-8.1", None),
        ("PID-30", None),
        ("PV1-2", None),
        ("NTE-3", "a|b^c&d~e\\f \\.br\\ \\H\\x\\N\\ A é"),
        ("NTE-3.1", "a|b^c&d~e\\f \\.br\\ \\H\\x\\N\\ A é"),
        ("OBX-5", "1.80"),
        ("OBX(1)-5", "1.80"),
        ("OBX(2)-5", None),
        ("OBX(3)-5", "79"),
        ("OBX(4)-5", None),
        ("OBX(*)-5", '["1.80",null,"79"]'),
        ("OBX(*)-3.1", '["8302-2",null,"3141-9"]'),
        ("OBX(*)-4", None),
        ("NK1(*)-2", None),
        ("message", ADT),
    ],
)
def test_paths(path: str, value: str | None) -> None:
    """Fields, repetitions, components and subcomponents by number; MSH-1 is the separator."""
    assert fault_of(path) is None
    assert read(ADT, path) == [value]


def test_all_at_once() -> None:
    """Any number of paths into any number of messages, those at fault among them."""
    fields = ("PID-3(2).1", "OBX(3)-5", "MSH-10", "PID-5.1", "message", "OBX(*)-5")
    other = "MSH#$~\\&#A#B#####ORU$R01#7#P#2.3######8859/1\rPID#1##x$y~z$w##Löw\rOBX#1####5\r"
    frames = [ADT.encode(), b"PID|1", other.encode("latin-1"), ADT.encode(), b"MSH|^~\\&|\xff"]
    found = Hl7Format(fields).parse_frames(frames)
    assert [(row, fault.text) for row, fault in found.faults] == [
        (1, "not HL7: it begins with b'PID|1', not with MSH"),
        (4, "not HL7: no UTF-8, its character set by MSH-18 or the route: byte 9"),
    ]
    first = ["371-66-9256", "79", "42", "MÄSSIE", ADT, '["1.80",null,"79"]']
    second = ["z", None, "7", "Löw", other, '["5"]']
    nothing = [None] * len(fields)
    assert [[found.cells[field].values[row] for field in fields] for row in range(5)] == [
        *(first, nothing, second, first, nothing)
    ]
    assert Hl7Format(fields).parse_frames([b"x"]).cells["MSH-10"].values == [None]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_ends_of_segments(end: str) -> None:
    """CR, CR and LF, or LF where there is no CR; an LF within a segment is text."""
    message = end.join(["MSH|^~\\&|A||||||ADT|1", "PID|1||7", "OBX|1|TX|||9"])
    for whole in (message, message + end, end + message):
        assert read(whole, "MSH-10", "PID-3", "OBX-5", "message") == [
            *("1", "7", "9", whole.removeprefix(end)),
        ]
    if "\r" in end:
        assert read(message.replace("9", "two\nlines"), "OBX-5") == ["two\nlines"]


def test_separators() -> None:
    """Those of the message count; what MSH-2 does not name does not separate."""
    assert read("MSH#*+!?#A*B+C\rPID#x*y?z!T!#1+2\r", "MSH-3.2", "PID-1.2.2", "PID-2(2)") == [
        *("B", "z?", "2")
    ]
    few = "MSH|^|A^B\rPID|x^y~z|a&b\\F\\c\r"
    assert read(few, "PID-1(1).2", "PID-1(2)", "PID-2", "PID-2.1.1", "PID-2.1.2", "PID-1(*)") == [
        *("y~z", None, "a&b\\F\\c", "a&b\\F\\c", None, '["x^y~z"]')
    ]
    none = "MSH||A^B\rPID|x^y\r"
    assert read(none, "PID-1", "PID-1.1", "PID-1.2", "PID-1(2)") == ["x^y", "x^y", None, None]
    # A seldom set of separators does not stay for ever.
    marks = "!#$%*+,-./:;<=>?@[]_`{}"
    form = Hl7Format(["MSH-3"])
    frames = [f"MSH{a}{b}~\\&{a}x{a}".encode() for a in marks for b in marks if a != b]
    assert form.parse_frames(frames).cells["MSH-3"].values == ["x"] * len(frames)
    assert len(form._grammars) <= 64


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\E\\\\E\\F\\E\\", "\\\\F\\"),
        ("\\F", "\\F"),
        ("\\", "\\"),
        ("\\\\", "\\\\"),
        ("\\Q\\", "\\Q\\"),
        ("\\X\\", "\\X\\"),
        ("\\X4\\", "\\X4\\"),
        ("\\X4G\\", "\\X4G\\"),
        ("\\X4142\\", "AB"),
        ("\\X0D0A\\", "\r\n"),
        ("\\X00\\", "\0"),
        ("\\XE9\\", "\\XE9\\"),
        ("\\XC3A9\\", "é"),
        ("\\XE5\\\\XA5B6\\", "奶"),
        ("\\C2842\\x\\M244230\\", "\\C2842\\x\\M244230\\"),
        ("\\Z123\\ \\.sp+3\\ \\P\\", "\\Z123\\ \\.sp+3\\ \\P\\"),
        ("C:\\F\\x\\T", "C:|x\\T"),
    ],
)
def test_escapes(text: str, value: str) -> None:
    """Separators and bytes of the character set are decoded, all else stays as it was sent."""
    assert read(f"MSH|^~\\&|{text}\r", "MSH-3") == [value]


def test_character_sets() -> None:
    """MSH-18 decides over text and bytes in escapes; without it the route's set does."""
    latin = msh("grüße^\\XE9\\", "8859/1").encode("latin-1")
    assert read(latin, "MSH-3.1", "MSH-3.2") == ["grüße", "é"]
    unnamed = latin.replace(b"8859/1", b"")
    assert read(unnamed, "MSH-3.1", charset="iso8859-1") == ["grüße"]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("BIG-5", "big5"), ("GB 18030-2000", "gb18030"), ("~ISO IR87", "iso2022_jp")),
        *(("ASCII~ISO IR87", "iso2022_jp"), ("BIG5", "big5"), ("KS X 1001", "euc_kr")),
    ],
)
def test_characters_that_look_as_separators(name: str, codec: str) -> None:
    """A byte of a character that is as a separator's separates nothing."""
    words: list[str] = []
    for point in range(0x4E00, 0x9FA6):
        with suppress(UnicodeEncodeError):
            if set(chr(point).encode(codec)[:6]) & set(b"|^~\\&"):
                words.append(chr(point))
    for word in [*words[::50], "金"]:
        message = f"{msh(f'{word}^{word}', name)}PID|{word}~{word}^{word}&{word}\r"
        sent = message.encode(codec)
        assert read(sent, "MSH-3.1", "PID-1(2).2.2", "message") == [word, word, message]
        assert read_header(sent).field(18) == name.encode()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "not HL7: it is empty"),
        (b"hello", "not HL7: it begins with b'hello', not with MSH"),
        (b"BHS|^~\\&|\r", "not HL7: it begins with BHS; files and batches are not taken"),
        (b"MSHA", "not HL7: b'A' behind MSH are no separators"),
        (b"MSH|^~\\&|A\rMSH|^~\\&|B\r", "not HL7: MSH is there twice, as of two messages"),
        (msh("A", "X-1").encode(), "not HL7: character set 'X-1' (MSH-18) is not known"),
        (
            msh("\xe9", "ASCII").encode("latin-1"),
            "not HL7: no ASCII, its character set by MSH-18 or the route: byte 9",
        ),
    ],
)
def test_faults(message: bytes, said: str) -> None:
    """A message that cannot be read has no values, and is said to have none."""
    found = Hl7Format(["MSH-3", "message"]).parse_frames([message])
    ((row, outcome),) = found.faults
    assert (row, str(outcome.code), outcome.text) == (0, "FORMAT", said)
    assert all(cells.values == [None] for cells in found.cells.values())


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("", "is no path of HL7, such as PID-3.1, PID-3(2).1 or OBX(2)-5, nor 'message'"),
        ("PID", "is no path of HL7"),
        ("PID.3.1", "; write PID-3.1"),
        ("PID3", "; write PID-3"),
        ("pid-3", "is no path"),
        ("PID-0", "is no path"),
        ("PID-3.0", "is no path"),
        ("PID-3(0)", "is no path"),
        ("OBX(0)-5", "is no path"),
        ("PID-3.1.2.3", "is no path"),
        ("PID-12345", "is no path"),
        ("OBX(*)-5(*)", "has * twice"),
        ("MSH(2)-3", "names a second MSH"),
        ("MSH(*)-3", "names a second MSH"),
        ("MSH-1.1", "goes into MSH-1, which has no parts"),
        ("MSH-2(1)", "goes into MSH-2, which has no parts"),
    ],
)
def test_no_paths(field: str, said: str) -> None:
    """What is no path is said before any message comes."""
    assert said in str(fault_of(field))


@pytest.mark.parametrize(
    ("moment", "offset"),
    [
        ("20261127203447+0100", "+0100"),
        ("20261127203447.1234-0330^S", "-0330"),
        ("20261127203447", ""),
        ("", ""),
        ("x+0100", ""),
    ],
)
def test_offset_of_a_message(moment: str, offset: str) -> None:
    """The offset from UTC in MSH-7 is that of all times in a message that name none."""
    frames = [f"MSH|^~\\&|||||{moment}||ADT\rPID|7\r".encode(), b"no", b"MSH|^~\\&|\r"]
    cells = Hl7Format(["PID-1"]).parse_frames(frames).cells["PID-1"]
    assert isinstance(cells, Texts) and cells.offsets is not None
    assert cells.offsets() == [offset, "", ""]


# Messages as another library reads them.

PLAIN = st.text(st.sampled_from("abcXYZ0189 .-äñ奶"), min_size=1, max_size=6)
TEXTS = PLAIN | st.just("") | st.sampled_from(["\\F\\", "a\\S\\b", "\\T\\\\E\\", "\\R\\"])


def joined(separator: str, parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=1, max_size=3).map(separator.join)


COMPONENT = joined("&", TEXTS)
FIELD = joined("~", joined("^", COMPONENT))
SEGMENT = st.builds(
    lambda name, fields: "|".join([name, *fields]),
    st.sampled_from(["PID", "OBX", "ZZ1"]),
    st.lists(FIELD, min_size=1, max_size=5),
)


def theirs(message: hl7.Message, segment: str, place: int, numbers: Sequence[int]) -> str:
    """
    @return: a subcomponent by PyPI's hl7; C{""} where there is none.
    """
    try:
        found = message.extract_field(segment, place, *numbers)
    except (KeyError, IndexError):
        return ""
    return str(found)


@given(st.lists(SEGMENT, max_size=5), st.sampled_from(["PID", "OBX", "ZZ1"]), st.data())
def test_as_another_library_reads_it(segments: list[str], name: str, data: st.DataObject) -> None:
    """Every subcomponent is what PyPI's hl7 finds at that place."""
    # That library strips the end of a message, where a last value of spaces would go.
    text = "\r".join(["MSH|^~\\&|A|B||||ADT^A04|1|P|2.5", *segments, "ZZ9|x"]) + "\r"
    message = hl7.parse(text)
    small = st.integers(1, 3)
    numbers = (data.draw(st.integers(1, 5)), *(data.draw(small) for _ in range(3)))
    field, repetition, component, subcomponent = numbers
    for place in range(1, 4):
        # That library has no places beyond the last segment.
        at = [segment for segment in segments if segment.startswith(name)]
        expected = theirs(message, name, place, numbers) if place <= len(at) else ""
        path = f"{name}({place})-{field}({repetition}).{component}.{subcomponent}"
        assert read(text, path) == [expected or None], path


@given(
    st.lists(st.text("aé^~\\&\x1b$\n %", max_size=3), max_size=16),
    st.sampled_from([None, "", "8859/1", "UNICODE UTF-8", "ASCII", "8859/5", "~ISO IR87", "no"]),
    st.sampled_from(["\rPID|1||x\\XE9\\y\r", "", "\rMSH|^~\\&|", "\nPID|1||z"]),
    st.sampled_from(["utf-8", "latin-1"]),
)
def test_the_quick_way_is_the_same(
    fields: list[str], charset: str | None, rest: str, encoding: str
) -> None:
    """A header in ASCII, as nearly all are, is read as any other."""
    values = [*fields, *[""] * (15 - len(fields))][:15] if charset is not None else fields
    header = "|".join(["MSH", "^~\\&", *values, *([charset] if charset is not None else [])])
    frame = (header + rest).encode(encoding)
    form = Hl7Format(["MSH-3.1", "MSH-4", "MSH-18", "PID-3", "message"])
    quick, slow = (form.parse_frames([margin + frame]) for margin in (b"", b"\r\n"))
    assert quick.faults == slow.faults
    assert {name: cells.values for name, cells in quick.cells.items()} == {
        name: cells.values for name, cells in slow.cells.items()
    }


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["PID-3", "PID-3(2).1", "OBX(2)-5", "MSH-4.2", "ZZ1-1.2.2"]),
            PLAIN.map(str.strip).filter(bool),
        ),
        unique_by=lambda pair: pair[0],
    )
)
def test_samples(pairs: list[tuple[str, str]]) -> None:
    """A sample has the values that it was made for."""
    wanted = {field: f"{value}|^\\" for field, value in pairs if field != "PID-3"}
    text = sample({**wanted, "MSH-10": 1, "MSH-9.1": "ORU", "message": 1, "OBX(*)-8": 1})
    assert read(text, *wanted, "MSH-9", "MSH-10") == [*wanted.values(), "ORU^A04^ADT_A01", "1"]
    assert str(hl7.parse(text)["MSH.F9.R1.C2"]) == "A04"


def test_a_list_is_json() -> None:
    """A list of values can be stored in an array or in jsonb."""
    (found,) = read(ADT, "PID-3(*).1")
    assert json.loads(str(found)) == ["191919", "371-66-9256"]
