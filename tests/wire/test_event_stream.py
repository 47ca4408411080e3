"""
Event stream: each record is one message, whatever MessagePack has that JSON has not.
"""

from __future__ import annotations

import json
import math
import struct
from datetime import datetime
from typing import Any, Final

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import FramingError
from gateway.wire import event_stream
from gateway.wire.event_stream import EventStream

NOW: Final = 1_790_000_000_123_456_789
NOW_TEXT: Final = "2026-09-21T14:13:20.123456789Z"

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
records = st.dictionaries(
    st.sampled_from(["@tag", "@time", "@metadata"]) | st.text(max_size=5), values, max_size=4
)
seconds = st.integers(1, 2**32 - 3)
event_times = st.builds(
    lambda second, nano: msgpack.ExtType(0, struct.pack(">II", second, nano)),
    seconds,
    st.integers(0, 10**9 - 1),
)


def made(
    entries: bytes, tag: bytes = b"app", max_frame: int = 65536, packed: bool = False
) -> list[bytes]:
    return [
        message
        for portion in EventStream(tag, entries, max_frame, NOW, packed).portions()
        for message in portion
    ]


def joined(*entries: Any) -> bytes:
    return b"".join(map(msgpack.packb, entries))


def expected(value: Any) -> Any:
    """What JSON says of a value, by a rule of its own."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, dict):
        return {expected(name): expected(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [expected(inner) for inner in value]
    return value


def loaded(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.decode("utf-8", "surrogateescape"))
    return found


@given(st.lists(st.tuples(event_times, records), min_size=1, max_size=10), st.booleans())
def test_records_become_json(entries: list[tuple[Any, dict[str, Any]]], metadata: bool) -> None:
    """Each record is an object with the tag and the time in front, and nothing of it is lost."""
    sent = joined(*(([time, {}] if metadata else time, record) for time, record in entries))
    messages = made(sent)
    assert len(messages) == len(entries)
    for message, (time, record) in zip(messages, entries, strict=True):
        found = loaded(message)
        assert list(found)[:2] == ["@tag", "@time"]
        assert found.pop("@tag") == "app"
        text = found.pop("@time")
        second, nano = struct.unpack(">II", time.data)
        assert datetime.fromisoformat(text[:19] + "Z").timestamp() == second
        assert text[19:] == f".{nano:09}Z"
        wanted = {n: v for n, v in record.items() if n not in ("@tag", "@time", "@metadata")}
        assert found == expected(wanted)
        assert message == made(joined([[time, {}] if metadata else time, record]))[0]


@given(st.lists(st.tuples(event_times | seconds, records), max_size=10))
def test_records_stay_messagepack(entries: list[tuple[Any, dict[str, Any]]]) -> None:
    """For a route of MessagePack the members of a record are the bytes that came."""
    messages = made(joined(*entries), packed=True)
    lines = [loaded(line) for line in made(joined(*entries))]
    for message, line, (_, record) in zip(messages, lines, entries, strict=True):
        found = msgpack.unpackb(message, strict_map_key=False)
        assert list(found)[:2] == ["@tag", "@time"]
        assert (found.pop("@tag"), found.pop("@time")) == (line["@tag"], line["@time"])
        wanted = {n: v for n, v in record.items() if n not in ("@tag", "@time", "@metadata")}
        # NaN is no equal of itself.
        assert msgpack.packb(found) == msgpack.packb(wanted)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (1_790_000_000, "2026-09-21T14:13:20Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (0, NOW_TEXT),
        (None, NOW_TEXT),
        (msgpack.ExtType(0, bytes(8)), NOW_TEXT),
        (msgpack.ExtType(0, struct.pack(">II", 1, 2)), "1970-01-01T00:00:01.000000002Z"),
        (
            msgpack.ExtType(0, struct.pack(">II", 1, 2 * 10**9 + 3)),
            "1970-01-01T00:00:03.000000003Z",
        ),
        (msgpack.Timestamp(1, 0), "1970-01-01T00:00:01Z"),
        (msgpack.Timestamp(1, 7), "1970-01-01T00:00:01.000000007Z"),
        (1.25, "1970-01-01T00:00:01.250000000Z"),
        (-0.5, "1969-12-31T23:59:59.500000000Z"),
        (-62_135_596_800, "0001-01-01T00:00:00Z"),
        (1_790_000_000_000, 1_790_000_000_000),
        (2**64 - 1, 2**64 - 1),
        (-1e300, -1e300),
    ],
    ids=repr,
)
@pytest.mark.parametrize("others", [[], [[5, {}]]], ids=["alone", "among others"])
def test_times(time: Any, text: Any, others: list[Any]) -> None:
    """A time of any kind is RFC 3339; 0 and nil are now; what no calendar has stays a number."""
    for entry in ([time, {"a": 1}], [[time, {}], {"a": 1}]):
        message = made(joined(entry, *others))[0]
        assert loaded(message) == {"@tag": "app", "@time": text, "a": 1}
        packed = made(joined(entry, *others), packed=True)[0]
        assert msgpack.unpackb(packed) == {"@tag": "app", "@time": text, "a": 1}


def test_fixext_and_ext8_are_one() -> None:
    """An EventTime may come as fixext8, as the specification says, or as ext8."""
    time = struct.pack(">II", 1, 2)
    for head in (b"\xd7\x00", b"\xc7\x08\x00"):
        for entry in (b"\x92" + head + time + b"\x80", b"\x92\x92" + head + time + b"\x80\x80"):
            assert (
                made(entry * 2) == [b'{"@tag":"app","@time":"1970-01-01T00:00:01.000000002Z"}'] * 2
            )


def test_metadata_is_a_member() -> None:
    """What Fluent Bit keeps beside a record is in front of it, where there is any."""
    entries = joined([[1, {"k": b"v"}], {"a": 1}], [[2, {}], {"a": 2}])
    assert made(entries) == [
        b'{"@tag":"app","@time":"1970-01-01T00:00:01Z","@metadata":{"k":"v"},"a":1}',
        b'{"@tag":"app","@time":"1970-01-01T00:00:02Z","a":2}',
    ]
    first, second = (msgpack.unpackb(one) for one in made(entries, packed=True))
    assert first["@metadata"] == {"k": b"v"} and "@metadata" not in second


def test_groups_have_no_record() -> None:
    """Fluent Bit's markers of a group, whose times are -1 and -2, are no records."""
    marks = [msgpack.ExtType(0, struct.pack(">iI", number, 0)) for number in (-1, -2)]
    entries = joined([[marks[0], {"g": 1}], {}], [1, {"a": 1}], [[marks[1], {}], {}])
    assert made(entries) == [b'{"@tag":"app","@time":"1970-01-01T00:00:01Z","a":1}']
    assert len(made(entries, packed=True)) == 1


