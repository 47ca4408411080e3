"""
Programs of the project on a terminal.
"""

from __future__ import annotations

import os
import pty
import termios
from pathlib import Path

import pexpect
from pexpect.fdpexpect import fdspawn

from tests import forking
from tests.support import PATIENCE


class Terminal(fdspawn):  # type: ignore[type-arg]  # generic in its stubs alone
    """
    A program on a terminal of its own, forked where it can be.
    """

    def __init__(
        self,
        command: list[str],
        size: tuple[int, int] = (24, 80),
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """
        @param size: rows and columns.
        """
        ours, its = pty.openpty()
        termios.tcsetwinsize(its, size)
        try:
            self.process = forking.Popen(
                command, stdin=its, stdout=its, stderr=its, cwd=cwd, env=environment
            )
        finally:
            os.close(its)
        super().__init__(ours, timeout=PATIENCE, encoding="utf-8")

    def finish(self) -> tuple[int, str]:
        """
        Wait for its end.

        @return: its exit status, and what it has shown that was not expected before.
        """
        self.expect(pexpect.EOF)
        self.close()
        return self.process.wait(PATIENCE), self.before or ""
