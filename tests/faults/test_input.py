"""
Input that is half-closed, too long, broken or hostile: refused alone, or stored as it came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Final

import psutil
import psycopg2
import pytest

from tests.faults.look import Start, assert_quiet, sample, unread, wait_locked_out
from tests.support import Database, Gateway, Peer, TemporaryServer, wait_until

KiB: Final = 1024
MiB: Final = 1024 * KiB

ONE_READ: Final = 64 * KiB
"""Most bytes that Twisted reads at a time, C{twisted.internet.tcp.Connection.bufferSize}."""


def line(payload: bytes) -> bytes:
    return payload + b"\n"


def netstring(payload: bytes) -> bytes:
    return b"%d:%s," % (len(payload), payload)


def octet_counted(payload: bytes) -> bytes:
    return b"%d %s" % (len(payload), payload)


FRAMINGS: Final = {"lines": line, "netstrings": netstring, "octets": octet_counted}
"""Listener -> how it frames a payload."""


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """A database whose table cannot be written meanwhile."""
    locker = psycopg2.connect(database.dsn)
    try:
        locker.cursor().execute("LOCK TABLE messages")
        yield
    finally:
        locker.close()


# Number 3.


@pytest.mark.parametrize("listener", FRAMINGS)
def test_half_close_in_a_stall(database: Database, start_configured: Start, listener: str) -> None:
    """
    Number 3: of 700 messages, sent before a half-close while the database is stalled and more than
    the window, each is stored and answered afterwards; only then the gateway closes.
    """
    frame, count, window = FRAMINGS[listener], 700, 100
    gateway = start_configured(database.dsn, listener=f"window = {window}")
    process = psutil.Process(gateway.process.pid)
    assert gateway.connect(listener).ask(frame(b"before")) == frame(b"+OK")
    base = process.num_fds()
    peer = gateway.connect(listener)
    with locked(database):
        peer.send(b"".join(frame(b"%d" % number) for number in range(count)))
        peer.finish()
        wait_locked_out(database)
        busy = sum(process.cpu_times()[:2])
        # Neither an answer nor the end; and an end that was read is not read again and again.
        assert not any(sample(lambda: peer.readable(0), 0.5))
        assert sum(process.cpu_times()[:2]) - busy < 0.25
    assert peer.read_all() == frame(b"+OK") * count
    peer.close()
    assert database.bodies() == ["before", *map(str, range(count))]
    wait_until(lambda: process.num_fds() <= base, "its socket is closed")
    assert_quiet(gateway)


def test_half_close_with_a_query_under_way(database: Database, start_configured: Start) -> None:
    """
    Number 3: a query that takes its time, and what waits behind it, are answered after a
    half-close too.
    """
    slow = "select n from (select pg_sleep(0.5)) as slept, generate_series(1, 3) as n"
    gateway = start_configured(database.dsn, more=f'[queries.slow]\nsql = "{slow}"')
    puts = [b"PUT messages %d\n" % number for number in range(300)]
    peer = gateway.connect("commands")
    answers = peer.ask(b"".join([*puts, b"CALL slow\n", *puts, b"PING end\n"]))
    rows = b'*3\n{"n":1}\n{"n":2}\n{"n":3}\n'
    assert answers == b"+OK\n" * 300 + rows + b"+OK\n" * 300 + b"+OK end\n"
    assert database.bodies() == [*map(str, range(300)), *map(str, range(300))]


# Number 10.


def test_lines_about_the_limit(database: Database, start_configured: Start) -> None:
    """
    Number 10: lines of max_frame - 1 and max_frame bytes are stored, one of max_frame + 1 is
    refused once, in one piece or in many; what comes behind it on the connection is stored.
    """
    most = 4096
    gateway = start_configured(database.dsn, listener=f"max_frame = {most}")
    sizes = (most - 1, most, most + 1, 5, most + 1, most, 1)
    refusal = b"-REJ TOOBIG :longer than max_frame of this listener"
    # Some steps part CR and LF, or have the end alone.
    for ending, step in product((b"\n", b"\r\n"), (10**6, most, most + 1, 1000)):
        stream = b"".join(b"x" * size + ending for size in sizes)
        peer = gateway.connect()
        for start in range(0, len(stream), step):
            peer.send(stream[start : start + step])
            wait_until(lambda peer=peer: not unread(peer), "the piece is read, alone")
        peer.finish()
        answers = [b"+OK" if size <= most else refusal for size in sizes]
        assert peer.read_all() == b"".join(answer + ending for answer in answers), step
        peer.close()
        stored = [len(body) for body in database.bodies()]
        assert stored == [size for size in sizes if size <= most], step
        database.execute("TRUNCATE messages")
    assert_quiet(gateway)


def test_a_hundred_megabytes_without_an_end(database: Database, start_configured: Start) -> None:
    """
    Number 10: a line of 100 MB is refused once, while it comes; the process takes a few MiB at
    most meanwhile, and the connection lives.
    """
    most, piece = 256 * KiB, b"x" * 10**6
    # max_frame, some reads, and what the daemon's own tasks take beside them.
    bound = most + 8 * ONE_READ + 4 * MiB
    gateway = start_configured(database.dsn, listener=f"max_frame = {most}")
    process = psutil.Process(gateway.process.pid)
    refusal = b"-REJ TOOBIG :longer than max_frame of this listener"
    peer = gateway.connect()
    peer.send(b"before\n")
    assert peer.read_lines(1) == [b"+OK"]
    before = process.memory_info().rss
    for _ in range(100):
        peer.send(piece)
        assert process.memory_info().rss - before <= bound
    assert peer.read_lines(1) == [refusal]
    peer.send(b"\nafter\n")
    assert peer.read_lines(1) == [b"+OK"]
    peer.close()
    assert database.bodies() == ["before", "after"]
    assert_quiet(gateway)


# Number 11.

NO_NETSTRINGS: Final = (
    *(b"99999999999999:x,", b"0003:bad,", b"-1:x,", b" 3:bad,", b"3 :bad,", b"3: bad,", b"+3:bad,"),
    *(b"3:bad", b"3:bad;", b"3:badx,", b":bad,", b"3,bad,", b"bad,", b"00:,", b"3\n:bad,"),
    # Digits of another script; one byte over max_frame.
    *("\N{ARABIC-INDIC DIGIT THREE}:bad,".encode(), b"65537:" + b"x" * 65537 + b","),
)
"""None may be read as a frame; each has a good one behind it."""

NO_OCTET_COUNTS: Final = (
    *(b"99999999999999 x", b"0003 bad", b"-1 x", b" 3 bad", b"3:bad", b"+3 bad", b"0 ", b"bad"),
    *(b"3\tbad", b"\xff3 bad", b"65537 " + b"x" * 65537),
)

BEHIND: Final = b"bad behind 1"


@pytest.mark.parametrize(
    ("listener", "faults"), [("netstrings", NO_NETSTRINGS), ("octets", NO_OCTET_COUNTS)]
)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
def test_broken_frames(
    database: Database,
    start_configured: Start,
    listener: str,
    faults: tuple[bytes, ...],
    apart: bool,
) -> None:
    """
    Number 11: what comes before a broken frame is stored and answered, then the gateway says -BYE
    FORMAT and closes; nothing behind it is stored, whether it comes at once or later.
    """
    gateway = start_configured(database.dsn)
    frame = FRAMINGS[listener]
    for number, fault in enumerate(faults):
        good = [f"good {number} {n}" for n in range(20)]
        peer = gateway.connect(listener)
        broken(
            peer,
            frame,
            [frame(body.encode()) for body in good],
            [fault, *[frame(BEHIND)] * 20],
            apart,
        )
        assert database.bodies() == good, fault
        database.execute("TRUNCATE messages")
    assert_quiet(gateway)


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
def test_counts_that_are_wrong(database: Database, start_configured: Start, apart: bool) -> None:
    """
    Number 11: a count of octets that is too small or too large cannot be seen to be wrong itself;
    the next frame is broken by it, and nothing from there on is stored.
    """
    gateway = start_configured(database.dsn)
    for fault, taken in ((b"3 badx", "bad"), (b"5 bad", "bad12")):
        broken(
            gateway.connect("octets"),
            octet_counted,
            [octet_counted(b"good"), fault + octet_counted(BEHIND)],
            [octet_counted(BEHIND)] * 20,
            apart,
        )
        assert database.bodies() == ["good", taken]
        database.execute("TRUNCATE messages")
    assert_quiet(gateway)


def broken(
    peer: Peer,
    frame: Callable[[bytes], bytes],
    good: list[bytes],
    bad: list[bytes],
    apart: bool,
) -> None:
    """
    Hold that so many frames as good has are answered, then -BYE FORMAT, then the end.

    @param apart: whether what is bad is sent when what is good was answered, in many pieces.
    """
    answers = frame(b"+OK") * len(good)
    heard = b""
    if apart:
        for piece in good:
            peer.send(piece)
        while len(heard) < len(answers) and (more := peer.socket.recv(65536)):
            heard += more
        for piece in bad:
            peer.send(piece)
    else:
        peer.send(b"".join(good + bad))
    heard += peer.read_all()
    peer.close()
    bye = heard[len(answers) :]
    assert heard.startswith(answers), (bad[0], heard)
    assert b"-BYE FORMAT :" in bye, (bad[0], heard)
    assert bye == frame(bye[bye.index(b"-") : len(bye) - (frame is netstring)]), bye


# Numbers 13 and 14.

KEPT: Final = """
    CREATE TABLE kept (
        id bigint GENERATED ALWAYS AS IDENTITY, via text, body text, frame bytea
    )
