"""
Programs of C{tests/clients} in Python, with packages of PyPI that the tests themselves have not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support import PATIENCE

CLIENTS: Final = Path(__file__).with_name("clients")

PYLOGBEAT: Final = "pylogbeat == 2.1.0"
LOGSTASH: Final = "python-logstash-async == 4.1.0"


class PythonClient:
    """
    A program in a process of its own; its input stays open until it is told to end.
    """

    def __init__(self, packages: Path, name: str, folder: Path, *arguments: object) -> None:
        """
        @param packages: folder with what it imports.
        @param name: of the script, without its suffix.
        @param folder: for what it prints.
        """
        self._said = folder / f"{name}-{id(self)}.out"
        self._wrong = folder / f"{name}-{id(self)}.err"
        with self._said.open("wb") as said, self._wrong.open("wb") as wrong:
            self.process = subprocess.Popen(
                [sys.executable, str(CLIENTS / f"{name}.py"), *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(packages)},
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=wrong,
            )

    @property
    def said(self) -> list[str]:
        """Whole lines that it has printed."""
        return self._said.read_text().split("\n")[:-1]

    def end(self) -> None:
        """End its input, and wait until it ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.wait()

    def wait(self, seconds: float = PATIENCE) -> None:
        """Wait until it ends by itself."""
        try:
            status = self.process.wait(seconds)
        finally:
            self.kill()
        assert status == 0, self._wrong.read_text()

    def kill(self) -> None:
        """End it now, if it has not."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
