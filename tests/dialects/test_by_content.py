"""
Routing by content: a field of each message says where it goes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import Work
from gateway.dialects.by_content import ContentDialect
from gateway.formats.fields import Fields
from gateway.formats.registry import format_of
from gateway.model.route import FormatName, Reading
from gateway.wire.framing import OVERSIZE
from tests.support import Database, Gateway

ROUTES = {"temperature": "readings", "humidity": "readings", "alarm": "alarms", "7": "sevens"}


def dialect(fallback: str | None = None, field: str = "type", **reading: object) -> ContentDialect:
    form = format_of(Reading(**{"format": "json", **reading}), [field])  # type: ignore[arg-type]
    return ContentDialect(form, field, ROUTES, fallback)


def messages_of(work: Work) -> list[tuple[str, bytes]]:
    """The route of each message to be stored, and what it is, in order."""
    found = {
        place: (group.route, frame)
        for group in work.groups
        for place, frame in zip(group.places, group.frames, strict=True)
    }
    assert [*found] == [] or sorted(found) == [*range(len(found))]
    return [found[place] for place in sorted(found)] or [(work.route, m) for m in work.messages]


def fates(works: list[Work]) -> list[tuple[str, bytes]]:
    """For each frame where it goes and what it is, or its answer."""
    found = []
    for work in works:
        gaps = dict(work.gaps)
        messages = iter(messages_of(work))
        for place in range(work.count):
            if place in gaps:
                found.append((bytes(gaps[place]).decode(), b""))
            else:
                found.append(next(messages))
        assert work.tags is None and not work.closes
    return found


def test_values_choose_routes() -> None:
    """What goes to one route in a row is one piece of work."""
    frames = [
        b'{"type":"temperature","n":1}',
        b'{"n":2,"type":"humidity"}',
        b'{"type":"alarm"}',
    ]
    works = dialect().read(frames, False)
    assert [(work.route, work.messages) for work in works] == [
        ("readings", frames[:2]),
        ("alarms", frames[2:3]),
    ]
    assert not any(work.gaps for work in works)


def test_routes_by_turns_are_one_piece() -> None:
    """Messages for several routes by turns are one piece, with a group for each route, and each
    message keeps its place among those that have one."""
    kinds = [b"temperature", b"no", b"alarm", b"humidity", b"7", b"alarm"]
    frames = [b'{"type":"%s"}' % kind for kind in kinds]
    (work,) = dialect().read(frames, False)
    assert [(group.route, group.places) for group in work.groups] == [
        ("readings", [0, 2]),
        ("alarms", [1, 4]),
        ("sevens", [3]),
    ]
    assert [place for place, _ in work.gaps] == [1] and work.count == 6 and not work.messages


@pytest.mark.parametrize("oversize", [False, True])
def test_one_route_costs_no_list(oversize: bool) -> None:
    """Where all messages of a read go to one route, the list of frames is handed on itself."""
    frames = [b'{"type":"temperature"}', b'{"type":"humidity"}']
    (work,) = dialect().read(frames, oversize)
    assert work.route == "readings" and work.messages is frames
    frames = [b'{"type":"no"}', b"{", b"{}"]
    (work,) = dialect("other").read(frames, oversize)
    assert work.route == "other" and work.messages is frames


class Counted:
    """
    A format that remembers how many messages it was given at a time.
    """

    def __init__(self) -> None:
        self.reads: list[int] = []
        self._format = format_of(Reading("json"), ["type"])

    def parse_frames(self, frames: Sequence[bytes]) -> Fields:
        self.reads.append(len(frames))
        return self._format.parse_frames(frames)


def test_a_read_is_read_once() -> None:
    """However mixed a read is, its format sees it in one go, without what was too long."""
    form = Counted()
    routing = ContentDialect(form, "type", ROUTES)
    frames = [b'{"type":"alarm"}', b"{", b'{"type":"7"}', OVERSIZE, b"{}"] * 10
    assert sum(work.count for work in routing.read(frames, True)) == 50
    assert form.reads == [40]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("{}", "ROUTE :the message has no 'type' to route it by"),
        ('{"type":null}', "ROUTE :the message has no 'type' to route it by"),
        ('{"type":"Alarm"}', "ROUTE :no route where 'type' is 'Alarm'"),
        ('{"type":" alarm"}', "ROUTE :no route where 'type' is ' alarm'"),
        ('{"type":""}', "ROUTE :no route where 'type' is ''"),
        ('{"type":"a\\u0007\\r\\nb"}', "ROUTE :no route where 'type' is 'a???b'"),
        ('{"type":"%s"}' % ("x" * 5000), f"ROUTE :no route where 'type' is '{'x' * 40}...'"),
        ('{"type":7.0}', "ROUTE :no route where 'type' is '7.0'"),
        ('{"type":false}', "ROUTE :no route where 'type' is 'false'"),
        ('{"type":["alarm"]}', "ROUTE :no route where 'type' is '[\"alarm\"]'"),
        ('{"type":{ }}', "ROUTE :no route where 'type' is '{ }'"),
        ('{"type":"\xff"}', "FORMAT :not JSON: not UTF-8: invalid start byte (byte 9)"),
        ("{", "FORMAT :not JSON: it ends too early"),
        ("5", "FORMAT :the message is not a JSON object but a number"),
    ],
)
def test_refusals_name_field_and_value(sent: str, answer: str) -> None:
    """Without a fallback each message that no route takes is told why, with nothing raw in it."""
    frame = sent.encode("latin-1")
    good = b'{"type":"alarm"}'
    (work,) = dialect().read([good, frame, good], False)
    assert fates([work]) == [("alarms", good), (f"-REJ {answer}", b""), ("alarms", good)]
    works = dialect("other").read([good, frame, good], False)
    assert fates(works) == [("alarms", good), ("other", frame), ("alarms", good)]


@pytest.mark.parametrize(
    "value",
    ['"alarm"', r'"\u0061larm"', r'"al\u0061r\u006d"', ' "alarm" ', '1,"type":"alarm"'],
)
def test_strings_are_what_they_say(value: str) -> None:
    """However JSON writes a string, its characters are compared; the last of two counts."""
    (work,) = dialect().read([b'{"type":%s}' % value.encode()], False)
    assert work.route == "alarms"


@pytest.mark.parametrize(
    ("key", "value"),
    [("7", "7"), ("7", '"7"'), ("true", "true"), ("1e3", "1e3"), ("null", '"null"')],
)
def test_other_scalars_are_as_written(key: str, value: str) -> None:
    """Numbers, true and false compare as JSON writes them."""
    form = format_of(Reading("json"), ["a.b"])
    (work,) = ContentDialect(form, "a.b", {key: "r"}).read(
        [b'{"a":{"b":%s}}' % value.encode()], False
    )
    assert work.route == "r" and not work.gaps


def test_objects_and_arrays_match_nothing() -> None:
    """An object is no text, even where the table has the very same characters."""
    form = format_of(Reading("json"), ["type"])
    strict = ContentDialect(form, "type", {"{}": "r", "[]": "r"})
    (work,) = strict.read([b'{"type":{}}', b'{"type":[]}', b'{"type":"{}"}'], False)
    assert [place for place, _ in work.gaps] == [0, 1] and len(work.messages) == 1


def test_too_long_is_refused() -> None:
    """A line over the limit is answered in its place, with a fallback too."""
    good = b'{"type":"alarm"}'
    for fallback in (None, "other"):
        (work,) = dialect(fallback).read([OVERSIZE, good, OVERSIZE], True)
        (before, sent, behind) = fates([work])
        assert before == behind and before[0].startswith("-REJ TOOBIG")
        assert sent == ("alarms", good)
        (work,) = dialect(fallback).read([OVERSIZE], True)
        assert not work.messages and work.count == 1
        # Not a frame that is as empty as the mark of one.
        (work,) = dialect("other").read([b""], True)
        assert work.route == "other" and work.messages == [b""]


@pytest.mark.parametrize(
    ("form", "keys", "field", "known", "unknown", "missing", "bad"),
    [
        ("csv", {"names": ("n", "type")}, "type", b"1,alarm", b"1,x", b"1,", b"1"),
        ("logfmt", {}, "type", b"n=1 type=alarm", b"type", b"n=1", b'"'),
        (
            *("regex", {"pattern": r"(?P<n>\d)(?P<type>\w+)?"}, "type"),
            *(b"1alarm", b"1x", b"1", b"x"),
        ),
        (
            *("syslog", {}, "app_name", b"<1>1 - - alarm - - - m", b"<1>1 - - x - - - m"),
            *(b"<1>1 - - - - - - m", b"<1>1 "),
        ),
        ("influx", {}, "tag.type", b"m,type=alarm x=1", b"m,type=x x=1", b"m x=1", b"m"),
        (
            *("hl7", {}, "MSH-9.1", b"MSH|^~\\&|||||||alarm^A04|", b"MSH|^~\\&|||||||x"),
            *(b'MSH|^~\\&|||||||""', b"MSH"),
        ),
    ],
)
def test_every_format(
    form: FormatName,
    keys: dict[str, object],
    field: str,
    known: bytes,
    unknown: bytes,
    missing: bytes,
    bad: bytes,
) -> None:
    """Any format that has fields can be routed by one of them."""
    frames = [known, unknown, missing, bad, known]
    found = fates(dialect(None, field, format=form, **keys).read(frames, False))
    assert found[0] == found[4] == ("alarms", known)
    assert found[1][0].startswith(f"-REJ ROUTE :no route where {field!r} is ")
    assert found[2][0] == f"-REJ ROUTE :the message has no {field!r} to route it by"
    assert found[3][0].startswith("-REJ FORMAT ")
    found = fates(dialect("other", field, format=form, **keys).read(frames, False))
    assert found == [
        *[("alarms", known), ("other", unknown), ("other", missing), ("other", bad)],
        ("alarms", known),
    ]


VALUES: st.SearchStrategy[object] = st.one_of(
    st.sampled_from([*ROUTES, "no", 7, 7.0, None, True, [], {}, ["alarm"]]), st.text(max_size=5)
)
MESSAGES = st.one_of(
    st.builds(
        lambda value, ascii_: json.dumps({"a": 1, "type": value}, ensure_ascii=ascii_).encode(),
        VALUES,
        st.booleans(),
    ),
    st.sampled_from([b"{}", b"", b"[]", b'{"type":"alarm"', b'{"type":"\xff"}', OVERSIZE]),
    st.binary(max_size=5),
)


def expected(frame: bytes, fallback: str | None) -> tuple[str, bytes]:
    """Where one message goes, or how its answer begins, as Python's own JSON reads it."""
    if frame is OVERSIZE:
        return "-REJ TOOBIG", b""
    if format_of(Reading("json"), ["type"]).parse_frames([frame]).faults:
        return (fallback, frame) if fallback else ("-REJ FORMAT", b"")
    # Numbers stay as they are written.
    value = json.loads(frame.decode(errors="replace"), parse_int=str, parse_float=str).get("type")
    route = ROUTES.get(value) if isinstance(value, str) else None
    if route is None and fallback is None:
        return "-REJ ROUTE", b""
    return route or fallback or "", frame