"""

_ROUTE: Final = """
[routes.{name}]
table = "kept"
format = "{format}"
{keys}
[routes.{name}.columns]
via = "@listener"
body = "{body}"
frame = "@frame"
[listeners.{name}]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "{name}"
"""

_OWN: Final = """
[routes.own]
sql = "INSERT INTO kept (via, body, frame) VALUES (%(via)s, %(body)s, %(frame)s)"
format = "json"
[routes.own.columns]
via = "@listener"
frame = "@frame"
[listeners.own]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "own"
"""

_MESSAGES: Final = """
[routes.messages]
table = "kept"
[routes.messages.columns]
via = "@listener"
body = "@frame"
frame = "@frame"
"""

_BYTES: Final = """
[routes.bytes]
table = "kept"
[routes.bytes.columns]
via = "@listener"
frame = "@frame"
[listeners.bytes]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "bytes"
"""


def route(name: str, body: str, format: str = "", keys: str = "") -> str:
    """A route into the table, and a listener of netstrings for it, both with that name."""
    return _ROUTE.format(name=name, body=body, format=format or name, keys=keys)


INTO_TEXT: Final[dict[str, tuple[str, bytes, bytes]]] = {
    "text": (route("text", "@frame"), b"", b""),
    "json": (route("json", "body"), b'{"body":"', b'"}'),
    "own": (_OWN, b'{"body":"', b'"}'),
    "csv": (route("csv", "body", keys='fields = ["body", "rest"]'), b'"', b'",'),
    "logfmt": (route("logfmt", "body"), b'body="', b'"'),
    "syslog": (route("syslog", "message"), b"<13>1 - - - - - - ", b""),
    "influx": (route("influx", "field.body"), b'm body="', b'"'),
    "hl7": (route("hl7", "OBX-5"), b"MSH|^~\\&|A\rOBX|1||||", b"|\r"),
}
"""Listener -> its part of the configuration, and what stands about a text in its messages."""

NOT_UTF8: Final = (
    # Bytes that are in no character, or in the middle of one; characters that break off.
    *(b"\xff", b"\xfe\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3\xc3\xa9"),
    # Overlong: "/" in two, three and four bytes, "'" and NUL in two.
    *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc0\xa7", b"\xc0\x80"),
    # Surrogates: the first, the last, and a pair of them as CESU-8 has it.
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80"),
    # Beyond Unicode.
    *(b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"),
)


def rows(database: Database, via: str) -> list[tuple[bytes | None, bytes]]:
    """What a listener has stored, in order: (text as UTF-8, frame)."""
    return [
        (None if body is None else bytes(body), bytes(frame))
        for body, frame in database.execute(
            "SELECT convert_to(body, 'UTF8'), frame FROM kept WHERE via = %s ORDER BY id", via
        )
    ]


@pytest.fixture
def into_kept(database: Database, start_configured: Start) -> Gateway:
    """A gateway with a listener for each format, and one into a bytea column alone."""
    database.execute(KEPT)
    return start_configured(
        database.dsn, more="".join(part for part, _, _ in INTO_TEXT.values()) + _MESSAGES + _BYTES
    )


def refused_alone(
    gateway: Gateway, database: Database, listener: str, messages: list[bytes]
) -> None:
    """
    Hold that each message is refused, between two others that are stored by one commit.
    """
    _, start, end = INTO_TEXT[listener]
    good = [
        start + text.encode() + end for text in ("one", "tw\N{LATIN SMALL LETTER O WITH STROKE}")
    ]
    peer = gateway.connect(listener)
    for message in messages:
        peer.send(b"".join(map(netstring, (good[0], message, good[1]))))
        answers = frames_of(peer, 3)
        assert answers[::2] == [b"+OK", b"+OK"], (listener, message, answers)
        assert answers[1].startswith((b"-REJ DATA :", b"-REJ FORMAT :")), (listener, answers)
    peer.close()
    stored = database.execute(
        "SELECT xmin::text, frame FROM kept WHERE via = %s ORDER BY id", listener
    )
    assert [bytes(frame) for _, frame in stored] == good * len(messages), listener
    assert len({commit for commit, _ in stored}) == len(messages)
    database.execute("TRUNCATE kept")


def frames_of(peer: Peer, count: int) -> list[bytes]:
    """So many answers of a listener of netstrings."""
    data = b""
    while True:
        answers, rest = [], data
        while (colon := rest.find(b":")) >= 0 and len(rest) > colon + 1 + int(rest[:colon]):
            end = colon + 1 + int(rest[:colon])
            answers.append(rest[colon + 1 : end])
            rest = rest[end + 1 :]
        if len(answers) >= count:
            return answers
        more = peer.socket.recv(65536)
        assert more, data
        data += more


def about(*faults: bytes) -> list[bytes]:
    """Each alone, at an end and in the middle."""
    return [value for fault in faults for value in (fault, b"a" + fault, b"a" + fault + b"z")]


def intact(gateway: Gateway, database: Database, values: list[bytes]) -> None:
    """Hold that a bytea column gets each of them as it is."""
    answers = gateway.connect("bytes").ask(b"".join(map(netstring, values)))
    assert answers == netstring(b"+OK") * len(values)
    assert rows(database, "bytes") == [(None, value) for value in values]


def test_nul(into_kept: Gateway, database: Database) -> None:
    """
    Number 13: NUL, as a byte and as an escape of JSON, is refused alone by a text column, from
    every format; what stands before and behind it is stored by one commit. In bytea it is intact.
    """
    values = about(b"\x00", b"\x00\x00")
    for listener, (_, start, end) in INTO_TEXT.items():
        # RFC 5424 and 3164 say nothing of it, but many a sender ends its messages in NUL.
        inside = [value for value in values if listener != "syslog" or value[-1]]
        refused_alone(into_kept, database, listener, [start + value + end for value in inside])
    for listener in ("json", "own"):
        escapes = about(rb"\u0000")
        refused_alone(
            into_kept, database, listener, [b'{"body":"%s"}' % value for value in escapes]
        )
    intact(into_kept, database, values)
    assert_quiet(into_kept)


def test_not_utf8(into_kept: Gateway, database: Database) -> None:
    """
    Number 14: invalid UTF-8, overlong forms and surrogates, these as escapes of JSON too, are
    refused alone by a text column, from every format, never replaced; in bytea they are intact.
    """
    values = about(*NOT_UTF8)
    for listener, (_, start, end) in INTO_TEXT.items():
        refused_alone(into_kept, database, listener, [start + value + end for value in values])
    for listener in ("json", "own"):
        escapes = about(rb"\ud800", rb"\udfff", rb"\ude00\ud83d", rb"\ud83d\u0041")
        refused_alone(
            into_kept, database, listener, [b'{"body":"%s"}' % value for value in escapes]
        )
    intact(into_kept, database, values)
    assert_quiet(into_kept)


# Number 17.

HOSTILE: Final = (
    *("'); DROP TABLE kept; --", "'); DROP TABLE kept; COMMIT; --", "1; DROP TABLE kept"),
    *("\\'); DROP TABLE kept; --", "\\\\'); DROP TABLE kept; --", '"; DROP TABLE kept; --'),
    *("%s", "%%", "%", "%d", "%(p1)s", "%(body)s", "%(via)s %(frame)s", "%%(body)s", "100 %"),
    *(
        "\\",
        "\\\\",
        "\\'",
        "E'\\\\'",
        "E'\\'",
        "\\n",
        "\\x41",
        "\\N",
        "\\.",
        "\\u0041",
        "U&'\\0041'",
    ),
    *(
        "$1",
        "$1, $2",
        "$$",
        "$$; DROP TABLE kept; $$",
        "$body$",
        "$gw$",
        ":body",
        "?",
        "{0}",
        "{body}",
    ),
    *("'", "''", "'''", '"', '""', "`", "' || version() || '", "'" * 1001, "\\" * 1001),
    *(
        "NULL",
        "null",
        "DEFAULT",
        "{}",
        "{NULL}",
        '{"a","b"}',
        "(1,2)",
        "--",
        "/*",
        "*/",
        ";",
        "a,b",
    ),
    *(" both ends ", "\t", "\x01\x1b[31m\x7f", "\x85", "a\rb", "\N{NO-BREAK SPACE}"),
    *(
        "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n",
        "\N{CJK UNIFIED IDEOGRAPH-6F22}",
        "\N{PILE OF POO}",
    ),
    # Not composed, from right to left, a mark of byte order, what no character is, the last one.
    *(
        "e\N{COMBINING ACUTE ACCENT}",
        "\N{RIGHT-TO-LEFT OVERRIDE}'",
        "\ufeff'",
        "\ufffe",
        "\U0010ffff",
    ),
    # A quote that is none: its last byte in some encodings of East Asia is a backslash.
    *(
        "\N{MODIFIER LETTER APOSTROPHE}",
        "\N{FULLWIDTH APOSTROPHE}",
        "\N{CJK UNIFIED IDEOGRAPH-8868}'",
    ),
)
"""What breaks SQL that is put together from values, in one way or another."""

STREAM: Final = "');DROP/**/TABLE--%s%%%(p1)s\\'E'\\\\'$1$$\""

_DEAD_ROUTE: Final = """
[routes.dead]
table = "dead"
dead_letter = true
[routes.dead.columns]
body = "@frame"
[listeners.dead]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "dead"
"""

_DEAD: Final = "CREATE TABLE dead (body text CHECK (body IS NULL))"


class HostilePeers:
    """
    Peers that send each hostile text by every way into the database.
    """

    def __init__(self, gateway: Gateway) -> None:
        texts = [text.encode() for text in HOSTILE]
        objects = [json.dumps({"body": text}, ensure_ascii=False).encode() for text in HOSTILE]
        escaped = [json.dumps({"body": text}).encode() for text in HOSTILE]
        framed = {name: (frame, texts) for name, frame in FRAMINGS.items()}
        self.frames = {
            **{name: messages for name, (_, messages) in framed.items()},
            "json": objects + escaped,
            "own": objects + escaped,
            "commands": texts,
            "dead": texts,
        }
        """Listener -> the messages as it hears them."""
        self.texts = {
            name: texts * (len(messages) // len(texts)) for name, messages in self.frames.items()
        }
        """Listener -> what must be in the column."""
        self.peers = {name: gateway.connect(name) for name in self.frames}
        commands = self.peers["commands"]
        commands.send(b"HELLO %s\n" % STREAM.encode())
        assert commands.read_lines(1)[0].startswith(b"+OK seq=0 ")

    def answers(self, name: str) -> bytes:
        """
        Send by one of the ways, half-close, and hear everything.
        """
        frame = FRAMINGS.get(name, netstring)
        frames = self.frames[name]
        if name == "commands":
            frame = line
            frames = [b"PUT messages #%d %s" % put for put in enumerate(frames, 1)]
        return self.peers[name].ask(b"".join(map(frame, frames)))


def hold(hostile: HostilePeers, database: Database) -> None:
    """Each text is in its column, and each frame in its own, byte for byte and in order."""
    for name, frames in hostile.frames.items():
        if name != "dead":
            assert rows(database, name) == list(zip(hostile.texts[name], frames, strict=True)), name
    assert [
        bytes(frame)
        for frame in database.column("SELECT frame FROM gateway.dead_letter ORDER BY id")
    ] == hostile.frames["dead"]
    assert database.execute("SELECT * FROM dead") == []
    count = len(hostile.frames["commands"])
    assert database.execute("SELECT name, mark FROM gateway.stream") == [(STREAM, count)]


def configured_for_hostile(start: Start, dsn: str, **keys: str) -> Gateway:
    more = _MESSAGES + _DEAD_ROUTE + route("json", "body") + _OWN
    return start(dsn, more=more, **keys)


def test_hostile_text(database: Database, start_configured: Start) -> None:
    """
    Number 17: text that breaks SQL made of values is stored byte for byte, by text routes of each
    framing, from JSON, by SQL of one's own, in a numbered stream, and as dead letters.
    """
    database.execute(KEPT)
    database.execute(_DEAD)
    gateway = configured_for_hostile(start_configured, database.dsn)
    hostile = HostilePeers(gateway)
    for name, frames in hostile.frames.items():
        answers = hostile.answers(name)
        if name == "dead":
            assert answers.count(b"-REJ CONSTRAINT sqlstate=23514 :") == len(frames)
        else:
            frame = line if name == "commands" else FRAMINGS.get(name, netstring)
            assert answers == frame(b"+OK") * len(frames), name
    hold(hostile, database)
    assert_quiet(gateway)


def test_hostile_text_through_the_spool(
    own_server: TemporaryServer, start_configured: Start
) -> None:
    """
    Number 17: the same while the database is away: it goes through the spool, and what is refused
    from there through the dead letters.
    """
    database = Database(own_server.embedded.dsn)
    database.execute(KEPT)
    database.execute(_DEAD)
    gateway = configured_for_hostile(
        start_configured, database.dsn, database="acquire_timeout = 0.2"
    )
    hostile = HostilePeers(gateway)
    own_server.stop()
    for name, frames in hostile.frames.items():
        frame = line if name == "commands" else FRAMINGS.get(name, netstring)
        assert hostile.answers(name) == frame(b"+QUE") * len(frames), name
    own_server.restart()
    letters = len(hostile.frames["dead"])
    wait_until(
        lambda: database.column("SELECT count(*) FROM gateway.dead_letter") == [letters],
        "the spool is stored",
    )
    hold(hostile, database)
    assert_quiet(gateway)
