"""
Headers of HL7 v2, character sets, and acknowledgements as another library reads them.
"""

from __future__ import annotations

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.hl7 import (
    CHARSETS,
    CONDITION_NAMES,
    NO_HEADER,
    Accepted,
    AckLetter,
    Condition,
    Fault,
    Header,
    NotHl7,
    acknowledgement,
    acknowledgement_word,
    codec,
    codec_named,
    decode,
    read_header,
    without_margin,
)

NOW = b"20261127203447+0000"


def header(**fields: str) -> Header:
    """A header with these fields, as C{f9="ADT^A04"}, beside the usual ones."""
    values = {3: "LAB", 4: "NORTH", 5: "EHR", 6: "SOUTH", 9: "ADT^A04^ADT_A01"}
    values |= {10: "42", 11: "P", 12: "2.5.1", **{int(k[1:]): v for k, v in fields.items()}}
    last = max(values)
    text = "|".join(["MSH", "^~\\&", *(values.get(n, "") for n in range(3, last + 1))])
    return read_header(f"{text}\rPID|1\r".encode("latin-1"))


def answer(header: Header, word: bytes = b"AA", fault: Fault | None = None) -> hl7.Message:
    """The acknowledgement, as PyPI's hl7 reads it."""
    text = acknowledgement(header, word, NOW, b"id-1", fault).decode(codec(header))
    assert text.endswith("\r") and "\n" not in text
    return hl7.parse(text)


def test_fields_count_from_the_separator() -> None:
    """MSH-1 is the separator, MSH-2 the encoding characters; of what is not there nothing is."""
    one = read_header(b"MSH|^~\\&|A^1.2^ISO~B||C\rPID|||7")
    assert [one.field(n) for n in range(7)] == [
        *(b"MSH", b"|", b"^~\\&", b"A^1.2^ISO~B", b"", b"C", b"")
    ]
    assert (one.first(3), one.first(3, 2), one.first(3, 4), one.first(9)) == (
        *(b"A", b"1.2", b"", b""),
    )
    assert one.separators == b"|^~\\&"
    assert read_header(b"MSH#*+!?#A*B\r").first(3, 2) == b"B"
    # 2.7 has a sixth, which truncated values end with; few have less than four.
    assert read_header(b"MSH|^~\\&#|A\r").separators == b"|^~\\&"
    few = read_header(b"MSH|^|A^B~C\r")
    assert (few.separators, few.first(3, 2)) == (b"|^", b"B~C")
    assert read_header(b"MSH||A^B\r").first(3) == b"A^B"


@pytest.mark.parametrize(
    ("message", "said", "answered"),
    [
        (b"", "it is empty", False),
        (b"\r\n", "it is empty", False),
        (b"PID|1", "it begins with b'PID|1', not with MSH", False),
        (b"<HL7Message>", "it begins with b'<HL7Mess', not with MSH", False),
        (b"FHS|^~\\&|", "it begins with FHS; files and batches are not taken", False),
        (b"BHS|^~\\&|\rMSH|^~\\&|", "it begins with BHS;", False),
        (b"MSH", "b'' behind MSH are no separators", True),
        (b"MSHX^~\\&X", "b'X^~\\\\&' behind MSH are no separators", True),
        (b"MSH|^~\\^|A", "b'|^~\\\\^' behind MSH are no separators", True),
        (b"MSH|AB|C", "b'|AB' behind MSH are no separators", True),
        (b"MSH \xff\xfe ", "b' \\xff\\xfe' behind MSH are no separators", True),
        (b"MSH|^~\\&|A\rMSH|^~\\&|B\r", "MSH is there twice", True),
        (b"MSH|^~\\&|A\r\nMSH|^~\\&|B\r", "MSH is there twice", True),
    ],
)
def test_no_header(message: bytes, said: str, answered: bool) -> None:
    """What is wrong is named; what begins with MSH can be answered all the same."""
    with pytest.raises(NotHl7) as caught:
        read_header(message)
    assert said in str(caught.value)
    assert (caught.value.header is not None) == answered
    if caught.value.header is not None:
        assert acknowledgement(caught.value.header, b"AE", NOW, b"1").startswith(b"MSH|^~\\&|")


