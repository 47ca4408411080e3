"""
Check twistd's own files, its pid file and its log, before twistd uses them.

twistd does not start while the process in its pid file is alive, whichever process that is. A
gateway that was killed leaves its file behind; after a restart of the machine or the container
another process has that ID, in a container often the next gateway itself. Such a stale file is
removed; if the process may be a running gateway, the operator must decide, and gets one line.
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

_PID_TEXT: Final = re.compile(rb"[1-9][0-9]{0,9}")
_ELSE: Final = "or name another file with --pidfile (--pidfile= for none)"
_LONG_ENOUGH: Final = 1.0
"""Seconds after which a process has written its pid file; the kernel tells starts to a second."""


def prepare_files(twistd: Mapping[str, Any]) -> list[str]:
    """
    Check that twistd can write its files, and remove a stale pid file.

    @param twistd: its options.
    @return: a line for each file that was removed.
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
    Process with the ID of a pid file.

    @ivar started: seconds since 1970; C{None} where unknown.
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
    if content and _PID_TEXT.fullmatch(content) is None:
        raise ConfigError([f"{where}: holds no process number; remove it, {_ELSE}"])
    why = _staleness(int(content), written, where) if content else "was empty"
    try:
        path.unlink()
    except OSError as error:
        raise ConfigError([f"{where}: {why}, and cannot be removed: {error.strerror}"]) from None
    return [f"{where} {why}, and is written anew"]


def _staleness(number: int, written: float, where: str) -> str:
    """
    Return why a pid file is stale.

    @raise ConfigError: its process may be a running gateway.
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
    Return a process from C{/proc}; C{None} where there is none.
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
    Return the start of the machine, in seconds since 1970.

    @raise ValueError: C{/proc/stat} has no such line.
    """
    match = re.search(r"(?m)^btime (\d+)$", Path("/proc/stat").read_text())
    if match is None:
        raise ValueError("no btime")
    return float(match[1])


def _try_to_write(path: Path, where: str, advice: str) -> None:
    """
    Check that a file can be written.

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
