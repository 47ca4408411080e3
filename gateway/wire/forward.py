"""
Fluent's forward protocol, versions 1 and 1.5: chunks of log records, and their acknowledgement.

A peer sends MessagePack values one behind the other. Each is an array: C{[tag, time, record]}
(Message), C{[tag, [[time, record], ...]]} (Forward) or C{[tag, entries]} (PackedForward), where
entries are the bytes of the C{[time, record]} joined, compressed or not; a map of options may
follow. The option C{chunk} asks for an acknowledgement, a map C{{"ack": chunk}}.

Strategy: where packed entries end is known from the length before them; all other values are
skipped by msgpack's C code, which remembers where it stopped. So a value of many reads is passed
over once, and no object is made of what is in it. All modes become one thing, a L{Chunk} with the
bytes of its entries, that L{gateway.wire.event_stream} makes messages of.

@see: U{https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1}
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.model.errors import FramingError
from gateway.wire.http import NO_TLS

KIND: Final = b"forward"

_NIL: Final = 0xC0
"""A value of this one byte is a heartbeat."""

_ARRAYS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
"""First bytes of an array."""

_NUMBERS: Final = frozenset((*range(0x80), *range(0xE0, 0x100), *range(0xCA, 0xD4)))
"""First bytes of integers and floating point numbers."""

_EXTENSIONS: Final = frozenset((*range(0xD4, 0xD9), *range(0xC7, 0xCA)))
"""First bytes of extension types."""

_PREFIX: Final = {0x90: 1, 0xDC: 3, 0xDD: 5, 0xA0: 1, 0xD9: 2, 0xDA: 3, 0xDB: 5} | {
    0xC4: 2,
    0xC5: 3,
    0xC6: 5,
}
"""
First byte of an array, a string or binary data -> bytes before its content. Of the short forms,
whose first byte holds the length too, it is the first one.
"""

_SHORT_ARRAYS: Final = (0x92, 0x93, 0x94)
"""First bytes of arrays of two to four elements."""

_LENGTHS: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4}
"""First byte of a string or binary data -> bytes of its length."""

_NOT_PACKED: Final = (0, -1)

_MOST_OPTIONS: Final = 65_536
"""Bytes of the options behind packed entries, which are looked at anew with each read."""

_BLOCK: Final = 512
"""
Bytes of compressed data that are read at a time first; twice as many with each further read of the
same member. What lies behind a member's end is copied, so for short ones it must be little.
"""

_MOST_MEMBERS: Final = 65_536
"""Gzip members of a chunk: Fluentd writes one for each append to its buffer."""

_SIGNALS: Final = {1: "metrics", 2: "traces", 3: "profiles", 4: "blobs"}
"""Kinds of events that Fluent Bit sends besides logs."""

_elements = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_options = msgspec.msgpack.Decoder(dict[str, msgspec.Raw] | None).decode


def new_unpacker() -> Any:
    """
    Make a parser of a stream of MessagePack values, without limits of its own.

    @raise ImportError: the package msgpack is not installed.
    """
    import msgpack

    return msgpack.Unpacker(max_buffer_size=0, read_size=1)


class ForwardFraming:
    """
    Framing of one peer: frames are the arrays that it sends, as they came.

    Heartbeats are dropped. A value that is longer than the limit ends the connection, as does
    anything else that is no array.
    """

    __slots__ = ("_begin", "_fed", "_kept", "_max_chunk", "_no_more_data", "_unpacker", "more")

    oversize = False
    has_nul = False
    kind = KIND

    def __init__(self, max_frame: int, max_chunk: int) -> None:
        """
        @param max_frame: limit for one record, which is not looked at here.
        @param max_chunk: largest value accepted, in bytes.
        @raise ImportError: the package msgpack is not installed.
        """
        from msgpack.exceptions import OutOfData

        self._no_more_data = OutOfData
        self._max_chunk = max_chunk
        self._kept = bytearray()
        # Has a copy of what it is fed; none between two values, nor for entries that are packed.
        self._unpacker: Any = None
        # Where in what is kept the unpacker's stream begins, and how far it was fed.
        self._begin = self._fed = 0
        self.more = False

    @property
    def pending(self) -> int:
        # What the unpacker was fed is there twice.
        return len(self._kept) + (0 if self._unpacker is None or self.more else self._fed)

    @property
    def unfinished(self) -> bool:
        return bool(self._kept) and not self.more

    def forget(self) -> None:
        self._kept = bytearray()
        self._unpacker = None
        self.more = False

    def frame(self, payload: bytes) -> bytes:
        return payload

    def push(self, payload: bytes) -> bytes:
        return payload

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        kept = self._kept
        kept += data
        frames: list[bytes] = []
        start, size = 0, len(kept)
        self.more = False
        fault = ""
        with memoryview(kept) as view:
            while start < size:
                first = view[start]
                if first not in _ARRAYS and first != _NIL:
                    fault = _not_an_array(bytes(view[start : start + 8]))
                    break
                if len(frames) >= most:
                    self.more = True
                    break
                try:
                    end = self._end_of(view, start)
                except ValueError as error:
                    fault = f"not MessagePack, or nested too deeply ({type(error).__name__})"
                    break
                if (end or size) - start > self._max_chunk:
                    fault = f"a chunk is over max_chunk, {self._max_chunk} bytes"
                    break
                if end is None or end > size:
                    break
                if first != _NIL:
                    frames.append(bytes(view[start:end]))
                start = end
        if fault:
            self.forget()
            raise FramingError(f"forward: {fault}", frames)
        if start == size:
            self.forget()
        elif start:
            del kept[:start]
            self._begin -= start
            self._fed = max(0, self._fed - start)
        return frames

    def _end_of(self, view: memoryview, start: int) -> int | None:
        """
        Find where a value ends.

        @return: C{None}: not known yet; maybe a place that has not come yet.
        @raise ValueError: it is not MessagePack.
        """
        packed = _end_of_packed(view, start) if view[start] in _SHORT_ARRAYS else _NOT_PACKED
        if self._unpacker is None or self._fed <= start:
            self._unpacker = None
            if packed != _NOT_PACKED:
                return None if packed is None else self._end_behind(view, *packed)
            self._unpacker = new_unpacker()
            self._begin = self._fed = start
        unpacker = self._unpacker
        if self._fed < len(view):
            unpacker.feed(view[self._fed :])
            self._fed = len(view)
        try:
            unpacker.skip()
        except self._no_more_data:
            if packed == _NOT_PACKED:
                return None
            # It came behind another value. What is to come of it need not be there twice.
            self._unpacker = None
            return None if packed is None else self._end_behind(view, *packed)
        end = self._begin + int(unpacker.tell())
        if packed is not None and packed != _NOT_PACKED and end - packed[0] > _MOST_OPTIONS:
            raise ValueError
        return end

    def _end_behind(self, view: memoryview, entries: int, count: int) -> int | None:
        """
        Find where the chunk ends whose packed entries end at a place.

        @param count: of the values behind them.
        """
        if not count or entries > len(view):
            return entries
        return self._end_of_options(view, entries, count)

    def _end_of_options(self, view: memoryview, start: int, count: int) -> int | None:
        """
        Find where the values behind packed entries end.

        @raise ValueError: they are not MessagePack, or too long.
        """
        unpacker = new_unpacker()
        unpacker.feed(view[start : start + _MOST_OPTIONS])
        try:
            for _ in range(count):
                unpacker.skip()
        except self._no_more_data:
            if len(view) - start >= _MOST_OPTIONS:
                raise ValueError from None
            return None
        return start + int(unpacker.tell())


def _end_of_packed(view: memoryview, start: int) -> tuple[int, int] | None:
    """
    Find where the packed entries of a chunk end, by their length, which stands before them.

    @param start: of an array of two to four elements.
    @return: that place, and how many elements are behind it; L{_NOT_PACKED}; C{None}: not known
        yet.
    """
    position = start + 1
    for _ in range(2):
        if position >= len(view):
            return None
        first = view[position]
        if 0xA0 <= first <= 0xBF:
            position += 1 + first - 0xA0
            continue
        size = _LENGTHS.get(first)
        if size is None:
            return _NOT_PACKED
        begin = position + 1 + size
        if begin > len(view):
            return None
        position = begin + int.from_bytes(view[position + 1 : begin])
    return position, view[start] - 0x92


def _not_an_array(beginning: bytes) -> str:
    """
    Say what begins with these bytes instead of a MessagePack array.
    """
    if beginning[:1] in (b"{", b"["):
        return f"JSON text ({beginning!r}) where MessagePack is taken"
    if beginning.startswith(b"\x16\x03"):
        return NO_TLS
    return f"{beginning!r} where a MessagePack array should begin"


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    Records that are acknowledged together.

    @ivar tag: what the sender calls them.
    @ivar entries: MessagePack arrays C{[time, record]}, joined and not compressed.
    @ivar id: the option C{chunk} as it came, a MessagePack string or binary data; C{b""}: no
        acknowledgement is wanted.
    @ivar is_message: whether it is a single record, in Message mode.
    """

    tag: bytes
    entries: bytes
    id: bytes = b""
    is_message: bool = False

    @property
    def ack(self) -> bytes:
        """The acknowledgement; C{b""}: none is wanted."""
        return b"\x81\xa3ack" + self.id if self.id else b""


