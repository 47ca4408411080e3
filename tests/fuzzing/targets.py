"""
What must hold of each parser, whatever bytes it is given.

A target is a function of some bytes that returns where the invariant held and raises where
it did not. The first bytes choose what is free (limits, where TCP cuts), the rest is what a
peer, a server or an operator would have sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from random import Random
from typing import Any, Final

from gateway.client.answers import Garbled
from gateway.client.wire import WIRES
from gateway.columns.column import Column, Misfits
from gateway.columns.kind import Misfit, SqlType
from gateway.columns.kinds import kind_of
from gateway.config import load_config
from gateway.errors import ConfigError, FramingError, HeaderError
from gateway.faults import Faults, FramesRefused
from gateway.formats.choice import Reading, format_of
from gateway.formats.csv import WHITESPACE
from gateway.formats.fields import Cells, Tokens
from gateway.formats.text import BytesFormat, TextFormat
from gateway.framing import FRAMINGS, OVERSIZE, Framing
from gateway.postgres.dsn import dsn_fault, has_password, public_dsn
from gateway.postgres.said import Outside
from gateway.proxy.header import MOST_V2, HeaderReader
from gateway.query import Param
from gateway.reply import Words
from gateway.sql.arguments import Arguments
from gateway.telnet import TelnetFraming
from tests.in_memory import Bench

BETWEEN: Final = b"\xff\n"
"""What stands between messages where a target takes several."""


@dataclass(frozen=True)
class Target:
    """
    @ivar check: raises where the invariant does not hold.
    @ivar seeds: what reaches deep into the parser.
    """

    check: Callable[[bytes], None]
    seeds: Sequence[bytes]


def pieces(stream: bytes, how: int) -> list[bytes]:
    """
    A stream as TCP may cut it.

    @param how: 0 for one byte at a time, else a seed.
    """
    chance = Random(how)
    found = []
    while stream:
        size = chance.choice((1, 2, 7, 50)) if how else 1
        found.append(stream[:size])
        stream = stream[size:]
    return found


# Framings: however the bytes are cut, the same frames come out; only FramingError is raised.


def framing(kind: str) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        most, how, stream = data[:1], data[1:2], data[2:]
        max_frame = 1 + (most[0] if most else 9)
        whole = _frames(FRAMINGS[kind](max_frame), [stream], max_frame)
        cut = _frames(FRAMINGS[kind](max_frame), pieces(stream, how[0] if how else 0), max_frame)
        assert whole == cut, (whole, cut)
        assert all(len(frame) <= max_frame for frame in whole[0])
        again = FRAMINGS[kind](max_frame)
        good = [frame for frame in whole[0] if frame is not OVERSIZE and not frame.endswith(b"\r")]
        assert again.receive(b"".join(map(again.frame, good))) == good

    return check


def _frames(
    parser: Framing, stream: Sequence[bytes], max_frame: int
) -> tuple[list[bytes], list[bool], bytes]:
    """
    @return: the frames, which of them stand for one too long, and how they ended.
    """
    frames: list[bytes] = []
    end = b""
    for piece in stream:
        try:
            frames += parser.receive(piece)
        except FramingError as error:
            frames += error.frames
            end = b"broken"
            break
        # A length and its mark, or a CR that may be part of the ending.
        assert parser.pending <= max_frame + len(str(max_frame)) + 2, parser.pending
        assert parser.pending == 0 or parser.unfinished
    else:
        end = b"unfinished" if parser.unfinished else b"whole"
    if parser.kind not in (b"\n", b"\r\n", b":", b" "):
        raise AssertionError(parser.kind)
    return frames, [frame is OVERSIZE for frame in frames], end + parser.kind


# Telnet: the same lines and the same answers however the bytes are cut; answers are refusals,
# no longer than what asked for them.


def telnet(data: bytes) -> None:
    stream = data[1:]
    found = []
    for each in ([stream], pieces(stream, data[0] if data else 0)):
        said = bytearray()
        framing = TelnetFraming(FRAMINGS["line"](50), said.extend)
        frames: list[bytes] = []
        broken = False
        for piece in each:
            try:
                frames += framing.receive(piece)
            except FramingError as error:
                frames += error.frames
                broken = True
                break
        found.append((frames, bytes(said), broken))
        assert re.fullmatch(rb"(\xff[\xfc\xfe].)*", said, re.DOTALL), bytes(said)
        assert len(said) <= len(stream)
    assert found[0] == found[1], found


# A proxy's header: however the bytes are cut, the same source, rest or refusal.


def proxy_header(data: bytes) -> None:
    stream = data[1:]
    assert _header([stream]) == _header(pieces(stream, data[0] if data else 0))


def _header(stream: Sequence[bytes]) -> object:
    reader = HeaderReader()
    for number, piece in enumerate(stream):
        try:
            header = reader.receive(piece)
        except HeaderError as error:
            assert str(error).startswith("no PROXY header: ") and str(error).isprintable()
            return HeaderError
        if header is not None:
            return header.source, header.rest + b"".join(stream[number + 1 :])
        assert sum(map(len, stream[: number + 1])) < MOST_V2
    return None


# A client's framings: the same of what a gateway, or somebody in its place, answers.


def wire(data: bytes) -> None:
    for kind in WIRES.values():
        found = []
        for stream in ([data[1:]], pieces(data[1:], data[0] if data else 0)):
            receiver, frames, broken = kind(), [], False
            try:
                for piece in stream:
                    frames += receiver.receive(piece)
            except Garbled:
                broken = True
            found.append((frames, broken))
        whole, cut = found
        # What came before garbage in the same read is of no use to a client.
        assert cut[1] == whole[1] and (whole == cut or whole[1]), found


# Formats: no exception, and each message is read or refused, as it would be alone.


def structured(reading: Reading, *fields: str) -> Callable[[bytes], None]:
    parser = format_of(reading, fields)

    def check(data: bytes) -> None:
        messages = data.split(BETWEEN)
        together = parser.read(messages)
        assert set(together.cells) == set(fields)
        _check_faults(together.faults, len(messages))
        rows = _rows(together.cells.values(), len(messages))
        faults = dict(together.faults)
        for number, message in enumerate(messages):
            alone = parser.read([message])
            (row,) = _rows(alone.cells.values(), 1)
            assert row == rows[number], (message, row, rows[number])
            assert dict(alone.faults).get(0) == faults.get(number), message

    return check


def _rows(columns: Any, count: int) -> list[tuple[bytes | str | None, ...]]:
    lists = [
        [bytes(value) for value in cells.values] if isinstance(cells, Tokens) else cells.values
        for cells in columns
    ]
    assert all(len(values) == count for values in lists)
    return list(zip(*lists, strict=True))


def _check_faults(faults: Faults, count: int) -> None:
    numbers = [number for number, _ in faults]
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(count))
    for _, outcome in faults:
        said = Words().payload(outcome)
        assert isinstance(said, bytes) and said.startswith(b"-REJ ")
        assert said.decode().isprintable(), said


def text(data: bytes) -> None:
    """Whole messages: the same bytes come out, or those at fault are named."""
    messages = data.split(BETWEEN)
    try:
        joined, separator = TextFormat().encode(messages)
        assert [part.encode() for part in joined.split(separator)] == messages
    except FramesRefused as refused:
        _check_faults(refused.faults, len(messages))
        assert refused.faults
    joined, separator = BytesFormat().encode(messages)
    assert [bytes.fromhex(part) for part in joined.split(separator)] == messages


# Columns: each value becomes one element of an array literal, or is refused by name.

TYPES: Final = [
    *(SqlType(name, name) for name in ("int2", "int8", "float8", "numeric", "bool", "text")),
    *(SqlType(name, name) for name in ("uuid", "inet", "cidr", "bytea", "json", "jsonb", "date")),
    *(SqlType(name, name) for name in ("timestamptz", "timestamp", "interval")),
    SqlType("character varying", "varchar", 3),
    SqlType("integer[]", "_int4", 0, SqlType("integer", "int4")),
    SqlType("text[]", "_text", 0, SqlType("text", "text")),
]

_JSON: Final = format_of(Reading("json"), ["v"])
_LINES: Final = format_of(Reading("regex", pattern="(?s)(?P<v>.*)"), ["v"])


def columns(data: bytes) -> None:
    sql_type = TYPES[data[0] % len(TYPES)] if data else TYPES[0]
    column = Column("c", "v", kind_of(sql_type))
    messages = data[1:].split(BETWEEN)
    for parser in (_JSON, _LINES):
        read = parser.read(messages)
        rows = dict(read.faults)
        good = [message for number, message in enumerate(messages) if number not in rows]
        if good:
            _check_column(column, parser.read(good).cells["v"], len(good))


def _check_column(column: Column, cells: Cells, count: int) -> None:
    misfits: Misfits = {}
    together = elements(column.encode(cells, misfits))
    assert len(together) == count, together
    for number in range(count):
        own: Misfits = {}
        one = type(cells)([cells.values[number]])  # type: ignore[list-item]
        (alone,) = elements(column.encode(one, own))
        assert _meaning(alone) == _meaning(together[number]), (alone, together[number])
        assert own.get(0) == misfits.get(number)


def _meaning(element: str) -> str:
    # An integer may keep its leading zeros or not; both are the same to PostgreSQL.
    return str(int(element)) if re.fullmatch("-?[0-9]+", element) else element


def elements(piece: str) -> list[str]:
    """
    The elements of an array literal without its braces, as PostgreSQL would find them.
    """
    assert "\0" not in piece
    piece.encode()
    found, start, depth, quoted = [], 0, 0, False
    place = 0
    while place < len(piece):
        character = piece[place]
        if character == "\\":
            assert quoted, piece
            place += 1
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in "{}":
            depth += 1 if character == "{" else -1
            assert depth >= 0, piece
        elif not quoted and not depth and character == ",":
            found.append(piece[start:place])
            start = place + 1
        place += 1
    assert not quoted and not depth, piece
    found.append(piece[start:])
    assert all(found), piece
    return found


# Arguments of CALL: an element for each parameter, or a Misfit.

_PARAMS: Final = {
    "n": Param("int4", default="1"),
    "t": Param("text", required=False),
    "d": Param("jsonb", required=False),
    "a": Param("int4[]", required=False),
    "w": Param("timestamptz", required=False),
}
_ARGUMENTS: Final = Arguments(
    _PARAMS,
    [
        SqlType("integer", "int4"),
        SqlType("text", "text"),
        SqlType("jsonb", "jsonb"),
        SqlType("integer[]", "_int4", 0, SqlType("integer", "int4")),
        SqlType("timestamp with time zone", "timestamptz"),
    ],
)


def arguments(data: bytes) -> None:
    try:
        found = _ARGUMENTS.read(data)
    except Misfit as error:
        assert str(error)
    else:
        assert len(found) == len(_PARAMS)
        for element in found:
            assert len(elements(element)) == 1, element


# The command grammar: one answer for each frame, in order, however the bytes are cut.

_ANSWER: Final = (b"+OK", b"+DUP", b"-REJ ", b"-TRY ", b"-BYE ", b"*")


def commands(data: bytes) -> None:
    how, stream = data[:1], data[1:].replace(b"\r", b"") + b"\nPING end\nQUIT\n"
    whole = _said([stream])
    cut = _said(pieces(stream, how[0] if how else 0))
    assert whole == cut, (whole, cut)


def _said(stream: Sequence[bytes]) -> list[bytes]:
    bench = Bench(held=False, routes=["messages", "numbers"], window=1000)
    for piece in stream:
        bench.peer.dataReceived(piece)
        bench.commit_all()
    bench.wait(1)
    assert bench.transport.disconnecting
    assert bench.pressure.used == 0
    *answers, rest = bench.said.split(b"\n")
    assert not rest
    for answer in answers:
        if answer.startswith(b"@"):
            answer = answer.partition(b" ")[2]
        assert answer.startswith(_ANSWER) or answer.startswith((b"{", b"[")) or answer, answer
        assert b"INTERNAL" not in answer, answer
    return answers


# What an operator writes: problems in one line each, no other exception.


def configuration(data: bytes) -> None:
    try:
        load_config(data.decode("utf-8", "replace"), PurePath("/g.toml"), lambda endpoint: None)
    except ConfigError as error:
        assert error.problems
        assert all(problem.startswith("/g.toml: ") for problem in error.problems), error.problems


def connection_string(data: bytes) -> None:
    dsn, _, service = data.decode("utf-8", "replace").partition("\x1e")
    outside = Outside({"PGSERVICEFILE": "/s"}, "/home", {"/s": service}.get)
    fault = dsn_fault(dsn, outside)
    has_password(dsn)
    if fault is None:
        # What is shown can be read again, and has no password.
        assert not has_password(public_dsn(dsn))
    else:
        assert fault and "\n" not in fault


_SYSLOG = b'<34>1 2003-10-11T22:14:15.003Z host app - ID47 [e@1 iut="3" x="a\\]b"] \xef\xbb\xbfm'
_JSON_SEED = b'{"v":1,"a":{"b":"x\\u00e9"},"c":[1.5e3,null,true]}'
_OLD = b"<13>Oct 11 22:14:15 host su[123]: failed"
_COMMANDS = (
    b"\x05PUT messages hello\n@7 PUT messages x\nHELLO s\nPUT messages #1 a\nPUT messages #1 a\n"
    b"PUT messages #3 c\nPUT nowhere #2 b\nSYNC\nQUIET\nPUT numbers #3 z\nSYNC"
)

TARGETS: Final = {
    "line": Target(
        framing("line"), [b"\x04\x01a\nbb\r\n\rccc\ndddddddd\r\ne\r", b"\x00\x00\n\r\n"]
    ),
    "netstring": Target(
        framing("netstring"),
        [
            b"\x09\x015:hello,0:,3:a:b,",
            b"\x63\x02" + b"2:ab," * 20,
            b"\x09\x0012:",
            b"\x09\x0001:a,",
        ],
    ),
    "octet-counted": Target(
        framing("octet-counted"),
        [b"\x09\x015 hello3 a b", b"\x63\x02" + b"2 ab" * 20, b"\x09\x000 "],
    ),
    "telnet": Target(
        telnet,
        [
            b"\x01one\r\n\xff\xf4\xff\xfd\x06two\r\0\n\xff\xff\xfb\x01\xff\xfc\x01\xff\xfb\x01",
            b"\x00a\xff\xfa\x18\x00xterm\xff\xff\xff\xf0b\n\xff",
            b"\x02" + b"\xff\xfa" + b"x" * 600,
        ],
    ),
    "proxy-header": Target(
        proxy_header,
        [
            b"\x01PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nhello",
            b"\x00PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            b"\x02PROXY UNKNOWN ffff::1\r\nx",
            b"\x01\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f" + bytes(12) + b"\x04\x00\x00x",
            b"\x03\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24" + bytes(36),
            b"\x01\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00x",
        ],
    ),
    "client": Target(
        wire,
        [
            b"\x01+OK\n*2\n{}\n{}\n",
            b"\x025:+OK 1,4:-REJ,",
            b"\x033 +OK4 -REJ",
            b"\x00999999999999:",
        ],
    ),
    "text": Target(
        text, [b"a\xff\nb\xc3\xa9", b"x\ny\xff\n\x1f\x1e\x1d\x1c\n", b"n\0l\xff\n\xed\xa0\x80"]
    ),
    "json": Target(
        structured(Reading("json"), "v", "a.b", "c", "a"),
        [
            _JSON_SEED + BETWEEN + b'{"v":"\\ud800"}',
            b'{"a":null,"v":{}}\xff\n[1]\xff\n{"v":1',
            b"[" * 999,
        ],
    ),
    "csv": Target(
        structured(Reading("csv", ("a", "b", "c")), "a", "c"),
        [b'1,"two ""x""",\xff\n"a\nb",,c\r\n', b'a,b"c,d\xff\n1,2\xff\n"a" ,b,c', b"a,\x1e,b"],
    ),
    "csv-blanks": Target(
        structured(Reading("csv", ("a", "b"), WHITESPACE), "a", "b"),
        [b"1  2\xff\n\ta b ", b"a\nb\xff\n \x1e "],
    ),
    "logfmt": Target(
        structured(Reading("logfmt"), "a", "msg", "flag"),
        [b'a=1 msg="x \\"y\\" \\n" flag', b'a=b=c "x"\xff\nmsg="open\xff\na=\\', b'a="b"c'],
    ),
    "regex": Target(
        structured(
            Reading("regex", pattern=r"(?P<a>\w+) (?:(?P<b>[0-9.]+)|(?P<c>.+))"), "a", "b", "c"
        ),
        [b"temp 21.5", b"x \xc3\xa9\xff\n\xff", "grün 1".encode()],
    ),
    "syslog": Target(
        structured(
            Reading("syslog"),
            *("facility", "severity_name", "timestamp", "hostname", "app_name", "procid", "msgid"),
            *("message", "structured_data", "sd.e@1.iut"),
        ),
        [_SYSLOG, _OLD, b"<34>1 - - - - - -", b"<999>x" + BETWEEN + b"plain", b"<165>1 x"],
    ),
    "influx": Target(
        structured(Reading("influx"), "measurement", "timestamp", "tags", "fields", "f", "tag.a"),
        [
            b'm,a=1,b=x\\ y f=1.5,g=2i,s="q\\"",t=t 1556813561098000000',
            b"m f=1" + BETWEEN + b"m,a f",
            b"# c",
        ],
    ),
    "columns": Target(
        columns,
        [
            bytes([number])
            + b'{"v":1}\xff\n{"v":"2024-01-01T00:00:00Z"}\xff\n{"v":[1,null,"a"]}\xff\n{"v":{}}'
            for number in range(len(TYPES))
        ],
    ),
    "arguments": Target(
        arguments,
        [
            b'{"n":2,"t":"x","d":{"a":[1]},"a":[1,2],"w":"2024-01-01"}',
            b'[1,"\\u0000"]',
            b' {"x":1}',
            b"[",
        ],
    ),
    "commands": Target(
        commands,
        [
            _COMMANDS,
            b"\x01CALL rows [1]\nCALL no\nLISTEN news\nUNLISTEN news\nHELP put\nAUTH x\n@ \nNOPE",
        ],
    ),
    "configuration": Target(
        configuration,
        [
            b'[database]\npool_min=3\n[listeners.a]\nendpoint="tcp:1"\nroute="r"\n[routes.r]\ntable="t"\n'
            b'format="json"\n[routes.r.columns]\na="b.c"',
            b'[queries.q]\nsql="select %(n)s"\n[queries.q.params.n]\ntype="integer"',
        ],
    ),
    "connection-string": Target(
        connection_string,
        [
            b"postgresql://u:p%40@h1:1,h2/d?sslmode=require",
            b"host=a,b port=1 password='x y'",
            b"service=s\x1e[s]\nhost=a\n#x\n[t]",
        ],
    ),
}
