"""
Reading plain files, and nothing else.

Opening a named pipe waits for somebody who writes, and a device may never end: either would
hold up the whole gateway, which reads its files again while peers wait.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_PLAIN_FILE = "is no plain file"


@contextmanager
def plain_file(path: Path) -> Iterator[int]:
    """
    A file's descriptor, for reading and for as long as it is needed.

    @raise OSError: it cannot be opened, or is no plain file; C{strerror} says so.
    """
    try:
        # It has no meaning for plain files.
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
    @param most: bytes that are read at most.
    @return: what is in it.
    @raise OSError: as L{plain_file}.
    """
    with plain_file(path) as handle, os.fdopen(handle, "rb", closefd=False) as file:
        return file.read(-1 if most is None else most)