def test_the_names_of_the_protocol_are_its_own() -> None:
    """A record cannot say another tag or time than the protocol does, in whatever form."""
    entry = b"\x92\x01\x84\xa4@tag\xa1x\xd9\x05@time\x01\xc4\x04@tag\xa1y\xa1a\x01"
    assert made(entry) == [b'{"@tag":"app","@time":"1970-01-01T00:00:01Z","a":1}']
    (packed,) = made(entry, packed=True)
    assert msgpack.unpackb(packed) == {"@tag": "app", "@time": "1970-01-01T00:00:01Z", "a": 1}


def test_text_that_is_no_utf8_stays() -> None:
    """Bytes that are no UTF-8 are handed on as they are, in a tag, a name and a value."""
    entry = b'\x92\x01\x82\xa2\xffa\x01\xa1b\xa2\xe4"' + joined([1, {"c": "ok"}])
    first, second = made(entry, b"t\xff")
    assert first == (b'{"@tag":"t\xff","@time":"1970-01-01T00:00:01Z","\xffa":1,"b":"\xe4\\""}')
    assert second == b'{"@tag":"t\xff","@time":"1970-01-01T00:00:01Z","c":"ok"}'


def test_integers_keep_their_digits() -> None:
    """Integers of 64 bits are written in full, also as names."""
    entry = joined([1, {"a": 2**64 - 1, "b": -(2**63), 7: 1}])
    assert made(entry)[0].endswith(b'"a":18446744073709551615,"b":-9223372036854775808,"7":1}')