def test_margin() -> None:
    """Line ends and a byte order mark before MSH are dropped, and nothing else."""
    for margin in (b"", b"\r", b"\r\n\r\n", b"\xef\xbb\xbf", b"\r\n\xef\xbb\xbf"):
        assert without_margin(margin + b"MSH|^~\\&|\r\n") == b"MSH|^~\\&|\r\n"
    assert without_margin(b" MSH|") == b" MSH|"


@pytest.mark.parametrize(
    ("name", "text", "sent"),
    [
        ("", "grüße 奶", "grüße 奶".encode()),
        ("ASCII", "a", b"a"),
        ("8859/1", "grüße", b"gr\xfc\xdfe"),
        ("8859/2", "łódź", b"\xb3\xf3d\xbc"),
        ("8859/5", "привет", "привет".encode("iso8859-5")),
        ("8859/15", "5 €", b"5 \xa4"),
        ("UNICODE UTF-8", "grüße 奶", "grüße 奶".encode()),
        ("UNICODE", "奶", "奶".encode()),
        ("ISO IR6", "a", b"a"),
        ("ISO IR14", "ｱ", b"\xb1"),
        ("~ISO IR87", "山田^太郎", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        ("ISO IR6~ISO IR87~ISO IR159", "山丂", b"\x1b$B;3\x1b$(D0!\x1b(B"),
        ("ISO IR87", "山", b"\x1b$B;3\x1b(B"),
        ("GB 18030-2000", "奶", "奶".encode("gb18030")),
        ("KS X 1001", "김", "김".encode("euc_kr")),
        ("BIG-5", "奶", "奶".encode("big5")),
        # As senders write it.
        ("UTF-8", "é", "é".encode()),
        ("utf8", "é", "é".encode()),
        ("ISO-8859-1", "é", b"\xe9"),
        ("ISO_8859/1", "é", b"\xe9"),
        ("8859/1~8859/5", "é", b"\xe9"),
        ("ASCII~ASCII", "a", b"a"),
        ("WINDOWS-1252", "€", b"\x80"),
    ],
)
def test_character_sets(name: str, text: str, sent: bytes) -> None:
    """MSH-18 says how a message is decoded: by table 0211, and by its usual misspellings."""
    found = codec(header(f18=name) if name else header())
    assert decode(sent, found) == text


@pytest.mark.parametrize(
    "name", ["UNICODE UTF-16", "UNICODE UTF-32", "CNS 11643-1992", "8859/16", "x", "\xff"]
)
def test_unknown_character_sets(name: str) -> None:
    """A set that is not known, or that MLLP cannot carry, is named."""
    with pytest.raises(NotHl7, match=r"character set .* \(MSH-18\) is not known"):
        codec(header(f18=name))


@pytest.mark.parametrize(
    ("name", "sent", "said"),
    [
        ("", b"a\xe9", "no UTF-8, its character set by MSH-18 or the route: byte 1"),
        ("ASCII", b"\xc3\xa9", "no ASCII, its character set by MSH-18 or the route: byte 0"),
        ("8859/3", b"ab\xa5", "no ISO8859-3, its character set by MSH-18 or the route: byte 2"),
        (
            "ISO IR14",
            b"a\x81\x40",
            "no JIS X 0201, its character set by MSH-18 or the route: byte 1",
        ),
    ],
)
def test_not_of_the_character_set(name: str, sent: bytes, said: str) -> None:
    """Bytes that the set does not have are refused, never guessed."""
    with pytest.raises(NotHl7) as caught:
        decode(sent, codec(header(f18=name) if name else header()))
    assert said in str(caught.value)


def test_every_codec_is_python_s() -> None:
    """Each name of a character set stands for a codec that there is; a sender's default too."""
    for name, known in CHARSETS.items():
        assert b"a".decode(known) == "a" and codec_named(name) == known
    assert codec(header(), "iso8859-1") == "iso8859-1"


def test_accepted() -> None:
    """Sender and receiver change places, the rest of MSH is the message's, MSA-2 is its MSH-10."""
    one = header(f3="LAB^1.2^ISO", f10="A~1^b&c", f11="T^A", f18="UNICODE UTF-8")
    text = acknowledgement(one, b"AA", NOW, b"id-1")
    assert text == (
        b"MSH|^~\\&|EHR|SOUTH|LAB^1.2^ISO|NORTH|20261127203447+0000||ACK^A04^ACK|id-1|T^A|2.5.1"
        b"||||||UNICODE UTF-8\rMSA|AA|A~1^b&c\r"
    )


def test_enhanced() -> None:
    """An accept acknowledgement asks for none itself."""
    assert (
        acknowledgement(header(f15="AL"), b"CA", NOW, b"1")
        .split(b"\r")[0]
        .endswith(b"|1|P|2.5.1|||NE|NE")
    )


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("2.8.2", "ACK^A04^ACK"),
        ("2.4", "ACK^A04^ACK"),
        ("2.3.1", "ACK^A04"),
        ("2.3", "ACK"),
        ("2.1", "ACK"),
        ("", "ACK"),
        ("2.5^DEU", "ACK^A04^ACK"),
        ("2.x", "ACK"),
        ("2." + "9" * 5000, "ACK"),
    ],
)
def test_type_of_an_answer(version: str, kind: str) -> None:
    """MSH-9 has as many parts as the message's version knows, MSH-12 is as the message has it."""
    found = answer(header(f12=version))
    assert str(found.segment("MSH")(9)) == kind and str(found.segment("MSH")(12)) == version
    assert acknowledgement(header(f9="ADT"), b"AA", NOW, b"1").split(b"|")[8] == b"ACK"


