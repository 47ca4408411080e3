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
from dataclasses import replace
from pathlib import Path

import msgspec

from gateway.commands.send.rotation import FilePosition
from gateway.model.errors import InputError


class Place(msgspec.Struct, frozen=True):
    """
    @ivar number: of the stream's last message before this place.
    @ivar line: number, within its file, of the line at this place.
    """

    number: int
    line: int
    mark: FilePosition

    def comes_after(self, other: Place) -> bool:
        """Compare places: True where messages are between, or this one is in the next file."""
        if self.number == other.number:
            truncated = other.mark.dead and not self.mark.dead
            return self.mark.inode != other.mark.inode or truncated
        return self.number > other.number

    def same(self, other: Place) -> bool:
        """Compare places: True for one inode and offset, also if the file was truncated between."""
        return (self.mark.inode, self.mark.offset) == (other.mark.inode, other.mark.offset)


class _Content(msgspec.Struct, frozen=True):
    stream: str
    file: str
    places: list[Place]
    done: list[FilePosition] = []
    waiting: list[FilePosition] = []


class Bookmark:
    """
    The places, oldest first.

    @ivar done: files that were read to their end, and how far that was: what is written to them
        late is not taken for something new.
    @ivar waiting: files that were seen and not begun: whether they are gone is to be said.
    """

    def __init__(self, path: Path, stream: str, file: Path) -> None:
        """
        @raise InputError: it cannot be read, or is of something else.
        """
        self.path = path
        self._stream = stream
        self._file = str(file)
        self.places: list[Place] = []
        self.done: list[FilePosition] = []
        self.waiting: list[FilePosition] = []
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
        self.done = content.done
        self.waiting = content.waiting

    def begun(self, place: Place) -> None:
        """A new file; to be called before its first message is sent."""
        # Its number was another one if a file before it is gone.
        kept = [
            other for other in self.places if not other.same(place) or other.number < place.number
        ]
        self.places = sorted([*kept, place], key=lambda one: one.number)
        self.save()

    def found(self, place: Place, again: Place) -> None:
        """A place was found again, perhaps in a copy, or is gone and has another number now."""
        self.places = [again if other is place else other for other in self.places]

    def grown(self, mark: FilePosition) -> None:
        """More is known of the first bytes of a file; to be called before that is sent."""
        for at in reversed(range(len(self.places))):
            place = self.places[at]
            if place.mark.inode == mark.inode:
                known = replace(place.mark, size=mark.size, digest=mark.digest)
                self.places[at] = msgspec.structs.replace(place, mark=known)
                self.save()
                return

    def cut(self, inode: int, rest: FilePosition | None) -> None:
        """
        A file was truncated: its places are not to be found in what it has from then on. Saved with
        the next L{save}: an earlier run may still have the file, before the gateway has answered.

        @param rest: a place in its copy, if there is one.
        """
        for at, place in enumerate(self.places):
            mark = place.mark
            if mark.inode != inode or mark.dead:
                continue
            if rest is None:
                mark = replace(mark, dead=True)
            else:
                mark = replace(mark, device=rest.device, inode=rest.inode, path=rest.path)
            self.places[at] = msgspec.structs.replace(place, mark=mark)

    def settled(self, place: Place) -> None:
        """Everything before this place has its answer. Saved with the next L{save}."""
        # Of the same number is the beginning of the next file.
        kept = [other for other in self.places if other.comes_after(place)]
        self.places = [place, *kept]

    def save(self) -> None:
        """
        @raise InputError: it cannot be written.
        """
        content = msgspec.json.encode(
            _Content(self._stream, self._file, self.places, self.done, self.waiting)
        )
        write_safely(self.path, content)


def write_safely(path: Path, content: bytes) -> None:
    """
    Have a small file hold this, or what it held before, whatever dies.

    @raise InputError: it cannot be written.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It may hold lines of what is sent: for its owner alone.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
