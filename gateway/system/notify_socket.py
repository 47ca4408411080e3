"""
Socket of the service manager, which systemd gives its services: sd_notify(3).
"""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

_TIME: Final = 0.5
"""Seconds that a message may wait for a service manager that does not read."""


class NotifySocket:
    """
    Socket that takes what a service tells of its state.

    @ivar watchdog: seconds within which the service must show that it lives; C{None}: it need not.
    @ivar watchdog_pid: process that must; C{None}: any.
    """

    def __init__(
        self, address: str, watchdog: float | None = None, watchdog_pid: int | None = None
    ) -> None:
        """
        @param address: path of the socket; with C{@} at its beginning an abstract name.
        """
        self.watchdog = watchdog
        self.watchdog_pid = watchdog_pid
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIME)

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> NotifySocket | None:
        """
        Return the socket that the environment names, and take it out of there, so that no child
        process speaks for this one; C{None}: there is none.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = _number(environment.pop("WATCHDOG_USEC", ""))
        pid = _number(environment.pop("WATCHDOG_PID", ""))
        if not address.startswith(("/", "@")):
            return None
        return cls(address, microseconds / 1e6 if microseconds else None, pid)

    def send(self, *lines: str) -> None:
        """
        Tell the service manager something; nothing happens where it does not listen.

        @param lines: assignments, such as C{READY=1}.
        """
        with suppress(OSError):
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