def test_refused() -> None:
    """ERR has the condition of table 0357, severity E, and a text for people, escaped."""
    fault = Fault(Condition.UNSUPPORTED_MESSAGE_TYPE, "no 'a|b^c~d\\e&f' grüße", 9, "FORMAT", "d")
    found = answer(header(f18="8859/1"), b"AR", fault)
    err = found.segment("ERR")
    assert str(err) == (
        "ERR||MSH^1^9|200^Unsupported message type^HL70357|E|FORMAT||d"
        "|no 'a\\F\\b\\S\\c\\R\\d\\E\\e\\T\\f' grüße"
    )
    assert found["ERR.F8"] == fault.text and found["ERR.F4"] == "E"
    assert str(found.segment("MSA")) == "MSA|AR|42"
    # What the message's character set does not have becomes a question mark.
    assert b"|no gr??e\r" in acknowledgement(
        header(f18="ASCII"), b"AE", NOW, b"1", Fault(Condition.INTERNAL, "no grüße")
    )
    assert b"|?\r" in acknowledgement(
        header(f18="x"), b"AE", NOW, b"1", Fault(Condition.INTERNAL, "ü")
    )


def test_refused_before_2_5() -> None:
    """Before 2.5 the text is in MSA-3 too, and the condition in ERR-1 too."""
    found = answer(header(f12="2.3.1"), b"AE", Fault(Condition.DATA_TYPE, "bad", 0, "DATA"))
    assert str(found.segment("MSA")) == "MSA|AE|42|bad"
    assert str(found.segment("ERR")) == (
        "ERR|^^^102&Data type error&HL70357||102^Data type error^HL70357|E|DATA|||bad"
    )
    found = answer(header(f12="2.4"), b"AR", Fault(Condition.UNSUPPORTED_VERSION, "bad", 12))
    assert str(found.segment("ERR")).startswith("ERR|MSH^1^12^203&Unsupported version id&HL70357|")


def test_text_of_a_fault() -> None:
    """Whatever a trigger may say, it is one line of text that ends neither segment nor block."""
    fault = Fault(Condition.INTERNAL, "a\rb\x0bc\x1c\r\nd\ud800" + "x" * 999)
    text = str(answer(header(), b"AE", fault)["ERR.F8"])
    assert text.startswith("a b c d\\ud800x") and len(text) == 200


@pytest.mark.parametrize("encoding", ["", "^", "^~", "^~!", "*+!?", "^~\\&#"])
def test_separators_of_the_message(encoding: str) -> None:
    """An answer is written with the separators that its message has, however few."""
    one = read_header(f"MSH${encoding}$A$B$C$D$$$ADT$7$P$2.5\r".encode())
    text = acknowledgement(one, b"AE", NOW, b"1", Fault(Condition.INTERNAL, "no $1"))
    head, answered, error, end = text.decode().split("\r")
    assert head.startswith(f"MSH${encoding}$C$D$A$B$") and answered == "MSA$AE$7" and not end
    assert error.split("$")[3].startswith("207") and error.split("$")[4] == "E"
    assert error.endswith(
        "no $1".replace("$", f"{encoding[2:3]}F{encoding[2:3]}" if encoding[2:3] else " ")
    )


