"""
Handling of Ctrl-C and SIGTERM in commands that must finish cleanly.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred


async def on_interrupt(reactor: Any, stop: Callable[[int], None]) -> Callable[[], None]:
    """
    Call a function at each of these signals, in place of stopping the reactor.

    @param stop: called with the exit status of the signal: 130 for Ctrl-C, 143 for SIGTERM.
    @return: function that restores the former handlers.
    """
    # The reactor installs its own when it starts to run.
    running: Deferred[None] = Deferred()
    reactor.callWhenRunning(running.callback, None)
    await running

    def called(number: int, frame: object) -> None:
        reactor.callFromThread(stop, 128 + number)

    before = {number: signal.signal(number, called) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    return restore
