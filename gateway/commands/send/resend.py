"""
Lines of a numbered stream that are sent again under new numbers.

A route that is not there, or not granted, refuses every message, and each refusal uses its
number up. The gateway is asked before the first message, but a configuration may change under
way. Such lines are not lost: the next run asks again what became of the last numbers, and puts
the lines that were refused so behind the stream's last message. From then on they stand there
in what is counted, in each run; so a small file beside the state keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.commands.send.bookmark import write_safely
from gateway.model.errors import InputError


class Insertion(msgspec.Struct, frozen=True):
    """
    Messages that come once more.

    @ivar number: of the stream's last message before them.
    @ivar numbers: that they were refused under.
    """

    number: int
    numbers: list[int]
    messages: list[bytes]


class _Content(msgspec.Struct, frozen=True):
    stream: str
    insertions: list[Insertion]


class Resend:
    """
    Messages of one stream that are sent again.
    """

    def __init__(self, path: Path, stream: str) -> None:
        """
        @raise InputError: it cannot be read, or is of something else.
        """
        self.path = path
        self._stream = stream
        self.insertions: list[Insertion] = []
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path}: cannot be read as lines to send again: {error}") from None
        if content.stream != stream:
            raise InputError(f"{path}: is of stream {content.stream}, not of {stream}")
        self.insertions = content.insertions

    @property
    def count(self) -> int:
        """Messages that are counted twice."""
        return sum(len(one.messages) for one in self.insertions)

    def check(self, last: int) -> None:
        """
        @param last: number of the stream, as the gateway says.
        @raise InputError: it was further before.
        """
        if self.insertions and self.insertions[-1].number > last:
            raise InputError(
                f"{self.path}: the stream had {self.insertions[-1].number:,} messages, and the"
                f" gateway has {last:,}: its database was set back; begin with a --stream of"
                " another name"
            )

    def is_known(self, number: int) -> bool:
        """Look up whether a message refused under this number is among those sent again."""
        return any(number in one.numbers for one in self.insertions)

    def add(self, number: int, refused: Sequence[tuple[int, bytes]]) -> None:
        """
        Have messages sent again; they are on the disk when this returns.

        @param number: of the stream's last message.
        @param refused: each with the number that it was refused under.
        @raise InputError: it cannot be written.
        """
        numbers = [one for one, _ in refused]
        fresh = Insertion(number, numbers, [message for _, message in refused])
        self.insertions = [*self.insertions, fresh]
        write_safely(self.path, msgspec.json.encode(_Content(self._stream, self.insertions)))