@given(
    st.lists(MESSAGES, min_size=1, max_size=25),
    st.sampled_from([None, "other", "alarms"]),
    st.integers(1, 25),
)
def test_each_message_as_if_alone(frames: list[bytes], fallback: str | None, step: int) -> None:
    """
    However frames come together, each goes where it would go alone, in the order they
    were sent, in as few pieces as that allows.
    """
    routing = dialect(fallback)
    wanted = [expected(frame, fallback) for frame in frames]
    for size in (len(frames), step):
        found = []
        for start in range(0, len(frames), size):
            works = routing.read(frames[start : start + size], True)
            routes = [work.route for work in works if work.messages]
            assert all(one != other for one, other in pairwise(routes))
            assert len(works) == max(1, len(routes))
            found += fates(works)
        assert [
            (" ".join(way.split(" ")[:2]) if way.startswith("-") else way, frame)
            for way, frame in found
        ] == wanted


CONFIG = """
[database]
dsn = '''{dsn}'''
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route_by = "kind.name"
route = "other"
[listeners.lines.routes]
temperature = "readings"
humidity = "readings"
alarm = "alarms"
[listeners.strict]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route_by = "kind.name"
[listeners.strict.routes]
alarm = "alarms"
[routes.readings]
table = "readings"
format = "json"
[routes.readings.columns]
n = "n"
[routes.alarms]
table = "alarms"
format = "json"
[routes.alarms.columns]
n = {{ field = "n", required = true }}
peer = "@peer"
[routes.other]
table = "other"
[routes.other.columns]
body = "@frame"
"""

