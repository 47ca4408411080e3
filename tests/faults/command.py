"""
Programs that tests start beside the gateway and tell what to do, one command a line.

Such a program says C{port N} first, answers every command with C{ok COMMAND} once it
is in force, may say C{event WHAT} at any time, and ends when its standard input does:
a test run that is killed leaves none behind.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from tests import forking
from tests.support import PATIENCE, wait_until

ROOT: Final = Path(__file__).parent.parent.parent


class Program:
    """
    A module of C{tests.faults} in a process of its own.

    @ivar port: where it listens on 127.0.0.1; the system chose it.
    """

    def __init__(self, module: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> None:
        """
        @param wrapper: a command to run it with.
        """
        self._process = forking.Popen(
            [*wrapper, sys.executable, "-m", f"tests.faults.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self._wait("port ").split()[1])

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, command: str) -> None:
        """Give a command, and wait until it is in force."""
        stdin = self._process.stdin
        assert stdin is not None
        place = len(self._said)
        stdin.write(f"{command}\n")
        stdin.flush()
        self._wait(f"ok {command}", place)

    def wait_event(self, what: str) -> None:
        """Wait until it has said that something happened."""
        self._wait(f"event {what}")

    def end(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.close()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.rstrip("\n"))

    def _wait(self, start: str, place: int = 0) -> str:
        def look() -> str | None:
            for line in self._said[place:]:
                if line.startswith(start):
                    return line
            assert self._process.poll() is None, f"ended before it said {start!r}"
            return None

        found: str = wait_until(look, f"{self._process.args!r} says {start!r}")
        return found


class Commands(LineOnlyReceiver):
    """
    The other end: commands on standard input.
    """

    delimiter = b"\n"
    transport: ITransport

    def __init__(self, obey: Callable[[list[str]], None], ended: Callable[[], None]) -> None:
        """
        @param obey: takes a command's words.
        @param ended: called at the end of standard input.
        """
        self._obey = obey
        self._ended = ended

    def lineReceived(self, line: bytes) -> None:
        command = line.decode()
        self._obey(command.split())
        self.say(f"ok {command}")

    def say(self, text: str) -> None:
        self.transport.write(f"{text}\n".encode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended()
