"""
The parsers, each with its invariant and with seeds that reach deep into it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.formats.csv import WHITESPACE
from gateway.model.route import Reading
from tests import lumberjack
from tests.fuzzing import forward
from tests.fuzzing.hl7 import acknowledged, mllp
from tests.fuzzing.relp import relp
from tests.fuzzing.settings import configuration, connection_string, networks, patterns, tokens
from tests.fuzzing.streams import commands, framing, opening, proxy, telnet, windows, wire
from tests.fuzzing.values import BETWEEN, TYPES, arguments, columns, structured, text


@dataclass(frozen=True)
class Target:
    """
    @ivar check: raises where the invariant does not hold.
    @ivar seeds: what reaches deep into the parser.
    """

    check: Callable[[bytes], None]
    seeds: Sequence[bytes]


_SYSLOG = b'<34>1 2003-10-11T22:14:15.003Z host app - ID47 [e@1 iut="3" x="a\\]b"] \xef\xbb\xbfm'
_JSON_SEED = b'{"v":1,"a":{"b":"x\\u00e9"},"c":[1.5e3,null,true]}'
_OLD = b"<13>Oct 11 22:14:15 host su[123]: failed"
_CISCO = b"<13>Oct 11 2026 22:14:15.123 CEST: %ASA-6-1: a\xff\n<13>Feb 29 22:14:15 UTC 2023 host x"
_HL7 = (
    b"MSH|^~\\&|A^1|B|C|D|20261127203447+0100||ADT^A04^ADT_A01|42|P|2.5.1|||AL|NE||8859/1\r"
    b'PID|1||7^^^G&1~8||L\xf6w\\F\\^\\XE9\\||""\rOBX|1\rOBX|2||x||y\r'
)
_COMMANDS = (
    b"\x05PUT messages hello\n@7 PUT messages x\nHELLO s\nPUT messages #1 a\nPUT messages #1 a\n"
    b"PUT messages #3 c\nPUT nowhere #2 b\nSYNC\nQUIET\nPUT numbers #3 z\nSYNC"
)

_TOKEN = (
    b"0123456789ab device-1 2026-01-31T12:00:00Z 2027-01-31T12:00:00+01:00"
    b" $argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"
)

_ENTRY = b"\x92\xd7\0\x6a\xb1\0\1\0\0\0\5\x82\xa1a\xa1x\xc4\1b\xca\x7f\xc0\0\0"
_RELP_OPEN = b"1 open 30 relp_version=0\ncommands=syslog\n"

TARGETS: Final = {
    "line": Target(
        framing("line"),
        [
            b"\x04\x01a\nbb\r\n\rccc\ndddddddd\r\ne\r",
            b"\x00\x00\n\r\n",
            b"\x09\x00\xef\xbb\xbfa\n\xef\xbb\xbfb\nc\0",
        ],
    ),
    "nul": Target(
        framing("nul"),
        [b"\x04\x01a\0bb\r\0\rc\nc\0dddddddd\0e\0", b"\x09\x00\xef\xbb\xbfa\0\xef\xbb\xbf\0\0"],
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
    "lumberjack": Target(
        windows,
        [
            b"\xff\x01" + lumberjack.window([b"{}", b'{"a":1}']) + lumberjack.window([b"x"], 3, 0),
            b"\xff\x02" + lumberjack.announced(1, 1) + lumberjack.fields(9, {b"a": b'"', b"": b""}),
            b"\x01\x03" + lumberjack.announced(2) + lumberjack.compressed(b"") * 2,
            b"\x09\x00" + lumberjack.window([b"x" * 500]),
            b"\x63\x00"
            + lumberjack.announced(0)
            + lumberjack.announced(1, 1)
            + b"1D\0\0\0\1\0\0\0\1",
        ],
    ),
    "forward": Target(
        forward.chunks,
        [
            b"\xff\x01\x93\xa1t\x91\x92\1\x80\x81\xa5chunk\xa1i\xc0\x93\xa1t\1\x80",
            b"\xff\x02\x93\xa1t\xc4\x03\x92\1\x80\x82\xa5chunk\xc4\1\xff\xa4size\1",
            b"\xff\x03\x93\xa1t\xc4\x18"
            + gzip.compress(b"\x92\1\x80", mtime=0)[:24]
            + b"\x81\xaacompressed\xa4gzip",
            b"\xff\x00\x94\xa1t\xd7\0\0\0\0\1\0\0\0\2\x80\x81\xa8metadata\x81\xa1a\1",
            b"\x01\x00\x92\xa1t\xc6\xff\xff\xff\xff" + bytes(30),
            b"\x63\x00\x93\xa1t\x90\x81\xadfluent_signal\1",
        ],
    ),
    "forward-records": Target(
        forward.records,
        [
            b"\xff" + _ENTRY * 3 + b"\x92\1\x80",
            b"\xff\x92\x92\xc7\x08\0\0\0\0\1\0\0\0\2\x81\xa1k\xa1v\x82\xa4@tag\1\xc4\4@tag\2",
            b"\x04" + _ENTRY + b"\x92\xcb\x3f\xf4\0\0\0\0\0\0\x81\xa1a\xa2\xff\xfe\x92\2\x81\xc0\1",
            b"\xff\x92\xd7\0\xff\xff\xff\xff\0\0\0\0\x80\xc0\x93\1\2\3\x92\1\x81\xa1a\xd4\5x",
            b"\xff\x92\0\x81\xa1d\xd7\xff\0\0\0\4\0\0\0\1\x92\1\x81\xa1d\x91\x81\1\xcf"
            + b"\xff" * 8,
        ],
    ),
    "forward-ping": Target(
        forward.ping,
        [
            b"\x96\xa4PING\xa1h\xa1s\xd9\x80" + b"0" * 128 + b"\xa3ann\xd9\x80" + b"0" * 128,
            b"\x96\xa4PING\xc4\1h\xc4\1\xff\xa0\xa0\xa0\x91\xa4PING",
        ],
    ),
    "mllp": Target(
        mllp,
        [
            b"\x32\x01\x0bMSH|\x1c\r\n\x0bab\x1c\r\x0bc\x1c",
            b"\x04\x01\x0bab\x0bc\x1c\r",
            b"\x04\x00\x0babcdefgh\x1c\r\x0b",
        ],
    ),
    "acknowledgement": Target(
        acknowledged,
        [
            _HL7,
            b"MSH#*+!?#A*1#B#C#D#20261127##ADT*A04#4+2#P#2.3.1\rPID",
            b"MSH|^|A\rMSH|^|B",
            b"MSH|^~\\&|\x1b$B;3\x1b(B||||||||||||||||~ISO IR87\r",
        ],
    ),
    ),
    "delimited": Target(
        framing("delimited", b"aba"),
        [b"\x04\x01ccabacababaddddddddababa", b"\x09\x00\xef\xbb\xbfxabaab", b"\x01\x02ababaab"],
    ),
    "int8": Target(framing("int8"), [b"\x09\x01\x05hello\x00", b"\x63\x02" + b"\x02ab" * 20]),
    "int16": Target(
        framing("int16"), [b"\x09\x01\0\x05hello\0\x00", b"\x63\x02" + b"\0\x02ab" * 20]
    ),
    "int32": Target(
        framing("int32"),
        [b"\x09\x01\0\0\0\x05hello\0\0\0\x00", b"\x63\x02" + b"\0\0\0\x02ab" * 20],