TABLES = """
    CREATE TABLE readings (id serial, n integer CHECK (n <> 13));
    CREATE TABLE alarms (id serial, n integer, peer text);
    CREATE TABLE other (id serial, body text)
"""


@pytest.fixture
def gateway(database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path) -> Gateway:
    """A gateway whose listeners route by content into three tables."""
    database.execute(TABLES)
    config = tmp_path / "content.toml"
    config.write_text(CONFIG.format(dsn=database.dsn))
    return start_gateway("--config", str(config))


def message(kind: str, n: object) -> bytes:
    return json.dumps({"kind": {"name": kind}, "n": n}).encode()


def test_three_routes_of_one_peer(gateway: Gateway, database: Database) -> None:
    """
    Messages of three routes are answered in the order they were sent and stored in that of
    each table; what a table refuses is refused alone.
    """
    sent: list[tuple[bytes, str | None]] = []
    kinds = ("temperature", "alarm", "humidity", "temperature", "fire")
    tables = {"alarm": "alarms", "fire": "other"}
    for n in range(100):
        kind = kinds[n % 5]
        sent.append((message(kind, n), tables.get(kind, "readings")))
    refused = {
        3: (message("temperature", "x"), b"-REJ DATA :column 'n': 'x' is not an integer"),
        20: (message("alarm", None), b"-REJ DATA :column 'n': the message has no 'n'"),
        41: (b"\xff", b"-REJ DATA :not UTF-8: invalid start byte at byte 0"),
        42: (b"x" * 70_000, b"-REJ TOOBIG :longer than max_frame of this listener"),
        13: (message("humidity", 13), b"-REJ CONSTRAINT sqlstate=23514 :"),
    }
    for place, (frame, _) in refused.items():
        sent[place] = (frame, None)
    sent[80:80] = [(b"", "other"), (b"not JSON", "other"), (b'{"kind":5,"n":1}', "other")]
    peer = gateway.connect()
    peer.send(b"".join(frame + b"\n" for frame, _ in sent))
    for place, answer in enumerate(peer.read_lines(len(sent))):
        assert answer.startswith(refused[place][1] if place in refused else b"+OK"), (place, answer)
    for table in ("readings", "alarms", "other"):
        what = "body" if table == "other" else "n::text"
        assert database.column(f"SELECT {what} FROM {table} ORDER BY id") == [
            frame.decode() if table == "other" else str(json.loads(frame)["n"])
            for frame, found in sent
            if found == table
        ]
    assert set(database.column("SELECT peer FROM alarms")) == {peer.name}
    peer.close()


