"""
RELP, the protocol of rsyslog's omrelp and librelp: split a byte stream into its frames, and write
answers.

A frame is C{TXNR SP COMMAND SP DATALEN [SP DATA] LF}. A sender numbers its frames 1, 2, 3, ... over
a connection; its first is C{open}, which offers what it can do. Each frame is answered by one of
the same number, C{TXNR rsp DATALEN SP 200 OK LF}; 0 numbers hints, which nobody answers.

Strategy: nearly all frames are C{syslog} messages without an LF in them, and many come in one read.
Such a read is split at its LFs, and all its lengths and numbers are compared at once, at C speed;
anything else goes frame by frame. Numbers are checked here, so a message comes out as it is: who
reads the frames counts them. All other frames come out as L{Command}.

A message over the limit is skipped to its end and comes out as L{Oversized}, cut off at the limit.
It is not cut off sooner: a sender reads no answer while it still writes, and a connection that is
closed upon bytes that were not read is reset, which may take the answer with it. The sender would
then send the same message again, for ever.

@see: U{https://github.com/rsyslog/librelp/blob/master/doc/relp.md}
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from gateway.model.errors import FramingError
from gateway.wire.http import NO_TLS

SYSLOG: Final = b"syslog"
SERVER_CLOSE: Final = b"0 serverclose 0\n"
"""Hint that the server closes the connection; a sender then connects anew and sends again."""

MAX_NUMBER: Final = 999_999_999
"""The number after which 1 comes again."""

_HEADER: Final = re.compile(rb"([0-9]{1,9}) ([A-Za-z]{1,32}) ([0-9]{1,9})( |(?=\n))")
_BEGINNING: Final = re.compile(
    rb"[0-9]{0,9}|[0-9]{1,9} [A-Za-z]{0,32}|[0-9]{1,9} [A-Za-z]{1,32} [0-9]{0,9}"
)
"""What may become a header."""

_MAX_HEADER: Final = 9 + 1 + 32 + 1 + 9 + 1
_MAX_TEXT: Final = 80
"""Bytes of an answer's text, as the specification limits it."""


class Command(bytes):
    """
    A frame that is no message: C{TXNR SP COMMAND [SP DATA]}.

    A C{bytes}, so that a list of frames stays one of C{bytes}; a message is never of this class.
    """

    __slots__ = ()

    def split_up(self) -> tuple[int, bytes, bytes]:
        """Return number, command and data."""
        number, _, rest = self.partition(b" ")
        command, _, data = rest.partition(b" ")
        return int(number), command, data


class Oversized(bytes):
    """
    Beginning of a message that is over the limit, as long as the limit.
    """

    __slots__ = ()


def following(number: int, count: int = 1) -> int:
    """
    Return the number of the frame so many after another one.
    """
    return (number - 1 + count) % MAX_NUMBER + 1


