"""
The files that twistd writes for itself: its pid file and its log, looked at before it does.

twistd does not start where the process in its pid file is alive, whoever that is. A gateway that
was killed leaves its file, and after a restart of the machine or the container its number is
somebody else's, in a container often that of the next gateway itself. Such a file is taken away;
anything that may be a process at work is left to the operator, in one line.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.model.errors import ConfigError
from gateway.system.regular_file import read_plain

_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,9}")
_ELSE: Final = "or name another file with --pidfile (--pidfile= for none)"
_LONG_ENOUGH: Final = 1.0
"""Seconds after which a process has written its pid file; the kernel tells starts to a second."""


def prepare_files(twistd: Mapping[str, Any]) -> list[str]:
    """
    See that twistd can write its files, and take away a pid file that nobody stands behind.

    @param twistd: its options.
    @return: what was taken away, one line each.
    @raise ConfigError: with one line that says what to do.
    """
    if twistd.get("chroot"):
        return []  # the paths mean others there
    notes = []
    if twistd.get("pidfile"):
        path = Path(twistd["pidfile"]).absolute()
        notes += _clear(path)
        _try_to_write(path, f"--pidfile {path}", "name another file, or none with --pidfile=")
    log = twistd.get("logfile")
    if log and log != "-" and not twistd.get("syslog") and not twistd.get("logger"):
        path = Path(twistd.get("rundir") or ".", log).absolute()
        _try_to_write(path, f"--logfile {path}", "name another file, or - for standard output")
    return notes


class _Process(NamedTuple):
    """
    @ivar started: in seconds since 1970; C{None} where nobody says.
    """

    name: str
    started: float | None
    command: bytes


def _clear(path: Path) -> list[str]:
    where = f"--pidfile {path}"
    try:
        content = read_plain(path, 64).strip()
        written = path.stat().st_mtime
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError([f"{where}: cannot be read: {error.strerror}; {_ELSE[3:]}"]) from None
    if content and _NUMBER.fullmatch(content) is None:
        raise ConfigError([f"{where}: holds no process number; remove it, {_ELSE}"])
    why = _staleness(int(content), written, where) if content else "was empty"
    try:
        path.unlink()
    except OSError as error:
        raise ConfigError([f"{where}: {why}, and cannot be removed: {error.strerror}"]) from None
    return [f"{where} {why}, and is written anew"]


def _staleness(number: int, written: float, where: str) -> str:
    """
    @return: why nobody stands behind a pid file.
    @raise ConfigError: somebody does, or may.
    """
    if number == os.getpid():
        return "named this process, which has the number of one that is gone"
    process = _process(number)
    if process is None:
        return f"named process {number}, which is gone"
    later = process.started is not None and process.started > written + _LONG_ENOUGH
    # Not by the time alone: the clock may have been set forward since a gateway began.
    if later and b"twist" not in process.command:
        return f"named process {number}, which is {process.name} by now"
    raise ConfigError(
        [f"{where}: process {number} ({process.name}) runs; stop it if it is a gateway, {_ELSE}"]
    )


def _process(number: int) -> _Process | None:
    """
    @return: C{None} where there is none.
    """
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # somebody else's
    folder = Path("/proc", str(number))
    name, started, command = "unknown", None, b""
    with suppress(OSError, ValueError, IndexError):
        # proc(5): the name may hold anything; the state follows, and in 19 fields the start.
        before, _, after = (folder / "stat").read_text("utf-8", "replace").rpartition(")")
        fields = after.split()
        if fields[0] in "ZX":
            return None
        name = before.partition("(")[2]
        started = _boot() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        command = (folder / "cmdline").read_bytes()
    return _Process(name, started, command)


def _boot() -> float:
    """
    When the machine was started, in seconds since 1970.

    @raise ValueError: nobody says.
    """
    found = re.search(r"(?m)^btime (\d+)$", Path("/proc/stat").read_text())
    if found is None:
        raise ValueError("no btime")
    return float(found[1])


def _try_to_write(path: Path, where: str, advice: str) -> None:
    """
    @raise ConfigError: it cannot be written.
    """
    reason: str | None = None
    try:
        if path.is_dir():
            reason = "it is a folder"
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            path.unlink()
    except FileExistsError:
        if not os.access(path, os.W_OK):
            reason = os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise ConfigError([f"{where}: cannot be written: {reason}; {advice}"])