def test_without_a_fallback(gateway: Gateway, database: Database) -> None:
    """What no route takes is refused with field and value, between what is stored."""
    frames = [
        message("alarm", 1),
        message("temperature", 2),
        b'{"n":3}',
        b"{",
        b'{"kind":"alarm"}',
        message("alarm", 6),
    ]
    answers = [
        b"+OK",
        b"-REJ ROUTE :no route where 'kind.name' is 'temperature'",
        b"-REJ ROUTE :the message has no 'kind.name' to route it by",
        b"-REJ FORMAT :not JSON: it ends too early",
        b"-REJ FORMAT :field 'kind' is not a JSON object but a string",
        b"+OK",
    ]
    said = gateway.connect("strict").ask(b"".join(b"%d:%s," % (len(f), f) for f in frames))
    assert said == b"".join(b"%d:%s," % (len(a), a) for a in answers)
    assert database.column("SELECT n FROM alarms ORDER BY id") == [1, 6]
    assert not database.column("SELECT n FROM readings")


def test_one_that_refers_to_another(gateway: Gateway, database: Database) -> None:
    """A message may need one of another route that the same peer sent before it."""
    database.execute(
        "ALTER TABLE readings ADD UNIQUE (n);"
        "ALTER TABLE alarms ADD FOREIGN KEY (n) REFERENCES readings (n)"
    )
    peer = gateway.connect()
    peer.send(b"".join(message(*each) + b"\n" for each in [("temperature", 0), ("fire", 0)]))
    assert peer.read_lines(2) == [b"+OK"] * 2
    # The alarms come first, so that their table would be written first.
    both = [message("alarm", 0)]
    for n in range(20, 40):
        both += [message("temperature", n), message("alarm", n)]
    peer.send(b"".join(each + b"\n" for each in both))
    assert peer.read_lines(len(both)) == [b"+OK"] * len(both)
    assert database.column("SELECT n FROM alarms ORDER BY id") == [0, *range(20, 40)]
    peer.close()