class RelpFraming:
    """
    Frames of RELP: of a C{syslog} command the message, of others a L{Command}.

    Numbers must be 1, 2, 3, ..., as librelp checks them too; only hints have the number 0.
    """

    __slots__ = (
        *("_behind", "_kept", "_max_frame", "_number", "_skipping", "_wanted"),
        "more",
    )

    # A message that is too long is a frame of its own here.
    oversize = False
    has_nul = False
    kind = b"relp"

    def __init__(self, max_frame: int, max_chunk: int = 0) -> None:
        """
        @param max_frame: most data of a frame, in bytes.
        @param max_chunk: nothing: no frame holds others.
        """
        self._max_frame = max_frame
        self._kept = bytearray()
        # Number of the next frame.
        self._number = 1
        # Bytes that must be there before it is worth searching for a frame again.
        self._wanted = 0
        # Bytes still to come of a message that is too long; its beginning is kept.
        self._skipping = 0
        # Bytes with its end, as they came, while no frame is wanted.
        self._behind = b""
        self.more = False

    @property
    def pending(self) -> int:
        return len(self._kept) + len(self._behind)

    @property
    def unfinished(self) -> bool:
        return not self.more and (self._skipping > 0 or bool(self._kept))

    def forget(self) -> None:
        self._kept = bytearray()
        self._skipping = 0
        self._behind = b""
        self.more = False

    def frame(self, payload: bytes) -> bytes:
        return payload

    push = frame

    def receive(self, data: bytes, most: int = sys.maxsize) -> list[bytes]:
        frames: list[bytes] = []
        if self._behind:
            data = self._behind + data
            self._behind = b""
        if self._skipping:
            if most < 1 and len(data) >= self._skipping:
                # It would be a frame, and none is wanted yet.
                self._behind = data
                self.more = True
                return frames
            data = self._skip(data, frames)
            if not data:
                return frames
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return frames
            data = bytes(self._kept)
        self.more = False
        self._wanted = 0
        *lines, rest = data.split(b"\n", most - len(frames))
        messages = self._messages(lines)
        if messages is None:
            self._take(data, frames, most)
            return frames
        frames += messages
        self._number = following(self._number, len(messages))
        if len(frames) == most and b"\n" in rest:
            self._kept = bytearray(rest)
            self.more = True
        else:
            # It is less than a frame, but its header may be wrong, or say that it is too long.
            self._take(rest, frames, sys.maxsize)
        return frames

    def _messages(self, lines: Sequence[bytes]) -> Sequence[bytes] | None:
        """
        Return the messages of lines that are each one whole C{syslog} frame in the order of
        their numbers; C{None} where not all of them are.
        """
        if not lines:
            return ()
        try:
            numbers, commands, sizes, messages = zip(
                *[line.split(b" ", 3) for line in lines], strict=True
            )
        except ValueError:
            return None
        first, count = self._number, len(lines)
        if (
            commands.count(SYSLOG) == count
            and b"".join(numbers).isdigit()
            and b"".join(sizes).isdigit()
            and 0 < min(map(len, numbers)) <= max(map(len, numbers)) <= 9
            and 0 < min(map(len, sizes)) <= max(map(len, sizes)) <= 9
            and list(map(int, numbers)) == list(range(first, first + count))
            and first + count <= MAX_NUMBER
            and list(map(int, sizes)) == (lengths := list(map(len, messages)))
            and min(lengths) > 0
            and max(lengths) <= self._max_frame
        ):
            return messages
        return None

    def _take(self, data: bytes, frames: list[bytes], most: int) -> None:
        """
        Take frame by frame, and keep what is left.
        """
        match = _HEADER.match
        start, size = 0, len(data)
        while start < size:
            if len(frames) >= most:
                self.more = True
                break
            header = match(data, start)
            if header is None:
                self._check_beginning(data[start : start + _MAX_HEADER + 1], frames)
                break
            command = header[2]
            number, length = int(header[1]), int(header[3])
            self._check(number, command, length, header[4], frames)
            begin = header.end()
            end = begin + length
            if length > self._max_frame:
                if command != SYSLOG:
                    self._fail(f"{length} bytes, over the limit of {self._max_frame}", frames)
                self._skipping = length + 1
                self._kept = bytearray()
                data = self._skip(data[begin:], frames)
                if self._skipping:
                    return
                start, size = 0, len(data)
                continue
            if end >= size:
                self._wanted = end + 1 - start
                break
            if data[end] != 10:
                self._fail(f"{data[end : end + 1]!r} where an LF should end the frame", frames)
            if command == SYSLOG:
                frames.append(data[begin:end])
            else:
                frames.append(Command(b"%d %b %b" % (number, command, data[begin:end])))
            if number:
                self._number = following(number)
            start = end + 1
        self._kept = bytearray(data[start:])

    def _skip(self, data: bytes, frames: list[bytes]) -> bytes:
        """
        Skip a message that is too long.

        @return: what is behind it.
        """
        left = self._skipping
        self._kept += data[: min(left - 1, self._max_frame - len(self._kept))]
        self._skipping = max(0, left - len(data))
        if self._skipping:
            return b""
        if data[left - 1] != 10:
            self._fail(f"{data[left - 1 : left]!r} where an LF should end the frame", frames)
        self._number = following(self._number)
        frames.append(Oversized(self._kept))
        self._kept = bytearray()
        return data[left:]

    def _check(
        self, number: int, command: bytes, length: int, separator: bytes, frames: list[bytes]
    ) -> None:
        """
        Raise unless a header is what may come now.
        """
        if number != self._number and (number or command == SYSLOG):
            self._fail(f"frame {number} where frame {self._number} should come", frames)
        if bool(length) != bool(separator):
            self._fail(f"a length of {length}, and then {separator or b'LF'!r}", frames)

    def _check_beginning(self, data: bytes, frames: list[bytes]) -> None:
        """
        Raise unless bytes can still be the beginning of a header.
        """
        if data.startswith(b"\x16") and self._number == 1:
            self._fail(NO_TLS, frames)
        if not _BEGINNING.fullmatch(data):
            self._fail(f"{data[:40]!r} where a frame should begin", frames)

    def _fail(self, text: str, frames: list[bytes]) -> NoReturn:
        # Bytes behind a fault are never read.
        self.forget()
        raise FramingError(f"RELP: {text}", frames)


def stored(first: int, count: int) -> bytes:
    """
    Write the answers that so many messages are stored.

    @param first: number of the first one.
    """
    last = first + count
    numbers: Sequence[int] = range(first, last)
    if last > MAX_NUMBER:
        numbers = [following(first, place) for place in range(count)]
    return b"".join([b"%d rsp 6 200 OK\n" % number for number in numbers])


def refused(number: int, text: str) -> bytes:
    """
    Write the answer that a frame is refused. A sender drops the message.

    @param text: why, for people; what is over 80 bytes is cut off.
    """
    reason = b"500 " + re.sub(r"[^\x20-\x7e]", "?", text).encode()[:_MAX_TEXT]
    return b"%d rsp %d %b\n" % (number, len(reason), reason)


def closed(number: int) -> bytes:
    """
    Write the answer to C{close}: without data, as librelp's server does it and some senders demand.
    """
    return b"%d rsp 0\n%b" % (number, SERVER_CLOSE)


def opened(number: int, version: int) -> bytes:
    """
    Write the answer to C{open}.

    @param version: of the protocol, for the session.
    """
    data = b"200 OK\nrelp_version=%d\nrelp_software=gateway\ncommands=syslog" % version
    return b"%d rsp %d %b\n" % (number, len(data), data)


def offers(data: bytes) -> Mapping[bytes, Sequence[bytes]]:
    """
    Return what the sender offers in its C{open}: name -> values.
    """
    found = {}
    for line in data.split(b"\n"):
        name, _, values = line.partition(b"=")
        if name:
            found[name] = [value for value in values.split(b",") if value]
    return found


def agreed(data: bytes) -> int | str:
    """
    Choose the protocol's version for a session.

    @param data: of C{open}.
    @return: 0 or 1, as librelp and the specification call the same; or why there can be no session.
    """
    offered = offers(data)
    if SYSLOG not in offered.get(b"commands", ()):
        return "the sender does not offer the command syslog"
    versions = offered.get(b"relp_version", (b"0",))
    if not versions or not versions[0].isdigit():
        return "relp_version is no number"
    return min(1, int(versions[0][:9]))
