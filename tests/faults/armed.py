"""
A gateway that dies at a named point::

    python -m tests.faults.armed POINT COUNT .venv/bin/twistd ...

The gateway's own code knows of none of this. Here, in the process that becomes the
gateway, one function is wrapped so that the process kills itself with SIGKILL right
before or after its Nth call.
"""

from __future__ import annotations

import functools
import itertools
import os
import runpy
import signal
import sys
from typing import Any, Final

from gateway.model.batch import Chunk
from gateway.postgres.connect.connection import Connection
from gateway.spool.file import SpoolFile
from gateway.spool.mark import MarkFile

POINTS: Final[dict[str, tuple[type, str, str]]] = {
    # A batch's statement is its transaction: before it is sent, and after it is committed.
    "before commit": (Connection, "query", "before"),
    "after commit, before the answer": (Chunk, "settle", "before"),
    "before the spool's flush": (SpoolFile, "commit", "before"),
    "after the spool's flush, before the answer": (MarkFile, "save", "before"),
    "after the spool's mark, before the answer": (MarkFile, "save", "after"),
    "stored from the spool, before it is removed": (SpoolFile, "remove", "before"),
    "removed from the spool, before that is flushed": (SpoolFile, "remove", "after"),
    "before the spool is shrunk": (SpoolFile, "shrink", "before"),
    "after the spool is shrunk": (SpoolFile, "shrink", "after"),
}


def arm(point: str, count: int) -> None:
    """
    @param count: which call is the last one, from 1.
    """
    owner, name, when = POINTS[point]
    function = getattr(owner, name)
    calls = itertools.count(1)

    @functools.wraps(function)
    def deadly(*arguments: Any, **keywords: Any) -> Any:
        last = next(calls) == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")
