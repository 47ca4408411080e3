"""
State of the gateway for systemd: it is ready, reloads, stops, lives, and what it does.

Ready means that the listeners answer, with the database or without: while it is away peers are
told so, and a restart would not bring it back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.model.text import printable
from gateway.status.status import Status
from gateway.system.notify_socket import NotifySocket

STATUS_INTERVAL: Final = 5.0
"""Seconds between two looks at the status, and between two requests for time while stopping."""

MORE_TIME: Final = 30.0
"""Seconds that a stop may take from each request for time on."""


Result = TypeVar("Result")


def status_line(status: Status) -> str:
    """
    Return the state of the gateway as a line, such as C{ready: 3 listeners, 12 peers, 0 spooled}.
    """
    spooled = 0 if status.spool is None else status.spool.messages
    counts = (
        _count(len(status.listeners), "listener"),
        _count(status.peers, "peer"),
        f"{spooled} spooled",
    )
    reasons = () if status.state == "draining" else status.reasons
    return printable("; ".join([f"{status.state}: {', '.join(counts)}", *reasons]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Systemd:
    """
    Link to systemd; it does nothing where there is none.
    """

    def __init__(
        self, socket: NotifySocket | None, clock: IReactorTime, status: Callable[[], str]
    ) -> None:
        """
        @param socket: C{None} where the gateway is no service of systemd's.
        @param status: returns the state of the gateway as a line.
        """
        self._socket = socket
        self._clock = clock
        self._status = status
        self._line = ""
        self._watchdog_interval = 0.0
        self._is_stopping = False
        self._calls: dict[Callable[[], None], IDelayedCall] = {}

    def start(self) -> None:
        """
        Say that the gateway is ready as soon as the reactor runs, and begin to tell its state.
        """
        self._later(0, self._ready)

    async def reloading(self, reload: Callable[[], Awaitable[Result]]) -> Result:
        """
        Reload, and tell systemd when that begins and ends.
        """
        microseconds = time.monotonic_ns() // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        try:
            return await reload()
        finally:
            if not self._is_stopping:
                self._send("READY=1")

    def begin_stop(self) -> None:
        """Say that the gateway stops, and ask for time as long as it does."""
        self._is_stopping = True
        self._send("STOPPING=1")
        self._tell_status()

    def stop(self) -> None:
        """Say nothing more."""
        for call in self._calls.values():
            if call.active():
                call.cancel()
        self._calls.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ready(self) -> None:
        if self._is_stopping:
            return
        self._line = self._status()
        self._send("READY=1", f"STATUS={self._line}")
        self._later(STATUS_INTERVAL, self._tell_status)
        socket = self._socket
        if (
            socket is not None
            and socket.watchdog is not None
            and socket.watchdog_pid in (None, os.getpid())
        ):
            self._watchdog_interval = socket.watchdog / 2
            self._feed_watchdog()

    def _tell_status(self) -> None:
        if self._socket is None:
            return
        line = self._status()
        if line != self._line:
            self._line = line
            self._send(f"STATUS={line}")
        if self._is_stopping:
            self._send(f"EXTEND_TIMEOUT_USEC={MORE_TIME * 1e6:.0f}")
        self._later(STATUS_INTERVAL, self._tell_status)

    def _feed_watchdog(self) -> None:
        self._send("WATCHDOG=1")
        self._later(self._watchdog_interval, self._feed_watchdog)

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            self._socket.send(*lines)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if self._socket is None:
            return
        before = self._calls.get(call)
        if before is not None and before.active():
            before.cancel()
        self._calls[call] = self._clock.callLater(seconds, call)
