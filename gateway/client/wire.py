"""
Framings of a client: requests to bytes, bytes to answers.

Pure, and a whole chunk at a time: its messages are framed by one C{join}. Messages that a framing
cannot carry are found before anything is sent (L{Wire.check}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from .answers import Garbled, Unsendable

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Longest frame taken in, in bytes: a row of a query may be large."""


BOM: Final = b"\xef\xbb\xbf"
"""UTF-8's byte order mark."""

MAX_DELIMITER: Final = 16
"""Most bytes of a delimiter."""

MAX_WORD: Final = 128
"""Longest name of a stream, a route, a query or a channel, in bytes."""


_ANY_BYTES: Final = "use a listener with framing netstring, octet-counted or int32"

_HEAD: Final = 512
"""Bytes that a command has in front of a message, at most."""


def check_word(what: str, word: str) -> None:
    """
    Check one word of a command.

    @raise ValueError: it is empty, too long, or has spaces or control characters.
    """
    size = len(word.encode("utf-8", "replace"))
    if not word.isprintable() or any(map(str.isspace, word)) or not 0 < size <= MAX_WORD:
        raise ValueError(f"a {what} is 1 to {MAX_WORD} bytes without spaces, not {word!r}")


class Wire(Protocol):
    """
    Framing of one connection.

    @ivar most: longest frame accepted, in bytes.
    @ivar drops_mark: whether the gateway drops a byte order mark before the first frame.
    """

    most: int
    drops_mark: bool

    @property
    def pending(self) -> bool:
        """True while a frame is incomplete."""

    def receive(self, data: bytes) -> list[bytes]:
        """
        Take received bytes.

        @return: the frames now complete.
        @raise Garbled: they cannot be split into frames.
        """

    def frame(self, payload: bytes) -> bytes:
        """Return one frame."""

    def put(self, head: bytes, number: int | None, messages: Sequence[bytes]) -> bytes:
        """
        Return messages as frames.

        @param head: bytes in front of each message.
        @param number: number of the first message, between head and message; C{None} for none.
        """

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        """
        Check that messages can be framed.

        @param bare: whether their frames will have no head.
        @raise Unsendable: with the index of the first message that cannot.
        """


def _payloads(head: bytes, number: int | None, messages: Sequence[bytes]) -> Iterable[bytes]:
    if number is not None:
        return [b"%b#%d %b" % (head, n, message) for n, message in enumerate(messages, number)]
    return [head + message for message in messages] if head else messages


class _Delimited:
    """
    Framing with a delimiter that no frame contains.
    """

    _delimiter: bytes
    drops_mark = True

    def __init__(self) -> None:
        self.most = MAX_ANSWER
        self._kept: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        return bool(self._kept)

    def receive(self, data: bytes) -> list[bytes]:
        if self._delimiter not in data:
            self._kept.append(data)
            self._size += len(data)
            if self._size > self.most:
                raise Garbled(f"a frame of more than {self.most:,} bytes, without an end")
            return []
        if self._kept:
            data = b"".join(self._kept) + data
        frames = data.split(self._delimiter)
        rest = frames.pop()
        self._kept = [rest] if rest else []
        self._size = len(rest)
        return frames

    def frame(self, payload: bytes) -> bytes:
        return payload + self._delimiter

    def put(self, head: bytes, number: int | None, messages: Sequence[bytes]) -> bytes:
        end = self._delimiter
        if number is not None:
            return b"".join(
                [
                    b"%b#%d %b%b" % (head, n, message, end)
                    for n, message in enumerate(messages, number)
                ]
            )
        return head + (end + head).join(messages) + end


class Lines(_Delimited):
    """
    Framing by lines, each ended by LF.
    """

    _delimiter = b"\n"

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        joined = b"\n".join(messages) + b"\n"
        if joined.count(b"\n") == len(messages) and b"\r\n" not in joined:
            return
        for place, message in enumerate(messages):
            if b"\n" in message:
                what = "holds a line feed, which ends a line"
            elif message.endswith(b"\r"):
                what = "ends with a carriage return, which the gateway would drop"
            else:
                continue
            raise Unsendable(f"message {place} {what}: {_ANY_BYTES}")


class Delimited(_Delimited):
    """
    Framing with a delimiter of the listener's own.
    """

    def __init__(self, delimiter: bytes = b"\n") -> None:
        super().__init__()
        self._delimiter = delimiter
        self.drops_mark = not BOM.startswith(delimiter[:1])

    def receive(self, data: bytes) -> list[bytes]:
        if self._kept and len(self._delimiter) > 1:
            # It may have begun in what came before.
            data = b"".join(self._kept) + data
            self._kept, self._size = [], 0
        return super().receive(data)

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        for place, message in enumerate(messages):
            if (message + self._delimiter).find(self._delimiter) < len(message):
                raise Unsendable(f"message {place} holds the delimiter: {_ANY_BYTES}")


class Nuls(_Delimited):
    """
    Framing with NUL behind each frame.
    """

    _delimiter = b"\0"

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        for place, message in enumerate(messages):
            if b"\0" in message:
                raise Unsendable(f"message {place} holds a NUL, which ends a frame: {_ANY_BYTES}")


