"""
Unix sockets: the file by which those on this machine find the gateway.

Twisted's own port opens the file to everybody and takes it away at the end, whoever
made it since. Here it has its owner and its mode before anybody can be let in; one that
a dead process left is replaced, and nothing else that stands in its place is touched.

The folder is trusted: whoever may write there may put a socket of their own in its place.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IProtocolFactory
from twisted.python.failure import Failure

Owner = tuple[int, int]
"""User and group, as numbers; -1 leaves one of them as it is."""

File = tuple[int, int]
"""Device and inode: as long as the file is there, no other one has both."""


def owner_of(text: str) -> Owner:
    """
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


def bind_local(path: str, mode: int, owner: Owner | None) -> socket.socket:
    """
    Make a socket and its file; it does not listen yet, so nobody can connect.

    @param path: of the file; one that begins with NUL is a name without a file, unix(7).
    @raise OSError: something is there that is not ours to take away, or it cannot be made.
    """
    if not path:
        # The kernel would make up a name, and what follows mean the working directory.
        raise OSError(errno.EINVAL, "a Unix socket needs a path")
    is_file = not path.startswith("\0")
    if is_file:
        _make_room(path)
    bound = socket.socket(socket.AF_UNIX)
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


def _make_room(path: str) -> None:
    """
    Take away what a dead process left.
    """
    try:
        left = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(left.st_mode):
        raise OSError(errno.EEXIST, f"{path} is there, is no socket, and is left alone")
    with socket.socket(socket.AF_UNIX) as probe:
        # One that is alive may have no room in its queue; waiting would tell no more.
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
    Unlink the file that was seen, and no other.

    Another gateway may come to the same end at the same time, and have its own socket
    there by now, perhaps under the same inode. So it is looked at once more, in a place
    where nobody replaces it.

    @raise OSError: it is another one, which is left where it was.
    """
    file = Path(path)
    with TemporaryDirectory(prefix=f"{file.name}.", dir=file.parent) as folder:
        aside = Path(folder, file.name)
        file.rename(aside)
        found = aside.lstat()
        if (found.st_dev, found.st_ino, found.st_mtime_ns) != (
            *(left.st_dev, left.st_ino, left.st_mtime_ns),
        ):
            aside.rename(file)
            raise OSError(errno.EADDRINUSE, f"{path} is in use")


class LocalPort(unix.Port):
    """
    Listens on a Unix socket that is there.
    """

    def __init__(
        self,
        listening: socket.socket,
        factory: IProtocolFactory,
        reactor: Any,
        is_ours: bool,
    ) -> None:
        """
        @param is_ours: whether its file goes with us; another's, as systemd's, stays.
        """
        name = listening.getsockname()
        super().__init__(name, factory, reactor=reactor)
        # What has no file has its name as bytes.
        self._path = name if isinstance(name, str) else ""
        self._listening = listening
        self._file = _file(self._path) if is_ours else None

    def startListening(self) -> None:
        # As the port of Twisted that is given a socket does, but without changing its mode.
        # What is reserved is for accepting, and closing, when no descriptor is left.
        tcp._reservedFD.reserve()
        self.factory.doStart()  # type: ignore[union-attr]
        self.connected = True
        self.socket = self._listening
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        # While the socket is open its inode is no other file's.
        if self._file is not None and _file(self._path) == self._file:
            # Started as root and then somebody else, it may not be allowed to: the next
            # one replaces it.
            with suppress(OSError):
                Path(self._path).unlink()
        tcp.Port.connectionLost(self, reason)


def _file(path: str) -> File | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