@pytest.mark.parametrize(
    "record",
    [
        {"a": msgpack.ExtType(5, b"x")},
        {"a": [msgpack.ExtType(0, b"x")]},
        {None: 1},
        {"a": {True: 1}},
        {"a": {1.5: 1}},
    ],
    ids=repr,
)
def test_what_json_cannot_say_is_handed_on_packed(record: dict[Any, Any]) -> None:
    """A record that JSON has no words for is MessagePack, which a format of JSON refuses."""
    good = [1, {"a": 1}]
    messages = made(joined(good, [2, record], good))
    assert messages[0] == messages[2] == b'{"@tag":"app","@time":"1970-01-01T00:00:01Z","a":1}'
    found = msgpack.unpackb(messages[1], strict_map_key=False)
    assert found == {"@tag": "app", "@time": "1970-01-01T00:00:02Z", **record}


def test_times_within_a_record() -> None:
    """EventTimes and timestamps among a record's values are text."""
    record = {"a": msgpack.ExtType(0, struct.pack(">II", 1, 2)), "b": msgpack.Timestamp(1, 5)}
    assert loaded(made(joined([1, record]))[0]) == {
        "@tag": "app",
        "@time": "1970-01-01T00:00:01Z",
        "a": "1970-01-01T00:00:01.000000002Z",
        "b": "1970-01-01T00:00:01.000000005Z",
    }


@pytest.mark.parametrize(
    "entry",
    [1, [], [1], [1, {}, {}], [1, None], [1, []], ["x", {}], [{}, {}], [[1], {}], [[1, 2], {}]],
    ids=repr,
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_entry_stays_in_its_place(entry: Any, packed: bool) -> None:
    """A value that is no entry is handed on as it came, between those that are."""
    good = [1, {"a": 1}]
    messages = made(joined(good, entry, good), packed=packed)
    assert len(messages) == 3
    assert messages[1] == msgpack.packb(entry)
    assert messages[0] == messages[2] == made(joined(good), packed=packed)[0]


def test_a_record_that_is_too_long_is_named() -> None:
    """The position of an entry over the limit is told; one of just that size is taken."""
    entries = joined([1, {"a": "x" * 50}], [1, {"a": "x" * 51}], [1, {"a": "x"}])
    limit = len(msgpack.packb([1, {"a": "x" * 50}]))
    stream = EventStream(b"app", entries, limit, NOW)
    messages = [message for portion in stream.portions() for message in portion]
    assert stream.oversize == [1]
    assert messages == made(entries)


def test_portions_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of entries is decoded at a time, the messages are the same."""
    kinds: list[Any] = [[1, {"a": 1}], [2, {"b": b"x"}], [3, {"c": math.nan}], [4, {}], 7]
    entries = joined(*kinds * 5)
    whole = made(entries)
    for size in (1, 2, 3):
        monkeypatch.setattr(event_stream, "_PORTION", size)
        assert made(entries) == whole


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (joined([1, {}])[:-1], "the last record ends too early"),
        (joined([1, {}]) + b"\xc1", "record 2 .*not MessagePack"),
        (joined([1, {}]) + b"\xdd\xff\xff\xff\xff", "the last record ends too early"),
        (b"\x91" * 5000 + b"\xc0", "nested too deeply"),
    ],
)
def test_broken_entries_are_said(entries: bytes, words: str) -> None:
    """Entries that are no whole MessagePack values are named by their number."""
    with pytest.raises(FramingError, match=words):
        EventStream(b"app", entries, 65536, NOW)


def test_records_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """More records than a chunk may have are refused before a message is made of one."""
    monkeypatch.setattr(event_stream, "MOST_RECORDS", 3)
    assert EventStream(b"app", joined(*[[1, {}]] * 3), 65536, NOW).count == 3
    with pytest.raises(FramingError, match="more than 3 records"):
        EventStream(b"app", joined(*[[1, {}]] * 4), 65536, NOW)


def test_deep_records_are_handed_on() -> None:
    """A record nested as deeply as MessagePack's parser takes is no error of the gateway."""
    deep = b"\x92\x01\x81\xa1a" + b"\x91" * 900 + b"\xc0"
    (message,) = made(deep)
    assert message.startswith((b'{"@tag"', b"\xdf"))


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_fault(entries: bytes) -> None:
    """Any bytes give as many messages as there are values, or one error."""
    try:
        messages = made(entries)
        packed = made(entries, packed=True)
    except FramingError:
        return
    assert len(messages) == len(packed)
