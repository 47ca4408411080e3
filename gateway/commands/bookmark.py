"""
Where a stream's numbers are in a followed file, over restarts and rotation.

A file that is read from its first line to its last needs nothing of the kind: there the
number of a message is that of its line. A followed name goes from file to file. So a small
JSON file says: so many numbers of the stream come before this byte of that file. A place in
a new file is on the disk before its first message is sent; those that were not needed any
more are forgotten. What the gateway has stored is the gateway's to say (HELLO); this only
tells where that is.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from gateway.commands.follow import Mark
from gateway.errors import InputError


class Place(msgspec.Struct, frozen=True):
    """
    @ivar number: of the stream's last message before this place.
    @ivar line: number, within its file, of the line at this place.
    """

    number: int
    line: int
    mark: Mark

    def same(self, other: Place) -> bool:
        """Whether both are one place; a mark knows more of its file as that grows."""
        return (self.number, self.mark.inode, self.mark.offset) == (
            other.number,
            other.mark.inode,
            other.mark.offset,
        )


class _Content(msgspec.Struct, frozen=True):
    stream: str
    file: str
    places: list[Place]


class Bookmark:
    """
    The places, oldest first.
    """

    def __init__(self, path: Path, stream: str, file: Path) -> None:
        """
        @raise InputError: it cannot be read, or is of something else.
        """
        self.path = path
        self._stream = stream
        self._file = str(file)
        self.places: list[Place] = []
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path}: cannot be read as a --state file: {error}") from None
        if (content.stream, content.file) != (stream, self._file):
            raise InputError(
                f"{path}: is of stream {content.stream} and {content.file},"
                f" not of {stream} and {file}; give this one a --state file of its own"
            )
        self.places = content.places

    def begun(self, place: Place) -> None:
        """A new file; to be called before its first message is sent."""
        kept = [other for other in self.places if not other.same(place)]
        self.places = sorted([*kept, place], key=lambda one: one.number)
        self.save()

    def settled(self, place: Place) -> None:
        """Everything before this place has its answer. Saved with the next L{save}."""
        self.places = [place, *(other for other in self.places if other.number > place.number)]

    def save(self) -> None:
        """
        @raise InputError: it cannot be written.
        """
        content = msgspec.json.encode(_Content(self._stream, self._file, self.places))
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
