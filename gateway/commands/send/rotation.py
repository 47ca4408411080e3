"""
Find a followed file again after its name was rotated.

Strategy: neither the inode nor the first bytes identify a file. The inode number of a removed file
is reused, a copy has another one, and devices write the same header into each of their files. So a
L{FilePosition} has the inode, the first bytes, and the bytes before the place. The file with these
bytes and the inode is the one that was being sent; the device's number does not count, since
network file systems change it with each mount. Another file with the bytes is a copy. Where an
older copy continues with other bytes than the file itself, the file was truncated after the copy.
All bytes sent of the first L{HEAD} are covered, so that a file that begins alike has the same lines
there.

One case cannot be detected: a file without a copy that was truncated and has grown beyond the
place, with the same bytes before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

HEAD: Final = 4096
"""Bytes from the beginning by which a file is known again: more than a header, and one read."""

TRAIL: Final = 4096
"""Bytes before a place by which it is known again: some dozen lines, for one read of a disk."""

_ROTATED: Final = re.compile(r"[._-][0-9][0-9T:._-]*")
"""Suffix that logrotate and its like append to a name: C{.1}, C{-20260131}; not C{.gz}."""

_COMPRESSED: Final = re.compile(r"[._-][0-9][0-9T:._-]*\.(gz|bz2|xz|zst|lz4|Z|zip)")

_COUNTED: Final = re.compile(r"\.([0-9]{1,4})")
"""A number that counts rotations: the larger, the older."""

_DATED: Final = re.compile(
    r"[._-]((?:19|20)[0-9]{2}[._-]?(?:0[1-9]|1[0-2])(?:[._-]?[0-3][0-9](?:[0-9]{2,6})?)?"
    r"|1[0-9]{9})(?![0-9]).*"
)
"""A date, the year first, perhaps with a time or a counter behind it: the larger, the newer."""


@dataclass(frozen=True, slots=True)
class FilePosition:
    """
    Position in a file that can be found again after its name was rotated away.

    @ivar size: number of first bytes that C{digest} covers.
    @ivar before: number of bytes before C{offset} that C{trail} covers.
    @ivar trail: digest of the last bytes; C{""} if an earlier version wrote the position.
    @ivar end: size of the file when last seen; C{changed}: its last change, in nanoseconds.
    @ivar path: its path, with links resolved.
    @ivar dead: whether it was truncated after that: the position fits no file any more.
    """

    device: int
    inode: int
    size: int
    digest: str
    offset: int
    before: int = 0
    trail: str = ""
    end: int = 0
    changed: int = 0
    path: str = ""
    dead: bool = False

    @property
    def early(self) -> bool:
        """True if an earlier version wrote it, which recognized a file by its first bytes alone."""
        return not self.trail

    def fits(self, file: int, status: os.stat_result) -> bool:
        """Say whether an open file, moved or copied, has the bytes of this position."""
        if self.dead or status.st_size < max(self.offset, self.size):
            return False
        if digest(os.pread(file, self.size, 0)) != self.digest:
            return False
        trail = os.pread(file, self.before, self.offset - self.before)
        return self.early or digest(trail) == self.trail

    def is_untouched(self, status: os.stat_result) -> bool:
        """Say whether the file has the same size and time of change as when it was last seen."""
        size = max(self.offset, self.end)
        return (status.st_size, status.st_mtime_ns) == (size, self.changed)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """
    Open file; C{file} is -1 where it was closed again.

    @ivar own: whether it has the inode searched for.
    @ivar named: whether it has the followed name itself.
    """

    file: int
    path: Path
    stat: os.stat_result
    own: bool = False
    named: bool = False

    def close(self) -> None:
        """Close it, where it is open."""
        if self.file >= 0:
            os.close(self.file)

    @property
    def key(self) -> tuple[int, int]:
        return self.stat.st_dev, self.stat.st_ino

    @property
    def changed_at(self) -> int:
        """Time of the last change, in nanoseconds."""
        return self.stat.st_mtime_ns


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def find(
    path: Path,
    mark: FilePosition,
    tell: Callable[[str], None],
    known: Sequence[FoundFile] = (),
    renamed: bool = False,
    others: Sequence[FilePosition] = (),
    later: Sequence[FilePosition] = (),
    copied: bool = True,
) -> FoundFile | None:
    """
    Find the file of a position, under a name and in the same folders.

    @param known: open files that may have no name any more; this function closes those that it does
        not return.
    @param renamed: whether another file has had the name since: then no file with the name is a
        copy.
    @param others: positions in other known files, which are no copies of it.
    @param later: positions among them of files that came after this one, as no copy of it did.
    @param copied: whether a copy may be returned.
    @return: the open file; C{None} where it is gone.
    """
    own: list[FoundFile] = []
    copies: list[FoundFile] = []
    after: list[FoundFile] = []
    bases = [name.name for name in _candidate_names(path, mark)]
    beside = _open_beside(path, mark, tell)
    for found_file in chain(known, beside):
        fits = mark.fits(found_file.file, found_file.stat)
        if fits and found_file.own:
            own.append(found_file)
        elif fits and copied and _may_be_copy(found_file, mark, renamed, others):
            copies.append(found_file)
        elif copied and not found_file.named and _is_other(found_file, mark, later):
            after.append(found_file)
        else:
            os.close(found_file.file)
    older = in_order([*copies, *after], bases)
    first = next((at for at, one in enumerate(older) if one in after), len(older))
    best = _best(own, older[:first], mark, bases)
    for found_file in (*own, *copies, *after):
        if found_file is not best:
            os.close(found_file.file)
    return best


def _best(
    own: Sequence[FoundFile], copies: Sequence[FoundFile], mark: FilePosition, bases: Sequence[str]
) -> FoundFile | None:
    if not own:
        return copies[0] if copies else None
    first = own[0]
    for copy in copies:
        # The file was copied and truncated if it lacks the bytes of an older copy.
        longer = copy.stat.st_size > mark.offset and not copy.named and copy.key != first.key
        older = in_order([first, copy], bases)[0] is copy
        if longer and older and not _begins_with(first, copy):
            return copy
    return first


def in_order(found_files: Sequence[FoundFile], bases: Sequence[str]) -> list[FoundFile]:
    """
    Sort files of one log, the oldest first: by the numbers or dates in their names, which late
    writes do not change; by their last changes between names of two kinds, or of an unknown kind.
    """
    kinds: dict[object, list[tuple[tuple[int, ...], FoundFile]]] = {}
    for one in found_files:
        if one.named:
            continue  # the newest of all
        kind, order = _rank(one, bases)
        kinds.setdefault(kind, []).append((order, one))
    ages: list[tuple[int, int, FoundFile]] = []
    for files in kinds.values():
        files.sort(key=lambda file: (file[0], file[1].changed_at, file[1].path.name))
        # Ages within a kind must not fall: a file older by name may have been written to late.
        changed = files[-1][1].changed_at
        for at in reversed(range(len(files))):
            changed = min(changed, files[at][1].changed_at)
            ages.append((changed, at, files[at][1]))
    ages.sort(key=lambda age: (age[0], age[1], age[2].path.name))
    return [*(one for *_, one in ages), *(one for one in found_files if one.named)]


def _rank(one: FoundFile, bases: Sequence[str]) -> tuple[object, tuple[int, ...]]:
    """
    Return the kind of a file's name, and its sort key among names of that kind.
    """
    name = one.path.name
    for base in bases:
        added = _added(name, base)
        if added and (counted := _COUNTED.fullmatch(added)):
            return (one.path.parent, "counted"), (-int(counted[1]),)
        if added and (dated := _DATED.fullmatch(added)):
            # Only dates that are written in one way compare.
            shape = re.sub("[0-9]", "0", dated[1])
            return (one.path.parent, base, shape), tuple(map(int, re.findall("[0-9]+", added)))
    return "unknown", ()


def _may_be_copy(
    found_file: FoundFile, mark: FilePosition, renamed: bool, others: Sequence[FilePosition]
) -> bool:
    """
    Say whether a file with the bytes of a position, but another inode, may be a copy: it has
    everything that was written until it was made.
    """
    if not mark.size or found_file.changed_at < mark.changed or _is_other(found_file, mark, others):
        return False
    return not (found_file.named and (mark.early or renamed))


def _is_other(found_file: FoundFile, mark: FilePosition, others: Sequence[FilePosition]) -> bool:
    """
    Say whether a file is one of C{others}, by its inode, or by more bytes than C{mark} covers.
    """
    known = max(mark.size, mark.offset)
    return any(
        (other.inode == found_file.stat.st_ino or max(other.size, other.offset) > known)
        and other.fits(found_file.file, found_file.stat)
        for other in others
    )


def _begins_with(longer: FoundFile, shorter: FoundFile) -> bool:
    size = shorter.stat.st_size
    if longer.stat.st_size < size:
        return False
    start = max(0, size - TRAIL)
    count = size - start
    return os.pread(longer.file, count, start) == os.pread(shorter.file, count, start)


def rotated(
    path: Path,
    mark: FilePosition | None,
    tell: Callable[[str], None],
    done: Sequence[FilePosition] = (),
) -> tuple[list[FoundFile], list[FoundFile]]:
    """
    Open the rotated files of a name, without the file that has the name.

    @param done: ends of files; those unchanged since are returned closed: there may be more than a
        process can have open.
    @return: rotated files, oldest first; and files whose names begin with the name in an unknown
        way.
    """
    bases = [name.name for name in _candidate_names(path, mark)]
    ends = {end.inode: end for end in done}
    known, unknown = [], []
    for one in _open_beside(path, mark, tell):
        name = one.path.name
        if one.named or any(_matches(_COMPRESSED, name, base) for base in bases):
            os.close(one.file)
            continue
        end = ends.get(one.key[1])
        if end is not None and end.is_untouched(one.stat):
            os.close(one.file)
            one = replace(one, file=-1)
        if any(_matches(_ROTATED, name, base) for base in bases):
            known.append(one)
        else:
            unknown.append(one)
    return in_order(known, bases), unknown


def mark_rotated(path: Path, known: set[tuple[int, int]]) -> list[FilePosition]:
    """
    Return the current ends of the files beside a name, without those in C{known}.
    """
    marks = []
    for one in _open_beside(path, None, lambda text: None):
        if not one.named and one.key not in known:
            marks.append(mark_end(one))
        os.close(one.file)
    return marks


def inodes_beside(path: Path) -> set[int] | None:
    """
    Return the inodes in the folders of a name and of its link's target; C{None} where a folder
    cannot be read.
    """
    inodes = set()
    for folder in {one.parent for one in _candidate_names(path, None)}:
        try:
            inodes |= {entry.inode() for entry in os.scandir(folder)}
        except OSError:
            return None
    return inodes


def keys_of(path: Path) -> set[tuple[int, int]]:
    """
    Return device and inode of what has a name now; nothing where nothing has it.
    """
    with contextlib.suppress(OSError):
        there = path.stat()
        return {(there.st_dev, there.st_ino)}
    return set()


def has_path(mark: FilePosition) -> bool:
    """Say whether a file still has its path."""
    with contextlib.suppress(OSError):
        return Path(mark.path).stat().st_ino == mark.inode
    return False


def mark_end(one: FoundFile) -> FilePosition:
    """Return the current end of a file."""
    size = one.stat.st_size
    head, trail = os.pread(one.file, HEAD, 0), os.pread(one.file, TRAIL, max(0, size - TRAIL))
    return FilePosition(
        *one.key,
        size=len(head),
        digest=digest(head),
        offset=size,
        before=len(trail),
        trail=digest(trail),
        end=size,
        changed=one.changed_at,
        path=str(one.path),
    )


def compressed(path: Path, mark: FilePosition) -> list[str]:
    """
    Return the names of compressed files beside that were changed after the position was taken.
    """
    names = set()
    for folder, name in {(one.parent, one.name) for one in _candidate_names(path, mark)}:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if _matches(_COMPRESSED, entry.name, name) and (
                    entry.stat().st_mtime_ns >= mark.changed
                ):
                    names.add(entry.name)
    return sorted(names)


def count_lines(file: int, end: int) -> int:
    """Count the lines that end before an offset."""
    count = at = 0
    while at < end and (data := os.pread(file, min(1 << 20, end - at), at)):
        count += data.count(b"\n")
        at += len(data)
    return count


def hole(file: int) -> int:
    """
    Return the number of NUL bytes at the beginning of a file: it was truncated while its writer
    goes on at the old offset.
    """
    if os.pread(file, 1, 0) != b"\0":
        return 0
    try:
        at = os.lseek(file, 0, os.SEEK_DATA)
    except OSError:
        at = 0
    while data := os.pread(file, 1 << 16, at):
        rest = data.lstrip(b"\0")
        if rest:
            return at + len(data) - len(rest)
        at += len(data)
    return at


def _candidate_names(path: Path, mark: FilePosition | None) -> list[Path]:
    """
    Return a name, the current target of its link, and the former one.
    """
    names = [path, Path(os.path.realpath(path))]
    if mark is not None and mark.path:
        names.append(Path(mark.path))
    return list(dict.fromkeys(names))


def _matches(pattern: re.Pattern[str], name: str, base: str) -> bool:
    """
    Say whether a name is C{base} with a match of the pattern behind it, or a date before its
    extension.
    """
    if name.startswith(base):
        return pattern.fullmatch(name.removeprefix(base)) is not None
    middle = _added(name, base)
    return pattern is _ROTATED and re.fullmatch(r"[._-][0-9T:._-]{6,}", middle) is not None


def _added(name: str, base: str) -> str:
    """Return what a name has in addition to C{base}, behind it or before its extension."""
    if name.startswith(base):
        return name.removeprefix(base)
    stem, dot, extension = base.rpartition(".")
    if not stem or not name.startswith(stem) or not name.endswith(dot + extension):
        return ""
    return name[len(stem) : -len(dot + extension)]


def _open_beside(
    path: Path, mark: FilePosition | None, tell: Callable[[str], None]
) -> Iterator[FoundFile]:
    """
    Open all possible files of a name, the name itself first, each file once.
    """
    names = _candidate_names(path, mark)
    known: set[tuple[int, int]] = set()
    for place in (*names, *_beside(names, mark)):
        try:
            there = place.stat()
            if not stat.S_ISREG(there.st_mode):
                continue
            file = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            tell(f"{place}: {error.strerror}; it may be what is looked for")
            continue
        there = os.fstat(file)
        if (there.st_dev, there.st_ino) in known:
            os.close(file)
            continue
        known.add((there.st_dev, there.st_ino))
        # The former target of a link no longer has the followed name.
        named = place in (path, Path(os.path.realpath(path)))
        own = mark is not None and there.st_ino == mark.inode
        yield FoundFile(file, place, there, own, named)


def _beside(names: Sequence[Path], mark: FilePosition | None) -> list[Path]:
    paths = []
    for folder, base in {(one.parent, one.name) for one in names}:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if (
                    entry.name.startswith(base)
                    or (mark is not None and entry.inode() == mark.inode)
                    or _matches(_ROTATED, entry.name, base)
                ):
                    paths.append(folder / entry.name)
    return sorted(set(paths) - set(names))
