"""
Client of the console's socket, for commands: blocking, with the standard library alone.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ENDS: Final = ("OK", "ERROR")

_TIMEOUT: Final = 120.0
"""Seconds of silence after which a gateway is taken for stuck: PAUSE and RELOAD may take some."""


class NoGateway(Exception):
    """
    No gateway answers: one line for its operator.
    """


class Refused(Exception):
    """
    The gateway did not carry a command out: its line for the operator.
    """


class AdminClient:
    """
    Connection to a console.
    """

    def __init__(self, path: Path, timeout: float = _TIMEOUT) -> None:
        """
        @raise NoGateway: nobody answers there.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise NoGateway(_reason(path, error)) from None
        self._file = self._socket.makefile("r", encoding="utf-8", errors="replace", newline="\n")

    def ask(self, command: str) -> Iterator[str]:
        """
        Give a command; return the lines of its answer as they come, without the last one.

        @param command: one line.
        @raise Refused: it was not carried out.
        @raise NoGateway: the gateway is gone.
        """
        try:
            self._socket.sendall(f"{' '.join(command.split())}\n".encode())
        except BrokenPipeError:
            pass  # it may have said why
        except OSError as error:
            raise self._gone(error) from None
        while line := self._line():
            line = line.removesuffix("\n")
            word, _, text = line.partition(" ")
            if word in _ENDS:
                if word == "ERROR":
                    raise Refused(text)
                return
            yield line
        raise NoGateway(f"{self._path}: the gateway closed the connection")

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _line(self) -> str:
        try:
            return self._file.readline()
        except OSError as error:
            raise self._gone(error) from None

    def _gone(self, error: OSError) -> NoGateway:
        if isinstance(error, TimeoutError):
            return NoGateway(f"{self._path}: the gateway does not answer")
        return NoGateway(f"{self._path}: {error.strerror}")


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return (
            f"{path}: no gateway has its console there; name the place with --socket, --data-dir"
            " or --config"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"{path}: the gateway that had its console there is gone"
    if isinstance(error, PermissionError):
        return f"{path}: only the gateway's user and root may use it"
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"{path}: the gateway does not answer"
    return f"{path}: {error.strerror or error}"
