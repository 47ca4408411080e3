"""
Messages of a numbered stream that are sent again under new numbers.

A route that is missing, or not granted, refuses every message, and each refusal uses up its number.
The route is checked before the first message, but its configuration may change during a run. Such
messages are not lost: the next run gets the answers to the last numbers again, and sends the
messages that were refused for that reason behind the stream's last message. From then on every run
counts them at that place; so a small file beside the state keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.commands.send.bookmark import write_safely
from gateway.model.errors import InputError


class Insertion(msgspec.Struct, frozen=True):
    """
    Messages that are sent once more.

    @ivar number: number of the stream's last message before them.
    @ivar numbers: numbers under which they were refused.
    """

    number: int
    numbers: list[int]
    messages: list[bytes]


class _ResendContent(msgspec.Struct, frozen=True):
    stream: str
    insertions: list[Insertion]


class Resend:
    """
    Messages of one stream that are sent again, in a file.
    """

    def __init__(self, path: Path, stream: str) -> None:
        """
        @raise InputError: it cannot be read, or belongs to another stream.
        """
        self.path = path
        self._stream = stream
        self.insertions: list[Insertion] = []
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_ResendContent)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path}: cannot be read as lines to send again: {error}") from None
        if content.stream != stream:
            raise InputError(f"{path}: is of stream {content.stream}, not of {stream}")
        self.insertions = content.insertions

    @property
    def count(self) -> int:
        """Number of messages that are in the stream twice."""
        return sum(len(one.messages) for one in self.insertions)

    def check(self, last: int) -> None:
        """
        Check the file against the gateway.

        @param last: last number of the stream, from the gateway.
        @raise InputError: the stream was further before.
        """
        if self.insertions and self.insertions[-1].number > last:
            raise InputError(
                f"{self.path}: the stream had {self.insertions[-1].number:,} messages, and the"
                f" gateway has {last:,}: its database was set back; begin with a --stream of"
                " another name"
            )

    def is_known(self, number: int) -> bool:
        """Say whether a message refused under this number is among those sent again."""
        return any(number in one.numbers for one in self.insertions)

    def add(self, number: int, refused: Sequence[tuple[int, bytes]]) -> None:
        """
        Add messages; they are on disk when this returns.

        @param number: number of the stream's last message.
        @param refused: (number under which it was refused, message) of each.
        @raise InputError: it cannot be written.
        """
        numbers = [one for one, _ in refused]
        fresh = Insertion(number, numbers, [message for _, message in refused])
        self.insertions = [*self.insertions, fresh]
        write_safely(self.path, msgspec.json.encode(_ResendContent(self._stream, self.insertions)))
