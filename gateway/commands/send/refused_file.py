"""
The file of refused messages that C{gateway send --refused} writes.

Strategy: one JSON object a line, with the answer and the very message, so that it can be
read by people and programs and sent again (C{--input refused}). A line goes out whole, by
one write at the end of the file: what a killed sender leaves can still be read.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.model.errors import InputError

_TAIL: Final = 1 << 22
"""Bytes of an old file that are searched for what was written already."""

_Key = int | tuple[str, int]
"""What a message of a stream is known by: its number, or its line where it has none."""


class RefusedMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One line of the file.

    @ivar file: the input that the message came from.
    @ivar line: its number there, from 1.
    @ivar answer: the gateway's, as it came.
    @ivar stream: the stream it was sent in.
    @ivar number: its number there.
    @ivar message: as text, where it is UTF-8.
    @ivar base64: its bytes, where it is not.
    """

    file: str
    line: int
    answer: str
    stream: str = ""
    number: int = 0
    message: str | None = None
    base64: str | None = None

    def payload(self) -> bytes:
        """The message, byte for byte."""
        if self.base64 is not None:
            return base64.b64decode(self.base64, validate=True)
        return (self.message or "").encode()


def refusal(
    message: bytes, answer: bytes, file: str, line: int, stream: str = "", number: int = 0
) -> RefusedMessage:
    """
    What to write of a message that was refused.
    """
    text = answer.decode("utf-8", "replace")
    try:
        return RefusedMessage(file, line, text, stream, number, message=message.decode())
    except UnicodeDecodeError:
        encoded = base64.b64encode(message).decode()
        return RefusedMessage(file, line, text, stream, number, base64=encoded)


class RefusedFile:
    """
    Takes refusals; those of a stream once for each message, also over several runs.
    """

    def __init__(self, name: str, stream: str = "") -> None:
        """
        @raise InputError: it cannot be written.
        """
        try:
            self._file = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._written = self._keys(stream) if stream else frozenset()
        except OSError as error:
            raise InputError(f"{name}: cannot be written: {error.strerror}") from None
        self._name = name

    def write(self, refusals: Iterable[RefusedMessage]) -> None:
        """
        @raise InputError: it could not be written.
        """
        lines = [
            msgspec.json.encode(entry)
            for entry in refusals
            if not entry.stream or _key(entry) not in self._written
        ]
        if not lines:
            return
        data = b"\n".join(lines) + b"\n"
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise InputError(f"{self._name}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._file)

    def _keys(self, stream: str) -> frozenset[_Key]:
        # What was answered but not read when a sender was killed is answered again: the last
        # window of the stream, which is well within the end of the file.
        size = os.fstat(self._file).st_size
        start = max(0, size - _TAIL)
        data = os.pread(self._file, _TAIL, start)
        if data and not data.endswith(b"\n"):
            os.write(self._file, b"\n")  # half a line: its writer was killed, or the disk was full
        found = set()
        for line in data.split(b"\n"):
            try:
                entry = msgspec.json.decode(line, type=RefusedMessage)
            except msgspec.DecodeError:
                continue
            if entry.stream == stream:
                found.add(_key(entry))
        return frozenset(found)


def _key(entry: RefusedMessage) -> _Key:
    return entry.number or (entry.file, entry.line)