def parse_chunk(frame: bytes, max_chunk: int) -> Chunk:
    """
    Read one frame.

    @param frame: a whole MessagePack array.
    @param max_chunk: most bytes of entries, decompressed.
    @raise FramingError: it is no chunk of logs.
    """
    elements = elements_of(frame)
    if len(elements) < 2:
        raise FramingError(f"forward: an array of {len(elements)} where [tag, ...] belongs", [])
    tag = content(elements[0])
    if tag is None:
        raise FramingError("forward: the tag is no string", [])
    second = memoryview(elements[1])
    if _is_timestamp(second[0]):
        return _message(tag, elements)
    if len(elements) > 3:
        raise FramingError(f"forward: {len(elements)} elements in a chunk", [])
    options = _read_options(elements[2]) if len(elements) == 3 else {}
    if second[0] in _ARRAYS:
        entries = bytes(second[_PREFIX[_form(second[0])] :])
    else:
        packed = content(second)
        if packed is None:
            raise FramingError("forward: neither entries nor a time behind the tag", [])
        entries = _decompressed(packed, options, max_chunk)
    return Chunk(tag, entries, _chunk_id(options))


def elements_of(frame: bytes) -> list[msgspec.Raw]:
    """
    Split a frame into its elements.

    @raise FramingError: it is not MessagePack after all.
    """
    try:
        return _elements(frame)
    except (msgspec.DecodeError, RecursionError):
        # An extension that claims 4 GiB is skipped as an empty one (msgpack 1.2.4).
        raise FramingError("forward: not MessagePack, or nested too deeply", []) from None


