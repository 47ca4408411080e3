"""
C{gateway send} for tests: run to its end, or while it runs.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from typing import IO

from tests import forking
from tests.forking import BIN
from tests.support import PATIENCE, Database, Gateway, wait_until


def endpoint(gateway: Gateway, listener: str = "lines") -> str:
    """As the command wants it."""
    return f"tcp:127.0.0.1:{gateway.port(listener)}"


def command(where: Gateway | str, *arguments: str) -> list[str]:
    """C{gateway send} to a gateway's listener for lines, or to any endpoint."""
    to = where if isinstance(where, str) else endpoint(where)
    return [str(BIN / "gateway"), "send", "--endpoint", to, *arguments]


def send(
    where: Gateway | str, *arguments: str, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    done = forking.run(
        command(where, *arguments), input=given, capture_output=True, timeout=PATIENCE, check=False
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


class Running:
    """It, while it runs."""

    def __init__(self, where: Gateway | str, *arguments: str) -> None:
        self.process = forking.Popen(
            command(where, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def write(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def heard(self, text: str) -> None:
        """Wait for a line on standard error that has this in it."""
        assert self.process.stderr is not None
        while text.encode() not in (line := self.process.stderr.readline()):
            assert line, f"never said {text!r}"

    def finish(self) -> tuple[int, str]:
        """Nothing more comes on standard input."""
        return self._ended()

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """
        @return: exit status and what it said on standard error.
        """
        self.process.send_signal(how)
        # Its standard input stays open: an end of that would be another end.
        self.process.wait(PATIENCE)
        return self._ended()

    def close(self) -> None:
        """Whatever it takes."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=PATIENCE)
        assert b"Traceback" not in said, said.decode()
        return self.process.returncode, said.decode()


StartSend = Callable[..., Running]


def hold_all(database: Database, *bodies: str) -> None:
    """Wait until the table has these, in this order."""
    wait_until(lambda: len(database.bodies()) >= len(bodies), f"{len(bodies)} rows")
    found = database.bodies()
    assert found == list(bodies), found
