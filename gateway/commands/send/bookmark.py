"""
Bookmark of a stream in a followed file, over restarts and rotation.

A file that is read from its first line to its last needs no bookmark: there the number of a message
is that of its line. A followed name goes from file to file. So a small JSON file holds places: this
many numbers of the stream come before this byte of this file. A place in a new file is on disk
before its first message is sent; places no longer needed are removed. How much the gateway has
stored, it says itself (HELLO); the bookmark only says where in the files that is.
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
    Place in a file, with the number of the stream there.

    @ivar number: number of the stream's last message before this place.
    @ivar line: line number in its file.
    """

    number: int
    line: int
    mark: FilePosition

    def comes_after(self, other: Place) -> bool:
        """Say whether messages lie between the places, or this one is in the next file."""
        if self.number == other.number:
            truncated = other.mark.dead and not self.mark.dead
            return self.mark.inode != other.mark.inode or truncated
        return self.number > other.number

    def same(self, other: Place) -> bool:
        """
        Say whether both are at one offset of one inode, also if the file was truncated between.
        """
        return (self.mark.inode, self.mark.offset) == (other.mark.inode, other.mark.offset)


class _BookmarkContent(msgspec.Struct, frozen=True):
    stream: str
    file: str
    places: list[Place]
    done: list[FilePosition] = []
    waiting: list[FilePosition] = []


class Bookmark:
    """
    Places of a stream, oldest first, in a file.

    @ivar done: ends of files that were read completely: what is written to them later is not sent
        as new.
    @ivar waiting: files that were seen and not begun, so that their loss can be reported.
    """

    def __init__(self, path: Path, stream: str, file: Path) -> None:
        """
        @raise InputError: the file cannot be read, or belongs to another stream or file.
        """
        self.path = path
        self._stream = stream
        self._file = str(file)
        self.places: list[Place] = []
        self.done: list[FilePosition] = []
        self.waiting: list[FilePosition] = []
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_BookmarkContent)
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

    def add_place(self, place: Place) -> None:
        """Add the place of a new file; call this before its first message is sent."""
        # The place had another number if a file before it was lost.
        kept = [
            other for other in self.places if not other.same(place) or other.number < place.number
        ]
        self.places = sorted([*kept, place], key=lambda one: one.number)
        self.save()

    def replace_place(self, place: Place, again: Place) -> None:
        """
        Replace a place that was found again, perhaps in a copy, or that is gone and has another
        number now.
        """
        self.places = [again if other is place else other for other in self.places]

    def grown(self, mark: FilePosition) -> None:
        """Keep more of the first bytes of a file; call this before they are sent."""
        for at in reversed(range(len(self.places))):
            place = self.places[at]
            if place.mark.inode == mark.inode:
                known = replace(place.mark, size=mark.size, digest=mark.digest)
                self.places[at] = msgspec.structs.replace(place, mark=known)
                self.save()
                return

    def cut(self, inode: int, rest: FilePosition | None) -> None:
        """
        Note that a file was truncated: its old places must not be found in its new content. Saved
        with the next L{save}: an earlier run may still have the file open, before the gateway has
        answered.

        @param rest: place in its copy, if there is one.
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

    def remove_before(self, place: Place) -> None:
        """
        Remove the places before this one, since all messages before it are answered. Saved with the
        next L{save}.
        """
        # The beginning of the next file has the same number, and is kept.
        kept = [other for other in self.places if other.comes_after(place)]
        self.places = [place, *kept]

    def save(self) -> None:
        """
        Write the file.

        @raise InputError: it cannot be written.
        """
        content = msgspec.json.encode(
            _BookmarkContent(self._stream, self._file, self.places, self.done, self.waiting)
        )
        write_safely(self.path, content)


def write_safely(path: Path, content: bytes) -> None:
    """
    Replace a small file so that it has the old or the new content after any crash.

    @raise InputError: it cannot be written.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It may hold messages, so only its owner may read it.
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
