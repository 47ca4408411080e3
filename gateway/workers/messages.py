"""
Messages between the parent and a worker, and their frames.

A frame is its length in four bytes, big-endian, and a message in MessagePack. A message says how
many descriptors belong to it; they come with its first byte.

Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

MAX_FRAME: Final = 256 * 1024 * 1024
"""Bytes of a frame; a configuration with a hundred thousand tokens has some 30 MiB."""

_LENGTH: Final = struct.Struct(">I")


class Ask(Struct, frozen=True, tag=1, array_like=True):
    """
    Question, which is answered by an L{Answer} of its number.

    @ivar name: what is asked for.
    @ivar descriptors: number of descriptors that come with it.
    """

    number: int
    name: str
    payload: bytes
    descriptors: int = 0


class Answer(Struct, frozen=True, tag=2, array_like=True):
    """
    Answer to an L{Ask}.

    @ivar fault: why there is none; C{None}: there is one.
    """

    number: int
    payload: bytes
    fault: str | None = None


class Push(Struct, frozen=True, tag=3, array_like=True):
    """
    Message that is not answered.
    """

    name: str
    payload: bytes = b""


class Passed(Struct, frozen=True, tag=4, array_like=True):
    """
    Connection that the parent has accepted; its descriptor comes with it.

    @ivar number: of the connection, unique in the parent.
    @ivar family: of its socket's address.
    @ivar refusal: limit of connections that it exceeds, for its peer; C{""}: none.
    """

    number: int
    listener: str
    family: int
    refusal: str = ""
    descriptors: int = 1


class Taken(Struct, frozen=True, tag=5, array_like=True):
    """
    Note that a connection is the worker's from now on, sent before anything is read from it.
    """

    number: int


class Ended(Struct, frozen=True, tag=6, array_like=True):
    """
    Note that connections of a worker are closed.
    """

    numbers: list[int]


RESERVE: Final = "reserve"
"""Name of the question to count a connection by another address: L{Reserved}."""


class Reserved(Struct, frozen=True, array_like=True):
    """
    Connection for whose peer a proxy speaks.

    @ivar number: of the connection.
    @ivar site: address, or network, that limits count by, as text.
    """

    number: int
    listener: str
    site: str


Message = Ask | Answer | Push | Passed | Taken | Ended

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Message).decode


def frame_of(message: Message) -> bytes:
    """Return the frame of a message."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


def descriptors_of(message: Message) -> int:
    """Return how many descriptors belong to a message."""
    return message.descriptors if isinstance(message, Ask | Passed) else 0


class FrameReader:
    """
    Reader of frames from a byte stream.
    """

    def __init__(self) -> None:
        self._data = bytearray()

    def receive(self, data: bytes) -> Iterator[Message]:
        """
        Yield the messages that are complete now.

        @raise ValueError: it is no frame of ours.
        """
        buffer = self._data
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length > MAX_FRAME:
                    raise ValueError(f"a frame of {length} bytes")
                end = start + _LENGTH.size + length
                if len(buffer) < end:
                    break
                body = bytes(buffer[start + _LENGTH.size : end])
                start = end
                yield _decode(body)
        finally:
            del buffer[:start]
