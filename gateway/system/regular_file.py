"""
Regular files: reading them safely, and checks of the gateway's own files and folders.

Opening a named pipe waits for a writer, and a device may never end: either would
block the whole gateway, which reads its files again while peers wait.

The gateway writes its own files, maybe as root, so it checks them before it uses them: anybody
who could write in the folder once may have left a link to somebody else's file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_PLAIN_FILE = "is no plain file"

_OTHERS_MODE = 0o027
"""Bits of a folder's mode that let its group change it, or others do anything."""


@contextmanager
def plain_file(path: Path) -> Iterator[int]:
    """
    Open a regular file for reading, for the time of a C{with} block; give its descriptor.

    @raise OSError: it cannot be opened, or is no regular file; C{strerror} says so.
    """
    try:
        # O_NONBLOCK has no effect on regular files, and opens pipes without waiting.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:
        # A NUL, which no path has.
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.ENXIO, _NO_PLAIN_FILE) from None
        raise
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, _NO_PLAIN_FILE)
        yield handle
    finally:
        os.close(handle)


def read_plain(path: Path, most: int | None = None) -> bytes:
    """
    Return the content of a regular file.

    @param most: bytes that are read at most.
    @raise OSError: as L{plain_file}.
    """
    with plain_file(path) as handle, os.fdopen(handle, "rb", closefd=False) as file:
        return file.read(-1 if most is None else most)


def is_there(path: Path) -> bool:
    """
    Say whether a file exists; true also where permissions hide it, so that opening it reports why.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def own_file(path: Path) -> int:
    """
    Open a file of the gateway's own for reading and writing, or create it.

    @return: its descriptor.
    @raise OSError: it is a link, no regular file, another user's, or has a second hard link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path} is a link; remove it") from None
        raise
    status = os.fstat(handle)
    fault = None
    if not stat.S_ISREG(status.st_mode):
        fault = _NO_PLAIN_FILE
    elif status.st_uid != os.geteuid():
        fault = f"belongs to user {status.st_uid}, and not to whom the gateway runs as"
    elif status.st_nlink > 1:
        fault = "has another name too (a hard link); remove it"
    if fault is not None:
        os.close(handle)
        raise OSError(errno.EPERM, f"{path} {fault}")
    return handle


def own_folder(path: Path) -> None:
    """
    Create a folder of the gateway's own, or check the one that exists.

    @raise OSError: it cannot be made, is another user's, or open to others.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        what = "a link that leads nowhere" if path.is_symlink() else "a file"
        raise OSError(errno.ENOTDIR, f"it is {what}, and no folder") from None
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        reason = f"it belongs to user {status.st_uid}, and not to whom the gateway runs as"
        raise OSError(errno.EPERM, reason)
    if mode & _OTHERS_MODE:
        reason = f"it has mode {mode:04o}, so that others get in; run: chmod 700 {path}"
        raise OSError(errno.EPERM, reason)
