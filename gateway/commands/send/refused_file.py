"""
File of refused messages, written by C{gateway send --refused}.

Strategy: one JSON object a line, with the answer and the exact message, so that people and programs
can read it and it can be sent again (C{--input refused}). A line is appended by one write, so that
a killed sender leaves a readable file.
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

_MessageKey = int | tuple[str, int]
"""Key of a message: its number in its stream, or its line where it has none."""


class RefusedMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Line of the file.

    @ivar file: input of the message.
    @ivar line: line number there, from 1.
    @ivar answer: answer of the gateway, unchanged.
    @ivar stream: its stream, if any.
    @ivar number: number in the stream.
    @ivar message: its text, where it is UTF-8.
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
        """Return the message, byte for byte."""
        if self.base64 is not None:
            return base64.b64decode(self.base64, validate=True)
        return (self.message or "").encode()


def refusal(
    message: bytes, answer: bytes, file: str, line: int, stream: str = "", number: int = 0
) -> RefusedMessage:
    """
    Return the line for a refused message.
    """
    text = answer.decode("utf-8", "replace")
    try:
        return RefusedMessage(file, line, text, stream, number, message=message.decode())
    except UnicodeDecodeError:
        encoded = base64.b64encode(message).decode()
        return RefusedMessage(file, line, text, stream, number, base64=encoded)


class RefusedFile:
    """
    File of refusals; those of a stream are written once for each message, also over several runs.
    """

    def __init__(self, name: str, stream: str = "") -> None:
        """
        @raise InputError: it cannot be opened or written.
        """
        try:
            self._file = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._written = self._keys(stream) if stream else frozenset()
        except OSError as error:
            raise InputError(f"{name}: cannot be written: {error.strerror}") from None
        self._name = name

    def write(self, refusals: Iterable[RefusedMessage]) -> None:
        """
        Append refusals.

        @raise InputError: they could not be written.
        """
        lines = [
            msgspec.json.encode(entry)
            for entry in refusals
            if not entry.stream or _key_of_entry(entry) not in self._written
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

    def _keys(self, stream: str) -> frozenset[_MessageKey]:
        # Answers that a killed sender did not read come again: those of the stream's last window,
        # which is well within the end of the file.
        size = os.fstat(self._file).st_size
        start = max(0, size - _TAIL)
        data = os.pread(self._file, _TAIL, start)
        if data and not data.endswith(b"\n"):
            os.write(self._file, b"\n")  # half a line: its writer was killed, or the disk was full
        keys = set()
        for line in data.split(b"\n"):
            try:
                entry = msgspec.json.decode(line, type=RefusedMessage)
            except msgspec.DecodeError:
                continue
            if entry.stream == stream:
                keys.add(_key_of_entry(entry))
        return frozenset(keys)


def _key_of_entry(entry: RefusedMessage) -> _MessageKey:
    return entry.number or (entry.file, entry.line)
