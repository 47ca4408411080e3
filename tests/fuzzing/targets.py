"""
The parsers, each with its invariant and with seeds that reach deep into it.
"""

from __future__ import annotations

import gzip
import zlib
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
from tests.fuzzing.streams import commands, framing, gelf, opening, proxy, telnet, windows, wire
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
    "relp": Target(
        relp,
        [
            b"\x63\x01" + _RELP_OPEN + b"2 syslog 5 <1>ab\n3 syslog 5 <1>cd\n4 close 0\n",
            b"\x40\x02" + _RELP_OPEN + b"2 syslog 3 a\nb\n3 syslog 0\n0 hint 1 x\n4 abort 1 x\n",
            b"\x03\x03" + b"1 syslog 9 3 syslog\n\n2 syslog 2 a\n\n3 syslog 1 a\n",
            b"\x09\x00" + b"".join(b"%d syslog 1 %d\n" % (n, n) for n in range(1, 10)),
        ],
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
    ),
    "gelf-datagrams": Target(
        gelf,
        [
            b"\x40\x1e\x0f12345678\x00\x02{\xff\n\x1e\x0f12345678\x01\x02}\xff\nplain",
            b"\x40" + zlib.compress(b"{}") + b"\xff\n" + gzip.compress(b"{}", mtime=0),
            b"\x05\x1e\x0f12345678\x01\x02abcdef\xff\n\x1e\x0f12345678\x00\x03x\xff\n\x1e\x0fx",
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
        [
            b'1,"two ""x""",\xff\n"a\nb",,c\r\n',
            b'a,b"c,d\xff\n1,2\xff\n"a" ,b,c',
            b"a,\x1e,b",
            b"a,\x1e,b\xff\n1,2,3\xff\n\x1e,,",
        ],
    ),
    "csv-blanks": Target(
        structured(Reading("csv", ("a", "b"), WHITESPACE), "a", "b"),
        [b"1  2\xff\n\ta b ", b"a\nb\xff\n \x1e "],
    ),
    "logfmt": Target(
        structured(Reading("logfmt"), "a", "msg", "flag"),
        [
            b'a=1 msg="x \\"y\\" \\n" flag',
            b'a=b=c "x"\xff\nmsg="open\xff\na=\\',
            b'a="b"c',
            b'a="\\ud83d\\ude00\\xc3\\xa9\\303\\251\\U0001f600\\x1b\\033"\xff\nmsg="\\u0000"\xff\na="\\xff"',
        ],
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
        [_SYSLOG, _OLD, _CISCO, b"<34>1 - - - - - -", b"<999>x" + BETWEEN + b"plain", b"<165>1 x"],
    ),
    "influx": Target(
        structured(Reading("influx"), "measurement", "timestamp", "tags", "fields", "f", "tag.a"),
        [
            b'm,a=1,b=x\\ y f=1.5,g=2i,s="q\\"",t=t 1556813561098000000',
            b"m f=1" + BETWEEN + b"m,a f",
            b"# c",
        ],
    ),
    "hl7": Target(
        structured(
            Reading("hl7"),
            *("MSH-10", "PID-3", "PID-3(2).1", "PID-3(*).1", "PID-3.4.2", "OBX(2)-5", "OBX(*)-5"),
            *("PID-5.1", "MSH-2", "message"),
        ),
        [
            _HL7,
            _HL7 + BETWEEN + b"MSH#*+!?#A\rPID#1##x+y*z?w\nOBX#\r" + BETWEEN + b"PID|",
            b"MSH|^~\\&|A\nPID|1||\\X41\\\\X4\\\\E\\",
            b"MSH|^~\\&|\x1b$B;3\x1b(B||||||||||||||||~ISO IR87\r",
        ],
    ),
    "gelf": Target(
        structured(Reading("gelf"), "host", "short_message", "level", "_a.b", "additional"),
        [
            b'{"version":"1.1","host":"h","short_message":"m","level":3,"_a.b":1,"_c":"x\\n"}',
            b'{"host":"h","message":"a\nb","_c":[1,],}\xff\n{"host":" ","short_message":"m"}',
            b'{"host":"h"}\xff\n{"host":"h","short_message":1}\xff\n[]',
        ],
    ),
    "msgpack": Target(
        structured(Reading("msgpack"), "v", "a.b", "a", "1"),
        [
            b"\x83\xa1v\xcb\x7f\xf8\0\0\0\0\0\0\xa1a\x81\xa1b\xc4\x02\0\xff\x01\xa1x",
            b"\x81\xa1v\xd7\xff\x1d\xcd\x65\0\x65\x53\xf1\0\xff\n\x81\xa1v\xd6\xff\x65\x53\xf1\0",
            b"\x81\xa1v\xc7\x0c\xff\0\0\x01\xf4" + b"\xff" * 8 + b"\xff\n\x81\xa1v\xd4\x05a",
            b"\x81\xa1a\x93\xc0\xc3\xcf" + b"\xff" * 8 + BETWEEN + b"\xdf\xff\xff\xff\xff",
            b"\x91" * 999,
        ],
    ),
    "cbor": Target(
        structured(Reading("cbor"), "v", "a.b", "a", "1"),
        [
            b"\xa3\x61v\xfb\x7f\xf8\0\0\0\0\0\0\x61a\xa1\x61b\x42\0\xff\x01\x61x",
            b"\xa1\x61v\xc1\xfb\x41\xd4\x52\xd9\xec\x20\0\0\xff\n\xa1\x61v\xc2\x49\x01" + bytes(8),
            b"\xbf\x61v\x9f\x7f\x61a\x61b\xff\x5f\x41\x01\xff\xff\xff" + BETWEEN + b"\xa1\x61v\xf7",
            b"\xa1\x61v\xc4\x82\x21\x19\x6a\xb3\xff\n\xa1\x61v\xc5\x82\x20\x03\xff\n\xa0\xc0",
            b"\xa1\x61v\xd8\x25\x50" + bytes(16) + b"\xff\n\xa1\x61v\xd8\x1c\x81\xd8\x1d\0",
            b"\x81" * 999,
        ],
    ),
    "python": Target(
        structured(Reading("python", function="json:loads"), "v", "a.b"),
        [
            b'{"v":1,"a":{"b":[null,1e999,"\\ud800"]}}\xff\n{"v":NaN}',
            b'[1]\xff\n{"a":5}\xff\nnonsense',
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
            b'{"\xff":1}',
            b"[" * 3000,
            b'["\xff"]',
            b"nonsense",
            b"[",
        ],
    ),
    "commands": Target(
        commands,
        [
            _COMMANDS,
            b"\x02quit now\nQUIT \n@a quiT",
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
    "networks": Target(networks, [b"10.0.0.0/8", b"2001:db8::/32", b"unix", b"::ffff:1.2.3.4/128"]),
    "opening": Target(
        opening,
        [
            b"\x01PING gateway-client-5e2b9c41d7 \0nnnnnnnnnnnnnnnn\nPUT messages a\n",
            b"\x02PING gateway-client-5e2b9c41d7 \x01nnnnnnnnnnnnnnnn\n\0",
            b"\x0349:PING gateway-client-5e2b9c41d7 \0nnnnnnnnnnnnnnnn\n,",
            b"\x0449 PING gateway-client-5e2b9c41d7 \0nnnnnnnnnnnnnnnn\n",
            b"\x00+OK gateway-client-5e2b9c41d7 nnnnnnnnnnnnnnnn",
            b"\x00-REJ FORMAT :unknown verb 'secret'\n",
            b'\x0030:-TRY DOWN retry=1 a="\\u00e9" :x,',
            b"\x00E\0\0\0\x10SFATAL\0HTTP/1.1 400\r\n",
        ],
    ),
    "proxy": Target(
        proxy,
        [
            b"\x01PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nrest",
            b"\x02PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            b"\x00PROXY UNKNOWN anything\r\n",
            b"\x03\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\0\1\0\2rest",
            b"\x03\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28" + bytes(40) + b"rest",
            b"\x03\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ],
    ),
    "telnet": Target(
        telnet,
        [
            b"\x01a\xff\xfd\x06b\xff\xff\r\0c\r\n\xff\xf4\xff\xfd\x06",
            b"\x02\xff\xfb\x18\xff\xfa\x18\0xterm\xff\xf0line\r\n\xff\xfc\x18\xff\xfb\x18",
            b"\x00\xff\xfa" + b"x" * 520,
        ],
    ),
    "patterns": Target(
        patterns, [b"sensor-*\x1esensor-7", b"*a*b*\x1exxaxxbxx", b"*\x1e", b"a*a\x1ea"]
    ),
    "tokens": Target(tokens, [b"# comment\n\n" + _TOKEN, _TOKEN + b"\n" + _TOKEN, b"a b c d e"]),
}