ENHANCED = [
    # MSH-15, MSH-16, and the answers to what is accepted, refused and not supported.
    ("", "", "AA AE AR"),
    ("AL", "", "CA CE CR"),
    ("AL", "NE", "CA CE CR"),
    ("AL", "AL", "CA CE CR"),
    ("al", "ne", "CA CE CR"),
    ("ER", "NE", "- CE CR"),
    ("SU", "", "CA - -"),
    ("NE", "", "- - -"),
    ("NE", "NE", "- - -"),
    # Chapter 2: NE and AL are the original mode in other words.
    ("NE", "AL", "AA AE AR"),
    ("NE", "ER", "- AE AR"),
    ("", "AL", "AA AE AR"),
    ("", "SU", "AA - -"),
    ("", "NE", "- - -"),
    ("XX", "", "CA CE CR"),
]


@pytest.mark.parametrize(("accept", "application", "words"), ENHANCED)
def test_modes(accept: str, application: str, words: str) -> None:
    """The message says whether and how it is acknowledged."""
    one = header(f15=accept, f16=application)
    letters: list[AckLetter] = ["A", "E", "R"]
    found = [acknowledgement_word(one, letter).decode() or "-" for letter in letters]
    assert " ".join(found) == words


@pytest.mark.parametrize(
    ("accepted", "fields", "condition"),
    [
        (Accepted(), {}, None),
        (Accepted(), {"f9": "", "f11": "", "f12": ""}, None),
        (Accepted(), {"f9": "ZZZ^Z99", "f11": "D^A", "f12": "2"}, None),
        (Accepted(), {"f12": "2.9.1^DEU"}, None),
        (Accepted(), {"f12": "3.0"}, 203),
        (Accepted(), {"f12": "20"}, 203),
        (Accepted(), {"f11": "X"}, 202),
        (Accepted(("ADT", "ORU^R01")), {}, None),
        (Accepted(("ADT", "ORU^R01")), {"f9": "ORU^R01^ORU_R01"}, None),
        (Accepted(("ADT", "ORU^R01")), {"f9": "ORU^R32"}, 201),
        (Accepted(("ADT", "ORU^R01")), {"f9": "SIU^S12"}, 200),
        (Accepted(("ADT",)), {"f9": ""}, 200),
        (Accepted(versions=("2.5.1", "2.3")), {}, None),
        (Accepted(versions=("2.5.1", "2.3")), {"f12": "2.5"}, 203),
        (Accepted(versions=("2.5",)), {"f12": ""}, 203),
        (Accepted(processing_ids=("P",)), {"f11": "T"}, 202),
        (Accepted(processing_ids=("P",)), {"f11": ""}, 202),
    ],
)
def test_what_is_accepted(
    accepted: Accepted, fields: dict[str, str], condition: int | None
) -> None:
    """Message types, versions and processing ids that are not taken have their conditions."""
    fault = accepted.fault(header(**fields))
    assert (fault.condition if fault else None) == condition
    if fault is not None:
        assert fault.place in (9, 11, 12) and fault.condition in CONDITION_NAMES


@given(st.binary(max_size=80), st.sampled_from([b"", b"MSH", b"MSH|^~\\&|", b"MSH|^"]))
def test_anything(data: bytes, begin: bytes) -> None:
    """Of any bytes that begin with MSH an answer can be written, with their MSH-10 in it."""
    try:
        one = read_header(begin + data)
    except NotHl7 as error:
        assert (error.header is not None) == (begin + data).startswith(b"MSH")
        one = error.header or NO_HEADER
    fault = Fault(Condition.INTERNAL, "why")
    text = acknowledgement(one, b"AE", NOW, b"1", fault)
    lines = text.split(b"\r")
    if b"\n" not in begin + data:
        assert lines[1].startswith(one.separators[:1].join([b"MSA", b"AE", one.field(10)]))
    assert Accepted().fault(one) is None or one.fields
