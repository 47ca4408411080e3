"""
Event streams: the entries of a forward chunk, as one message for each record.

An entry is C{[time, record]}, or C{[[time, metadata], record]} from Fluent Bit 2.1 on. As a
message it is the record's object with C{@tag} and C{@time} in front, and C{@metadata} where there
is any: a line of JSON, or a map of MessagePack. The names are the protocol's: members of the
record that are called so are left out.

Strategy: many entries are decoded and checked by one call, and written by another; where some of
them have more than JSON (binary data, NaN, text that is no UTF-8, ...), the portion that has them
is done value by value, or entry by entry.

JSON does not have all that MessagePack has. Binary data is text, as Ruby's strings without an
encoding come as such. Bytes that are no UTF-8 stay as they are, so that the route's format refuses
the message, and its dead letter has them. NaN and the infinities become the strings that
PostgreSQL reads. What JSON cannot say (an extension type, a name that is neither text nor a
number) is handed on as MessagePack, which is refused in the same way.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from types import GenericAlias
from typing import Annotated, Any, Final, Union

import msgspec
from msgspec import Meta, Raw

from gateway.model.errors import FramingError
from gateway.wire.event_time import NoEntryError, Times, array_of, event_time, in_words, is_map
from gateway.wire.forward import new_unpacker

MOST_RECORDS: Final = 500_000
"""
Records of a chunk. Fluentd's chunks have 8 MiB and Fluent Bit's 2 MiB; records can be of three
bytes, and some 200 bytes of memory are needed for each.
"""

_PORTION: Final = 256
"""Entries that are decoded at a time; of more, the garbage collector would visit more."""

_RESERVED: Final = ("@tag", "@time", "@metadata")

_RESERVED_NAME: Final = re.compile(rb'"@(?:tag|time|metadata)":')

_DEPTH: Final = 4
"""Levels of lists and maps in a record that are decoded and checked at once."""

_Value = Any
"""A decoded value of MessagePack."""


def _plain(depth: int) -> Any:
    """
    Return the type of values that JSON's encoder writes without loss: text, finite numbers, and so
    on, in lists and maps of so many levels.
    """
    largest = sys.float_info.max
    kinds: list[Any] = [None, bool, int, Annotated[float, Meta(ge=-largest, le=largest)], str]
    if depth:
        inner = _plain(depth - 1)
        kinds += [GenericAlias(list, inner), GenericAlias(dict, (str, inner))]
    return Union[tuple(kinds)]  # noqa: UP007 - no other way to write one of a tuple


_plain_record: Any = GenericAlias(dict, (str, _plain(_DEPTH)))
_plain_pair: Any = GenericAlias(tuple, (Raw, _plain_record))
_plain_pairs = msgspec.msgpack.Decoder(GenericAlias(list, _plain_pair)).decode
_pairs = msgspec.msgpack.Decoder(list[tuple[Raw, dict[str, Any]]]).decode
_raw_pairs = msgspec.msgpack.Decoder(list[tuple[Raw, Raw]]).decode
_items = msgspec.msgpack.Decoder(list[Raw]).decode
_lines = msgspec.json.Encoder().encode_lines
_token = msgspec.json.Encoder().encode
_packed = msgspec.msgpack.Encoder().encode


class _UnsayableError(Exception):
    """JSON has nothing for this value."""


class EventStream:
    """
    Entries of one chunk, made into messages portion by portion.

    @ivar count: number of entries.
    @ivar oversize: positions of messages of entries that are too long, ascending. They are made
        all the same, for dead letters.
    """

    def __init__(
        self, tag: bytes, entries: bytes, max_frame: int, now: int, packed: bool = False
    ) -> None:
        """
        @param entries: MessagePack arrays, joined.
        @param max_frame: largest entry, in bytes.
        @param now: nanoseconds since 1970, for records without a time.
        @param packed: whether messages are MessagePack instead of JSON.
        @raise FramingError: the entries are no whole MessagePack values, or too many.
        @raise ImportError: the package msgpack is not installed.
        """
        self._entries = entries
        self._max_frame = max_frame
        self._ends = _ends(entries)
        self._write = _Packed(tag, now) if packed else _Json(tag, now)
        self.count = len(self._ends)
        self.oversize: list[int] = []

    def portions(self) -> Iterator[list[bytes]]:
        """
        Make the messages, of at most L{_PORTION} entries at a time.
        """
        ends = self._ends
        sizes = [end - start for start, end in pairwise([0, *ends])]
        start = done = 0
        for first in range(0, len(ends), _PORTION):
            end = ends[min(first + _PORTION, len(ends)) - 1]
            messages = self._portion(
                self._entries[start:end], sizes[first : first + _PORTION], done
            )
            start = end
            done += len(messages)
            yield messages

    def _portion(self, entries: bytes, sizes: list[int], done: int) -> list[bytes]:
        if max(sizes) <= self._max_frame:
            return self._write.portion(entries, sizes)
        messages: list[bytes] = []
        for entry in _cut(entries, sizes):
            made = self._write.portion(entry, [len(entry)])
            if len(entry) > self._max_frame:
                place = done + len(messages)
                self.oversize += range(place, place + len(made))
            messages += made
        return messages


def _ends(entries: bytes) -> list[int]:
    """
    Find where each entry ends.
    """
    from msgpack.exceptions import OutOfData

    unpacker = new_unpacker()
    unpacker.feed(entries)
    skip, tell = unpacker.skip, unpacker.tell
    ends: list[int] = []
    add = ends.append
    try:
        for _ in range(MOST_RECORDS):
            skip()
            add(tell())
    except OutOfData:
        pass
    except ValueError as error:
        raise FramingError(
            f"forward: record {len(ends) + 1} of a chunk is not MessagePack, or nested too deeply"
            f" ({type(error).__name__})",
            [],
        ) from None
    if (ends[-1] if ends else 0) != len(entries):
        many = len(ends) == MOST_RECORDS
        fault = f"more than {MOST_RECORDS} records" if many else "the last record ends too early"
        raise FramingError(f"forward: a chunk's entries: {fault}", [])
    return ends


def _cut(portion: bytes, sizes: Iterable[int]) -> list[bytes]:
    entries = []
    start = 0
    for size in sizes:
        entries.append(portion[start : start + size])
        start += size
    return entries


class _Json:
    """
    Writer of messages in JSON.
    """

    def __init__(self, tag: bytes, now: int) -> None:
        self._times = Times(now)
        self._tag = _written(_sayable(tag))
        self._begin = b'{"@tag":%b,"@time":"' % self._tag
        self._fallback = _Packed(tag, now)

    def portion(self, entries: bytes, sizes: Sequence[int]) -> list[bytes]:
        """
        @param entries: joined.
        @param sizes: bytes of each.
        """
        joined = array_of(len(sizes), entries)
        try:
            try:
                pairs = _plain_pairs(joined)
                records: Sequence[_Value] = [record for _, record in pairs]
            except msgspec.ValidationError:
                # Nearly all entries of Fluentd's in_tail have binary data.
                pairs = _pairs(joined)
                records = [_sayable(record) for _, record in pairs]
            text = _lines(records)
        except (msgspec.DecodeError, UnicodeError, RecursionError, _UnsayableError):
            return self._each(entries, sizes)
        # A record without members takes no comma behind the time.
        if _RESERVED_NAME.search(text) or text.startswith(b"{}") or b"\n{}\n" in text:
            return self._each(entries, sizes)
        # No line feed is within a line.
        lines = text[1:-1].split(b"\n{")
        messages = self._times.put_before([head for head, _ in pairs], self._begin, lines)
        return self._each(entries, sizes) if messages is None else messages

    def _each(self, entries: bytes, sizes: Sequence[int]) -> list[bytes]:
        messages = []
        for entry in _cut(entries, sizes):
            try:
                message = self._one(entry)
            except (_UnsayableError, RecursionError):
                messages += self._fallback.portion(entry, [len(entry)])
            except NoEntryError:
                messages.append(entry)
            else:
                if message is not None:
                    messages.append(message)
        return messages

    def _one(self, entry: bytes) -> bytes | None:
        """
        @return: C{None}: the entry has no record of its own.
        """
        head, record = _parts(entry)
        time, metadata = self._times.one(head)
        if time is None:
            return None
        members = [b'"@tag":' + self._tag, b'"@time":' + time.encode()]
        if metadata:
            members.append(b'"@metadata":' + _written(_sayable_whole(_decoded(metadata))))
        value = _sayable_whole(_decoded(record))
        for name in _RESERVED:
            value.pop(name, None)
        if value:
            members.append(_written(value)[1:-1])
        return b"{" + b",".join(members) + b"}"


def _parts(entry: bytes) -> tuple[Raw, Raw]:
    """
    Split an entry into its time and its record.

    @raise NoEntryError: it is none.
    """
    try:
        ((head, record),) = _raw_pairs(b"\x91" + entry)
    except (msgspec.DecodeError, RecursionError):
        raise NoEntryError from None
    if not is_map(bytes(memoryview(record)[:1])):
        raise NoEntryError
    return head, record


def _decoded(value: Raw | bytes) -> _Value:
    """
    Decode a value so that each text of it can be written again as it came.

    @raise _UnsayableError: it is nested too deeply.
    """
    import msgpack

    try:
        return msgpack.unpackb(
            bytes(value), strict_map_key=False, unicode_errors="surrogateescape", timestamp=0
        )
    except (ValueError, TypeError, RecursionError):
        # A name may also be an array or a map, which no dict takes.
        raise _UnsayableError from None


def _written(value: _Value) -> bytes:
    """
    Write a value of L{_sayable_whole} as JSON.
    """
    try:
        return _token(value)
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogateescape")


def _sayable_whole(value: _Value) -> _Value:
    """
    Replace what JSON does not have, however deep it is.

    @raise _UnsayableError: nothing can stand for it.
    """
    try:
        return _sayable(value)
    except RecursionError:
        raise _UnsayableError from None


def _sayable(value: _Value) -> _Value:
    """
    Replace what JSON does not have in a value that msgspec or msgpack decoded.

    @raise _UnsayableError: nothing can stand for it.
    """
    kind = type(value)
    if kind is dict:
        return {_name(name): _sayable(inner) for name, inner in value.items()}
    if kind is list:
        return [_sayable(inner) for inner in value]
    if kind is bytes:
        return value.decode("utf-8", "surrogateescape")
    if kind is float and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if kind in (str, int, bool, float, type(None)):
        return value
    return _time_in(value)


def _time_in(value: _Value) -> str:
    """
    Write an extension value, which must be a time.
    """
    import msgpack

    if isinstance(value, msgpack.Timestamp):
        second, nano = value.seconds, value.nanoseconds
    elif isinstance(value, msgpack.ExtType):
        try:
            second, nano = event_time(value)
        except NoEntryError:
            raise _UnsayableError from None
    else:
        raise _UnsayableError
    try:
        return f"{in_words(second, nano, 9)}Z"
    except OverflowError:
        raise _UnsayableError from None


def _name(name: _Value) -> str:
    """
    Write the name of a member: text, or an integer's digits.
    """
    if type(name) is bytes:
        return name.decode("utf-8", "surrogateescape")
    if type(name) is int:
        return str(name)
    if type(name) is not str:
        raise _UnsayableError
    return name


class _Packed:
    """
    Writer of messages in MessagePack.
    """

    def __init__(self, tag: bytes, now: int) -> None:
        self._times = Times(now)
        self._begin = _packed("@tag") + _packed_text(tag) + _packed("@time")

    def portion(self, entries: bytes, sizes: Sequence[int]) -> list[bytes]:
        """
        @param entries: joined.
        @param sizes: bytes of each.
        """
        messages = []
        for entry in _cut(entries, sizes):
            try:
                message = self._one(entry)
            except NoEntryError:
                messages.append(entry)
            else:
                if message is not None:
                    messages.append(message)
        return messages

    def _one(self, entry: bytes) -> bytes | None:
        head, record = _parts(entry)
        time, metadata = self._times.one(head)
        if time is None:
            return None
        count, members = _members(bytes(record))
        if b"@t" in members or b"@metadata" in members:
            count, members = _without_reserved(count, members)
        token = msgspec.json.decode(time)
        begin = self._begin + _packed(token)
        if metadata:
            begin += _packed("@metadata") + metadata
            count += 1
        return b"\xdf" + (count + 2).to_bytes(4) + begin + members


def _members(record: bytes) -> tuple[int, bytes]:
    """
    Split a map into the number of its members and their bytes.
    """
    if record[0] <= 0x8F:
        return record[0] - 0x80, record[1:]
    size = 2 if record[0] == 0xDE else 4
    return int.from_bytes(record[1 : 1 + size]), record[1 + size :]


def _without_reserved(count: int, members: bytes) -> tuple[int, bytes]:
    try:
        items = list(map(bytes, _items(array_of(2 * count, members))))
    except (msgspec.DecodeError, RecursionError):
        raise NoEntryError from None
    reserved = {form for name in _RESERVED for form in _name_forms(name)}
    kept = [
        name + value
        for name, value in zip(items[::2], items[1::2], strict=True)
        if name not in reserved
    ]
    return len(kept), b"".join(kept)


def _name_forms(name: str) -> list[bytes]:
    """Return all ways to write a short name in MessagePack, as a string or binary data."""
    text = name.encode()
    size = len(text)
    return [
        bytes((0xA0 + size,)) + text,
        *(bytes((first, size)) + text for first in (0xD9, 0xC4)),
        *(bytes((first,)) + size.to_bytes(2) + text for first in (0xDA, 0xC5)),
        *(bytes((first,)) + size.to_bytes(4) + text for first in (0xDB, 0xC6)),
    ]


def _packed_text(text: bytes) -> bytes:
    """Write bytes as a MessagePack string, whatever they are."""
    return b"\xdb" + len(text).to_bytes(4) + text