def test_what_must_be_done_in_order(start_with: Callable[..., Gateway], database: Database) -> None:
    """Statements of several routes that touch the same rows are run as they were sent."""
    database.execute("CREATE TABLE t (k text PRIMARY KEY, v int)")
    peer = start_with(
        """
        [listeners.lines]
        endpoint = "tcp:0:interface=127.0.0.1"
        route_by = "do"
        [listeners.lines.routes]
        add = "add"
        set = "set"
        del = "del"
        [routes.add]
        table = "t"
        format = "json"
        columns = { k = "k", v = "v" }
        [routes.set]
        table = "t"
        format = "json"
        conflict = "update"
        key = ["k"]
        columns = { k = "k", v = "v" }
        [routes.del]
        sql = "DELETE FROM t WHERE k = %(k)s"
        format = "json"
        """
    ).connect()
    sent = [{"do": "add", "k": "first", "v": 0}]
    for n in range(30):
        sent += [
            {"do": "del", "k": f"{n - 1}"},
            {"do": "add", "k": f"{n}", "v": 1},
            {"do": "set", "k": f"{n}", "v": 2},
            {"do": "set", "k": "first", "v": n},
        ]
    peer.send(b"".join(json.dumps(each).encode() + b"\n" for each in sent))
    assert set(peer.read_lines(len(sent))) == {b"+OK"}
    assert database.execute("SELECT k, v FROM t ORDER BY k") == [("29", 2), ("first", 29)]
    peer.close()


def test_a_change_with_every_message(gateway: Gateway, database: Database) -> None:
    """Ten thousand messages that alternate between routes share a few commits."""
    peer = gateway.connect()
    sent = [message("temperature" if n % 2 else "fire", n) for n in range(100, 10_100)]
    peer.send(b"".join(frame + b"\n" for frame in sent))
    assert set(peer.read_lines(len(sent))) == {b"+OK"}
    commits = "SELECT count(DISTINCT xmin::text) FROM readings"
    assert database.column("SELECT n FROM readings ORDER BY id") == [*range(101, 10_100, 2)]
    assert database.column(commits)[0] < 200
    peer.close()