class _Counted:
    """
    Framing with a decimal length, a mark, and the payload.
    """

    _mark: bytes
    _trailer: bytes
    drops_mark = True

    def __init__(self) -> None:
        self.most = MAX_ANSWER
        self._kept = bytearray()
        self._wanted = 0

    @property
    def pending(self) -> bool:
        return bool(self._kept)

    def receive(self, data: bytes) -> list[bytes]:
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
        frames = []
        start, size, tail = 0, len(data), len(self._trailer)
        self._wanted = 0
        while start < size:
            colon = data.find(self._mark, start, start + 12)
            digits = data[start : colon if colon >= 0 else start + 12]
            if not digits.isdigit():
                raise Garbled(f"no frame of this framing: {data[start : start + 40]!r}")
            if int(digits) > self.most:
                raise Garbled(f"a frame of {int(digits):,} bytes, and {self.most:,} are taken")
            if colon < 0:
                break
            end = colon + 1 + int(digits)
            if end + tail > size:
                self._wanted = end + tail - start
                break
            if data[end : end + tail] != self._trailer:
                raise Garbled(
                    f"a frame that does not end where it should: {data[end : end + 40]!r}"
                )
            frames.append(data[colon + 1 : end])
            start = end + tail
        self._kept = bytearray(data[start:])
        return frames

    def frame(self, payload: bytes) -> bytes:
        return b"%d%b%b%b" % (len(payload), self._mark, payload, self._trailer)

    def put(self, head: bytes, number: int | None, messages: Sequence[bytes]) -> bytes:
        mark, trailer = self._mark, self._trailer
        return b"".join(
            [
                b"%d%b%b%b" % (len(payload), mark, payload, trailer)
                for payload in _payloads(head, number, messages)
            ]
        )

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        """Do nothing: every message can be framed."""


class Netstrings(_Counted):
    """
    Framing by netstrings, C{5:hello,}.
    """

    _mark = b":"
    _trailer = b","


class Octets(_Counted):
    """
    Framing by octet counting, C{5 hello}, RFC 6587 section 3.4.1.
    """

    _mark = b" "
    _trailer = b""

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        if bare and not all(messages):
            place = list(messages).index(b"")
            raise Unsendable(f"message {place} is empty, which octet counting cannot say")


class _Ints:
    """
    Framing with a binary length in network byte order.
    """

    _header: int
    drops_mark = False  # its bytes may be a length

    def __init__(self) -> None:
        self.most = MAX_ANSWER
        self._kept = bytearray()
        self._wanted = 0

    @property
    def pending(self) -> bool:
        return bool(self._kept)

    def receive(self, data: bytes) -> list[bytes]:
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
        frames = []
        start, header = 0, self._header
        self._wanted = 0
        while len(data) - start >= header:
            begin = start + header
            length = int.from_bytes(data[start:begin], "big")
            if length > self.most:
                raise Garbled(f"a frame of {length:,} bytes, and {self.most:,} are taken")
            end = begin + length
            if end > len(data):
                self._wanted = end - start
                break
            frames.append(data[begin:end])
            start = end
        self._kept = bytearray(data[start:])
        return frames

    def frame(self, payload: bytes) -> bytes:
        return len(payload).to_bytes(self._header, "big") + payload

    def put(self, head: bytes, number: int | None, messages: Sequence[bytes]) -> bytes:
        header = self._header
        return b"".join(
            [
                len(payload).to_bytes(header, "big") + payload
                for payload in _payloads(head, number, messages)
            ]
        )

    def check(self, messages: Sequence[bytes], bare: bool) -> None:
        most = (1 << 8 * self._header) - 1 - (0 if bare else _HEAD)
        for place, message in enumerate(messages):
            if len(message) > most:
                raise Unsendable(f"message {place} is over {most:,} bytes: {_ANY_BYTES}")


class Int8s(_Ints):
    """
    Framing with a length of one byte, for bare messages.
    """

    _header = 1


class Int16s(_Ints):
    """
    Framing with a length of two bytes.
    """

    _header = 2


class Int32s(_Ints):
    """
    Framing with a length of four bytes.
    """

    _header = 4


WIRES: Final[dict[str, Callable[[], Wire]]] = {
    "line": Lines,
    "nul": Nuls,
    "delimited": Delimited,
    "netstring": Netstrings,
    "octet-counted": Octets,
    "int8": Int8s,
    "int16": Int16s,
    "int32": Int32s,
}


def check_delimiter(framing: str, dialect: str, delimiter: bytes | str | None) -> bytes | None:
    """
    Return the delimiter of a listener as bytes.

    @raise ValueError: there is none where one is needed, or the framing has none.
    """
    if framing == "int8" and dialect != "plain":
        raise ValueError("framing int8 is for dialect plain: it has no room for commands")
    if framing != "delimited":
        if delimiter is not None:
            raise ValueError("a delimiter is for framing delimited")
        return None
    octets = delimiter.encode() if isinstance(delimiter, str) else delimiter
    if not octets or len(octets) > MAX_DELIMITER:
        raise ValueError(f"framing delimited needs a delimiter of 1 to {MAX_DELIMITER} bytes")
    return octets


def make_wire(framing: str, delimiter: bytes | None) -> Wire:
    """
    Make a client's framing.

    @param framing: a key of L{WIRES}.
    @param delimiter: of C{delimited}; the others have none.
    """
    if framing == "delimited" and delimiter is not None:
        return Delimited(delimiter)
    return WIRES[framing]()
