"""
Unix sockets: creating the file, replacing a dead one, listening.

Twisted's own port opens the file to everybody and removes it at the end, even where another
process made it since. Here it has its owner and its mode before any peer can connect; one that
a dead process left is replaced, and any other file in its place is left alone.

The folder is trusted: anybody who may write there may replace the socket.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IProtocolFactory
from twisted.python.failure import Failure

Owner = tuple[int, int]
"""User and group, as numbers; -1 leaves one of them as it is."""

File = tuple[int, int]
"""Device and inode: as long as the file is there, no other one has both."""


MAX_PATH: Final = 107
"""Bytes of a socket's path, less its NUL (unix(7), sockaddr_un.sun_path)."""


def short_folder(folder: Path) -> Path:
    """
    Return a folder for sockets that belong to another folder whose path is too long for them.

    @raise OSError: there is no such folder.
    """
    status = folder.stat()
    return Path(tempfile.gettempdir()) / f"gateway-{status.st_uid}-{status.st_ino:x}"


def make_short_folder(path: Path) -> None:
    """
    Create a folder that only this user may use.

    @raise OSError: it cannot be made, or another user made one in its place.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OSError(errno.EEXIST, "is not ours alone")


def owner_of(text: str) -> Owner:
    """
    Return the user and group IDs that a text names.

    @param text: C{user}, C{user:group} or C{:group}, by name or number.
    @raise OSError: there is none of that name.
    """
    user, _, group = text.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no user {user!r}") from None
    try:
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {group!r}") from None
    return uid, gid


def bind_local(
    path: str, mode: int, owner: Owner | None, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """
    Create a socket and its file; it does not listen yet, so nobody can connect.

    @param path: of the file; one that begins with NUL is a name without a file, unix(7).
    @param kind: C{SOCK_STREAM} or C{SOCK_DGRAM}.
    @raise OSError: there is a file that must not be removed, or the socket cannot be made.
    """
    if not path:
        # The kernel would make up a name, and chmod below would change the working directory.
        raise OSError(errno.EINVAL, "a Unix socket needs a path")
    is_file = not path.startswith("\0")
    if is_file:
        _make_room(path, kind)
    bound = socket.socket(socket.AF_UNIX, kind)
    try:
        bound.setblocking(False)
        # The mask is the whole process's; nothing else makes files in between.
        mask = os.umask(0o177)
        try:
            bound.bind(path)
        finally:
            os.umask(mask)
        if is_file:
            try:
                if owner is not None:
                    os.chown(path, *owner, follow_symlinks=False)
                Path(path).chmod(mode)
            except OSError:
                Path(path).unlink()
                raise
    except OSError:
        bound.close()
        raise
    return bound


def _make_room(path: str, kind: int) -> None:
    """Remove a socket that a dead process left."""
    try:
        left = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(left.st_mode):
        raise OSError(errno.EEXIST, f"{path} is there, is no socket, and is left alone")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        # A live socket may have no room in its queue; waiting would not tell more.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
            raise OSError(errno.EADDRINUSE, f"{path} is in use") from None
        else:
            raise OSError(errno.EADDRINUSE, f"{path} is in use")
    take_away(path, left)


def take_away(path: str, left: os.stat_result) -> None:
    """
    Unlink a file only if it still is the one that was seen.

    Another gateway may do the same at the same time, and have its own socket there by now,
    perhaps under the same inode. So the file is moved to a temporary folder, where nobody
    replaces it, and checked again.

    @raise OSError: it is another one, which is left where it was.
    """
    file = Path(path)
    with TemporaryDirectory(prefix=f"{file.name}.", dir=file.parent) as folder:
        aside = Path(folder, file.name)
        file.rename(aside)
        status = aside.lstat()
        if (status.st_dev, status.st_ino, status.st_mtime_ns) != (
            *(left.st_dev, left.st_ino, left.st_mtime_ns),
        ):
            aside.rename(file)
            raise OSError(errno.EADDRINUSE, f"{path} is in use")


class LocalPort(unix.Port):
    """
    Listening port on a Unix socket that is already bound.
    """

    def __init__(
        self,
        listening: socket.socket,
        factory: IProtocolFactory,
        reactor: Any,
        is_ours: bool,
    ) -> None:
        """@param is_ours: whether its file is removed at the end; a socket of systemd's stays."""
        name = listening.getsockname()
        super().__init__(name, factory, reactor=reactor)
        # A socket without a file has its name as bytes.
        self._path = name if isinstance(name, str) else ""
        self._listening = listening
        self._file = file_identity(self._path) if is_ours else None

    def startListening(self) -> None:
        # As Twisted's port does for an adopted socket, but without changing the file's mode.
        # The reserved descriptor is used to accept and close when no other one is left.
        tcp._reservedFD.reserve()
        self.factory.doStart()  # type: ignore[union-attr]
        self.connected = True
        self.socket = self._listening
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        # While the socket is open its inode is no other file's.
        if self._file is not None and file_identity(self._path) == self._file:
            # Started as root and now another user, it may not be allowed to: the next
            # gateway replaces the file.
            with suppress(OSError):
                Path(self._path).unlink()
        tcp.Port.connectionLost(self, reason)


def file_identity(path: str) -> File | None:
    """Return what tells a file from all others; C{None}: there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
