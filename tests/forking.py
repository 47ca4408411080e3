"""
Processes of the project's own programs, forked from one that has imported them.

A gateway is a process of its own in hundreds of tests, and each would spend most of a second of
processor time on importing the same modules. So one process imports them once and forks for
each that is started: what runs then is the real program, with its own arguments, folder,
environment, descriptors and reactor, from its C{main} to its exit status. Modules of C{tests}
that are run with C{python -m} are forked likewise.

L{Popen} is C{subprocess.Popen} in all else. Whatever else it is given is started as ever, and so
is what a test starts through C{subprocess} itself.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from twisted.application.service import IServiceMaker
from twisted.internet import reactor
from twisted.plugin import getPlugins
from twisted.scripts import twistd

import gateway.cli

BIN: Final = Path(sys.executable).parent

_PROGRAMS: Final = {str(BIN / "twistd"): "twistd", str(BIN / "gateway"): "gateway"}

_MODULE: Final = (sys.executable, "-m")

_PRELOADED: Final = (
    *("argparse", "click._textwrap", "importlib.readers", "psutil", "tests.faults.command"),
    *("tests.support", "twisted.protocols.haproxy._wrapper", "twisted.protocols.portforward"),
)
"""Modules that programs import while they run; none of them is a program itself."""

_USUAL: Final = (True, None, None, None, -1, False, -1)
"""Signals restored; no other user, group, mask, session or process group."""

_LIMITS: Final = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)

_LONGEST: Final = 1 << 20
"""Bytes of a request: arguments and environment."""


class Popen(subprocess.Popen[Any]):
    """
    A process, forked where it is one of the project's programs.
    """

    _forked = False

    def __init__(
        self, *arguments: Any, limits: Mapping[int, tuple[int, int]] | None = None, **named: Any
    ) -> None:
        """
        @param limits: setrlimit's, which differ from those of this process.
        """
        self._limits = {limit: resource.getrlimit(limit) for limit in _LIMITS} | dict(limits or {})
        self._limited = bool(limits)
        super().__init__(*arguments, **named)

    def _execute_child(self, args: Any, executable: Any, *rest: Any) -> None:
        words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
        # What subprocess has worked out, as its versions 3.11 to 3.14 have it.
        before, _, kept_open, cwd, env, _, _, _, *ends = rest
        usual = before is None and not kept_open and tuple(ends[6:]) == _USUAL
        if not (usual and _is_ours(words)):
            assert not self._limited, "is for programs that are forked"
            super()._execute_child(args, executable, *rest)  # type: ignore[misc]
            return
        child_in, _, _, child_out, _, child_err = ends[:6]
        own = [
            number if given < 0 else given
            for number, given in enumerate((child_in, child_out, child_err))
        ]
        variables = (os.environ if env is None else env).items()
        request = {
            "words": [str(word) for word in words],
            "cwd": os.fspath(cwd or Path.cwd()),
            "environment": {str(name): str(value) for name, value in variables},
            "limits": self._limits,
        }
        try:
            self.pid = _server().fork(request, own)
            self._forked = True
            self._child_created = True
        finally:
            self._close_pipe_fds(*ends[:6])  # type: ignore[attr-defined]

    def _internal_poll(self, *arguments: Any, **named: Any) -> int | None:
        if not self._forked:
            return super()._internal_poll(*arguments, **named)  # type: ignore[misc, no-any-return]
        if self.returncode is None:
            self.returncode = _server().status(self.pid)
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        if not self._forked:
            return super()._wait(timeout)  # type: ignore[misc, no-any-return]
        if self._internal_poll() is not None:
            return self.returncode
        ended = os.pidfd_open(self.pid)
        try:
            waiting = select.poll()
            waiting.register(ended, select.POLLIN)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        finally:
            os.close(ended)
        return self._internal_poll()


def _is_ours(words: list[str]) -> bool:
    """
    @param words: a command line.
    """
    if words[:1] and words[0] in _PROGRAMS:
        return True
    return tuple(words[:2]) == _MODULE and words[2].startswith("tests.")


def run(command: Any, **named: Any) -> subprocess.CompletedProcess[Any]:
    """
    Do what C{subprocess.run} does.
    """
    check, timeout = named.pop("check", False), named.pop("timeout", None)
    data = named.pop("input", None)
    if data is not None:
        named["stdin"] = subprocess.PIPE
    if named.pop("capture_output", False):
        named |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **named) as process:
        try:
            out, errors = process.communicate(data, timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, errors)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


class _Server:
    """
    The process that forks, as those see it who ask it to.
    """

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            its.set_inheritable(True)
            root = str(Path(__file__).parent.parent)
            # It ends with us, when this socket does.
            os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", "tests.forking", str(its.fileno())],
                {**os.environ, "PYTHONPATH": root},
            )
        self._socket = ours
        self._lock = threading.Lock()

    def fork(self, request: dict[str, Any], own: list[int]) -> int:
        """
        @param own: descriptors that become 0, 1 and 2.
        @return: the process's number.
        """
        return int(self._ask({"fork": request}, own))

    def status(self, pid: int) -> int | None:
        """
        @return: as C{subprocess} says it; C{None} while it runs.
        """
        status = self._ask({"status": pid}, [])
        return None if status is None else int(status)

    def _ask(self, request: dict[str, Any], own: list[int]) -> Any:
        with self._lock, Path(os.devnull).open("r+b", buffering=0) as nothing:
            # A test's process may have no standard input.
            open_ones = [one if _is_open(one) else nothing.fileno() for one in own]
            socket.send_fds(self._socket, [json.dumps(request).encode()], open_ones)
            answer = self._socket.recv(_LONGEST)
        if not answer:
            raise RuntimeError("the process that forks is gone")
        return json.loads(answer)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


_servers: dict[int, _Server] = {}


def _server() -> _Server:
    # A process that was forked itself has to ask one of its own.
    found = _servers.get(os.getpid())
    if found is None:
        found = _servers[os.getpid()] = _Server()
    return found


def _serve(asked: socket.socket) -> list[str]:
    """
    Fork and tell, until whoever asks is gone.

    @return: in each process that was forked: its command line.
    """
    while True:
        data, own, _, _ = socket.recv_fds(asked, _LONGEST, 3)
        if not data:
            os._exit(0)
        request = json.loads(data)
        if "status" in request:
            pid, status = os.waitpid(request["status"], os.WNOHANG)
            answer = None if not pid else os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                asked.close()
                return _become(request["fork"], own)
            for number in own:
                os.close(number)
        asked.send(json.dumps(answer).encode())


def _become(request: dict[str, Any], own: list[int]) -> list[str]:
    """
    Be what was asked for, in a process that was just forked.
    """
    # Copies first: those that came may have each other's numbers.
    copies = [os.dup(number) for number in own]
    for number in own:
        os.close(number)
    for target, copy in enumerate(copies):
        os.dup2(copy, target)
        os.close(copy)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    for limit, values in request["limits"].items():
        resource.setrlimit(int(limit), tuple(values))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    words: list[str] = request["words"]
    return words


def main() -> None:
    # All that any of the programs may import.
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        importlib.import_module(module.name)
    for name in _PRELOADED:
        importlib.import_module(name)
    # twistd loads all of its plugins at each start.
    list(getPlugins(IServiceMaker))
    gc.freeze()
    asked = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    words = _serve(asked)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The poll set and the waker are its own.
    cast(Any, reactor).__init__()
    if tuple(words[:2]) == _MODULE:
        sys.argv = words[2:]
        _end(lambda: runpy.run_module(words[2], run_name="__main__", alter_sys=True))
    sys.argv = words
    program: Any = twistd.run if _PROGRAMS[words[0]] == "twistd" else gateway.cli.main
    _end(program)


def _end(program: Callable[[], object]) -> None:
    """
    Run a program and end as it says, without taking apart thousands of modules: half a second.
    """
    status: object = 1
    try:
        program()
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(*sys.exc_info())
    if status is not None and not isinstance(status, int):
        sys.stderr.write(f"{status}\n")
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    main()