def _is_timestamp(first: int) -> bool:
    """Say whether a value with this first byte is a time: a number, EventTime, or nil."""
    return first in _NUMBERS or first in _EXTENSIONS or first == _NIL


def _message(tag: bytes, elements: list[msgspec.Raw]) -> Chunk:
    """
    Read C{[tag, time, record, options]} as a chunk of one entry.
    """
    if not 3 <= len(elements) <= 4:
        raise FramingError(f"forward: {len(elements)} elements in a message", [])
    options = _read_options(elements[3]) if len(elements) == 4 else {}
    time, record = bytes(elements[1]), bytes(elements[2])
    metadata = options.get("metadata")
    if metadata is not None:
        # As an entry has it; Fluent Bit has it among the options in this mode alone.
        time = b"\x92" + time + bytes(metadata)
    return Chunk(tag, b"\x92" + time + record, _chunk_id(options), is_message=True)


def _read_options(value: msgspec.Raw) -> dict[str, msgspec.Raw]:
    """
    @raise FramingError: they are no map, or say that the chunk has no logs.
    """
    try:
        # Docker 18 sends nil where it has none.
        options = _options(value) or {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FramingError("forward: the options are no map with names", []) from None
    signal = options.get("fluent_signal")
    if signal is not None and bytes(signal) not in (b"\0", b"\xc0"):
        number = _plain(signal)
        if number != 0:
            kind = _SIGNALS.get(number) if isinstance(number, int) else None
            raise FramingError(
                f"forward: {kind or 'no logs'} (fluent_signal {number!r}); only logs are taken", []
            )
    return options


def _plain(value: msgspec.Raw) -> object:
    """Decode an option; C{None} where that is not possible."""
    try:
        return msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _chunk_id(options: dict[str, msgspec.Raw]) -> bytes:
    """
    @raise FramingError: it is neither a string nor binary data.
    """
    value = options.get("chunk")
    if value is None:
        return b""
    raw = bytes(value)
    if raw == b"\xc0":
        return b""
    if content(raw) is None:
        raise FramingError("forward: the option chunk is no string", [])
    return raw


def content(value: bytes | memoryview | msgspec.Raw) -> bytes | None:
    """
    Return the bytes of a MessagePack string or of binary data; C{None} where it is neither.

    @param value: a whole value.
    """
    view = memoryview(value)
    first = view[0]
    if first in _ARRAYS:
        return None
    prefix = _PREFIX.get(_form(first))
    return None if prefix is None else bytes(view[prefix:])


def _form(first: int) -> int:
    """Return the key in L{_PREFIX} for a first byte."""
    if 0x90 <= first <= 0x9F:
        return 0x90
    return 0xA0 if 0xA0 <= first <= 0xBF else first


def _decompressed(packed: bytes, options: dict[str, msgspec.Raw], max_chunk: int) -> bytes:
    """
    Return entries as they were before they were compressed.

    @raise FramingError: they are broken, or longer than C{max_chunk}.
    """
    value = options.get("compressed")
    kind = None if value is None else content(value)
    if kind == b"gzip":
        return gunzip(packed, max_chunk)
    if kind not in (None, b"", b"text"):
        raise FramingError(
            f"forward: compressed = {kind.decode(errors='replace')!r}; only gzip is read", []
        )
    return packed


def gunzip(data: bytes, limit: int) -> bytes:
    """
    Decompress gzip data of one or more members.

    @param limit: most bytes of the result; never more are made.
    @raise FramingError: the data is broken, too long, or has too many members.
    """
    parts: list[bytes] = []
    rest, position, members = limit, 0, 0
    with memoryview(data) as view:
        while position < len(data):
            members += 1
            if members > _MOST_MEMBERS:
                raise FramingError(f"forward: more than {_MOST_MEMBERS} members of gzip", [])
            inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)
            block = _BLOCK
            while not inflate.eof:
                piece = view[position : position + block]
                if not piece:
                    raise FramingError("forward: the gzip data ends too early", [])
                try:
                    # One more than there may be shows that there are too many.
                    part = inflate.decompress(piece, rest + 1)
                except zlib.error as error:
                    raise FramingError(f"forward: not gzip: {error}", []) from None
                rest -= len(part)
                if rest < 0:
                    raise FramingError(
                        f"forward: a chunk is over max_chunk, {limit} bytes, decompressed", []
                    )
                parts.append(part)
                position += len(piece) - len(inflate.unused_data)
                block *= 2
    return b"".join(parts)
