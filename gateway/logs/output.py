"""
Outputs of the log: a stream, a file that is begun anew, and syslog.
"""

from __future__ import annotations

import os
import syslog
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TextIO

ROTATE_SIZE: Final = 1_000_000
"""Bytes of a log file after which the next one begins, as with twistd's own."""

PRIORITIES: Final = {
    "debug": syslog.LOG_DEBUG,
    "info": syslog.LOG_INFO,
    "warn": syslog.LOG_WARNING,
    "error": syslog.LOG_ERR,
    "critical": syslog.LOG_CRIT,
}
"""Level -> priority of syslog, which is the journal's too."""


class Output(Protocol):
    """
    Place that the lines of the log are written to.
    """

    def write(self, level: str, lines: Sequence[str]) -> None:
        """Write the lines of one event."""

    def reopen(self) -> bool:
        """
        Begin a new file.

        @return: whether there is a file.
        @raise OSError: the new file cannot be opened; the old one stays in use.
        """


class StreamOutput:
    """
    Output to standard output, or to the journal behind it.
    """

    def __init__(self, stream: TextIO, is_journal: bool) -> None:
        """
        @param is_journal: whether each line begins with its priority, as sd-daemon(3) has it.
        """
        self._stream = stream
        self._is_journal = is_journal

    def write(self, level: str, lines: Sequence[str]) -> None:
        begin = f"<{PRIORITIES[level]}>" if self._is_journal else ""
        self._stream.write("".join(f"{begin}{line}\n" for line in lines))
        self._stream.flush()

    def reopen(self) -> bool:
        return False


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """
    Say whether a stream leads to systemd's journal, by the C{JOURNAL_STREAM} of the environment.
    """
    device, _, number = environment.get("JOURNAL_STREAM", "").partition(":")
    with suppress(OSError, ValueError):
        status = os.fstat(stream.fileno())
        return (str(status.st_dev), str(status.st_ino)) == (device, number)
    return False


class FileOutput:
    """
    Output to a file. A new one begins after a megabyte and on request.

    A file that still has its name is renamed to C{NAME.1}, that before it to C{NAME.2}, and so on;
    if another program has renamed it, the new one just takes its name. Writing appends, so that the
    file may be truncated meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """
        @param path: absolute.
        @raise OSError: it cannot be opened.
        """
        self._path = path
        self._size = 0
        self._file = self._open(None)

    def write(self, level: str, lines: Sequence[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        self._size += len(data)
        if self._size > ROTATE_SIZE:
            # Another program may have truncated it.
            self._size = os.fstat(self._file).st_size + len(data)
            if self._size > ROTATE_SIZE:
                with suppress(OSError):
                    self.reopen()
                self._size = os.fstat(self._file).st_size + len(data)
        while data:
            data = data[os.write(self._file, data) :]

    def reopen(self) -> bool:
        status = os.fstat(self._file)
        try:
            has_its_name = os.path.samestat(self._path.stat(), status)
        except FileNotFoundError:
            has_its_name = False
        if has_its_name:
            self._rename()
        old, self._file = self._file, self._open(status.st_mode & 0o777 if has_its_name else None)
        os.close(old)
        return True

    def _open(self, mode: int | None) -> int:
        """
        Open the file, and make it if it is not there.

        @param mode: its permissions; C{None}: those it has, or a new file gets.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o666)
        if mode is not None:
            with suppress(OSError):
                os.fchmod(file, mode)
        self._size = os.fstat(file).st_size
        return file

    def _rename(self) -> None:
        free = 1
        while self._numbered(free).exists():
            free += 1
        for number in range(free, 1, -1):
            self._numbered(number - 1).rename(self._numbered(number))
        self._path.rename(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class SyslogOutput:
    """
    Output to syslog, with each line's priority.
    """

    def __init__(self, prefix: str) -> None:
        syslog.openlog(prefix, syslog.LOG_PID, syslog.LOG_DAEMON)

    def write(self, level: str, lines: Sequence[str]) -> None:
        for line in lines:
            syslog.syslog(PRIORITIES[level], line)

    def reopen(self) -> bool:
        return False
